"""Findings over time -> verdict. Pure: the clock is passed in."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING

from minerwatch.model import (
    Abuse,
    ContainerKey,
    CullableAbuse,
    Evidence,
    Finding,
    Level,
    Maturity,
    ProcessId,
    Signal,
    Verdict,
)

if TYPE_CHECKING:  # commands that run in an agent's pod import this module: the parser is slow
    from minerwatch.detection.sigma.rule import Rule

MAX_PROCESSES_PER_RULE = 256
"""Processes of one container that are remembered for one rule."""

MAX_FINDINGS = 100
"""Findings listed in one verdict; the score counts all."""

WORDS_ONLY_SCORE = 60.0
"""Highest score of a match on one argument or a script's words: ``suspicious``."""

DEFAULT_MAX_GAP_S = 60.0
MAX_GAP_TICKS = 3
"""Longer gaps between verdicts restart the time that a rule has held. Ticks of a starved node are
at most two intervals apart, and a restarted program needs one to be measured."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A rule that matches at this tick, on a process or (None) on the container as a whole."""

    rule: Rule
    process: ProcessId | None
    evidence: tuple[Evidence, ...]
    words_only: bool = False  # it rests on one argument, or on words in a shell's script

    @property
    def signal(self) -> Signal:
        """The rule's signal; for words alone ``identity``, whatever the rule infers from them."""
        return Signal.IDENTITY if self.words_only else self.rule.signal

    @property
    def score(self) -> float:
        """The rule's score, limited for words alone."""
        return min(self.rule.score, WORDS_ONLY_SCORE) if self.words_only else self.rule.score

    @property
    def private(self) -> bool:
        """True if only the rule's id may be published: a private folder defines what holds."""
        secrets = self.rule.secrets
        return self.rule.private or (
            bool(secrets) and any((each.field, each.expected) in secrets for each in self.evidence)
        )


@dataclass(slots=True)
class _Held:
    """Time since when a rule has held on any process of a container."""

    since_s: float
    ticks_missed: int = 0

    def forget(self, at_s: float, passed_s: float, hold_s: float) -> None:
        """Shorten the time held by the time in which the rule did not match."""
        self.since_s = max(self.since_s, at_s - passed_s - hold_s) + 2 * passed_s


@dataclass(slots=True)
class _History:
    """State kept per container from tick to tick."""

    first_seen_s: dict[tuple[str, ProcessId | None], float] = field(default_factory=dict)
    matched: dict[str, _Held] = field(default_factory=dict)  # rules on what is computed
    hold_s: dict[str, float] = field(default_factory=dict)  # of these
    found: dict[str, _Held] = field(default_factory=dict)  # rules, once they are findings
    latest_s: float = 0.0
    reached: deque[Level] = field(default_factory=deque)
    level: Level = Level.CLEAR
    since_s: float = 0.0

    @property
    def is_needed(self) -> bool:
        """Return True if a later verdict depends on it."""
        return self.level is not Level.CLEAR or bool(
            self.first_seen_s or self.matched or self.found
        )


def signal_scores(findings: Iterable[Finding]) -> dict[Signal, float]:
    """Return the highest score of each signal's findings."""
    scores: dict[Signal, float] = {}
    for finding in findings:
        scores[finding.signal] = max(finding.score, scores.get(finding.signal, 0.0))
    return scores


def joined_score(scores: Mapping[Signal, float]) -> float:
    """Return the joint score of the signals, 0 to 100: noisy-or over signals.

    Two signals support each other, and neither can lower the score. Behaviour never changes the
    level: its share ends at the highest score of the level that the other signals reach.
    """
    others = [score for signal, score in scores.items() if signal is not Signal.BEHAVIOUR]
    level = Level.of(noisy_or(others))
    return min(noisy_or(scores.values()), level.highest_score)


def of_worst_abuse(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings of the kind of abuse with the highest score."""
    return max(_by_abuse(findings).values(), key=_score_of_one_abuse, default=[])


def score_of(findings: Iterable[Finding]) -> float:
    """Return the joint score of the findings of the worst kind of abuse."""
    return _score_of_one_abuse(of_worst_abuse(findings))


def scores_by_abuse(findings: Iterable[Finding], *, apart: bool = False) -> dict[Abuse, float]:
    """Return the joint score of each kind of abuse, highest first.

    ``apart``: processes are unrelated, and of each kind the worst process counts.
    """
    found = list(findings)
    scores: dict[Abuse, float] = {}
    for own in _by_process(found) if apart else [found]:
        for abuse, of_abuse in _by_abuse(own).items():
            scores[abuse] = max(_score_of_one_abuse(of_abuse), scores.get(abuse, 0.0))
    return dict(sorted(scores.items(), key=lambda item: -item[1]))


def _by_abuse(findings: Iterable[Finding]) -> dict[Abuse, list[Finding]]:
    found: dict[Abuse, list[Finding]] = {}
    for finding in findings:
        found.setdefault(finding.abuse, []).append(finding)
    return found


def _score_of_one_abuse(findings: Iterable[Finding]) -> float:
    """Return the joint score of findings of one kind.

    Words of one argument raise the level to ``suspicious`` at most, and never above the level of
    the other findings: an outsider may have chosen them for a program with findings of its own.
    """
    found = list(findings)
    score = joined_score(signal_scores(found))
    without = joined_score(signal_scores(each for each in found if not each.words_only))
    if without == score:
        return score
    return min(score, max(Level.of(without), Level.SUSPICIOUS).highest_score)


def noisy_or(scores: Iterable[float]) -> float:
    """Return the joint score, 0 to 100, of scores that support each other."""
    return round(100 * (1 - prod(1 - score / 100 for score in scores)), 2)


def of_foremost_process(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings of the worst process, with those on the container as a whole.

    Processes of the host are unrelated: there two signals support each other only on the same
    process.
    """
    return max(_by_process(findings), key=score_of)


def _by_process(findings: Iterable[Finding]) -> list[list[Finding]]:
    """Return the findings of each process, each with those on the container as a whole."""
    of_container: list[Finding] = []
    by_process: dict[ProcessId, list[Finding]] = {}
    for finding in findings:
        if finding.process is None:
            of_container.append(finding)
        else:
            by_process.setdefault(finding.process, []).append(finding)
    return [[*of_container, *own] for own in by_process.values()] or [of_container]


def announced(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings that people are shown: not those of experimental rules."""
    return [found for found in findings if found.maturity is not Maturity.EXPERIMENTAL]


def announced_levels(verdict: Verdict) -> dict[Abuse, Level]:
    """Return the level of each kind of abuse without experimental rules, the worst kind first.

    Empty only when the verdict is clear.
    """
    if verdict.level is Level.CLEAR:
        return {}
    scores = scores_by_abuse(announced(verdict.findings)) or dict.fromkeys(
        scores_by_abuse(verdict.findings) or (Abuse.MINING,), 0.0
    )
    return {
        abuse: max(Level.SUSPICIOUS, min(verdict.level, Level.of(score)))
        for abuse, score in scores.items()
    }


CULLABLE = frozenset(Abuse(each.value) for each in CullableAbuse)

POD_COUNTERS = frozenset(
    (
        "ConnectsPerSecond",
        "FailedConnectShare",
        "SegmentsPerConnect",
        "DatagramsPerSecond",
        "RawPacketsPerSecond",
    )
)
"""Fields of the pod's own network counters: the evidence for scans and floods."""
_PLANTED = "UnreachablePerSecond"
"""A neighbour can send these answers unasked."""


def is_cullable(verdict: Verdict) -> bool:
    """Return True if the findings of one kind of abuse alone permit an action."""
    return proven_abuse(verdict.findings) is not None


def counting_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings that may count towards culling: stable rules, without behaviour."""
    return [
        finding
        for finding in findings
        if finding.maturity is Maturity.STABLE and finding.signal is not Signal.BEHAVIOUR
    ]


def proven_abuse(findings: Iterable[Finding]) -> Abuse | None:
    """Return the kind of abuse whose findings permit an action; None if none does.

    One process, with the findings on the container as a whole, must be ``confirmed`` by rules of
    status ``stable``, by at least two signals besides behaviour. A word in one process and a
    simulation in another are no proof. One finding must be of the kind that an outsider cannot
    cause: names, arguments, addresses and data of an innocent process can be chosen by others, but
    not what its CPU executes, and not how many of its own connections fail.
    """
    proven = (
        abuse
        for own in _by_process(counting_findings(findings))
        for abuse, of_abuse in _by_abuse(own).items()
        if abuse in CULLABLE and _is_proof(abuse, of_abuse)
    )
    return next(proven, None)


def _is_proof(abuse: Abuse, findings: list[Finding]) -> bool:
    signals = {signal for signal, score in signal_scores(findings).items() if score > 0}
    return (
        len(signals) >= 2
        and any(each.score > 0 and _cannot_be_planted(abuse, each) for each in findings)
        and Level.of(score_of(findings)) is Level.CONFIRMED
    )


def _cannot_be_planted(abuse: Abuse, finding: Finding) -> bool:
    if abuse in (Abuse.MINING, Abuse.CRACKING):
        return finding.signal is Signal.COMPUTE
    fields = {each.field for each in finding.evidence}
    is_counted = not POD_COUNTERS.isdisjoint(fields) and _PLANTED not in fields
    return finding.signal is Signal.NETWORK and is_counted


class Judge:
    """State per container: since when each rule has held, and the level.

    A container is kept while it has sightings or a level, and until it is forgotten.
    """

    def __init__(self, ticks_below: int = 3, max_gap_s: float = DEFAULT_MAX_GAP_S) -> None:
        """``max_gap_s``: a longer time without a verdict restarts all rules."""
        self._ticks_below = ticks_below
        self._max_gap_s = max_gap_s
        self._histories: dict[ContainerKey, _History] = {}

    def __contains__(self, container: ContainerKey) -> bool:
        """Return True if the container has state: it must be judged at the next tick."""
        return container in self._histories

    def forget(self, container: ContainerKey) -> None:
        """Drop the state of a container that is gone."""
        self._histories.pop(container, None)

    def verdict(
        self,
        container: ContainerKey,
        sightings: Iterable[Sighting],
        at_s: float,
        *,
        apart: bool = False,
        is_tick: bool = True,
    ) -> Verdict:
        """Return the verdict on ``container`` at ``at_s``, given all matches of now.

        ``apart``: its processes are unrelated, and the worst one counts.
        ``is_tick``: False between two ticks, when a level may rise but not fall.
        """
        history = self._histories.setdefault(container, _History(since_s=at_s, latest_s=at_s))
        if at_s - history.latest_s > self._max_gap_s:
            history.first_seen_s, history.matched, history.found = {}, {}, {}
        passed_s, history.latest_s = at_s - history.latest_s, at_s
        if apart:
            findings = _findings(history, sightings, at_s)
        else:
            findings = self._timed_by_container(
                history, tuple(sightings), at_s, passed_s, is_tick=is_tick
            )
        counted = of_foremost_process(findings) if apart else findings
        score = score_of(counted)
        self._update_level(history, Level.of(score), at_s, is_tick=is_tick)
        if not history.is_needed:
            self.forget(container)
        return Verdict(
            container, at_s, score, history.level, history.since_s, tuple(_foremost(findings))
        )

    def _update_level(
        self, history: _History, reached: Level, at_s: float, *, is_tick: bool
    ) -> None:
        """Set the level to the highest of the last ticks: it rises at once and falls late."""
        if is_tick or not history.reached:
            history.reached.append(reached)
        else:
            history.reached[-1] = max(history.reached[-1], reached)
        while len(history.reached) > self._ticks_below:
            history.reached.popleft()
        level = max(history.reached)
        if level is not history.level:
            history.level, history.since_s = level, at_s

    def _timed_by_container(
        self,
        history: _History,
        sightings: tuple[Sighting, ...],
        at_s: float,
        passed_s: float,
        *,
        is_tick: bool,
    ) -> list[Finding]:
        """Return the findings, timed over all processes of the container.

        A miner that exits and restarts every few minutes is one miner: its findings keep the time
        of the first. Rules on computation are timed by container, even if each worker lives too
        short for the rule's ``for:``. Words and names are not: they may be those of a build's many
        short programs. A pause is subtracted from the time that counts; if it reset that time, a
        miner that pauses for a minute in each half hour would never have computed for long.
        """
        computing = {each.rule.id: at_s for each in sightings if each.signal is Signal.COMPUTE}
        history.hold_s.update(
            (each.rule.id, each.rule.hold_s) for each in sightings if each.rule.id in computing
        )
        self._update_matched(history, computing, at_s, passed_s, is_tick=is_tick)
        findings = _findings(history, sightings, at_s)
        found: dict[str, float] = {}
        for finding in findings:
            found[finding.rule] = min(finding.since_s, found.get(finding.rule, finding.since_s))
        self._update_held(history.found, found, is_tick=is_tick)
        return [replace(each, since_s=history.found[each.rule].since_s) for each in findings]

    def _update_matched(
        self,
        history: _History,
        computing: Mapping[str, float],
        at_s: float,
        passed_s: float,
        *,
        is_tick: bool,
    ) -> None:
        for rule, held in list(history.matched.items()):
            if rule in computing:
                held.ticks_missed = 0
                continue
            held.ticks_missed += is_tick
            if held.ticks_missed >= self._ticks_below:
                held.forget(at_s, passed_s, history.hold_s.get(rule, 0.0))
                if held.since_s >= at_s:
                    del history.matched[rule]
        for rule, since_s in computing.items():
            history.matched.setdefault(rule, _Held(since_s))
        history.hold_s = {rule: history.hold_s[rule] for rule in history.matched}

    def _update_held(
        self, held: dict[str, _Held], since_s: Mapping[str, float], *, is_tick: bool
    ) -> None:
        """Add the rules that hold now; drop those missed for as long as a level takes to fall."""
        for rule, each in list(held.items()):
            each.ticks_missed = 0 if rule in since_s else each.ticks_missed + is_tick
            if each.ticks_missed >= self._ticks_below:
                del held[rule]
        for rule, at_s in since_s.items():
            known = held.setdefault(rule, _Held(at_s))
            known.since_s = min(known.since_s, at_s)


def _findings(history: _History, sightings: Iterable[Sighting], at_s: float) -> list[Finding]:
    """Return the sightings that have held for as long as their rule requires."""
    before, now = history.first_seen_s, {}
    processes: Counter[str] = Counter()
    findings = []
    for sighting in _by_weight(tuple(sightings)):
        rule = sighting.rule
        processes[rule.id] += 1
        if processes[rule.id] > MAX_PROCESSES_PER_RULE:
            continue
        key = (rule.id, sighting.process)
        since_s = now[key] = before.get(key, at_s)
        matched = history.matched.get(rule.id)
        since_s = since_s if matched is None else min(since_s, matched.since_s)
        if at_s - since_s >= rule.hold_s:
            findings.append(_finding(sighting, since_s))
    history.first_seen_s = now
    return findings


def _finding(sighting: Sighting, since_s: float) -> Finding:
    rule = sighting.rule
    return Finding(
        rule=rule.id,
        title=rule.title,
        signal=sighting.signal,
        score=sighting.score,
        maturity=rule.maturity,
        since_s=since_s,
        process=sighting.process,
        evidence=sighting.evidence,
        private=sighting.private,
        words_only=sighting.words_only,
        abuse=rule.abuse,
        filters=tuple(each.public_title for each in rule.filters),
    )


def _by_weight(sightings: tuple[Sighting, ...]) -> Sequence[Sighting]:
    """Return the sightings; if some are left out, those on processes that may be culled are first.

    So hundreds of idle processes with a miner's words do not displace the process that computes.
    """
    if len(sightings) <= MAX_PROCESSES_PER_RULE:
        return sightings
    lightness = _lightness(
        (each.process, each.signal, each.score, each.rule.maturity) for each in sightings
    )
    return sorted(sightings, key=lambda each: lightness(each.process))


def _lightness(
    found: Iterable[tuple[ProcessId | None, Signal, float, Maturity]],
) -> Callable[[ProcessId | None], tuple[bool, float]]:
    """Return a sort key for processes: those with most weight by stable rules come first."""
    scores: dict[ProcessId | None, dict[Signal, float]] = {}
    for process, signal, score, maturity in found:
        own = scores.setdefault(process, {})
        if maturity is Maturity.STABLE:
            own[signal] = max(score, own.get(signal, 0.0))
    keys = {
        process: (process is not None and Signal.COMPUTE not in own, -joined_score(own))
        for process, own in scores.items()
    }
    return keys.__getitem__


def _foremost(findings: list[Finding]) -> list[Finding]:
    """Return at most MAX_FINDINGS, highest score first; each rule is listed before any repeats.

    It is listed first on the processes that may be culled.
    """
    findings.sort(key=lambda finding: (-finding.score, finding.since_s, finding.rule))
    if len(findings) > MAX_FINDINGS:
        lightness = _lightness(
            (each.process, each.signal, each.score, each.maturity) for each in findings
        )
        listed: Counter[str] = Counter()
        rounds: dict[int, int] = {}
        for index in sorted(range(len(findings)), key=lambda at: lightness(findings[at].process)):
            rounds[index] = listed[findings[index].rule]
            listed[findings[index].rule] += 1
        chosen = sorted(rounds, key=rounds.__getitem__)[:MAX_FINDINGS]
        findings = [findings[index] for index in sorted(chosen)]
    return findings
