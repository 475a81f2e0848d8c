"""The files of the cgroup tree: which tree is read, what is kept open, where a process is.

One hierarchy is read: v2 where it is mounted on /sys/fs/cgroup, otherwise v1's cpuacct, otherwise
the v2 tree that hybrid hosts mount beside v1 (its cpu.stat counts usage without the controller,
Documentation/admin-guide/cgroup-v2.rst). On hybrid hosts cpuacct comes first, because old runtimes
put their containers into v1 only.
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from minerwatch.errors import NodeError
from minerwatch.node.capabilities import is_in_first_namespace
from minerwatch.node.proc_files import NO_FILES_LEFT, CountedFiles, read_once

_READ_BYTES = 4096
_MAX_LINE_BYTES = 16  # seq_file ends a read at a whole line; a pid and its newline are shorter
_MAX_READS = 4096
_MAX_NUMBER_DIGITS = 20  # of 64 bits
_CGROUP_FILE_BYTES = 65_536
"""Bytes read of /proc/PID/cgroup: on v1 it has a line for each hierarchy."""
_MAX_ANCESTORS = 64


class CgroupFiles(CountedFiles):
    """Reads the files of one hierarchy, and keeps some of them open.

    ``open_share`` of the files that the process may open are kept open at most: the rest is for
    processes, clients and children.
    """

    def __init__(self, mounts: Path, proc: Path, open_share: float) -> None:
        """Raises NodeError if there is no hierarchy."""
        super().__init__(
            dict.fromkeys(("permission", "unreadable", "malformed", "open_files", "too_many"), 0)
        )
        self.source, self.root, self.limit_root, self.is_v2 = _find_hierarchy(mounts)
        self.usage_file = b"cpu.stat" if self.is_v2 else b"cpuacct.usage"
        self.proc = os.fsencode(proc)
        own = self.content(self.proc + b"/self/cgroup") or b""
        self.has_perf_ids = self.is_v2 and b"perf_event" not in own
        """True if inodes of the tree are the ids in perf's samples: perf_event is not on v1."""
        self._open_count = 0
        self._max_open = int(resource.getrlimit(resource.RLIMIT_NOFILE)[0] * open_share)

    def keep_open(self, path: bytes) -> int:
        """Return a file descriptor; -1 if none is left, so that the file is opened each time."""
        if self._open_count >= self._max_open:
            self.failures["open_files"] += 1
            return -1
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in NO_FILES_LEFT:
                self.failures["open_files"] += 1
            else:
                self.count(error)
            return -1
        self._open_count += 1
        return fd

    def close(self, fd: int) -> None:
        """Close a file that ``keep_open`` opened."""
        if fd >= 0:
            self._open_count -= 1
            with suppress(OSError):
                os.close(fd)


def read_kept(fd: int) -> bytes:
    """Return the start of a file that is kept open."""
    return os.pread(fd, _READ_BYTES, 0)


def read_whole(fd: int) -> bytes:
    """Return all of a file that is kept open; the kernel returns a list of pids by the page."""
    content = os.pread(fd, _READ_BYTES, 0)
    if len(content) < _READ_BYTES - _MAX_LINE_BYTES:
        return content
    pieces, offset = [content], len(content)
    while len(pieces) < _MAX_READS and (piece := os.pread(fd, _READ_BYTES, offset)):
        pieces.append(piece)
        offset += len(piece)
    return b"".join(pieces)


def numbers(content: bytes) -> dict[bytes, int]:
    """Parse lines of a name and a number."""
    words = content.split()
    return {
        name: int(number)
        for name, number in zip(words[::2], words[1::2], strict=False)
        if number.isdigit() and len(number) <= _MAX_NUMBER_DIGITS
    }


class ProcessCgroups:
    """Finds the cgroup that a process is in (cgroups(7))."""

    def __init__(self, files: CgroupFiles) -> None:
        self._files = files
        self._namespace_root: bytes | None = None  # not looked up yet

    def path_of(self, pid: int) -> bytes | None:
        """Return the folder of a process's cgroup; None if it cannot be read.

        Where the path is too long for the kernel to show, it is the folder of an ancestor process.
        """
        for _ in range(_MAX_ANCESTORS):
            try:
                content = read_once(self._files.proc + b"/%d/cgroup" % pid, _CGROUP_FILE_BYTES)
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG:
                    self._files.count(error)
                    return None
                pid = self._parent_of(pid)
                continue
            path = next(self._paths(content), None)
            return None if path is None else self._absolute(path)
        return None

    def blind_spot(self) -> str:
        """Return one line if the agent sees only a part of the node's cgroups; "" if all."""
        # Only cgroups that are not the real root have a type (cgroup-v2.rst).
        is_inner = self._files.is_v2 and _exists(self._files.root + b"/cgroup.type")
        own = self._files.content(self._files.proc + b"/self/cgroup") or b""
        if is_inner or b":/.." in own:
            return (
                "only the cgroups below the agent's own can be seen: mount the host's"
                " /sys/fs/cgroup, and set hostPID on the agent's pod"
            )
        return ""

    def _parent_of(self, pid: int) -> int:
        stat = self._files.content(self._files.proc + b"/%d/stat" % pid) or b""
        fields = stat.rpartition(b") ")[2].split(None, 2)
        return int(fields[1]) if len(fields) > 1 and fields[1].isdigit() else 0

    def _absolute(self, path: bytes) -> bytes | None:
        """Return the folder of a path in /proc, which is relative to the agent's namespace.

        Container runtimes give each container its own namespace on v2 (cgroup_namespaces(7)).
        """
        if self._namespace_root is None:
            self._namespace_root = self._find_namespace_root()
        root = self._namespace_root
        return os.path.normpath(root + path) if root else None

    def _find_namespace_root(self) -> bytes:
        """Return the folder of the agent's cgroup namespace; b"" if it cannot be seen."""
        root = self._files.root
        if self._files.proc != b"/proc" or is_in_first_namespace("cgroup"):
            return root
        content = self._files.content(b"/proc/self/cgroup") or b""
        own_path = next(self._paths(content), b"/").rstrip(b"/")
        own_pid = b"%d" % os.getpid()
        for folder, _, files in os.walk(root):
            if b"cgroup.procs" not in files:
                continue
            members = self._files.content(folder + b"/cgroup.procs") or b""
            if own_pid in members.split() and folder.endswith(own_path):
                return folder.removesuffix(own_path)
        return b""

    def _paths(self, content: bytes) -> Iterator[bytes]:
        """Yield the paths in /proc/PID/cgroup that are in the hierarchy."""
        # Not splitlines(): a cgroup's name may hold a carriage return.
        for line in content.split(b"\n"):
            _number, _, rest = line.partition(b":")
            controllers, colon, path = rest.partition(b":")
            if not colon:
                continue
            if (not controllers) if self._files.is_v2 else (b"cpuacct" in controllers):
                yield path


def _find_hierarchy(mounts: Path) -> tuple[str, bytes, bytes, bool]:
    """Return name, root, root of the tree with the CPU controller, and whether it is v2."""
    root = os.fsencode(mounts)
    if _exists(root + b"/cgroup.controllers"):
        return "cgroup v2", root, root, True
    cpu = _first_with(root, (b"/cpu,cpuacct", b"/cpuacct,cpu", b"/cpu"), b"/cgroup.procs")
    folders = (b"/cpuacct", b"/cpu,cpuacct", b"/cpuacct,cpu")
    accounts = _first_with(root, folders, b"/cpuacct.usage")
    unified = root + b"/unified"
    has_unified = _exists(unified + b"/cgroup.controllers")
    if accounts and (not has_unified or _has_folders(accounts) or not _has_folders(unified)):
        return "cgroup v1 (cpuacct)", accounts, cpu or accounts, False
    if has_unified:
        return "cgroup v2 beside v1 (unified)", unified, cpu or unified, True
    if cpu:
        raise NodeError(
            f"{mounts}: cgroup v1 is mounted there without cpuacct, which newer kernels lack:"
            " boot the node with cgroup v2 (systemd.unified_cgroup_hierarchy=1)"
        )
    raise NodeError(
        f"{mounts}: no cgroup hierarchy with CPU counters is mounted there; mount the host's"
        " /sys/fs/cgroup, or set node.sys to where it is"
    )


def _first_with(root: bytes, folders: tuple[bytes, ...], file: bytes) -> bytes | None:
    return next((root + folder for folder in folders if _exists(root + folder + file)), None)


def _exists(path: bytes) -> bool:
    return os.path.exists(path)  # noqa: PTH110 - bytes


def _has_folders(folder: bytes) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(entry.is_dir(follow_symlinks=False) for entry in entries)
    except OSError:
        return False
