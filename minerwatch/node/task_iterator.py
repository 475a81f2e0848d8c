"""All tasks of the node in one read, by a BPF iterator (bpf/task_iterator.bpf.c)."""

from __future__ import annotations

import ctypes
import os
from array import array
from collections.abc import Collection, Iterable, Iterator
from heapq import nlargest
from operator import itemgetter
from struct import Struct

from minerwatch.errors import SourceUnavailableError
from minerwatch.model import FpSample, ProcessId, ProcessStat
from minerwatch.node.bpf_iterator import OUTSIDE_HOST_PIDS, BpfIterator
from minerwatch.node.proc_files import decoded

_PF_KTHREAD = 0x00200000  # include/linux/sched.h
ROW = Struct("=QQQQQQQIIIIIIII16s")
"""As struct record in bpf/task_iterator.bpf.c."""
_TASK = Struct("=8xQQ32xIII36x")
"""Fields of a row that are read of every task: CPU ns, CPU ns of ended threads, tid, pid, flags.
"""
_PROGRAM = Struct("=8s16x24s40x16s")
"""Fields of a row that change with the process, its program and its name."""
_MAX_THREADS = 4096
"""Threads of one process that are returned, as many as without the iterator."""
_MAX_FP_THREADS = 256
"""Threads of one process with their control words: those that have used most CPU."""
_TASKS_PER_PROCESS = 15
"""So many tasks, read with all others, cost as much as reading the tasks of one process alone
(`python -m benchmarks.probes`)."""
_NS_PER_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")

_Row = tuple[int, int, int, int, int, int, int, int, int, int, int, int, int, int, int, bytes]
"""Start and CPU time in ns, CPU ns of exited threads, addresses of code, stack and arguments, inode
of the cgroup, tid, pid, flags, fp_control, has_fp_control, switches, parent pid, unused, comm."""


class TaskTable:
    """Every process of the node, as one read of the iterator found it.

    Rows are parsed on demand: a node has tens of thousands of threads, and few are looked up.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._leaders: dict[int, int] = {}  # pid -> where its row begins
        self._others: dict[int, int] = {}  # pid -> how many threads it has besides the first
        self.cpu_ns: dict[int, int] = {}
        """CPU time of each process, with that of threads that have exited."""
        self._offsets: dict[int, array[int]] | None = None
        self._programs = array("I"), array("q")  # pids, and a number of each program
        for number, (cpu_ns, ended_ns, tid, pid, flags) in enumerate(_TASK.iter_unpack(content)):
            if flags & _PF_KTHREAD:
                continue
            if tid == pid:
                self._leaders[pid] = number * ROW.size
                cpu_ns += ended_ns
            else:
                self._others[pid] = self._others.get(pid, 0) + 1
            self.cpu_ns[pid] = self.cpu_ns.get(pid, 0) + cpu_ns

    def stat(self, pid: int) -> ProcessStat | None:
        """Return the fields of /proc/PID/stat; None if there is no such process of user space."""
        at = self._leaders.get(pid)
        if at is None:
            return None
        row: _Row = ROW.unpack_from(self._content, at)
        started_ns, _, _, code, stack, arguments = row[:6]
        return ProcessStat(
            id=ProcessId(pid, started_ns // _NS_PER_TICK),
            parent_pid=row[13],
            comm=decoded(row[15].partition(b"\0")[0]),
            cpu_s=self.cpu_ns[pid] / 1e9,
            threads=1 + self._others.get(pid, 0),
            kernel_thread=False,
            program=hash((code, stack, arguments)),
        )

    def thread_cpu(self, pid: int) -> dict[int, float]:
        """Return the CPU seconds of the threads of ``pid`` that used most; empty if it is gone."""
        at = self._leaders.get(pid)
        if at is None:
            return {}
        offsets = (at, *self._thread_offsets().get(pid, ()))
        threads = (_TASK.unpack_from(self._content, offset) for offset in offsets)
        busiest = nlargest(_MAX_THREADS, ((cpu_ns, tid) for cpu_ns, _, tid, _, _ in threads))
        return {tid: cpu_ns / 1e9 for cpu_ns, tid in busiest}

    def replaced_since(self, before: TaskTable) -> set[int]:
        """Return the pids with another name, program or process than in ``before``."""
        earlier = dict(before._known_programs())
        return {pid for pid, now in self._known_programs() if earlier.get(pid, now) != now}

    def forget_tasks(self) -> None:
        """Keep only what a later table is compared with; all lookups then find nothing."""
        self._known_programs()
        self._content = b""
        self._leaders, self._others, self.cpu_ns, self._offsets = {}, {}, {}, None

    def _known_programs(self) -> Iterator[tuple[int, int]]:
        """Yield pids, each with a number that changes with its start, name and program."""
        pids, numbers = self._programs
        if not pids:
            parse, content = _PROGRAM.unpack_from, self._content
            pids.extend(self._leaders)
            numbers.extend(hash(parse(content, at)) for at in self._leaders.values())
        return zip(pids, numbers, strict=True)

    def _thread_offsets(self) -> dict[int, array[int]]:
        """Return the offsets of rows by pid, except those of first threads."""
        if self._offsets is None:
            self._offsets = {}
            for number, (_, _, tid, pid, _) in enumerate(_TASK.iter_unpack(self._content)):
                if tid != pid:
                    at = number * ROW.size
                    self._offsets.setdefault(pid, array("L")).append(at)
        return self._offsets


class TaskIterator:
    """Reads all tasks repeatedly; for one thread at a time.

    ``failures`` counts what went wrong since the start, by reason: ``unreadable``.
    ``has_fp_control``: it knows where this kernel keeps floating-point control words.
    """

    def __init__(self, library: ctypes.CDLL | None = None) -> None:
        """Load the program into the kernel. Raises SourceUnavailableError."""
        self._task_count = 0  # when all were last read
        self._iterator = BpfIterator("task_iterator", ROW.size, library=library)
        self.failures = self._iterator.failures
        own_pid = os.getpid()
        own = [each for each in self.rows() if each[7:9] == (own_pid, own_pid)]
        if not own:
            self.close()
            raise SourceUnavailableError(OUTSIDE_HOST_PIDS)
        self.has_fp_control = bool(own[0][11])
        # Kernels before 6.1 refuse, or return all processes.
        pids = {
            row[8] for piece in self._iterator.pieces_of(own_pid) for row in ROW.iter_unpack(piece)
        }
        self._reads_one_process = pids == {own_pid}

    def table(self) -> TaskTable | None:
        """Read every process of the node; return None if that fails."""
        failed = self.failures["unreadable"]
        content = b"".join(self._iterator.pieces())
        table = TaskTable(content)
        self._task_count = len(content) // ROW.size
        return table if self.failures["unreadable"] == failed else None

    def fp_samples(self, processes: Iterable[ProcessId]) -> list[FpSample]:
        """Return the control words of the threads of ``processes``, if the kernel shows them.

        Of a process with hundreds of threads, those that have used most CPU: idle threads do not
        hide the ones that hash.
        """
        wanted = {process.pid: process for process in processes}
        found: dict[int, list[_Row]] = {}
        for row in self._rows_of(tuple(wanted)):
            tid, pid, _flags, _fp_control, has_fp_control = row[7:12]
            if pid not in wanted or not has_fp_control:
                continue
            if tid == pid and row[0] // _NS_PER_TICK != wanted[pid].start_ticks:
                del wanted[pid]
                continue
            found.setdefault(pid, []).append(row)
        return [
            FpSample(wanted[pid], row[7], row[12], row[10])
            for pid, rows in found.items()
            if pid in wanted
            for row in nlargest(_MAX_FP_THREADS, rows, key=itemgetter(1))
        ]

    def close(self) -> None:
        """Remove the program from the kernel."""
        self._iterator.close()

    def rows(self) -> Iterator[_Row]:
        """Read every thread of the node, the kernel's own included."""
        count = 0
        for piece in self._iterator.pieces():
            count += len(piece) // ROW.size
            yield from ROW.iter_unpack(piece)
        self._task_count = count

    def _rows_of(self, pids: Collection[int]) -> Iterator[_Row]:
        """Read the rows of some processes, and maybe of others, in the cheaper way."""
        if not self._reads_one_process or len(pids) * _TASKS_PER_PROCESS > self._task_count:
            yield from self.rows()
            return
        for pid in pids:
            for piece in self._iterator.pieces_of(pid):
                yield from ROW.iter_unpack(piece)
