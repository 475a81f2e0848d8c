"""A node's journal as history: intervals with CPU usage, gaps, and what happened. Pure.

Lines are read one by one and never kept whole, so a week of them takes a few MiB.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from minerwatch.api.journal import (
    ActionLine,
    AgentLine,
    AnyLine,
    Usage,
    UsageLine,
    VerdictLine,
)
from minerwatch.format import unix_s
from minerwatch.kinds import Level
from minerwatch.report.intervals import MAX_HOLE_S, Interval, intervals

BUCKET_S = 900.0
_MAX_EVENTS = 500
_MAX_CONTAINERS = 500
_CLEAR = Level.CLEAR.label


@dataclass(slots=True)
class ContainerHistory:
    """CPU usage of one container."""

    full_name: str
    owner: str
    level: str = _CLEAR  # the highest
    core_s: float = 0.0
    flagged_core_s: float = 0.0
    buckets: dict[int, float] = field(default_factory=dict)  # bucket -> core seconds


@dataclass(slots=True)
class History:
    """A time of a node; buckets are numbered from its beginning, ``BUCKET_S`` each."""

    since_s: float
    until_s: float
    gaps: list[tuple[float, float]] = field(default_factory=list)
    watched_s: dict[int, float] = field(default_factory=dict)  # bucket -> seconds
    core_s: dict[int, float] = field(default_factory=dict)
    flagged_core_s: dict[int, float] = field(default_factory=dict)
    cores: int = 0  # of the machine
    containers: dict[str, ContainerHistory] = field(default_factory=dict)  # by container_key
    verdicts: deque[VerdictLine] = field(default_factory=lambda: deque(maxlen=_MAX_EVENTS))
    actions: deque[ActionLine] = field(default_factory=lambda: deque(maxlen=_MAX_EVENTS))
    agents: deque[AgentLine] = field(default_factory=lambda: deque(maxlen=_MAX_EVENTS))
    left_out: int = 0  # verdicts that were dropped, because an owner had too many
    unlisted: int = 0  # verdicts that are not in ``verdicts``, which holds the newest

    @property
    def is_empty(self) -> bool:
        """Return True if nothing was recorded."""
        return not (self.watched_s or self.verdicts or self.actions or self.agents)

    @property
    def recorded_s(self) -> float:
        """Return the seconds in which the node was watched."""
        return sum(self.watched_s.values())

    def mean(self, core_s: Mapping[int, float], bucket: int) -> float | None:
        """Return the cores of a bucket; None in a gap."""
        watched_s = self.watched_s.get(bucket, 0.0)
        return core_s.get(bucket, 0.0) / watched_s if watched_s > MAX_HOLE_S else None


def history(lines: Iterable[AnyLine], since_s: float, until_s: float) -> History:
    """Add up the lines between two times."""
    summed = History(since_s, until_s)
    for interval in intervals(_events_added(summed, lines), since_s, until_s):
        if interval.usage is None:
            summed.gaps.append((interval.start_s, interval.end_s))
        else:
            _add(summed, interval, interval.usage)
    _drop_least(summed)
    return summed


def _events_added(summed: History, lines: Iterable[AnyLine]) -> Iterator[AnyLine]:
    """Pass the lines on, and add those that are events in time."""
    for line in lines:
        at_s = None if isinstance(line, UsageLine) else unix_s(line.at)
        if at_s is not None and summed.since_s <= at_s <= summed.until_s:
            if isinstance(line, VerdictLine):
                summed.left_out += line.left_out
                summed.unlisted += len(summed.verdicts) == _MAX_EVENTS
                summed.verdicts.append(line)
            elif isinstance(line, ActionLine):
                summed.actions.append(line)
            elif isinstance(line, AgentLine):
                summed.agents.append(line)
        yield line


def _add(summed: History, interval: Interval, usage: UsageLine) -> None:
    summed.cores = max(usage.cores, 1)
    parts = list(_buckets(interval.start_s - summed.since_s, interval.end_s - summed.since_s))
    for bucket, seconds in parts:
        _increase(summed.watched_s, bucket, seconds)
        _increase(summed.core_s, bucket, seconds * usage.cpu_cores)
        _increase(summed.flagged_core_s, bucket, seconds * usage.flagged_cpu_cores)
    for each in usage.containers:
        container = _container(summed, each)
        for bucket, seconds in parts:
            _increase(container.buckets, bucket, seconds * each.cpu_cores)
        core_s = (interval.end_s - interval.start_s) * each.cpu_cores
        container.core_s += core_s
        if each.level != _CLEAR:
            container.flagged_core_s += core_s
            if Level.of_label(each.level) > Level.of_label(container.level):
                container.level = each.level


def _container(summed: History, usage: Usage) -> ContainerHistory:
    """Return the container's history; where there are too many, those with least give way."""
    found = summed.containers.get(usage.key)
    if found is None:
        full_name = "/".join(filter(None, (usage.namespace, usage.pod, usage.container)))
        found = ContainerHistory(full_name, usage.owner)
        if len(summed.containers) >= 2 * _MAX_CONTAINERS:  # seldom: to find them takes time
            _drop_least(summed)
        summed.containers[usage.key] = found
    return found


def _drop_least(summed: History) -> None:
    if len(summed.containers) > _MAX_CONTAINERS:
        ranked = sorted(
            summed.containers.items(), key=lambda item: (-item[1].flagged_core_s, -item[1].core_s)
        )
        summed.containers = dict(ranked[:_MAX_CONTAINERS])


def _buckets(start_s: float, end_s: float) -> Iterator[tuple[int, float]]:
    """Yield the buckets that a time lies in, with its seconds in each."""
    while start_s < end_s:
        bucket = int(start_s // BUCKET_S)
        until_s = min(end_s, (bucket + 1) * BUCKET_S)
        yield bucket, until_s - start_s
        start_s = until_s


def _increase(sums: dict[int, float], bucket: int, value: float) -> None:
    sums[bucket] = sums.get(bucket, 0.0) + value
