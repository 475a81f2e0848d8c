"""The identity and the resource use of processes, read so that no process can hang the agent.

Only the reading of /proc/PID/cmdline can hang. The kernel copies it out of the process's own
memory: it takes that process's memory lock (``get_mm_cmdline`` -> ``access_remote_vm`` in
fs/proc/base.c and mm/memory.c) and, before Linux 4.17, faulted pages in from whatever file system
stood behind them (CVE-2018-1120). A process that holds the lock hangs every ``ps``.

So command lines are read by a thread that can be abandoned, and while it hangs by a process that
can be killed (``command_lines``). What that costs beyond an ordinary read is bounded for each call
of ``ProcessReader.read``. A process that hangs a reader once has no command line yet: on a busy
node any process may hold its lock that long. One that hangs three in a row, over more than ten
seconds, hides it (``command_line_hidden``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from minerwatch.arguments import parse_cmdline
from minerwatch.model import Process, ProcessId, ProcessStat
from minerwatch.node.command_lines import PATIENCE, STUCK, UNREAD, CommandLineReader, TimeLeft
from minerwatch.node.proc_files import GONE, MAX_ENDED_THREADS, ProcessFiles, decoded
from minerwatch.text_budget import both_ends, shared

_MAX_COMMAND_LINE_BYTES = 64 << 10
"""Memory of one command line as text: bytes that are no text take four to sixteen times more."""
_BATCH = 32
"""Processes read at once: some milliseconds, after which the caller's time is checked."""
_ORDINARY_READ_S = 50e-6  # of a command line on a slow node
_HIDDEN_AFTER_HANGS = 3
_FIRST_RETRY_S = 10.0
_LAST_RETRY_S = 3600.0
_MAX_THREADS = 4096
_SATURATED = 0.95
_MAX_KIB_DIGITS = 18


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Resident memory of a process: huge pages are not part of ``rss_mib``."""

    rss_mib: float
    hugetlb_mib: float


def saturated_threads(
    before: Mapping[int, float], after: Mapping[int, float], elapsed_s: float
) -> int:
    """Count the threads that ran for 95 % of the time between two ``thread_cpu`` readings.

    A reading is exact to 20 ms (user and system time are each cut to a tick), so the readings
    should be a second or more apart.
    """
    if elapsed_s <= 0:
        return 0
    needed_s = _SATURATED * elapsed_s
    return sum(tid in before and cpu_s - before[tid] >= needed_s for tid, cpu_s in after.items())


class Account(NamedTuple):
    """A user of the node."""

    name: str
    home: str


def accounts(passwd: Path) -> dict[int, Account]:
    """Parse a passwd(5) file: uid -> account; empty if it cannot be read.

    The name service is not used: it may wait for a directory server.
    """
    try:
        lines = passwd.read_bytes().splitlines()
    except OSError:
        return {}
    found: dict[int, Account] = {}
    for fields in (line.split(b":") for line in lines):
        if len(fields) > 2 and fields[2].isdigit() and len(fields[2]) <= 10:
            home = decoded(fields[5]) if len(fields) > 5 else ""
            found.setdefault(int(fields[2]), Account(decoded(fields[0]), home))
    return found


class ProcessReader:
    """Reads processes below ``proc``; for one thread at a time.

    ``deadline_s`` bounds what hanging processes can add to one call of ``read``; waiting for a CPU
    can add ten times as much. A process that hung a reader is retried after a tenth of ``retry_s``,
    then after ``retry_s``, doubled each time it hangs again.
    ``failures`` counts what went wrong since the start, by reason:

    - ``permission``: a fact that the agent may not read;
    - ``unreadable``: a fact that could not be read for another reason;
    - ``malformed``: a file that is not what proc(5) says;
    - ``mixed``: a process that became another program each time it was read;
    - ``deadline``: command lines that hung a reader for longer than their share of the time;
    - ``deferred``: processes, or command lines, for which no time or no reader was left;
    - ``helper``: reading processes that could not be started, or exited by themselves.
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
        """Pids that the last ``read`` left open, in order: pass them to the next one."""
        self._deadline_s = deadline_s
        self._users = {uid: account.name for uid, account in accounts(passwd).items()}
        self._files = ProcessFiles(str(proc), self.failures)
        self._command_lines = CommandLineReader(str(proc), deadline_s / 4, self.failures)
        self._hangs = _Hangs(retry_s)
        self._open: dict[int, None] = {}  # in the order in which they were left open
        self._owner_of: Callable[[int], Hashable] = lambda pid: pid

    def close(self) -> None:
        """End the reading thread and processes; those that hang end when their read does."""
        self._command_lines.close()

    def stat(self, pid: int) -> ProcessStat | None:
        """Read the identity and the CPU time of ``pid``; None if it is gone or unreadable.

        ``program`` changes at every execve(2), even if the name stays the same: the addresses of
        code, stack and arguments are laid at random. They read (1, 0, 0) for callers that may not
        trace the process, (0, 0, 0) for kernel threads and zombies.
        """
        parsed = self._files.stat(pid)
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

        Only one batch is held here, so that texts of thousands of processes are never in memory
        together. ``is_time_left`` is called before each batch but the first.

        The facts of one result are all of one process and one program: if it was replaced between
        two reads, it is read again. ``deferred``, once all has been read, holds the processes that
        were not begun with; those with a fact that could not be read because files or memory ran
        out, which may be missing; and those that are returned without their command line because
        time ran out. After one process has hung a reader, the command lines of all processes with
        the same ``owner_of`` wait for the next call.
        """
        self._open = {}
        self._owner_of = owner_of
        time_left = TimeLeft(self._deadline_s, self._deadline_s * PATIENCE)
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
        self._open.update(dict.fromkeys((*todo, *left, *self._hangs.due(self.stat))))
        # A helper that was started for others must serve them before it can hang again.
        in_order = sorted(self._open, key=lambda pid: owner_of(pid) in time_left.hung_owners)
        self.deferred = dict.fromkeys(in_order).keys()

    def thread_cpu(self, pid: int, limit: int = _MAX_THREADS) -> dict[int, float]:
        """Read the CPU seconds of the first ``limit`` threads of ``pid``; empty if it is gone."""
        cpu_s: dict[int, float] = {}
        for tid in self._files.threads(pid, limit):
            parsed = self._files.stat(tid, f"{pid}/task/{tid}")
            if parsed:
                cpu_s[tid] = parsed[0].cpu_s
        return cpu_s

    def memory(self, pid: int) -> MemoryUse | None:
        """Read the resident memory of ``pid`` (proc_pid_status(5)); None if it is gone."""
        status = self._files.status(str(pid))
        if status is not None and b"\nVmRSS:" not in status:
            task_path = self._files.living_thread(pid)
            status = self._files.status(task_path) if task_path else status
        if status is None:
            return None
        return MemoryUse(_mib(status, b"\nVmRSS:"), _mib(status, b"\nHugetlbPages:"))

    def memory_bytes(self, pid: int) -> int | None:
        """Read the resident memory of ``pid``, huge pages included; None if it is gone."""
        memory = self.memory(pid)
        return None if memory is None else int((memory.rss_mib + memory.hugetlb_mib) * (1 << 20))

    def _read_batch(
        self, pids: Sequence[int], time_left: TimeLeft, found: dict[int, Process], mixed: list[int]
    ) -> None:
        drafts: dict[int, _Draft] = {}
        for pid in pids:
            with self._deferred_if_short(pid):
                draft = self._draft(pid)
            if draft is not None:
                drafts[pid] = draft
        task_paths = {
            pid: draft.task_path
            for pid, draft in drafts.items()
            if draft.task_path and not self._hangs.is_pausing(draft.program)
        }
        ordinary_s = len(task_paths) * _ORDINARY_READ_S
        started_s = time.monotonic()
        until_s = started_s + time_left.for_hanging_s + ordinary_s
        answers = self._command_lines.read(
            task_paths, until_s, time_left.for_a_cpu_s, self._owner_of, time_left.hung_owners
        )
        late_s = max(0.0, time.monotonic() - started_s - ordinary_s)
        time_left.spend(late_s, is_hanging=self._command_lines.has_met_hanging)
        for pid, draft in drafts.items():
            with self._deferred_if_short(pid):
                now = self.stat(pid)
                if now is None:
                    continue
                if (now.id, now.program) != draft.program:
                    mixed.append(pid)
                    continue
                found[pid] = self._process(draft, now, answers.get(pid, UNREAD))

    @contextmanager
    def _deferred_if_short(self, pid: int) -> Iterator[None]:
        """Leave ``pid`` open if a file could not be read because files or memory ran out.

        The process is not gone then, and a fact that is missing is not hidden.
        """
        self._files.is_short = False
        yield
        if self._files.is_short:
            self._open[pid] = None

    def _draft(self, pid: int) -> _Draft | None:
        """Read all facts except the command line."""
        files = self._files
        parsed = files.stat(pid)
        if parsed is None:
            return None
        stat, exiting = parsed
        task_path: str | None = str(pid)
        is_out_of_sight = False
        if exiting:
            task_path = files.living_thread(pid) if stat.threads > 1 else None
            is_out_of_sight = task_path is None and stat.threads > MAX_ENDED_THREADS
        if stat.kernel_thread:
            task_path = None
        return _Draft(
            (stat.id, stat.program),
            task_path or "",
            files.uid(pid),
            files.link(f"{task_path}/exe") if task_path else "",
            files.link(f"{task_path}/cwd") if task_path else "",
            is_out_of_sight,
        )

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
        """Return the text, and whether the process hides it."""
        if not draft.task_path:
            return "", draft.is_out_of_sight
        if isinstance(answer, bytes):
            self._hangs.forget(draft.program)
            line, is_hidden = parse_cmdline(decoded(answer), draft.exe)
            return both_ends(line, _MAX_COMMAND_LINE_BYTES), is_hidden
        if answer == STUCK:
            self.failures["deadline"] += 1
            self._hangs.add(draft.program)
        if hangs := self._hangs.count(draft.program):
            return "", hangs >= _HIDDEN_AFTER_HANGS
        if answer == UNREAD or answer in GONE:  # the thread that it was read through is gone
            self.failures["deferred"] += 1
            self._open[draft.program[0].pid] = None
        else:
            self._files.count(OSError(answer, ""))
        return "", False


_Program = tuple[ProcessId, int]
"""A process, and the number that tells its program from earlier ones."""


@dataclass(frozen=True, slots=True)
class _Draft:
    """A process without its command line."""

    program: _Program
    task_path: str  # where its memory is read; "" if it has none: kernel threads, zombies
    uid: int
    exe: str
    cwd: str
    is_out_of_sight: bool  # more of its threads have exited than are looked through


class _Hangs:
    """Programs that hung a reader, each with a pause before it is retried."""

    def __init__(self, retry_s: float) -> None:
        self._retry_s = retry_s
        self._retries: dict[_Program, _Retry] = {}

    def add(self, program: _Program) -> None:
        """Count a hang; pause for longer than after the last one."""
        last = self._retries.get(program)
        if last is None:  # most likely it had its lock for a good reason, or waited for a CPU
            pause_s, count = self._retry_s / 10, 1
        else:
            pause_s = min(max(self._retry_s, last.pause_s * 2), _LAST_RETRY_S)
            count = last.count + 1
        self._retries[program] = _Retry(time.monotonic() + pause_s, pause_s, count)

    def forget(self, program: _Program) -> None:
        self._retries.pop(program, None)

    def count(self, program: _Program) -> int:
        """Return how often in a row it hung a reader."""
        return self._retries[program].count if program in self._retries else 0

    def is_pausing(self, program: _Program) -> bool:
        retry = self._retries.get(program)
        return retry is not None and time.monotonic() < retry.at_s

    def due(self, stat_of: Callable[[int], ProcessStat | None]) -> tuple[int, ...]:
        """Return the process to be retried, if any: one a call, because it may hang again.

        A process may hold its memory lock for a good reason (fork(2) of a large one takes
        seconds), so no hang hides it for ever.
        """
        now_s = time.monotonic()
        for program, retry in list(self._retries.items()):
            if retry.at_s > now_s:
                continue
            stat = stat_of(program[0].pid)
            if stat is not None and (stat.id, stat.program) == program:
                return (program[0].pid,)
            del self._retries[program]
        return ()


@dataclass(frozen=True, slots=True)
class _Retry:
    at_s: float
    pause_s: float
    count: int  # of hangs in a row


def _image(exe: str) -> tuple[str, bool, bool]:
    """Return path, whether it was deleted, and whether it is in memory only, from the exe link.

    The link of a file that has no name any more ends in " (deleted)" (proc_pid_exe(5)). A file
    with such a name counts as deleted, too: its owner accuses only itself, and a query of the file
    system could hang. A memfd never had a name; it is in memory and not deleted, so that one fact
    is not counted as two.
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
