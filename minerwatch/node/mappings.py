"""What a process keeps in memory, mapping by mapping; for suspects only.

/proc/PID/smaps (proc_pid_smaps(5)) takes up to 8 ms and the memory lock of the process that is
read, which that process can hold. So a thread reads it, one process at a time, and nobody waits for
it: an answer comes when it comes. A thread that hangs is left behind until its read returns, and
another one reads on; with a few left behind, nothing is read until one returns.
"""

from __future__ import annotations

import os
import queue
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from minerwatch.model import ProcessId

_MAX_SMAPS_BYTES = 32 << 20
_PIECE_BYTES = 256 << 10
_MAX_WAITING = 256
_MAX_LEFT = 4
_STALLED_S = 10.0
"""A read that takes so long hangs."""
_AVOIDED_S = 1800.0
"""How long a process that hung a read is left alone: otherwise it would hang one after another."""

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
    ``too_large`` ones, ``timeout`` for reads that hang, ``crowded`` for questions that were dropped
    since too many waited.
    """

    def __init__(self, proc: str = "/proc") -> None:
        self.failures = dict.fromkeys(("unreadable", "too_large", "timeout", "crowded"), 0)
        self._proc = proc
        self._asked: set[ProcessId] = set()
        self._questions: queue.SimpleQueue[ProcessId | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[ProcessId, Mappings | None]] = queue.SimpleQueue()
        self._avoided: dict[ProcessId, float] = {}
        self._left: list[_Serving] = []
        self._serving = self._started()

    def ask(self, process: ProcessId) -> None:
        """Wants to know of ``process``; a question that is still open is not asked again."""
        if process in self._asked or self._avoided.get(process, 0.0) > time.monotonic():
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
        self._leave_what_hangs()
        return found

    def close(self) -> None:
        """Ends the thread, at once or when the read that it hangs in returns."""
        self._questions.put(None)

    def _started(self) -> _Serving:
        return _Serving(self._read, self._questions, self._answers)

    def _leave_what_hangs(self) -> None:
        self._left = [each for each in self._left if each.is_alive()]
        now_s = time.monotonic()
        if len(self._left) >= _MAX_LEFT or not (process := self._serving.leave(now_s)):
            return
        self.failures["timeout"] += 1
        self._avoided = {each: s for each, s in self._avoided.items() if s > now_s}
        self._avoided[process] = now_s + _AVOIDED_S
        self._asked.discard(process)
        self._left.append(self._serving)
        self._serving = self._started()

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


class _Serving(threading.Thread):
    """Answers one question after another, until it is left behind or there are no more."""

    def __init__(
        self,
        read: Callable[[ProcessId], Mappings | None],
        questions: queue.SimpleQueue[ProcessId | None],
        answers: queue.SimpleQueue[tuple[ProcessId, Mappings | None]],
    ) -> None:
        super().__init__(name="mappings", daemon=True)
        self._read = read
        self._questions = questions
        self._answers = answers
        self._lock = threading.Lock()
        self._reading: ProcessId | None = None
        self._since_s = 0.0
        self._is_left = False
        self.start()

    def leave(self, now_s: float) -> ProcessId | None:
        """The process that it hangs in, of which it will not answer any more; None: it does not."""
        with self._lock:
            if self._reading is None or now_s - self._since_s < _STALLED_S:
                return None
            self._is_left = True
            return self._reading

    def run(self) -> None:
        while (process := self._questions.get()) is not None:
            with self._lock:
                self._reading, self._since_s = process, time.monotonic()
            mappings = self._read(process)
            with self._lock:
                self._reading = None
                if self._is_left:
                    return
            self._answers.put((process, mappings))


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
