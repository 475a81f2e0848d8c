"""Compares executables with their container's image, in a process that can be killed.

The agent runs this file by path: a layer may lie on a file system that hangs. One value a line:

=======================================  ======================================
standard input                           standard output
=======================================  ======================================
``{"pid", "task_path", "start_ticks"}``  ``{"is_in_image": true, false or null}``
=======================================  ======================================

An overlay file system (Documentation/filesystems/overlayfs.rst) has an upper layer, which holds all
that was written in the container, above the lower layers of its image. Files of the image are
copied to the upper layer when they change, be it only their owner: such a copy keeps the size and
time of its content, and the overlay shows it with the inode number of the original.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

_MAX_BYTES = 4 << 20
_MAX_LAYERS = 256
_START = 19  # field 22 of proc_pid_stat(5), counted behind the name
_ESCAPED = re.compile(r"\\([0-7]{3})")
_BETWEEN_LAYERS = re.compile(r"(?<!\\):")


class Overlay(NamedTuple):
    """An overlay mount, and where its layers lie."""

    device: str
    upper: str
    lower: tuple[str, ...]


def root_overlay(mountinfo: str, mount_id: str) -> Overlay | None:
    """Return the mount at the root if it has this id and is an overlay that can be written."""
    fields = _root_fields(mountinfo)
    kind, _, options = fields[fields.index("-", 6) + 1 :][:3]
    if fields[0] != mount_id or kind != "overlay":
        return None
    upper, lower = "", []
    for option in options.split(","):
        name, _, value = option.partition("=")
        path = _ESCAPED.sub(lambda match: chr(int(match[1], 8)), value)
        if name == "upperdir":
            upper = path
        elif name == "lowerdir+":  # Linux 6.8
            lower.append(path)
        elif name == "lowerdir":
            lower += [each.replace("\\:", ":") for each in _BETWEEN_LAYERS.split(path) if each]
    if len(lower) > _MAX_LAYERS or not all(each.startswith("/") for each in (upper, *lower)):
        return None
    return Overlay(fields[2], upper, tuple(lower))


def root_device(mountinfo: str) -> str:
    """Return the device of the mount at the root; raises ValueError if there is none."""
    return _root_fields(mountinfo)[2]


def _root_fields(mountinfo: str) -> list[str]:
    """Return the fields of the last mount at the root (proc_pid_mountinfo(5))."""
    for line in reversed(mountinfo.splitlines()):
        fields = line.split(" ")
        if len(fields) >= 10 and fields[4] == "/":
            return fields
    raise ValueError("no mount at the root")


class File(NamedTuple):
    """Fields by which copies of a file are recognised."""

    size: int
    modified_ns: int
    inode: int


def is_of_image(running: File, upper: File | None, lower: Sequence[File]) -> bool | None:
    """Return True if a file that runs is the image's; ``upper``, ``lower``: at its path.

    None: the file that runs is none of these.
    """
    if upper is None:
        return True if any(each[:2] == running[:2] for each in lower) else None
    if upper[:2] != running[:2]:
        return None
    is_copied = upper.inode != running.inode
    if is_copied and not lower:
        return True  # moved after it was copied
    return any(
        each.size == upper.size and (is_copied or each.modified_ns == upper.modified_ns)
        for each in lower
    )


class OverlayReader:
    """Answers questions about processes below ``proc``."""

    def __init__(self, proc: str) -> None:
        self._proc = proc
        self._host_root = f"{proc}/1/root"  # layers have the host's paths
        if not os.access(self._host_root, os.X_OK):
            self._host_root = ""  # outside a container it is the same

    def is_in_image(self, pid: int, task_path: str, start_ticks: int) -> bool | None:
        """Return True if the executable came with the image; None: unknown. Raises OSError."""
        running = os.open(f"{self._proc}/{task_path}/exe", os.O_PATH | os.O_CLOEXEC)
        try:
            if _start_ticks(self._read(f"{pid}/stat")) != start_ticks:
                return None
            overlay = root_overlay(self._read(f"{task_path}/mountinfo"), _mount_id(running))
            if overlay is None or overlay.device == root_device(self._read("1/mountinfo")):
                return None
            # Only now a file system is asked: the container's own, not one that a tenant serves.
            names = os.readlink(f"/proc/self/fd/{running}").strip("/").split("/")  # noqa: PTH115
            upper = next(self._files((overlay.upper,), names), None)
            lower = [*self._files(overlay.lower, names)]
            return is_of_image(_file(os.fstat(running)), upper, lower)
        finally:
            os.close(running)

    def _files(self, layers: Sequence[str], names: Sequence[str]) -> Iterator[File]:
        """Yield what the layers hold at a path; a layer that cannot be opened is an error."""
        for layer in layers:
            folder = os.open(self._host_root + layer, os.O_PATH | os.O_CLOEXEC)
            try:
                found = _below(folder, names)
            finally:
                os.close(folder)
            if found is not None:
                yield found

    def _read(self, name: str) -> str:
        with open(f"{self._proc}/{name}", "rb") as file:  # noqa: PTH123 - pathlib is slow to import
            return file.read(_MAX_BYTES).decode(errors="surrogateescape")


def _below(folder: int, names: Sequence[str]) -> File | None:
    """Return the regular file at a path below an open folder; follow no link."""
    *above, last = names
    opened = os.dup(folder)
    try:
        for name in above:
            inner = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=opened)
            os.close(opened)
            opened = inner
        found = os.stat(last, dir_fd=opened, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None
    finally:
        os.close(opened)
    return _file(found) if stat.S_ISREG(found.st_mode) else None


def _file(found: os.stat_result) -> File:
    return File(found.st_size, found.st_mtime_ns, found.st_ino)


def _mount_id(fd: int) -> str:
    with open(f"/proc/self/fdinfo/{fd}") as file:  # noqa: PTH123 - proc_pid_fdinfo(5)
        return dict(line.split() for line in file).get("mnt_id:", "")


def _start_ticks(line: str) -> int:
    return int(line.rpartition(") ")[2].split()[_START])


def main() -> None:
    """Answer until the input ends."""
    reader = OverlayReader(sys.argv[1])
    for line in sys.stdin.buffer:
        question = json.loads(line)
        found = None
        with suppress(OSError, ValueError, IndexError):
            found = reader.is_in_image(
                question["pid"], question["task_path"], question["start_ticks"]
            )
        os.write(1, json.dumps({"is_in_image": found}).encode() + b"\n")


if __name__ == "__main__":
    main()
