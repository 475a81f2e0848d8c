"""Attributes processes to containers, and reads those that are new or run another program."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable
from itertools import islice

from minerwatch.agent.matching import Matching
from minerwatch.agent.process_meter import ProcessMeter
from minerwatch.agent.tracked import (
    MAX_ANCESTORS,
    TickLimits,
    TrackedContainer,
    TrackedNode,
    TrackedProcess,
)
from minerwatch.fair_queue import interleaved
from minerwatch.model import Container, ContainerKey, ContainerKind, Facts, Process
from minerwatch.node.cgroups import CgroupTick, CgroupTree
from minerwatch.node.processes import ProcessReader
from minerwatch.probes.code_schedule import Place

_MAX_ENTERED = 8
"""Processes of a container whose ancestors are followed to find its pod."""
_MAX_RELATIVES = 4
"""The first ones are the most likely to have forked the others."""


class Tracker:
    """Keeps the processes of each container up to date."""

    def __init__(
        self,
        node: TrackedNode,
        cgroups: CgroupTree,
        reader: ProcessReader,
        meter: ProcessMeter,
        matching: Matching,
        limits: TickLimits,
        facts_of: Callable[[Container], Facts] | None,
    ) -> None:
        """``facts_of`` returns what the cluster knows of a container, as facts."""
        self._node = node
        self._cgroups = cgroups
        self._reader = reader
        self._meter = meter
        self._matching = matching
        self._limits = limits
        self._facts_of = facts_of
        self._read_last_tick: set[int] = set()  # most programs start with an exec
        self._attributed_since_tick: set[int] = set()

    @property
    def has_deferred(self) -> bool:
        """True if some processes could not be read, or attributed to a container, yet."""
        return bool(
            self._reader.deferred or self._matching.has_deferred or self._cgroups.unattributed
        )

    def recheck_all(self) -> None:
        """Check at the next tick that every process is still the same program."""
        self._read_last_tick.update(self._node.container_of)

    def update_cluster_facts(self) -> None:
        """Look up containers in the cluster: each tick until found, then every few ticks."""
        if self._facts_of is None:
            return
        for container in self._node.containers.values():
            container.cluster_facts_age += 1
            if (
                not container.cluster_facts
                or container.cluster_facts_age >= self._limits.ticks_per_lookup
            ):
                self._update_cluster_facts(container)

    def read_processes(
        self, sampled: CgroupTick, hot: Collection[TrackedContainer], at_s: float
    ) -> list[TrackedContainer]:
        """Measure hot containers and read changed processes; return containers with new ones."""
        self._drop_exited(sampled)
        to_read = self._update_members(sampled)
        measured: set[int] = set()
        for container in hot:
            read, replaced = self._meter.read_container(container, at_s)
            measured |= read
            to_read |= replaced
        to_read |= self._meter.replaced(measured, self._read_last_tick)
        self._read_last_tick = set()
        return self._read(to_read, set(hot), at_s, self._limits.read_s, self._limits.match_s)

    def read_execs(
        self, pids: Iterable[int], at_s: float, max_cpu_s: float
    ) -> list[TrackedContainer]:
        """Attribute and read processes that have just exec'ed; return their containers."""
        started = {*pids, *self._cgroups.unattributed}
        to_read = {pid for pid in started if self._attribute(pid, at_s)}
        self._attributed_since_tick |= to_read
        read_s = min(max_cpu_s / 2, self._limits.read_between_ticks_s)
        match_s = min(max_cpu_s / 2, self._limits.match_between_ticks_s)
        return self._read(to_read, (), at_s, read_s, match_s)

    def drop_container(self, key: ContainerKey) -> TrackedContainer | None:
        """Remove a container that is gone, with its processes."""
        container = self._node.containers.pop(key, None)
        for pid in container.processes if container is not None else ():
            if self._node.container_of.get(pid) is container:
                del self._node.container_of[pid]
        return container

    # Attribution.

    def locate(self, pid: int) -> Place | None:
        """Return where a process runs, also if no tick has seen it yet; None if it is gone."""
        tracked = self._node.container_of.get(pid)
        known = tracked.processes.get(pid) if tracked is not None else None
        if tracked is not None and known is not None:
            return Place(known.process.id, tracked.container.key, tracked.owner)
        stat, container = self._reader.stat(pid), self._cgroups.container_of(pid)
        if stat is None or container is None:
            return None
        return Place(stat.id, container.key, container.owner)

    def relatives(self, cgroup: int) -> list[Place]:
        """Return the first few processes of the container with this cgroup id (v2)."""
        container = self._cgroups.container_with_id(cgroup)
        tracked = self._node.containers.get(container.key) if container is not None else None
        if tracked is None:
            return []
        first = islice(tracked.processes.values(), _MAX_RELATIVES)
        return [Place(each.process.id, tracked.container.key, tracked.owner) for each in first]

    def _attribute(self, pid: int, at_s: float) -> bool:
        """Attribute a process to the container of its cgroup; return False if there is none.

        A runtime's process joins its container's cgroup just before it becomes the program.
        """
        container = self._cgroups.container_of(pid)
        before = self._node.container_of.get(pid)
        if container is None:
            return before is not None
        tracked = self._node.containers.get(container.key)
        if tracked is None:
            tracked = TrackedContainer.new(container, at_s, 0.0)
            self._node.containers[container.key] = tracked
        if before is not None and before is not tracked and pid in before.processes:
            del before.processes[pid]
            before.collect_static_sightings()
        self._node.container_of[pid] = tracked
        return True

    def _drop_exited(self, sampled: CgroupTick) -> None:
        """Drop processes that were attributed between two ticks and exited before this one."""
        for pid in self._attributed_since_tick:
            container = self._node.container_of.get(pid)
            if container and pid not in sampled.pids.get(container.container.key, ()):
                del self._node.container_of[pid]
                if container.processes.pop(pid, None):
                    container.collect_static_sightings()
        self._attributed_since_tick = set()

    def _update_members(self, sampled: CgroupTick) -> set[int]:
        """Drop processes that left their container; return the PIDs that joined one."""
        joined: dict[int, TrackedContainer] = {}
        for key in sampled.changed:
            container = self._node.containers.get(key)
            if container is None:
                continue
            pids = sampled.pids[key]
            left = [pid for pid in container.processes if pid not in pids]
            for pid in left:
                del container.processes[pid]
                if self._node.container_of.get(pid) is container:
                    del self._node.container_of[pid]
            if left:
                container.collect_static_sightings()
            joined.update((pid, container) for pid in pids if pid not in container.processes)
        self._node.container_of.update(joined)
        return set(joined)

    def _update_cluster_facts(self, container: TrackedContainer) -> None:
        container.cluster_facts_age = 0
        facts = self._facts_of(container.container) if self._facts_of is not None else {}
        if facts != container.cluster_facts:
            container.cluster_facts = facts
            self._matching.queue_all(container)

    def _attribute_to_pod(self, container: TrackedContainer) -> None:
        """Attribute an engine's container to the pod that its process tree descends from.

        For a runtime inside a pod that makes its cgroups elsewhere, as docker in docker does on
        cgroup v1. All processes known to have entered the container must come from one pod.
        """
        if container.container.kind is not ContainerKind.ENGINE:
            return
        entered = (
            process.process
            for process in container.processes.values()
            if process.process.parent_pid not in container.processes
        )
        above = {self._pod_container_above(each) for each in islice(entered, _MAX_ENTERED)}
        found = [each for each in above if each is not None]
        if len(found) != len(above) or len({each.pod_uid for each in found}) != 1:
            return
        outer = min(found, key=lambda each: each.cgroup)
        attributed = self._cgroups.attribute(container.container.key, outer)
        if attributed is not None:
            container.container = attributed
            self._update_cluster_facts(container)

    def _pod_container_above(self, process: Process) -> Container | None:
        """Return the pod's container that ``process`` descends from, by the current process tree.

        A parent that is younger than its child is another process with a reused PID.
        """
        pid, born_ticks = process.parent_pid, process.id.start_ticks
        for _ in range(MAX_ANCESTORS):
            stat = self._reader.stat(pid) if pid > 1 else None
            if stat is None or stat.id.start_ticks > born_ticks:
                return None
            known = self._node.container_of.get(pid)
            container = known.container if known else self._cgroups.container_of(pid)
            if container is not None and container.kind is ContainerKind.POD:
                return container
            pid, born_ticks = stat.parent_pid, stat.id.start_ticks
        return None

    # Reading.

    def _read(
        self,
        pids: Collection[int],
        hot: Collection[TrackedContainer],
        at_s: float,
        cpu_s: float,
        match_s: float,
    ) -> list[TrackedContainer]:
        """Read and match ``pids`` and those deferred earlier; return containers with new ones.

        Nothing more is read while a process that was read is unmatched, because until then all
        of its text is kept. The rest is deferred when ``cpu_s`` or ``match_s`` is used up.
        """
        matching, owner_of = self._matching, self._node.owner_of
        touched: dict[TrackedContainer, None] = {}
        waiting = (*self._reader.deferred, *matching.pop_to_read_again(), *pids)
        in_order = list(interleaved(dict.fromkeys(waiting), owner_of))
        unread = set(in_order)
        read_until_s = time.thread_time() + cpu_s
        match_left_s = match_s

        def is_time_left() -> bool:
            return not matching.queued and time.thread_time() < read_until_s

        for found in self._reader.batches(in_order, is_time_left, owner_of):
            unread -= found.keys()
            for pid, process in found.items():
                container = self._node.container_of.get(pid)
                if container is not None:
                    touched[container] = None
                    self._replace(container, process, at_s, is_hot=container in hot)
            started_s = time.thread_time()
            touched |= dict.fromkeys(matching.match_queued(match_left_s))
            match_left_s -= time.thread_time() - started_s
            read_until_s += time.thread_time() - started_s
            matching.bound_all_text()
        if not in_order:
            touched |= dict.fromkeys(matching.match_queued(match_s))
            matching.bound_all_text()
        self._drop_unread(unread - self._reader.deferred)
        matching.deferred += matching.queued
        for container in touched:
            self._attribute_to_pod(container)
            container.collect_static_sightings()
        return list(touched)

    def _replace(
        self, container: TrackedContainer, process: Process, at_s: float, *, is_hot: bool
    ) -> None:
        """Replace the process with this PID by the one just read, and queue it for matching."""
        before = container.processes.get(process.id.pid)
        now = TrackedProcess(process)
        if before is not None and before.process.id == process.id:
            now.inherit(before)
            if before.process.program == process.program:
                now.matches = before.matches  # until it is matched
        container.processes[process.id.pid] = now
        self._read_last_tick.add(process.id.pid)
        if process.kernel_thread:
            return
        self._matching.queue(container, now)
        if now.cpu is None and is_hot:
            self._meter.read_process(now, at_s)

    def _drop_unread(self, pids: Iterable[int]) -> None:
        """Drop PIDs that exited before they were read; no later event removes them."""
        for pid in pids:
            container = self._node.container_of.get(pid)
            if container is not None and pid not in container.processes:
                del self._node.container_of[pid]


class LockedLocator:
    """Finds where processes run, from other threads than that of the tick."""

    def __init__(self, lock: threading.Lock, tracker: Tracker) -> None:
        self._lock = lock
        self._tracker = tracker

    def locate(self, pid: int) -> Place | None:
        """Return the place of a process that runs; None if it has exited or is in no container."""
        with self._lock:
            return self._tracker.locate(pid)

    def relatives(self, cgroup: int) -> list[Place]:
        """Return some processes of the container with this cgroup id; none if it is unknown."""
        with self._lock:
            return self._tracker.relatives(cgroup)
