"""Read command lines in a thread or a process that can be abandoned while its read hangs."""

from __future__ import annotations

import errno
import os
import platform
import queue
import select
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from minerwatch.node.proc_files import STAT_BYTES, read_once
from minerwatch.worker import Worker

_END_BYTES = 16 << 10
"""Kept of each end of a long command line.

Whoever pads a line can pad it past any limit, so a larger one finds nothing more, but lets a few
hundred processes with long lines take all of the agent's memory. The two ends are what padding
cannot push out of sight.
"""
_GAP = " … ".encode()
_PIECE_BYTES = 64 << 10
_SHORT_PIECE_BYTES = 4 << 10  # large buffers cost more than the reads that they save
_MAX_PIECES = 128  # 8 MiB; execve(2) takes at most 6 MiB, prctl(2) can lay more
_MAX_DYING_HELPERS = 4  # before Linux 5.3 a process that waits for a memory lock cannot be killed
_SHORTEST_WAIT_S = 0.001
PATIENCE = 10
"""Deadlines for which a call waits for a CPU: under a quota 95 ms of each 100 go without one."""
_FUTEX = b"202" if platform.machine() == "x86_64" else b"98"
UNREAD = -1
STUCK = -2


@dataclass(slots=True)
class TimeLeft:
    """For one call: how much later it may be than reads are that nothing holds up."""

    for_hanging_s: float
    for_a_cpu_s: float
    hung_owners: set[Hashable] = field(default_factory=set)

    def spend(self, late_s: float, *, is_hanging: bool) -> None:
        """Waiting for a CPU leaves the time for hanging as it is, while there is patience."""
        waited_s = 0.0 if is_hanging else min(late_s, self.for_a_cpu_s)
        self.for_a_cpu_s -= waited_s
        self.for_hanging_s -= late_s - waited_s


class CommandLineReader:
    """Command lines of some processes before a deadline, whatever those processes do.

    A thread reads them. While it hangs, a process reads one at a time and is killed when it
    hangs too. At most one thread and ``_MAX_DYING_HELPERS`` killed processes are left hanging.
    """

    def __init__(self, proc: str, slice_s: float, failures: dict[str, int]) -> None:
        self._proc = proc
        self._slice_s = slice_s
        self._failures = failures
        self._thread: _ReadingThread | None = None
        self._helper: _ReadingProcess | None = None
        self._dying: list[_ReadingProcess] = []
        self.has_met_hanging = False
        """Whether the last ``read`` was held up by a process."""

    def read(
        self,
        places: Mapping[int, str],
        until_s: float,
        patience_s: float,
        owner_of: Callable[[int], Hashable],
        hung_owners: set[Hashable],
    ) -> dict[int, bytes | int]:
        """Answer arguments or errno, ``STUCK`` where it hung; others were not reached.

        It goes on for ``patience_s`` after ``until_s`` where only a CPU is waited for. A process
        whose owner is among ``hung_owners`` is left out, and an owner that hangs it becomes one.
        """
        answers: dict[int, bytes | int] = {}
        places = {pid: at for pid, at in places.items() if owner_of(pid) not in hung_owners}
        self.has_met_hanging = self._thread is not None and not self._thread.is_free()
        if not places or time.monotonic() >= until_s:
            return answers
        if self._thread is None:
            self._thread = _ReadingThread(self._proc)
        if self._thread.is_free():
            self._kill_helper()
            self._reap()
            got = self._thread.read(list(places.values()), self._slice_s, until_s, patience_s)
            answers.update(zip(places, got, strict=False))
            self.has_met_hanging = bool(got) and got[-1] == STUCK
            if self.has_met_hanging:
                hung_owners.add(owner_of(list(places)[len(got) - 1]))
        for pid in list(places)[len(answers) :]:
            owner = owner_of(pid)
            if owner in hung_owners:
                continue
            answer = self._helper_answer(places[pid], until_s)
            if answer == UNREAD:
                break
            if answer == STUCK:
                hung_owners.add(owner)
            answers[pid] = answer
        return answers

    def close(self) -> None:
        """End the thread and the processes."""
        if self._thread is not None:
            self._thread.close()
        self._kill_helper()
        for helper in self._dying:
            helper.wait(self._slice_s)

    def _helper_answer(self, place: str, until_s: float) -> bytes | int:
        if time.monotonic() >= until_s:
            return UNREAD
        try:
            self._reap()
            if self._helper is None and len(self._dying) < _MAX_DYING_HELPERS:
                self._helper = _ReadingProcess(self._proc)
            answer = self._helper.read(place, self._slice_s, until_s) if self._helper else UNREAD
        except OSError:
            self._failures["helper"] += 1
            self._kill_helper()
            return UNREAD
        if self._helper is not None and self._helper.is_busy:
            self._kill_helper()
        return answer

    def _reap(self) -> None:
        self._dying = [helper for helper in self._dying if not helper.is_reaped()]

    def _kill_helper(self) -> None:
        if self._helper is not None:
            self._helper.kill()
            self._dying.append(self._helper)
            self._helper = None


class _Job:
    __slots__ = ("answers", "done", "is_left", "places", "since_s")

    def __init__(self, places: Sequence[str]) -> None:
        self.places = places
        self.answers: list[bytes | int] = []
        self.since_s: float | None = None  # when the read of the next answer began
        self.is_left = False
        self.done = threading.Event()


class _ReadingThread:
    """Cheapest, but nothing can end a thread that hangs: it is left, and free when it returns."""

    def __init__(self, proc: str) -> None:
        self._proc = proc
        self._job = _Job(())
        self._job.done.set()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = Worker("arguments", self._serve).start()

    def is_free(self) -> bool:
        return self._job.done.is_set()

    def read(
        self, places: Sequence[str], slice_s: float, until_s: float, patience_s: float
    ) -> list[bytes | int]:
        """Answer in the order of ``places``; fewer if time ran out, or the last one hung."""
        job = self._job = _Job(places)
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
                for place in job.places:
                    if job.is_left:
                        break
                    job.since_s = time.monotonic()
                    job.answers.append(_arguments(f"{self._proc}/{place}/cmdline"))
            finally:
                job.done.set()


class _ReadingProcess:
    """Runs children/cmdline_reader.py: SIGKILL ends its wait for a memory lock since Linux 5.3."""

    _RECORD = struct.Struct("=iI")

    def __init__(self, proc: str) -> None:
        script = Path(__file__).parent / "children" / "cmdline_reader.py"
        self._child = subprocess.Popen(
            [sys.executable, "-I", "-S", script, proc, str(_PIECE_BYTES), str(_MAX_PIECES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,  # so that Ctrl-C ends the agent, which then ends it
        )
        self._replies = select.poll()
        self._replies.register(self._stdout, select.POLLIN)
        self._received = bytearray()
        self._is_ready = False
        self.is_busy = False
        """Whether an answer is still to come: it cannot be asked again."""

    def read(self, place: str, slice_s: float, until_s: float) -> bytes | int:
        """Answer arguments, errno, ``STUCK``, or ``UNREAD``: no time; OSError if it ended."""
        if not self._is_ready:
            # its start is not held against the process that it is to read
            if isinstance(self._record(float("inf"), until_s), int):
                return UNREAD
            self._is_ready = True
        os.write(self._stdin, f"{place}\n".encode())
        self.is_busy = True
        kept = _BothEnds()
        while True:
            record = self._record(slice_s, until_s)
            if isinstance(record, int):
                return record
            errno, piece = record
            if not piece:
                self.is_busy = False
                return errno or kept.joined()
            kept.add(piece)

    def kill(self) -> None:
        self._child.kill()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                pipe.close()

    def wait(self, timeout_s: float) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(timeout_s)

    def is_reaped(self) -> bool:
        return self._child.poll() is not None

    @property
    def _stdin(self) -> int:
        assert self._child.stdin is not None  # noqa: S101 - it was asked for
        return self._child.stdin.fileno()

    @property
    def _stdout(self) -> int:
        assert self._child.stdout is not None  # noqa: S101 - it was asked for
        return self._child.stdout.fileno()

    def _record(self, slice_s: float, until_s: float) -> tuple[int, bytes] | int:
        since_s = time.monotonic()
        timeout_s = min(slice_s, until_s - since_s)
        while (record := self._received_record()) is None:
            if self._replies.poll(max(_SHORTEST_WAIT_S, timeout_s) * 1000):
                self._receive()
                continue
            now_s = time.monotonic()
            if now_s - since_s >= slice_s and _is_blocked(f"/proc/{self._child.pid}"):
                return STUCK
            if now_s >= until_s:
                return UNREAD
            timeout_s = min(since_s + slice_s, until_s) - now_s
        return record

    def _receive(self) -> None:
        received = os.read(self._stdout, _PIECE_BYTES)
        if not received:
            raise OSError("the reading process ended")
        self._received += received

    def _received_record(self) -> tuple[int, bytes] | None:
        if len(self._received) < self._RECORD.size:
            return None
        errno, length = self._RECORD.unpack_from(self._received)
        end = self._RECORD.size + length
        if len(self._received) < end:
            return None
        piece = bytes(self._received[self._RECORD.size : end])
        del self._received[:end]
        return errno, piece


class _BothEnds:
    """The first and the last of bytes that come piece by piece; whole if they are few."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = bytearray()

    def add(self, piece: bytes) -> None:
        self._held += piece
        if len(self._held) > 2 * _END_BYTES + _PIECE_BYTES:
            # one more than is kept, so that what is left still shows that something is missing
            del self._held[_END_BYTES : -_END_BYTES - 1]

    def joined(self) -> bytes:
        if len(self._held) <= 2 * _END_BYTES:
            return bytes(self._held)
        return bytes(self._held[:_END_BYTES]) + _GAP + bytes(self._held[-_END_BYTES:])


def _arguments(path: str) -> bytes | int:
    """Read a cmdline file; its content, or an errno.

    It is read until it ends: a read is short where it meets a page that cannot be had, as under
    userfaultfd(2).
    """
    kept = _BothEnds()
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
            kept.add(piece)
            if len(piece) == size:
                size = _PIECE_BYTES
    except OSError as error:
        return error.errno or errno.EIO
    finally:
        os.close(fd)
    return kept.joined()


def _is_blocked(task: str) -> bool:
    """Whether the kernel keeps a task of ours waiting in a system call (proc_pid_syscall(5)).

    A task that runs, or would if it had a CPU, reads "running". One in futex(2) waits for the
    interpreter's lock. Where the file is not to be had, the state in stat must do.
    """
    try:
        number = read_once(f"{task}/syscall", 256).split(b" ", 1)[0].strip()
    except OSError:
        with suppress(OSError):
            return read_once(f"{task}/stat", STAT_BYTES).rpartition(b") ")[2][:1] in b"SD"
        return False
    return number.isdigit() and number != _FUTEX
