"""One process: who it is and what it burns, read so that no process can hang the agent.

Of what is read here only /proc/PID/cmdline can hang. The kernel copies it out of the process's
own memory: it takes that process's memory lock (``get_mm_cmdline`` -> ``access_remote_vm`` in
fs/proc/base.c and mm/memory.c) and, before Linux 4.17, faulted pages in from whatever file system
stood behind them (CVE-2018-1120). Whoever holds the lock hangs every ``ps``. stat, status, comm
and the exe and cwd links need no such lock: they read counters, and the executable's path under
RCU (``get_task_exe_file``). No path of the process is ever opened or stat'ed: its file system may
be a dead network mount.

So command lines are read by a thread that may be left behind, and while it hangs by a process
that may be killed. What the reading of them costs beyond an ordinary read is bounded for a call
of ``ProcessReader.read``. A process that hangs a reader once is not measured, for on a busy node
any process may hold its lock that long; one that hangs three in a row, within more than ten
seconds, is hidden (``command_line_hidden``).
"""

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
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from minerwatch.arguments import NO_BREAK_SPACE, command_line_of
from minerwatch.model import Process, ProcessId, ProcessStat
from minerwatch.text_budget import both_ends, shared
from minerwatch.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Set

CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
"""Unit of the times in /proc/PID/stat: CPU time is known to 10 ms on usual kernels."""

_PF_EXITING = 0x00000004  # include/linux/sched.h
_PF_KTHREAD = 0x00200000
_GONE = frozenset({errno.ENOENT, errno.ESRCH})  # ESRCH: it went while the file was open
_SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})

_STAT_BYTES = 4096  # the line is below 1 KiB
_STATUS_BYTES = 4096  # Uid is among the first lines; only Groups, after it, can be long
_LONG_STATUS_BYTES = 1 << 20  # 65,536 groups of 10 digits fit

_END_BYTES = 16 << 10
"""Kept of each end of a long command line.

Whoever pads a line can pad it past any limit, so a larger one finds nothing more, but lets a few
hundred processes with long lines take all of the agent's memory. The two ends are what padding
cannot push out of sight.
"""
_GAP = " … ".encode()
_MAX_COMMAND_LINE_BYTES = 64 << 10
"""Memory of one command line as text: bytes that are no text take four to sixteen times more."""
_MAX_PATH_BYTES = 8 << 10
_PIECE_BYTES = 64 << 10
_SHORT_PIECE_BYTES = 4 << 10  # large buffers cost more than the reads that they save
_MAX_PIECES = 128  # 8 MiB; execve(2) takes at most 6 MiB, prctl(2) can lay more

_BATCH = 32  # asked for at once: some milliseconds, after which a caller's time is looked at
_ORDINARY_READ_S = 50e-6  # what a command line costs on a slow node
_MAX_DYING_HELPERS = 4  # before Linux 5.3 a process that waits for a memory lock cannot be killed
_SHORTEST_WAIT_S = 0.001
_PATIENCE = 10
"""Deadlines for which a call waits for a CPU: under a quota 95 ms of each 100 go without one."""
_HIDDEN_AFTER_HANGS = 3
_FIRST_RETRY_S = 10.0
_LAST_RETRY_S = 3600.0
_MAX_THREADS = 4096
_MAX_ENDED_THREADS = 1024
"""Threads among which a living one is looked for. What hides it among more is hidden itself."""
_MAX_KIB_DIGITS = 18
_FUTEX = b"202" if platform.machine() == "x86_64" else b"98"


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """What of a process's memory is resident: huge pages are not part of ``rss_mib``."""

    rss_mib: float
    hugetlb_mib: float


def parse_stat(pid: int, line: bytes) -> ProcessStat | None:
    """Parse a line of /proc/PID/stat (proc_pid_stat(5)); None if it is not one."""
    parsed = _parsed_stat(pid, line)
    return parsed[0] if parsed else None


def saturated_threads(
    before: Mapping[int, float], after: Mapping[int, float], elapsed_s: float, share: float = 0.95
) -> int:
    """Threads that ran for at least ``share`` of the time between two ``thread_cpu`` readings.

    A reading is exact to 20 ms (user and system time are each cut to a tick), so the readings
    should be a second or more apart.
    """
    if elapsed_s <= 0:
        return 0
    needed_s = share * elapsed_s
    return sum(tid in before and cpu_s - before[tid] >= needed_s for tid, cpu_s in after.items())


def user_names(passwd: Path) -> dict[int, str]:
    """Parse a passwd(5) file: uid -> name; empty where it cannot be read.

    The name service is not asked: it may wait for a directory server.
    """
    try:
        lines = passwd.read_bytes().splitlines()
    except OSError:
        return {}
    names: dict[int, str] = {}
    for fields in (line.split(b":") for line in lines):
        if len(fields) > 2 and fields[2].isdigit() and len(fields[2]) <= 10:
            names.setdefault(int(fields[2]), _text(fields[0]))
    return names


class ProcessReader:
    """Reads processes below ``proc``; for one thread at a time.

    ``deadline_s`` bounds what hanging processes can add to one call of ``read``, ten times as much
    what a reader adds that waits for a CPU. A process that hung a reader is left alone for a tenth
    of ``retry_s``, then for ``retry_s``, doubled each time it does again.
    ``failures`` counts what went wrong since the start, by reason:

    - ``permission``: a fact that the agent may not read;
    - ``unreadable``: a fact that could not be read for another reason;
    - ``malformed``: a file that is not what proc(5) says;
    - ``mixed``: a process that became another program each time it was read;
    - ``deadline``: command lines that held up a reader for longer than their share of the time;
    - ``deferred``: processes, or command lines, that there was no time or no reader left for;
    - ``helper``: reading processes that could not be started or ended by themselves.
    """

    def __init__(
        self,
        proc: Path,
        *,
        deadline_s: float = 0.1,
        retry_s: float = _FIRST_RETRY_S,
        passwd: Path = Path("/etc/passwd"),
    ) -> None:
        reasons = ("permission", "unreadable", "malformed", "mixed", "deadline", "deferred")
        self.failures: dict[str, int] = dict.fromkeys((*reasons, "helper"), 0)
        self.deferred: Set[int] = frozenset()
        """Pids that the last ``read`` left open, in that order: to be asked for again."""
        self._proc = str(proc)
        self._deadline_s = deadline_s
        self._retry_s = retry_s
        self._users = user_names(passwd)
        self._arguments = _ArgumentReading(self._proc, deadline_s / 4, self.failures)
        self._stuck: dict[tuple[ProcessId, tuple[int, int, int]], _Retry] = {}
        self._open: dict[int, None] = {}  # in the order in which they were left open
        self._owner_of: Callable[[int], Hashable] = lambda pid: pid
        self._is_short = False

    def close(self) -> None:
        """End the reading thread and processes; those that hang end when their read does."""
        self._arguments.close()

    def stat(self, pid: int) -> ProcessStat | None:
        """Read what ``pid`` is and has burnt; None if it is gone or cannot be read.

        ``program`` changes at every execve(2), also where the name stays the same: the addresses
        of code, stack and arguments are laid at random. They read (1, 0, 0) for callers that may
        not trace the process, (0, 0, 0) for kernel threads and zombies.
        """
        parsed = self._stat(pid)
        return parsed[0] if parsed else None

    def read(self, pids: Iterable[int], cpu_s: float = float("inf")) -> dict[int, Process]:
        """Read ``pids`` as ``batches`` does, all at once, for ``cpu_s`` of CPU time."""
        until_s = time.thread_time() + cpu_s
        found: dict[int, Process] = {}
        for batch in self.batches(pids, lambda: time.thread_time() < until_s):
            found |= batch
        return found

    def batches(
        self,
        pids: Iterable[int],
        is_time_left: Callable[[], bool],
        owner_of: Callable[[int], Hashable] = lambda pid: pid,
    ) -> Iterator[dict[int, Process]]:
        """Read ``pids``, in that order, some at once; those that are gone are missing.

        A batch is all that is held of them here, so that texts of thousands of processes are never
        in memory together. ``is_time_left`` is asked before each batch but the first.

        The facts of one result are all of one process and one program: where it was replaced
        between two reads, it is read again. A process whose command line there was no time for is
        returned without it, and stands in ``deferred`` once all has been read. So does one of which
        something could not be read for want of files or memory, or that was not begun with; it
        may be missing. Once a process has hung a reader, command lines of the same ``owner_of``
        wait for the next call.
        """
        self._open = {}
        self._owner_of = owner_of
        time_left = _TimeLeft(self._deadline_s, self._deadline_s * _PATIENCE)
        todo = list(dict.fromkeys(pids))
        left: list[int] = []
        for _attempt in range(2):
            mixed: list[int] = []
            for at in range(0, len(todo), _BATCH):
                if at and not is_time_left():
                    left += todo[at:]
                    break
                found: dict[int, Process] = {}
                self._read_batch(todo[at : at + _BATCH], time_left, found, mixed)
                yield found
            todo = mixed
        self.failures["mixed"] += len(todo)
        self.failures["deferred"] += len(left)
        self._open.update(dict.fromkeys((*todo, *left, *self._due_for_retry())))
        # A helper that was started for others is not to hang again before it has served them.
        in_order = sorted(self._open, key=lambda pid: owner_of(pid) in time_left.hung_owners)
        self.deferred = dict.fromkeys(in_order).keys()

    def thread_cpu(self, pid: int, limit: int = _MAX_THREADS) -> dict[int, float]:
        """Read the CPU seconds of the first ``limit`` threads of ``pid``; empty if it is gone."""
        cpu_s: dict[int, float] = {}
        for tid in self._threads(pid, limit):
            parsed = self._stat(tid, f"{pid}/task/{tid}")
            if parsed:
                cpu_s[tid] = parsed[0].cpu_s
        return cpu_s

    def memory(self, pid: int) -> MemoryUse | None:
        """Read what ``pid`` keeps in memory (proc_pid_status(5)); None if it is gone."""
        status = self._whole_status(str(pid))
        if status is not None and b"\nVmRSS:" not in status:
            place = self._place_of_a_live_thread(pid)
            status = self._whole_status(place) if place else status
        if status is None:
            return None
        return MemoryUse(_mib(status, b"\nVmRSS:"), _mib(status, b"\nHugetlbPages:"))

    def _read_batch(
        self,
        pids: Sequence[int],
        time_left: _TimeLeft,
        found: dict[int, Process],
        mixed: list[int],
    ) -> None:
        """Read ``pids`` into ``found`` and ``mixed``."""
        drafts: dict[int, _Draft] = {}
        for pid in pids:
            with self._asked_again_if_short(pid):
                draft = self._draft(pid)
            if draft is not None:
                drafts[pid] = draft
        places = {pid: draft.place for pid, draft in drafts.items() if self._is_to_be_asked(draft)}
        ordinary_s = len(places) * _ORDINARY_READ_S
        started_s = time.monotonic()
        until_s = started_s + time_left.for_hanging_s + ordinary_s
        answers = self._arguments.read(
            places, until_s, time_left.for_a_cpu_s, self._owner_of, time_left.hung_owners
        )
        late_s = max(0.0, time.monotonic() - started_s - ordinary_s)
        time_left.spend(late_s, is_hanging=self._arguments.has_met_hanging)
        for pid, draft in drafts.items():
            with self._asked_again_if_short(pid):
                now = self.stat(pid)
                if now is None:
                    continue
                if (now.id, now.program) != (draft.stat.id, draft.stat.program):
                    mixed.append(pid)
                    continue
                found[pid] = self._process(draft, now, answers.get(pid, _UNREAD))

    @contextmanager
    def _asked_again_if_short(self, pid: int) -> Iterator[None]:
        """Leave ``pid`` open if meanwhile something could not be read for want of files or memory.

        It is not gone, and what is not known of it is not hidden.
        """
        self._is_short = False
        yield
        if self._is_short:
            self._open[pid] = None

    def _draft(self, pid: int) -> _Draft | None:
        """Read all but the command line."""
        parsed = self._stat(pid)
        if parsed is None:
            return None
        stat, exiting = parsed
        place: str | None = str(pid)
        is_out_of_sight = False
        if exiting:
            place = self._place_of_a_live_thread(pid) if stat.threads > 1 else None
            is_out_of_sight = place is None and stat.threads > _MAX_ENDED_THREADS
        if stat.kernel_thread:
            place = None
        status = self._fact(f"{pid}/status", _STATUS_BYTES)
        return _Draft(
            stat,
            place or "",
            self._uid(status),
            self._link(f"{place}/exe") if place else "",
            self._link(f"{place}/cwd") if place else "",
            is_out_of_sight,
        )

    def _is_to_be_asked(self, draft: _Draft) -> bool:
        retry = self._stuck.get((draft.stat.id, draft.stat.program))
        return bool(draft.place) and (retry is None or time.monotonic() >= retry.at_s)

    def _process(self, draft: _Draft, now: ProcessStat, answer: bytes | int) -> Process:
        command_line, hidden = self._command_line(draft, answer)
        image, deleted, in_memory = _image(draft.exe)
        uid = draft.uid
        return Process(
            id=now.id,
            parent_pid=now.parent_pid,
            comm=shared(now.comm),  # many processes are alike
            command_line=command_line,
            image=shared(image),
            current_directory=shared(_without_mark(draft.cwd)[0]),
            uid=uid,
            user=self._users.get(uid) or (str(uid) if uid >= 0 else ""),
            exe_deleted=deleted,
            exe_in_memory=in_memory,
            command_line_hidden=hidden,
            kernel_thread=now.kernel_thread,
            program=now.program,
        )

    def _command_line(self, draft: _Draft, answer: bytes | int) -> tuple[str, bool]:
        """Tell the text, and whether the process hides it."""
        key = (draft.stat.id, draft.stat.program)
        if not draft.place:
            return "", draft.is_out_of_sight
        if isinstance(answer, bytes):
            self._stuck.pop(key, None)
            line, is_hidden = _command_line(answer, draft.exe)
            return both_ends(line, _MAX_COMMAND_LINE_BYTES), is_hidden
        if answer == _STUCK:
            self.failures["deadline"] += 1
            self._stuck[key] = _Retry.after(self._stuck.get(key), self._retry_s)
        if key in self._stuck:
            return "", self._stuck[key].hangs >= _HIDDEN_AFTER_HANGS
        if answer == _UNREAD or answer in _GONE:  # gone: the thread that it was read through
            self.failures["deferred"] += 1
            self._open[draft.stat.id.pid] = None
        else:
            self._count(OSError(answer, ""))
        return "", False

    def _due_for_retry(self) -> tuple[int, ...]:
        """Name the process to be asked once more, if any: one a call, for it may hang again.

        A process may hold its memory lock for a good reason (fork(2) of a large one takes
        seconds), so that no hang hides it for ever.
        """
        now_s = time.monotonic()
        for (process, program), retry in list(self._stuck.items()):
            if retry.at_s > now_s:
                continue
            stat = self.stat(process.pid)
            if stat is not None and (stat.id, stat.program) == (process, program):
                return (process.pid,)
            del self._stuck[process, program]
        return ()

    def _threads(self, pid: int, limit: int) -> Iterator[int]:
        try:
            with os.scandir(f"{self._proc}/{pid}/task") as entries:
                yield from (int(entry.name) for entry in islice(entries, limit))
        except (OSError, ValueError) as error:
            self._count(error)

    def _place_of_a_live_thread(self, pid: int) -> str | None:
        """Find where to read a process whose first thread has ended while others run on.

        The first thread is then a zombie without memory: /proc/PID/cmdline is empty and the exe
        link leads nowhere, but those of its other threads do (proc_pid_task(5)). Threads that end
        vanish, but for the first, and for those that a tracer does not wait for (ptrace(2)).
        """
        for tid in self._threads(pid, _MAX_ENDED_THREADS):
            place = f"{pid}/task/{tid}"
            parsed = self._stat(tid, place) if tid != pid else None
            if parsed and not parsed[1]:
                return place
        return None

    def _stat(self, pid: int, place: str = "") -> tuple[ProcessStat, bool] | None:
        line = self._fact(f"{place or pid}/stat", _STAT_BYTES)
        if line is None:
            return None
        parsed = _parsed_stat(pid, line)
        if parsed is None:
            self.failures["malformed"] += 1
        return parsed

    def _uid(self, status: bytes | None) -> int:
        """Find the effective uid; -1 if it could not be read.

        The line before, Name, cannot forge it: the kernel escapes newlines there.
        """
        if status is None:
            return -1
        try:
            return int(status.partition(b"\nUid:")[2].split(None, 2)[1])
        except (IndexError, ValueError):
            self.failures["malformed"] += 1
            return -1

    def _whole_status(self, place: str) -> bytes | None:
        status = self._fact(f"{place}/status", _STATUS_BYTES)
        if status is not None and len(status) == _STATUS_BYTES:
            return self._fact(f"{place}/status", _LONG_STATUS_BYTES)
        return status

    def _fact(self, name: str, limit_bytes: int) -> bytes | None:
        """Read a small file of /proc; the kernel gives it whole in one read (fs/seq_file.c)."""
        try:
            return _read_once(f"{self._proc}/{name}", limit_bytes)
        except OSError as error:
            self._count(error)
            return None

    def _link(self, name: str) -> str:
        try:
            link = os.readlink(os.fsencode(f"{self._proc}/{name}"))  # noqa: PTH115 - hot
            return both_ends(_text(link), _MAX_PATH_BYTES)
        except OSError as error:
            self._count(error)
            return ""

    def _count(self, error: OSError | ValueError) -> None:
        if isinstance(error, PermissionError):
            self.failures["permission"] += 1
        elif not isinstance(error, OSError):
            self.failures["malformed"] += 1
        elif error.errno not in _GONE:
            self.failures["unreadable"] += 1
            self._is_short = self._is_short or error.errno in _SHORT


@dataclass(frozen=True, slots=True)
class _Draft:
    stat: ProcessStat
    place: str  # where its memory is reached; "" for what has none: kernel threads, zombies
    uid: int
    exe: str
    cwd: str
    is_out_of_sight: bool = False  # it has more threads that have ended than are looked through


@dataclass(frozen=True, slots=True)
class _Retry:
    at_s: float
    pause_s: float
    hangs: int  # in a row

    @classmethod
    def after(cls, last: _Retry | None, first_pause_s: float) -> _Retry:
        if last is None:  # most likely it had its lock for a good reason, or waited for a CPU
            pause_s = first_pause_s / 10
        else:
            pause_s = min(max(first_pause_s, last.pause_s * 2), _LAST_RETRY_S)
        return cls(time.monotonic() + pause_s, pause_s, last.hangs + 1 if last else 1)


_UNREAD = -1
_STUCK = -2


@dataclass(slots=True)
class _TimeLeft:
    """For one call: how much later it may be than reads are that nothing holds up."""

    for_hanging_s: float
    for_a_cpu_s: float
    hung_owners: set[Hashable] = field(default_factory=set)

    def spend(self, late_s: float, *, is_hanging: bool) -> None:
        """Waiting for a CPU leaves the time for hanging as it is, while there is patience."""
        waited_s = 0.0 if is_hanging else min(late_s, self.for_a_cpu_s)
        self.for_a_cpu_s -= waited_s
        self.for_hanging_s -= late_s - waited_s


class _ArgumentReading:
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
        """Answer arguments or errno, ``_STUCK`` where it hung; others were not reached.

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
            self.has_met_hanging = bool(got) and got[-1] == _STUCK
            if self.has_met_hanging:
                hung_owners.add(owner_of(list(places)[len(got) - 1]))
        for pid in list(places)[len(answers) :]:
            owner = owner_of(pid)
            if owner in hung_owners:
                continue
            answer = self._helper_answer(places[pid], until_s)
            if answer == _UNREAD:
                break
            if answer == _STUCK:
                hung_owners.add(owner)
            answers[pid] = answer
        return answers

    def close(self) -> None:
        if self._thread is not None:
            self._thread.close()
        self._kill_helper()
        for helper in self._dying:
            helper.wait(self._slice_s)

    def _helper_answer(self, place: str, until_s: float) -> bytes | int:
        if time.monotonic() >= until_s:
            return _UNREAD
        try:
            self._reap()
            if self._helper is None and len(self._dying) < _MAX_DYING_HELPERS:
                self._helper = _ReadingProcess(self._proc)
            answer = self._helper.read(place, self._slice_s, until_s) if self._helper else _UNREAD
        except OSError:
            self._failures["helper"] += 1
            self._kill_helper()
            return _UNREAD
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
                return [*got, _STUCK]
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
        """Answer arguments, errno, ``_STUCK``, or ``_UNREAD``: no time; OSError if it ended."""
        if not self._is_ready:
            # its start is not held against the process that it is to read
            if isinstance(self._record(float("inf"), until_s), int):
                return _UNREAD
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
                return _STUCK
            if now_s >= until_s:
                return _UNREAD
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
        number = _read_once(f"{task}/syscall", 256).split(b" ", 1)[0].strip()
    except OSError:
        with suppress(OSError):
            return _read_once(f"{task}/stat", _STAT_BYTES).rpartition(b") ")[2][:1] in b"SD"
        return False
    return number.isdigit() and number != _FUTEX


def _parsed_stat(pid: int, line: bytes) -> tuple[ProcessStat, bool] | None:
    """Parse a stat line, and tell whether the task has ended or is about to (zombie, exiting)."""
    # The name may hold ") R 1 2" and any other bytes; nothing after it holds a bracket.
    name, bracket, rest = line.rpartition(b")")
    fields = rest.split()
    if not bracket or b"(" not in name or len(fields) < 46:
        return None
    try:
        flags = int(fields[6])
        return (
            ProcessStat(
                id=ProcessId(pid, int(fields[19])),
                parent_pid=int(fields[1]),
                comm=_text(name.partition(b"(")[2]),
                cpu_s=(int(fields[11]) + int(fields[12])) / CLOCK_TICKS_PER_S,
                threads=int(fields[17]),
                kernel_thread=bool(flags & _PF_KTHREAD),
                program=(int(fields[23]), int(fields[25]), int(fields[45])),
            ),
            fields[0] in b"ZXx" or bool(flags & _PF_EXITING),
        )
    except (ValueError, OverflowError):
        return None


def _command_line(raw: bytes, image: str) -> tuple[str, bool]:
    """Return the command line of a cmdline file, and whether the process hides its arguments.

    The arguments are hidden where there are none, and where the process has written a title over
    them. The title is returned all the same.
    """
    arguments = _text(raw.rstrip(b"\0")).split("\0")
    line = command_line_of(arguments)
    if not line.strip(f" {NO_BREAK_SPACE}"):
        return "", True
    return line, _is_title(raw, arguments, image)


def _is_title(raw: bytes, arguments: list[str], image: str) -> bool:
    """Return whether a process wrote this over its arguments, as setproctitle(3bsd) does.

    execve(2) ends each argument with one NUL byte. Over them a shorter title is filled up with
    more, and a longer one shows as a single argument (fs/proc/base.c, get_mm_proctitle), which
    has blanks in it, or is longer than names are, unless that is the program's name.
    """
    if raw.endswith(_PADDING) or not raw.endswith(b"\0"):
        return True
    first = arguments[0]
    if len(arguments) > 1 or first == image:
        return False
    name, own_name = first.rpartition("/")[2], image.rpartition("/")[2]
    return len(first.split()) > 1 or (len(name) > _LONG_NAME and name != own_name)


_LONG_NAME = 64
"""Characters that a program's name seldom has, so that a longer word is a title."""

_PADDING = b"\0\0\0"
"""Two NUL bytes at the end are one empty argument; more are hardly arguments."""


def _image(exe: str) -> tuple[str, bool, bool]:
    """Tell path, whether it was deleted, and whether it is in memory only, from the exe link.

    The link of a file that has no name any more ends in " (deleted)" (proc_pid_exe(5)). So may a
    file's own name: it counts as deleted, for whoever calls a file so accuses only themselves,
    and asking the file system could hang. A memfd never had a name; it is in memory and not
    deleted, so that one fact is not counted as two.
    """
    path, marked = _without_mark(exe)
    in_memory = marked and path.startswith("/memfd:")
    return path, marked and not in_memory, in_memory


def _without_mark(link: str) -> tuple[str, bool]:
    path = link.removesuffix(" (deleted)")
    unreachable = path.startswith("(unreachable)/")
    return path.removeprefix("(unreachable)") if unreachable else path, path != link


def _mib(status: bytes, field: bytes) -> float:
    number = status.partition(field)[2].split(None, 1)[:1]
    is_number = bool(number) and number[0].isdigit() and len(number[0]) <= _MAX_KIB_DIGITS
    return int(number[0]) / 1024 if is_number else 0.0


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def _read_once(path: str, limit_bytes: int) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, limit_bytes)
    finally:
        os.close(fd)
