"""The cgroup hierarchy that is read, and the cgroup that a process is in.

One hierarchy is read: v2 where it is mounted on /sys/fs/cgroup, otherwise v1's cpuacct, otherwise
the v2 tree that hybrid hosts mount beside v1 (its cpu.stat counts usage without the controller,
Documentation/admin-guide/cgroup-v2.rst). On hybrid hosts cpuacct comes first, because old runtimes
put their containers into v1 only.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from minerwatch.errors import NodeError
from minerwatch.node.cgroup_files import CgroupFiles
from minerwatch.node.proc_files import read_once

_PLACE_BYTES = 65_536
"""Bytes read of /proc/PID/cgroup: on v1 it has a line for each hierarchy."""
_MAX_ANCESTORS = 64
_FIRST_CGROUP_NAMESPACE = "cgroup:[4026531835]"  # PROC_CGROUP_INIT_INO, include/linux/proc_ns.h


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """The root of one cgroup tree, and the names of its files."""

    source: str
    root: bytes
    limit_root: bytes  # of the tree with the CPU controller
    is_v2: bool

    @property
    def usage_file(self) -> bytes:
        """Return the name of the CPU counter."""
        return b"cpu.stat" if self.is_v2 else b"cpuacct.usage"


def find_hierarchy(mounts: Path) -> Hierarchy:
    """Return the hierarchy to read. Raises NodeError if there is none."""
    root = os.fsencode(mounts)
    if _exists(root + b"/cgroup.controllers"):
        return Hierarchy("cgroup v2", root, root, is_v2=True)
    cpu = _first_with(root, (b"/cpu,cpuacct", b"/cpuacct,cpu", b"/cpu"), b"/cgroup.procs")
    places = (b"/cpuacct", b"/cpu,cpuacct", b"/cpuacct,cpu")
    accounts = _first_with(root, places, b"/cpuacct.usage")
    unified = root + b"/unified"
    has_unified = _exists(unified + b"/cgroup.controllers")
    if accounts and (not has_unified or _has_folders(accounts) or not _has_folders(unified)):
        return Hierarchy("cgroup v1 (cpuacct)", accounts, cpu or accounts, is_v2=False)
    if has_unified:
        return Hierarchy("cgroup v2 beside v1 (unified)", unified, cpu or unified, is_v2=True)
    raise NodeError(
        f"{mounts}: no cgroup hierarchy with CPU counters is mounted there; mount the host's"
        " /sys/fs/cgroup, or name another place with node.sys"
    )


class ProcessCgroups:
    """Finds the cgroup that a process is in (cgroups(7))."""

    def __init__(self, hierarchy: Hierarchy, files: CgroupFiles, proc: bytes) -> None:
        self._hierarchy = hierarchy
        self._files = files
        self._proc = proc
        self._namespace_root: bytes | None = None  # not looked up yet

    def path_of(self, pid: int) -> bytes | None:
        """Return the folder of a process's cgroup; None if it cannot be read.

        Where the path is too long for the kernel to show, it is the folder of an ancestor process.
        """
        for _ in range(_MAX_ANCESTORS):
            try:
                content = read_once(self._proc + b"/%d/cgroup" % pid, _PLACE_BYTES)
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
        hierarchy = self._hierarchy
        # Only cgroups that are not the real root have a type (cgroup-v2.rst).
        is_inner = hierarchy.is_v2 and _exists(hierarchy.root + b"/cgroup.type")
        own = self._files.content(self._proc + b"/self/cgroup") or b""
        if is_inner or b":/.." in own:
            return (
                "only the cgroups below the agent's own can be seen: mount the host's"
                " /sys/fs/cgroup, and set hostPID on the agent's pod"
            )
        return ""

    def _parent_of(self, pid: int) -> int:
        stat = self._files.content(self._proc + b"/%d/stat" % pid) or b""
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
        root = self._hierarchy.root
        if self._proc != b"/proc" or _is_in_first_cgroup_namespace():
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
            if (not controllers) if self._hierarchy.is_v2 else (b"cpuacct" in controllers):
                yield path


def _is_in_first_cgroup_namespace() -> bool:
    try:
        return os.readlink("/proc/self/ns/cgroup") == _FIRST_CGROUP_NAMESPACE  # noqa: PTH115
    except OSError:  # before Linux 4.6 there is only one
        return True


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
