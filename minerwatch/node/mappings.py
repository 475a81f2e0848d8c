"""What a process keeps in memory, mapping by mapping; for suspects only.

/proc/PID/smaps (proc_pid_smaps(5)) takes up to 8 ms and the memory lock of the process that is
read, which that process can hold. So a thread reads it, one process at a time, and nobody waits for
it: an answer comes when it comes. A thread that hangs is left alone until it returns.
"""

from __future__ import annotations

import os
import queue
import re
import threading
from dataclasses import dataclass

from minerwatch.model import ProcessId

_MAX_SMAPS_BYTES = 32 << 20
_PIECE_BYTES = 256 << 10
_MAX_WAITING = 256

_MAPPING = re.compile(
    rb"^([0-9a-f]{1,16})-([0-9a-f]{1,16}) (\S{4}) \S+ (\S+) (\d+) *([^\n]*)\n"
    rb"((?:[A-Z]\w*:[^\n]*\n)*)",
    re.MULTILINE,
)
_RESIDENT = re.compile(rb"^(?:Rss|Private_Hugetlb|Shared_Hugetlb): +(\d{1,18}) kB", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Mappings:
    """Sums over a process's memory mappings, MiB."""

    jit_mib: float  # anonymous and executable
    largest_anonymous_mib: float  # resident, huge pages counted


class MappingReader:
    """Reads mappings below ``proc`` in a thread of its own.

    ``failures`` counts what went wrong since the start, by reason: ``unreadable`` files,
    ``too_large`` ones, ``crowded`` for questions that were dropped since too many waited.
    """

    def __init__(self, proc: str = "/proc") -> None:
        self.failures = dict.fromkeys(("unreadable", "too_large", "crowded"), 0)
        self._proc = proc
        self._asked: set[ProcessId] = set()
        self._questions: queue.SimpleQueue[ProcessId | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[ProcessId, Mappings | None]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="mappings", daemon=True)
        self._thread.start()

    def ask(self, process: ProcessId) -> None:
        """Wants to know of ``process``; a question that is still open is not asked again."""
        if process in self._asked:
            return
        if len(self._asked) >= _MAX_WAITING:
            self.failures["crowded"] += 1
            return
        self._asked.add(process)
        self._questions.put(process)

    def answers(self) -> dict[ProcessId, Mappings]:
        """What has been read since the last call; it never waits."""
        found: dict[ProcessId, Mappings] = {}
        while not self._answers.empty():
            process, mappings = self._answers.get()
            self._asked.discard(process)
            if mappings is not None:
                found[process] = mappings
        return found

    def close(self) -> None:
        """Ends the thread, at once or when the read that it hangs in returns."""
        self._questions.put(None)

    def _serve(self) -> None:
        while (process := self._questions.get()) is not None:
            self._answers.put((process, self._read(process)))

    def _read(self, process: ProcessId) -> Mappings | None:
        try:
            content = self._content(process.pid)
            if content is None or self._start_ticks(process.pid) != process.start_ticks:
                return None
        except (OSError, ValueError, IndexError) as error:
            if not isinstance(error, FileNotFoundError | ProcessLookupError):
                self.failures["unreadable"] += 1
            return None
        return parse_smaps(content)

    def _content(self, pid: int) -> bytes | None:
        pieces: list[bytes] = []
        size = 0
        fd = os.open(f"{self._proc}/{pid}/smaps", os.O_RDONLY | os.O_CLOEXEC)
        try:
            while piece := os.read(fd, _PIECE_BYTES):
                pieces.append(piece)
                size += len(piece)
                if size > _MAX_SMAPS_BYTES:
                    self.failures["too_large"] += 1
                    return None
        finally:
            os.close(fd)
        return b"".join(pieces)

    def _start_ticks(self, pid: int) -> int:
        fd = os.open(f"{self._proc}/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return int(os.read(fd, 4096).rpartition(b")")[2].split()[19])
        finally:
            os.close(fd)


def parse_smaps(content: bytes) -> Mappings:
    """Sums over the text of /proc/PID/smaps."""
    jit_bytes = 0
    largest_kib = 0
    for match in _MAPPING.finditer(content):
        start, end, rights, _device, inode, name, rest = match.groups()
        if not _is_anonymous(inode, name):
            continue
        if b"x" in rights:
            jit_bytes += max(0, int(end, 16) - int(start, 16))
        resident_kib = sum(int(number) for number in _RESIDENT.findall(rest))
        largest_kib = max(largest_kib, resident_kib)
    return Mappings(jit_bytes / (1 << 20), largest_kib / 1024)


def _is_anonymous(inode: bytes, name: bytes) -> bool:
    """Memory without a file; also huge pages, memfds and shared memory, whose file has no disk."""
    if name.startswith((b"[v", b"[stack")):  # vdso, vvar, vsyscall: the kernel's
        return False
    return inode == b"0" or name.startswith(
        (b"/anon_hugepage", b"/memfd:", b"/dev/zero", b"/dev/shm/", b"/SYSV")
    )
