"""Abilities of the terminal, as its environment tells; text for one that knows ASCII only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_CANNOT_MOVE = frozenset({"", "dumb", "unknown"})
"""Values of TERM for which no cursor can be moved."""

_SMALL_FONTS = frozenset({"linux", "vt100", "vt102", "vt220", "cons25"})
"""Values of TERM whose fonts have 256 or 512 characters at most (console_codes(4))."""

_ASCII = {
    **dict.fromkeys("·│┃", "|"),
    **dict.fromkeys("─━–—−▔", "-"),
    **dict.fromkeys("├└┌┐┘┤┬┴┼", "+"),
    **dict.fromkeys("“”„", '"'),
    **dict.fromkeys("‘’", "'"),
    **dict.fromkeys("█▉▊▋", "#"),
    **dict.fromkeys("▌▍", "="),
    **dict.fromkeys("▎▏", "-"),
    "…": "~",
    "×": "x",
    "→": ">",
    "←": "<",
    "↑": "^",
    "↓": "v",
    "▼": "v",
    "▲": "^",
    "▾": "-",
    "▸": "+",
    "▁": "_",
    "▂": ".",
    "▃": ":",
    "▄": "-",
    "▅": "=",
    "▆": "+",
    "▇": "*",
}


@dataclass(frozen=True, slots=True)
class Terminal:
    """Abilities of a terminal."""

    has_unicode: bool
    is_dumb: bool  # lines can be printed, but nothing can be drawn


def terminal_of(environment: Mapping[str, str], *, ascii_only: bool = False) -> Terminal:
    """Return the terminal that ``environment`` describes: TERM, and the locale of setlocale(3).

    A locale that does not name UTF-8, or none at all, means ASCII.
    """
    name = environment.get("TERM", "")
    wanted = (environment.get(variable, "") for variable in ("LC_ALL", "LC_CTYPE", "LANG"))
    locale = next(filter(None, wanted), "").lower()
    says_utf8 = "utf-8" in locale or "utf8" in locale
    has_unicode = says_utf8 and name not in _SMALL_FONTS and not ascii_only
    return Terminal(has_unicode, name in _CANNOT_MOVE)


def environment_at_start(path: Path = Path("/proc/self/environ")) -> Mapping[str, str]:
    """Return the environment that this process was started with, where the kernel tells.

    In a locale without UTF-8 Python sets LC_CTYPE to one with it (PEP 538), for itself and its
    children; the variable then does not describe the terminal.
    """
    try:
        lines = path.read_bytes().split(b"\0")
    except OSError:
        return os.environ
    pairs = (os.fsdecode(line).partition("=") for line in lines)
    return {name: value for name, _, value in pairs if name}


def to_ascii(text: str) -> str:
    """Return ``text`` in ASCII, as many columns wide; question marks where nothing is alike."""
    if text.isascii():
        return text
    return "".join(_likeness(character) for character in text)


def _likeness(character: str) -> str:
    if character.isascii():
        return character
    from rich.cells import cell_len

    return _ASCII.get(character) or "?" * cell_len(character)
