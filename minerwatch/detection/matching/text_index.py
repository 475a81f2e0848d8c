"""The literals that rules require, found in facts field by field.

Each field has one Aho-Corasick automaton. It only decides which predicates need evaluating: a
predicate none of whose literals is found does not hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import ahocorasick

from minerwatch.detection.matching.required_literals import normal_form
from minerwatch.detection.predicate import texts
from minerwatch.model import FactValue

Found = frozenset[int]
"""Numbers of the literals that were found."""

_MEMO_BYTES = 384 << 10
"""Memory for the remembered texts of one field."""
_MEMO_LENGTH = 256
"""Characters of the longest text that is remembered."""
_ENTRY_BYTES = 400  # of a dictionary and a small set

_NONE: Found = frozenset()


class FieldIndex:
    """Finds the literals that rules require of one field."""

    def __init__(self, literals: Mapping[str, int], memo_bytes: int = _MEMO_BYTES) -> None:
        """``literals``: in normal form, and their numbers."""
        automaton = ahocorasick.Automaton()
        for literal, number in literals.items():
            automaton.add_word(literal, number)
        automaton.make_automaton()
        self._hits = automaton.iter if literals else lambda _text: ()
        self._memo: dict[str, Found] = {}
        self._memo_bytes = 0  # at most
        self._memo_limit = memo_bytes
        self._latest: tuple[str | None, Found] = (None, _NONE)  # the latest long text

    def found(self, value: FactValue) -> Found:
        """Return the literals in a fact; of a list, the literals in any element."""
        if isinstance(value, str):
            found = self._memo.get(value)
            return self._search(value) if found is None else found
        if isinstance(value, bool):
            return self.found("true" if value else "false")
        return _NONE.union(*map(self.found, texts(value)))

    def _search(self, text: str) -> Found:
        if text == self._latest[0]:
            return self._latest[1]
        numbers = [number for _, number in self._hits(normal_form(text))]
        found = frozenset(numbers) if numbers else _NONE
        if len(text) > _MEMO_LENGTH:
            self._latest = (text, found)
            return found
        if self._memo_bytes >= self._memo_limit:
            self._memo.clear()
            self._memo_bytes = 0
        self._memo[text] = found
        self._memo_bytes += _ENTRY_BYTES + 4 * len(text) + 128 * len(found)
        return found


def number_literals(required: Iterable[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """Return by field the number of each required literal, counted over all fields."""
    numbers: dict[str, dict[str, int]] = {}
    for number, (field, literal) in enumerate(dict.fromkeys(required)):
        numbers.setdefault(field, {})[literal] = number
    return numbers
