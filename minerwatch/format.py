"""Numbers and times as text. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime


def rfc3339(unix_s: float, *, milliseconds: bool = False) -> str:
    """Return a Unix time in UTC as RFC 3339, or the epoch where it is no valid time."""
    try:
        moment = datetime.fromtimestamp(unix_s, UTC)
    except (ValueError, OverflowError, OSError):
        moment = datetime.fromtimestamp(0, UTC)
    text = moment.isoformat(timespec="milliseconds" if milliseconds else "seconds")
    return text.replace("+00:00", "Z")


def unix_s(at: str | None) -> float | None:
    """Return an RFC 3339 time as Unix time; None if it is none."""
    try:
        return datetime.fromisoformat(at).timestamp() if at else None
    except (ValueError, TypeError, OverflowError, OSError):
        return None


def micro_time(unix_s: float) -> str:
    """Return a ``MicroTime`` of Kubernetes' meta/v1: exactly six digits after the second."""
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%dT%H:%M:%S.%fZ}"


def age(since: str, now: datetime) -> str:
    """Return the age of an RFC 3339 time in its largest units: 45s, 12m, 3h20m, 2d4h."""
    try:
        return duration((now - datetime.fromisoformat(since)).total_seconds())
    except (ValueError, TypeError):  # TypeError: a time without its zone
        return "?"


def duration(elapsed_s: float) -> str:
    """Return a time in its largest units: 45s, 12m, 3h20m, 2d4h."""
    seconds = max(0, int(elapsed_s))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if not minutes:
        return f"{seconds}s"
    if not hours:
        return f"{minutes}m"
    if not days:
        return f"{hours}h{minutes % 60:02d}m"
    return f"{days}d{hours % 24}h"


def one_decimal(value: float) -> str:
    """Return a score with one decimal: no rounding lifts it to a level that it has not."""
    return f"{math.floor(value * 10 + 1e-6) / 10:.1f}"


def percent(share: float | None) -> str:
    """Return ``share`` of 1 in percent; ``-`` where it is not known."""
    return "-" if share is None else f"{share:.0%}"


def byte_size(size_bytes: int) -> str:
    """Return a size in the largest binary unit that keeps three digits: 812 KiB, 1.5 GiB."""
    for unit, one in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if size_bytes >= one:
            value = size_bytes / one
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{size_bytes >> 10} KiB"


def by_signal(findings: Iterable[tuple[str, str]]) -> str:
    """Return signals and titles, strongest first, with each signal once: ``identity ×6: title``."""
    titles: dict[str, list[str]] = {}
    for signal, title in findings:
        titles.setdefault(signal, []).append(title)
    return "; ".join(
        f"{signal}{f' ×{len(each)}' if len(each) > 1 else ''}: {each[0]}"
        for signal, each in titles.items()
    )


def counted(count: int, word: str, words: str = "") -> str:
    """Return ``1 process`` or ``2,345 processes``."""
    return f"{count:,} {word if count == 1 else words or word + 's'}"
