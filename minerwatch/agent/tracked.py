"""State kept per container and per process, from tick to tick."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from minerwatch.detection.cpu_history import CpuHistory
from minerwatch.detection.facts import static_facts
from minerwatch.detection.judge import Sighting
from minerwatch.detection.matching.matcher import Match
from minerwatch.detection.planted_words import DELAY_CPU_S, cpu_s_after
from minerwatch.model import (
    Connection,
    Container,
    ContainerKey,
    ContainerKind,
    CpuLimit,
    Facts,
    FactValue,
    Finding,
    Level,
    Observation,
    Process,
    ProcessId,
    ProcessLoad,
    Verdict,
)
from minerwatch.node.proc_files import CLOCK_TICKS_PER_S
from minerwatch.text_budget import size_of

MAX_ANCESTORS = 64
"""Parents followed from a process, and outer containers from a container."""

WITH_NETWORK = frozenset((ContainerKind.POD, ContainerKind.ENGINE))
"""Kinds of containers that may have a network of their own; units share the host's."""

_MAX_SANDBOX_CPU_S = 1.0
"""A pause container uses some hundredths of a second to start, and nothing afterwards."""

_FREE_ARGUMENTS_BYTES = 2 << 10
_MAX_SPLIT_SHARE = 2
"""Thousands of short arguments take twenty times as much memory apart as joined."""


@dataclass(frozen=True, slots=True)
class TickLimits:
    """CPU time of a tick for reading and matching processes, and how often slow checks run.

    Work that does not fit waits for the next call, one process of each container in turn. Without
    a bound a tenant's processes could make a tick so long that the kubelet restarts the agent.
    """

    read_s: float = 1.0  # some ten thousand processes
    match_s: float = 0.5
    read_between_ticks_s: float = 0.05
    match_between_ticks_s: float = 0.05
    max_suspects: int = 1000
    ticks_per_table: int = 6  # at most, between two reads of all tasks: finds replaced programs
    ticks_per_lookup: int = 6  # between two lookups of a container in the cluster
    ticks_per_idle_check: int = 8  # at most, between two readings of an idle process


@dataclass(slots=True)
class LookAccount:
    """A container's CPU time towards the next look at its processes (``looks``)."""

    cpu_s: float = 0.0  # since the last look
    had_early: bool = False  # cheap probes have looked since the last look
    kept_until_s: float = 0.0  # its processes are measured until then
    ticks_since_check: int = 0
    checked_at_s: float = 0.0
    limit: CpuLimit | None = None  # at the last check
    waited_s: float | None = None
    is_held_back: bool = False


Measured = tuple[FactValue | None, ...]
"""Measured values, each reduced to the interval between two thresholds that it lies in."""


@dataclass(slots=True)
class TrackedProcess:
    """A process: its facts, its matches and its CPU readings."""

    process: Process
    parent: Process | None = None
    facts: Facts | None = None  # static facts, cached while the process is measured
    matches: tuple[Match, ...] = ()  # of static rules
    has_delayed: bool = False  # some match counts only after enough CPU time
    counted_cpu_s: float = 0.0  # CPU time already counted towards that
    is_queued: bool = False  # for static matching
    cpu: CpuHistory | None = None  # None while its container is idle
    threads: int = 0
    thread_cpu_s: Mapping[int, float] | None = None
    thread_cpu_at_s: float = 0.0
    unmatched: Measured | None = None  # measured values on which no dynamic rule matched
    is_idle: bool = False  # its CPU counter stands still and nothing matches: not measured
    is_lagging: bool = False  # ``cpu`` lacks the ticks since the process became idle
    last_idle_read_s: float = 0.0  # when it was last read while idle
    idle_until_s: float = 0.0  # when its age reaches the next threshold of a rule
    text_bytes: int = 0  # kept of it at the last match, without that of ``facts``
    facts_bytes: int = 0
    looked_cpu_s: float = 0.0  # its CPU time at the last look
    unlooked_gpu_s: float = 0.0  # GPU time since then
    looked_at_s: float = float("-inf")  # when that was, cheap ones included
    had_full_look: bool = False  # by costly probes, too
    is_shortened: bool = False  # part of its text was dropped: read it again before matching

    @property
    def cpu_cores(self) -> float | None:
        """CPU rate between the last two readings; None before the second."""
        return self.cpu.cores if self.cpu else None

    @property
    def born_s(self) -> float:
        """Start of the process, in seconds since boot."""
        return self.process.id.start_ticks / CLOCK_TICKS_PER_S

    @property
    def unlooked_cpu_s(self) -> float:
        """CPU time since the last look; 0.0 while it is not measured."""
        return self.cpu.cpu_s - self.looked_cpu_s if self.cpu else 0.0

    @property
    def unlooked_s(self) -> float:
        """CPU and GPU time since the last look."""
        return self.unlooked_cpu_s + self.unlooked_gpu_s

    def count_look(self) -> None:
        """Count its CPU time from now on towards the next look."""
        self.had_full_look = True
        self.looked_cpu_s += self.unlooked_cpu_s
        self.unlooked_gpu_s = 0.0

    def inherit(self, before: TrackedProcess) -> None:
        """Take over the readings of the same process under its earlier program."""
        self.cpu, self.threads = before.cpu, before.threads
        self.is_lagging, self.last_idle_read_s = before.is_lagging, before.last_idle_read_s
        self.counted_cpu_s = before.counted_cpu_s
        self.looked_cpu_s, self.looked_at_s = before.looked_cpu_s, before.looked_at_s
        self.unlooked_gpu_s = before.unlooked_gpu_s
        self.had_full_look = before.had_full_look

    def forget_measured(self) -> None:
        """Match dynamic rules at the next tick, whatever was measured."""
        self.unmatched, self.is_idle = None, False

    def forget_cpu(self) -> None:
        """Drop readings and cached facts: the container is no longer measured."""
        self.cpu = self.thread_cpu_s = self.facts = None
        self.facts_bytes = 0
        self.forget_measured()


@dataclass(frozen=True, slots=True)
class Details:
    """Sources of what is looked up only when a container is published."""

    connections: Callable[[ProcessId], tuple[Connection, ...]] = lambda _process: ()
    executed: Callable[[ProcessId | ContainerKey], Facts] = lambda _of: {}
    memory_bytes: Callable[[int], int | None] = lambda _pid: None  # resident
    gpu: Callable[[ProcessId], Facts] = lambda _process: {}
    uses_host_network: Callable[[int], bool] = lambda _pid: False


@dataclass(slots=True, eq=False)
class TrackedContainer:
    """A container: its processes, its CPU readings and its verdict."""

    container: Container
    cpu: CpuHistory
    verdict: Verdict
    looks: LookAccount = field(default_factory=LookAccount)
    cluster_facts: Facts = field(default_factory=dict)  # facts from the cluster
    cluster_facts_age: int = 0  # ticks since they were looked up
    processes: dict[int, TrackedProcess] = field(default_factory=dict)
    static_sightings: tuple[Sighting, ...] = ()
    dynamic_sightings: tuple[Sighting, ...] = ()  # of the last tick
    shared_measured: Measured = ()  # what dynamic rules on its processes see of the container
    has_delayed: bool = False  # some process has a match that counts only after enough CPU time
    delayed_cpu_s: float = 0.0  # CPU time of these processes, as counted towards that
    delayed_at_s: float = 0.0  # when that was last counted
    is_measured: bool = False  # process by process, at the last tick
    all_idle_read_tick: int = -1000  # when all its idle processes were last read at once
    idle_until_s: float | None = None  # none of them has run until then; None: not known
    unseen_cores: float = 0.0  # CPU rate not accounted for when all were read
    is_over_bound: bool = False  # it has more cgroups than are kept apart
    limit: CpuLimit | None = None
    throttled_share: float | None = None
    findings: frozenset[tuple[str, ProcessId | None]] = frozenset()
    text_bytes: int = 0  # kept of its processes
    gpu: Facts = field(default_factory=dict)  # of its use of GPUs

    @classmethod
    def new(cls, container: Container, at_s: float, cpu_s: float) -> TrackedContainer:
        """Return the state of a container that has used ``cpu_s`` so far."""
        clear = Verdict(container.key, at_s, 0.0, Level.CLEAR, at_s, ())
        return cls(container, CpuHistory(at_s, cpu_s), clear)

    @property
    def owner(self) -> str:
        """Owner as in ``Container.owner``: owners take turns and share bounds."""
        return self.container.owner

    @property
    def is_idle_sandbox(self) -> bool:
        """Return True for a pod's sandbox: the API knows the pod, but no container of this name."""
        is_unnamed = bool(self.cluster_facts) and "ContainerName" not in self.cluster_facts
        return is_unnamed and is_idle_sandbox(
            self.container, self.verdict, self.cpu.cpu_s, len(self.processes)
        )

    def measured_processes(self) -> Iterator[TrackedProcess]:
        """Yield the processes whose CPU was read at this tick, without idle ones."""
        for process in self.processes.values():
            if process.cpu is not None and not process.is_idle:
                yield process

    def static_facts_of(self, process: TrackedProcess) -> Facts:
        """Return the facts that do not change while the program runs.

        They take more memory than all other state of a process, so they are cached only while the
        process is measured.
        """
        if process.facts is not None:
            return process.facts
        facts = {
            **static_facts(process.process, process.parent),
            "ContainerName": self.container.container_id,
            **self.cluster_facts,
        }
        if process.cpu is not None and process.cpu.cores is not None and not process.is_shortened:
            arguments_bytes = size_of(facts.get("Arguments", ()))  # type: ignore[arg-type]
            if arguments_bytes <= _FREE_ARGUMENTS_BYTES + _MAX_SPLIT_SHARE * process.text_bytes:
                process.facts, process.facts_bytes = facts, arguments_bytes
        return facts

    def sightings_of(self, process: TrackedProcess, matches: Iterable[Match]) -> Iterator[Sighting]:
        """Yield the matches that are findings already: see ``planted_words.DELAY_CPU_S``."""
        is_host = self.container.kind is ContainerKind.HOST
        for match in matches:
            if match.is_delayed:
                process.has_delayed = self.has_delayed = True
                if (process.counted_cpu_s if is_host else self.delayed_cpu_s) < DELAY_CPU_S:
                    continue
            yield Sighting(match.rule, process.process.id, match.evidence, match.words_only)

    def collect_static_sightings(self) -> None:
        """Rebuild the static sightings from the matches of the processes."""
        self.has_delayed = False
        self.static_sightings = tuple(
            sighting
            for process in self.processes.values()
            if process.matches
            for sighting in self.sightings_of(process, process.matches)
        )
        self.count_text()

    def count_text(self) -> None:
        """Update how much text is kept of the processes."""
        self.text_bytes = sum(
            process.text_bytes + process.facts_bytes for process in self.processes.values()
        )

    def count_delayed_cpu(self, at_s: float) -> None:
        """Count the CPU time that processes with delayed matches have used since the last tick."""
        if not self.has_delayed:
            return
        used_s = 0.0
        for process in self.processes.values():
            if process.cpu is not None and process.has_delayed:
                used_s += max(0.0, process.cpu.cpu_s - process.counted_cpu_s)
                process.counted_cpu_s = process.cpu.cpu_s
        self.delayed_cpu_s = cpu_s_after(self.delayed_cpu_s, used_s, at_s - self.delayed_at_s)
        self.delayed_at_s = at_s
        self.collect_static_sightings()

    def newly_found(self) -> list[Finding]:
        """Return the verdict's findings that were not in it at the last call."""
        before, found = self.findings, self.verdict.findings
        self.findings = frozenset((each.rule, each.process) for each in found)
        return [each for each in found if (each.rule, each.process) not in before]

    def observation(self, max_processes: int = 0, details: Details | None = None) -> Observation:
        """Return the container as it is published, with ``max_processes`` of its processes."""
        details = details or Details()
        return Observation(
            container=self.container,
            at_s=self.verdict.at_s,
            cpu_cores=self.cpu.cores,
            cpu_s=self.cpu.cpu_s,
            limit=self.limit,
            throttled_share=self.throttled_share,
            verdict=self.verdict,
            process_count=len(self.processes),
            processes=tuple(
                ProcessLoad(
                    each.process,
                    each.cpu_cores,
                    details.connections(each.process.id),
                    details.executed(each.process.id),
                    None if each.cpu is None else each.cpu.cpu_s,
                    None if each.cpu is None else each.threads,
                    details.memory_bytes(each.process.id.pid) if each.cpu_cores else None,
                    details.gpu(each.process.id),
                )
                for each in self._foremost(max_processes, details)
            ),
            executed=details.executed(self.container.key),
            gpu=self.gpu,
            uses_host_network=self.container.kind in WITH_NETWORK
            and any(map(details.uses_host_network, islice(self.processes, 1))),
        )

    def forget_measured(self) -> None:
        """Drop what is measured process by process: the container is no longer hot."""
        self.limit = self.throttled_share = None
        self.dynamic_sightings = ()
        for process in self.processes.values():
            process.forget_cpu()
        self.count_text()

    def update_limit(self, now: CpuLimit | None) -> None:
        """Keep the limit as read now, and the share of periods in which it was throttled."""
        before, self.limit = self.limit, now
        self.throttled_share = None
        if before and now and now.periods > before.periods:
            throttled = now.throttled_periods - before.throttled_periods
            self.throttled_share = max(0.0, throttled / (now.periods - before.periods))

    def _foremost(self, limit: int, details: Details) -> list[TrackedProcess]:
        """Return processes with findings, then those with the highest CPU or GPU rate."""
        if not limit:
            return []
        found = {finding.process for finding in self.verdict.findings}

        def rate(process: TrackedProcess) -> float:
            busy = details.gpu(process.process.id).get("GpuBusy") if self.gpu else None
            return max(process.cpu_cores or 0.0, busy if isinstance(busy, float) else 0.0)

        return sorted(
            self.processes.values(), key=lambda each: (each.process.id not in found, -rate(each))
        )[:limit]


@dataclass(slots=True)
class TrackedNode:
    """All containers, the container of each process, and when the last ticks were."""

    containers: dict[ContainerKey, TrackedContainer] = field(default_factory=dict)
    container_of: dict[int, TrackedContainer] = field(default_factory=dict)  # by PID
    tick_times_s: deque[float] = field(default_factory=deque)  # within the window
    last_tick_s: float = float("inf")

    def owner_of(self, pid: int) -> str:
        """Return the owner of the container of ``pid``; empty if it is in none."""
        container = self.container_of.get(pid)
        return container.owner if container is not None else ""

    def process(self, pid: int) -> TrackedProcess | None:
        """Return the process with this PID; None if it has not been read."""
        container = self.container_of.get(pid)
        return container.processes.get(pid) if container is not None else None

    def carrier(self, container: Container, *, of_pod: bool = True) -> Container:
        """Return the pod's own container that ``container`` is nested in, or itself.

        Not ``of_pod``: the engine's on the host, whatever the cgroups in it claim to be.
        """
        if not container.outer_cgroup:
            return container
        kind = container.kind if of_pod else ContainerKind.ENGINE
        by_cgroup = {each.container.cgroup: each.container for each in self.containers.values()}
        found = container
        for _ in range(MAX_ANCESTORS):
            outer = by_cgroup.get(found.outer_cgroup)
            if outer is None or outer.kind is not kind:
                break
            found = outer
        return found


def is_idle_sandbox(
    container: Container, verdict: Verdict, cpu_s: float, process_count: int
) -> bool:
    """Return True if a pod's container without a name in the API is the pod's sandbox.

    A sandbox holds the pod's namespaces: one process that waits. Anything that uses CPU or has a
    finding is a container, whatever its name.
    """
    return (
        container.kind is ContainerKind.POD
        and not container.outer_cgroup
        and verdict.level is Level.CLEAR
        and not verdict.findings
        and cpu_s < _MAX_SANDBOX_CPU_S
        and process_count <= 1
    )
