"""Rules -> one compiled matcher over facts.

Literals decide which few rules are worth evaluating: the literals of all rules are searched in one
pass over a text (``text_index``), and a rule is a candidate if one of its required literals is
found. Candidates are evaluated as any condition is (``evaluation``). Regular expressions are not
combined into one automaton: it would have tens of thousands of states, built while it runs, and a
hostile text would make it build one for each character.

Static rules look only at what never changes while a process runs its program. Dynamic rules are
evaluated only if a field that they need is present and large enough. Rules that look only at what
a container's processes share are matched once a container.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from minerwatch.detection.condition import (
    Absent,
    All,
    Any,
    Comparison,
    Condition,
    Flag,
    Not,
    Number,
    Predicate,
    Text,
    predicates,
)
from minerwatch.detection.fields import is_dynamic
from minerwatch.detection.matching.evaluation import Evaluate, Evaluations, Required, Seen
from minerwatch.detection.matching.evidence import observed
from minerwatch.detection.matching.required_literals import commonness, requirement_of
from minerwatch.detection.matching.text_index import FieldIndex, number_literals
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
        literals = _Literals(self.rules)
        self._indexes = {field: FieldIndex(numbers) for field, numbers in literals.numbers.items()}
        required = literals.required()
        self._evaluations = Evaluations(required)
        compiled = [
            _CompiledRule(
                position,
                rule,
                self._evaluations.function(rule.condition),
                _compares_arguments(rule),
            )
            for position, rule in enumerate(self.rules)
        ]
        required.clear()  # entries of lists are compiled later, where their literals were found
        of_process = [rule for rule in compiled if not rule.rule.of_container]
        static = [rule for rule in of_process if not rule.rule.dynamic]
        self._container_gates = _gates(
            [rule for rule in compiled if rule.rule.of_container or rule.rule.is_pooled]
        )
        self._gates = _gates([rule for rule in of_process if rule.rule.dynamic])
        self._static = _StaticRules(static, literals, self._indexes)

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
        return self._matches(self._static.candidates(facts), facts)

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
        return self._matches(possible, facts)

    def _matches(self, candidates: Sequence[_CompiledRule], facts: Facts) -> tuple[Match, ...]:
        if not candidates:
            return ()
        seen = self._see(facts)
        held = [rule for rule in candidates if rule.holds(seen)]
        if not held:
            return ()
        planted = PlantedArguments(facts, self._see, _MIN_PLANTED)
        return tuple([self._match(rule, seen, planted) for rule in held])

    def _see(self, facts: Facts) -> Seen:
        return Seen(facts, self._indexes)

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


class _Literals:
    """The literals that predicates and conditions require, numbered over all rules."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        seen: set[int] = set()
        self._requirements = {
            each: requirement_of(each)
            for rule in rules
            for each in _leaves(rule.condition, seen)
            if isinstance(each, Text | Flag)
        }
        self.numbers = number_literals(
            (each.field, literal)
            for each, requirement in self._requirements.items()
            for literal in sorted(requirement.literals or ())
        )
        self._needed: dict[int, frozenset[_Literal] | None] = {}

    def required(self) -> dict[Text, Required]:
        """Return the requirements of all texts, with the literals as numbers."""
        return {
            each: Required(
                None
                if requirement.literals is None
                else frozenset(self.numbers[each.field][one] for one in requirement.literals),
                requirement.least_length,
            )
            for each, requirement in self._requirements.items()
            if isinstance(each, Text)
        }

    def needed(self, condition: Condition) -> frozenset[int] | None:
        """Return numbers of which one must be found for the condition to hold; None: unknown."""
        needed = self._of(condition)
        if needed is None:
            return None
        return frozenset(self.numbers[field][literal] for field, literal in needed)

    def _of(self, condition: Condition) -> frozenset[_Literal] | None:
        if id(condition) not in self._needed:
            self._needed[id(condition)] = self._find(condition)
        return self._needed[id(condition)]

    def _find(self, condition: Condition) -> frozenset[_Literal] | None:
        match condition:
            case All(conditions):
                known = [each for each in map(self._of, conditions) if each is not None]
                return min(known, key=_commonness, default=None)
            case Any(conditions):
                every = [each for each in map(self._of, conditions) if each is not None]
                return frozenset().union(*every) if len(every) == len(conditions) else None
            case Text() | Flag():
                literals = self._requirements[condition].literals
                if literals is not None:
                    return frozenset((condition.field, one) for one in literals)
        return None


_Literal = tuple[str, str]
"""Field and text."""


def _commonness(literals: frozenset[_Literal]) -> tuple[int, int, int]:
    return commonness(frozenset(text for _, text in literals))


def _leaves(condition: Condition, seen: set[int]) -> Iterator[Predicate]:
    """Yield the predicates in the order of the rule's text, except those of seen conditions."""
    if id(condition) in seen:
        return
    seen.add(id(condition))
    match condition:
        case All(conditions) | Any(conditions):
            for inner in conditions:
                yield from _leaves(inner, seen)
        case Not(inner):
            yield from _leaves(inner, seen)
        case _:
            yield condition


class _StaticRules:
    """Static rules, by the literals that make them candidates."""

    def __init__(
        self,
        rules: Iterable[_CompiledRule],
        literals: _Literals,
        indexes: Mapping[str, FieldIndex],
    ) -> None:
        self._rules = {rule.position: rule for rule in rules}
        by_literal: dict[int, tuple[int, ...]] = {}
        always = []
        for position, rule in self._rules.items():
            needed = literals.needed(rule.rule.condition)
            if needed is None:
                always.append(position)
            for literal in needed or ():
                by_literal[literal] = (*by_literal.get(literal, ()), position)
        shared = {positions: positions for positions in by_literal.values()}
        self._by_literal = {literal: shared[positions] for literal, positions in by_literal.items()}
        self._always = tuple(always)
        self._fields = tuple(
            (field, index)
            for field, index in indexes.items()
            if not by_literal.keys().isdisjoint(literals.numbers[field].values())
        )

    def candidates(self, facts: Facts) -> Sequence[_CompiledRule]:
        """Return the rules that may hold, in their order."""
        positions = set(self._always)
        keys = self._by_literal.keys()
        for field, index in self._fields:
            value = facts.get(field)
            if value is None:
                continue
            found = index.found(value)
            if found and not keys.isdisjoint(found):
                for literal in keys & found:
                    positions.update(self._by_literal[literal])
        return [self._rules[position] for position in sorted(positions)] if positions else ()


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
