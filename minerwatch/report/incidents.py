"""A node's incidents, added up from the lines of its journal. Pure.

Lines are read one by one and few incidents are kept, so a week of lines takes a few MiB.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice

from minerwatch.api.history import Day, Gap, Incident, IncidentAction, NodeHistory, weight
from minerwatch.api.journal import ActionLine, AgentLine, AnyLine, Usage, UsageLine, VerdictLine
from minerwatch.fair_queue import interleaved
from minerwatch.format import rfc3339, unix_s
from minerwatch.model import Level
from minerwatch.report.intervals import Interval, intervals, length_s

MAX_INCIDENTS = 500
MAX_GAPS = 100
_MAX_DROPPED = 50_000
_MAX_ACTIONS = 2000
_MAX_ACTIONS_OF_POD = 20
_DAY_S = 86400.0
_MAX_HOURS = 1e9  # a damaged line may hold any number
_JOULES_PER_KWH = 3.6e6
_FLAGGED = frozenset(level.label for level in Level if level)
_DETECTED = frozenset((Level.LIKELY.label, Level.CONFIRMED.label))


@dataclass(slots=True)
class _Meter:
    """CPU hours, GPU hours or kWh of a container while it was flagged, by two lower bounds."""

    by_usage: float | None = None  # lines of usage, from the beginning of the window
    by_level: float | None = None  # changes of level; None: one line alone says nothing

    def add_usage(self, amount: float | None) -> None:
        if amount is not None:
            self.by_usage = (self.by_usage or 0.0) + amount

    def add_level(self, before: float | None, now: float | None) -> None:
        if before is not None and now is not None:
            self.by_level = (self.by_level or 0.0) + max(0.0, now - before)

    def total(self) -> float | None:
        """Return the larger bound; None if there is neither."""
        return max((h for h in (self.by_usage, self.by_level) if h is not None), default=None)


_Counters = tuple[float | None, float | None, float | None]


@dataclass(slots=True)
class _Case:
    """State kept of a container that was flagged."""

    top_line: VerdictLine | Usage  # a line with its names: the one with the highest score, if any
    level: Level  # the highest
    flagged: str
    detected: str = ""
    delay_s: float | None = None
    ended: str = ""
    meters: tuple[_Meter, _Meter, _Meter] = field(  # CPU, GPU, energy of GPUs
        default_factory=lambda: (_Meter(), _Meter(), _Meter())
    )
    open: dict[str, _Counters] = field(default_factory=dict)  # flagged now: counters then

    @property
    def score(self) -> float:
        return self.top_line.score if isinstance(self.top_line, VerdictLine) else -1.0

    @property
    def weight(self) -> float:
        return weight(self.meters[0].total(), self.meters[1].total())


@dataclass(slots=True)
class _Sums:
    """Everything that is added up while lines are read."""

    since_s: float
    until_s: float
    cases: dict[str, _Case] = field(default_factory=dict)  # by pod and container, or by key
    names: dict[str, str] = field(default_factory=dict)  # key -> name in ``cases``
    actions: dict[tuple[str, str, str], ActionLine] = field(default_factory=dict)
    days: dict[str, list[float]] = field(default_factory=dict)  # recorded, all, flagged seconds
    gaps: list[Gap] = field(default_factory=list)
    node: str = ""
    cores: int = 0
    recorded_s: float = 0.0
    core_s: float = 0.0
    flagged_core_s: float = 0.0
    dropped: set[int] = field(default_factory=set)  # hashes of keys; one may return
    unlisted_h: float = 0.0
    unlisted_gpu_h: float = 0.0
    left_out: int = 0
    crashes: int = 0
    is_running: bool = False


def node_history(
    lines: Iterable[AnyLine], since_s: float, until_s: float, actions: Iterable[ActionLine] = ()
) -> NodeHistory:
    """Add up the lines between two times; ``actions`` are further ones, of the audit log.

    Earlier lines say which containers were flagged already.
    """
    sums = _Sums(since_s, until_s)
    sums.days = {date: [0.0, 0.0, 0.0] for date, _ in _days(since_s, until_s)}
    for interval in intervals(_events_added(sums, lines), since_s, until_s):
        if interval.usage is None:
            sums.gaps.append(Gap(rfc3339(interval.start_s), rfc3339(interval.end_s)))
        else:
            _add_usage(sums, interval, interval.usage)
    for line in actions:
        _add_action(sums, line)
    _drop_least(sums)
    longest = sorted(sums.gaps, key=length_s, reverse=True)[:MAX_GAPS]
    of_pod = _by_pod(sums.actions.values())
    return NodeHistory(
        node=sums.node,
        since=rfc3339(since_s),
        until=rfc3339(until_s),
        recorded_s=round(sums.recorded_s, 1),
        cores=sums.cores,
        cpu_hours=_hours(sums.core_s),
        flagged_cpu_hours=_hours(sums.flagged_core_s),
        gaps=tuple(sorted(longest, key=lambda gap: gap.since)),
        unlisted_gaps=len(sums.gaps) - len(longest),
        days=tuple(
            Day(date=date, recorded_s=round(recorded_s, 1), cpu_hours=_hours(core_s),
                flagged_cpu_hours=_hours(flagged_s))
            for date, (recorded_s, core_s, flagged_s) in sorted(sums.days.items())
        ),
        incidents=tuple(_incident(each, of_pod) for each in sums.cases.values()),
        unlisted=len(sums.dropped - {hash(each.top_line.key) for each in sums.cases.values()}),
        unlisted_cpu_hours=_hours(sums.unlisted_h * 3600),
        unlisted_gpu_hours=_hours(sums.unlisted_gpu_h * 3600),
        left_out=sums.left_out,
        crashes=sums.crashes,
    )  # fmt: skip


def _events_added(sums: _Sums, lines: Iterable[AnyLine]) -> Iterator[AnyLine]:
    """Pass the lines on, and add those that are events in time."""
    for line in lines:
        at_s = unix_s(line.at)
        if at_s is not None and at_s <= sums.until_s:
            sums.node = line.node
            is_within = at_s >= sums.since_s
            if isinstance(line, VerdictLine):
                _add_verdict(sums, line, is_within=is_within)
            elif isinstance(line, ActionLine):
                _add_action(sums, line)
            elif isinstance(line, AgentLine):
                sums.crashes += is_within and line.event == "start" and sums.is_running
                sums.is_running = line.event == "start"
        yield line


def _add_verdict(sums: _Sums, line: VerdictLine, *, is_within: bool) -> None:
    if is_within:
        sums.left_out += line.left_out
    name = f"{line.pod_uid}\n{line.container}" if line.pod_uid else line.key
    case = sums.cases.get(name)
    if case is not None:
        _add_counters(case, line)
    if line.level in _FLAGGED:
        if case is None:
            case = sums.cases.pop(line.key, None) or _Case(
                line, Level.of_label(line.level), line.at
            )
            _insert(sums, name, case)
        sums.names[line.key] = name
        _flag(case, line, _counters(line) if is_within else (None, None, None))
    elif case is not None:
        case.open.pop(line.key, None)
        if not case.open and is_within:
            case.ended = line.at
        elif not case.open:
            del sums.cases[name]


def _add_counters(case: _Case, line: VerdictLine) -> None:
    """Add what was used since the container's last change of level."""
    if (before := case.open.get(line.key)) is not None:
        for meter, was, now in zip(case.meters, before, _counters(line), strict=True):
            meter.add_level(was, now)


def _counters(line: VerdictLine) -> _Counters:
    joules = line.gpu_joules
    return line.cpu_hours, line.gpu_hours, None if joules is None else joules / _JOULES_PER_KWH


def _flag(case: _Case, line: VerdictLine, counters: _Counters) -> None:
    case.ended = ""
    case.open[line.key] = counters
    case.level = max(case.level, Level.of_label(line.level))
    if line.score >= case.score:
        case.top_line = line
    if line.level in _DETECTED and not case.detected:
        case.detected, case.delay_s = line.at, line.delay_s


def _add_usage(sums: _Sums, interval: Interval, usage: UsageLine) -> None:
    seconds = interval.end_s - interval.start_s
    sums.cores = usage.cores
    sums.recorded_s += seconds
    sums.core_s += seconds * usage.cpu_cores
    sums.flagged_core_s += seconds * usage.flagged_cpu_cores
    for date, part_s in _days(interval.start_s, interval.end_s):
        day = sums.days[date]
        day[0] += part_s
        day[1] += part_s * usage.cpu_cores
        day[2] += part_s * usage.flagged_cpu_cores
    for each in usage.containers:
        if each.level not in _FLAGGED:
            continue
        case = sums.cases.get(sums.names.get(each.key, each.key))
        if case is None:  # its change of level was not recorded, or is in a file that is gone
            case = _Case(each, Level.of_label(each.level), usage.at)
            if each.level in _DETECTED:
                case.detected = usage.at
            case.ended = usage.at
            _insert(sums, each.key, case)
        elif not isinstance(case.top_line, VerdictLine):
            case.ended = usage.at
        case.level = max(case.level, Level.of_label(each.level))
        hours = seconds / 3600
        kwh = None if each.gpu_watts is None else each.gpu_watts * hours / 1000
        for meter, amount in zip(
            case.meters,
            (each.cpu_cores * hours, None if each.gpus is None else each.gpus * hours, kwh),
            strict=True,
        ):
            meter.add_usage(amount)


def _add_action(sums: _Sums, line: ActionLine) -> None:
    at_s = unix_s(line.at)
    if at_s is not None and sums.since_s <= at_s <= sums.until_s:
        sums.actions.setdefault((line.id, line.action, line.outcome), line)
        if len(sums.actions) > _MAX_ACTIONS:
            del sums.actions[next(iter(sums.actions))]


def _insert(sums: _Sums, key: str, case: _Case) -> None:
    if len(sums.cases) >= 2 * MAX_INCIDENTS:  # seldom: to find the least takes time
        _drop_least(sums)
    sums.cases[key] = case


def _drop_least(sums: _Sums) -> None:
    """Drop the least of too many: namespaces take turns, detected ones come first."""
    if len(sums.cases) > MAX_INCIDENTS:
        ranked = sorted(sums.cases.items(), key=lambda item: (-item[1].level, -item[1].weight))
        detected = [item for item in ranked if item[1].detected]
        others = [item for item in ranked if not item[1].detected]
        in_turn = [
            item
            for items in (detected, others)
            for item in interleaved(items, lambda item: item[1].top_line.namespace)
        ]
        sums.cases = dict(in_turn[:MAX_INCIDENTS])
        sums.names = {key: name for key, name in sums.names.items() if name in sums.cases}
        for _, case in in_turn[MAX_INCIDENTS:]:
            if len(sums.dropped) < _MAX_DROPPED:
                sums.dropped.add(hash(case.top_line.key))
            sums.unlisted_h += case.meters[0].total() or 0.0
            sums.unlisted_gpu_h += case.meters[1].total() or 0.0


_Pod = tuple[str, ...]


def _by_pod(lines: Iterable[ActionLine]) -> dict[_Pod, list[IncidentAction]]:
    found: dict[_Pod, list[IncidentAction]] = {}
    for line in sorted(lines, key=lambda each: each.at):
        action = IncidentAction(
            at=line.at, action=line.action, outcome=line.outcome, dry_run=line.dry_run
        )
        for pod in ((line.pod_uid,), (line.namespace, line.pod)):
            found.setdefault(pod, []).append(action)
    return found


def _incident(case: _Case, of_pod: dict[_Pod, list[IncidentAction]]) -> Incident:
    top_line = case.top_line
    verdict = top_line if isinstance(top_line, VerdictLine) else None
    uid = verdict.pod_uid if verdict is not None else ""
    actions = of_pod.get((uid,)) if uid else None
    if actions is None:
        actions = of_pod.get((top_line.namespace, top_line.pod or top_line.container), [])
    cpu_hours, gpu_hours, energy_kwh = (
        None if (total := meter.total()) is None else _hours(total * 3600) for meter in case.meters
    )
    return Incident(
        key=top_line.key,
        namespace=top_line.namespace,
        pod=top_line.pod,
        container=top_line.container,
        image=verdict.image if verdict else "",
        owner=top_line.owner,
        abuse=verdict.abuse if verdict else "",
        level=case.level.label,
        score=verdict.score if verdict else None,
        rules=verdict.rules if verdict else (),
        started=verdict.started if verdict else "",
        flagged=case.flagged,
        detected=case.detected,
        delay_s=case.delay_s,
        ended=case.ended,
        cpu_hours=cpu_hours,
        gpu_hours=gpu_hours,
        energy_kwh=energy_kwh,
        actions=tuple(islice(actions, _MAX_ACTIONS_OF_POD)),
    )


def _days(start_s: float, end_s: float) -> Iterator[tuple[str, float]]:
    """Yield the days that a time lies in, in UTC, with its seconds in each."""
    while start_s < end_s:
        until_s = min(end_s, (start_s // _DAY_S + 1) * _DAY_S)
        yield f"{datetime.fromtimestamp(start_s, UTC):%Y-%m-%d}", until_s - start_s
        start_s = until_s


def _hours(core_s: float) -> float:
    return round(min(max(core_s / 3600, 0.0), _MAX_HOURS), 3)
