"""Styled lines for a terminal, measured in its columns: a wide character takes two of them."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import NamedTuple

from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.text import Text


class Line(NamedTuple):
    """A line of text. Names, arguments and commands may be copied, so they are never broken."""

    text: str
    hang: int | None = None  # prose: it is broken, and goes on so far from the left


def fitted(text: str, width: int) -> str:
    """Return ``text`` in at most ``width`` columns; the middle is cut: both ends identify it."""
    if cell_len(text) <= width:
        return text
    if width <= 0:
        return ""
    tail_width = (width - 1) // 2
    return _start(text, width - 1 - tail_width) + "…" + _start(text[::-1], tail_width)[::-1]


def cut(text: str, width: int) -> str:
    """Cut the end of ``text`` so that it fits ``width`` columns."""
    if width <= 0:
        return ""
    return text if cell_len(text) <= width else _start(text, width - 1) + "…"


def padded(text: str, width: int, *, to_the_right: bool = False) -> str:
    """Return ``text`` with the spaces that fill ``width`` columns."""
    space = " " * max(0, width - cell_len(text))
    return space + text if to_the_right else text + space


def wrapped(text: str, width: int | None) -> list[str]:
    """Break ``text`` into lines of at most ``width`` columns, at spaces if there are any.

    None: one line.
    """
    if width is None:
        return [text]
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and cell_len(lines[-1]) + 1 + cell_len(word) <= width:
            lines[-1] += " " + word
            continue
        pieces = chop_cells(word, width) or [word]
        lines[-1:] = [*filter(None, lines[-1:]), *pieces]
    return lines


def rendered(lines: Iterable[Text], *, colour: bool) -> str:
    """Return the lines as they are sent to a terminal, or without colours to a file."""
    drawing = io.StringIO()
    console = Console(
        file=drawing,
        width=1 << 20,  # lines are broken already
        force_terminal=colour,
        color_system="standard" if colour else None,
        no_color=not colour,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    for line in lines:
        line.rstrip()
        console.print(line, soft_wrap=True)
    return drawing.getvalue()


def _start(text: str, width: int) -> str:
    return chop_cells(text, width)[0] if width > 0 else ""
