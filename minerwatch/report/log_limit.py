"""Limits how many verdicts are logged: a container that flips its level all day fills no disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

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
    """Lines that a container or a namespace may still log."""

    lines: float
    at_s: float
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
        self._containers: dict[str, _Bucket] = {}
        self._namespaces: dict[str, _Bucket] = {}

    def lines_before(self, container: str, namespace: str, level: str, at_s: float) -> int | None:
        """Return how many lines about ``container`` were left out before this one.

        None: this one is left out as well. ``at_s`` is monotonic.
        """
        own = _refilled(self._containers, container, self._per_container, at_s)
        shared = _refilled(self._namespaces, namespace, self._per_namespace, at_s)
        is_news = at_s - own.told_at_s.get(level, -_HOUR_S) >= _HOUR_S
        if shared.lines < 1 or (own.lines < 1 and not is_news):
            own.left_out += 1
            self.left_out += 1
            return None
        shared.lines -= 1
        own.lines = max(0.0, own.lines - 1)
        own.told_at_s[level] = at_s
        left_out, own.left_out = own.left_out, 0
        return left_out


def _refilled(held: dict[str, _Bucket], key: str, rate: Rate, at_s: float) -> _Bucket:
    """Return the bucket of ``key`` as it is at ``at_s``; those not used for longest give way."""
    bucket = held.pop(key, None) or _Bucket(float(rate.burst), at_s)
    gained = max(0.0, at_s - bucket.at_s) * rate.per_hour / _HOUR_S
    bucket.lines, bucket.at_s = min(float(rate.burst), bucket.lines + gained), at_s
    held[key] = bucket
    while len(held) > _MAX_REMEMBERED:
        del held[next(iter(held))]
    return bucket
