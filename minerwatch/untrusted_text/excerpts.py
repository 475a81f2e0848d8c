"""Takes out of a line the words that a rule matched, without what stands around them."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence

from minerwatch.untrusted_text.redaction import redacted

MAX_EXCERPT_CHARS = 200
_MAX_LINE_CHARS = 4096
_START_CHARS = 512  # which program it is, and what that takes secrets by
_AROUND_CHARS = 1024
_BLANK_CHARS = " \t\n\r\f\v\u00a0"
_BLANKS = re.compile(f"[{_BLANK_CHARS}]+")

Span = tuple[int, int]


def matched_words(text: str, spans: Sequence[Span]) -> str:
    """Return the words of the command line ``text`` that ``spans`` touch, secrets masked.

    Words that do not follow each other are joined by " … ". Of a long line only what surrounds the
    first span is read; of a long word only what matched is returned.
    """
    if not spans:
        return ""
    if len(text) > _MAX_LINE_CHARS:
        text, spans = _surroundings(text, spans[0])
    spans = [_without_blanks(text, start, end) for start, end in spans]
    words, masked = [*_words(text)], _BLANKS.split(redacted(text))
    if len(masked) != len(words):  # masking keeps words apart; where it did not, nothing is shown
        return "…"
    starts = [start for start, _ in words]
    touched = {
        index
        for start, end in spans
        for index in range(
            max(0, bisect_right(starts, start) - 1),
            max(1, bisect_right(starts, max(start, end - 1))),
        )
    }
    return _joined(masked, sorted(touched), text[spans[0][0] : spans[0][1]])


def _without_blanks(text: str, start: int, end: int) -> Span:
    """Narrow a span that begins or ends with the blank before or after a word."""
    matched = text[start:end]
    inner = matched.lstrip(_BLANK_CHARS)
    return (start + len(matched) - len(inner), end) if inner else (start, end)


def _words(text: str) -> Iterator[Span]:
    start = 0
    for blank in _BLANKS.finditer(text):
        yield start, blank.start()
        start = blank.end()
    yield start, len(text)


def _surroundings(text: str, span: Span) -> tuple[str, Sequence[Span]]:
    """Cut a long line at blanks: its start, and some words on both sides of ``span``."""
    end = min(span[1], span[0] + MAX_EXCERPT_CHARS)
    before = _BLANKS.search(text, max(0, span[0] - _AROUND_CHARS), span[0])
    after = _last_blank(text, end, min(len(text), end + _AROUND_CHARS))
    start = 0 if span[0] <= _AROUND_CHARS else before.end() if before else None
    if start is None or (after is None and len(text) > end + _AROUND_CHARS):
        return text[span[0] : end], [(0, end - span[0])]  # within one word: what matched, no more
    stop = len(text) if after is None or len(text) <= end + _AROUND_CHARS else after
    first = text[: _last_blank(text, 0, _START_CHARS) or 0] if start else ""
    head = f"{first} … " if start else ""
    shift = len(head) - start
    return head + text[start:stop], [(span[0] + shift, end + shift)]


def _last_blank(text: str, start: int, end: int) -> int | None:
    indexes = [text.rfind(blank, start, end) for blank in _BLANK_CHARS]
    return max(indexes) if max(indexes) >= 0 else None


def _joined(words: Sequence[str], indexes: Sequence[int], hit: str) -> str:
    out = ""
    for index in indexes:
        if out:
            out += " " if index - 1 in indexes else " … "
        out += words[index]
        if len(out) > MAX_EXCERPT_CHARS:
            break
    if len(out) <= MAX_EXCERPT_CHARS:
        return out
    start = max(0, out.lower().find(hit.lower()[:MAX_EXCERPT_CHARS]) - MAX_EXCERPT_CHARS // 4)
    cut = out[start : start + MAX_EXCERPT_CHARS]
    return ("…" if start else "") + cut + ("…" if start + MAX_EXCERPT_CHARS < len(out) else "")
