"""A rule's outcome on some facts, selection by selection and field by field.

For the author of a rule whose test fails. The file is read a second time, because compiled rules
do not keep the selections' names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher

from minerwatch.detection.condition import (
    All,
    Any,
    Condition,
    How,
    Predicate,
    Text,
    fields_of,
    predicates,
)
from minerwatch.detection.matching.evaluation import Evaluations
from minerwatch.detection.predicate import predicate_holds, regex_span, texts
from minerwatch.detection.sigma.detection_parser import Outline
from minerwatch.detection.sigma.dialect import regex_problem
from minerwatch.model import Facts, FactValue

_SHOWN = 3
"""Patterns shown of many for one field: those that matched, or the nearest."""
_LONGEST_VALUE = 200
_LONGEST_PATTERN = 120
_MAX_PREFIXES = 400
"""Prefixes of a regular expression that are tried to find how far it matches."""
_MARKS = {True: "+", False: "-"}


def why(outline: Outline, facts: Facts) -> tuple[str, ...]:
    """Return the condition, then each selection's outcome, in detail if it is decisive.

    ``+`` holds, ``-`` does not. A selection is decisive if the rule's outcome depends on it; if
    the outcome depends on no single one, all are.
    """
    held = {name: _holds(each, facts) for name, each in outline.selections.items()}
    decisive = _decisive(outline, held)
    lines = [f"condition: {' '.join(outline.text.split())}"]
    for name, is_held in held.items():
        head = f"{_MARKS[is_held]} {name}, line {outline.lines[name]}"
        if name not in decisive:
            lines.append(head)
        else:
            lines.append(f"{head}: {'holds' if is_held else 'does not hold'}")
            lines += ("    " + line for line in _described(outline.selections[name], facts))
    return tuple(lines)


def _decisive(outline: Outline, held: Mapping[str, bool]) -> set[str]:
    """Return the selections whose opposite would change the rule's outcome."""
    used = fields_of(outline.logic)
    outcome = _outcome(outline.logic, held)
    turning = {
        name
        for name in used
        if _outcome(outline.logic, {**held, name: not held[name]}) is not outcome
    }
    return turning or set(used)


def _holds(condition: Condition, facts: Facts) -> bool:
    return Evaluations().holds(condition, facts)


def _outcome(logic: Condition, held: Mapping[str, bool]) -> bool:
    return Evaluations().holds(logic, {name: True for name, is_held in held.items() if is_held})


# One selection.


def _described(condition: Condition, facts: Facts) -> Iterator[str]:
    """Yield each field of a selection: the observed value, then the patterns."""
    names = fields_of(condition)
    if isinstance(condition, All | Any) and len(names) > 1:
        link = "all of" if isinstance(condition, All) else "any of"
        yield f"{_MARKS[_holds(condition, facts)]} {link}"
        for inner in condition.conditions:
            yield from ("    " + line for line in _described(inner, facts))
        return
    name = next(iter(sorted(names)))
    yield f"{_MARKS[_holds(condition, facts)]} {name}: {_observed(facts.get(name))}"
    yield from ("    " + line for line in _asked(condition, facts))


def _observed(value: FactValue | None) -> str:
    if value is None:
        return "absent: not measured here, so nothing that is asked of it holds"
    return _short(repr(value), _LONGEST_VALUE)


def _asked(condition: Condition, facts: Facts) -> Iterator[str]:
    """Yield the patterns for one field: of many, those that matched or came nearest."""
    asked = tuple(dict.fromkeys(predicates(condition)))
    matched = [each for each in asked if predicate_holds(each, facts)]
    missing = [each for each in asked if each not in matched]
    is_any = isinstance(condition, Any)
    first = (matched or _nearest(asked, facts)) if is_any else (missing or matched)
    shown = asked if len(asked) <= _SHOWN else first[:_SHOWN]
    for each in shown:
        yield _asked_line(each, facts)
    left_out = len(asked) - len(shown)
    if left_out:
        link = "any one of" if is_any else "each of"
        how_many = f"{len(matched):,} of {len(asked):,} hold, {link} them is asked for"
        yield how_many if matched else f"none of {len(asked):,} holds; nearest are shown"


def _asked_line(predicate: Predicate, facts: Facts) -> str:
    holds = predicate_holds(predicate, facts)
    line = f"{_MARKS[holds]} {_short(predicate.describe())}"
    if isinstance(predicate, Text) and predicate.how is How.REGEX:
        if holds:
            return f"{line} at {_hit(predicate, facts)!r}"
        if predicate.field in facts:
            return line + _how_far(predicate, facts)
    return line


def _short(text: str, limit: int = _LONGEST_PATTERN) -> str:
    return text if len(text) <= limit else f"{text[:limit]}…"


def _nearest(asked: Sequence[Predicate], facts: Facts) -> list[Predicate]:
    """Return the predicates, those most like the observed value first."""

    def likeness(predicate: Predicate) -> float:
        if not isinstance(predicate, Text) or predicate.how is How.REGEX:
            return 1.0
        observed = str(facts.get(predicate.field, ""))[:_LONGEST_VALUE].lower()
        pattern = predicate.pattern.lower()[:_LONGEST_PATTERN]
        common = SequenceMatcher(None, observed, pattern, autojunk=False).find_longest_match()
        return common.size / max(len(pattern), 1)

    return sorted(asked, key=likeness, reverse=True)


# Regular expressions.


def _hit(predicate: Text, facts: Facts) -> str:
    """Return the text that the expression matched."""
    for text in texts(facts.get(predicate.field)):
        found = _found(predicate.pattern, text)
        if found is not None:
            return _short(found)
    return ""


def _how_far(predicate: Text, facts: Facts) -> str:
    """Return how far an expression that does not match gets."""
    pattern = predicate.pattern
    ends = range(len(pattern) - 1, 0, -1)
    for end in ends[:_MAX_PREFIXES]:
        prefix = pattern[:end]
        if prefix.endswith("\\") or regex_problem(prefix) or _found(prefix, "") is not None:
            continue
        for text in texts(facts.get(predicate.field)):
            found = _found(prefix, text)
            if found:
                return (
                    f"; up to {_short(found)!r} it does, but not {_short(pattern[end:])!r} behind"
                )
    return "; not even its beginning does"


def _found(pattern: str, text: str) -> str | None:
    """Return the first match of ``pattern`` in ``text``."""
    span = regex_span(pattern, text)
    return None if span is None else text[slice(*span)]
