"""Hours of the week, in UTC: ``mon-fri 09:00-17:00``. Pure: the clock is passed in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from minerwatch.errors import ConfigError

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_FORM = re.compile(r"(?:(?P<days>[a-z,-]+)\s+)?(?P<start>\d\d:\d\d)-(?P<end>\d\d:\d\d)")
_DAY_MIN = 24 * 60
_EPOCH_WEEKDAY = DAYS.index("thu")  # 1970-01-01


class Hours(str):
    """A span of hours on some days of each week, in UTC.

    The start is included, the end is not. An end before the start is on the next day.
    """

    __slots__ = ()

    def include(self, unix_s: float) -> bool:
        """Return True if ``unix_s`` is within these hours."""
        minute_since_epoch = int(unix_s // 60)
        day, minute = divmod(minute_since_epoch, _DAY_MIN)
        weekday = (day + _EPOCH_WEEKDAY) % 7
        week = _week(str(self))
        if week.start_min < week.end_min:
            return weekday in week.days and week.start_min <= minute < week.end_min
        if minute >= week.start_min:
            return weekday in week.days
        return minute < week.end_min and (weekday - 1) % 7 in week.days


def hours(text: str) -> Hours:
    """Parse ``mon-fri 09:00-17:00``, ``sat,sun 22:00-04:00`` or ``00:00-24:00``.

    Raises ConfigError for anything else.
    """
    if not isinstance(text, str):
        raise ConfigError(f"invalid hours {text!r}: use a form like mon-fri 09:00-17:00")
    _week(text)
    return Hours(text)


@dataclass(frozen=True, slots=True)
class _Week:
    days: frozenset[int]
    start_min: int
    end_min: int


@lru_cache(maxsize=256)
def _week(text: str) -> _Week:
    match = _FORM.fullmatch(text.strip().lower())
    if match is None:
        raise ConfigError(f"invalid hours {text!r}: use a form like mon-fri 09:00-17:00")
    days = _days(match["days"], text) if match["days"] else frozenset(range(7))
    start_min, end_min = _minute(match["start"], text), _minute(match["end"], text)
    if start_min in (end_min, _DAY_MIN):
        raise ConfigError(f"invalid hours {text!r}: use 00:00-24:00 for a whole day")
    return _Week(days, start_min, end_min)


def _days(text: str, whole: str) -> frozenset[int]:
    days: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if first not in DAYS or (dash and last not in DAYS):
            raise ConfigError(f"invalid day {part!r} in {whole!r}: use {', '.join(DAYS)}")
        start = DAYS.index(first)
        length = (DAYS.index(last) - start) % 7 if dash else 0
        days.update((start + step) % 7 for step in range(length + 1))
    return frozenset(days)


def _minute(text: str, whole: str) -> int:
    hour, minute = int(text[:2]), int(text[3:])
    if minute > 59 or hour * 60 + minute > _DAY_MIN:
        raise ConfigError(f"invalid time {text!r} in {whole!r}: use 00:00 to 24:00")
    return hour * 60 + minute
