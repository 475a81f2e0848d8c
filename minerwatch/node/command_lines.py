"""Read command lines in a thread or a process that can be abandoned while its read hangs."""

from __future__ import annotations

import errno
import os
import platform
import queue
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from minerwatch.node.guarded_child import CHILDREN, GuardedProgram, StalledError
from minerwatch.node.proc_files import STAT_BYTES, read_once
from minerwatch.worker import Worker

END_BYTES = 16 << 10
"""Kept of each end of a long command line.

A line can be padded past any limit, so a larger limit finds nothing more, but lets a few hundred
processes fill the agent's memory. Padding cannot push out both ends.
"""
_GAP = " … ".encode()
_PIECE_BYTES = 64 << 10
_SHORT_PIECE_BYTES = 4 << 10  # large buffers cost more than the reads that they save
_MAX_PIECES = 128  # 8 MiB; execve(2) takes at most 6 MiB, prctl(2) can lay more
_ANSWER_BYTES = 32 << 10  # of one answer of the child: in Base64 it fits into one line
_MAX_ANSWERS = _MAX_PIECES * _PIECE_BYTES // _ANSWER_BYTES
_SHORTEST_WAIT_S = 0.001
PATIENCE = 10
"""Deadlines for which a call waits for a CPU: under a quota it may have none for 95 of 100 ms."""
_FUTEX = b"202" if platform.machine() == "x86_64" else b"98"
UNREAD = -1
STUCK = -2


@dataclass(slots=True)
class TimeLeft:
    """The delay that one call may still add to reads that nothing blocks."""

    for_hanging_s: float
    for_a_cpu_s: float
    hung_owners: set[Hashable] = field(default_factory=set)

    def spend(self, late_s: float, *, is_hanging: bool) -> None:
        """Charge a delay: waiting for a CPU first uses up the time for that."""
        waited_s = 0.0 if is_hanging else min(late_s, self.for_a_cpu_s)
        self.for_a_cpu_s -= waited_s
        self.for_hanging_s -= late_s - waited_s


class CommandLineReader:
    """Read command lines before a deadline, whatever their processes do.

    A thread reads them. While it hangs, a child reads one at a time and is killed if it hangs, too.
    At most one thread and a few killed children are left hanging.
    """

    def __init__(self, proc: str, slice_s: float, failures: dict[str, int]) -> None:
        self._proc = proc
        self._slice_s = slice_s
        self._failures = failures
        self._thread: _ReadingThread | None = None
        # SIGKILL ends its wait for a memory lock since Linux 5.3.
        self._helper = GuardedProgram(
            CHILDREN / "cmdline_reader.py", proc, str(_ANSWER_BYTES), str(_MAX_ANSWERS)
        )
        self.has_met_hanging = False
        """A process blocked the last ``read``."""

    def read(
        self,
        task_paths: Mapping[int, str],
        until_s: float,
        patience_s: float,
        owner_of: Callable[[int], Hashable],
        hung_owners: set[Hashable],
    ) -> dict[int, bytes | int]:
        """Return arguments, errno, or ``STUCK`` if the read hung; others were not reached.

        Waiting for a CPU may last for ``patience_s`` after ``until_s``. Processes of
        ``hung_owners`` are skipped; the owner of a process that hangs is added to them.
        """
        answers: dict[int, bytes | int] = {}
        task_paths = {pid: at for pid, at in task_paths.items() if owner_of(pid) not in hung_owners}
        self.has_met_hanging = self._thread is not None and not self._thread.is_free()
        if not task_paths or time.monotonic() >= until_s:
            return answers
        if self._thread is None:
            self._thread = _ReadingThread(self._proc)
        if self._thread.is_free():
            self._helper.discard()
            got = self._thread.read(list(task_paths.values()), self._slice_s, until_s, patience_s)
            answers.update(zip(task_paths, got, strict=False))
            self.has_met_hanging = bool(got) and got[-1] == STUCK
            if self.has_met_hanging:
                hung_owners.add(owner_of(list(task_paths)[len(got) - 1]))
        for pid in list(task_paths)[len(answers) :]:
            owner = owner_of(pid)
            if owner in hung_owners:
                continue
            answer = self._helper_answer(task_paths[pid], until_s)
            if answer == UNREAD:
                break
            if answer == STUCK:
                hung_owners.add(owner)
            answers[pid] = answer
        return answers

    def close(self) -> None:
        """End the thread and the children."""
        if self._thread is not None:
            self._thread.close()
        self._helper.close()

    def _helper_answer(self, task_path: str, until_s: float) -> bytes | int:
        if time.monotonic() >= until_s:
            return UNREAD
        try:
            if (child := self._helper.child()) is None or not child.has_started(until_s):
                return UNREAD
            child.send(task_path, until_s)
            return join_pieces(lambda: child.receive(Piece, until_s, self._slice_s))
        except TimeoutError as error:
            self._helper.discard()
            return STUCK if isinstance(error, StalledError) else UNREAD
        except (OSError, ValueError):
            self._failures["helper"] += 1
            self._helper.discard(has_failed=True)
            return UNREAD


@dataclass(slots=True)
class _Job:
    task_paths: Sequence[str]
    answers: list[bytes | int] = field(default_factory=list)
    since_s: float | None = None  # when the read of the next answer began
    is_left: bool = False
    done: threading.Event = field(default_factory=threading.Event)


class _ReadingThread:
    """The cheapest reader. A thread that hangs cannot be ended, only left until it returns."""

    def __init__(self, proc: str) -> None:
        self._proc = proc
        self._job = _Job(())
        self._job.done.set()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = Worker("arguments", self._serve).start()

    def is_free(self) -> bool:
        return self._job.done.is_set()

    def read(
        self, task_paths: Sequence[str], slice_s: float, until_s: float, patience_s: float
    ) -> list[bytes | int]:
        """Return answers in the same order; fewer if time ran out or the last one hung."""
        job = self._job = _Job(task_paths)
        self._jobs.put(job)
        timeout_s = min(slice_s, until_s - time.monotonic())
        while not job.done.wait(timeout_s):
            got = list(job.answers)
            now_s = time.monotonic()
            waited_s = now_s - job.since_s if job.since_s is not None else 0.0
            if waited_s >= slice_s and self._is_blocked() and len(got) == len(job.answers):
                job.is_left = True
                return [*got, STUCK]
            if now_s >= until_s + patience_s or (now_s >= until_s and self._is_blocked()):
                job.is_left = True
                return got
            left_s = until_s - now_s if now_s < until_s else slice_s
            timeout_s = max(_SHORTEST_WAIT_S, min(slice_s - waited_s, left_s))
        return job.answers

    def close(self) -> None:
        self._thread.close()
        self._jobs.put(None)
        if self.is_free():
            self._thread.join()

    def _is_blocked(self) -> bool:
        return _is_blocked(f"/proc/self/task/{self._thread.native_id}")

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                for task_path in job.task_paths:
                    if job.is_left:
                        break
                    job.since_s = time.monotonic()
                    job.answers.append(_arguments(f"{self._proc}/{task_path}/cmdline"))
            finally:
                job.done.set()


class Piece(msgspec.Struct):
    """One line of children/cmdline_reader.py, not trusted."""

    piece: bytes = b""
    errno: int | None = None  # the last line of a command line has it


def join_pieces(receive: Callable[[], Piece]) -> bytes | int:
    """Return arguments or errno; raises ValueError if the pieces do not come to an end."""
    held = bytearray()
    for _ in range(_MAX_ANSWERS + 1):
        answer = receive()
        if answer.errno is not None:
            return answer.errno if answer.errno > 0 else _both_ends(held)
        _append(held, answer.piece)
    raise ValueError("the child does not come to an end")


def _append(held: bytearray, piece: bytes) -> None:
    """Append a piece; of a stream that gets long, only its ends stay held."""
    held += piece
    if len(held) > 2 * END_BYTES + _PIECE_BYTES:
        # one byte more than is kept, so that the gap is seen
        del held[END_BYTES : -END_BYTES - 1]


def _both_ends(held: bytearray) -> bytes:
    if len(held) <= 2 * END_BYTES:
        return bytes(held)
    return bytes(held[:END_BYTES]) + _GAP + bytes(held[-END_BYTES:])


def _arguments(path: str) -> bytes | int:
    """Read a cmdline file; return its content, or an errno.

    A short read is not the end: it stops at a page that cannot be read, as under userfaultfd(2).
    """
    held = bytearray()
    size = _SHORT_PIECE_BYTES
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        return error.errno or errno.EIO
    try:
        for _ in range(_MAX_PIECES):
            piece = os.read(fd, size)
            if not piece:
                break
            _append(held, piece)
            if len(piece) == size:
                size = _PIECE_BYTES
    except OSError as error:
        return error.errno or errno.EIO
    finally:
        os.close(fd)
    return _both_ends(held)


def _is_blocked(task: str) -> bool:
    """Return True if a task of this process waits in a system call (proc_pid_syscall(5)).

    The file of a runnable task reads "running". A task in futex(2) waits for the interpreter's
    lock. Without that file the state in stat decides.
    """
    try:
        number = read_once(f"{task}/syscall", 256).split(b" ", 1)[0].strip()
    except OSError:
        with suppress(OSError):
            return read_once(f"{task}/stat", STAT_BYTES).rpartition(b") ")[2][:1] in b"SD"
        return False
    return number.isdigit() and number != _FUTEX
