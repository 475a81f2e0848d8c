"""One tick: sample the node, examine its processes, judge its containers.

Whatever reports or acts takes its knowledge from here; the watch itself does neither. The cost of
a tick grows with containers and with new processes, not with all processes: only containers that
burn CPU, or that something was found in, are measured process by process.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from minerwatch.agent.tracked import (
    WatchedContainer,
    WatchedProcess,
    collect_static_sightings,
    count_delayed_cpu,
    count_text,
    counts,
    newly_found,
    newly_watched,
    note_text,
    observation_of,
    shorten_texts,
    sighting_of,
    static_facts_of,
)
from minerwatch.config.schema import Examination
from minerwatch.detection.cpu_history import CpuHistory
from minerwatch.detection.facts import container_facts, measured
from minerwatch.detection.judge import Judge, Sighting
from minerwatch.detection.matching.matcher import Matcher
from minerwatch.fair_queue import Turns
from minerwatch.model import (
    Change,
    Connection,
    Container,
    ContainerKey,
    ContainerKind,
    Facts,
    FactValue,
    Finding,
    Level,
    Observation,
    Process,
    ProcessId,
    ProcessStat,
)
from minerwatch.node.cgroups import CgroupTick, CgroupTree
from minerwatch.node.process_files import CLOCK_TICKS_PER_S
from minerwatch.node.processes import ProcessReader, saturated_threads
from minerwatch.node.task_iterator import TaskIterator, TaskTable
from minerwatch.probes.base import Suspect
from minerwatch.probes.registry import Probes
from minerwatch.text_budget import fattest_over

T = TypeVar("T")

_SATURATED_CORES = 0.9
"""Below this rate no thread of the process can be at 95 % of a core for long; none is read."""

_MAX_SUSPECTS = 1000

_MAX_ENTERED = 8
_MAX_ANCESTORS = 64
"""So many processes of a container, and ancestors of each, are asked which pod they come from."""

_TASKS_PER_STAT = 6
"""So many tasks of the iterator cost what one /proc/PID/stat costs; see docs/performance.md."""

_TABLE_EVERY = 6
"""Ticks after which all tasks are read anyway, to see who has become another program."""

_PLACE_EVERY = 6
"""Ticks after which a container's place in the cluster is asked for again."""

_READ_S = 1.0
_READ_BETWEEN_TICKS_S = 0.05
"""CPU time for reading processes at once, some ten thousand of them in a tick: what there is no
time for waits, each container in turn. Else a tenant's processes could make ticks so long that the
kubelet takes the agent for dead."""

_MATCH_S = 0.5
_MATCH_BETWEEN_TICKS_S = 0.05
"""CPU time for static rules at once; what there is no time for waits, each container in turn."""

_MUCH_TEXT_BYTES = 256 << 10
"""After so much more is kept of one container, what is kept of all is looked at."""

_SHORTEST_AGE_S = 0.2
"""Of a process whose first rate is taken since its birth: CPU time is known to 10 ms only."""


@dataclass(frozen=True, slots=True)
class Tick:
    """What one tick brought."""

    at_s: float
    changes: tuple[Change, ...]
    ended: tuple[Observation, ...]  # containers that are gone and had a level above clear
    began: tuple[Finding, ...]
    flagged: tuple[Observation, ...]  # at suspicious or above; without their processes
    flagged_cpu_s: tuple[tuple[Container, Level, float], ...]  # burnt since the tick before
    levels: Mapping[Level, int]
    process_count: int
    unplaced_count: int  # containers of pods that the cluster has not told of
    over_bound_count: int  # owners of more cgroups than are kept apart
    foreign_count: int  # processes of pid namespaces that the agent cannot see into
    probe_s: Mapping[str, float]
    text_bytes: int = 0  # kept of all processes
    shortened_texts: int = 0  # processes whose text was shortened since the tick before
    shortened: tuple[Container, ...] = ()  # those that they are in


@dataclass(frozen=True, slots=True)
class Examined:
    """What the processes that exec'ed between two ticks brought."""

    changes: tuple[Change, ...]
    began: tuple[Finding, ...]
    probe_s: Mapping[str, float]


class Watch:
    """The node's containers and processes, from tick to tick.

    ``tick`` and ``observations`` may be called from different threads.
    """

    def __init__(
        self,
        cgroups: CgroupTree,
        processes: ProcessReader,
        matcher: Matcher,
        examination: Examination,
        judge: Judge,
        probes: Probes | None = None,
        tasks: TaskIterator | None = None,
        place_of: Callable[[Container], Facts] | None = None,
    ) -> None:
        """``place_of`` says what the cluster knows of a container, as facts."""
        self._cgroups = cgroups
        self._reader = processes
        self._examination = examination
        self._judge = judge
        self._probes = probes
        self._tasks = tasks
        self._place_of = place_of
        self._table: TaskTable | None = None  # as of the tick under way
        self._last_table: TaskTable | None = None
        self._ticks_since_table = _TABLE_EVERY
        self._containers: dict[ContainerKey, WatchedContainer] = {}
        self._container_of: dict[int, WatchedContainer] = {}
        self._young: set[int] = set()  # read at the last tick: most programs start with an exec
        self._early: set[int] = set()  # placed since the last tick
        self._has_other_rules = False
        self._turn: Iterator[int] = iter(())
        self._last_tick_s = float("inf")
        self._tick_times_s: deque[float] = deque()  # of the last ticks, within the window
        self._lock = threading.Lock()
        self._probe_s: dict[str, float] = {}
        self._inner_s = 0.0  # of what was timed within what is timed now
        self._unmatched: Turns[tuple[WatchedContainer, WatchedProcess]] = Turns()
        self._deferred_matches = 0
        self._to_read_again: set[int] = set()  # to be matched again, with text that was not kept
        self._shortened: dict[ContainerKey, Container] = {}  # since the last tick
        self._shortened_texts = 0  # since the last tick
        self._matcher = matcher
        self._wanted = _fields(matcher)

    def use_content_rules(self, rules: Sequence[Path]) -> None:
        """Puts other YARA rules in force."""
        with self._lock:
            if self._probes is not None:
                self._probes.use_content_rules(rules)

    def use(self, matcher: Matcher) -> None:
        """Puts other rules in force; every process is matched anew."""
        with self._lock:
            self._matcher = matcher
            self._wanted = _fields(matcher)
            self._has_other_rules = True
            for watched in self._containers.values():
                self._match_again(watched)

    def close(self) -> None:
        """Lets go of the kernel's files."""
        with self._lock:
            self._cgroups.close()
            self._reader.close()
            if self._probes is not None:
                self._probes.close()
            if self._tasks is not None:
                self._tasks.close()

    def failures(self) -> list[tuple[str, str, int]]:
        """Readings that failed since the start: probe, reason, count."""
        return [
            *(("cgroups", reason, count) for reason, count in self._cgroups.failures.items()),
            *(("processes", reason, count) for reason, count in self._reader.failures.items()),
            *(self._probes.failures() if self._probes else ()),
            *(("tasks", reason, n) for reason, n in self._task_failures().items()),
            ("rules", "deferred", self._deferred_matches),
        ]

    def tick(self, at_s: float) -> Tick:
        """Samples, examines and judges once; ``at_s`` is on the clock that runs since boot."""
        with self._lock:
            try:
                return self._looked_and_judged(at_s)
            finally:  # between ticks it would be out of date, and it is large
                if self._table is not None:
                    self._table.forget_tasks()
                    self._table = None

    def _looked_and_judged(self, at_s: float) -> Tick:
        self._probe_s = {"cgroups": 0.0, "processes": 0.0, "rules": 0.0, "tasks": 0.0}
        sampled = self._timed("cgroups", self._cgroups.tick)
        ended = self._end_containers(sampled.gone)
        burnt_s = self._sample_containers(sampled, at_s)
        self._find_places()
        hot = [watched for key, watched in self._containers.items() if self._is_hot(key, watched)]
        if self._has_other_rules:
            hot, self._has_other_rules = list(self._containers.values()), False
        for watched in hot:
            self._let_rest(watched)
        self._timed("tasks", lambda: self._read_tasks(hot))
        touched = self._timed("processes", lambda: self._sample_processes(sampled, hot, at_s))
        for watched in hot:
            count_delayed_cpu(watched, at_s)
        hot += _newly_suspect(touched, hot)
        if self._probes is not None:
            self._probe_s |= self._probes.look(self._suspects(hot), at_s)
        brought = self._timed("rules", lambda: self._match_and_judge(hot, at_s))
        self._last_tick_s = at_s
        return self._tick(at_s, ended, burnt_s, *brought)

    def examine(self, pids: Iterable[int], at_s: float, cpu_s: float = float("inf")) -> Examined:
        """Reads processes that have just exec'ed, and judges those that a rule holds on at once.

        What is left for the next tick is only what a rate is needed for. What ``cpu_s`` of CPU time
        is too short for waits for the next call, each container in turn.
        """
        with self._lock:
            self._probe_s = {"processes": 0.0, "rules": 0.0}
            to_place = {*pids, *self._cgroups.unplaced}
            to_read = {pid for pid in to_place if self._place(pid, at_s)}
            touched = self._timed(
                "processes",
                lambda: self._read(
                    to_read,
                    (),
                    at_s,
                    min(cpu_s / 2, _READ_BETWEEN_TICKS_S),
                    min(cpu_s / 2, _MATCH_BETWEEN_TICKS_S),
                ),
            )
            self._early |= to_read
            suspect = _newly_suspect(touched, ())
            changes, began = self._judge_containers(suspect, at_s, is_tick=False)
            return Examined(changes, began, self._probe_s)

    @property
    def wants_samples(self) -> bool:
        """Whether a probe wants ``sample`` to be called before the next tick."""
        return self._probes is not None and self._probes.wants_samples

    @property
    def wants_reading(self) -> bool:
        """Whether some processes could not be read, and are to be by ``examine``."""
        return bool(self._reader.deferred or self._to_read_again or self._cgroups.unplaced)

    def sample(self, at_s: float) -> None:
        """Lets probes look at what has to be looked at more often than once a tick."""
        with self._lock:
            if self._probes is not None:
                self._probes.sample(at_s)

    def is_watched(self, pid: int) -> bool:
        """Whether a process runs in a container that counts."""
        with self._lock:
            return self._cgroups.container_of(pid) is not None

    def recheck(self) -> None:
        """At the next tick every process is asked whether it is still the same program."""
        with self._lock:
            self._young.update(self._container_of)

    def observations(self, max_processes: int) -> tuple[Observation, ...]:
        """Every container as it was found at the last tick."""
        with self._lock:
            return tuple(
                observation_of(watched, max_processes, self._connections)
                for watched in self._containers.values()
            )

    def observation(self, key: ContainerKey, max_processes: int) -> Observation | None:
        """One container as it was found at the last tick; None if there is none."""
        with self._lock:
            watched = self._containers.get(key)
            if watched is None:
                return None
            return observation_of(watched, max_processes, self._connections)

    def carrier(self, container: Container) -> Container:
        """The pod's own container that ``container`` is nested in, or itself if it is in none."""
        with self._lock:
            by_cgroup = {
                each.container.cgroup: each.container for each in self._containers.values()
            }
        found = container
        for _ in range(_MAX_ANCESTORS):
            outer = by_cgroup.get(found.outer_cgroup)
            if outer is None or outer.kind is not container.kind:
                break
            found = outer
        return found

    def _connections(self, process: ProcessId) -> tuple[Connection, ...]:
        return self._probes.connections(process) if self._probes is not None else ()

    def _timed(self, probe: str, work: Callable[[], T]) -> T:
        """Does ``work`` and adds the time that it took by itself to ``probe``."""
        started_s = time.perf_counter()
        outer_s, self._inner_s = self._inner_s, 0.0
        try:
            return work()
        finally:
            took_s = time.perf_counter() - started_s
            self._probe_s[probe] += took_s - self._inner_s
            self._inner_s = outer_s + took_s

    def _read_tasks(self, hot: Iterable[WatchedContainer]) -> None:
        """Reads all tasks at once, where that costs less than asking one process after another."""
        self._ticks_since_table += 1
        self._table = None
        if self._tasks is None:
            return
        to_ask = sum(len(watched.processes) for watched in hot)
        is_cheaper = to_ask * _TASKS_PER_STAT >= len(self._container_of)
        if is_cheaper or self._ticks_since_table >= _TABLE_EVERY:
            self._table = self._tasks.table()
            self._ticks_since_table = 0

    def _task_failures(self) -> Mapping[str, int]:
        return self._tasks.failures if self._tasks is not None else {}

    def _stat(self, pid: int) -> ProcessStat | None:
        """From the table that this tick began with, or read now."""
        known = self._table.stat(pid) if self._table is not None else None
        return known or self._reader.stat(pid)

    # Containers.

    def _end_containers(self, gone: Iterable[ContainerKey]) -> tuple[Observation, ...]:
        ended = []
        for key in gone:
            watched = self._containers.pop(key, None)
            self._judge.forget(key)
            if watched is None:
                continue
            for pid in watched.processes:
                if self._container_of.get(pid) is watched:
                    del self._container_of[pid]
            if watched.verdict.level > Level.CLEAR:
                ended.append(observation_of(watched, 0))
        return tuple(ended)

    def _sample_containers(self, sampled: CgroupTick, at_s: float) -> dict[ContainerKey, float]:
        """Takes the new CPU readings; the CPU seconds that each container burnt since the last."""
        burnt_s = {}
        window_s, busy_cores = self._examination.window, self._examination.suspect_cpu_cores
        for key in sampled.read:
            cpu_s = sampled.cpu_s[key]
            watched = self._containers.get(key)
            if watched is None:
                self._containers[key] = newly_watched(sampled.containers[key], at_s, cpu_s)
                continue
            burnt_s[key] = max(0.0, cpu_s - watched.cpu.cpu_s)
            watched.container = sampled.containers[key]
            self._let_rest(watched)
            watched.cpu.add(at_s, cpu_s, window_s=window_s, busy_cores=busy_cores)
        for key, watched in self._containers.items():
            watched.is_over_bound = key in sampled.over_bound
        self._tick_times_s.append(at_s)
        while self._tick_times_s[0] <= at_s - window_s:
            self._tick_times_s.popleft()
        return burnt_s

    def _let_rest(self, watched: WatchedContainer) -> None:
        """Adds the ticks at which its counter was not read, for it stood still."""
        watched.cpu.rest(
            self._tick_times_s,
            window_s=self._examination.window,
            busy_cores=self._examination.suspect_cpu_cores,
        )

    def _is_hot(self, key: ContainerKey, watched: WatchedContainer) -> bool:
        """Whether its processes are measured one by one: it is new, burns CPU, or is suspect."""
        cores = watched.cpu.cores
        is_hot = (
            cores is None
            or cores >= self._examination.hot_cpu_cores
            or bool(watched.static_sightings)
            or watched.has_delayed
            or watched.is_over_bound
            or key in self._judge
        )
        if watched.is_measured and not is_hot:
            watched.limit = watched.throttled_share = None
            watched.dynamic_sightings = ()
            for process in watched.processes.values():
                process.cpu = process.thread_cpu_s = process.facts = None
                process.facts_bytes = 0
            count_text(watched)
        watched.is_measured = is_hot
        return is_hot

    def _find_places(self) -> None:
        """Asks where containers belong: often while that is not known, now and then after."""
        if self._place_of is None:
            return
        for watched in self._containers.values():
            watched.place_age += 1
            if not watched.place or watched.place_age >= _PLACE_EVERY:
                self._find_place(watched)

    def _find_place(self, watched: WatchedContainer) -> None:
        watched.place_age = 0
        place = self._place_of(watched.container) if self._place_of is not None else {}
        if place != watched.place:
            watched.place = place
            self._match_again(watched)

    # Processes.

    def _place(self, pid: int, at_s: float) -> bool:
        """Finds the container that a process is in now; whether it has one.

        A runtime's process joins its container's cgroup just before it becomes the program.
        """
        container = self._cgroups.container_of(pid)
        before = self._container_of.get(pid)
        if container is None:
            return before is not None
        watched = self._containers.get(container.key)
        if watched is None:
            watched = newly_watched(container, at_s, 0.0)
            self._containers[container.key] = watched
        if before is not None and before is not watched and pid in before.processes:
            del before.processes[pid]
            collect_static_sightings(before)
        self._container_of[pid] = watched
        return True

    def _forget_ended(self, sampled: CgroupTick) -> None:
        """Forgets processes that were placed between two ticks and are gone before this one."""
        for pid in self._early:
            watched = self._container_of.get(pid)
            if watched and pid not in sampled.pids.get(watched.container.key, ()):
                del self._container_of[pid]
                if watched.processes.pop(pid, None):
                    collect_static_sightings(watched)
        self._early = set()

    def _sample_processes(
        self, sampled: CgroupTick, hot: Collection[WatchedContainer], at_s: float
    ) -> list[WatchedContainer]:
        """The containers that have other processes than before."""
        self._forget_ended(sampled)
        to_read = self._take_members(sampled)
        measured_pids: set[int] = set()
        for watched in hot:
            self._sample_limit(watched)
            for pid, process in list(watched.processes.items()):
                if not process.process.kernel_thread:
                    measured_pids.add(pid)
                    if not self._measure(process, at_s):
                        to_read.add(pid)
        to_read.update(self._replaced(measured_pids))
        self._young = set()
        return self._read(to_read, {id(each) for each in hot}, at_s, _READ_S, _MATCH_S)

    def _take_members(self, sampled: CgroupTick) -> set[int]:
        """Forgets processes that have left their container; the pids of those that joined one."""
        joined: dict[int, WatchedContainer] = {}
        for key in sampled.changed:
            watched = self._containers.get(key)
            if watched is None:
                continue
            pids = sampled.pids[key]
            left = [pid for pid in watched.processes if pid not in pids]
            for pid in left:
                del watched.processes[pid]
                if self._container_of.get(pid) is watched:
                    del self._container_of[pid]
            if left:
                collect_static_sightings(watched)
            joined.update((pid, watched) for pid in pids if pid not in watched.processes)
        self._container_of.update(joined)
        return set(joined)

    def _measure(self, process: WatchedProcess, at_s: float) -> bool:
        """Takes a new CPU reading; whether it is still the same process, program and name."""
        stat = self._stat(process.process.id.pid)
        if stat is None:
            process.cpu = None
            return True
        if stat.id != process.process.id:
            return False
        self._add_reading(process, stat, at_s)
        return _is_same(process.process, stat)

    def _add_reading(self, process: WatchedProcess, stat: ProcessStat, at_s: float) -> None:
        process.threads = stat.threads
        if process.cpu is None:
            born_s = _born_s(stat.id)
            if not (self._last_tick_s <= born_s <= at_s - _SHORTEST_AGE_S):
                process.cpu = CpuHistory(at_s, stat.cpu_s)
                return
            process.cpu = CpuHistory(born_s, 0.0)
        process.cpu.add(
            at_s,
            stat.cpu_s,
            window_s=self._examination.window,
            busy_cores=self._examination.suspect_cpu_cores,
        )

    def _replaced(self, measured_pids: Collection[int]) -> set[int]:
        """Pids that are another program than was read: all of them, or some of the idle in turn."""
        found = set()
        for pid in (self._young | self._maybe_replaced()) - set(measured_pids):
            watched = self._container_of.get(pid)
            process = watched.processes.get(pid) if watched else None
            stat = self._stat(pid) if process else None
            if process and stat and not _is_same(process.process, stat):
                found.add(pid)
        return found

    def _maybe_replaced(self) -> set[int]:
        if self._tasks is None:
            return self._in_turn()
        before, now = self._last_table, self._table
        if now is None:
            return set()
        self._last_table = now
        return now.replaced_since(before) if before is not None else set()

    def _in_turn(self) -> set[int]:
        """The next few pids: all are asked in turn whether they are still the same program."""
        chosen: set[int] = set()
        for _ in range(self._examination.recheck_processes):
            pid = next(self._turn, None)
            if pid is None:
                self._turn = iter(tuple(self._container_of))
                break
            chosen.add(pid)
        return chosen

    def _read(
        self, pids: Collection[int], hot: Collection[int], at_s: float, cpu_s: float, match_s: float
    ) -> list[WatchedContainer]:
        """Reads who ``pids`` are and matches them; the containers that have other ones now.

        With them those that were left open before. What ``cpu_s`` or ``match_s`` is too short for
        is left open: nothing more is read while something that was read has not been matched, for
        until then all of its text is kept.
        """
        touched: dict[int, WatchedContainer] = {}
        again = {pid for pid in self._to_read_again if pid in self._container_of}
        self._to_read_again = set()
        in_order = self._ordered_fairly((*self._reader.deferred, *again, *pids))
        unread = set(in_order)
        read_until_s = time.thread_time() + cpu_s
        match_left_s = match_s

        def is_time_left() -> bool:
            return not len(self._unmatched) and time.thread_time() < read_until_s

        for found in self._reader.batches(in_order, is_time_left, self._owner_of):
            unread -= found.keys()
            for pid, process in found.items():
                watched = self._container_of.get(pid)
                if watched is not None:
                    touched[id(watched)] = watched
                    self._take(watched, process, at_s, is_hot=id(watched) in hot)
            started_s = time.thread_time()
            touched.update((id(each), each) for each in self._match_waiting(match_left_s))
            match_left_s -= time.thread_time() - started_s
            read_until_s += time.thread_time() - started_s
            self._give_way()
        if not in_order:
            touched.update((id(each), each) for each in self._match_waiting(match_s))
            self._give_way()
        self._forget_unread(unread - self._reader.deferred)
        self._deferred_matches += len(self._unmatched)
        for watched in touched.values():
            self._attribute(watched)
            collect_static_sightings(watched)
        return list(touched.values())

    def _take(
        self, watched: WatchedContainer, process: Process, at_s: float, *, is_hot: bool
    ) -> None:
        """Puts a process that was read in the place of the one with its pid, to be matched."""
        before = watched.processes.get(process.id.pid)
        now = WatchedProcess(process)
        if before is not None and before.process.id == process.id:
            now.cpu, now.threads = before.cpu, before.threads
            now.counted_cpu_s = before.counted_cpu_s
            if before.process.program == process.program:
                now.matches = before.matches  # until it is matched
        watched.processes[process.id.pid] = now
        self._young.add(process.id.pid)
        if process.kernel_thread:
            return
        self._have_matched(watched, now)
        if now.cpu is None and is_hot:
            self._measure(now, at_s)

    def _owner_of(self, pid: int) -> str:
        watched = self._container_of.get(pid)
        return watched.owner if watched is not None else ""

    def _attribute(self, watched: WatchedContainer) -> None:
        """Makes an engine's container the pod's whose process tree it comes from.

        A runtime that runs in a pod, but makes its cgroups elsewhere, as docker in docker does on
        cgroup v1. All that is known to have come into the container must come from the same pod.
        """
        if watched.container.kind is not ContainerKind.ENGINE:
            return
        entered = (
            process.process
            for process in watched.processes.values()
            if process.process.parent_pid not in watched.processes
        )
        above = {self._pod_container_above(each) for each in islice(entered, _MAX_ENTERED)}
        found = [each for each in above if each is not None]
        if len(found) != len(above) or len({each.pod_uid for each in found}) != 1:
            return
        outer = min(found, key=lambda each: each.cgroup)
        container = self._cgroups.attribute(watched.container.key, outer)
        if container is not None:
            watched.container = container
            self._find_place(watched)

    def _pod_container_above(self, process: Process) -> Container | None:
        """The pod's container that ``process`` descends from, as the process tree says now.

        A parent that is younger than its child is another process under a pid that is used again.
        """
        pid, born_ticks = process.parent_pid, process.id.start_ticks
        for _ in range(_MAX_ANCESTORS):
            stat = self._reader.stat(pid) if pid > 1 else None
            if stat is None or stat.id.start_ticks > born_ticks:
                return None
            known = self._container_of.get(pid)
            container = known.container if known else self._cgroups.container_of(pid)
            if container is not None and container.kind is ContainerKind.POD:
                return container
            pid, born_ticks = stat.parent_pid, stat.id.start_ticks
        return None

    def _ordered_fairly(self, pids: Iterable[int]) -> list[int]:
        """One of each owner after the other: one with thousands holds up none of the others."""
        turns: Turns[int] = Turns()
        for pid in dict.fromkeys(pids):
            turns.put(self._owner_of(pid), pid)
        return list(iter(turns.take, None))

    def _give_way(self) -> None:
        """Shortens the longest texts of the owners that keep most, until all that is kept fits."""
        while over := fattest_over(self._text_bytes_by_owner()):
            owner, max_bytes = over
            own = [each for each in self._containers.values() if each.owner == owner]
            before_bytes = sum(each.text_bytes for each in own)
            self._shortened_texts += shorten_texts(
                (process for each in own for process in each.processes.values()), max_bytes
            )
            for watched in own:
                collect_static_sightings(watched)
                self._shortened[watched.container.key] = watched.container
            if sum(each.text_bytes for each in own) >= before_bytes:
                return  # nothing is left to be shortened

    def _text_bytes_by_owner(self) -> dict[str, int]:
        kept: dict[str, int] = {}
        for watched in self._containers.values():
            if watched.text_bytes:
                kept[watched.owner] = kept.get(watched.owner, 0) + watched.text_bytes
        return kept

    def _forget_unread(self, pids: Iterable[int]) -> None:
        """Forgets who ended before it was read: nothing else would when its container loses it."""
        for pid in pids:
            watched = self._container_of.get(pid)
            if watched is not None and pid not in watched.processes:
                del self._container_of[pid]

    def _match_again(self, watched: WatchedContainer) -> None:
        """Has all processes of a container matched anew; until then they keep their matches."""
        for process in watched.processes.values():
            if process.is_shortened:
                self._to_read_again.add(process.process.id.pid)
            elif not process.process.kernel_thread:
                self._have_matched(watched, process)

    def _have_matched(self, watched: WatchedContainer, process: WatchedProcess) -> None:
        if not process.is_to_be_matched:
            process.is_to_be_matched = True
            self._unmatched.put(watched.owner, (watched, process))

    def _match_waiting(self, cpu_s: float) -> list[WatchedContainer]:
        """Matches processes that wait for it, for some time; the containers that they are in.

        A command line that is made for it takes milliseconds, and there may be thousands.
        """
        touched: dict[int, WatchedContainer] = {}
        until_s = time.thread_time() + cpu_s

        def match() -> None:
            while (waiting := self._unmatched.take()) is not None:
                watched, process = waiting
                if watched.processes.get(process.process.id.pid) is process:
                    self._match_process(watched, process)
                    touched[id(watched)] = watched
                if time.thread_time() >= until_s:
                    return

        self._timed("rules", match)
        return list(touched.values())

    def _match_process(self, watched: WatchedContainer, now: WatchedProcess) -> None:
        parent_container = self._container_of.get(now.process.parent_pid)
        parent = (
            parent_container.processes.get(now.process.parent_pid) if parent_container else None
        )
        now.parent = parent.process if parent else now.parent  # it may have ended since
        now.facts, now.facts_bytes = None, 0
        now.is_to_be_matched = False
        now.matches = self._matcher.static_matches(static_facts_of(watched, now))
        now.facts, now.facts_bytes = None, 0  # they have all of the parent's text
        watched.text_bytes -= now.text_bytes
        note_text(now, now.parent)
        watched.text_bytes += now.text_bytes

    def _sample_limit(self, watched: WatchedContainer) -> None:
        before = watched.limit
        watched.limit = now = self._cgroups.limit(watched.container.key)
        watched.throttled_share = None
        if before and now and now.periods > before.periods:
            throttled = now.throttled_periods - before.throttled_periods
            watched.throttled_share = max(0.0, throttled / (now.periods - before.periods))

    def _suspects(self, hot: Iterable[WatchedContainer]) -> list[Suspect]:
        """Processes with a finding, or that burn CPU: the busiest of each owner in turn."""
        suspects: list[tuple[float, Suspect]] = []
        for watched in hot:
            owner = watched.owner
            found = {finding.process for finding in watched.verdict.findings}
            for process in watched.processes.values():
                if process.cpu is None:
                    continue
                cores, identity = process.cpu.cores or 0.0, process.process.id
                has_finding = bool(process.matches) or identity in found
                if has_finding or cores >= self._examination.suspect_cpu_cores:
                    is_busy = process.cpu.busy_for_s() >= self._examination.suspect_after
                    program, is_settled = process.process.program, has_finding or is_busy
                    suspects.append((cores, Suspect(identity, program, is_settled, owner)))
        return _in_turns(suspects, _MAX_SUSPECTS)

    # Rules.

    def _match_and_judge(
        self, hot: Collection[WatchedContainer], at_s: float
    ) -> tuple[tuple[Change, ...], tuple[Finding, ...]]:
        for watched in hot:
            watched.dynamic_sightings = tuple(self._dynamic_sightings(watched, at_s))
            before_bytes = watched.text_bytes
            count_text(watched)  # facts are kept from now on
            if watched.text_bytes > before_bytes + _MUCH_TEXT_BYTES:
                self._give_way()
        return self._judge_containers(hot, at_s, is_tick=True)

    def _judge_containers(
        self, hot: Iterable[WatchedContainer], at_s: float, *, is_tick: bool
    ) -> tuple[tuple[Change, ...], tuple[Finding, ...]]:
        changes, began = [], []
        for watched in hot:
            sightings = (*watched.static_sightings, *watched.dynamic_sightings)
            if not sightings and watched.container.key not in self._judge:
                continue
            previous = watched.verdict
            is_host = watched.container.kind is ContainerKind.HOST
            watched.verdict = self._judge.verdict(
                watched.container.key, sightings, at_s, apart=is_host, is_tick=is_tick
            )
            began += newly_found(watched)
            if watched.verdict.level is not previous.level:
                changes.append((watched, previous.level))
        return (
            tuple(Change(observation_of(watched, 0), level) for watched, level in changes),
            tuple(began),
        )

    def _dynamic_sightings(self, watched: WatchedContainer, at_s: float) -> Iterator[Sighting]:
        """What matches of what is measured each tick: the container's, then its processes'."""
        measured_facts = container_facts(
            watched.container,
            cpu_cores=watched.cpu.cores,
            cpu_s=watched.cpu.cpu_s,
            cpu_limit_cores=watched.limit.cores if watched.limit else None,
            hidden_cpu_share=self._hidden_cpu_share(watched, at_s),
            cgroups_over_bound=watched.is_over_bound,
        )
        shared = {**measured_facts, **watched.place}
        for match in self._matcher.container_matches(shared):
            yield Sighting(match.rule, None, match.evidence)
        for process in watched.processes.values():
            if process.cpu is None:
                continue
            facts = {
                **static_facts_of(watched, process), **shared, **self._dynamic_facts(process, at_s)
            }  # fmt: skip
            for match in self._matcher.dynamic_matches(facts):
                if counts(match, process, watched):
                    yield sighting_of(match, process)

    def _hidden_cpu_share(self, watched: WatchedContainer, at_s: float) -> float | None:
        """The share of the container's CPU that none of its visible processes accounts for."""
        cores = watched.cpu.cores
        if not cores or cores < self._examination.hot_cpu_cores:
            return None
        seen_cores = 0.0
        for process in watched.processes.values():
            if process.cpu is None:
                continue
            if process.cpu.cores is not None:
                seen_cores += process.cpu.cores
            elif _born_s(process.process.id) >= self._last_tick_s:
                seen_cores += process.cpu.cpu_s / (at_s - self._last_tick_s)
            else:
                return None
        return max(0.0, 1 - seen_cores / cores)

    def _dynamic_facts(self, process: WatchedProcess, at_s: float) -> dict[str, FactValue]:
        cpu, identity = process.cpu, process.process.id
        if cpu is None:
            return {}
        cores = cpu.cores or 0.0
        facts = measured(
            Age=at_s - _born_s(identity),
            Threads=process.threads,
            CpuSeconds=cpu.cpu_s,
            CpuCores=cpu.cores,
            CpuFlatness=cpu.flatness(),
        )
        if cores >= _SATURATED_CORES and "SaturatedThreads" in self._wanted:
            facts |= measured(SaturatedThreads=self._saturated_threads(process, at_s))
        if cores >= self._examination.suspect_cpu_cores and self._wanted & _MEMORY_FIELDS:
            memory = self._reader.memory(identity.pid)
            if memory is not None:
                facts |= measured(RssMiB=memory.rss_mib, HugepagesMiB=memory.hugetlb_mib)
        if self._probes is not None:
            facts.update(self._probes.facts(identity))
        return facts

    def _saturated_threads(self, process: WatchedProcess, at_s: float) -> int | None:
        before, before_at_s = process.thread_cpu_s, process.thread_cpu_at_s
        pid = process.process.id.pid
        now = self._table.thread_cpu(pid) if self._table is not None else {}
        now = now or self._reader.thread_cpu(pid)
        process.thread_cpu_s, process.thread_cpu_at_s = now, at_s
        return None if before is None else saturated_threads(before, now, at_s - before_at_s)

    def _tick(
        self,
        at_s: float,
        ended: tuple[Observation, ...],
        burnt_s: Mapping[ContainerKey, float],
        changes: tuple[Change, ...],
        began: tuple[Finding, ...],
    ) -> Tick:
        every = self._containers.values()
        flagged = [watched for watched in every if watched.verdict.level > Level.CLEAR]
        shortened, shortened_texts = tuple(self._shortened.values()), self._shortened_texts
        self._shortened, self._shortened_texts = {}, 0
        return Tick(
            at_s=at_s,
            changes=changes,
            ended=ended,
            began=began,
            flagged=tuple(observation_of(watched, 0) for watched in flagged),
            flagged_cpu_s=tuple(
                (watched.container, watched.verdict.level, burnt_s.get(watched.container.key, 0.0))
                for watched in flagged
            ),
            levels=Counter(
                watched.verdict.level for watched in every if not watched.is_idle_sandbox
            ),
            process_count=len(self._container_of),
            unplaced_count=sum(
                not watched.place and watched.container.kind is ContainerKind.POD
                for watched in every
            ),
            over_bound_count=self._cgroups.over_bound_count,
            foreign_count=self._cgroups.foreign_count,
            probe_s=self._probe_s,
            text_bytes=sum(watched.text_bytes for watched in every),
            shortened_texts=shortened_texts,
            shortened=shortened,
        )


_MEMORY_FIELDS = frozenset(("RssMiB", "HugepagesMiB"))


def _fields(matcher: Matcher) -> frozenset[str]:
    """The fields that some rule asks for; what none asks for is not measured."""
    return frozenset().union(*(rule.fields for rule in matcher.rules))


def _born_s(process: ProcessId) -> float:
    return process.start_ticks / CLOCK_TICKS_PER_S


def _is_same(process: Process, stat: ProcessStat) -> bool:
    return (process.id, process.program, process.comm) == (stat.id, stat.program, stat.comm)


def _in_turns(suspects: Iterable[tuple[float, Suspect]], limit: int) -> list[Suspect]:
    """Return the busiest suspect of each owner in turn, so that no owner crowds out another."""
    turns: Turns[Suspect] = Turns()
    for _, suspect in sorted(suspects, key=lambda each: (each[0], each[1].process), reverse=True):
        turns.put(suspect.owner, suspect)
    return list(islice(iter(turns.take, None), limit))


def _newly_suspect(
    touched: Iterable[WatchedContainer], but: Iterable[WatchedContainer]
) -> list[WatchedContainer]:
    """Those of ``touched`` in which some process matches, without those in ``but``; each once."""
    known = {id(watched) for watched in but}
    found = {id(each): each for each in touched if each.static_sightings and id(each) not in known}
    return list(found.values())
