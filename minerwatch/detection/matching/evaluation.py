"""Conditions as functions of facts: the one evaluation of rules.

Facts may come with the literals found in them. These only save work: a condition is not evaluated
if the literals that it needs were not found.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from enum import IntEnum
from itertools import chain

from minerwatch.detection.condition import (
    All,
    Any,
    Condition,
    How,
    Not,
    Number,
    Predicate,
    Text,
    fields_of,
)
from minerwatch.detection.matching.required_literals import has_long_word
from minerwatch.detection.matching.text_index import LINE, LONG, NOTHING, Found
from minerwatch.detection.predicate import (
    OPERATORS,
    SIMPLE,
    number_holds,
    text_test,
    texts,
)
from minerwatch.model import Facts


class Seen:
    """Facts under evaluation, with what has been found out about them."""

    __slots__ = ("_has_long_word", "facts", "found", "known", "rules")

    def __init__(self, facts: Facts, found: Found = NOTHING, rules: Collection[int] = ()) -> None:
        """``found``: the literals in the facts; ``rules``: indexes of the rules that may match."""
        self.facts = facts
        self.found = found
        self.rules = rules
        self.known: dict[int, bool] = {}  # results of expressions, by the id of their predicate
        self._has_long_word: bool | None = None

    @property
    def has_long_word(self) -> bool:
        """True if a word of the command line is long."""
        if self._has_long_word is None:
            self._has_long_word = any(map(has_long_word, texts(self.facts.get(LINE))))
        return self._has_long_word

    def has_all(self, clauses: Sequence[Found]) -> bool:
        """Return True if the facts have one literal of each clause."""
        found = self.found
        for clause in clauses:
            if found.isdisjoint(clause) and not (LONG in clause and self.has_long_word):
                return False
        return True


Evaluate = Callable[[Seen], bool]


class Evaluations:
    """Functions of conditions; one for each condition object, however many rules share it."""

    def __init__(self, needed: Callable[[Condition], Sequence[Found]] = lambda _: ()) -> None:
        """``needed``: the clauses of a condition, one of each of which the facts must have."""
        self._needed = needed
        self._made: dict[int, Evaluate] = {}
        self._choices: dict[int, _Choice] = {}
        self._alive: list[Condition] = []  # whose ids are keys

    def holds(self, condition: Condition, facts: Facts) -> bool:
        """Return True if the condition holds on the facts."""
        return self.function(condition)(Seen(facts))

    def function(self, condition: Condition) -> Evaluate:
        """Return the condition as a function."""
        made = self._made.get(id(condition))
        if made is None:
            made = self._make(condition)
            if _cost(condition) is _Cost.REGEX:
                field, *others = fields_of(condition)
                if field in _REPEATED and not others:
                    made = _remembered(field, made)
            self._made[id(condition)] = made
            self._alive.append(condition)
        return made

    def reasons(self, condition: Condition, seen: Seen) -> Iterator[Predicate]:
        """Yield what makes a condition hold: true predicates that are not under a ``not``."""
        match condition:
            case All(conditions):
                for inner in conditions:
                    yield from self.reasons(inner, seen)
            case Any():
                for inner in self._choices[id(condition)].possible(seen):
                    if self.function(inner)(seen):
                        yield from self.reasons(inner, seen)
            case Not():
                return
            case _:
                yield condition

    def _make(self, condition: Condition) -> Evaluate:
        match condition:
            case All(conditions):
                each = tuple(self.function(one) for one in sorted(conditions, key=_cost))
                return _all_hold(each)
            case Any(conditions):
                return self._make_any(condition)
            case Not(inner):
                opposite = self.function(inner)
                return lambda seen: not opposite(seen)
            case Text(how=how):
                if how in REGEXES:
                    return _regex_holds(condition, self._needed(condition))
                return _text_holds(condition)
            case Number():
                return _number_holds(condition)
        test = SIMPLE[type(condition)]
        return lambda seen: test(condition, seen.facts)

    def _make_any(self, condition: Any) -> Evaluate:
        choice = self._choices[id(condition)] = _Choice(condition, self._needed)
        for inner in condition.conditions:
            if not isinstance(inner, Text) or inner.how in REGEXES:
                self.function(inner)  # lists of names are compiled as they are found
        others = sorted((condition.conditions[index] for index in choice.others), key=_cost)
        others_hold = _any_holds(tuple(map(self.function, others)))
        literals, function = choice.indexes.keys(), self.function

        def holds(seen: Seen) -> bool:
            for literal in literals & seen.found:
                for each in choice.with_literal(literal):
                    if function(each)(seen):
                        return True
            return others_hold(seen)

        return holds if literals else others_hold


class _Choice:
    """The conditions of an ``Any``, by the literals of which they need one."""

    def __init__(self, choice: Any, needed: Callable[[Condition], Sequence[Found]]) -> None:
        self._conditions = choice.conditions
        self.indexes: dict[int, int | tuple[int, ...]] = {}
        """Indexes of conditions, by literal; nearly all literals have one."""
        self.others: list[int] = []
        """Indexes of conditions that need no literal."""
        for index, inner in enumerate(choice.conditions):
            clause, *_ = needed(inner) or (NOTHING,)
            if not clause or LONG in clause:
                self.others.append(index)
                continue
            for literal in clause:
                before = self.indexes.get(literal)
                self.indexes[literal] = index if before is None else (*_indexes(before), index)

    def with_literal(self, literal: int) -> Sequence[Condition]:
        """Return the conditions that may hold because the literal was found."""
        indexes = self.indexes[literal]
        if isinstance(indexes, int):
            return (self._conditions[indexes],)
        return [self._conditions[index] for index in indexes]

    def possible(self, seen: Seen) -> Iterator[Condition]:
        """Yield the conditions that may hold, in their order."""
        found = (_indexes(self.indexes[literal]) for literal in self.indexes.keys() & seen.found)
        for index in sorted({*self.others, *chain.from_iterable(found)}):
            yield self._conditions[index]


def _indexes(each: int | tuple[int, ...]) -> tuple[int, ...]:
    return each if isinstance(each, tuple) else (each,)


class _Cost(IntEnum):
    SIMPLE = 0  # a number, a flag
    LITERAL = 1  # a comparison of texts
    REGEX = 2  # a pass over a text


def _cost(condition: Condition) -> _Cost:
    match condition:
        case All(conditions) | Any(conditions):
            return max(map(_cost, conditions), default=_Cost.SIMPLE)
        case Not(inner):
            return _cost(inner)
        case Text(how=how):
            return _Cost.REGEX if how in REGEXES else _Cost.LITERAL
    return _Cost.SIMPLE


REGEXES = frozenset((How.WILDCARD, How.REGEX))


def _all_hold(each: tuple[Evaluate, ...]) -> Evaluate:
    def holds(seen: Seen) -> bool:
        for one in each:  # noqa: SIM110 - all() takes twice as long
            if not one(seen):
                return False
        return True

    return holds


def _any_holds(each: tuple[Evaluate, ...]) -> Evaluate:
    def holds(seen: Seen) -> bool:
        for one in each:  # noqa: SIM110 - any() takes twice as long
            if one(seen):
                return True
        return False

    return holds


def _text_holds(predicate: Text) -> Evaluate:
    field, test = predicate.field, text_test(predicate)

    def holds(seen: Seen) -> bool:
        value = seen.facts.get(field)
        return test(value) if isinstance(value, str) else any(map(test, texts(value)))

    return holds


def _remembered(field: str, evaluate: Evaluate) -> Evaluate:
    """Return the condition, which remembers its results: it depends on this field only."""
    known: dict[str, bool] = {}

    def holds(seen: Seen) -> bool:
        value = seen.facts.get(field)
        if not isinstance(value, str) or len(value) > _MAX_REMEMBERED_CHARS:
            return evaluate(seen)
        result = known.get(value)
        if result is None:
            if len(known) >= _REMEMBERED:
                known.clear()
            result = known[value] = evaluate(seen)
        return result

    return holds


_REPEATED = frozenset(("Comm", "CurrentDirectory", "Image", "ParentImage"))
"""Fields whose texts many processes share."""
_REMEMBERED = 64
"""Texts for which a condition's result is remembered."""
_MAX_REMEMBERED_CHARS = 256
"""Longer texts are made to fill memory: a path has up to 4096 characters of four bytes."""


def _regex_holds(predicate: Text, clauses: Sequence[Found]) -> Evaluate:
    """Return the expression, which is evaluated once on the same facts."""
    key, field, test = id(predicate), predicate.field, text_test(predicate)

    def holds(seen: Seen) -> bool:
        known = seen.known.get(key)
        if known is None:
            known = seen.has_all(clauses)
            if known:
                value = seen.facts.get(field)
                known = test(value) if isinstance(value, str) else any(map(test, texts(value)))
            seen.known[key] = known
        return known

    return holds


def _number_holds(predicate: Number) -> Evaluate:
    """Return the comparison, which is quick for the usual fact: a fraction."""
    field, threshold = predicate.field, predicate.threshold
    compare = OPERATORS[predicate.comparison]

    def holds(seen: Seen) -> bool:
        value = seen.facts.get(field)
        if type(value) is float:
            return compare(value, threshold)
        return number_holds(predicate, seen.facts)

    return holds
