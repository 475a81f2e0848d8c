"""Columns that fit side by side, and a row as cells below them. Pure.

Widths do not depend on the cells, except that of names, which only grows: nothing moves sideways
when figures change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from typing import Generic, Protocol, TypeVar

from rich.cells import cell_len

from minerwatch.view.lines import cut, padded
from minerwatch.view.screen.history import CpuHistory, Key

NARROW = 140  # columns of a terminal
_NAME_BASE, _NAME_SHARE = 17, 0.15  # columns, and of the terminal's: names claim both
_MIN_NAME = 20
_MEASURED_ROWS = 1000  # the longest name among them counts


class Keyed(Protocol):
    """A row of any table."""

    @property
    def key(self) -> Key:
        """Identity of the row, from one refresh to the next."""


R = TypeVar("R", bound=Keyed)

Cell = tuple[str, str]
"""Text, and its style."""


@dataclass(frozen=True, slots=True)
class Scene:
    """The input of cells, besides their row."""

    now: datetime
    history: CpuHistory
    stale: Mapping[str, datetime]  # node -> time of its last answer


@dataclass(frozen=True, slots=True)
class Column(Generic[R]):
    """A title, and the cell of a row below it."""

    title: str
    draw: Callable[[R, Scene, int], str] = field(compare=False)
    width: int = 0
    leaves: int = 0  # a narrow terminal, lowest first; 0: never
    is_number: bool = False
    sort: str = ""  # the key that orders by it
    style: Callable[[R], str] | None = field(default=None, compare=False)
    exists: Callable[[Sequence[R]], bool] | None = field(default=None, compare=False)  # in rows
    is_name: bool = False  # as wide as the longest, where there is room
    is_rest: bool = False  # takes what is left; the last one


@dataclass(frozen=True, slots=True)
class Layout(Generic[R]):
    """Columns that fit side by side, as wide as they are drawn."""

    columns: tuple[Column[R], ...]
    gap: int

    def titles(self, sort: str, *, is_reversed: bool) -> list[str]:
        """Return the titles; the column that orders the rows is marked."""
        mark = "▲" if is_reversed else "▼"
        return [
            padded(cut(each.title, each.width), each.width, to_the_right=each.is_number)
            + (mark if sort and each.sort == sort else "")
            for each in self.columns
        ]

    def cells(self, row: R, scene: Scene, style: str) -> list[Cell]:
        """Return one row in its ``style``; hostile names are escaped."""
        cells = []
        for column in self.columns:
            text = cut(column.draw(row, scene, column.width), column.width)
            own = column.style(row) if column.style else ""
            cells.append(
                (
                    padded(text, column.width, to_the_right=column.is_number),
                    f"{style} {own}".strip(),
                )
            )
        return cells


@dataclass(frozen=True, slots=True)
class Traits:
    """The optional columns that rows need, and the width of names."""

    titles: frozenset[str] = frozenset()  # of columns that not all rows have
    longest_name: int = 0

    @classmethod
    def of(cls, rows: Sequence[R], columns: Sequence[Column[R]], scene: Scene) -> Traits:
        """Return those of the first ``rows``."""
        measured = list(islice(rows, _MEASURED_ROWS))
        named = next(each for each in columns if each.is_name)
        names = (cell_len(named.draw(row, scene, 1 << 10)) for row in measured)
        exist = (each.title for each in columns if each.exists and each.exists(measured))
        return cls(frozenset(exist), max(names, default=0))

    def joined(self, other: Traits) -> Traits:
        """Return what either has: a column that is there stays, names only grow."""
        return Traits(self.titles | other.titles, max(self.longest_name, other.longest_name))


def fitting(columns: Sequence[Column[R]], width: int, traits: Traits) -> Layout[R]:
    """Return the columns that a terminal of ``width`` has room for."""
    gap = 1 if width < NARROW else 2
    every = [each for each in columns if each.exists is None or each.title in traits.titles]
    claim = max(_MIN_NAME, min(traits.longest_name, int(_NAME_BASE + _NAME_SHARE * width)))
    kept = [each for each in every if not each.leaves]
    room = width - sum(each.width + gap for each in kept) + gap
    for column in sorted(every, key=lambda each: -each.leaves):
        if column.leaves and room - column.width - gap >= claim:
            room -= column.width + gap
            kept.append(column)
    kept.sort(key=every.index)
    has_rest = kept[-1].is_rest
    named = max(1, min(room, max(claim, traits.longest_name)) if has_rest else room)
    rest = kept[-1].width + room - named
    return Layout(tuple(_widened(each, named, rest) for each in kept), gap)


def _widened(column: Column[R], name: int, rest: int) -> Column[R]:
    if column.is_name:
        return replace(column, width=name)
    return replace(column, width=max(1, rest)) if column.is_rest else column
