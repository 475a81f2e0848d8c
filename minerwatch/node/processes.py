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
import time
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from minerwatch.arguments import NO_BREAK_SPACE, command_line_of
from minerwatch.model import Process, ProcessId, ProcessStat
from minerwatch.node.command_lines import PATIENCE, STUCK, UNREAD, CommandLineReader, TimeLeft
from minerwatch.node.proc_files import STAT_BYTES, decoded, read_once
from minerwatch.text_budget import both_ends, shared

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Set

CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
"""Unit of the times in /proc/PID/stat: CPU time is known to 10 ms on usual kernels."""

_PF_EXITING = 0x00000004  # include/linux/sched.h
_PF_KTHREAD = 0x00200000
_GONE = frozenset({errno.ENOENT, errno.ESRCH})  # ESRCH: it went while the file was open
_SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})

_STATUS_BYTES = 4096  # Uid is among the first lines; only Groups, after it, can be long
_LONG_STATUS_BYTES = 1 << 20  # 65,536 groups of 10 digits fit

_MAX_COMMAND_LINE_BYTES = 64 << 10
"""Memory of one command line as text: bytes that are no text take four to sixteen times more."""
_MAX_PATH_BYTES = 8 << 10

_BATCH = 32  # asked for at once: some milliseconds, after which a caller's time is looked at
_ORDINARY_READ_S = 50e-6  # what a command line costs on a slow node
_HIDDEN_AFTER_HANGS = 3
_FIRST_RETRY_S = 10.0
_LAST_RETRY_S = 3600.0
_MAX_THREADS = 4096
_MAX_ENDED_THREADS = 1024
"""Threads among which a living one is looked for. What hides it among more is hidden itself."""
_MAX_KIB_DIGITS = 18


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
            names.setdefault(int(fields[2]), decoded(fields[0]))
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
        self._arguments = CommandLineReader(self._proc, deadline_s / 4, self.failures)
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
        time_left: TimeLeft,
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
                found[pid] = self._process(draft, now, answers.get(pid, UNREAD))

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
        if answer == STUCK:
            self.failures["deadline"] += 1
            self._stuck[key] = _Retry.after(self._stuck.get(key), self._retry_s)
        if key in self._stuck:
            return "", self._stuck[key].hangs >= _HIDDEN_AFTER_HANGS
        if answer == UNREAD or answer in _GONE:  # gone: the thread that it was read through
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
        line = self._fact(f"{place or pid}/stat", STAT_BYTES)
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
            return read_once(f"{self._proc}/{name}", limit_bytes)
        except OSError as error:
            self._count(error)
            return None

    def _link(self, name: str) -> str:
        try:
            link = os.readlink(os.fsencode(f"{self._proc}/{name}"))  # noqa: PTH115 - hot
            return both_ends(decoded(link), _MAX_PATH_BYTES)
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
                comm=decoded(name.partition(b"(")[2]),
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
    arguments = decoded(raw.rstrip(b"\0")).split("\0")
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
