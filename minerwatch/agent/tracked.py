"""What is known of a container and its processes, from tick to tick. Pure."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace

from minerwatch.detection.cpu_history import CpuHistory
from minerwatch.detection.facts import static_facts
from minerwatch.detection.judge import Sighting
from minerwatch.detection.matching.matcher import Match
from minerwatch.detection.planted_words import DELAY_CPU_S, cpu_s_after
from minerwatch.model import (
    Connection,
    Container,
    ContainerKind,
    CpuLimit,
    Evidence,
    Facts,
    Finding,
    Level,
    Observation,
    Process,
    ProcessId,
    ProcessLoad,
    Verdict,
)
from minerwatch.text_budget import both_ends, size_of, water_level

_SANDBOX_CPU_S = 1.0
"""A pause container takes some hundredths of a second to start, and nothing after."""


@dataclass(slots=True)
class WatchedProcess:
    """A process, who it is and what was measured of it."""

    process: Process
    parent: Process | None = None
    facts: Facts | None = None  # static ones, kept while they are asked for each tick
    matches: tuple[Match, ...] = ()
    has_delayed: bool = False  # matches that count once enough CPU time has been used
    counted_cpu_s: float = 0.0  # CPU time that its container has counted towards that
    is_to_be_matched: bool = False
    cpu: CpuHistory | None = None  # None while its container is idle
    threads: int = 0
    thread_cpu_s: Mapping[int, float] | None = None
    thread_cpu_at_s: float = 0.0
    text_bytes: int = 0  # kept of it, as of the last match, without that of ``facts``
    facts_bytes: int = 0
    is_shortened: bool = False  # not all of its text is kept: it is read again to be matched again

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
    has_delayed: bool = False  # some process has such matches
    words_cpu_s: float = 0.0  # CPU time of its processes with such matches
    words_at_s: float = 0.0  # when that was last counted
    is_measured: bool = False  # process by process, at the last tick
    is_over_bound: bool = False  # with more cgroups than are kept apart
    limit: CpuLimit | None = None
    throttled_share: float | None = None
    findings: frozenset[tuple[str, ProcessId | None]] = frozenset()
    text_bytes: int = 0  # kept of its processes

    @property
    def owner(self) -> str:
        """Return what takes turns and shares bounds: the pod, or else the outermost container."""
        return self.container.owner

    @property
    def is_idle_sandbox(self) -> bool:
        """Return whether the API knows the pod, but has no name for this, which does nothing."""
        is_unnamed = bool(self.place) and "ContainerName" not in self.place
        return is_unnamed and is_idle_sandbox(
            self.container, self.verdict, self.cpu.cpu_s, len(self.processes)
        )


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
    if process.cpu is not None and process.cpu.cores is not None and not process.is_shortened:
        arguments_bytes = size_of(facts.get("Arguments", ()))  # type: ignore[arg-type]
        if arguments_bytes <= _FREE_ARGUMENTS_BYTES + _MAX_SPLIT_SHARE * process.text_bytes:
            process.facts, process.facts_bytes = facts, arguments_bytes
    return facts


_FREE_ARGUMENTS_BYTES = 2 << 10
_MAX_SPLIT_SHARE = 2
"""Thousands of short arguments take twenty times as much apart as together: they are not kept."""


def collect_static_sightings(watched: WatchedContainer) -> None:
    """Bring a container's sightings up to date with the matches of its processes."""
    watched.has_delayed = False
    watched.static_sightings = tuple(
        sighting_of(match, process)
        for process in watched.processes.values()
        for match in process.matches
        if counts(match, process, watched)
    )
    count_text(watched)


def count_text(watched: WatchedContainer) -> None:
    """Bring up to date how much text a container's processes keep."""
    watched.text_bytes = sum(
        process.text_bytes + process.facts_bytes for process in watched.processes.values()
    )


# Text that is kept.

_TEXT_FIELDS = tuple(
    each.name for each in fields(Process) if each.type in ("str", "tuple[str, ...]")
)
_BOUNDED_FIELDS = tuple(name for name in _TEXT_FIELDS if name not in ("comm", "user"))
"""The kernel bounds comm to 15 bytes; user names are the node's own."""
_MAX_PARENT_BYTES = 4 << 10
_MAX_EVIDENCE_BYTES = 32 << 10
_MAX_OBSERVED_BYTES = 1024  # an excerpt of 200 characters, of whatever width
_EVIDENCE_HEADER_BYTES = 80  # of the object, and its place in a tuple
_MATCH_BYTES = 300  # of a match, its sighting, and what the judge remembers of it


def note_text(process: WatchedProcess, parent: Process | None) -> None:
    """Bounds what a process that was matched keeps beside its own text, and counts all of it."""
    process.parent = _shortened(parent, _MAX_PARENT_BYTES) if parent is not None else None
    process.matches = _with_less_evidence(process.matches, _MAX_EVIDENCE_BYTES)
    _count_text(process)


def shorten_texts(processes: Iterable[WatchedProcess], max_bytes: int) -> int:
    """Shorten what is longest until all takes at most ``max_bytes``; how many were shortened."""
    known = list(processes)
    level = water_level((each.text_bytes + each.facts_bytes for each in known), max_bytes)
    count = 0
    for each in known:
        if each.text_bytes + each.facts_bytes > level:
            _shorten(each, level)
            count += 1
    return count


def _count_text(process: WatchedProcess) -> None:
    process.text_bytes = (
        _text_bytes(process.process)
        + (_text_bytes(process.parent) if process.parent is not None else 0)
        + len(process.matches) * _MATCH_BYTES
        + sum(_evidence_bytes(each) for match in process.matches for each in match.evidence)
    )


def _shorten(process: WatchedProcess, max_bytes: int) -> None:
    process.process = _shortened(process.process, max_bytes // 2)
    if process.parent is not None:
        process.parent = _shortened(process.parent, max_bytes // 4)
    matches = _deciding(process.matches, max_bytes // 4 // _MATCH_BYTES)
    process.matches = _with_less_evidence(matches, max_bytes // 4)
    process.facts, process.facts_bytes = None, 0
    process.is_shortened = True
    _count_text(process)


def _text_bytes(process: Process) -> int:
    return sum(size_of(getattr(process, name)) for name in _TEXT_FIELDS)


def _shortened(process: Process, max_bytes: int) -> Process:
    """Return the process with both ends of its texts, the longest cut first."""
    if _text_bytes(process) <= max_bytes:
        return process
    sizes = {name: size_of(getattr(process, name)) for name in _BOUNDED_FIELDS}
    level = water_level(sizes.values(), max_bytes)
    shorter = {
        name: both_ends(getattr(process, name), level)
        for name, size in sizes.items()
        if size > level
    }
    return replace(process, **shorter) if shorter else process


def _deciding(matches: tuple[Match, ...], count: int) -> tuple[Match, ...]:
    """Return at most ``count`` matches, in their order, and at least those that decide.

    A score rests on the best of each signal, a decision to act on the best of stable rules.
    """
    if len(matches) <= count:
        return matches
    ranked = sorted(matches, key=lambda match: -match.rule.score)
    best = {(match.rule.signal, match.rule.maturity): match for match in reversed(ranked)}
    kept = {id(match) for match in [*best.values(), *ranked][: max(count, len(best))]}
    return tuple(match for match in matches if id(match) in kept)


def _with_less_evidence(matches: tuple[Match, ...], max_bytes: int) -> tuple[Match, ...]:
    """Return all matches, with the first pieces of their evidence that fit."""
    if sum(len(match.evidence) for match in matches) * _MAX_OBSERVED_BYTES <= max_bytes:
        return matches
    kept: list[Match] = []
    for match in matches:
        count = 0
        for evidence in match.evidence:
            max_bytes -= _evidence_bytes(evidence)
            if max_bytes < 0:
                break
            count += 1
        is_whole = count == len(match.evidence)
        kept.append(match if is_whole else replace(match, evidence=match.evidence[:count]))
    return tuple(kept)


def _evidence_bytes(evidence: Evidence) -> int:
    return _EVIDENCE_HEADER_BYTES + sys.getsizeof(evidence.observed)


def counts(match: Match, process: WatchedProcess, watched: WatchedContainer) -> bool:
    """Return whether a match is a finding yet: see ``words.DELAY_CPU_S``."""
    if not match.is_delayed:
        return True
    process.has_delayed = watched.has_delayed = True
    is_host = watched.container.kind is ContainerKind.HOST
    cpu_s = process.counted_cpu_s if is_host else watched.words_cpu_s
    return cpu_s >= DELAY_CPU_S


def sighting_of(match: Match, process: WatchedProcess) -> Sighting:
    """The match as the judge takes it."""
    return Sighting(match.rule, process.process.id, match.evidence, match.words_only)


def count_delayed_cpu(watched: WatchedContainer, at_s: float) -> None:
    """Count the CPU time that processes with delayed matches have used since the last tick."""
    if not watched.has_delayed:
        return
    used_s = 0.0
    for process in watched.processes.values():
        if process.cpu is not None and process.has_delayed:
            used_s += max(0.0, process.cpu.cpu_s - process.counted_cpu_s)
            process.counted_cpu_s = process.cpu.cpu_s
    watched.words_cpu_s = cpu_s_after(watched.words_cpu_s, used_s, at_s - watched.words_at_s)
    watched.words_at_s = at_s
    collect_static_sightings(watched)


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


def is_idle_sandbox(
    container: Container, verdict: Verdict, cpu_s: float, process_count: int
) -> bool:
    """Return whether a container of a pod that the API does not name is the pod's sandbox.

    It holds the pod's namespaces: one process that waits. Anything that runs, or that something
    was found in, is a container, whatever it is called.
    """
    return (
        container.kind is ContainerKind.POD
        and not container.outer_cgroup
        and verdict.level is Level.CLEAR
        and not verdict.findings
        and cpu_s < _SANDBOX_CPU_S
        and process_count <= 1
    )


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
