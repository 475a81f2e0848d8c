"""The table that ``minerwatch top`` shows."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from minerwatch.model import ContainerStatus, Level
from minerwatch.report.selection import limit_share, place
from minerwatch.report.text import printable

_UNLIMITED_WIDTH = 10_000
_NAME_LENGTH = 120
_NAME_WIDTH = 28  # the least that a name keeps on a narrow terminal
_REASON_LENGTH = 200

_STYLES = {
    Level.SUSPICIOUS.label: "yellow",
    Level.LIKELY.label: "bold red",
    Level.CONFIRMED.label: "bold white on red",
}

Cell = Callable[[ContainerStatus, datetime], str]


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    cell: Cell
    least_width: int = 0  # of the terminal: on narrower ones the column is left out
    is_number: bool = True
    is_optional: bool = False  # left out where it would be empty


def table(
    statuses: Sequence[ContainerStatus], *, now: datetime, width: int | None, colour: bool
) -> str:
    """One line a container, under one of titles; ``width`` in columns, None: as wide as it gets."""
    shown = Table(
        box=None, pad_edge=False, show_edge=False, header_style="bold", padding=(0, 2, 0, 0)
    )
    columns = [column for column in _COLUMNS if _is_shown(column, statuses, now, width)]
    for column in columns:
        shown.add_column(
            column.title,
            justify="right" if column.is_number else "left",
            no_wrap=True,
            overflow="ellipsis",
            min_width=_NAME_WIDTH if column.title == "CONTAINER" and width else None,
        )
    for status in statuses:
        style = _STYLES.get(status.level, "")
        shown.add_row(
            *(
                Text(column.cell(status, now), style if column.title in _COLOURED else "")
                for column in columns
            )
        )
    return _drawn(shown, width, colour=colour)


def banner(statuses: Sequence[ContainerStatus], *, shown: int) -> str:
    """One line on what was looked at, and what came of it."""
    levels = Counter(status.level for status in statuses)
    nodes = sorted({printable(status.node, _NAME_LENGTH) for status in statuses})
    parts = [
        ", ".join(nodes) or "no node",
        _counted(len(statuses), "container"),
        _counted(sum(status.process_count for status in statuses), "process", "processes"),
        f"{sum(status.cpu_cores for status in statuses):.1f} cores busy",
        *(
            f"{levels[level.label]} {level.label}"
            for level in reversed(Level)
            if levels[level.label]
        ),
    ]
    if shown < len(statuses):
        parts.append(f"{shown} shown")
    return " · ".join(parts)


def age(since: str, now: datetime) -> str:
    """How long ago an RFC 3339 time is, in its one or two largest units: 45s, 12m, 3h20m, 2d4h."""
    try:
        seconds = max(0, int((now - datetime.fromisoformat(since)).total_seconds()))
    except ValueError:
        return "?"
    if seconds < 60:
        return f"{seconds}s"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if minutes < 60:
        return f"{minutes}m"
    if hours < 24:
        return f"{hours}h{minutes % 60:02d}m"
    return f"{days}d{hours % 24}h"


def reasons(status: ContainerStatus) -> str:
    """For each signal, strongest first, its strongest finding, and how many there are besides."""
    best: dict[str, str] = {}
    counts = Counter(finding.signal for finding in status.findings)
    for finding in status.findings:
        more = counts[finding.signal] - 1
        best.setdefault(
            finding.signal,
            f"{finding.signal}: {finding.title}" + (f" (+{more})" if more else ""),
        )
    return printable("; ".join(best.values()), _REASON_LENGTH)


def _counted(count: int, word: str, words: str = "") -> str:
    return f"{count} {word if count == 1 else words or word + 's'}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


_COLUMNS = (
    _Column("SCORE", lambda status, _now: f"{status.score:.0f}"),
    _Column("LEVEL", lambda status, _now: status.level, is_number=False),
    _Column("SINCE", lambda status, now: age(status.since, now), 70),
    _Column("CPU", lambda status, _now: f"{status.cpu_cores:.2f}"),
    _Column("%LIMIT", lambda s, _now: _percent(limit_share(s)), 100, is_optional=True),
    _Column("THROTTLED", lambda s, _now: _percent(s.throttled_share), 120, is_optional=True),
    _Column("CPU-H", lambda status, _now: f"{status.cpu_hours:.1f}"),
    _Column(
        "CONTAINER",
        lambda status, _now: printable(place(status), _NAME_LENGTH),
        is_number=False,
    ),
    _Column(
        "OWNER",
        lambda status, _now: printable(status.owner, _NAME_LENGTH) or "-",
        100,
        is_number=False,
        is_optional=True,
    ),
    _Column(
        "IMAGE",
        lambda status, _now: printable(status.image, _NAME_LENGTH) or "-",
        140,
        is_number=False,
        is_optional=True,
    ),
    _Column("REASONS", lambda status, _now: reasons(status), is_number=False),
)
_COLOURED = frozenset(("SCORE", "LEVEL"))


def _is_shown(
    column: _Column, statuses: Sequence[ContainerStatus], now: datetime, width: int | None
) -> bool:
    if width is not None and width < column.least_width:
        return False
    return not column.is_optional or any(column.cell(status, now) != "-" for status in statuses)


def _drawn(shown: Table, width: int | None, *, colour: bool) -> str:
    drawing = io.StringIO()
    console = Console(
        file=drawing,
        width=width or _UNLIMITED_WIDTH,
        force_terminal=colour,
        color_system="standard" if colour else None,
        no_color=not colour,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    console.print(shown)
    return "\n".join(line.rstrip() for line in drawing.getvalue().splitlines()) + "\n"
