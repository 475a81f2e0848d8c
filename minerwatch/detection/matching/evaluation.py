"""Conditions as functions of facts: the one evaluation of rules.

Facts may come with the literals found in them. These only save work: a predicate is not evaluated
if none of its required literals was found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum

from minerwatch.detection.condition import All, Any, Condition, How, Not, Number, Predicate, Text
from minerwatch.detection.matching.text_index import FieldIndex, Found
from minerwatch.detection.predicate import OPERATORS, SIMPLE, number_holds, text_test, texts
from minerwatch.model import Facts


@dataclass(frozen=True, slots=True)
class Required:
    """Necessary conditions for a text predicate to hold on a fact."""

    literals: Found | None  # one of these is found; None: none are known
    least_length: int = 0  # characters


class Seen:
    """Facts under evaluation, with what has been found out about them."""

    __slots__ = ("_found", "_indexes", "facts", "known")

    def __init__(self, facts: Facts, indexes: Mapping[str, FieldIndex] | None = None) -> None:
        self.facts = facts
        self.known: dict[int, bool] = {}  # results of expressions, by the id of their predicate
        self._indexes = indexes
        self._found: dict[str, Found] = {}

    def found(self, field: str) -> Found | None:
        """Return the literals found in a field that is present; None without an index."""
        if self._indexes is None:
            return None
        found = self._found.get(field)
        if found is None:
            found = self._found[field] = self._indexes[field].found(self.facts[field])
        return found


Evaluate = Callable[[Seen], bool]


class _Cost(IntEnum):
    SIMPLE = 0  # a number, a flag
    LITERAL = 1  # a comparison of texts
    REGEX = 2  # a pass over a text


@dataclass(frozen=True, slots=True)
class _Evaluation:
    holds: Evaluate
    cost: _Cost


class Evaluations:
    """Functions of conditions; one for each condition object, however many rules share it."""

    def __init__(self, required: Mapping[Text, Required] | None = None) -> None:
        self._required = {} if required is None else required
        self._made: dict[int, _Evaluation] = {}
        self._alternatives: dict[int, _Alternatives] = {}
        self._alive: list[Condition] = []  # whose ids are keys

    def holds(self, condition: Condition, facts: Facts) -> bool:
        """Return True if the condition holds on the facts."""
        return self.function(condition)(Seen(facts))

    def function(self, condition: Condition) -> Evaluate:
        """Return the condition as a function."""
        return self._evaluation(condition).holds

    def reasons(self, condition: Condition, seen: Seen) -> Iterator[Predicate]:
        """Yield what makes a condition hold: true predicates that are not under a ``not``."""
        match condition:
            case All(conditions):
                for inner in conditions:
                    yield from self.reasons(inner, seen)
            case Any():
                for inner in self._alternatives[id(condition)].possible(seen):
                    if self.function(inner)(seen):
                        yield from self.reasons(inner, seen)
            case Not():
                return
            case _:
                yield condition

    def _evaluation(self, condition: Condition) -> _Evaluation:
        made = self._made.get(id(condition))
        if made is None:
            made = self._made[id(condition)] = self._make(condition)
            self._alive.append(condition)
        return made

    def _make(self, condition: Condition) -> _Evaluation:
        match condition:
            case All(conditions):
                each = sorted(map(self._evaluation, conditions), key=_cost)
                return _Evaluation(_all_hold(tuple(one.holds for one in each)), each[-1].cost)
            case Any():
                return self._make_any(condition)
            case Not(inner):
                positive = self._evaluation(inner)
                opposite = positive.holds
                return _Evaluation(lambda seen: not opposite(seen), positive.cost)
            case Text():
                required = self._required.get(condition, _NOTHING_REQUIRED)
                if condition.how in REGEXES:
                    return _Evaluation(_regex_holds(condition, required), _Cost.REGEX)
                return _Evaluation(_text_holds(condition, required), _Cost.LITERAL)
            case Number():
                return _Evaluation(_number_holds(condition), _Cost.SIMPLE)
        test = SIMPLE[type(condition)]
        return _Evaluation(lambda seen: test(condition, seen.facts), _Cost.SIMPLE)

    def _make_any(self, condition: Any) -> _Evaluation:
        listed: _Listed = {}
        others: list[int] = []
        cost = _Cost.SIMPLE
        for place, inner in enumerate(condition.conditions):
            required = self._required.get(inner) if isinstance(inner, Text) else None
            if isinstance(inner, Text) and required is not None and required.literals is not None:
                by_literal = listed.setdefault(inner.field, {})
                for literal in required.literals:
                    before = by_literal.get(literal)
                    by_literal[literal] = place if before is None else (*_places(before), place)
                cost = max(cost, _Cost.REGEX if inner.how in REGEXES else _Cost.LITERAL)
            else:
                others.append(place)
        alternatives = _Alternatives(condition.conditions, listed, others)
        self._alternatives[id(condition)] = alternatives
        each = sorted((self._evaluation(condition.conditions[one]) for one in others), key=_cost)
        others_hold = _any_holds(tuple(one.holds for one in each))
        cost = max([cost, *(one.cost for one in each)])
        function = self.function

        def holds(seen: Seen) -> bool:
            if others_hold(seen):
                return True
            for each in alternatives.listed(seen):  # noqa: SIM110 - any() takes twice as long
                if function(each)(seen):
                    return True
            return False

        return _Evaluation(holds if listed else others_hold, cost)


_Listed = dict[str, dict[int, int | tuple[int, ...]]]
"""Places of conditions, by field and required literal; nearly all literals have one place."""


def _places(each: int | tuple[int, ...]) -> tuple[int, ...]:
    return each if isinstance(each, tuple) else (each,)


class _Alternatives:
    """The conditions of an ``Any``, by the literals that they require."""

    __slots__ = ("_conditions", "_listed", "_others")

    def __init__(
        self,
        conditions: tuple[Condition, ...],
        listed: _Listed,
        others: list[int],
    ) -> None:
        """``others``: places of conditions that require no literal."""
        self._conditions = conditions
        self._listed = tuple(listed.items())
        self._others = tuple(others)

    def possible(self, seen: Seen) -> Iterator[Condition]:
        """Yield the conditions that may hold, in their order."""
        for place in sorted({*self._others, *self._found(seen)}):
            yield self._conditions[place]

    def listed(self, seen: Seen) -> Iterator[Condition]:
        """Yield the conditions that may hold because a required literal was found."""
        for place in self._found(seen):
            yield self._conditions[place]

    def _found(self, seen: Seen) -> Iterator[int]:
        for field, by_literal in self._listed:
            if field in seen.facts:
                found = seen.found(field)
                literals = by_literal.keys() if found is None else by_literal.keys() & found
                for literal in literals:
                    yield from _places(by_literal[literal])


REGEXES = frozenset((How.WILDCARD, How.REGEX))

_NOTHING_REQUIRED = Required(None)


def _cost(evaluation: _Evaluation) -> _Cost:
    return evaluation.cost


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


def _text_holds(predicate: Text, required: Required) -> Evaluate:
    field, literals, least_length = predicate.field, required.literals, required.least_length
    test = text_test(predicate)

    def holds(seen: Seen) -> bool:
        value = seen.facts.get(field)
        if value is None:
            return False
        if literals is not None:
            found = seen.found(field)
            if found is not None and literals.isdisjoint(found):
                return False
        if isinstance(value, str):
            return len(value) >= least_length and test(value)
        return any(map(test, texts(value)))

    return holds


def _regex_holds(predicate: Text, required: Required) -> Evaluate:
    """Return the function of an expression, which is evaluated once on the same facts."""
    key, evaluate = id(predicate), _text_holds(predicate, required)

    def holds(seen: Seen) -> bool:
        known = seen.known.get(key)
        if known is None:
            known = seen.known[key] = evaluate(seen)
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
