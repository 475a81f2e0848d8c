"""A process, open for reading its code and what is known of it besides.

It imports no more than it must: a child that imports it starts every few minutes.
"""

from __future__ import annotations

import os

from minerwatch.node.children.mappings import PAGE_BITS, PRESENT, Mapping, Mappings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_ENTRY_BYTES = 8
_PRESENT, _OF_FILE = 0x80, 0x20  # of its highest byte: bits 63 and 61
_ENDED = (b"Z", b"X")
_PF_EXITING = 0x00000004  # include/linux/sched.h
_MAX_THREADS = 500
"""Of the newest and of the oldest, among which a living one is looked for."""
_MAX_PAGES = 64
"""Of one process, kept while a question about it is answered."""
_MAX_FILE_BYTES = 1 << 20
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_FAULT_S = 1.5e-6
"""Kernel time for a new page of memory, which ``kernel_s`` leaves out: a process that allocates
memory for each hash spends two fifths of its time so, and is no server that the kernel sends and
receives for. Where a page takes less, ``kernel_s`` may be below zero; what it grows by is right."""
_IO_FIELDS = (b"rchar", b"wchar", b"read_bytes", b"write_bytes")  # proc_pid_io(5)


class SampledProcess:
    """One process, open for reading.

    Raises OSError if it cannot be read, ProcessLookupError if it has no memory: it is a zombie.
    """

    def __init__(self, folder: str, stat: list[bytes], tid: int, maps_cpu_s: float) -> None:
        """``tid``: a thread that ran lately, or 0; ``maps_cpu_s``: to read the list of mappings."""
        self._process = self._folder = folder
        system_s = int(stat[12]) / _TICKS_PER_S
        self.kernel_s = system_s - int(stat[7]) * _FAULT_S
        self.cpu_s = int(stat[11]) / _TICKS_PER_S + system_s
        if _has_ended(stat):  # memory is then read through another thread
            self._folder = self._living_thread(tid)
        self._code: dict[int, bytes] = {}  # of pages
        self._entries: dict[int, int] = {}
        self.mappings = Mappings(f"{self._folder}/maps", maps_cpu_s)
        self._memory = self._pages = -1
        try:
            self._memory = os.open(f"{self._folder}/mem", os.O_RDONLY | os.O_CLOEXEC)
            self._pages = os.open(f"{self._folder}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
            self._check_it_exists()
        except BaseException:
            self.close()
            raise

    def _check_it_exists(self) -> None:
        if not self.mappings.exist():
            raise ProcessLookupError  # Linux 6.18 does when memory is opened

    def _living_thread(self, sampled: int) -> str:
        """Return the folder of the thread ``sampled``, or if that has exited of another one."""
        for tid in self._threads(sampled):
            folder = f"{self._process}/task/{tid}"
            try:
                if not _has_ended(stat_of(folder)):
                    return folder
            except (OSError, IndexError):
                continue
        return self._process

    def _threads(self, sampled: int) -> Iterator[int | str]:
        if sampled:
            yield sampled
        threads = os.listdir(f"{self._process}/task")  # noqa: PTH208 - as below
        yield from threads[: -_MAX_THREADS - 1 : -1]
        yield from threads[:_MAX_THREADS]

    def mapping(self, address: int) -> Mapping | None:
        """Return the mapping of code that holds ``address``."""
        found = self.mappings.of(address)
        return found if found and found.is_executable else None

    def io_bytes(self) -> int | None:
        """Return all bytes that it has read and written, from files, pipes or sockets."""
        try:
            content = _content(f"{self._process}/io")
            fields = dict(line.split(b": ") for line in content.splitlines())
            return sum(int(fields[name]) for name in _IO_FIELDS)
        except (OSError, ValueError, KeyError):
            return None

    def totals(self, *, has_hashed: bool) -> dict[str, Any]:
        """Return what is known of it besides its code."""
        return {
            "io_bytes": self.io_bytes(),
            "cpu_s": self.cpu_s,
            "kernel_s": self.kernel_s,
            "is_cut": int(not self.mappings.are_all_known),
            "file_mib": self.mappings.largest_file_mib() if has_hashed else 0.0,
        }

    def code(self, address: int, size_bytes: int) -> bytes:
        """Return code, if its page is present: to fetch one can take as long as a tenant likes."""
        page = address >> PAGE_BITS
        if page not in self._code:
            if len(self._code) >= _MAX_PAGES:
                self._code.clear()
            self._code[page] = self._page(page)
        begins = address - (page << PAGE_BITS)
        return self._code[page][begins : begins + size_bytes]

    def _page(self, page: int) -> bytes:
        try:
            entry, mapping = self._entry(page), self.mappings.of(page << PAGE_BITS)
            if entry not in (PRESENT if mapping is None else mapping.readable):
                return b""
            return os.pread(self._memory, 1 << PAGE_BITS, page << PAGE_BITS)
        except (OSError, OverflowError):
            return b""

    def is_own_page(self, address: int) -> bool:
        """Return True if the page is present and the process's own: it has written it."""
        try:
            return self._entry(address >> PAGE_BITS) & (_PRESENT | _OF_FILE) == _PRESENT
        except (OSError, OverflowError):
            return False

    def _entry(self, page: int) -> int:
        """Return the highest byte of a page map entry (proc_pid_pagemap(5)); 0: it has none."""
        if page not in self._entries:
            entry = os.pread(self._pages, _ENTRY_BYTES, page * _ENTRY_BYTES)
            self._entries[page] = entry[-1] if len(entry) == _ENTRY_BYTES else 0
        return self._entries[page]

    def close(self) -> None:
        """Close its memory."""
        self.mappings.close()
        for fd in (self._memory, self._pages):
            if fd >= 0:
                os.close(fd)


def _content(path: str) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123 - pathlib is slow to import
        return file.read(_MAX_FILE_BYTES)


def stat_of(folder: str) -> list[bytes]:
    """Return the fields of a stat file after the name (proc_pid_stat(5)). Raises OSError."""
    return _content(f"{folder}/stat").rpartition(b")")[2].split()


def _has_ended(stat: list[bytes]) -> bool:
    return stat[0] in _ENDED or int(stat[6]) & _PF_EXITING != 0
