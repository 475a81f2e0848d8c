"""Which row is selected and which are in sight, from one refresh to the next. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from minerwatch.cli.top_screen.history import Key
from minerwatch.cli.top_screen.rows import Row


@dataclass(frozen=True, slots=True)
class Position:
    """Of the selection, and of what is in sight."""

    index: int = 0  # of the selected row
    top: int = 0  # of the first row in sight
    key: Key | None = None  # of the selected row; None: nobody has chosen one, the first holds

    def moved_to(self, index: int, rows: Sequence[Row], height: int) -> Position:
        """With the row ``index``, or the nearest that there is, selected by a person."""
        if not rows:
            return Position()
        index = min(max(0, index), len(rows) - 1)
        return replace(self, index=index, key=rows[index].key).in_sight(len(rows), height)

    def carried_to(self, rows: Sequence[Row], height: int) -> Position:
        """The same after a refresh: the same row on the same line, if it is still there.

        Where the first rows are in sight they stay in sight: that is where the worst come up.
        """
        if not rows or self.key is None:
            return Position()
        index = _index_of(self.key, rows, self.index)
        if index is None:  # it is gone: whoever is in its place now is selected
            index = min(self.index, len(rows) - 1)
            return replace(self, index=index, key=rows[index].key).in_sight(len(rows), height)
        top = self.top + index - self.index if self.top else 0
        return replace(self, index=index, top=top).in_sight(len(rows), height)

    def in_sight(self, count: int, height: int) -> Position:
        """Scrolled as little as it takes to see the selected of ``count`` rows."""
        height = max(1, height)
        top = min(max(self.top, self.index - height + 1), self.index)
        return replace(self, top=max(0, min(top, count - height)))


def _index_of(key: Key, rows: Sequence[Row], near: int) -> int | None:
    if near < len(rows) and rows[near].key == key:
        return near
    return next((index for index, row in enumerate(rows) if row.key == key), None)
