"""The facts that made a rule hold, as they may be published."""

from __future__ import annotations

import re

from minerwatch.detection.condition import How, Predicate, Present, Text
from minerwatch.detection.predicate import predicate_holds, regex_span
from minerwatch.model import Facts
from minerwatch.untrusted_text.excerpts import matched_words
from minerwatch.untrusted_text.redaction import redacted

OBSERVED_LENGTH = 200
"""Characters of a text that are kept as evidence, around the match."""

_LINES = frozenset({"CommandLine", "ParentCommandLine", "Arguments"})
_WILDCARDS = re.compile(r"[*?]|\\\\.")
_INNER_BLANKS = re.compile(r"[ \t\n\r\f\v]")


def observed(predicate: Predicate, facts: Facts) -> str | bool | int | float:
    """Return the field's value as it may be published; of a list the element that matched.

    Of a list that only has to be there, all elements. Of a command line only the words that
    matched: the line around them may hold secrets.
    """
    value = facts.get(predicate.field, "")
    if predicate.field in _LINES and isinstance(predicate, Text):
        return matched_words(*_line_and_hits(predicate, facts))
    if isinstance(value, tuple):
        is_any = isinstance(predicate, Present)
        value = " ".join(value) if is_any else _element(predicate, facts)
    return redacted(_excerpt(value, _hit(predicate, value))) if isinstance(value, str) else value


def _element(predicate: Predicate, facts: Facts) -> str:
    """Return the element of a list that matched, or the first."""
    value = facts[predicate.field]
    elements = value if isinstance(value, tuple) else ()
    alone = ((each, {**facts, predicate.field: (each,)}) for each in elements)
    hits = (each for each, one in alone if predicate_holds(predicate, one))
    return next(hits, elements[0] if elements else "")


def _line_and_hits(predicate: Text, facts: Facts) -> tuple[str, list[tuple[int, int]]]:
    """Return a command line and the spans that matched; a list is joined to one line."""
    value = facts.get(predicate.field, "")
    if isinstance(value, str):
        return value, _hits(predicate, value)
    if not isinstance(value, tuple):
        return str(value), [(0, len(str(value)))]
    element = _element(predicate, facts)
    index = value.index(element) if element in value else 0
    apart = [_INNER_BLANKS.sub("\u00a0", each) for each in value]
    start = sum(len(each) + 1 for each in apart[:index])
    hits = _hits(predicate, apart[index] if apart else "") or [(0, len(element))]
    return " ".join(apart), [(start + begin, start + end) for begin, end in hits]


def _hit(predicate: Predicate, text: str) -> int:
    """Return about where in a text the predicate matched."""
    if not isinstance(predicate, Text) or len(text) <= OBSERVED_LENGTH:
        return 0
    if predicate.how is How.ENDSWITH:
        return len(text)
    return next((start for start, _ in _hits(predicate, text)), 0)


def _hits(predicate: Text, text: str) -> list[tuple[int, int]]:
    """Return the spans that matched; of a wildcard pattern, those of its literal pieces."""
    pattern = predicate.pattern
    match predicate.how:
        case How.STARTSWITH:
            return [(0, len(pattern))]
        case How.ENDSWITH:
            return [(max(0, len(text) - len(pattern)), len(text))]
        case How.REGEX:
            found = regex_span(pattern, text)
            return [found] if found else []
        case How.CONTAINS:
            return _found(text, [pattern])
        case How.WILDCARD:
            return _found(text, _WILDCARDS.split(pattern))
    return [(0, len(text))]


def _found(text: str, pieces: list[str]) -> list[tuple[int, int]]:
    """Return the spans of ``pieces`` in ``text``, one after the other."""
    low, past, hits = text.lower(), 0, []
    for piece in filter(None, pieces):
        start = low.find(piece.lower(), past)
        if start >= 0:
            past = start + len(piece)
            hits.append((start, past))
    return hits or [(0, 0)]


def _excerpt(text: str, hit: int) -> str:
    if len(text) <= OBSERVED_LENGTH:
        return text
    start = max(0, min(hit - OBSERVED_LENGTH // 4, len(text) - OBSERVED_LENGTH))
    end = start + OBSERVED_LENGTH
    return ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")
