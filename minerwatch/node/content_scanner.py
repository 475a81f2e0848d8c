"""Scans executables and memory with YARA-X, in a process that can be killed.

The agent runs this file by path and never imports it: YARA-X and whatever a scan takes leave
memory with the process. It needs nothing of minerwatch. One JSON value a line:

==================================================  ==========================================
standard input                                      standard output
==================================================  ==========================================
``{"rules": [[text, earlier text], …]}``            ``{"broken": [[number, line, reason], …]}``
``{"pid", "start_ticks", "proc", "scan_memory"}``   ``{"executable": [device, inode, …]}``
``{"is_known"}``: whether to leave the file out     ``{"name", "of_executable"}`` for each match
..                                                  ``{"is_there", "failures": […]}``
==================================================  ==========================================

Rules see pieces of 4 to 5 MiB, not files: whatever lies within 512 KiB is seen together.

Memory is read where /proc/PID/pagemap shows a page present (proc_pid_pagemap(5)), so that no page
is made, swapped in or fetched from a file for it. What is small comes first: code, constants and
words are, data sets are not.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import yara_x

_MIB = 1 << 20
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

_WINDOW_BYTES = 4 * _MIB
_OVERLAP_BYTES = _MIB // 2
_PIECE_BYTES = _MIB
_GAP = bytes(64)
"""Between what is not adjacent: no pattern matches across it."""

_HEAD_BYTES = 64 * _MIB
"""Of an executable's data, holes left out; and what is scanned of its end."""
_TAIL_BYTES = 16 * _MIB
_MEMORY_BYTES = 256 * _MIB
_SMALL_BYTES = 32 * _MIB
_WALKED_BYTES = 64 << 30
"""Of address space whose page map is read: a reserved terabyte is not walked to its end."""
_USER_SPACE_END = 1 << 63
_PAGES_AT_ONCE = 32_768
_MAX_MAPS_BYTES = 32 * _MIB

_SCAN_CPU_S = 10.0
_WINDOW_S = 60
_MOST_CPU_S = 20
"""Where even a scan's own limit is not kept: RLIMIT_CPU then ends the process."""
_DATA_BYTES = 192 * _MIB
"""Of memory that it can write to (22 are used); address space alone it reserves far more, for each
scanner."""
_MAX_MATCHES_PER_PATTERN = 4096

_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h
_PR_SET_NO_NEW_PRIVS = 38

_GONE = frozenset((errno.ENOENT, errno.ESRCH))
_MAPPING = re.compile(
    rb"^([0-9a-f]{1,16})-([0-9a-f]{1,16}) (\S{4}) [0-9a-f]+ ([0-9a-f]{2,4}):([0-9a-f]{2,5})"
    rb" (\d{1,20}) *([^\n]*)"
)
"""Addresses, rights, device (12 bits and 20, include/linux/kdev_t.h), inode, name."""
_PRESENT = re.compile(rb"[\x80-\xff]+")
_PRESENT_ORDINARY = re.compile(rb"[\xa0-\xbf\xe0-\xff]+")
"""By the top byte of a page map entry: bit 63 says present, 61 that it is a file's or shared.

A page of a device's own memory has no 61: reading that could set off what the device does.
"""
_OF_THE_KERNEL = (b"[vvar", b"[vdso", b"[vsyscall")
_OF_DEVICES = (b"/dev/", b"/sys/", b"anon_inode:")


def main() -> None:
    """Answers until its input ends."""
    _bound_itself()
    lines = iter(sys.stdin.buffer)
    scanners = _scanners(json.loads(next(lines))["rules"])
    for line in lines:
        question = json.loads(line)
        spent = resource.getrusage(resource.RUSAGE_SELF)
        cpu_s = int(spent.ru_utime + spent.ru_stime) + _MOST_CPU_S
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, resource.RLIM_INFINITY))
        scan = _Scan(scanners, f"{question['proc']}/{question['pid']}", question["start_ticks"])
        is_there = scan.run(lines, scans_memory=question["scan_memory"])
        _put({"is_there": is_there, "failures": sorted(scan.failures)})


def _bound_itself() -> None:
    """It goes when the agent does, gets the CPU last, and cannot grow."""
    libc = ctypes.CDLL(None, use_errno=True)
    parent = int(sys.argv[1])
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)  # it went before this was asked for
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # Not SCHED_IDLE: where a miner takes all cores, that would get one part in 300 of them.
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, 19)
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write("1000")
    resource.setrlimit(resource.RLIMIT_DATA, (_DATA_BYTES, _DATA_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def _put(answer: object) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()  # each at once: what comes next may hang


# Rules.


def _scanners(rules: list[list[str]]) -> list[yara_x.Scanner]:
    """One a file that compiles; for a broken file one of what it held before.

    Apart, since few patterns are searched ten times faster than many (4 MiB: 1 ms, not 17).
    """
    broken: list[tuple[int, int, str]] = []
    scanners: list[yara_x.Scanner] = []
    for number, (text, earlier) in enumerate(rules):
        compiled, error = _compiled(text)
        if error is not None:
            broken.append((number, *error))
            compiled, _ = _compiled(earlier)
        if compiled is not None:
            scanner = yara_x.Scanner(compiled)
            scanner.max_matches_per_pattern(_MAX_MATCHES_PER_PATTERN)
            scanner.set_timeout(_WINDOW_S)
            scanners.append(scanner)
    _put({"broken": broken})
    return scanners


def _compiled(text: str) -> tuple[yara_x.Rules | None, tuple[int, str] | None]:
    """The rules, or line and reason of the first error."""
    compiler = yara_x.Compiler(includes_enabled=False)
    try:
        compiler.add_source(text)
    except yara_x.CompileError as raised:
        errors = compiler.errors()
        if not errors:
            return None, (1, str(raised).partition("\n")[0])
        labels = [label["text"] for label in errors[0]["labels"] if label["text"]]
        return None, (errors[0]["line"], "; ".join((errors[0]["title"], *labels[:1])))
    return compiler.build(), None


# One scan.


class _Scan:
    """Of one process; what went wrong stands in ``failures``."""

    def __init__(self, scanners: list[yara_x.Scanner], folder: str, start_ticks: int) -> None:
        self.failures: set[str] = set()
        self._scanners = scanners
        self._folder = folder
        self._start_ticks = start_ticks
        self._until_cpu_s = time.process_time() + _SCAN_CPU_S
        self._fds: list[int] = []

    def run(self, lines: Iterator[bytes], *, scans_memory: bool) -> bool:
        """Whether the process was there all the time."""
        try:
            return self._scanned(lines, scans_memory=scans_memory)
        except OSError as error:
            self._count(error)
            return error.errno not in _GONE and self._is_there()
        finally:
            for fd in self._fds:
                os.close(fd)

    def _scanned(self, lines: Iterator[bytes], *, scans_memory: bool) -> bool:
        # Each stays with the program that it was opened for, whoever bears the pid later.
        executable = self._open("exe", os.O_NONBLOCK)  # a lease on the file must not hold it up
        memory = self._opened_memory() if scans_memory else None
        if not self._is_there():
            return False
        status = os.fstat(executable)
        times = (status.st_mtime_ns, status.st_ctime_ns)
        _put({"executable": [status.st_dev, status.st_ino, *times, status.st_size]})
        is_whole = _data_bytes(executable, status.st_size) <= _HEAD_BYTES
        if not json.loads(next(lines))["is_known"]:
            if not is_whole:
                self.failures.add("too_large")
            self._match(_file_pieces(executable, status.st_size), of_executable=True)
        if memory is not None:
            of_file = (status.st_dev, status.st_ino) if is_whole else None
            self._match(memory.pieces(of_file), of_executable=False)
            self.failures |= memory.failures
        return self._is_there()

    def _opened_memory(self) -> _Memory | None:
        try:
            return _Memory(*map(self._open, ("maps", "pagemap", "mem")))
        except OSError as error:
            self._count(error)
            return None

    def _count(self, error: OSError) -> None:
        if isinstance(error, PermissionError):
            self.failures.add("permission")
        elif error.errno not in _GONE:
            self.failures.add("unreadable")

    def _open(self, name: str, flags: int = 0) -> int:
        fd = os.open(f"{self._folder}/{name}", os.O_RDONLY | os.O_CLOEXEC | flags)
        self._fds.append(fd)
        return fd

    def _is_there(self) -> bool:
        try:
            with open(f"{self._folder}/stat", "rb", buffering=0) as file:  # noqa: PTH123
                return int(file.read(4096).rpartition(b")")[2].split()[19]) == self._start_ticks
        except (OSError, ValueError, IndexError):
            return False

    def _match(self, pieces: Iterable[bytes], *, of_executable: bool) -> None:
        found: set[str] = set()  # what the executable holds is told also where memory held it
        for window in _windows(pieces):
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
                _put({"name": name, "of_executable": of_executable})
            found |= names


def _windows(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces joined, each window with the end of the one before it."""
    held: list[bytes] = []
    size = 0
    is_new = False
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        is_new = True
        if size >= _WINDOW_BYTES:
            window = b"".join(held)
            held.clear()  # before the scan: it would be held twice
            yield window
            held.append(window[-_OVERLAP_BYTES:])
            size = _OVERLAP_BYTES
            is_new = False
    if is_new:
        yield b"".join(held)


# Files. They are read, never mapped: whoever truncates a mapped file kills its reader.


def _file_pieces(fd: int, size: int) -> Iterator[bytes]:
    """The data at the beginning of a file and at its end."""
    tail = max(0, size - _TAIL_BYTES)
    left = _HEAD_BYTES
    for start, end in _extents(fd, 0, size):
        stop = min(end, start + left)
        yield from _read_pieces(fd, start, stop)
        yield _GAP
        left -= stop - start
        if left <= 0:
            tail = max(tail, stop)
            break
    else:
        return
    for start, end in _extents(fd, tail, size):
        yield from _read_pieces(fd, start, end)
        yield _GAP


def _data_bytes(fd: int, size: int) -> int:
    """How much data a file holds, counted until it is too much."""
    total = 0
    for start, end in _extents(fd, 0, size):
        total += end - start
        if total > _HEAD_BYTES:
            break
    return total


def _extents(fd: int, start: int, size: int) -> Iterator[tuple[int, int]]:
    """Where a file has data, as lseek(2) tells; where it does not tell, all of it."""
    at = start
    while at < size:
        try:
            data = os.lseek(fd, at, os.SEEK_DATA)
            hole = os.lseek(fd, data, os.SEEK_HOLE)
        except OSError as error:
            if error.errno != errno.ENXIO:  # that says: only a hole is left
                yield at, size
            return
        yield data, min(hole, size)
        at = hole


def _read_pieces(fd: int, start: int, end: int) -> Iterator[bytes]:
    """Bytes from ``start`` to ``end``, as far as they can be read."""
    while start < end:
        try:
            piece = os.pread(fd, min(_PIECE_BYTES, end - start), start)
        except OSError as error:
            if error.errno == errno.EIO:  # the page went meanwhile, or is nobody's to read
                return
            raise
        if not piece:
            return
        yield piece
        start += len(piece)


# Memory.


@dataclass(frozen=True, slots=True)
class _Mapping:
    start: int
    end: int
    kind: int  # in this order they are read
    pages: re.Pattern[bytes]


class _Memory:
    """A process's memory, by its open files maps, pagemap and mem."""

    def __init__(self, maps: int, pagemap: int, mem: int) -> None:
        self.failures: set[str] = set()
        self._maps = maps
        self._pagemap = pagemap
        self._mem = mem

    def pieces(self, of_file: tuple[int, int] | None) -> Iterator[bytes]:
        """What is resident, without what is mapped of the file ``of_file``; most telling first."""
        left = _MEMORY_BYTES
        walked = 0
        for mapping in sorted(self._mappings(of_file), key=_order):
            yield _GAP
            for start, end in self._resident(mapping, _WALKED_BYTES - walked):
                stop = min(end, start + left)
                yield from _read_pieces(self._mem, start, stop)
                left -= stop - start
                if left <= 0:
                    return
            walked += mapping.end - mapping.start
            if walked >= _WALKED_BYTES:
                return

    def _mappings(self, of_file: tuple[int, int] | None) -> Iterator[_Mapping]:
        size = 0
        with open(self._maps, "rb", closefd=False) as lines:
            for line in lines:
                size += len(line)
                if size > _MAX_MAPS_BYTES:
                    self.failures.add("too_large")
                    return
                match = _MAPPING.match(line)
                mapping = match and _mapping(match, of_file)
                if mapping:
                    yield mapping

    def _resident(self, mapping: _Mapping, most_bytes: int) -> Iterator[tuple[int, int]]:
        """Runs of pages that are there."""
        end = min(mapping.end, mapping.start + most_bytes)
        for start in range(mapping.start, end, _PAGES_AT_ONCE * _PAGE_BYTES):
            pages = min(_PAGES_AT_ONCE, (end - start) // _PAGE_BYTES)
            entries = os.pread(self._pagemap, 8 * pages, start // _PAGE_BYTES * 8)
            tops = entries[7::8] if sys.byteorder == "little" else entries[::8]
            for run in mapping.pages.finditer(tops):
                yield start + run.start() * _PAGE_BYTES, start + run.end() * _PAGE_BYTES


def _order(mapping: _Mapping) -> tuple[bool, int, int]:
    size = mapping.end - mapping.start
    return size > _SMALL_BYTES, mapping.kind, size


def _mapping(match: re.Match[bytes], of_file: tuple[int, int] | None) -> _Mapping | None:
    start, end, rights, major, minor, inode, name = match.groups()
    is_shared = rights.endswith(b"s")
    is_executable = b"x" in rights
    if name.startswith(_OF_THE_KERNEL) or not (is_executable or b"r" in rights):
        return None
    if not int(start, 16) < int(end, 16) <= _USER_SPACE_END:
        return None
    is_file = inode != b"0"
    if is_file and b"w" not in rights and of_file == (_device(major, minor), int(inode)):
        return None
    kind = (not is_executable) + 2 * is_file if not is_shared else 4
    only_ordinary = is_shared or name.startswith(_OF_DEVICES)
    pages = _PRESENT_ORDINARY if only_ordinary else _PRESENT
    return _Mapping(int(start, 16), int(end, 16), kind, pages)


def _device(major: bytes, minor: bytes) -> int:
    return os.makedev(int(major, 16), int(minor, 16))


if __name__ == "__main__":
    with suppress(BrokenPipeError, StopIteration):
        main()
    os._exit(0)  # the agent is gone; a usual exit would flush, and fail, once more
