"""Bounds on the memory of text that tenants choose.

A tenant's bytes take up to 16 times their length in memory: an invalid UTF-8 byte is shown as four
characters, and one character beyond U+FFFF makes its whole text four bytes wide. So sizes are
those in memory (``sys.getsizeof``), never numbers of characters.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable, Iterable, Mapping
from functools import lru_cache
from typing import TypeVar

Owner = TypeVar("Owner", bound=Hashable)
Text = TypeVar("Text", str, tuple[str, ...])

GAP = "…"
"""Marks a cut. It has no blanks, so that the text after it does not look like an argument."""

MAX_OWNER_BYTES = 2 << 20
"""Kept of the processes of one owner: a pod, a user, or a container outside of Kubernetes."""

MAX_NODE_BYTES = 12 << 20
"""Kept of all processes of the node; texts of the owner with most are shortened first."""

_MAX_SHARED_BYTES = 256
_STR_HEADER_BYTES = 80  # of the widest kind of str, and some to spare
_POINTER_BYTES = 8


def size_of(value: str | tuple[str, ...]) -> int:
    """Return the memory that a text, or a tuple of texts, takes in bytes."""
    if isinstance(value, str):
        return sys.getsizeof(value)
    return sys.getsizeof(value) + sum(map(sys.getsizeof, value))


def both_ends(value: Text, max_bytes: int) -> Text:
    """Return ``value``, cut in the middle where it takes more than ``max_bytes``.

    A tuple keeps whole elements while they fit, with an element GAP between them.
    """
    if size_of(value) <= max_bytes:
        return value
    if isinstance(value, str):
        return _text_ends(value, max_bytes)
    return _tuple_ends(value, max_bytes)


def _text_ends(text: str, max_bytes: int) -> str:
    width = 1 if text.isascii() else max(1, (sys.getsizeof(text) - 40) // max(1, len(text)))
    # The gap makes a Latin-1 text two bytes wide.
    chars = max(0, max_bytes - _STR_HEADER_BYTES) // max(2, width) - len(GAP)
    if chars < 2:
        return ""
    head = chars - chars // 2
    return text[:head] + GAP + text[-(chars // 2) :]


def _tuple_ends(texts: tuple[str, ...], max_bytes: int) -> tuple[str, ...]:
    """Return elements from the front and from the back, each up to half of ``max_bytes``."""
    half_bytes = max(0, max_bytes - sys.getsizeof((GAP,)) - sys.getsizeof(GAP)) // 2
    front = _fitting(texts, half_bytes)
    back = _fitting(texts[len(front) :][::-1], half_bytes)[::-1]
    if not front and texts:
        front = (_text_ends(texts[0], half_bytes - _POINTER_BYTES),)
        back = back[: len(texts) - 1]
    return (*front, GAP, *back)


def _fitting(texts: Iterable[str], max_bytes: int) -> tuple[str, ...]:
    kept: list[str] = []
    for text in texts:
        max_bytes -= sys.getsizeof(text) + _POINTER_BYTES
        if max_bytes < 0:
            break
        kept.append(text)
    return tuple(kept)


_cached = lru_cache(maxsize=1024)(str)


def shared(text: str) -> str:
    """Return the cached object that equals a short text; names and paths repeat.

    ``sys.intern`` would keep each text forever on Python 3.12.
    """
    return _cached(text) if sys.getsizeof(text) <= _MAX_SHARED_BYTES else text


def fattest_over(
    kept_by_owner: Mapping[Owner, int],
    *,
    max_owner: int = MAX_OWNER_BYTES,
    max_node: int = MAX_NODE_BYTES,
) -> tuple[Owner, int] | None:
    """Return the owner whose text must be shortened, and to how much; None if all fits.

    It is the owner that keeps most, so an owner below the mean is never affected by others.
    """
    if not kept_by_owner:
        return None
    owner = max(kept_by_owner, key=kept_by_owner.__getitem__)
    kept = kept_by_owner[owner]
    if kept > max_owner or sum(kept_by_owner.values()) > max_node:
        return owner, min(max_owner, kept) // 2
    return None


def water_level(sizes: Iterable[int], max_bytes: int) -> int:
    """Return the largest size such that all ``sizes`` cut to it take at most ``max_bytes``.

    The longest are cut first; short ones stay whole.
    """
    left_bytes = max_bytes
    ordered = sorted(sizes)
    for number, size in enumerate(ordered):
        share = left_bytes // (len(ordered) - number)
        if size > share:
            return max(0, share)
        left_bytes -= size
    return ordered[-1] if ordered else 0
