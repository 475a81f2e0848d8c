"""Reads CPU time, threads and memory of the processes in hot containers.

A process is idle once its CPU counter has stood still for the whole window and no rule matches it.
Idle processes are read in turns only, while the other processes account for the container's CPU
rate. So a tick's cost grows with the processes that run, not with all that exist.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from minerwatch.agent.tracked import TickLimits, TrackedContainer, TrackedNode, TrackedProcess
from minerwatch.config.schema import Examination
from minerwatch.detection.cpu_history import CpuHistory
from minerwatch.model import Process, ProcessStat
from minerwatch.node.proc_files import CLOCK_TICKS_PER_S
from minerwatch.node.processes import MemoryUse, ProcessReader, saturated_threads
from minerwatch.node.task_iterator import TaskIterator, TaskTable

_STATS_PER_TASK = 6
"""Tasks of the iterator that cost as much as one /proc/PID/stat (docs/performance.md)."""

_MIN_AGE_S = 0.2
"""A younger process gets no rate since its birth: CPU time is exact to 10 ms only."""

_CLOCK_TICK_S = 1 / CLOCK_TICKS_PER_S
"""/proc/PID/stat cuts user and system time to ticks; the task iterator returns nanoseconds."""

_MAX_UNSEEN_SHARE = 0.1
"""Of a container's CPU rate: what idle processes may use together before all are read."""


class ProcessMeter:
    """Reads counters of single processes, by the task iterator or one /proc file each."""

    def __init__(
        self,
        node: TrackedNode,
        reader: ProcessReader,
        tasks: TaskIterator | None,
        examination: Examination,
        limits: TickLimits,
    ) -> None:
        self._node = node
        self._reader = reader
        self._tasks = tasks
        self._examination = examination
        self._limits = limits
        self._table: TaskTable | None = None  # of the tick under way
        self._last_table: TaskTable | None = None
        self._ticks_since_table = limits.ticks_per_table
        self._tick_number = 0
        self._recheck_turn: Iterator[int] = iter(())

    def begin_tick(self, hot: Collection[TrackedContainer]) -> None:
        """Read all tasks at once, every few ticks or where one file per process costs more."""
        self._tick_number += 1
        self._ticks_since_table += 1
        self._table = None
        if self._tasks is None:
            return
        to_read = sum(not each.is_idle for one in hot for each in one.processes.values())
        is_cheaper = to_read * _STATS_PER_TASK >= len(self._node.container_of)
        if is_cheaper or self._ticks_since_table >= self._limits.ticks_per_table:
            self._table = self._tasks.table()
            self._ticks_since_table = 0

    def end_tick(self) -> None:
        """Drop the table of tasks: between ticks it would be stale, and it is large."""
        if self._table is not None:
            self._table.forget_tasks()
            self._table = None

    def read_container(self, container: TrackedContainer, at_s: float) -> tuple[set[int], set[int]]:
        """Read the counters of a container's processes that may have run since the last tick.

        Returns the PIDs that were read, and those of them that are another program now.
        """
        idle = []
        read, replaced = set(), set()
        for pid, process in container.processes.items():
            if process.is_idle:
                idle.append(process)
            elif not process.process.kernel_thread:
                read.add(pid)
                if not self.read_process(process, at_s):
                    replaced.add(pid)
        for process in self._due_idle(container, idle):
            pid = process.process.id.pid
            read.add(pid)
            if not self.read_process(process, at_s, container.idle_until_s):
                replaced.add(pid)
        if container.all_idle_read_tick == self._tick_number:
            container.unseen_cores = max(0.0, self._unseen_cores(container) or 0.0)
        return read, replaced

    def _due_idle(
        self, container: TrackedContainer, idle: list[TrackedProcess]
    ) -> list[TrackedProcess]:
        """Return the idle processes to read: in turn, or all if one of them may have run.

        One may have run if the CPU rate that no process accounts for is higher than when all were
        last read. What was unaccounted for then was used by processes that exited, as in a build.
        """
        every, turn = self._limits.ticks_per_idle_check, self._tick_number
        unseen, allowed = self._unseen_cores(container), self._allowed_unseen_cores(container)
        is_recent = container.all_idle_read_tick + every > turn
        known = container.unseen_cores if is_recent else 0.0
        if not idle or (unseen is not None and unseen <= known + allowed):
            container.idle_until_s = None
            return [each for each in idle if not (each.process.id.pid + turn) % every]
        container.idle_until_s = self._node.last_tick_s if known <= allowed else None
        container.all_idle_read_tick = turn
        return idle

    def read_process(
        self, process: TrackedProcess, at_s: float, idle_until_s: float | None = None
    ) -> bool:
        """Take a new reading; return False if it is another process, program or name now.

        ``idle_until_s``: up to when an idle process has not run; None: since it was last read.
        """
        stat = self._stat(process.process.id.pid)
        if stat is None:
            process.cpu = None
            process.forget_measured()
            return True
        if stat.id != process.process.id:
            return False
        self._add_reading(process, stat, at_s, idle_until_s)
        return _is_same(process.process, stat)

    def replaced(self, read: Collection[int], young: Collection[int]) -> set[int]:
        """Return PIDs outside ``read`` that are another program than the one known.

        Checked are ``young``, and all others by the task iterator, or else a few in turn.
        """
        found = set()
        for pid in {*young, *self._maybe_replaced()}.difference(read):
            process = self._node.process(pid)
            stat = self._stat(pid) if process else None
            if process and stat and not _is_same(process.process, stat):
                found.add(pid)
        return found

    def saturated_threads(self, process: TrackedProcess, at_s: float) -> int | None:
        """Return how many threads used a whole core since the last call; None at the first."""
        before, before_at_s = process.thread_cpu_s, process.thread_cpu_at_s
        pid = process.process.id.pid
        now = self._table.thread_cpu(pid) if self._table is not None else {}
        now = now or self._reader.thread_cpu(pid)
        process.thread_cpu_s, process.thread_cpu_at_s = now, at_s
        return None if before is None else saturated_threads(before, now, at_s - before_at_s)

    def memory(self, process: TrackedProcess) -> MemoryUse | None:
        """Return the memory that the process uses; None if it is gone."""
        return self._reader.memory(process.process.id.pid)

    def _stat(self, pid: int) -> ProcessStat | None:
        known = self._table.stat(pid) if self._table is not None else None
        return known or self._reader.stat(pid)

    def _unseen_cores(self, container: TrackedContainer) -> float | None:
        """Return the CPU rate that the processes just read do not account for; None: not known."""
        cores = container.cpu.cores
        if cores is None:
            return None
        return cores - sum(each.cpu_cores or 0.0 for each in container.measured_processes())

    def _allowed_unseen_cores(self, container: TrackedContainer) -> float:
        most = min(self._examination.hot_cpu_cores, _MAX_UNSEEN_SHARE * (container.cpu.cores or 0))
        return max(most, _CLOCK_TICK_S / self._tick_length_s())

    def _tick_length_s(self) -> float:
        times_s = self._node.tick_times_s
        return max(times_s[-1] - times_s[-2], 0.1) if len(times_s) > 1 else 0.1

    def _add_reading(
        self, process: TrackedProcess, stat: ProcessStat, at_s: float, idle_until_s: float | None
    ) -> None:
        window_s = self._examination.window
        cpu = process.cpu
        if cpu is None:
            process.threads = stat.threads
            if not self._node.last_tick_s <= process.born_s <= at_s - _MIN_AGE_S:
                process.cpu = CpuHistory(at_s, stat.cpu_s)
                return
            process.cpu = cpu = CpuHistory(process.born_s, 0.0)
        elif process.is_idle:
            has_run = not -2 * _CLOCK_TICK_S < stat.cpu_s - cpu.cpu_s < _CLOCK_TICK_S
            if not has_run and stat.threads == process.threads:
                process.last_idle_read_s = at_s
                return
            process.is_idle = False
        process.threads = stat.threads
        if process.is_lagging:
            process.is_lagging = False
            last_s = process.last_idle_read_s if idle_until_s is None else idle_until_s
            before_s = [each for each in self._node.tick_times_s if each <= last_s]
            cpu.add_idle(before_s, window_s=window_s)
        is_cut = 0 < cpu.cpu_s - stat.cpu_s < 2 * _CLOCK_TICK_S
        cpu_s = cpu.cpu_s if is_cut else stat.cpu_s
        cpu.add(at_s, cpu_s, window_s=window_s)

    def _maybe_replaced(self) -> set[int]:
        if self._tasks is None:
            return self._next_to_recheck()
        before, now = self._last_table, self._table
        if now is None:
            return set()
        self._last_table = now
        return now.replaced_since(before) if before is not None else set()

    def _next_to_recheck(self) -> set[int]:
        """Return the next few PIDs: all are checked in turn."""
        chosen: set[int] = set()
        for _ in range(self._examination.recheck_processes):
            pid = next(self._recheck_turn, None)
            if pid is None:
                self._recheck_turn = iter(tuple(self._node.container_of))
                break
            chosen.add(pid)
        return chosen


def _is_same(process: Process, stat: ProcessStat) -> bool:
    return (process.id, process.program, process.comm) == (stat.id, stat.program, stat.comm)
