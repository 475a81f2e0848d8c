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
        compiled = [
            _CompiledRule(
                position,
                rule,
                self._evaluations.function(rule.condition),
                _compares_arguments(rule),
            )
            for position, rule in enumerate(self.rules)
        ]
        needed = [literals.needed(rule.condition) for rule in self.rules]
        self._indexes = literals.indexes()
        literals.forget()
        of_process = [rule for rule in compiled if not rule.rule.of_container]
        self._container_gates = _gates(
            [rule for rule in compiled if rule.rule.of_container or rule.rule.is_pooled]
        )
        self._gates = _gates([rule for rule in of_process if rule.rule.dynamic])
        static = [rule for rule in of_process if not rule.rule.dynamic]
        self._static = _StaticRules(static, needed, self._indexes)

    def matches(self, facts: Facts) -> tuple[Match, ...]:
        """Return the matches of all rules on a process in its container."""
        of_process = self.static_matches(facts) + self.dynamic_matches(facts)
        known = {match.rule.id for match in of_process}
        shared = self.container_matches(facts)
        return of_process + tuple(match for match in shared if match.rule.id not in known)

    def static_matches(self, facts: Facts) -> tuple[Match, ...]:
        """Return the matches of rules on facts that never change while the program runs."""
        return self._with_words(self._static_matches, facts)

    def _static_matches(self, facts: Facts) -> tuple[Match, ...]:
        candidates = self._static.candidates(facts)
        return self._matches(*candidates) if candidates else ()

    def dynamic_matches(self, facts: Facts) -> tuple[Match, ...]:
        """Return the matches of rules on facts that change from tick to tick."""
        return self._with_words(lambda each: self._gated_matches(self._gates, each), facts)

    def container_matches(self, facts: Facts) -> tuple[Match, ...]:
        """Return the matches on facts that a container's processes share, or have together."""
        return self._gated_matches(self._container_gates, facts)

    def _with_words(
        self, matches: Callable[[Facts], tuple[Match, ...]], facts: Facts
    ) -> tuple[Match, ...]:
        """Return the matches; those on words inside an argument are words only."""
        found = matches(facts)
        joined = facts_as_others_join_them(facts) if self._has_foreign else None
        if joined is not None:
            foreign = (match for match in matches(joined) if match.rule.is_foreign)
            found = (
                *(match for match in found if not match.rule.is_foreign),
                *_as_words_unless(foreign, {match.rule.id for match in found}),
            )
        in_words = facts_with_script_words(facts)
        if in_words is not None:
            known = {match.rule.id for match in found}
            more = (match for match in matches(in_words) if match.rule.id not in known)
            found += tuple(_as_words_unless(more, frozenset()))
        return found

    def _gated_matches(self, gates: tuple[_Gate, ...], facts: Facts) -> tuple[Match, ...]:
        possible = [rule for gate in gates for rule in gate.rules(facts)]
        possible.sort(key=_position)
        return self._matches(self._see(facts), possible) if possible else ()

    def _matches(self, seen: Seen, candidates: Sequence[_CompiledRule]) -> tuple[Match, ...]:
        held = [rule for rule in candidates if rule.holds(seen)]
        if not held:
            return ()
        planted = PlantedArguments(seen.facts, self._see, _MIN_PLANTED)
        return tuple([self._match(rule, seen, planted) for rule in held])

    def _see(self, facts: Facts) -> Seen:
        return Seen(facts, search(self._indexes, facts))

    def _match(self, rule: _CompiledRule, seen: Seen, planted: PlantedArguments[Seen]) -> Match:
        is_word = is_launched = False
        if rule.compares_arguments and rule.rule.signal is not Signal.BEHAVIOUR:
            is_word = planted.rests_on_one(rule.holds)
            is_launched = not is_word and planted.rests_on_launched(rule.holds)
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


@dataclass(frozen=True, slots=True)
class _CompiledRule:
    position: int
    rule: Rule
    holds: Evaluate
    compares_arguments: bool  # of the process or its parent


def _position(rule: _CompiledRule) -> int:
    return rule.position


def _compares_arguments(rule: Rule) -> bool:
    texts = (each for each in predicates(rule.condition) if isinstance(each, Text))
    return any(text.field in COMMAND_FIELDS for text in texts)


class _StaticRules:
    """Static rules, by the literals that make them candidates."""

    def __init__(
        self,
        rules: Iterable[_CompiledRule],
        needed: Sequence[tuple[Found, ...]],
        indexes: Indexes,
    ) -> None:
        """``needed``: the clauses of all rules, by position."""
        fields = frozenset().union(*(rule.rule.fields for rule in rules))
        self._indexes = tuple((field, index) for field, index in indexes if field in fields)
        self._always: list[_CompiledRule] = []
        by_literal: dict[int, list[_Candidate]] = {}
        for rule in rules:
            first, *others = needed[rule.position] or (NOTHING,)
            if not first or LONG in first:
                self._always.append(rule)
                continue
            candidate = rule, tuple(each for each in others if len(each) <= _MAX_LITERALS)
            for literal in first:
                by_literal.setdefault(literal, []).append(candidate)
        shared: dict[tuple[int, ...], tuple[_Candidate, ...]] = {}
        self._by_literal = {
            literal: shared.setdefault(tuple(map(id, each)), tuple(each))
            for literal, each in by_literal.items()
        }

    def candidates(self, facts: Facts) -> tuple[Seen, Sequence[_CompiledRule]] | None:
        """Return the rules that may hold, in their order; None: there are none."""
        found = search(self._indexes, facts)
        literals = self._by_literal.keys() & found
        if not literals and not self._always:
            return None
        seen = Seen(facts, found)
        candidates = {rule.position: rule for rule in self._always}
        for literal in literals:
            for rule, clauses in self._by_literal[literal]:
                if seen.has_all(clauses):
                    candidates[rule.position] = rule
        return seen, [candidates[position] for position in sorted(candidates)]


_Candidate = tuple[_CompiledRule, tuple[Found, ...]]
"""A rule, and the clauses that it needs besides the one that it is found by."""

_MAX_LITERALS = 128
"""Literals of such a clause: a longer one excludes little, and takes much memory."""


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
