"""The mappings of a process: which one holds an address, how large is the largest file.

Linux 6.11 says which mapping holds an address (PROCMAP_QUERY, include/uapi/linux/fs.h). Before, the
whole list of them is read, up to a bound of CPU time: a process can have 65,530 mappings by default
(vm.max_map_count), each with a name of 4096 characters.

It imports no more than it must: a child that imports it starts every few minutes.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import time
from bisect import bisect_right
from math import inf
from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    _Query = Callable[[BinaryIO, int, bytearray], object]

PAGE_BITS = 12
CHUNK_BYTES = 64 << 10
"""Of the list, read between two looks at the clock."""
_LINES_PER_CHECK = 256
"""Of the list, parsed between two looks at the clock."""
_MAX_LIST_BYTES = 64 << 20
_MAX_KNOWN = 4096
_MAX_BYTES = 1 << 64
_PAGES = _MAX_BYTES >> PAGE_BITS

_QUERY = Struct("=9Q2I2I2Q")  # struct procmap_query
PROCMAP_QUERY = 0xC0006611 | _QUERY.size << 16
_NAME_BYTES = 4096  # PATH_MAX
_RIGHTS = b"rwx"  # bits 0 to 2 of vma_flags
_SHARED = 1 << 3

PRESENT = bytes(range(0x80, 0x100))
"""Highest bytes of page map entries of present pages (proc_pid_pagemap(5)): bit 63."""
ORDINARY = bytes(each for each in PRESENT if each & 0x21)
"""Those of pages that are surely memory: a file's or shared (61), or of one process alone (56).

A page of a device's own memory has neither: reading that could set off what the device does.
"""

CODE_OF_32_BITS = 1 << 63  # as model.py has it

_OF_THE_KERNEL = (b"[vdso]", b"[vsyscall]")
_IN_MEMORY = (b"/memfd:", b"/dev/shm/", b"/SYSV", b"/dev/zero")
_OF_DEVICES = (b"/dev/", b"/sys/", b"anon_inode:", b"[vvar")
_NOT_ON_DISK = (*_OF_DEVICES, *_IN_MEMORY)


class Mapping:
    """One mapping, as a line of /proc/PID/maps shows it (proc_pid_maps(5)).

    ``file``: device and inode; empty: no file backs it. ``is_in_memory``: its file lies on no
    disk, or has no name any more. ``is_anonymous``: no file on a disk holds what it holds, and it
    is not the kernel's. ``readable``: the highest bytes of page map entries of pages that can be
    read. Where it may be a device's, these are ORDINARY.
    """

    __slots__ = (
        *("end", "file", "is_anonymous", "is_executable", "is_in_memory", "is_readable"),
        *("is_writable", "name", "offset", "readable", "start"),
    )

    def __init__(
        self, start: int, end: int, permissions: bytes, offset: int, file: str, name: bytes
    ) -> None:
        self.start, self.end, self.offset = start, end, offset
        self.file, self.name = file, name
        self.is_readable = permissions[:1] == b"r"
        self.is_writable = permissions[1:2] == b"w"
        self.is_executable = permissions[2:3] == b"x"
        is_shared = permissions[3:4] == b"s"
        self.readable = ORDINARY if is_shared or may_be_of_device(name) else PRESENT
        self.is_in_memory = name.startswith(_IN_MEMORY) or name.endswith(b" (deleted)")
        self.is_anonymous = not name.startswith(_OF_THE_KERNEL) and (
            not file
            or self.is_in_memory
            or name.startswith(_OF_DEVICES)
            or (self.is_writable and is_shared)
        )

    @property
    def is_of_disk(self) -> bool:
        """True if a file on a disk can be read here."""
        is_on_disk = self.name.startswith(b"/") and not self.name.startswith(_NOT_ON_DISK)
        return is_on_disk and self.file != "" and self.is_readable


def has_32_bits(address: int) -> bool:
    """Return True if CODE_OF_32_BITS was added to an address: those of the kernel have bit 62."""
    return address >> 62 == CODE_OF_32_BITS >> 62


def may_be_of_device(name: bytes) -> bool:
    """Return True if the name of a mapping may be that of a device.

    Pages of /dev/zero, written and then shared by fork(2), are in no file and of no process alone.
    """
    return name.startswith(_OF_DEVICES) and not name.startswith(_IN_MEMORY)


class Mappings:
    """The mappings of a process. Raises OSError if they cannot be opened.

    ``are_all_known``: False if there are more than were read.
    """

    def __init__(self, path: str, cpu_s: float, query: _Query = fcntl.ioctl) -> None:
        """``path``: of its list; ``cpu_s``: the CPU time for reading that."""
        self._query = query
        self._cpu_s = cpu_s
        self.are_all_known = True
        self._file = open(path, "rb")  # noqa: PTH123, SIM115 - pathlib is slow to import
        self._name = ctypes.create_string_buffer(_NAME_BYTES)
        self._known: dict[int, Mapping | None] = {}  # by page
        self._lines: list[bytes] | None = None

    def exist(self) -> bool:
        """Return False if the process has exited, or is the kernel's."""
        self.of(0)
        return self._lines != [] or not self.are_all_known

    def of(self, address: int) -> Mapping | None:
        """Return the mapping that holds ``address``."""
        page = address >> PAGE_BITS
        if not 0 <= page < _PAGES:
            return None
        if page not in self._known:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[page] = self._found(address)
        return self._known[page]

    def largest_file_mib(self) -> float:
        """Return the size of the largest mapping of a file on a disk, as far as time allows."""
        return largest_file_mib(self._listed(), self._cpu_s)

    def close(self) -> None:
        """Close the list."""
        self._file.close()

    def _found(self, address: int) -> Mapping | None:
        if self._lines is None:
            for name_bytes in (_NAME_BYTES, 0):
                try:
                    return self._asked(address, name_bytes)
                except OSError as error:
                    if error.errno == errno.ENOENT:
                        return None
                    if error.errno != errno.ENAMETOOLONG:
                        break
        return mapping_of(address, self._listed())

    def _asked(self, address: int, name_bytes: int) -> Mapping:
        """Return the mapping. If ``name_bytes`` is 0 its name is unknown: it may be a device's.

        Raises OSError: ENOENT if there is none, ENAMETOOLONG if the name is too long.
        """
        name_at = ctypes.addressof(self._name) if name_bytes else 0
        self._name.value = _OF_DEVICES[0]
        query = bytearray(_QUERY.pack(_QUERY.size, 0, address, *[0] * 8, name_bytes, 0, name_at, 0))
        self._query(self._file, PROCMAP_QUERY, query)
        _, _, _, start, end, flags, _, offset, inode, major, minor, length, *_ = _QUERY.unpack(
            query
        )
        rights = bytes(each if flags >> bit & 1 else ord("-") for bit, each in enumerate(_RIGHTS))
        return Mapping(
            start,
            end,
            rights + (b"s" if flags & _SHARED else b"p"),
            offset,
            f"{major:02x}:{minor:02x}:{inode}" if inode else "",
            self._name.value if length or not name_bytes else b"",
        )

    def _listed(self) -> list[bytes]:
        if self._lines is None:
            self._lines = self._read()
        return self._lines

    def _read(self) -> list[bytes]:
        until_s = time.process_time() + self._cpu_s
        lines: list[bytes] = []
        size = 0
        try:
            while more := self._file.readlines(CHUNK_BYTES):
                lines += more
                size += sum(map(len, more))
                if time.process_time() > until_s or size > _MAX_LIST_BYTES:
                    self.are_all_known = False
                    break
        except ProcessLookupError:  # it has exited, and its parent has been informed
            return []
        return lines


def mapping_of(address: int, lines: list[bytes]) -> Mapping | None:
    """Return the mapping that holds an address, by the lines of the list, which are in order."""
    try:
        index = bisect_right(lines, address, key=_start) - 1
        mapping = _mapping(lines[index]) if index >= 0 else None
    except ValueError:
        return None
    is_in = mapping is not None and mapping.start <= address < mapping.end
    return mapping if is_in else None


def largest_file_mib(lines: list[bytes], cpu_s: float = inf) -> float:
    """Return the size of the largest mapping of a file on a disk found in ``cpu_s`` of CPU time."""
    until_s = time.process_time() + cpu_s
    largest_bytes = 0
    for number, line in enumerate(lines):
        if number % _LINES_PER_CHECK == 0 and time.process_time() > until_s:
            break
        if b" /" not in line:
            continue
        try:
            start, _, rest = line.partition(b"-")
            if int(rest.partition(b" ")[0], 16) - int(start, 16) > largest_bytes:
                mapping = _mapping(line)
                if mapping.is_of_disk:
                    largest_bytes = mapping.end - mapping.start
        except ValueError:
            continue
    return min(largest_bytes, _MAX_BYTES) / (1 << 20)


def _start(line: bytes) -> int:
    return int(line.partition(b"-")[0], 16)


def _mapping(line: bytes) -> Mapping:
    """Return a line as a mapping. Raises ValueError."""
    addresses, permissions, offset, device, inode, *name = line.split(None, 5)
    start, _, end = addresses.partition(b"-")
    file = (device + b":" + inode).decode(errors="replace") if inode != b"0" else ""
    named = name[0].rstrip(b"\n") if name else b""
    return Mapping(int(start, 16), int(end, 16), permissions, int(offset, 16), file, named)
