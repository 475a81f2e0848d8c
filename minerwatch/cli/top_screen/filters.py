"""Filters over all that is drawn: the last line of defence, and ASCII."""

from __future__ import annotations

from rich.cells import cell_len
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

from minerwatch.cli.top_screen.terminal import to_ascii


class HarmlessFilter(LineFilter):
    """All that is drawn, without what a terminal would obey.

    Text from elsewhere is escaped before; what a person pastes into a field is not.
    """

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """Return the same text in as many columns, without control and format characters."""
        return [
            each if each.text.isprintable() else Segment(_harmless(each.text), each.style)
            for each in segments
        ]


class AsciiFilter(LineFilter):
    """All that is drawn, in ASCII."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """Return the same text as far as ASCII goes, in as many columns."""
        return [Segment(to_ascii(text), style, control) for text, style, control in segments]


def _harmless(text: str) -> str:
    return "".join(each if each.isprintable() else "?" * cell_len(each) for each in text)
