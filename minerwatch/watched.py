"""What is known of a container and its processes, from tick to tick. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from minerwatch.detection.facts import static_facts
from minerwatch.detection.judge import Sighting
from minerwatch.detection.match import Match
from minerwatch.detection.usage import CpuHistory
from minerwatch.model import (
    Connection,
    Container,
    CpuLimit,
    Facts,
    Finding,
    Level,
    Observation,
    Process,
    ProcessId,
    ProcessLoad,
    Verdict,
)


@dataclass(slots=True)
class WatchedProcess:
    """A process, who it is and what was measured of it."""

    process: Process
    parent: Process | None = None
    facts: Facts | None = None  # static ones, kept while they are asked for each tick
    matches: tuple[Match, ...] = ()
    is_to_be_matched: bool = False
    cpu: CpuHistory | None = None  # None while its container is idle
    threads: int = 0
    thread_cpu_s: Mapping[int, float] | None = None
    thread_cpu_at_s: float = 0.0

    @property
    def cpu_cores(self) -> float | None:
        """Since the last reading but one; None: there is no rate."""
        return self.cpu.cores if self.cpu else None


@dataclass(slots=True)
class WatchedContainer:
    """A container, whose it is, what it holds and how it was judged."""

    container: Container
    cpu: CpuHistory
    verdict: Verdict
    place: Facts = field(default_factory=dict)  # in the cluster
    place_age: int = 0  # ticks since it was asked for
    processes: dict[int, WatchedProcess] = field(default_factory=dict)
    static_sightings: tuple[Sighting, ...] = ()
    dynamic_sightings: tuple[Sighting, ...] = ()  # as of the last tick
    is_measured: bool = False  # process by process, at the last tick
    limit: CpuLimit | None = None
    throttled_share: float | None = None
    findings: frozenset[tuple[str, ProcessId | None]] = frozenset()


def newly_watched(container: Container, at_s: float, cpu_s: float) -> WatchedContainer:
    """One that nothing is known of but what it has burnt so far."""
    clear = Verdict(container.key, at_s, 0.0, Level.CLEAR, at_s, ())
    return WatchedContainer(container, CpuHistory(at_s, cpu_s), clear)


def static_facts_of(watched: WatchedContainer, process: WatchedProcess) -> Facts:
    """What never changes of a process; kept from the second tick in a row on that asks for it.

    They take more memory than all else that is known of a process, and most processes idle.
    """
    if process.facts is not None:
        return process.facts
    facts = {
        **static_facts(process.process, process.parent),
        "ContainerName": watched.container.container_id,
        **watched.place,
    }
    if process.cpu is not None and process.cpu.cores is not None:
        process.facts = facts
    return facts


def collect_static_sightings(watched: WatchedContainer) -> None:
    """Brings a container's sightings up to date with those of its processes."""
    watched.static_sightings = tuple(
        Sighting(match.rule, process.process.id, match.evidence, match.words_only)
        for process in watched.processes.values()
        for match in process.matches
    )


def newly_found(watched: WatchedContainer) -> list[Finding]:
    """The verdict's findings that were not there when this was last asked."""
    before = watched.findings
    watched.findings = frozenset(
        (finding.rule, finding.process) for finding in watched.verdict.findings
    )
    if watched.findings <= before:
        return []
    return [
        finding
        for finding in watched.verdict.findings
        if (finding.rule, finding.process) not in before
    ]


def _no_connections(_process: ProcessId) -> tuple[Connection, ...]:
    return ()


def observation_of(
    watched: WatchedContainer,
    max_processes: int,
    connections: Callable[[ProcessId], tuple[Connection, ...]] = _no_connections,
) -> Observation:
    """As others see it: with so many of its processes, and whom they are connected to."""
    return Observation(
        container=watched.container,
        at_s=watched.verdict.at_s,
        cpu_cores=watched.cpu.cores,
        cpu_s=watched.cpu.cpu_s,
        limit=watched.limit,
        throttled_share=watched.throttled_share,
        verdict=watched.verdict,
        process_count=len(watched.processes),
        processes=tuple(
            ProcessLoad(each.process, each.cpu_cores, connections(each.process.id))
            for each in _foremost(watched, max_processes)
        ),
    )


def _foremost(watched: WatchedContainer, limit: int) -> list[WatchedProcess]:
    """Processes with findings, then those that burn most."""
    if not limit:
        return []
    found = {finding.process for finding in watched.verdict.findings}
    ranked = sorted(
        watched.processes.values(),
        key=lambda each: (each.process.id not in found, -(each.cpu_cores or 0.0)),
    )
    return ranked[:limit]
