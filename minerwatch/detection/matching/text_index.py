"""Which of all rules' texts a process has: literals found together, patterns asked one by one.

There is one Aho-Corasick automaton a field. With the rules' literals go those that regular
expressions cannot match without (``literals``).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import ahocorasick
import re2

from minerwatch.detection.condition import How, Text, wildcard_regex
from minerwatch.detection.matching.required_literals import Requirement, folded, requirement
from minerwatch.detection.predicate import regex_options, texts
from minerwatch.model import Facts, FactValue

Atoms = dict[Text, int]
"""Every text that is asked for, and its number."""

Found = set[int] | frozenset[int]
"""Literals that are there: the atoms that they make true, and what regular expressions need."""

PATTERNS = frozenset((How.WILDCARD, How.REGEX))

_MEMO_BYTES = 384 << 10
"""Memory that the remembered texts of one field take."""
_MEMO_LENGTH = 256
_ENTRY_BYTES = 100  # of a dictionary
_PATTERN_MEMORY = 512 << 10
_PATTERN_MEMORY_LIMIT = 64 << 20


@dataclass(frozen=True, slots=True)
class Needs:
    """Literals of which one must be there for some text to hold."""

    literals: frozenset[int]
    shortest: int  # characters of the shortest


class Seen:
    """Some facts, and what has been found out about them."""

    __slots__ = ("_encoded", "_known", "_patterns", "facts", "found")

    def __init__(self, found: Found, facts: Facts, patterns: Patterns) -> None:
        self.found = found
        self.facts = facts
        self._patterns = patterns
        self._known: dict[int, bool] = {}
        self._encoded: dict[tuple[str, bool], bytes] = {}

    def pattern_holds(self, atom: int) -> bool:
        """Whether a wildcard pattern or regular expression matches its field."""
        holds = self._known.get(atom)
        if holds is None:
            holds = self._known[atom] = self._patterns.holds(atom, self)
        return holds

    def encoded(self, text: str, *, lower: bool) -> bytes:
        """One of the facts' texts as RE2 reads it."""
        key = (text, lower)
        if key not in self._encoded:
            # facts have no surrogates, but one that had must not stop the agent
            self._encoded[key] = (text.lower() if lower else text).encode("utf-8", "replace")
        return self._encoded[key]


class Patterns:
    """All wildcard patterns and regular expressions, by their atoms."""

    def __init__(self, atoms: Atoms) -> None:
        self._patterns = {
            atom: _Pattern(text) for text, atom in atoms.items() if text.how in PATTERNS
        }
        self._literals: dict[tuple[str, str], int] = {}  # field and literal -> its number
        for pattern in self._patterns.values():
            for literal in pattern.requirement.literals or ():
                number = len(atoms) + len(self._literals)
                self._literals.setdefault((pattern.field, literal), number)
        self._needs = {atom: self._needs_of(pattern) for atom, pattern in self._patterns.items()}

    def forget_literals(self) -> None:
        """Once the automata are made, their numbers are enough."""
        self._literals = {}
        for pattern in self._patterns.values():
            pattern.requirement = Requirement(None, pattern.requirement.least_length)

    def __contains__(self, atom: int) -> bool:
        return atom in self._patterns

    def needs(self, atom: int) -> Needs | None:
        """Literals of which one must be there for the pattern to match; None: none are known."""
        return self._needs[atom]

    def literals(self, field_name: str) -> dict[str, int]:
        """The literals that a field's patterns need, and their numbers."""
        return {
            literal: number for (name, literal), number in self._literals.items()
            if name == field_name
        }  # fmt: skip

    def holds(self, atom: int, seen: Seen) -> bool:
        """Whether a pattern matches any text of its field."""
        needs = self._needs[atom]
        if needs is not None and needs.literals.isdisjoint(seen.found):
            return False
        pattern = self._patterns[atom]
        value = seen.facts.get(pattern.field)
        if isinstance(value, str):
            return pattern.matches(value, seen)
        return any(pattern.matches(text, seen) for text in texts(value))

    def _needs_of(self, pattern: _Pattern) -> Needs | None:
        literals = pattern.requirement.literals
        if literals is None:
            return None
        numbers = frozenset(self._literals[pattern.field, literal] for literal in literals)
        return Needs(numbers, min(map(len, literals)))


class _Pattern:
    """One wildcard pattern or regular expression, compiled when it is first asked.

    RE2 takes the memory that it needs, up to a limit, while it matches; where that is too little
    it becomes slower, and stays linear.
    """

    __slots__ = ("_compiled", "_is_lower", "_source", "field", "requirement")

    def __init__(self, text: Text) -> None:
        is_wildcard = text.how is How.WILDCARD
        self.field = text.field
        self._source = wildcard_regex(text) if is_wildcard else text.pattern
        self._is_lower = is_wildcard and not text.cased
        self.requirement = requirement(self._source)
        self._compiled: re2._Regexp | None = None

    def matches(self, text: str, seen: Seen) -> bool:
        if len(text) < self.requirement.least_length and not self._is_lower:
            return False  # in lower case a text may be longer
        if self._compiled is None:
            self._compiled = _compiled(self._source)
        return self._compiled.search(seen.encoded(text, lower=self._is_lower)) is not None


def _compiled(pattern: str) -> re2._Regexp:
    memory = _PATTERN_MEMORY
    while True:
        options = regex_options()
        options.max_mem = memory
        try:
            return re2.compile(pattern, options)
        except re2.error:
            memory *= 4
            if memory > _PATTERN_MEMORY_LIMIT:
                raise


def field_indexes(atoms: Atoms, patterns: Patterns) -> dict[str, FieldIndex]:
    """For each field, what is looked for in it."""
    by_field: dict[str, Atoms] = {}
    for text, atom in atoms.items():
        literals = by_field.setdefault(text.field, {})
        if text.how not in PATTERNS:
            literals[text] = atom
    return {
        name: FieldIndex(literals, patterns.literals(name)) for name, literals in by_field.items()
    }


class FieldIndex:
    """All literals that are looked for in one field, and which of them a text has."""

    def __init__(self, atoms: Atoms, needed: dict[str, int]) -> None:
        """``needed``: further literals in folded form, and their numbers."""
        uncased = {text: atom for text, atom in atoms.items() if not text.cased}
        self._on_lower = _LiteralSet(uncased, needed)
        self._on_original = _LiteralSet(
            {text: atom for text, atom in atoms.items() if text.cased}, {}
        )
        self._needed = frozenset(needed.values())
        self._memo: dict[str, frozenset[int]] = {}
        self._memo_bytes = 0
        self._long: tuple[str | None, frozenset[int]] = (None, _NOTHING)  # the latest long text

    def literals(self, value: FactValue) -> frozenset[int]:
        """Those that a fact has, or any element of a list."""
        if isinstance(value, str):
            found = self._memo.get(value)
            return self._of_text(value) if found is None else found
        return frozenset().union(*(self._of_text(text) for text in texts(value)))

    def _of_text(self, text: str) -> frozenset[int]:
        if text == self._long[0]:
            return self._long[1]
        lower = text.lower()
        true = self._on_lower.found(lower)
        as_folded = folded(lower)
        if as_folded is not lower:
            true |= self._needed & self._on_lower.found(as_folded)
        true |= self._on_original.found(text)
        found = frozenset(true) if true else _NOTHING
        if len(text) > _MEMO_LENGTH:
            self._long = (text, found)
        elif text not in self._memo:
            if self._memo_bytes >= _MEMO_BYTES:
                self._memo.clear()
                self._memo_bytes = 0
            self._memo[text] = found
            self._memo_bytes += sys.getsizeof(text) + sys.getsizeof(found) + _ENTRY_BYTES
        return found


_NOTHING: frozenset[int] = frozenset()


class _LiteralSet:
    """Literals of one field and one case, found in one pass over the text."""

    def __init__(self, atoms: Atoms, anywhere: dict[str, int]) -> None:
        self._empty = frozenset(atom for text, atom in atoms.items() if not text.pattern)
        by_literal: dict[str, list[tuple[How, int]]] = {}
        for text, atom in atoms.items():
            if text.pattern:
                literal = text.pattern if text.cased else text.pattern.lower()
                by_literal.setdefault(literal, []).append((text.how, atom))
        for literal, number in anywhere.items():
            by_literal.setdefault(literal, []).append((How.CONTAINS, number))
        self._automaton = ahocorasick.Automaton()
        for literal, uses in by_literal.items():
            if len(uses) == 1 and uses[0][0] is How.CONTAINS:
                self._automaton.add_word(literal, uses[0][1])
                continue
            everywhere = tuple(atom for how, atom in uses if how is How.CONTAINS)
            anchored = tuple(use for use in uses if use[0] is not How.CONTAINS)
            self._automaton.add_word(literal, (len(literal), everywhere, anchored))
        self._has_literals = bool(by_literal)
        self._automaton.make_automaton()

    def found(self, text: str) -> set[int]:
        into: set[int] = set()
        if not text:
            into |= self._empty
            return into
        if not self._has_literals:
            return into
        last = len(text) - 1
        for end, use in self._automaton.iter(text):
            if type(use) is int:  # most are looked for anywhere, and by one rule
                into.add(use)
                continue
            length, everywhere, anchored = use
            into.update(everywhere)
            for how, atom in anchored:
                at_start = end + 1 == length
                if (how is How.ENDSWITH or at_start) and (how is How.STARTSWITH or end == last):
                    into.add(atom)
        return into
