"""Hostile text made fit to print: escaped and shortened; command lines without their secrets."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

from minerwatch.arguments import quoted

_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"})
_MARKS = frozenset({"Mn", "Me", "Mc"})
_MAX_MARKS = 4  # on one letter; more climb over the lines above and below
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")  # letters that show nothing
_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\x1b": "\\e"}

CUT = " …[cut]… "
"""Stands where the middle of a text was left out."""

_MAX_NAME_CHARS = 256
_MAX_REDACTED_CHARS = 8192
"""Length above which only both ends of a command line are searched for secrets, and shown."""


def printable(text: str, limit: int | None = None) -> str:
    """Return ``text`` on one line, without power over a terminal, cut to ``limit`` characters.

    Control and format characters (newlines, escapes, bidirectional overrides), spaces that are
    not the ordinary one, and heaps of marks on one letter become visible escapes, so that what is
    read is what was there. The cut comes first: escapes may make the result longer than ``limit``.
    """
    if limit is not None and len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isascii() and text.isprintable():
        return text
    return "".join(_visible(text))


def shown_name(name: str) -> str:
    """Return a name fit to print, cut to 256 characters."""
    return printable(name, _MAX_NAME_CHARS)


def shortened(text: str, limit: int) -> str:
    """Return ``text``, or if it is longer than ``limit`` characters its two ends around a mark.

    Both ends, because padding can push what matters past any limit on one of them.
    """
    if len(text) <= limit:
        return text
    kept = limit - len(CUT)
    tail = kept // 3
    return text[: kept - tail] + CUT + text[len(text) - tail :]


def masked_command_line(line: str) -> str:
    """Return a command line with its secrets masked; of a very long one both ends.

    It is cut at blanks, and the first words after the cut are left out: what named them as a
    secret may have been cut off.
    """
    from minerwatch.untrusted_text.redaction import redacted  # most commands mask nothing

    if len(line) <= _MAX_REDACTED_CHARS:
        return redacted(line)
    start = line[: _MAX_REDACTED_CHARS * 2 // 3]
    end = line[-_MAX_REDACTED_CHARS // 3 :]
    start = start[: max(start.rfind(" "), 0)]
    _, _, end = end.partition(" ")
    _, _, end = end.partition(" ")
    return redacted(f"{start}{CUT}{end}")


def shown_command_line(line: str, limit: int) -> str:
    """Return a command line fit to print: quoted as in a shell, its two ends if it is long."""
    return printable(shortened(quoted(line), limit))


def _visible(text: str) -> Iterator[str]:
    marks = 0
    for character in text:
        category = unicodedata.category(character)
        marks = marks + 1 if category in _MARKS else 0
        is_seen = category not in _UNPRINTABLE and character not in _BLANK and marks <= _MAX_MARKS
        yield character if is_seen or character == " " else _escape(character)


def _escape(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return _ESCAPES.get(character, f"\\x{code:02x}")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
