"""The screen's columns: which of them fit, and what stands in each for a row. Pure.

Widths do not depend on what stands in the cells, but for the names', which only grow: so nothing
moves sideways when figures change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice

from rich.cells import cell_len

from minerwatch.api.types import ContainerStatus
from minerwatch.cli.top_screen.history import CpuHistory, key_of, sparkline, total
from minerwatch.cli.top_screen.rows import Row
from minerwatch.format import age
from minerwatch.untrusted_text.display import printable
from minerwatch.view import columns
from minerwatch.view.columns import LEVEL_STYLES, NAME, NAME_LENGTH, Column, reasons, tags
from minerwatch.view.lines import cut, fitted, padded
from minerwatch.view.selection import IDLE_CORES, place

_NARROW = 120  # columns of a terminal
_NAME_BASE, _NAME_SHARE = 17, 0.2  # columns, and of the terminal's: names claim both
_LEAST_NAME = 20
_REASONS_WIDTH = 30  # at least
_MEASURED_ROWS = 1000  # of which the longest name counts
_SUMMED_MEMBERS = 500  # of a group, the first in order
_BAR_STEPS = "▏▎▍▌▋▊▉█"
_THROTTLED_SHARE = 0.01  # of the periods, from which on it is marked
_REASONS = "REASONS"
_OPEN, _CLOSED, _INDENT = "▾ ", "▸ ", "  "

Piece = tuple[str, str]
"""Text, and the style that it is drawn in."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What cells are drawn from, besides their row."""

    now: datetime
    history: CpuHistory
    stale: Mapping[str, datetime]  # node -> when it answered last


@dataclass(frozen=True, slots=True)
class Traits:
    """What there is to show of some rows, and how wide."""

    has_owner: bool = False
    has_image: bool = False
    has_age: bool = False
    is_many_nodes: bool = False
    has_reason: bool = False
    longest_name: int = 0

    @classmethod
    def of(cls, every: Sequence[ContainerStatus], rows: Sequence[Row]) -> Traits:
        """Those of ``rows``, and of all containers that they were chosen from."""
        node = every[0].node if every else ""
        measured = list(islice(rows, _MEASURED_ROWS))
        return cls(
            has_owner=any(each.owner for each in every),
            has_image=any(each.image for each in every),
            has_age=any(each.started for each in every),
            is_many_nodes=any(each.node != node for each in every),
            has_reason=any(row.status.findings for row in measured),
            longest_name=max((cell_len(_name(row)) for row in measured), default=0),
        )

    def joined(self, other: Traits) -> Traits:
        """What either has: a column that is there stays, names only grow."""
        return Traits(
            self.has_owner or other.has_owner,
            self.has_image or other.has_image,
            self.has_age or other.has_age,
            self.is_many_nodes or other.is_many_nodes,
            self.has_reason or other.has_reason,
            max(self.longest_name, other.longest_name),
        )


Draw = Callable[[Row, Scene, int], str]


@dataclass(frozen=True, slots=True)
class ScreenColumn:
    """A column, as wide as it is here."""

    title: str
    draw: Draw
    width: int
    leaves: int = 0  # a narrow terminal, lowest first; 0: never
    is_number: bool = False
    sort: str = ""  # the key that orders by it
    is_level: bool = False  # drawn in the level's colour
    is_bar: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """Columns that fit side by side."""

    columns: tuple[ScreenColumn, ...]
    gap: int


def layout(width: int, traits: Traits, step_s: float) -> Layout:
    """The columns that a terminal of ``width`` has room for; ``step_s`` is the history's."""
    gap = 1 if width < _NARROW else 2
    every = [each for each in _all_columns(width, step_s) if _has(each, traits)]
    claim = max(_LEAST_NAME, min(traits.longest_name, int(_NAME_BASE + _NAME_SHARE * width)))
    kept = [each for each in every if not each.leaves]
    room = width - sum(each.width + gap for each in kept) + gap
    for column in sorted(every, key=lambda each: -each.leaves):
        if column.leaves and room - column.width - gap >= claim:
            room -= column.width + gap
            kept.append(column)
    kept.sort(key=every.index)
    has_reasons = kept[-1].title == _REASONS
    named = min(room, max(claim, traits.longest_name)) if has_reasons else room
    widths = {NAME: named, _REASONS: kept[-1].width + room - named}
    fitting = (replace(each, width=widths.get(each.title, each.width)) for each in kept)
    return Layout(tuple(fitting), gap)


def titles(shown: Layout, sort: str, *, is_reversed: bool) -> list[Piece]:
    """The line above the rows; the column that orders them is marked."""
    pieces: list[Piece] = []
    for column in shown.columns:
        text = padded(cut(column.title, column.width), column.width, to_the_right=column.is_number)
        is_chosen = bool(column.sort) and column.sort == sort
        mark = ("▲" if is_reversed else "▼") if is_chosen else " "
        pieces.append((text, "bold underline" if is_chosen else "bold"))
        pieces.append((mark + " " * (shown.gap - 1), "bold"))
    return pieces


def line(row: Row, scene: Scene, shown: Layout, *, is_selected: bool = False) -> list[Piece]:
    """One row, hostile names escaped.

    The selected one is inverted, but for its bars: that is to be seen on dark and on light
    terminals, with colours and without.
    """
    base = _row_style(row, scene)
    level = f"{base} {LEVEL_STYLES.get(row.status.level, '')}"
    selected = " reverse" if is_selected else ""
    pieces: list[Piece] = []
    for column in shown.columns:
        text = cut(column.draw(row, scene, column.width), column.width)
        text = padded(text, column.width, to_the_right=column.is_number)
        style = level if column.is_level else base
        pieces.append((text, style if column.is_bar else style + selected))
        pieces.append((" " * shown.gap, base + selected))
    return pieces


def bar(share: float, width: int) -> str:
    """``share`` of 1 as a bar of at most ``width`` columns, in eighths of one."""
    eighths = round(min(1.0, max(0.0, share)) * width * 8)
    whole, rest = divmod(eighths, 8)
    return "█" * whole + (_BAR_STEPS[rest - 1] if rest else "")


def _row_style(row: Row, scene: Scene) -> str:
    status = row.status
    if row.group is not None:
        return "bold"
    is_idle = not status.findings and status.cpu_cores <= IDLE_CORES
    return "dim" if is_idle or status.node in scene.stale else ""


def _name(row: Row) -> str:
    if row.group is not None:
        return (_OPEN if row.group.is_open else _CLOSED) + row.group.title
    return _INDENT * row.depth + printable(place(row.status), NAME_LENGTH)


def _draw_name(row: Row, scene: Scene, width: int) -> str:
    answered = scene.stale.get(row.status.node)
    name = _name(row)
    if answered is None or row.group is not None:
        return cut(name, width) if row.group is not None else fitted(name, width)
    return fitted(f"[{age(answered.isoformat(), scene.now)} ago] {name}", width)


def _draw_tags(row: Row, _scene: Scene, width: int) -> str:
    return cut(tags(row.status), width)


def _draw_bar(row: Row, _scene: Scene, width: int) -> str:
    return bar(row.status.score / 100, width)


def _draw_history(row: Row, scene: Scene, width: int) -> str:
    if row.group is not None:
        members = islice(row.group.members, _SUMMED_MEMBERS)
        cores = total(scene.history.of(key_of(member)) for member in members)
        return sparkline(cores, width, row.status.cpu_limit_cores)
    return sparkline(scene.history.of(row.key), width, row.status.cpu_limit_cores)


def _draw_limit(row: Row, scene: Scene, _width: int) -> str:
    is_throttled = (row.status.throttled_share or 0.0) >= _THROTTLED_SHARE
    share = columns.LIMIT_COLUMN.cell(row.status, scene.now)
    return share + ("!" if is_throttled else " ")


def _draw_reasons(row: Row, _scene: Scene, width: int) -> str:
    return cut(reasons(row.status), width)


def _cell_of(column: Column) -> Draw:
    def draw(row: Row, scene: Scene, width: int) -> str:
        return fitted(column.cell(row.status, scene.now), width)

    return draw


def _screen_column(
    column: Column, width: int, leaves: int = 0, sort: str = "", *, is_level: bool = False
) -> ScreenColumn:
    return ScreenColumn(
        column.title, _cell_of(column), width, leaves, column.is_number, sort, is_level
    )


def _all_columns(width: int, step_s: float) -> Iterable[ScreenColumn]:
    is_narrow = width < _NARROW
    steps = 8 if is_narrow else 12
    return (
        _screen_column(columns.SCORE_COLUMN, 5, sort="score", is_level=True),
        ScreenColumn("", _draw_bar, 6, leaves=5, is_level=True, is_bar=True),
        _screen_column(columns.LEVEL_COLUMN, 10, is_level=True),
        ScreenColumn("SIGNALS", _draw_tags, 12 if is_narrow else 16),
        _screen_column(columns.CPU_COLUMN, 6, sort="cpu"),
        ScreenColumn(f"LAST {span(steps * step_s)}", _draw_history, steps, leaves=10, is_bar=True),
        ScreenColumn("%LIMIT ", _draw_limit, 7, leaves=9, is_number=True, sort="limit"),
        _screen_column(columns.HOURS_COLUMN, 7, leaves=7, sort="hours"),
        _screen_column(columns.SINCE_COLUMN, 6, leaves=6),
        _screen_column(columns.AGE_COLUMN, 6, leaves=3, sort="age"),
        ScreenColumn(NAME, _draw_name, 0, sort="name"),
        _screen_column(columns.OWNER_COLUMN, 20, leaves=8, sort="owner"),
        _screen_column(columns.NODE_COLUMN, 14, leaves=4, sort="node"),
        _screen_column(columns.IMAGE_COLUMN, 34, leaves=1, sort="image"),
        ScreenColumn(_REASONS, _draw_reasons, _REASONS_WIDTH, leaves=2),
    )


def _has(column: ScreenColumn, traits: Traits) -> bool:
    return {
        columns.OWNER_COLUMN.title: traits.has_owner,
        columns.NODE_COLUMN.title: traits.is_many_nodes,
        columns.IMAGE_COLUMN.title: traits.has_image,
        columns.AGE_COLUMN.title: traits.has_age,
        _REASONS: traits.has_reason,
    }.get(column.title, True)


def span(seconds: float) -> str:
    """A length of time, as short as a title: ``80s``, ``2m``."""
    return f"{seconds:.0f}s" if seconds < 100 else f"{seconds / 60:.0f}m"
