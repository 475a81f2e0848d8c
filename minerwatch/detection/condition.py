"""A rule's condition as a tree of our own: frozen, small, comparable, free of pySigma.

What every predicate means, once and for all:

- It speaks of one field. Where the field is absent it does not hold; only ``Absent`` does.
- Of a list any one element may match.
- Text compares ``str.lower()`` of both sides unless it is cased. A number or a bool in the facts
  has a text as well (``"3333"``, ``"true"``); a fraction has none.
- A text that is a plain decimal number compares as that number.
- Regular expressions are RE2's, searched anywhere in the text, case-sensitive unless ``(?i)``.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network


class How(StrEnum):
    """How a text is compared with a pattern."""

    EQUALS = "is"
    CONTAINS = "contains"
    STARTSWITH = "starts with"
    ENDSWITH = "ends with"
    WILDCARD = "is like"
    REGEX = "matches"


class Comparison(StrEnum):
    """How a number is compared with a threshold."""

    EQUAL = "="
    LESS = "<"
    LESS_OR_EQUAL = "<="
    GREATER = ">"
    GREATER_OR_EQUAL = ">="


@dataclass(frozen=True, slots=True)
class Text:
    r"""The field's text compares so with a pattern.

    A wildcard pattern keeps ``*`` and ``?``; where those or ``\`` stand for themselves they are
    escaped by ``\``. All other patterns are literal text, or a regular expression with its flags
    in front.
    """

    field: str
    how: How
    pattern: str
    cased: bool = False

    def describe(self) -> str:
        """What is asked for, in a few words."""
        if self.how is How.REGEX:
            return f"matches /{self.pattern}/"
        return f"{self.how} {self.pattern!r}" + (" (in this case)" if self.cased else "")


@dataclass(frozen=True, slots=True)
class Number:
    """The field's number compares so with a threshold."""

    field: str
    comparison: Comparison
    threshold: int | float

    def describe(self) -> str:
        """What is asked for, in a few words."""
        return f"{self.comparison} {self.threshold}"


@dataclass(frozen=True, slots=True)
class Flag:
    """The field is true, or is false."""

    field: str
    expected: bool

    def describe(self) -> str:
        """What is asked for, in a few words."""
        return "is true" if self.expected else "is false"


@dataclass(frozen=True, slots=True)
class Present:
    """The field has been measured and is not empty."""

    field: str

    def describe(self) -> str:
        """What is asked for, in a few words."""
        return "is present"


@dataclass(frozen=True, slots=True)
class Absent:
    """The field has not been measured, or is empty."""

    field: str

    def describe(self) -> str:
        """What is asked for, in a few words."""
        return "is absent"


@dataclass(frozen=True, slots=True)
class Network:
    """The field's address lies in a network."""

    field: str
    network: IPv4Network | IPv6Network

    def describe(self) -> str:
        """What is asked for, in a few words."""
        return f"is in {self.network}"


@dataclass(frozen=True, slots=True)
class SameAs:
    """The field's text compares so with another field's text (equals, contains, starts, ends)."""

    field: str
    how: How
    other: str

    def describe(self) -> str:
        """What is asked for, in a few words."""
        return f"{self.how} the field {self.other}"


Predicate = Text | Number | Flag | Present | Absent | Network | SameAs


@dataclass(frozen=True, slots=True)
class All:
    """Every one of the conditions holds."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Any:
    """At least one of the conditions holds."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The condition does not hold."""

    condition: Condition


Condition = All | Any | Not | Predicate


def all_of(conditions: tuple[Condition, ...]) -> Condition:
    """Every one of ``conditions``, without a needless level."""
    return conditions[0] if len(conditions) == 1 else All(conditions)


def any_of(conditions: tuple[Condition, ...]) -> Condition:
    """At least one of ``conditions``, without a needless level."""
    return conditions[0] if len(conditions) == 1 else Any(conditions)


Known = dict[object, Condition]
"""Every condition that ``shared`` has met, by what makes it equal to another."""


def shared(condition: Condition, known: Known) -> Condition:
    """An equal condition, made of the very objects in ``known`` wherever equal ones are there.

    Rules have much in common: the same lists of names stand in dozens of them, so that only one
    predicate in fifteen of the shipped rules is not a copy of another.
    """
    if known.get(id(condition)) is condition:
        return condition
    match condition:
        case All(conditions) | Any(conditions):
            inner = tuple(shared(each, known) for each in conditions)
            alike: object = (type(condition), *map(id, inner))  # they live as long as ``known``
            is_whole = all(map(operator.is_, inner, conditions))
            found = known.setdefault(alike, condition if is_whole else type(condition)(inner))
        case Not(opposite):
            inner_one = shared(opposite, known)
            negated = condition if inner_one is opposite else Not(inner_one)
            found = known.setdefault((Not, id(inner_one)), negated)
        case _:
            found = known.setdefault(condition, condition)
    known[id(found)] = found
    return found


def predicates(condition: Condition) -> Iterator[Predicate]:
    """Every predicate of the tree, in the order of the rule's text."""
    match condition:
        case All(conditions) | Any(conditions):
            for inner in conditions:
                yield from predicates(inner)
        case Not(inner):
            yield from predicates(inner)
        case _:
            yield condition


def fields_of(condition: Condition) -> frozenset[str]:
    """Every field that the condition looks at."""
    names = set()
    for predicate in predicates(condition):
        names.add(predicate.field)
        if isinstance(predicate, SameAs):
            names.add(predicate.other)
    return frozenset(names)


_WILDCARD_TOKEN = re.compile(r"\\(.)|([*?])", re.DOTALL)


def wildcard_regex(predicate: Text) -> str:
    """The regular expression of a wildcard pattern; lower case where it is not cased."""
    out, literal_from = [], 0
    literal = ""
    for token in _WILDCARD_TOKEN.finditer(predicate.pattern):
        literal += predicate.pattern[literal_from : token.start()]
        literal_from = token.end()
        if token[1] is not None:
            literal += token[1]
            continue
        out += [_quoted(literal, cased=predicate.cased), ".*" if token[2] == "*" else "."]
        literal = ""
    out.append(_quoted(literal + predicate.pattern[literal_from:], cased=predicate.cased))
    return r"(?s)\A" + "".join(out) + r"\z"


def escaped_wildcards(literal: str) -> str:
    """Text that stands for itself in a wildcard pattern."""
    return re.sub(r"([*?\\])", r"\\\1", literal)


def regex_literal(literal: str) -> str:
    """Text that stands for itself in a regular expression."""
    return re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", literal)


def _quoted(literal: str, *, cased: bool) -> str:
    return regex_literal(literal if cased else literal.lower())
