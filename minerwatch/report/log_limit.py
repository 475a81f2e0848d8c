"""Limits how many verdicts are logged: a container that flips its level all day fills no disk."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeVar

_Value = TypeVar("_Value")

_HOUR_S = 3600.0
_MAX_REMEMBERED = 4096


class Rate(NamedTuple):
    """Lines that are logged at once, and in an hour in the long run."""

    burst: int
    per_hour: int


PER_CONTAINER: Final = Rate(burst=12, per_hour=30)
PER_NAMESPACE: Final = Rate(burst=240, per_hour=1000)


@dataclass(slots=True)
class _Bucket:
    rate: Rate
    lines: float
    at_s: float

    def has_line(self, at_s: float) -> bool:
        gained = max(0.0, at_s - self.at_s) * self.rate.per_hour / _HOUR_S
        self.lines, self.at_s = min(float(self.rate.burst), self.lines + gained), at_s
        return self.lines >= 1


@dataclass(slots=True)
class _Container:
    bucket: _Bucket
    left_out: int = 0
    told_at_s: dict[str, float] = field(default_factory=dict)  # level -> when it was logged last


class LogLimit:
    """Decides which verdicts are logged, by container and by namespace.

    A level that was not logged for an hour is news whatever the container has used up.
    """

    def __init__(
        self, per_container: Rate = PER_CONTAINER, per_namespace: Rate = PER_NAMESPACE
    ) -> None:
        self.left_out = 0
        self._per_container = per_container
        self._per_namespace = per_namespace
        self._containers: OrderedDict[str, _Container] = OrderedDict()
        self._namespaces: OrderedDict[str, _Bucket] = OrderedDict()

    def lines_before(self, container: str, namespace: str, level: str, at_s: float) -> int | None:
        """Return how many lines about ``container`` were left out before this one.

        None: this one is left out as well. ``at_s`` is monotonic.
        """
        known = self._containers.pop(container, None)
        known = known or _Container(_full(self._per_container, at_s))
        bucket = self._namespaces.pop(namespace, None) or _full(self._per_namespace, at_s)
        _keep(self._containers, container, known)
        _keep(self._namespaces, namespace, bucket)
        is_news = at_s - known.told_at_s.get(level, -_HOUR_S) >= _HOUR_S
        has_line = known.bucket.has_line(at_s)
        if not (bucket.has_line(at_s) and (has_line or is_news)):
            known.left_out += 1
            self.left_out += 1
            return None
        bucket.lines -= 1
        known.bucket.lines = max(0.0, known.bucket.lines - 1)
        known.told_at_s[level] = at_s
        left_out, known.left_out = known.left_out, 0
        return left_out


def _full(rate: Rate, at_s: float) -> _Bucket:
    return _Bucket(rate, float(rate.burst), at_s)


def _keep(held: OrderedDict[str, _Value], key: str, value: _Value) -> None:
    held[key] = value
    while len(held) > _MAX_REMEMBERED:
        held.popitem(last=False)
