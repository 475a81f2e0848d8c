"""Findings over time -> verdict. Pure: the clock is passed in."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod

from minerwatch.detection.rule import Rule
from minerwatch.model import (
    ContainerKey,
    Evidence,
    Finding,
    Level,
    Maturity,
    ProcessId,
    Signal,
    Verdict,
)

MAX_PROCESSES_PER_RULE = 256
"""Of one container, remembered for one rule: the two hundredth copy of a miner adds nothing."""

MAX_FINDINGS = 100
"""Listed in one verdict; the score counts all."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A rule that matches at this tick, on a process or (None) on the container as a whole."""

    rule: Rule
    process: ProcessId | None
    evidence: tuple[Evidence, ...]

    @property
    def private(self) -> bool:
        """Whether only the rule's id may be told: what holds is what a private folder says."""
        secrets = self.rule.secrets
        return self.rule.private or (
            bool(secrets) and any((each.field, each.expected) in secrets for each in self.evidence)
        )


@dataclass(slots=True)
class _History:
    """What is remembered of a container from tick to tick."""

    first_seen_s: dict[tuple[str, ProcessId | None], float] = field(default_factory=dict)
    reached: deque[Level] = field(default_factory=deque)
    level: Level = Level.CLEAR
    since_s: float = 0.0


def signal_scores(findings: Iterable[Finding]) -> dict[Signal, float]:
    """The highest score that each signal's findings reach."""
    scores: dict[Signal, float] = {}
    for finding in findings:
        scores[finding.signal] = max(finding.score, scores.get(finding.signal, 0.0))
    return scores


def joined_score(scores: Mapping[Signal, float]) -> float:
    """0 to 100: noisy-or over signals. Two signals support each other, neither can lower it."""
    return round(100 * (1 - prod(1 - score / 100 for score in scores.values())), 2)


def of_foremost_process(findings: Iterable[Finding]) -> list[Finding]:
    """Those of the process that is worst, with those of the container as a whole.

    The host itself holds what has nothing to do with each other: there two signals support each
    other only if they speak of the same process.
    """
    of_container: list[Finding] = []
    by_process: dict[ProcessId, list[Finding]] = {}
    for finding in findings:
        if finding.process is None:
            of_container.append(finding)
        else:
            by_process.setdefault(finding.process, []).append(finding)
    groups = [[*of_container, *own] for own in by_process.values()] or [of_container]
    return max(groups, key=lambda group: joined_score(signal_scores(group)))


def is_cullable(verdict: Verdict) -> bool:
    """Whether the findings alone would permit an action: DESIGN's second culling invariant.

    That is: ``confirmed`` by what holds now, also when only rules of status ``stable`` are
    counted, by at least two signals, and all of that of one process (with what is said of the
    container as a whole). A word in one process and a simulation in another are no proof.
    """
    stable = [finding for finding in verdict.findings if finding.maturity is Maturity.STABLE]
    found = signal_scores(of_foremost_process(stable))
    scores = {signal: score for signal, score in found.items() if score > 0}
    return len(scores) >= 2 and Level.of(joined_score(scores)) is Level.CONFIRMED


class Judge:
    """Remembers, for each container, since when each rule has matched and which level it holds.

    A container is remembered while it has sightings or a level, and until it is forgotten.
    """

    def __init__(self, ticks_below: int = 3) -> None:
        self._ticks_below = ticks_below
        self._histories: dict[ContainerKey, _History] = {}

    def __contains__(self, container: ContainerKey) -> bool:
        """Whether anything is remembered of ``container``: it must be judged at the next tick."""
        return container in self._histories

    def forget(self, container: ContainerKey) -> None:
        """Drops what is remembered of a container that is gone."""
        self._histories.pop(container, None)

    def verdict(
        self,
        container: ContainerKey,
        sightings: Iterable[Sighting],
        at_s: float,
        *,
        apart: bool = False,
    ) -> Verdict:
        """The verdict on ``container`` at ``at_s``, given everything that matches now.

        ``apart``: its processes have nothing to do with each other; the worst one counts.
        """
        history = self._histories.setdefault(container, _History(since_s=at_s))
        findings = _held(history, sightings, at_s)
        telling = of_foremost_process(findings) if apart else findings
        score = joined_score(signal_scores(telling))
        self._settle(history, Level.of(score), at_s)
        if not history.first_seen_s and history.level is Level.CLEAR:
            self.forget(container)
        return Verdict(
            container, at_s, score, history.level, history.since_s, tuple(_foremost(findings))
        )

    def _settle(self, history: _History, reached: Level, at_s: float) -> None:
        """A level is the highest of the last ticks': it rises at once and falls late."""
        history.reached.append(reached)
        while len(history.reached) > self._ticks_below:
            history.reached.popleft()
        level = max(history.reached)
        if level is not history.level:
            history.level, history.since_s = level, at_s


def _held(history: _History, sightings: Iterable[Sighting], at_s: float) -> list[Finding]:
    """The findings among ``sightings``: those that have matched for as long as their rule asks."""
    before, now = history.first_seen_s, {}
    processes: Counter[str] = Counter()
    findings = []
    for sighting in sightings:
        rule = sighting.rule
        processes[rule.id] += 1
        if processes[rule.id] > MAX_PROCESSES_PER_RULE:
            continue
        key = (rule.id, sighting.process)
        since_s = now[key] = before.get(key, at_s)
        if at_s - since_s >= rule.hold_s:
            findings.append(
                Finding(
                    rule=rule.id,
                    title=rule.title,
                    signal=rule.signal,
                    score=rule.score,
                    maturity=rule.maturity,
                    since_s=since_s,
                    process=sighting.process,
                    evidence=sighting.evidence,
                    private=sighting.private,
                )
            )
    history.first_seen_s = now
    return findings


def _foremost(findings: list[Finding]) -> list[Finding]:
    """At most MAX_FINDINGS, highest score first; every rule is heard before any is repeated."""
    findings.sort(key=lambda finding: (-finding.score, finding.since_s, finding.rule))
    if len(findings) > MAX_FINDINGS:
        heard: Counter[str] = Counter()
        rounds = []
        for finding in findings:
            rounds.append(heard[finding.rule])
            heard[finding.rule] += 1
        chosen = sorted(range(len(findings)), key=rounds.__getitem__)[:MAX_FINDINGS]
        findings = [findings[place] for place in sorted(chosen)]
    return findings
