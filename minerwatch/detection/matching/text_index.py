"""The literals that rules require, found in facts field by field.

Each field has one Aho-Corasick automaton. It only decides which predicates need evaluating: a
predicate none of whose literals is found does not hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter

import ahocorasick

from minerwatch.detection.condition import All, Any, Condition, Flag, Text
from minerwatch.detection.matching.required_literals import (
    commonness,
    normal_form,
    occurrences,
    requirement_of,
)
from minerwatch.detection.predicate import texts
from minerwatch.model import Facts

Found = frozenset[int]
"""Numbers of the literals that were found."""

_MEMO_TEXTS = 500
"""Texts of one field that are remembered."""
_MEMO_LENGTH = 512
"""Characters of the longest of them."""

NOTHING: Found = frozenset()

LINE = "CommandLine"
LONG = 0
"""Stands for a long word in a command line, which is searched only where a rule depends on it."""

_MAX_CLAUSES = 4
"""Clauses of a condition that are kept in one that needs any of several."""


class FieldIndex:
    """Finds the literals that rules need in one field."""

    def __init__(self, literals: Mapping[str, int]) -> None:
        """``literals``: in normal form, and their numbers."""
        automaton = ahocorasick.Automaton()
        for literal, number in literals.items():
            automaton.add_word(literal, number)
        automaton.make_automaton()
        self._hits = automaton.iter
        self.memo: dict[str, Found] = {}
        """The literals in the latest short texts."""
        self._latest: tuple[str | None, Found] = (None, NOTHING)  # the latest long text

    def found(self, text: str) -> Found:
        """Return the literals in a text that is not in ``memo``."""
        if len(text) > _MEMO_LENGTH:
            if text != self._latest[0]:
                self._latest = text, self._searched(text)
            return self._latest[1]
        found = self._searched(text)
        if len(self.memo) >= _MEMO_TEXTS:
            self.memo.clear()
        self.memo[text] = found
        return found

    def _searched(self, text: str) -> Found:
        # One empty set for all texts: each of its own takes 216 bytes.
        return frozenset(map(_NUMBER, self._hits(normal_form(text)))) or NOTHING


_NUMBER = itemgetter(1)  # of a hit


Indexes = tuple[tuple[str, FieldIndex, bool | None], ...]
"""Fields, each with its index and False if that flag has no literal: most flags are false."""


def search(indexes: Indexes, facts: Facts) -> Found:
    """Return the literals in the facts of some fields."""
    found = NOTHING
    for field, index, silent in indexes:
        value = facts.get(field)
        if value is None or value is silent:
            continue
        if not isinstance(value, str):
            value = " ".join(texts(value))
        here = index.memo.get(value)
        if here is None:
            here = index.found(value)
        if here:
            found = found | here if found else here
    return found


class Literals:
    """The literals that predicates and conditions need, numbered over all fields.

    A condition needs one literal of each of its clauses; the rarest clause is the first.
    """

    def __init__(self) -> None:
        line: dict[str, int] = {}
        self._numbers = {LINE: line, "Arguments": line}  # nearly always one text, searched once
        self._texts: list[str] = [""]  # by number; LONG is none
        self._needed: dict[int, tuple[Condition, tuple[Found, ...]]] = {}

    def indexes(self) -> Indexes:
        """Return the indexes that find the literals of all conditions seen."""
        used = {field: numbers for field, numbers in self._numbers.items() if numbers}
        made = {id(numbers): FieldIndex(numbers) for numbers in used.values()}
        silent = {key: None if index.found("false") else False for key, index in made.items()}
        return tuple(
            (field, made[id(numbers)], silent[id(numbers)]) for field, numbers in used.items()
        )

    def forget(self) -> None:
        """Forget everything: texts and clauses take megabytes."""
        self._numbers, self._texts, self._needed = {}, [], {}
        occurrences.cache_clear()

    def needed(self, condition: Condition) -> tuple[Found, ...]:
        """Return the clauses of a condition."""
        known = self._needed.get(id(condition))
        if known is None:
            clauses = sorted(dict.fromkeys(self._find(condition)), key=self._commonness)
            known = self._needed[id(condition)] = condition, tuple(clauses)
        return known[1]

    def _find(self, condition: Condition) -> Iterable[Found]:
        match condition:
            case All(conditions):
                return [clause for each in conditions for clause in self.needed(each)]
            case Any(conditions):
                return self._of_any([self.needed(each) for each in conditions])
            case Text() | Flag():
                return self._of_predicate(condition)
        return ()

    def _of_any(self, alternatives: Sequence[tuple[Found, ...]]) -> Iterable[Found]:
        """Return the rarest clauses of all alternatives as one, the next ones as one, and so on."""
        if not all(alternatives):
            return ()
        ranked = [(*each[: _MAX_CLAUSES - 1], each[-1]) for each in alternatives]
        return [
            NOTHING.union(*(each[min(index, len(each) - 1)] for each in ranked))
            for index in range(max(map(len, ranked), default=0))
        ]

    def _of_predicate(self, predicate: Text | Flag) -> Iterable[Found]:
        required = requirement_of(predicate)
        if required.literals is not None:
            numbers = self._numbers.setdefault(predicate.field, {})
            for literal in sorted(required.literals):
                if literal not in numbers:
                    numbers[literal] = len(self._texts)
                    self._texts.append(literal)
            yield frozenset(numbers[literal] for literal in required.literals)
        if required.has_long_word and predicate.field == LINE:
            yield frozenset((LONG,))

    def _commonness(self, clause: Found) -> tuple[bool, tuple[int, int, int]]:
        return LONG in clause, commonness(frozenset(self._texts[number] for number in clause))
