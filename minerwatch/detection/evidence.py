"""What of a process's facts made a rule hold, and which of its conditions do and do not."""

from __future__ import annotations

from collections.abc import Iterator

import re2

from minerwatch.detection.condition import (
    All,
    Any,
    Condition,
    How,
    Not,
    Predicate,
    Text,
    predicates,
)
from minerwatch.detection.predicate import encodable, holds, predicate_holds, regex_options
from minerwatch.detection.rule import Rule
from minerwatch.model import Facts, FactValue

OBSERVED_LENGTH = 200
"""Characters of a text that are kept as evidence, around what matched."""

MAX_EXPLAINED = 6
"""Conditions of one group that an explanation shows; a list of names may have thousands."""


def explain(rule: Rule, facts: Facts) -> str:
    """The rule's conditions as an indented tree: which of them hold on ``facts``, and on what."""
    return "\n".join(_explained(rule.condition, facts, 0))


def _explained(
    condition: Condition, facts: Facts, depth: int, *, decides: bool = True
) -> Iterator[str]:
    """The tree's lines; what is large and does not decide the outcome is folded into one."""
    is_held = holds(condition, facts)
    start = "  " * depth + ("+ " if is_held else "- ")
    if isinstance(condition, All | Any | Not):
        start += _LINKS[type(condition)]
        count = sum(1 for _ in predicates(condition))
        if count > MAX_EXPLAINED and not decides:
            yield f"{start} … ({count:,} conditions)"
            return
    match condition:
        case All(conditions) | Any(conditions):
            yield start
            yield from _explained_group(conditions, facts, depth + 1, is_held=is_held)
        case Not(inner):
            yield start
            yield from _explained(inner, facts, depth + 1, decides=decides)
        case _:
            seen = "absent" if condition.field not in facts else repr(_seen(condition, facts))
            asked = _excerpt(condition.describe(), 0)
            yield f"{start}{condition.field} {asked}; observed: {seen}"


_LINKS: dict[type, str] = {All: "all of", Any: "any of", Not: "not"}


def _explained_group(
    conditions: tuple[Condition, ...], facts: Facts, depth: int, *, is_held: bool
) -> Iterator[str]:
    """Conditions below "all of" or "any of", and how many of them are not shown.

    Those that hold or fail like the whole group are why it does, so they go first.
    """
    held = [holds(inner, facts) for inner in conditions]
    ranked = sorted(range(len(held)), key=lambda place: held[place] is not is_held)
    for place in sorted(ranked[:MAX_EXPLAINED]):
        yield from _explained(conditions[place], facts, depth, decides=held[place] is is_held)
    left_out = [held[place] for place in ranked[MAX_EXPLAINED:]]
    for mark, outcome in (("+", True), ("-", False)):
        if outcome in left_out:
            yield f"{'  ' * depth}{mark} … and {left_out.count(outcome):,} more"


def observed(predicate: Predicate, facts: Facts) -> str | bool | int | float:
    """What the field was, of a list the element that matched, cut to what surrounds the hit."""
    value = facts.get(predicate.field, "")
    if isinstance(value, tuple):
        alone = ({**facts, predicate.field: (element,)} for element in value)
        hit = (one for one in alone if predicate_holds(predicate, one))
        elements = next(hit, {predicate.field: value[:1]})[predicate.field]
        value = elements[0] if isinstance(elements, tuple) and elements else ""
    if not isinstance(value, str):
        return value
    return _excerpt(value, _hit(predicate, value)) if len(value) > OBSERVED_LENGTH else value


def _seen(predicate: Predicate, facts: Facts) -> FactValue:
    value = facts[predicate.field]
    if isinstance(value, tuple) and not predicate_holds(predicate, facts):
        return tuple(_excerpt(element, 0) for element in value[:8])
    return observed(predicate, facts)


def _hit(predicate: Predicate, text: str) -> int:
    """Where in a long text the predicate matched, as near as is cheap to tell."""
    if not isinstance(predicate, Text):
        return 0
    if predicate.how is How.ENDSWITH:
        return len(text)
    if predicate.how is How.CONTAINS:
        found = text.lower().find(predicate.pattern.lower())
        return max(found, 0)
    if predicate.how is How.REGEX:
        match = re2.compile(predicate.pattern, regex_options()).search(encodable(text))
        return match.start() if match else 0
    return 0


def _excerpt(text: str, hit: int) -> str:
    if len(text) <= OBSERVED_LENGTH:
        return text
    start = max(0, min(hit - OBSERVED_LENGTH // 4, len(text) - OBSERVED_LENGTH))
    end = start + OBSERVED_LENGTH
    return ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")
