"""A rule's condition as a tree: frozen, small, comparable, without pySigma.

Semantics of predicates:

- A predicate reads one field. If the field is absent, only ``Absent`` holds.
- A predicate holds on a list if it holds on any element.
- Texts are compared by ``str.lower()`` unless the predicate is cased. Integers and booleans have a
  text as well (``"3333"``, ``"true"``); fractions have none.
- A text that is a plain decimal number is compared as that number.
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
    """Comparison of a text with a pattern."""

    EQUALS = "is"
    CONTAINS = "contains"
    STARTSWITH = "starts with"
    ENDSWITH = "ends with"
    WILDCARD = "is like"
    REGEX = "matches"


class Comparison(StrEnum):
    """Comparison of a number with a threshold."""

    EQUAL = "="
    LESS = "<"
    LESS_OR_EQUAL = "<="
    GREATER = ">"
    GREATER_OR_EQUAL = ">="


@dataclass(frozen=True, slots=True)
class Text:
    r"""Comparison of the field's text with a pattern.

    A wildcard pattern keeps ``*`` and ``?``; literal ones and literal ``\`` are escaped by ``\``.
    Other patterns are literal text, or a regular expression that starts with its flags.
    """

    field: str
    how: How
    pattern: str
    cased: bool = False

    def describe(self) -> str:
        """Return the predicate in a few words."""
        if self.how is How.REGEX:
            return f"matches /{self.pattern}/"
        return f"{self.how} {self.pattern!r}" + (" (in this case)" if self.cased else "")


@dataclass(frozen=True, slots=True)
class Number:
    """Comparison of the field's number with a threshold."""

    field: str
    comparison: Comparison
    threshold: int | float

    def describe(self) -> str:
        """Return the predicate in a few words."""
        return f"{self.comparison} {self.threshold}"


@dataclass(frozen=True, slots=True)
class Flag:
    """The field is true, or is false."""

    field: str
    expected: bool

    def describe(self) -> str:
        """Return the predicate in a few words."""
        return "is true" if self.expected else "is false"


@dataclass(frozen=True, slots=True)
class Present:
    """The field is present and not empty."""

    field: str

    def describe(self) -> str:
        """Return the predicate in a few words."""
        return "is present"


@dataclass(frozen=True, slots=True)
class Absent:
    """The field is absent or empty."""

    field: str

    def describe(self) -> str:
        """Return the predicate in a few words."""
        return "is absent"


@dataclass(frozen=True, slots=True)
class Network:
    """The field's address is in a network."""

    field: str
    network: IPv4Network | IPv6Network

    def describe(self) -> str:
        """Return the predicate in a few words."""
        return f"is in {self.network}"


@dataclass(frozen=True, slots=True)
class SameAs:
    """Comparison of the field's text with another field's (equals, contains, starts, ends)."""

    field: str
    how: How
    other: str

    def describe(self) -> str:
        """Return the predicate in a few words."""
        return f"{self.how} the field {self.other}"


Predicate = Text | Number | Flag | Present | Absent | Network | SameAs


@dataclass(frozen=True, slots=True)
class All:
    """All of the conditions hold."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Any:
    """A condition that holds if one of its parts does."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The condition does not hold."""

    condition: Condition


Condition = All | Any | Not | Predicate


def all_of(conditions: tuple[Condition, ...]) -> Condition:
    """Return the conjunction; a single condition is returned as it is."""
    return conditions[0] if len(conditions) == 1 else All(conditions)


def any_of(conditions: tuple[Condition, ...]) -> Condition:
    """Return the disjunction; a single condition is returned as it is."""
    return conditions[0] if len(conditions) == 1 else Any(conditions)


Known = dict[object, Condition]
"""The conditions that ``shared`` has returned, by a key that equal conditions have in common."""


def shared(condition: Condition, known: Known) -> Condition:
    """Return an equal condition that reuses the equal objects in ``known``.

    Dozens of rules use the same lists of names: of the shipped rules' predicates, one in fifteen is
    not a copy of another.
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
    """Yield the predicates of the tree in the order of the rule's text."""
    match condition:
        case All(conditions) | Any(conditions):
            for inner in conditions:
                yield from predicates(inner)
        case Not(inner):
            yield from predicates(inner)
        case _:
            yield condition


def fields_of(condition: Condition) -> frozenset[str]:
    """Return the fields that the condition reads."""
    names = set()
    for predicate in predicates(condition):
        names.add(predicate.field)
        if isinstance(predicate, SameAs):
            names.add(predicate.other)
    return frozenset(names)


_WILDCARD_TOKEN = re.compile(r"\\(.)|([*?])", re.DOTALL)


def wildcard_regex(predicate: Text) -> str:
    """Return the regular expression of a wildcard pattern, in lower case unless it is cased."""
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
    """Escape literal text for a wildcard pattern."""
    return re.sub(r"([*?\\])", r"\\\1", literal)


def regex_literal(literal: str) -> str:
    """Escape literal text for a regular expression."""
    return re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", literal)


def _quoted(literal: str, *, cased: bool) -> str:
    return regex_literal(literal if cased else literal.lower())
