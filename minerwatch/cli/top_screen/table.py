"""Textual's table over rows of any number: it holds those around the cursor only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from rich.text import Text
from textual import events
from textual.binding import BindingType
from textual.coordinate import Coordinate
from textual.geometry import Size, clamp
from textual.message import Message
from textual.widgets import DataTable

from minerwatch.cli.top_screen.keys import key
from minerwatch.view.screen.history import Key
from minerwatch.view.screen.layout import Cell, Layout
from minerwatch.view.screen.presentation import AnyRow, Presentation

HELD = 300
"""Rows that Textual's table holds: it takes half a millisecond for each, drawn or not."""

_MARGIN = 130  # rows held beyond the selected one, where there are any
_WHEEL = 3


class LongTable(DataTable[Text]):
    """Rows below their titles, of which one is selected."""

    BINDINGS: ClassVar[list[BindingType]] = [
        key("enter", "select_cursor", "why"),
        key("down,j", "move(1)"),
        key("up,K", "move(-1)"),
        key("pagedown", "move_pages(1)"),
        key("pageup", "move_pages(-1)"),
        key("home,g", "first"),
        key("end,G", "last"),
    ]

    class Moved(Message):
        """Another row is selected, or the selected one shows something else."""

    def __init__(self) -> None:
        super().__init__(cursor_type="row", cell_padding=0, cursor_foreground_priority="renderable")
        self._shown: Presentation | None = None
        self._layout: Layout[Any] | None = None
        self._titles: Sequence[str] = ()
        self._cells: list[list[Cell]] = []  # that are held
        self._start = 0  # index of the first row that is held
        self.index = 0  # of the selected row
        self._chosen: Key | None = None  # of the selected row; None: the first, whichever it is
        self._is_filling = False

    @property
    def selected(self) -> AnyRow | None:
        """The row under the cursor."""
        rows = self._shown.rows if self._shown else ()
        return rows[self.index] if self.index < len(rows) else None

    @property
    def span(self) -> tuple[int, int, int]:
        """The first and the last row in sight, counted from 1, and how many there are."""
        count = len(self._shown.rows) if self._shown else 0
        top = self._start + int(self.scroll_y)
        return top + 1, min(count, top + self._page), count

    @property
    def _page(self) -> int:
        return max(1, self.size.height - 1)

    def show(self, shown: Presentation) -> None:
        """Show other rows; the selected one stays selected, and on its line."""
        rows, line = shown.rows, self.index - self._start - int(self.scroll_y)
        is_at_top = self._start + int(self.scroll_y) == 0
        index = self._index_in(rows)
        self._shown, self.index = shown, index
        if self._chosen is not None:
            self._chosen = rows[index].key if rows else None
        self._scroll_rows_to(0 if is_at_top else index - line, is_new=True)
        self.post_message(self.Moved())

    def move_to(self, index: int) -> None:
        """Select a row, or the nearest that there is."""
        rows = self._shown.rows if self._shown else ()
        if rows:
            top = self._start + int(self.scroll_y)
            self.index = clamp(index, 0, len(rows) - 1)
            self._chosen = rows[self.index].key
            self._scroll_rows_to(top)
            self.post_message(self.Moved())

    def action_move(self, rows: int) -> None:
        """Select a row further down, or up."""
        self.move_to(self.index + rows)

    def action_move_pages(self, pages: int) -> None:
        """Select one by what is in sight."""
        self.move_to(self.index + pages * self._page)

    def action_first(self) -> None:
        """Select the first row, whichever it is."""
        self.move_to(0)
        self._chosen = None

    def action_last(self) -> None:
        """Select the last row."""
        self.move_to(self.span[2] - 1)

    def on_resize(self, _event: events.Resize) -> None:
        """Choose the columns that fit, and keep the selected row in sight."""
        self._scroll_rows_to(self._start + int(self.scroll_y), is_new=True)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Move the cursor: what is in sight follows it."""
        event.stop().prevent_default()
        self.action_move(_WHEEL)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Move the cursor: what is in sight follows it."""
        event.stop().prevent_default()
        self.action_move(-_WHEEL)

    def watch_cursor_coordinate(self, old: Coordinate, new: Coordinate) -> None:
        """Take over a row that was clicked; the selected one is opened."""
        super().watch_cursor_coordinate(old, new)
        if not self._is_filling and old != new:
            self.move_to(self._start + new.row)
            if old.row == new.row:
                self.action_select_cursor()

    def _index_in(self, rows: Sequence[AnyRow]) -> int:
        """Return where the selected row is now; if it is gone, the row in its place."""
        if self._chosen is None or not rows:
            return 0
        index = min(self.index, len(rows) - 1)
        if rows[index].key == self._chosen:
            return index
        return next((at for at, row in enumerate(rows) if row.key == self._chosen), index)

    def _scroll_rows_to(self, top: int, *, is_new: bool = False) -> None:
        """Hold and scroll to rows from ``top`` on, as far as the selected one stays in sight."""
        shown = self._shown
        if shown is None or not self.size.width:
            return
        count = len(shown.rows)
        top = clamp(top, self.index - self._page + 1, self.index)
        top = clamp(top, 0, max(0, count - self._page))
        self._is_filling = True
        try:
            is_held = self._start <= max(0, self.index - _MARGIN)
            is_held &= self._start + HELD >= min(count, self.index + _MARGIN)
            if not is_held or self._start > top:
                self._start = clamp(self.index - HELD // 2, 0, max(0, count - HELD))
                is_new = True
            if is_new:
                self._fill(shown)
                self.virtual_size = Size(self.size.width, self.row_count + 1)
            self.scroll_target_y = self.scroll_y = top - self._start
            self.cursor_coordinate = Coordinate(self.index - self._start, 0)
        finally:
            self._is_filling = False

    def _fill(self, shown: Presentation) -> None:
        layout = shown.layout(self.size.width)
        titles = layout.titles(shown.sort, is_reversed=shown.view.is_reversed)
        if layout != self._layout or titles != self._titles:
            self._layout, self._titles, self._cells = layout, titles, []
            self.clear(columns=True)
            for index, (column, title) in enumerate(zip(layout.columns, titles, strict=True)):
                gap = layout.gap if column is not layout.columns[-1] else 0
                style = "bold underline" if column.sort and column.sort == shown.sort else "bold"
                self.add_column(Text(title, style), width=column.width + gap, key=str(index))
        rows = shown.rows[self._start : self._start + HELD]
        for row_index in range(len(self._cells) - 1, len(rows) - 1, -1):
            self.remove_row(str(row_index))
        del self._cells[len(rows) :]
        for row_index, row in enumerate(rows):
            self._put(row_index, shown.cells(row, layout))

    def _put(self, index: int, cells: list[Cell]) -> None:
        if index == len(self._cells):
            self._cells.append(cells)
            self.add_row(*map(_text, cells), key=str(index))
            return
        before, self._cells[index] = self._cells[index], cells
        for column, (old, new) in enumerate(zip(before, cells, strict=True)):
            if old != new:
                self.update_cell(str(index), str(column), _text(new))


def _text(cell: Cell) -> Text:
    """Return a cell as it is drawn; nothing in it is markup."""
    return Text(*cell, no_wrap=True, end="")
