"""The subset of Sigma that is supported; anything else is refused with its line and the reason."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import re2

from minerwatch.detection.predicate import regex_options
from minerwatch.detection.sigma.yaml_document import Document, KeyPath, Value

MODIFIERS = frozenset(
    (
        *("contains", "startswith", "endswith", "all", "re", "i", "m", "s", "ignorecase"),
        *("multiline", "dotall", "cidr", "gt", "gte", "lt", "lte", "neq", "exists", "cased"),
        *("base64", "base64offset", "wide", "utf16", "utf16be", "windash", "expand", "fieldref"),
    )
)
_TIMESTAMP_MODIFIERS = frozenset(("minute", "hour", "day", "week", "month", "year"))
_ENCODINGS = frozenset(("base64", "base64offset"))
_WIDE = frozenset(("wide", "utf16", "utf16be"))
_RE2_REASONS = {
    "(?=": "look-ahead",
    "(?!": "look-ahead",
    "(?<": "look-behind",
    "(?>": "an atomic group",
}


def condition_and_selections(
    document: Document, key: str
) -> tuple[Sequence[str], Mapping[str, Value]]:
    """Return the conditions and the selections of a rule, or of a filter, below ``key``.

    Raises ``RuleError`` if they are missing, or not supported.
    """
    block = document.content.get(key)
    if not isinstance(block, dict):
        raise document.error(f"{key}: missing", key)
    if "timeframe" in block:
        reason = f"{key}: timeframe is not supported; write `minerwatch: {{for: …}}`"
        raise document.error(reason, key, "timeframe")
    if "condition" not in block:
        raise document.error(f"{key}: condition is missing", key)
    written, is_rule = block["condition"], key == "detection"
    conditions = written if isinstance(written, list) and written and is_rule else [written]
    for condition in conditions:
        if not isinstance(condition, str) or not condition.strip():
            raise document.error("condition: must be text", key, "condition")
        if "|" in condition:
            reason = "condition: aggregations (| count() …) are not supported"
            raise document.error(reason, key, "condition")
        if len(condition) > 10_000 or condition.count("(") > 100:
            raise document.error("condition: too long", key, "condition")
    others = ("condition",) if is_rule else ("condition", "rules")
    return conditions, {name: block[name] for name in block if name not in others}


def check_item(document: Document, key: str, value: Value, at: KeyPath) -> None:
    """Raise ``RuleError`` if ``field|modifiers: value`` is invalid, or not supported."""
    name, *modifiers = key.split("|")
    _check_modifiers(document, name, modifiers, at)
    values = value if isinstance(value, list) else [value]
    if not values:
        raise document.error(f"{key}: an empty list never matches", *at)
    for index, item in enumerate(values):
        where = (*at, index) if isinstance(value, list) else at
        if not isinstance(item, str | bool | int | float | None):
            raise document.error(f"{at[-1]}: {str(item)[:80]} is not text: quote it", *where)
        if "re" in modifiers:
            _check_regex(document, key, item, where)
        elif isinstance(item, int | float) and _TEXT_MODIFIERS.intersection(modifiers):
            raise document.error(f"{key}: {item} must be text here: quote it", *where)


_TEXT_MODIFIERS = frozenset(
    (
        *("contains", "startswith", "endswith", "cased", "windash", "expand", "fieldref"),
        *("base64", "base64offset", "cidr"),
    )
)


def _check_modifiers(document: Document, name: str, modifiers: list[str], at: KeyPath) -> None:
    for modifier in modifiers:
        if modifier in _TIMESTAMP_MODIFIERS:
            raise document.error(f"{at[-1]}: timestamp modifier {modifier!r} is not supported", *at)
        if modifier not in MODIFIERS:
            near = get_close_matches(modifier, sorted(MODIFIERS), n=1, cutoff=0.6)
            hint = f": did you mean {near[0]!r}?" if near else ""
            raise document.error(f"{at[-1]}: unknown modifier {modifier!r}{hint}", *at)
    given = set(modifiers)
    if "re" in given and given & {"contains", "startswith", "endswith"}:
        reason = "re searches anywhere in the text; anchor it with ^ and $ instead"
        raise document.error(f"{at[-1]}: {reason}", *at)
    if given & _WIDE and not given & _ENCODINGS:
        reason = "UTF-16 is supported together with base64 only"
        raise document.error(f"{at[-1]}: {reason}", *at)
    if "expand" in given and given & (_ENCODINGS | {"cidr", "fieldref", "exists"}):
        reason = "expand combines with contains, startswith, endswith, cased, windash and re only"
        raise document.error(f"{at[-1]}: {reason}", *at)
    if not name and given & {"cidr", "fieldref", "exists", "gt", "gte", "lt", "lte"}:
        raise document.error(f"{at[-1]}: has no field to compare", *at)


def _check_regex(document: Document, key: str, pattern: Value, at: KeyPath) -> None:
    """Refuse what RE2 cannot compile; where pySigma compiles it first, RE2 writes to stderr."""
    if not isinstance(pattern, str):
        raise document.error(f"{key}: a regular expression must be text: quote it", *at)
    reason = regex_problem(pattern)
    if reason:
        raise document.error(f"{key}: {reason}", *at)


def regex_problem(pattern: str) -> str | None:
    """Return the reason why RE2 cannot compile the pattern, or None if it can."""
    try:
        re2.compile(pattern, regex_options())
    except re2.error as error:
        said = error.args[0]
        words = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
        return f"regular expression {pattern[:200]!r} is not valid for RE2: {_re2_reason(words)}"
    return None


def _re2_reason(words: str) -> str:
    problem, _, operator = words.partition(": ")
    if problem.startswith("invalid perl operator"):
        for start, name in _RE2_REASONS.items():
            if operator.startswith(start):
                return f"{name} ({operator}) is not supported: matching must take linear time"
    if re.fullmatch(r"\\[1-9]", operator):
        return f"back-references ({operator}) are not supported: matching must take linear time"
    return words
