"""Text to read: sections that scroll, are searched, and are jumped to; and a field to type in."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from math import isnan
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Container, Horizontal, Vertical, VerticalScroll
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input, Label, Sparkline, Static

from minerwatch.cli.top_screen.keys import key
from minerwatch.view.screen.history import full_scale
from minerwatch.view.screen.page import Section, Subject, cpu_text

_SCALE_WIDTH = 8


class Chart(Vertical):
    """A container's recent CPU usage."""

    def __init__(self) -> None:
        super().__init__()
        self._scale, self._bars, self._caption = Static(id="scale"), Sparkline(), Static()
        self._plot = Container(self._bars, id="plot")
        self._drawn = Horizontal(self._scale, self._plot)

    def compose(self) -> ComposeResult:
        """Yield the scale, the bars, and both in words."""
        yield self._drawn
        yield self._caption

    def show(self, subject: Subject) -> None:
        """Draw the last readings that fit; a full bar is the limit, or the most.

        Textual scales from the least to the most: two more readings, out of sight at the left,
        are no core and the full scale.
        """
        cores = subject.cores[-max(1, self.app.size.width - _SCALE_WIDTH - 4) :]
        full = full_scale(cores, subject.status.cpu_limit_cores)
        known = [0.0 if isnan(each) else each for each in cores]
        self._plot.styles.width, self._bars.styles.width = len(known), len(known) + 2
        self._bars.data = [0.0, full, *known]
        self._scale.update(Text(f"{full:{_SCALE_WIDTH}.2f} \n\n{0:{_SCALE_WIDTH}.2f} "))
        self._drawn.display = bool(known)
        self._caption.update(Text(f"CPU: {cpu_text(subject)}"))


class Pager(VerticalScroll):
    """Sections of lines that are broken already; after the first a chart, where there is one."""

    BINDINGS: ClassVar[list[BindingType]] = [
        key("down,j", "scroll_down"),
        key("up,K", "scroll_up"),
        key("home,g", "scroll_home"),
        key("end,G", "scroll_end"),
        key("tab", "section(1)"),
        key("shift+tab", "section(-1)"),
    ]

    def __init__(self, chart: Chart | None = None) -> None:
        super().__init__()
        self.searched = ""
        self._chart = chart
        self._above, self._below = Static(id="head"), Static(id="text")
        self._head = 0  # lines above the chart
        self._lines: list[Text] = []
        self._titles: list[int] = []  # lines with them
        self._found: list[int] = []  # lines with what is searched

    def compose(self) -> ComposeResult:
        """Lines before the chart, the chart, all others."""
        yield self._above
        if self._chart is not None:
            yield self._chart
        yield self._below

    def show(self, sections: Sequence[Section]) -> None:
        """Show ``sections``, scrolled as it was."""
        self._lines, self._titles, self._head = [], [], 0
        for title, body in sections:
            self._lines += [Text("")] if self._lines else []
            self._titles.append(len(self._lines))
            self._lines += [*([Text(title, "bold")] if title else ()), *body]
            self._head = self._head or len(self._lines)
        self._draw()

    def search(self, text: str) -> None:
        """Mark ``text``, and go to the first line with it; "": nothing."""
        self.searched = text
        self._draw()
        if self._found:
            self.find(0)

    def find(self, step: int) -> None:
        """Go to another line with what is searched; 0: the first in sight or after it."""
        if not self._found:
            words = f"Nothing here holds “{self.searched}”." if self.searched else "/ searches."
            self.notify(words, markup=False)
            return
        top = self._top
        at = bisect_right(self._found, top) if step > 0 else bisect_left(self._found, top) + step
        self._go(self._found[at % len(self._found)])

    def action_section(self, step: int) -> None:
        """Go to the next title, or the one before."""
        at = (
            bisect_right(self._titles, self._top)
            if step > 0
            else (bisect_left(self._titles, self._top) - 1)
        )
        if 0 <= at < len(self._titles):
            self._go(self._titles[at])

    @property
    def _offset(self) -> int:
        """Lines that the chart takes."""
        return self._chart.outer_size.height if self._chart is not None else 0

    @property
    def _top(self) -> int:
        """The first line in sight."""
        y = int(self.scroll_y)
        return y if y < self._head else max(self._head, y - self._offset)

    def _go(self, line: int) -> None:
        self.scroll_to(y=line + (self._offset if line >= self._head else 0), animate=False)

    def _draw(self) -> None:
        wanted = self.searched.lower()
        self._found = []
        lines = []
        for number, line in enumerate(self._lines):
            shown = line
            if wanted and wanted in line.plain.lower():
                self._found.append(number)
                shown = line.copy()
                begin = line.plain.lower().index(wanted)
                shown.stylize("reverse", begin, begin + len(wanted))
            lines.append(shown)
        self._above.update(Text("\n").join(lines[: self._head]))
        self._below.update(Text("\n").join(lines[self._head :]))


class Prompt(Horizontal):
    """A field that is there while something is typed, instead of the keys."""

    BINDINGS: ClassVar[list[BindingType]] = [key("escape", "clear")]

    class Typed(Message):
        """The text has changed."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(self, title: str, hint: str) -> None:
        super().__init__()
        self._title = title
        self._hint = hint
        self._before: Widget | None = None  # where keys went

    def compose(self) -> ComposeResult:
        """Title and field."""
        yield Label(f" {self._title} ", markup=False)
        field = Input(placeholder=self._hint, compact=True)
        field.cursor_blink = False
        yield field

    def open(self, text: str) -> None:
        """Take keys as letters from now on: the next one may be here already."""
        self._before = self.screen.focused
        field = self.query_one(Input)
        with self.prevent(Input.Changed):
            field.value = text
        self.display = True
        self.screen.set_focus(field, scroll_visible=False)

    def action_clear(self) -> None:
        """Search nothing."""
        self.query_one(Input).value = ""
        self.post_message(self.Typed(""))
        self._close()

    def _close(self) -> None:
        self.display = False
        self.screen.set_focus(self._before)

    @on(Input.Changed)
    def _changed(self, event: Input.Changed) -> None:
        event.stop()
        self.post_message(self.Typed(event.value))

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self._close()
