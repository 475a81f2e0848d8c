"""Rules -> one compiled matcher over facts.

Literals decide which few rules are worth evaluating: the literals of all rules are searched in one
pass over a text (``text_index``), and a rule is a candidate if its required literals are found.
Candidates are evaluated as any condition is (``evaluation``). Regular expressions are not
combined into one automaton: it would have tens of thousands of states, built while it runs, and a
hostile text would make it build one for each character.

Static rules look only at what never changes while a process runs its program. Dynamic rules are
evaluated only if a field that they need is present and large enough. Rules that look only at what
a container's processes share are matched once a container.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from minerwatch.detection.condition import (
    Absent,
    All,
    Any,
    Comparison,
    Condition,
    Not,
    Number,
    Predicate,
    Text,
    predicates,
)
from minerwatch.detection.fields import is_dynamic
from minerwatch.detection.matching.evaluation import Evaluate, Evaluations, Seen
from minerwatch.detection.matching.evidence import observed
from minerwatch.detection.matching.text_index import (
    LONG,
    NOTHING,
    Found,
    Indexes,
    Literals,
    search,
)
from minerwatch.detection.planted_words import (
    COMMAND_FIELDS,
    PlantedArguments,
    facts_as_others_join_them,
    facts_with_script_words,
)
from minerwatch.detection.sigma.rule import Rule
from minerwatch.model import Evidence, Facts, Level, Signal

MAX_EVIDENCE = 16
"""Pieces of evidence of one match; a list of names may match many times."""


MAX_EVIDENCE_OF_LONG_LINE = 4
"""The same for a command line of more than _LONG_LINE characters: to redact it takes long."""

_LONG_LINE = 4096


@dataclass(frozen=True, slots=True)
class Match:
    """A rule that holds on some facts, and the predicates that make it hold."""

    rule: Rule
    evidence: tuple[Evidence, ...]
    words_only: bool = False  # it rests on one argument, or on words in a shell's script
    is_delayed: bool = False  # it counts after ``planted_words.DELAY_CPU_S`` of CPU time


class Matcher:
    """All rules, compiled; the same facts always give the same matches, in the rules' order."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(rules)
        self._has_foreign = any(rule.is_foreign for rule in self.rules)
        literals = Literals()
        self._evaluations = Evaluations(literals.needed)
        self._compiled = [
            _CompiledRule(
                position,
                rule,
                self._evaluations.function(rule.condition),
                literals.needed(rule.condition),
            )
            for position, rule in enumerate(self.rules)
        ]
        self._indexes = literals.indexes()
        literals.forget()
        of_process = [rule for rule in self._compiled if not rule.rule.of_container]
        self._container_gates = _gates(
            [rule for rule in self._compiled if rule.rule.of_container or rule.rule.is_pooled]
        )
        self._gates = _gates([rule for rule in of_process if rule.rule.dynamic])
        self._static = _StaticRules(
            [rule for rule in of_process if not rule.rule.dynamic], self._indexes
        )

    def matches(self, facts: Facts) -> tuple[Match, ...]:
        """Return the matches of all rules on a process in its container."""
        of_process = self.static_matches(facts) + self.dynamic_matches(facts)
        known = {match.rule.id for match in of_process}
        shared = self.container_matches(facts)
        return of_process + tuple(match for match in shared if match.rule.id not in known)

    def static_matches(self, facts: Facts) -> tuple[Match, ...]:
        """Return the matches of rules on facts that never change while the program runs."""
        return self._with_words(self._static.see, facts)

    def dynamic_matches(self, facts: Facts) -> tuple[Match, ...]:
        """Return the matches of rules on facts that change from tick to tick."""
        return self._with_words(partial(self._see, self._gates), facts)

    def container_matches(self, facts: Facts) -> tuple[Match, ...]:
        """Return the matches on facts that a container's processes share, or have together."""
        return self._matches(partial(self._see, self._container_gates), facts)

    def _see(self, gates: Iterable[_Gate], facts: Facts) -> Seen | None:
        possible = [rule.position for gate in gates for rule in gate.rules(facts)]
        return Seen(facts, search(self._indexes, facts), possible) if possible else None

    def _with_words(self, see: _See, facts: Facts) -> tuple[Match, ...]:
        """Return the matches; those on words inside an argument are words only."""
        found = self._matches(see, facts)
        joined = facts_as_others_join_them(facts) if self._has_foreign else None
        if joined is not None:
            foreign = (each for each in self._matches(see, joined) if each.rule.is_foreign)
            found = (
                *(match for match in found if not match.rule.is_foreign),
                *_as_words_unless(foreign, {match.rule.id for match in found}),
            )
        in_words = facts_with_script_words(facts)
        if in_words is not None:
            known = {match.rule.id for match in found}
            more = (each for each in self._matches(see, in_words) if each.rule.id not in known)
            found += tuple(_as_words_unless(more, frozenset()))
        return found

    def _matches(self, see: _See, facts: Facts) -> tuple[Match, ...]:
        seen = see(facts)
        if seen is None:
            return ()
        held = []
        for position in sorted(seen.rules):
            rule = self._compiled[position]
            if (not rule.others or seen.has_all(rule.others)) and rule.evaluate(seen):
                held.append(rule)
        if not held:
            return ()
        planted = PlantedArguments(facts, see, _MIN_PLANTED)
        return tuple([self._match(rule, seen, planted) for rule in held])

    def _match(
        self, rule: _CompiledRule, seen: Seen, planted: PlantedArguments[Seen | None]
    ) -> Match:
        is_word = is_launched = False
        if rule.compares_arguments and rule.rule.signal is not Signal.BEHAVIOUR:
            is_word = planted.rests_on_one(rule)
            is_launched = not is_word and planted.rests_on_launched(rule)
        return Match(
            rule.rule,
            self._evidence(rule.rule, seen),
            words_only=is_word or is_launched,
            # A launcher computes nothing itself, so waiting for its CPU time is in vain.
            is_delayed=is_word and _waits_for_cpu(rule.rule),
        )

    def _evidence(self, rule: Rule, seen: Seen) -> tuple[Evidence, ...]:
        reasons: dict[Predicate, None] = {}
        is_long = len(str(seen.facts.get("CommandLine", ""))) > _LONG_LINE
        limit = MAX_EVIDENCE_OF_LONG_LINE if is_long else MAX_EVIDENCE
        for reason in self._evaluations.reasons(rule.condition, seen):
            reasons[reason] = None
            if len(reasons) == limit:
                break
        return tuple(
            Evidence(reason.field, observed(reason, seen.facts), reason.describe())
            for reason in reasons
        )


def _waits_for_cpu(rule: Rule) -> bool:
    """Return True if the rule is about a miner's names and arguments, and raises a level.

    Rules of other collections are about programs that finish quickly.
    """
    is_raising = rule.score >= Level.SUSPICIOUS
    return is_raising and rule.signal is Signal.IDENTITY and not rule.is_foreign


_MIN_PLANTED = 4
"""Characters of the shortest argument that can make a rule hold by itself."""


def _as_words_unless(matches: Iterable[Match], ids: Collection[str]) -> Iterator[Match]:
    """Yield the matches; those of rules not in ``ids`` are words only."""
    for match in matches:
        yield match if match.rule.id in ids else replace(match, words_only=True)


# Rules, compiled.


_See = Callable[[Facts], Seen | None]
"""Finds the rules that may hold on some facts; None: there are none."""


class _CompiledRule:
    """A rule with its condition as a function, and the clauses that it needs."""

    def __init__(
        self, position: int, rule: Rule, evaluate: Evaluate, clauses: Sequence[Found]
    ) -> None:
        self.position = position
        self.rule = rule
        self.evaluate = evaluate
        texts = (each for each in predicates(rule.condition) if isinstance(each, Text))
        self.compares_arguments = any(text.field in COMMAND_FIELDS for text in texts)
        self.first, *others = clauses or (NOTHING,)
        self.others = tuple(each for each in others if len(each) <= _MAX_LITERALS)

    def may_hold(self, seen: Seen | None) -> bool:
        """Return False if a literal that the rule needs is missing."""
        return seen is not None and self.position in seen.rules and seen.has_all(self.others)

    def holds(self, seen: Seen | None) -> bool:
        """Return True if the rule holds."""
        return seen is not None and self.may_hold(seen) and self.evaluate(seen)


_MAX_LITERALS = 128
"""Literals of a clause that is kept: a longer one excludes little, and takes much memory."""


class _StaticRules:
    """Static rules, by the literals of the rarest clause that they need."""

    def __init__(self, rules: Sequence[_CompiledRule], indexes: Indexes) -> None:
        fields = frozenset().union(*(rule.rule.fields for rule in rules))
        self._indexes = tuple(each for each in indexes if each[0] in fields)
        self._always = set()
        by_literal: dict[int, set[int]] = {}
        for rule in rules:
            if not rule.first or LONG in rule.first:
                self._always.add(rule.position)
                continue
            for literal in rule.first:
                by_literal.setdefault(literal, set()).add(rule.position)
        shared: dict[frozenset[int], frozenset[int]] = {}
        self._by_literal = {
            literal: shared.setdefault(frozenset(each), frozenset(each))
            for literal, each in by_literal.items()
        }
        self._literals = self._by_literal.keys()

    def see(self, facts: Facts) -> Seen | None:
        """Return the facts with the literals in them; None if no rule may hold."""
        found = search(self._indexes, facts)
        literals = found & self._literals
        if not literals and not self._always:
            return None
        return Seen(facts, found, self._always.union(*map(self._by_literal.__getitem__, literals)))


@dataclass(frozen=True, slots=True)
class _Gate:
    """Dynamic rules that need one field, sorted by the number that it must reach."""

    field: str | None  # None: they need none
    thresholds: tuple[float, ...]
    ordered: tuple[_CompiledRule, ...]

    def rules(self, facts: Facts) -> Sequence[_CompiledRule]:
        """Return the rules that the field's value does not exclude."""
        if self.field is None:
            return self.ordered
        value = facts.get(self.field)
        if value is None:
            return ()
        if isinstance(value, int | float):
            return self.ordered[: bisect_right(self.thresholds, value)]
        return self.ordered


def _gates(rules: Iterable[_CompiledRule]) -> tuple[_Gate, ...]:
    by_field: dict[str | None, list[tuple[float, _CompiledRule]]] = {}
    for rule in rules:
        name, threshold = _least(rule.rule.condition)
        by_field.setdefault(name, []).append((threshold, rule))
    gates = []
    for name, needed in by_field.items():
        needed.sort(key=lambda pair: pair[0])
        gates.append(_Gate(name, tuple(at for at, _ in needed), tuple(rule for _, rule in needed)))
    return tuple(gates)


_EVER_GROWING = frozenset(("Age", "CpuSeconds", "ContainerCpuHours"))


def _least(condition: Condition) -> tuple[str | None, float]:
    """Return a field that the condition needs, and the least number that it must reach.

    The best field is one that most processes lack or fall short of: a rate or a probe's result
    rather than a total that every process reaches in time.
    """
    reached = _must_reach(condition)
    if not reached:
        return None, -math.inf

    def excludes(name: str) -> tuple[bool, bool, bool]:
        return is_dynamic(name), name not in _EVER_GROWING, reached[name] > -math.inf

    best = max(sorted(reached), key=excludes)
    return best, reached[best]


def _must_reach(condition: Condition) -> dict[str, float]:
    """Return every field that the condition needs, with the least number that it must reach."""
    match condition:
        case All(conditions):
            each = [_must_reach(inner) for inner in conditions]
            names = {name for reached in each for name in reached}
            return {name: max(each_of.get(name, -math.inf) for each_of in each) for name in names}
        case Any(conditions):
            each = [_must_reach(inner) for inner in conditions]
            common = set.intersection(*(set(reached) for reached in each))
            return {name: min(reached[name] for reached in each) for name in common}
        case Not() | Absent():
            return {}
        case Number(name, comparison, threshold) if comparison in _REACHES:
            return {name: threshold}
    return {condition.field: -math.inf}


_REACHES = frozenset((Comparison.EQUAL, Comparison.GREATER, Comparison.GREATER_OR_EQUAL))
