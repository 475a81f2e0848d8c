"""Lines on the screen. They draw what they are given, and redraw only what has changed.

Nothing here reads markup: text is taken as it is. What is hostile in it has been escaped before.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual import events
from textual.color import Color
from textual.filter import LineFilter
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from minerwatch.cli.top_screen.cells import Piece, Scene, Traits, layout, line, titles
from minerwatch.cli.top_screen.position import Position
from minerwatch.cli.top_screen.rows import Row, View
from minerwatch.cli.top_screen.terminal import to_ascii


@lru_cache(maxsize=256)
def style_of(words: str) -> Style:
    """A style by its words; there are only a few."""
    return Style.parse(words)


class Drawn(Widget):
    """A widget that keeps its lines, and asks for those to be redrawn that have changed."""

    ALLOW_SELECT = False

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's own name
        super().__init__(id=id)
        self._strips: list[Strip] = []

    def render_line(self, y: int) -> Strip:
        """The line ``y``, blank below the last."""
        if y < len(self._strips):
            return self._strips[y]
        return Strip.blank(self.size.width)

    def draw(self, strips: Sequence[Strip]) -> None:
        """Show ``strips``, which are as wide as the widget."""
        before, self._strips = self._strips, list(strips)
        blank = Strip.blank(self.size.width)
        count = max(len(before), len(self._strips))
        old = [*before, *[blank] * (count - len(before))]
        new = [*self._strips, *[blank] * (count - len(self._strips))]
        changed = [
            Region(0, y, self.size.width, 1)
            for y in range(min(count, self.size.height))
            if old[y] != new[y]
        ]
        if changed:
            self.refresh(*changed)

    def strip_of(self, text: Text) -> Strip:
        """``text`` as one line of the widget."""
        styled = text.copy()
        styled.stylize_before(text.style)  # as a span: render() passes over a text's own style
        segments = list(styled.render(self.app.console, end=""))
        return Strip(segments).adjust_cell_length(self.size.width)


class Lines(Drawn):
    """Lines of text, as many as fit, from ``top`` on."""

    def __init__(
        self,
        lines: Sequence[Text] = (),
        *,
        id: str | None = None,  # noqa: A002 - Textual's own name
    ) -> None:
        super().__init__(id=id)
        self.lines = lines
        self.top = 0

    @property
    def span(self) -> tuple[int, int, int]:
        """The first and the last line in sight, counted from 1, and how many there are."""
        last = min(len(self.lines), self.top + self.size.height)
        return self.top + 1, last, len(self.lines)

    def show(self, lines: Sequence[Text]) -> None:
        """Show ``lines``, scrolled as they were."""
        self.lines = lines
        self.scroll_by(0)

    def scroll_by(self, lines: int) -> None:
        """Go down, or up, as far as there is anything to see."""
        self.top = max(0, min(self.top + lines, len(self.lines) - self.size.height))
        seen = self.lines[self.top : self.top + self.size.height]
        self.draw([self.strip_of(each) for each in seen])

    def on_resize(self) -> None:
        """Draw anew."""
        self.refresh()
        self.scroll_by(0)


class Grid(Drawn):
    """Rows below their titles, of which one is selected; only those in sight are drawn."""

    class Selected(Message):
        """Another row is selected, or the selected one shows something else."""

    def __init__(self, step_s: float, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self._step_s = step_s
        self._rows: Sequence[Row] = ()
        self._scene: Scene | None = None
        self._traits = Traits()
        self._view = View()
        self._empty: Sequence[Text] = ()
        self.position = Position()

    @property
    def selected(self) -> Row | None:
        """The row under the cursor; None if there is none."""
        return self._rows[self.position.index] if self._rows else None

    @property
    def page(self) -> int:
        """Rows in sight."""
        return max(1, self.size.height - 1)

    @property
    def span(self) -> tuple[int, int, int]:
        """The first and the last row in sight, counted from 1, and how many there are."""
        top = self.position.top
        return top + 1, min(len(self._rows), top + self.page), len(self._rows)

    def say(self, lines: Sequence[Text]) -> None:
        """Show ``lines`` for as long as there are no rows."""
        self._empty = lines
        self._redraw()

    def show(self, rows: Sequence[Row], traits: Traits, scene: Scene, view: View) -> None:
        """Show other rows; what was selected and where it stood stays as it was."""
        self._rows, self._scene, self._view = rows, scene, view
        self._traits = self._traits.joined(traits)
        self.position = self.position.carried_to(rows, self.page)
        self._redraw()

    def move(self, rows: int) -> None:
        """Select a row further down, or up."""
        self.move_to(self.position.index + rows)

    def move_to(self, index: int) -> None:
        """Select a row."""
        self.position = self.position.moved_to(index, self._rows, self.page)
        self._redraw()

    def let_go(self) -> None:
        """Nothing is chosen any more: the first row is shown, whichever that is."""
        self.position = Position()
        self._redraw()

    def on_resize(self, _event: events.Resize) -> None:
        """Choose the columns that fit now, and keep the selected row in sight."""
        self.refresh()
        self.position = self.position.in_sight(len(self._rows), self.page)
        self._redraw()

    def _redraw(self) -> None:
        if self.size.width:
            self.draw(
                self._drawn() if self._rows else [self.strip_of(each) for each in self._empty]
            )
        self.post_message(self.Selected())

    def _drawn(self) -> list[Strip]:
        width = self.size.width
        scene = self._scene
        if scene is None:
            return []
        shown = layout(width, self._traits, self._step_s)
        head = titles(shown, self._view.sort, is_reversed=self._view.is_reversed)
        strips = [_strip(head, width)]
        top = self.position.top
        for index, row in enumerate(self._rows[top : top + self.page], top):
            is_selected = index == self.position.index
            strips.append(_strip(line(row, scene, shown, is_selected=is_selected), width))
        return strips


def _strip(pieces: Sequence[Piece], width: int) -> Strip:
    segments = [Segment(text, style_of(style)) for text, style in pieces]
    return Strip(segments).adjust_cell_length(width)


class HarmlessFilter(LineFilter):
    """All that is drawn, without what a terminal would obey: the last line of defence.

    What comes from elsewhere has been escaped before; what a person pastes into a field has not.
    """

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """The same text in as many columns, without control and format characters."""
        return [
            each if each.text.isprintable() else Segment(_harmless(each.text), each.style)
            for each in segments
        ]


def _harmless(text: str) -> str:
    return "".join(each if each.isprintable() else "?" * cell_len(each) for each in text)


class AsciiFilter(LineFilter):
    """All that is drawn, in ASCII."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """The same text as far as ASCII goes, in as many columns."""
        return [Segment(to_ascii(text), style, control) for text, style, control in segments]
