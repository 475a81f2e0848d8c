"""The time that lines of CPU usage cover, without overlaps, and the gaps between them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from minerwatch.api.history import Gap
from minerwatch.api.journal import AnyLine, UsageLine
from minerwatch.format import unix_s

MAX_HOLE_S = 60.0
"""A shorter time without a line is rounding and the time of a restart, not a gap."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A time with its CPU usage; ``usage`` None: a gap, in which nothing was recorded."""

    start_s: float  # Unix time, as all here
    end_s: float
    usage: UsageLine | None


def length_s(gap: Gap) -> float:
    """Return the length of a gap."""
    return (unix_s(gap.until) or 0.0) - (unix_s(gap.since) or 0.0)


def intervals(lines: Iterable[AnyLine], since_s: float, until_s: float) -> Iterator[Interval]:
    """Yield what covers ``since_s`` to ``until_s`` without an overlap, gaps included.

    Where the clock was set back, time that was recorded before is not recorded twice.
    """
    covered_s = since_s
    for line in lines:
        if not isinstance(line, UsageLine):
            continue
        end_s = unix_s(line.at)
        if end_s is None or not covered_s < end_s <= until_s or not line.seconds > 0:
            continue
        start_s = max(covered_s, end_s - line.seconds)
        if start_s - covered_s > MAX_HOLE_S:
            yield Interval(covered_s, start_s, None)
        else:
            start_s = covered_s
        yield Interval(start_s, end_s, line)
        covered_s = end_s
    if until_s > covered_s:
        yield Interval(covered_s, until_s, None)
