"""The truth of a single predicate on facts. Every evaluation of a rule rests on this module."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from weakref import WeakValueDictionary

import re2

from minerwatch.detection.condition import (
    Absent,
    Comparison,
    Flag,
    How,
    Network,
    Number,
    Predicate,
    Present,
    SameAs,
    Text,
    wildcard_regex,
)
from minerwatch.model import Facts, FactValue

TextTest = Callable[[str], bool]

_REGEX_MEMORY = 512 << 10
_MAX_REGEX_MEMORY = 64 << 20


def predicate_holds(predicate: Predicate, facts: Facts) -> bool:
    """Return True if the predicate holds on the facts."""
    if isinstance(predicate, Text):
        test = text_test(predicate)
        return any(test(text) for text in texts(facts.get(predicate.field)))
    return SIMPLE[type(predicate)](predicate, facts)


def texts(value: FactValue | None) -> tuple[str, ...]:
    """Return the texts of a fact: the elements of a list, the digits of an integer."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, tuple):
        return value
    if isinstance(value, bool):
        return ("true",) if value else ("false",)
    return (str(value),) if isinstance(value, int) else ()


def text_test(predicate: Text) -> TextTest:
    """Return the function that compares one text with the predicate's pattern."""
    pattern, is_cased = predicate.pattern, predicate.cased
    if predicate.how is How.REGEX:
        return regex_test(pattern)
    if predicate.how is How.WILDCARD:
        test = regex_test(wildcard_regex(predicate))
        return test if is_cased else lambda text: test(_lower(text))
    compare = _COMPARE[predicate.how]
    if is_cased:
        return lambda text: compare(text, pattern)
    lower = pattern.lower()
    return lambda text: compare(_lower(text), lower)


_COMPARE: dict[How, Callable[[str, str], bool]] = {
    How.EQUALS: operator.eq,
    How.CONTAINS: operator.contains,
    How.STARTSWITH: str.startswith,
    How.ENDSWITH: str.endswith,
}


class _Regex:
    """A regular expression, searched anywhere in a text; compiled when it is first used."""

    __slots__ = ("__weakref__", "_find", "_pattern")

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._find: Callable[[object, bytes, int, int], list[tuple[int, int]]] | None = None

    def span(self, data: bytes) -> tuple[int, int]:
        """Return where it matches in the bytes of a text; (-1, -1): nowhere."""
        if self._find is None:
            # The public search() takes longer than most searches, for its Python around this.
            self._find = compiled_regex(self._pattern)._regexp.Match  # noqa: SLF001
        return self._find(_ANYWHERE, data, 0, len(data))[0]

    def is_in(self, text: str) -> bool:
        """Return True if it matches in a text."""
        return self.span(encoded(text))[0] >= 0


_ANYWHERE = re2._Anchor.UNANCHORED  # noqa: SLF001


_regexes: WeakValueDictionary[str, _Regex] = WeakValueDictionary()


def _regex_of(pattern: str) -> _Regex:
    """Return the expression, one for all that use it: compiling one takes milliseconds."""
    regex = _regexes.get(pattern)
    if regex is None:
        regex = _regexes[pattern] = _Regex(pattern)
    return regex


def regex_test(pattern: str) -> TextTest:
    """Return the function that searches one text for an expression."""
    return _regex_of(pattern).is_in


def compiled_regex(pattern: str, memory: int = _REGEX_MEMORY) -> re2._Regexp:
    """Return the expression, compiled within ``memory`` bytes, or more if it needs more.

    While RE2 matches, it uses the memory up to this limit. If that is too little, matching becomes
    slower and stays linear.
    """
    while True:
        options = regex_options()
        options.max_mem = memory
        try:
            return re2.compile(pattern, options)
        except re2.error:
            memory *= 4
            if memory > _MAX_REGEX_MEMORY:
                raise


def regex_span(pattern: str, text: str) -> tuple[int, int] | None:
    """Return where an expression matches in a text."""
    data = encoded(text)
    start, end = _regex_of(pattern).span(data)
    if start < 0:
        return None
    if text.isascii():
        return start, end
    before, within = data[:start], data[start:end]
    return len(before.decode()), len(before.decode()) + len(within.decode())


# A rule evaluates many predicates on the same text, so the latest texts are converted once.


@lru_cache(maxsize=4)
def _lower(text: str) -> str:
    return text.lower()


@lru_cache(maxsize=4)
def encoded(text: str) -> bytes:
    """Return the bytes that RE2 reads; a surrogate is replaced, though no fact should have one."""
    return text.encode("utf-8", "replace")


OPERATORS: dict[Comparison, Callable[[float, float], bool]] = {
    Comparison.EQUAL: operator.eq,
    Comparison.LESS: operator.lt,
    Comparison.LESS_OR_EQUAL: operator.le,
    Comparison.GREATER: operator.gt,
    Comparison.GREATER_OR_EQUAL: operator.ge,
}

_PLAIN_NUMBER = re.compile(r"-?\d{1,18}(\.\d{1,9})?", re.ASCII)


def number_of(value: FactValue) -> int | float | None:
    """Return the number that a fact is or spells; None if there is none."""
    if isinstance(value, bool | tuple):
        return None
    if not isinstance(value, str):
        return value
    if len(value) > 30 or not _PLAIN_NUMBER.fullmatch(value):
        return None
    return float(value) if "." in value else int(value)


def number_holds(predicate: Number, facts: Facts) -> bool:
    """Return True if the fact, or any element of a list, passes the comparison."""
    value = facts.get(predicate.field)
    if value is None:
        return False
    if isinstance(value, tuple):
        return any(_passes(predicate, number_of(element)) for element in value)
    return _passes(predicate, number_of(value))


def _passes(predicate: Number, number: int | float | None) -> bool:
    return number is not None and OPERATORS[predicate.comparison](number, predicate.threshold)


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
    """Return True if a fact is absent or holds no text."""
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
    compare = _COMPARE[predicate.how]
    return any(compare(text, other) for text in ours for other in theirs)


SIMPLE: dict[type, Callable[..., bool]] = {
    Number: number_holds,
    Flag: _flag_holds,
    Present: _present_holds,
    Absent: _absent_holds,
    Network: _network_holds,
    SameAs: _same_holds,
}


def regex_options() -> re2.Options:
    """Return RE2's options for the expressions of rules: no log, no groups."""
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    return options
