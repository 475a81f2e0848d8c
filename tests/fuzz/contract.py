"""What every parser owes its callers, whatever it was given."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from minerwatch.untrusted_text.display import printable

MAX_ERROR_CHARS = 16 << 10


def is_line(text: str, most: int | None = None) -> None:
    """``text`` may be printed on a terminal or put into a log as it is."""
    assert printable(text) == text, ascii(text)[:300]
    assert most is None or len(text) <= most, len(text)


def is_one_line(text: str) -> None:
    """The same but for heaps of marks: ``printable`` is still to come where it is shown."""
    assert text.isprintable(), ascii(text)[:300]


def are_lines(text: str) -> None:
    """The same of several lines: newlines are all that moves the cursor."""
    for line in text.split("\n"):
        is_line(line)


def is_unicode(text: str) -> None:
    """``text`` can be encoded: nothing that is published may fail for half a character."""
    text.encode()


def is_finite(value: float) -> None:
    """No NaN, no infinity: they spread through every sum."""
    assert math.isfinite(value), value


def is_publishable(value: Any) -> None:
    """It can be written as JSON and read again."""
    msgspec.json.decode(msgspec.json.encode(value))


def is_told(error: Exception) -> None:
    """An error's text can be shown: it is some, not endless, and encodes."""
    text = str(error)
    assert text
    assert len(text) <= MAX_ERROR_CHARS, len(text)
    text.encode("utf-8", "backslashreplace")
