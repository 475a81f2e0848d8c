"""More inputs from those that there are: cut, joined, repeated, and with what parsers trip over."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

from tests.fuzz.registry import SEPARATOR

_NUMBERS = (
    *(
        b"0",
        b"-1",
        b"1e400",
        b"1e-400",
        b"nan",
        b"inf",
        b"0x10",
        b"1_0",
        b"007",
        b"1.5",
        b"1e308",
        b"1e39",
    ),
    *(b"4294967295", b"4294967296", b"9223372036854775807", b"9223372036854775808"),
    *(b"18446744073709551615", b"-9223372036854775809", b"9" * 310, b"9" * 5000),
    "٣".encode(),  # a digit to str.isdigit and int()
)
_AWKWARD = (
    *(b"\0", b"\n", b"\r", b"\r\n", b"\t", b" ", b"\x0b", b"\x1b[2J", b"\x1b]0;x\x07", b"\x7f"),
    *(b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf", b"\x9b31m"),
    *("\u2028".encode(), "\u202e".encode(), "e\u0301\u0301\u0301\u0301\u0301".encode()),
    *(b"(", b")", b"[", b"]", b"{", b"}", b'"', b"'", b"\\", b"/", b"..", b":", b",", b"=", b"%"),
    *(b"\\ud800", b"\\u0000", b"null", b"true", b"[" * 1200, b'{"a":' * 1200, b"- " * 600),
    *(b"&a [*a]", b"!!python/object:x", b"<<: *a", b"2026-99-99", b"?", b"*", b"|", b">", b"#"),
    *(b"a" * 300, b"\xcc\x81" * 300, SEPARATOR),
)
WORDS = tuple(word for word in (*_NUMBERS, *_AWKWARD) if len(word) <= 64)
"""Those that fit into a fuzzer's dictionary."""
_VALUES: tuple[Any, ...] = (
    *(1e308, -1e308, 1e-320, -5, 0, 1e39, 10**25, True, None, "", "x" * 5000, "\ud800"),
    *("\x1b[2J\n", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "-", "9" * 5000),
    *([], {}, [[]], {"a": 1}),
)
_MAX_PLACES = 1000
_MAX_DEPTH = 12
_DIGITS = frozenset(b"0123456789")


def mutated(data: bytes, others: Sequence[bytes], chance: Random, max_bytes: int) -> bytes:
    """``data`` after one to six changes; ``others`` are what it may be joined with."""
    held = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 4, 6))):
        chance.choice(_CHANGES)(held, others, chance)
        del held[max_bytes:]
    return bytes(held)


_Change = Callable[[bytearray, Sequence[bytes], Random], None]


def _span(held: bytearray, chance: Random) -> tuple[int, int]:
    start = chance.randint(0, len(held))
    most = len(held) - start
    return start, start + chance.randint(0, min(most, chance.choice((1, 4, 16, 256, most))))


def _flip(held: bytearray, _others: Sequence[bytes], chance: Random) -> None:
    if held:
        held[chance.randrange(len(held))] ^= 1 << chance.randrange(8)


def _cut(held: bytearray, _others: Sequence[bytes], chance: Random) -> None:
    start, end = _span(held, chance)
    del held[start:end]


def _truncate(held: bytearray, _others: Sequence[bytes], chance: Random) -> None:
    del held[chance.randint(0, len(held)) :]


def _repeat(held: bytearray, _others: Sequence[bytes], chance: Random) -> None:
    start, end = _span(held, chance)
    held[start:start] = held[start:end] * chance.choice((1, 2, 50))


def _insert(held: bytearray, _others: Sequence[bytes], chance: Random) -> None:
    at = chance.randint(0, len(held))
    held[at:at] = chance.choice((_NUMBERS, _AWKWARD)[chance.random() < 0.7])


def _overwrite(held: bytearray, _others: Sequence[bytes], chance: Random) -> None:
    start, end = _span(held, chance)
    held[start:end] = chance.choice(_AWKWARD)


def _other_number(held: bytearray, _others: Sequence[bytes], chance: Random) -> None:
    """Another number where there is one."""
    starts = [at for at, byte in enumerate(held) if byte in _DIGITS]
    if not starts:
        return
    start = end = chance.choice(starts)
    while start and held[start - 1] in _DIGITS:
        start -= 1
    while end < len(held) and held[end] in _DIGITS:
        end += 1
    held[start:end] = chance.choice(_NUMBERS)


def _splice(held: bytearray, others: Sequence[bytes], chance: Random) -> None:
    """A piece of another input in place of one of this."""
    if others:
        other = bytearray(chance.choice(others))
        start, end = _span(held, chance)
        from_, to = _span(other, chance)
        held[start:end] = other[from_:to]


def _other_value(held: bytearray, _others: Sequence[bytes], chance: Random) -> None:
    """Where a line is JSON, something else in one place of it."""
    lines = bytes(held).split(b"\n")
    at = chance.randrange(len(lines))
    try:
        tree = json.loads(lines[at])
    except (ValueError, RecursionError):
        return
    places = list(_places(tree))[:_MAX_PLACES]
    if places:
        inner, key = chance.choice(places)
        inner[key] = chance.choice(_VALUES)
        lines[at] = json.dumps(tree).encode()
        held[:] = b"\n".join(lines)


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a JSON value with each of its keys; not deeper than is of use."""
    todo = [(tree, 0)]
    while todo:
        inner, depth = todo.pop()
        if not isinstance(inner, dict | list) or depth > _MAX_DEPTH:
            continue
        for key in inner if isinstance(inner, dict) else range(len(inner)):
            yield inner, key
            todo.append((inner[key], depth + 1))


def _reorder(held: bytearray, _others: Sequence[bytes], chance: Random) -> None:
    """Lines in another order."""
    lines = held.split(b"\n")
    if len(lines) > 1:
        at, to = chance.randrange(len(lines)), chance.randrange(len(lines))
        lines[at], lines[to] = lines[to], lines[at]
        held[:] = b"\n".join(lines)


_CHANGES: tuple[_Change, ...] = (
    _flip,
    _cut,
    _truncate,
    _repeat,
    _insert,
    _insert,
    _overwrite,
    _other_number,
    _other_number,
    _splice,
    _splice,
    _other_value,
    _other_value,
    _reorder,
)
