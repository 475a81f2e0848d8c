"""Scan the code of processes with YARA-X, in a process that can be killed.

The agent runs this file by path and never imports it, so that the memory of YARA-X and of scans is
freed with the process. One JSON value a line:

===============================================  ==========================================
standard input                                   standard output
===============================================  ==========================================
``{"rules": [[text, earlier text], …]}``         ``{"broken": [[number, line, reason], …]}``
``{"proc", "pid", "task_path", "start_ticks"}``  ``{"name"}`` for each match
..                                               ``{"is_there", "failures": […]}``
===============================================  ==========================================

Data in memory is not code: outsiders choose what a server receives, an editor opens or a compressor
reads. Only these are scanned, and only pages that /proc/PID/pagemap shows present
(proc_pid_pagemap(5)), so that no page is created, swapped in or read from a file:

- executable mappings, generated code included;
- read-only mappings of a file that is also mapped as executable: the constants and texts of its
  program and libraries, but no data file, whatever its name;
- read-only anonymous mappings without a gap to anonymous executable ones: the constants of a
  program that was unpacked in memory.

Memory that the process can write to is not code, except generated code that it can also execute.
That counts only while it is a small part: Lisp and Forth keep data in such memory, and with an
executable stack all threads do.

Rules match pieces of 4 to 5 MiB, not mappings: texts within 512 KiB of each other match together.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import yara_x

from minerwatch.node.children.mappings import ORDINARY, PRESENT, may_be_of_device
from minerwatch.node.children.scanning import put, serve

_MIB = 1 << 20
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

_WINDOW_BYTES = 4 * _MIB
_OVERLAP_BYTES = _MIB // 2
_PIECE_BYTES = _MIB
GAP = bytes(64)
"""Put between parts that are not adjacent: no pattern matches across it."""

MAX_MEMORY_BYTES = 256 * _MIB
_SMALL_BYTES = 32 * _MIB
_WALKED_BYTES = 64 << 30
"""Address space whose page map is read: a reserved terabyte is not walked to its end."""
_USER_SPACE_END = 1 << 63
_PAGES_AT_ONCE = 32_768
_MAX_MAPS_BYTES = 32 * _MIB
_MIN_DATA_PER_CODE = 3
"""Minimum bytes of data for each byte of writable code; with less, that is data, too."""

_SCAN_CPU_S = 10.0
_WINDOW_S = 60

_GONE = frozenset((errno.ENOENT, errno.ESRCH))
_READ_IMPLIES_EXEC = 0x0400000  # include/uapi/linux/personality.h
MAPS_LINE = re.compile(
    rb"^([0-9a-f]{1,16})-([0-9a-f]{1,16}) (\S{4}) [0-9a-f]+ ([0-9a-f]{2,4}):([0-9a-f]{2,5})"
    rb" (\d{1,20}) *([^\n]*)"
)
"""Addresses, rights, device (12 bits and 20, include/linux/kdev_t.h), inode, name."""
_PRESENT = re.compile(b"[" + PRESENT + b"]+")
_PRESENT_ORDINARY = re.compile(b"[" + ORDINARY + b"]+")
_DATA = re.compile(rb"^(?:RssAnon|RssShmem|HugetlbPages):[ \t]*(\d{1,18}) kB", re.MULTILINE)
_OF_THE_KERNEL = (b"[vvar", b"[vdso", b"[vsyscall")
_DATA_NAMES = (b"[stack]", b"[heap]")


def answer(question: dict[str, Any], scanners: list[yara_x.Scanner]) -> dict[str, Any]:
    """Scan a process; write what matches, return what comes after that."""
    scan = _Scan(scanners, question)
    return {"is_there": scan.run(), "failures": sorted(scan.failures)}


# One scan.


class _Scan:
    """The scan of one process, with its failures by reason."""

    def __init__(self, scanners: list[yara_x.Scanner], question: dict[str, Any]) -> None:
        self.failures: set[str] = set()
        self._scanners = scanners
        self._proc: str = question["proc"]
        self._pid: int = question["pid"]
        self._task_path: str = question["task_path"]
        self._start_ticks: int = question["start_ticks"]
        self._until_cpu_s = time.process_time() + _SCAN_CPU_S
        self._fds: list[int] = []

    def run(self) -> bool:
        """Scan; return True if the process existed all the time."""
        try:
            return self._scanned()
        except OSError as error:
            if isinstance(error, PermissionError):
                self.failures.add("permission")
            elif error.errno not in _GONE:
                self.failures.add("unreadable")
            return error.errno not in _GONE and self._is_there()
        finally:
            for fd in self._fds:
                os.close(fd)

    def _scanned(self) -> bool:
        # Open files stay with this process, even if its pid is reused.
        memory = Memory(self._program(), *map(self._open, ("maps", "pagemap", "mem")))
        if not self._is_there():
            return False
        self._match(memory.pieces())
        self.failures |= memory.failures
        return self._is_there()

    def _open(self, name: str) -> int:
        fd = os.open(f"{self._proc}/{self._task_path}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        self._fds.append(fd)
        return fd

    def _read(self, name: str) -> bytes:
        with open(f"{self._proc}/{name}", "rb", buffering=0) as file:  # noqa: PTH123
            return file.read(65536)

    def _program(self) -> Program:
        code_start = int(_stat_fields(self._read(f"{self._task_path}/stat"))[23])
        if code_start == 0:
            raise ProcessLookupError(errno.ESRCH, "no memory: it exited, or is a kernel thread")
        data_kib = sum(map(int, _DATA.findall(self._read(f"{self._task_path}/status"))))
        return Program(
            code_start=code_start,
            data_bytes=data_kib << 10,
            read_implies_exec=bool(
                int(self._read(f"{self._task_path}/personality"), 16) & _READ_IMPLIES_EXEC
            ),
        )

    def _is_there(self) -> bool:
        try:
            stat = _stat_fields(self._read(f"{self._pid}/stat"))
            return int(stat[19]) == self._start_ticks
        except (OSError, ValueError, IndexError):
            return False

    def _match(self, pieces: Iterable[bytes]) -> None:
        found: set[str] = set()
        for window in windows(pieces):
            if time.process_time() > self._until_cpu_s:
                self.failures.add("timeout")
                return
            try:
                names = {
                    rule.identifier
                    for scanner in self._scanners
                    for rule in scanner.scan(window).matching_rules
                }
            except yara_x.TimeoutError:
                self.failures.add("timeout")
                return
            for name in sorted(names - found):
                put({"name": name})
            found |= names


def _stat_fields(stat: bytes) -> list[bytes]:
    """Return the fields of /proc/PID/stat from the third on (proc_pid_stat(5))."""
    return stat.rpartition(b")")[2].split()


def windows(
    pieces: Iterable[bytes], *, size_bytes: int = _WINDOW_BYTES, overlap_bytes: int = _OVERLAP_BYTES
) -> Iterator[bytes]:
    """Join ``pieces``; each window begins with the end of the one before it."""
    held: list[bytes] = []
    size = 0
    is_new = False
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        is_new = True
        if size >= size_bytes:
            window = b"".join(held)
            held.clear()  # before the scan: it would be held twice
            yield window
            held.append(window[-overlap_bytes:])
            size = overlap_bytes
            is_new = False
    if is_new:
        yield b"".join(held)


# Memory.


@dataclass(frozen=True, slots=True)
class Program:
    """Facts of a process that decide which of its mappings are code."""

    code_start: int  # an address in its executable's code
    data_bytes: int  # resident and writable, writable code included
    read_implies_exec: bool  # a personality: all readable memory is executable


FileId = tuple[bytes, bytes, bytes, bytes]
"""Device, inode and path as maps shows them: Btrfs gives files of two subvolumes the same inode."""


@dataclass(frozen=True, slots=True)
class Mapping:
    """A mapping that may be code: executable, or at least not writable."""

    start: int
    end: int
    is_executable: bool
    is_writable: bool
    file: FileId | None  # None: anonymous
    is_data: bool  # the first stack, or the heap
    pages: re.Pattern[bytes]


class Memory:
    """A process's memory, by its open files maps, pagemap and mem."""

    def __init__(
        self,
        program: Program,
        maps: int,
        pagemap: int,
        mem: int,
        *,
        max_bytes: int = MAX_MEMORY_BYTES,
    ) -> None:
        self._max_bytes = max_bytes
        self.failures: set[str] = set()
        self._maps = maps
        self._pagemap = pagemap
        self._mem = mem
        self._program = program

    def pieces(self) -> Iterator[bytes]:
        """Yield the resident code, the most relevant first."""
        left = self._max_bytes
        walked = 0
        for number, mapping in enumerate(self._code()):
            if number:  # rules may test the start of a file
                yield GAP
            for start, end in self._resident(mapping, _WALKED_BYTES - walked):
                stop = min(end, start + left)
                yield from _read_pieces(self._mem, start, stop)
                left -= stop - start
                if left <= 0:
                    self.failures.add("too_large")
                    return
            walked += mapping.end - mapping.start
            if walked >= _WALKED_BYTES:
                self.failures.add("too_large")
                return

    def _code(self) -> list[Mapping]:
        mappings = list(self.mappings())
        start = self._program.code_start
        own_file = next((each.file for each in mappings if each.start <= start < each.end), None)
        if self._program.read_implies_exec:
            return mappings_of_file(mappings, own_file)
        code = code_mappings(mappings, writable_counts=self._writable_code_counts(mappings))
        code.sort(key=lambda each: scan_order(each, own_file))
        return code

    def _writable_code_counts(self, mappings: Iterable[Mapping]) -> bool:
        most_bytes = self._program.data_bytes // (_MIN_DATA_PER_CODE + 1)
        walked = 0
        size = 0
        for mapping in mappings:
            if not (mapping.is_executable and mapping.is_writable):
                continue
            if mapping.is_data:
                return False
            for start, end in self._resident(mapping, _WALKED_BYTES - walked):
                size += end - start
                if size > most_bytes:
                    return False
            walked += mapping.end - mapping.start
            if walked >= _WALKED_BYTES:
                return False
        return True

    def mappings(self) -> Iterator[Mapping]:
        """Yield the mappings that may be code, from the file's current offset on."""
        size = 0
        with open(self._maps, "rb", closefd=False) as lines:
            for line in lines:
                size += len(line)
                if size > _MAX_MAPS_BYTES:
                    self.failures.add("too_large")
                    return
                match = MAPS_LINE.match(line)
                mapping = match and parse_mapping(match)
                if mapping:
                    yield mapping

    def _resident(self, mapping: Mapping, most_bytes: int) -> Iterator[tuple[int, int]]:
        """Yield runs of present pages."""
        end = min(mapping.end, mapping.start + most_bytes)
        for start in range(mapping.start, end, _PAGES_AT_ONCE * _PAGE_BYTES):
            pages = min(_PAGES_AT_ONCE, (end - start) // _PAGE_BYTES)
            entries = os.pread(self._pagemap, 8 * pages, start // _PAGE_BYTES * 8)
            tops = entries[7::8] if sys.byteorder == "little" else entries[::8]
            for run in mapping.pages.finditer(tops):
                yield start + run.start() * _PAGE_BYTES, start + run.end() * _PAGE_BYTES


def _read_pieces(fd: int, start: int, end: int) -> Iterator[bytes]:
    """Yield the bytes from ``start`` to ``end`` that can be read."""
    while start < end:
        try:
            piece = os.pread(fd, min(_PIECE_BYTES, end - start), start)
        except OSError as error:
            if error.errno == errno.EIO:  # the page is gone or cannot be read
                return
            raise
        if not piece:
            return
        yield piece
        start += len(piece)


def parse_mapping(match: re.Match[bytes]) -> Mapping | None:
    """Return the mapping of a line of /proc/PID/maps; None if it cannot be code."""
    start, end, rights, major, minor, inode, name = match.groups()
    is_executable, is_writable = b"x" in rights, b"w" in rights
    if name.startswith(_OF_THE_KERNEL):
        return None
    if not is_executable and (is_writable or b"r" not in rights):
        return None
    if not int(start, 16) < int(end, 16) <= _USER_SPACE_END:
        return None
    only_ordinary = rights.endswith(b"s") or may_be_of_device(name)
    return Mapping(
        int(start, 16),
        int(end, 16),
        is_executable,
        is_writable,
        file=None if inode == b"0" else (major, minor, inode, name),
        is_data=name in _DATA_NAMES,
        pages=_PRESENT_ORDINARY if only_ordinary else _PRESENT,
    )


def mappings_of_file(mappings: Iterable[Mapping], file: FileId | None) -> list[Mapping]:
    """Return the read-only mappings of ``file``, the only sure code if all is executable."""
    return [each for each in mappings if file and each.file == file and not each.is_writable]


def code_mappings(mappings: Iterable[Mapping], *, writable_counts: bool) -> list[Mapping]:
    """Return the mappings that are code or adjacent to it, by address."""
    candidates = [
        each for each in mappings if not each.is_data and (writable_counts or not each.is_writable)
    ]
    files = {each.file for each in candidates if each.is_executable}
    found: list[Mapping] = []
    beside: list[Mapping] = []  # anonymous, each without a gap to the one before it
    for mapping in candidates:
        if mapping.file is not None:
            if mapping.file in files:
                found.append(mapping)
            continue
        if beside and beside[-1].end != mapping.start:
            found += _if_executed(beside)
            beside = []
        beside.append(mapping)
    return found + _if_executed(beside)


def _if_executed(run: list[Mapping]) -> list[Mapping]:
    return run if any(each.is_executable for each in run) else []


def scan_order(mapping: Mapping, own_file: FileId | None) -> tuple[bool, int, int]:
    """Sort the program first, from its start, then generated code, then libraries."""
    size = mapping.end - mapping.start
    is_large = size > _SMALL_BYTES
    if mapping.file is None:
        return is_large, 2 - mapping.is_executable, size
    if mapping.file == own_file:
        return is_large, 0, mapping.start
    return is_large, 4 - mapping.is_executable, size


if __name__ == "__main__":
    serve(answer, niceness=19, scan_s=_WINDOW_S)
