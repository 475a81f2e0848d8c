"""Lint of conditions: fields, values, patterns, contradictions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import permutations

import re2

from minerwatch.authoring.diagnostic import Problems
from minerwatch.detection.condition import (
    Absent,
    All,
    Any,
    Comparison,
    Condition,
    Flag,
    How,
    Network,
    Not,
    Number,
    Predicate,
    Text,
    predicates,
)
from minerwatch.detection.fields import KNOWN_FIELDS, SIGMA_FIELDS, nearest_field
from minerwatch.detection.matching.matcher import Matcher
from minerwatch.detection.predicate import predicate_holds
from minerwatch.detection.sigma.rule import Filter, Rule
from minerwatch.detection.sigma.yaml_document import Document

_PATH_FIELDS = frozenset(("Image", "ParentImage", "CurrentDirectory"))
_ADDRESS_FIELDS = frozenset(("DestinationIp", "SourceIp"))
_MAX_COMM_BYTES = 15  # proc_pid_comm(5): TASK_COMM_LEN is 16, with the final NUL
_MAX_MODES = 4  # of RoundingModes
_PADDED = re.compile(r"^(?:\(\?[a-z]+\))?\.[*+](?!\?)|(?<!\\)\.\*$")
_ONE_CHARACTER = re.compile(r"(?<!\\)\?")
_ANY_TEXT = "\x01 \x01"  # matched by no pattern on purpose
_MAX_PROGRAM = 4000
"""Instructions of RE2: {1,500} compiles to that many copies of what it repeats."""


def check_selections(item: Rule | Filter, document: Document) -> Problems:
    """Warn of selections that the condition does not use."""
    key = "filter" if isinstance(item, Filter) else "detection"
    for name in item.unused_selections:
        yield document.line(key, name), f"selection {name!r} is not used by the condition"


def check_fields(item: Rule | Filter, _document: Document) -> Problems:
    """Warn of fields that are unknown or never measured."""
    for name in item.fields:
        if name in SIGMA_FIELDS:
            yield line_of(item, name), f"{name} is never measured: conditions on it never hold"
        elif name not in KNOWN_FIELDS:
            yield line_of(item, name), f"unknown field {name}{did_you_mean(name)}"


def line_of(item: Rule | Filter, field: str) -> int:
    """Return the line where the field is first named."""
    return item.field_lines.get(field, item.id_line)


def did_you_mean(field: str) -> str:
    """Return a hint to the most similar known field, or ""."""
    near = nearest_field(field)
    return f": did you mean {near}?" if near else ""


def check_reach(rule: Rule, document: Document) -> Problems:
    """Warn of rules that match without any fact, and of those that never match."""
    line = document.line("detection", "condition")
    if Matcher((rule,)).matches({}):
        yield line, "matches an empty record: add a positive selection"
    for text in _contradictions(rule.condition):
        yield line, f"never matches: {text}"


def _contradictions(condition: Condition) -> Iterator[str]:
    match condition:
        case All(conditions):
            together = [inner for inner in _flat(conditions) if _is_about_one_value(inner)]
            for name in sorted({predicate.field for predicate in together}):
                yield from _clashes(name, [each for each in together if each.field == name])
            yield from _exclusions(conditions)
            inners = conditions
        case Any(conditions):
            inners = conditions
        case Not(inner):
            inners = (inner,)
        case _:
            return
    for inner in inners:
        yield from _contradictions(inner)


def _flat(conditions: Iterable[Condition]) -> Iterator[Predicate]:
    for condition in conditions:
        if isinstance(condition, All):
            yield from _flat(condition.conditions)
        elif not isinstance(condition, Any | Not):
            yield condition


def _exclusions(conditions: Sequence[Condition]) -> Iterator[str]:
    """Find selections that are both required and excluded."""
    required = {*conditions, *_flat(conditions)}
    for condition in conditions:
        if not isinstance(condition, Not):
            continue
        excluded = condition.condition
        members = excluded.conditions if isinstance(excluded, Any) else (excluded,)
        for member in members:
            if member in required:
                yield f"{_shortened(member)} is both required and excluded"


def _shortened(condition: Condition) -> str:
    if isinstance(condition, All | Any | Not):
        fields = ", ".join(sorted({each.field for each in predicates(condition)}))
        return f"a selection on {fields}"
    return f"{condition.field} {condition.describe()[:80]}"


def _is_about_one_value(predicate: Predicate) -> bool:
    """Return False for lists: different elements may satisfy different predicates."""
    field = KNOWN_FIELDS.get(predicate.field)
    return field is None or field.unit != "list"


def _clashes(name: str, together: list[Predicate]) -> Iterator[str]:
    """Find pairs of predicates on one field that can never both hold."""
    equals = {
        each.pattern.lower(): each.pattern
        for each in together
        if isinstance(each, Text) and each.how is How.EQUALS
    }
    if len(equals) > 1:
        one, other, *_ = equals.values()
        yield f"{name} cannot be {one!r} and {other!r} at once; |contains|all matches parts"
    if len({type(each) is Absent for each in together}) > 1:
        yield f"{name} cannot be absent and have a value at once"
    numbers = [each for each in together if isinstance(each, Number)]
    for low, high in permutations(numbers, 2):
        if low.comparison in _FROM_BELOW and high.comparison in _FROM_ABOVE:
            is_strict = _STRICT.intersection((low.comparison, high.comparison))
            if low.threshold > high.threshold or (low.threshold == high.threshold and is_strict):
                yield f"{name} cannot be {low.describe()} and {high.describe()} at once"


_FROM_BELOW = (Comparison.EQUAL, Comparison.GREATER, Comparison.GREATER_OR_EQUAL)
_FROM_ABOVE = (Comparison.EQUAL, Comparison.LESS, Comparison.LESS_OR_EQUAL)
_STRICT = frozenset((Comparison.GREATER, Comparison.LESS))


def check_patterns(item: Rule | Filter, _document: Document) -> Problems:
    """Warn of values and patterns that do not fit their field."""
    for predicate in predicates(item.condition):
        text = _value_problem(predicate)
        if text:
            yield line_of(item, predicate.field), text


def _value_problem(predicate: Predicate) -> str:
    name, field = predicate.field, KNOWN_FIELDS.get(predicate.field)
    unit = field.unit if field else None
    match predicate:
        case Network() if name not in _ADDRESS_FIELDS:
            return f"{name} is not an address: |cidr never holds on it"
        case Text() | Number() | Network() if unit == "bool":
            return f"{name} is a boolean: use true or false"
        case Flag() if unit not in (None, "bool"):
            return f"{name} is not a boolean: quote the text"
        case Text() if unit not in (None, "", "list"):
            return f"{name} is a number ({unit}): compare it with |gt, |gte, |lt or |lte"
        case Text():
            return _pattern_problem(predicate)
        case Number(threshold=threshold) if unit == "0..1" and not 0 <= threshold <= 1:
            return f"{threshold:g} is out of range: {name} is from 0 to 1"
        case Number(threshold=threshold) if name == "RoundingModes" and threshold > _MAX_MODES:
            return f"{threshold:g} is out of range: {name} is at most {_MAX_MODES}"
    return ""


def _pattern_problem(predicate: Text) -> str:
    name, pattern = predicate.field, predicate.pattern
    shown = repr(pattern[:80])
    if predicate.how is How.REGEX:
        if all(predicate_holds(predicate, {name: text}) for text in ("", _ANY_TEXT)):
            return f"{name}: regex {shown} matches the empty string, so every value"
        if (size := re2.compile(pattern).programsize) > _MAX_PROGRAM:
            return (
                f"{name}: regex {shown} compiles to {size:,} instructions: shorten its"
                " repetitions, {1,500} makes 500 copies"
            )
        if _PADDED.search(pattern):
            return f"{name}: regex {shown} needs no .* at its ends: it matches anywhere"
    elif predicate.how is How.WILDCARD and _ONE_CHARACTER.search(pattern):
        return f"{name}: ? in {shown} matches any character: write \\? for a question mark"
    is_from_start = predicate.how in (How.EQUALS, How.STARTSWITH)
    if name in _PATH_FIELDS and is_from_start and pattern and not pattern.startswith("/"):
        return f"{name} is an absolute path: for a file name use |endswith: '/{pattern[:80]}'"
    return ""


def check_comm_names(item: Rule | Filter, _document: Document) -> Problems:
    """Warn of names that are longer than the kernel's, unless the cut name is there, too."""
    names = {
        predicate.pattern.lower()
        for predicate in predicates(item.condition)
        if isinstance(predicate, Text)
        and predicate.field == "Comm"
        and predicate.how not in (How.REGEX, How.WILDCARD)
    }
    for name in sorted(names):
        cut = name.encode()[:_MAX_COMM_BYTES].decode(errors="ignore")
        if cut != name and cut not in names:
            text = f"Comm is cut to {_MAX_COMM_BYTES} bytes: {name[:80]!r} becomes {cut!r}"
            yield line_of(item, "Comm"), text
