"""Whether a predicate, or a tree of them, holds on some facts: asked one by one, as it is defined.

The compiled matcher (``match``) decides texts for all rules at once, and must agree with this.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

import re2

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
    Present,
    SameAs,
    Text,
    wildcard_regex,
)
from minerwatch.model import Facts, FactValue

Judge = Callable[[Predicate], bool]


def holds(condition: Condition, facts: Facts) -> bool:
    """Whether a condition holds."""
    return tree_holds(condition, lambda predicate: predicate_holds(predicate, facts))


def tree_holds(condition: Condition, judge: Judge) -> bool:
    """Whether a tree holds whose single predicates are decided by ``judge``."""
    match condition:
        case All(conditions):
            return all(tree_holds(inner, judge) for inner in conditions)
        case Any(conditions):
            return any(tree_holds(inner, judge) for inner in conditions)
        case Not(inner):
            return not tree_holds(inner, judge)
        case _:
            return judge(condition)


def predicate_holds(predicate: Predicate, facts: Facts) -> bool:
    """Whether one predicate holds, found on its own."""
    if not isinstance(predicate, Text):
        return SIMPLE[type(predicate)](predicate, facts)
    return any(_text_holds(predicate, text) for text in texts(facts.get(predicate.field)))


def texts(value: FactValue | None) -> tuple[str, ...]:
    """What a text predicate compares of a fact: of a list its elements, of a number its digits."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, tuple):
        return value
    if isinstance(value, bool):
        return ("true",) if value else ("false",)
    return (str(value),) if isinstance(value, int) else ()


def _text_holds(predicate: Text, text: str) -> bool:
    if predicate.how is How.REGEX:
        return _search(predicate.pattern, text)
    if not predicate.cased:
        text = text.lower()
    if predicate.how is How.WILDCARD:
        return _search(wildcard_regex(predicate), text)
    pattern = predicate.pattern if predicate.cased else predicate.pattern.lower()
    return _compares(predicate.how, text, pattern)


def _search(pattern: str, text: str) -> bool:
    return re2.compile(pattern, regex_options()).search(encodable(text)) is not None


def _compares(how: How, text: str, pattern: str) -> bool:
    match how:
        case How.CONTAINS:
            return pattern in text
        case How.STARTSWITH:
            return text.startswith(pattern)
        case How.ENDSWITH:
            return text.endswith(pattern)
    return text == pattern


OPERATORS: dict[Comparison, Callable[[float, float], bool]] = {
    Comparison.EQUAL: operator.eq,
    Comparison.LESS: operator.lt,
    Comparison.LESS_OR_EQUAL: operator.le,
    Comparison.GREATER: operator.gt,
    Comparison.GREATER_OR_EQUAL: operator.ge,
}

_PLAIN_NUMBER = re.compile(r"-?\d{1,18}(\.\d{1,9})?", re.ASCII)


def number_of(value: FactValue) -> int | float | None:
    """What a numeric predicate compares of a fact; None if it is no number."""
    if isinstance(value, bool | tuple):
        return None
    if not isinstance(value, str):
        return value
    if len(value) > 30 or not _PLAIN_NUMBER.fullmatch(value):
        return None
    return float(value) if "." in value else int(value)


def number_holds(predicate: Number, facts: Facts) -> bool:
    """Whether a fact, or any of a list, is a number that the predicate asks for."""
    value = facts.get(predicate.field)
    if value is None:
        return False
    if isinstance(value, tuple):
        return any(passes(predicate, number_of(element)) for element in value)
    return passes(predicate, number_of(value))


def passes(predicate: Number, number: int | float | None) -> bool:
    """Whether a number is what the predicate asks for; none never is."""
    if number is None:
        return False
    return OPERATORS[predicate.comparison](number, predicate.threshold)


def _flag_holds(predicate: Flag, facts: Facts) -> bool:
    value = facts.get(predicate.field)
    if isinstance(value, bool):
        return value is predicate.expected
    word = "true" if predicate.expected else "false"
    return isinstance(value, str | tuple) and any(t.lower() == word for t in texts(value))


def _present_holds(predicate: Present, facts: Facts) -> bool:
    return not is_empty(facts.get(predicate.field))


def _absent_holds(predicate: Absent, facts: Facts) -> bool:
    return is_empty(facts.get(predicate.field))


def is_empty(value: FactValue | None) -> bool:
    """Whether a fact is absent, or says nothing."""
    if value is None or value == "":
        return True
    return isinstance(value, tuple) and not any(value)


def _network_holds(predicate: Network, facts: Facts) -> bool:
    value = facts.get(predicate.field)
    if not isinstance(value, str | tuple):
        return False
    return any(_in_network(text, predicate) for text in texts(value))


def _in_network(text: str, predicate: Network) -> bool:
    if len(text) > 100:
        return False
    try:
        address = ip_address(text)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address in predicate.network or address.ipv4_mapped in predicate.network
    return address in predicate.network


def _same_holds(predicate: SameAs, facts: Facts) -> bool:
    ours = [text.lower() for text in texts(facts.get(predicate.field))]
    theirs = [text.lower() for text in texts(facts.get(predicate.other))]
    return any(_compares(predicate.how, text, other) for text in ours for other in theirs)


SIMPLE: dict[type, Callable[..., bool]] = {
    Number: number_holds,
    Flag: _flag_holds,
    Present: _present_holds,
    Absent: _absent_holds,
    Network: _network_holds,
    SameAs: _same_holds,
}


def regex_options() -> re2.Options:
    """How rules' expressions are compiled: quietly, and without groups."""
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    return options


def encodable(text: str) -> str:
    """The text without surrogates: facts have none, but one that had must not stop the agent."""
    return text.encode("utf-8", "replace").decode("utf-8")
