"""The table that ``minerwatch top`` shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from rich.cells import cell_len
from rich.text import Text

from minerwatch.model import ContainerStatus, Level
from minerwatch.report.figures import age, counted, percent
from minerwatch.report.lines import cut, fitted, padded, rendered
from minerwatch.report.selection import limit_share, place
from minerwatch.report.text import printable

_GAP = 2
_INDENT = 7  # of the reasons below a row: under its level
_NAME_SHARE = 0.45  # of the terminal that a long name may claim from lesser columns
_LEAST_NAME = 16
_LEAST_REASONS = 50  # beside a row; with less room they stand below it
_NAME_LENGTH = 256
_OWNER_WIDTH = 24
_IMAGE_WIDTH = 40
_REASON_LENGTH = 300
_MAX_NODES = 3
_NOTHING = "-"
_NAME = "CONTAINER"
_COLOURED = frozenset(("SCORE", "LEVEL"))

LEVEL_STYLES = {
    Level.SUSPICIOUS.label: "yellow",
    Level.LIKELY.label: "red",
    Level.CONFIRMED.label: "bold red",
}

Cell = Callable[[ContainerStatus, datetime], str]


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    cell: Cell
    leaves: int = 0  # a narrow terminal, lowest first; 0: never
    is_number: bool = False


@dataclass(frozen=True, slots=True)
class _Filled:
    """A column with its cells; ``width`` is that of the widest."""

    column: _Column
    cells: tuple[str, ...]
    width: int


def table(
    statuses: Sequence[ContainerStatus], *, now: datetime, width: int | None, colour: bool
) -> str:
    """One line a container below one of titles, or a sentence if there is none.

    ``width`` is the terminal's, in columns: lesser columns give way to names, and on all but wide
    terminals the reasons stand on lines of their own. None: nothing is cut, one line a container.
    """
    if not statuses:
        return "no container to show\n"
    columns = _fitting(_columns(statuses, now), width)
    said = [reasons(status) for status in statuses]
    room = _REASON_LENGTH if width is None else width - _used(columns)
    is_beside = room >= min(_LEAST_REASONS, max(map(cell_len, said)))
    lines = [_titles(columns, with_reasons=is_beside and any(said))]
    for row, (status, reason) in enumerate(zip(statuses, said, strict=True)):
        line = _line(columns, row, status.level)
        lines.append(line)
        if reason and is_beside:
            line.append(cut(reason, room))
        elif reason:
            lines.append(_below(reason, width))
    return rendered(lines, colour=colour)


def banner(statuses: Sequence[ContainerStatus], *, shown: int) -> str:
    """One line on what was looked at, and what came of it."""
    levels = Counter(status.level for status in statuses)
    nodes = sorted({printable(status.node, _NAME_LENGTH) for status in statuses})
    parts = [
        (", ".join(nodes) if len(nodes) <= _MAX_NODES else counted(len(nodes), "node"))
        or "no node",
        counted(len(statuses), "container"),
        counted(sum(status.process_count for status in statuses), "process", "processes"),
        f"{sum(status.cpu_cores for status in statuses):.1f} cores busy",
        *(
            f"{levels[level.label]:,} {level.label}"
            for level in reversed(Level)
            if levels[level.label]
        ),
    ]
    if shown < len(statuses):
        parts.append(f"{shown:,} shown")
    return " · ".join(parts)


def reasons(status: ContainerStatus) -> str:
    """For each signal, strongest first, its strongest finding, and how many there are besides."""
    if not status.findings:
        is_clear = status.level == Level.CLEAR.label
        return "" if is_clear else "no rule holds any more; the level falls in a few ticks"
    best: dict[str, str] = {}
    counts = Counter(finding.signal for finding in status.findings)
    for finding in status.findings:
        more = counts[finding.signal] - 1
        best.setdefault(
            finding.signal,
            f"{finding.signal}: {printable(finding.title, _REASON_LENGTH)}"
            + (f" (+{more})" if more else ""),
        )
    return printable("; ".join(best.values()), _REASON_LENGTH)


def _name(status: ContainerStatus, _now: datetime) -> str:
    return printable(place(status), _NAME_LENGTH)


def _owner(status: ContainerStatus, _now: datetime) -> str:
    return fitted(printable(status.owner, _NAME_LENGTH), _OWNER_WIDTH) or _NOTHING


def _image(status: ContainerStatus, _now: datetime) -> str:
    return fitted(printable(status.image, _NAME_LENGTH), _IMAGE_WIDTH) or _NOTHING


def _node(status: ContainerStatus, _now: datetime) -> str:
    return fitted(printable(status.node, _NAME_LENGTH), _OWNER_WIDTH)


_COLUMNS = (
    _Column("SCORE", lambda status, _now: str(int(status.score)), is_number=True),
    _Column("LEVEL", lambda status, _now: printable(status.level, 16)),
    _Column("SINCE", lambda status, now: age(status.since, now), leaves=7, is_number=True),
    _Column("CPU", lambda status, _now: f"{status.cpu_cores:.2f}", is_number=True),
    _Column("%LIMIT", lambda s, _now: percent(limit_share(s)), leaves=6, is_number=True),
    _Column("THROTTLED", lambda s, _now: percent(s.throttled_share), leaves=2, is_number=True),
    _Column("CPU-H", lambda status, _now: f"{status.cpu_hours:.1f}", leaves=3, is_number=True),
    _Column(_NAME, _name),
    _Column("OWNER", _owner, leaves=5),
    _Column("IMAGE", _image, leaves=1),
    _Column("NODE", _node, leaves=4),
)


def _columns(statuses: Sequence[ContainerStatus], now: datetime) -> list[_Filled]:
    """Those columns that have something to say about these containers."""
    is_one_node = len({status.node for status in statuses}) == 1
    filled = []
    for column in _COLUMNS:
        cells = tuple(column.cell(status, now) for status in statuses)
        if any(cell != _NOTHING for cell in cells) and not (column.title == "NODE" and is_one_node):
            filled.append(_Filled(column, cells, max(map(cell_len, (column.title, *cells)))))
    return filled


def _fitting(columns: list[_Filled], width: int | None) -> list[_Filled]:
    """Those columns that ``width`` has room for, with names cut to what the others leave."""
    if width is None:
        return columns
    claim = max(_LEAST_NAME, int(width * _NAME_SHARE))
    for leaving in sorted(columns, key=lambda each: each.column.leaves):
        excess = sum(min(each.width, claim) + _GAP for each in columns) - _GAP - width
        if excess > 0 and leaving.column.leaves:
            columns = [each for each in columns if each is not leaving]
    room = width - sum(each.width + _GAP for each in columns if each.column.title != _NAME)
    return [
        _narrowed(each, max(_LEAST_NAME, room)) if each.column.title == _NAME else each
        for each in columns
    ]


def _narrowed(filled: _Filled, width: int) -> _Filled:
    cells = tuple(fitted(cell, width) for cell in filled.cells)
    return replace(filled, cells=cells, width=min(filled.width, width))


def _used(columns: Sequence[_Filled]) -> int:
    return sum(each.width + _GAP for each in columns)


def _titles(columns: Sequence[_Filled], *, with_reasons: bool) -> Text:
    titles = "".join(_padded(each, each.column.title) for each in columns)
    return Text(titles + ("REASONS" if with_reasons else ""), "bold")


def _line(columns: Sequence[_Filled], row: int, level: str) -> Text:
    line = Text()
    for each in columns:
        style = LEVEL_STYLES.get(level, "") if each.column.title in _COLOURED else ""
        line.append(_padded(each, each.cells[row]), style)
    return line


def _padded(filled: _Filled, cell: str) -> str:
    to_the_right = filled.column.is_number
    return padded(cell, filled.width, to_the_right=to_the_right) + " " * _GAP


def _below(reason: str, width: int | None) -> Text:
    room = max(_LEAST_NAME, (width or _REASON_LENGTH) - _INDENT)
    return Text(" " * _INDENT + cut(reason, room), "dim")
