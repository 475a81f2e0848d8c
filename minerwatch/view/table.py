"""The table that ``minerwatch top`` shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from rich.cells import cell_len
from rich.text import Text

from minerwatch.api.types import ContainerStatus
from minerwatch.format import age, byte_size, counted
from minerwatch.kinds import Level, MachineTotals
from minerwatch.untrusted_text.display import shown_name
from minerwatch.view.columns import (
    LEVEL_STYLES,
    NAME,
    NOTHING,
    SINCE,
    TABLE_COLUMNS,
    Column,
    reasons,
)
from minerwatch.view.lines import cut, fitted, padded, rendered

_GAP = 2
_INDENT = 7  # of the reasons below a row: under its level
_NAME_SHARE = 0.65  # of the terminal that a long name may claim from lesser columns
_NAME_WIDTH = 64  # the most that it claims, namespace, pod and container together
_GIVE_WAY_TO_REASONS = 2  # columns: image and throttling
_MIN_NAME = 16
_MIN_REASONS = 50  # beside a row; with less room they stand below it
_REASON_LENGTH = 300
_MAX_NODES = 3
_COLOURED = frozenset(("SCORE", "LEVEL"))


@dataclass(frozen=True, slots=True)
class _Filled:
    """A column with its cells; ``width`` is that of the widest."""

    column: Column
    cells: tuple[str, ...]
    width: int


@dataclass(frozen=True, slots=True)
class _Layout:
    columns: tuple[_Filled, ...]
    reasons_width: int  # of the column beside them; 0: they stand below their rows


def table(
    statuses: Sequence[ContainerStatus], *, now: datetime, width: int | None, colour: bool
) -> str:
    """Return titles and one line a container, or a sentence if there is none.

    ``width`` is the terminal's, in columns: lesser columns give way to names, and on all but wide
    terminals the reasons stand on lines of their own. None: nothing is cut, one line a container.
    """
    if not statuses:
        return "no container to show\n"
    said = [reasons(status) for status in statuses]
    layout = _laid_out(_columns(statuses, now), max(map(cell_len, said)), width)
    lines = [_titles(layout, with_reasons=layout.reasons_width > 0 and any(said))]
    for row, (status, reason) in enumerate(zip(statuses, said, strict=True)):
        line = _line(layout, row, status.level)
        lines.append(line)
        if reason and layout.reasons_width:
            line.append(cut(reason, layout.reasons_width))
        elif reason:
            has_since = any(each.column.title == SINCE for each in layout.columns)
            since = "" if has_since else f"for {age(status.since, now)}, "
            lines.append(_below(since + reason, width or _REASON_LENGTH))
    return rendered(lines, colour=colour)


def banner(
    statuses: Sequence[ContainerStatus], *, shown: int, machine: MachineTotals | None = None
) -> str:
    """Return one line: nodes, containers by level, processes, and what of the machine is busy."""
    nodes = sorted({shown_name(status.node) for status in statuses})
    where = (
        ", ".join(nodes) if len(nodes) <= _MAX_NODES else counted(len(nodes), "node")
    ) or "no node"
    return " · ".join((where, *counts(statuses, shown=shown, machine=machine)))


def counts(
    statuses: Sequence[ContainerStatus], *, shown: int, machine: MachineTotals | None = None
) -> tuple[str, ...]:
    """Return containers by level, processes, CPU usage and how many are shown, as text each."""
    levels = Counter(status.level for status in statuses)
    ranked = [level.label for level in reversed(Level) if levels[level.label]]
    by_level = ", ".join(f"{levels[level]:,} {level}" for level in ranked)
    return (
        counted(len(statuses), "container") + (f": {by_level}" if by_level else ""),
        counted(sum(status.process_count for status in statuses), "process", "processes"),
        *usage_words(sum(status.cpu_cores for status in statuses), machine),
        *([f"{shown:,} shown"] if shown < len(statuses) else ()),
    )


def usage_words(busy_cores: float, machine: MachineTotals | None) -> tuple[str, ...]:
    """Return busy cores, and of how many, memory and load if they are known, as text each."""
    if machine is None:
        return (f"{busy_cores:.1f} cores busy",)
    used, memory = byte_size(machine.memory_used_bytes), byte_size(machine.memory_bytes)
    return (
        f"{busy_cores:.1f} of {counted(machine.cores, 'core')} busy",
        f"{used} of {memory} memory",
        f"load {machine.load_1m:.1f}",
    )


def _columns(statuses: Sequence[ContainerStatus], now: datetime) -> list[_Filled]:
    """Return the columns that are not empty for these containers."""
    is_one_node = len({status.node for status in statuses}) == 1
    filled = []
    for column in TABLE_COLUMNS:
        cells = tuple(column.cell(status, now) for status in statuses)
        if any(cell != NOTHING for cell in cells) and not (column.title == "NODE" and is_one_node):
            filled.append(_Filled(column, cells, max(map(cell_len, (column.title, *cells)))))
    return filled


def _laid_out(columns: Sequence[_Filled], longest_reason: int, width: int | None) -> _Layout:
    """Return the columns and the reasons beside them, as far as ``width`` has room."""
    if width is None:
        return _Layout(tuple(columns), _REASON_LENGTH)
    claim = max(_MIN_NAME, min(_NAME_WIDTH, int(width * _NAME_SHARE)))
    leaving = [each for each in columns if each.column.leaves]
    leaving.sort(key=lambda each: each.column.leaves)
    for count in range(_GIVE_WAY_TO_REASONS + 1):
        kept = [_narrowed(each, claim) for each in columns if each not in leaving[:count]]
        room = width - _used(kept)
        if room >= min(longest_reason, _MIN_REASONS):
            return _Layout(tuple(kept), room)
    for count in range(len(leaving) + 1):
        kept = [each for each in columns if each not in leaving[:count]]
        if _used([_narrowed(each, claim) for each in kept]) - _GAP <= width:
            break
    names = max(_MIN_NAME, width - _used([each for each in kept if each.column.title != NAME]))
    return _Layout(tuple(_narrowed(each, names) for each in kept), 0)


def _narrowed(filled: _Filled, width: int) -> _Filled:
    """Return the column of names with its cells cut to ``width``; any other unchanged."""
    if filled.column.title != NAME or filled.width <= width:
        return filled
    cells = tuple(fitted(cell, width) for cell in filled.cells)
    return replace(filled, cells=cells, width=max(map(cell_len, (NAME, *cells))))


def _used(columns: Sequence[_Filled]) -> int:
    return sum(each.width + _GAP for each in columns)


def _titles(layout: _Layout, *, with_reasons: bool) -> Text:
    titles = "".join(_padded(each, each.column.title) for each in layout.columns)
    return Text(titles + ("REASONS" if with_reasons else ""), "bold")


def _line(layout: _Layout, row: int, level: str) -> Text:
    line = Text()
    for each in layout.columns:
        style = LEVEL_STYLES.get(level, "") if each.column.title in _COLOURED else ""
        line.append(_padded(each, each.cells[row]), style)
    return line


def _padded(filled: _Filled, cell: str) -> str:
    to_the_right = filled.column.is_number
    return padded(cell, filled.width, to_the_right=to_the_right) + " " * _GAP


def _below(reason: str, width: int) -> Text:
    return Text(" " * _INDENT + cut(reason, max(_MIN_NAME, width - _INDENT)), "dim")
