"""Rules -> one compiled matcher over facts.

Literals tell which few rules are worth evaluating: those of all rules are looked for together
(``text_index``), and each rule names a set of them of which it needs at least one. A text that
several rules share is one atom. A regular expression is a pass over the text of its own, made when
all else that its rule asks for holds. All of them in one automaton would be one pass only, but an
automaton of tens of thousands of states: it is built while it runs, and who writes a text made of
what rules look for makes it build a state for each character.

Static rules look only at what never changes while a process runs its program; the others are
dynamic, and are first asked whether their numbers, flags and present fields allow them to hold.
Rules that look only at what a container's processes share are matched once a container.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import TypeGuard

from minerwatch.detection.condition import (
    Absent,
    All,
    Any,
    Comparison,
    Condition,
    Network,
    Not,
    Number,
    Predicate,
    SameAs,
    Text,
)
from minerwatch.detection.fields import is_dynamic
from minerwatch.detection.matching.evidence import observed
from minerwatch.detection.matching.text_index import (
    PATTERNS,
    Atoms,
    FieldIndex,
    Found,
    Needs,
    Patterns,
    Seen,
    field_indexes,
)
from minerwatch.detection.planted_words import (
    COMMAND_FIELDS,
    facts_as_others_join_them,
    facts_with_script_words,
    rests_on_launched_argument,
    rests_on_one_argument,
)
from minerwatch.detection.predicate import (
    OPERATORS,
    SIMPLE,
    number_holds,
)
from minerwatch.detection.sigma.rule import Rule
from minerwatch.model import Evidence, Facts, Level, Signal

MAX_EVIDENCE = 16
"""Pieces of evidence that one match lists; a list of names may match many times over."""


@dataclass(frozen=True, slots=True)
class Match:
    """A rule that holds on some facts, and the conditions that made it hold."""

    rule: Rule
    evidence: tuple[Evidence, ...]
    words_only: bool = False  # one argument alone makes it hold, or words in a shell's script
    is_delayed: bool = False  # it counts once the process has computed: ``words.DELAY_CPU_S``


class Matcher:
    """All rules, compiled; the same facts always give the same matches, in the rules' order."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(rules)
        self._has_foreign = any(rule.is_foreign for rule in self.rules)
        atoms = _numbered_texts(self.rules)
        self._texts = tuple(atoms)
        patterns = self._patterns = Patterns(atoms)
        self._indexes = field_indexes(atoms, patterns)
        compiler = _Compiler(atoms, patterns)
        compiled = [compiler.rule(position, rule) for position, rule in enumerate(self.rules)]
        self._choices = compiler.choices
        patterns.forget_literals()
        of_process = [rule for rule in compiled if not rule.rule.of_container]
        self._container_gates = _gates([rule for rule in compiled if rule.rule.of_container])
        self._gates = _gates([rule for rule in of_process if rule.rule.dynamic])
        static = [rule for rule in of_process if not rule.rule.dynamic]
        self._static_indexes = self._indexes_of(static)
        needs = {rule.position: compiler.needs(rule.rule.condition) for rule in static}
        self._static_always = tuple(rule for rule in static if needs[rule.position] is None)
        self._static_by_literal = _by_literal(static, needs)

    def _indexes_of(self, rules: list[_CompiledRule]) -> tuple[tuple[str, FieldIndex], ...]:
        names = {name for rule in rules for name in rule.text_fields}
        return tuple((name, index) for name, index in self._indexes.items() if name in names)

    def matches(self, facts: Facts) -> tuple[Match, ...]:
        """Every rule that holds on ``facts``, of a process in its container."""
        return (
            self.static_matches(facts) + self.dynamic_matches(facts) + self.container_matches(facts)
        )

    def static_matches(self, facts: Facts) -> tuple[Match, ...]:
        """The rules that hold on a process and look only at what never changes for its identity."""
        return self._with_words(self._static_matches, facts)

    def _static_matches(self, facts: Facts) -> tuple[Match, ...]:
        found: Found = frozenset()
        for name, index in self._static_indexes:
            value = facts.get(name)
            if value is not None:
                here = index.literals(value)
                if here:
                    found = found | here if found else here
        candidates = self._static_candidates(found) if found else self._static_always
        return self._matches(candidates, found, facts) if candidates else ()

    def _static_candidates(self, found: Found) -> Sequence[_CompiledRule]:
        by_literal = self._static_by_literal
        rules = {rule.position: rule for each in found for rule in by_literal.get(each, ())}
        if not rules:
            return self._static_always
        rules.update((rule.position, rule) for rule in self._static_always)
        return [rules[position] for position in sorted(rules)]

    def dynamic_matches(self, facts: Facts) -> tuple[Match, ...]:
        """The rules that hold on a process and look at what changes from tick to tick."""
        return self._with_words(lambda each: self._gated_matches(self._gates, each), facts)

    def container_matches(self, facts: Facts) -> tuple[Match, ...]:
        """The rules that hold and look at nothing but what a container's processes share."""
        return self._gated_matches(self._container_gates, facts)

    def _with_words(
        self, matches: Callable[[Facts], tuple[Match, ...]], facts: Facts
    ) -> tuple[Match, ...]:
        """Return the matches, and as words only those on words that stand inside an argument."""
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
        possible = [rule for gate in gates for rule in gate.rules(facts) if rule.may_hold(facts)]
        if not possible:
            return ()
        possible.sort(key=_position)
        found: set[int] = set()
        for name in {name for rule in possible for name in rule.text_fields}:
            value = facts.get(name)
            if value is not None:
                found |= self._indexes[name].literals(value)
        return self._matches(possible, found, facts)

    def _matches(
        self, candidates: Iterable[_CompiledRule], found: Found, facts: Facts
    ) -> tuple[Match, ...]:
        seen = Seen(found, facts, self._patterns)
        return tuple(self._match(rule, seen) for rule in candidates if rule.holds(seen))

    def _match(self, rule: _CompiledRule, seen: Seen) -> Match:
        is_word, is_launched = self._rests_on_words(rule, seen.facts)
        return Match(
            rule.rule,
            self._evidence(rule.rule, seen),
            words_only=is_word or is_launched,
            is_delayed=is_word and _waits_for_cpu(rule.rule),
        )

    def _rests_on_words(self, rule: _CompiledRule, facts: Facts) -> tuple[bool, bool]:
        """Return whether one argument makes the rule hold: of any program, or of a launcher.

        What starts others computes nothing itself, so that waiting for its CPU time is in vain.
        """
        if rule.text_fields.isdisjoint(COMMAND_FIELDS) or rule.rule.signal is Signal.BEHAVIOUR:
            return False, False

        def holds(each: Facts) -> bool:
            return self._holds(rule, each)

        is_word = rests_on_one_argument(facts, holds, _MIN_PLANTED)
        return is_word, not is_word and rests_on_launched_argument(facts, holds, _MIN_PLANTED)

    def _holds(self, rule: _CompiledRule, facts: Facts) -> bool:
        found: set[int] = set()
        for name in rule.text_fields:
            value = facts.get(name)
            if value is not None:
                found |= self._indexes[name].literals(value)
        return rule.holds(Seen(found, facts, self._patterns))

    def _evidence(self, rule: Rule, seen: Seen) -> tuple[Evidence, ...]:
        """The conditions of a rule that holds which are true and not under a ``not``."""
        reasons: dict[Predicate, None] = {}
        for reason in self._reasons(rule.condition, seen):
            reasons[reason] = None
            if len(reasons) == MAX_EVIDENCE:
                break
        return tuple(
            Evidence(reason.field, observed(reason, seen.facts), reason.describe())
            for reason in reasons
        )

    def _reasons(self, condition: Condition, seen: Seen) -> Iterator[Predicate]:
        match condition:
            case All(conditions):
                for inner in conditions:
                    yield from self._reasons(inner, seen)
            case Any():
                choice = self._choices[id(condition)]
                for literal in sorted(choice.literals & seen.found):
                    yield self._texts[literal]
                for inner, inner_holds in choice.rest:
                    if inner_holds(seen):
                        yield from self._reasons(inner, seen)
            case Not():
                return
            case _:
                yield condition


def _waits_for_cpu(rule: Rule) -> bool:
    """Return whether the rule speaks of a miner's names and arguments, and raises a level.

    Rules of other collections speak of programs that do their work in no time.
    """
    is_raising = rule.score >= Level.SUSPICIOUS
    return is_raising and rule.signal is Signal.IDENTITY and not rule.is_foreign


_MIN_PLANTED = 4
"""Characters of the shortest argument that can make a rule hold by itself."""


def _as_words_unless(matches: Iterable[Match], ids: Collection[str]) -> Iterator[Match]:
    """Yield the matches, as words only where the rule is not one of ``ids``."""
    for match in matches:
        yield match if match.rule.id in ids else replace(match, words_only=True)


# Rules, compiled.


Evaluate = Callable[[Seen], bool]


@dataclass(frozen=True, slots=True)
class _CompiledRule:
    position: int
    rule: Rule
    holds: Evaluate
    may_hold: Callable[[Facts], bool]
    text_fields: frozenset[str] = field(default_factory=frozenset)


def _by_literal(
    rules: Iterable[_CompiledRule], needs: Mapping[int, frozenset[int] | None]
) -> dict[int, tuple[_CompiledRule, ...]]:
    """The rules that need a literal; literals of the same rules have the same tuple."""
    positions: dict[int, tuple[int, ...]] = {}
    by_position = {rule.position: rule for rule in rules}
    for position in by_position:
        for literal in needs[position] or ():
            positions[literal] = (*positions.get(literal, ()), position)
    groups = {each: tuple(by_position[one] for one in each) for each in set(positions.values())}
    return {literal: groups[each] for literal, each in positions.items()}


def _numbered_texts(rules: Iterable[Rule]) -> Atoms:
    atoms: Atoms = {}
    seen: set[int] = set()
    for rule in rules:
        for text in _texts_of(rule.condition, seen):
            atoms.setdefault(text, len(atoms))
    return atoms


def _texts_of(condition: Condition, seen: set[int]) -> Iterator[Text]:
    """Every text of the tree, in the order of the rule's text, but for what has been seen."""
    if id(condition) in seen:
        return
    seen.add(id(condition))
    match condition:
        case All(conditions) | Any(conditions):
            for inner in conditions:
                yield from _texts_of(inner, seen)
        case Not(inner):
            yield from _texts_of(inner, seen)
        case Text():
            yield condition


class _Compiler:
    """Conditions -> functions; one for each condition, however many rules have it in them."""

    def __init__(self, atoms: Atoms, patterns: Patterns) -> None:
        self._atoms = atoms
        self._patterns = patterns
        self._needed: dict[int, Needs | None] = {}
        self._evaluations: dict[int, _Evaluation] = {}
        self._bounds: dict[tuple[int, bool], Bound] = {}
        self._presences: dict[str, Callable[[Facts], bool]] = {}
        self._sets: dict[frozenset[int], frozenset[int]] = {}
        self.choices: dict[int, _Choice] = {}
        """Of each ``Any``, by its ``id``: what tells which of its conditions hold."""

    def rule(self, position: int, rule: Rule) -> _CompiledRule:
        bound = self._bound(rule.condition, upper=True)
        if not callable(bound):
            bound = _always if bound else _never
        return _CompiledRule(
            position=position,
            rule=rule,
            holds=self._evaluation(rule.condition).holds,
            may_hold=bound,
            text_fields=frozenset(text.field for text in _texts_of(rule.condition, set())),
        )

    def needs(self, condition: Condition) -> frozenset[int] | None:
        """Literals of which one must be there for the condition to hold; None: there are none."""
        needed = self._needs(condition)
        return None if needed is None else needed.literals

    def _needs(self, condition: Condition) -> Needs | None:
        if isinstance(condition, Text):
            return self._text_needs(condition)
        if id(condition) not in self._needed:
            self._needed[id(condition)] = self._new_needs(condition)
        return self._needed[id(condition)]

    def _new_needs(self, condition: Condition) -> Needs | None:
        match condition:
            case All(conditions):
                known = [needs for inner in conditions if (needs := self._needs(inner))]
                return max(known, key=_rarity, default=None)
            case Any(conditions):
                literals: set[int] = set()
                shortest = _LONG
                for inner in conditions:
                    needs = self._needs(inner)
                    if needs is None:
                        return None
                    literals |= needs.literals
                    shortest = min(shortest, needs.shortest)
                return Needs(self._set(literals), shortest) if conditions else None
        return None

    def _text_needs(self, text: Text) -> Needs | None:
        if _is_pattern(text):
            return self._patterns.needs(self._atoms[text])
        return Needs(frozenset((self._atoms[text],)), len(text.pattern))

    def _set(self, literals: Iterable[int]) -> frozenset[int]:
        """One object for all that need or have the same literals."""
        found = frozenset(literals)
        return self._sets.setdefault(found, found)

    def _evaluation(self, condition: Condition) -> _Evaluation:
        """The condition as one function of what is seen, and what that costs."""
        if id(condition) not in self._evaluations:
            self._evaluations[id(condition)] = self._new_evaluation(condition)
        return self._evaluations[id(condition)]

    def _new_evaluation(self, condition: Condition) -> _Evaluation:
        match condition:
            case All(conditions):
                literals, rest, cost = self._apart(conditions)
                needs = [self._needs(inner) for inner in conditions if _is_pattern(inner)]
                needed = tuple(each.literals for each in needs if each is not None)
                return _Evaluation(_all_evaluation(literals, needed, rest), cost)
            case Any(conditions):
                literals, rest, cost = self._apart(conditions)
                self.choices[id(condition)] = _Choice(literals, tuple(self._others(conditions)))
                return _Evaluation(_any_evaluation(literals, rest), cost)
            case Not(inner):
                positive = self._evaluation(inner)
                return _Evaluation(lambda seen: not positive.holds(seen), positive.cost)
            case Text():
                atom = self._atoms[condition]
                if _is_pattern(condition):
                    return _Evaluation(lambda seen: seen.pattern_holds(atom), _Cost.PATTERN)
                return _Evaluation(lambda seen: atom in seen.found, _Cost.LITERAL)
        holds = SIMPLE[type(condition)]
        return _Evaluation(lambda seen: holds(condition, seen.facts), _Cost.SIMPLE)

    def _apart(
        self, conditions: tuple[Condition, ...]
    ) -> tuple[frozenset[int], tuple[Evaluate, ...], _Cost]:
        """The literals, all else with what costs least first, and what the dearest of all costs."""
        literals = (self._atoms[inner] for inner in conditions if _is_literal(inner))
        rest = [self._evaluation(inner) for inner in conditions if not _is_literal(inner)]
        rest.sort(key=_cost)
        dearest = max((each.cost for each in rest), default=_Cost.LITERAL)
        return self._set(literals), tuple(each.holds for each in rest), dearest

    def _others(self, conditions: tuple[Condition, ...]) -> Iterator[tuple[Condition, Evaluate]]:
        for inner in conditions:
            if not _is_literal(inner):
                yield inner, self._evaluation(inner).holds

    def _bound(self, condition: Condition, *, upper: bool) -> Bound:
        """Whether the condition may hold (upper) or must hold (lower), asked without any text."""
        if isinstance(condition, Text):
            return self._new_bound(condition, upper=upper)
        key = (id(condition), upper)
        if key not in self._bounds:
            self._bounds[key] = self._new_bound(condition, upper=upper)
        return self._bounds[key]

    def _new_bound(self, condition: Condition, *, upper: bool) -> Bound:
        """A text may hold where its field is there, which is asked once; it never must."""
        match condition:
            case All(conditions):
                bounds = [self._bound(inner, upper=upper) for inner in conditions]
                return _joined(bounds, decides=False)
            case Any(conditions):
                bounds = [self._bound(inner, upper=upper) for inner in conditions]
                return _joined(bounds, decides=True)
            case Not(inner):
                opposite = self._bound(inner, upper=not upper)
                if callable(opposite):
                    return lambda facts: not opposite(facts)
                return not opposite
            case Text(name) | SameAs(name) | Network(name):
                return self._presences.setdefault(name, _presence(name)) if upper else False
            case Number():
                return _number_bound(condition)
        holds = SIMPLE[type(condition)]
        return lambda facts: holds(condition, facts)


_LONG = 1 << 20


class _Cost(IntEnum):
    """What it costs to find out whether a condition holds."""

    SIMPLE = 0  # a number, a flag
    LITERAL = 1  # the literals have been found
    PATTERN = 2  # a pass over the text


@dataclass(frozen=True, slots=True)
class _Evaluation:
    holds: Evaluate
    cost: _Cost


@dataclass(frozen=True, slots=True)
class _Choice:
    """The conditions of which any one is enough."""

    literals: frozenset[int]
    rest: tuple[tuple[Condition, Evaluate], ...]


def _cost(evaluation: _Evaluation) -> _Cost:
    return evaluation.cost


def _rarity(needs: Needs) -> tuple[int, int]:
    """How seldom any of the literals will be there: short ones are common, and so are many."""
    return needs.shortest, -len(needs.literals)


def _is_literal(condition: Condition) -> TypeGuard[Text]:
    return isinstance(condition, Text) and condition.how not in PATTERNS


def _is_pattern(condition: Condition) -> bool:
    return isinstance(condition, Text) and condition.how in PATTERNS


def _all_evaluation(
    literals: frozenset[int], needed: tuple[frozenset[int], ...], rest: tuple[Evaluate, ...]
) -> Evaluate:
    """``needed``: of each of these at least one literal, or some pattern cannot match."""

    def holds(seen: Seen) -> bool:
        found = seen.found
        if not literals <= found:
            return False
        for one_of in needed:  # loops, not all() and any(), which take twice as long
            if one_of.isdisjoint(found):
                return False
        for each in rest:  # noqa: SIM110
            if not each(seen):
                return False
        return True

    return holds


def _any_evaluation(literals: frozenset[int], rest: tuple[Evaluate, ...]) -> Evaluate:
    def holds(seen: Seen) -> bool:
        if not literals.isdisjoint(seen.found):
            return True
        for each in rest:  # noqa: SIM110
            if each(seen):
                return True
        return False

    return holds


def _always(_facts: Facts) -> bool:
    return True


def _never(_facts: Facts) -> bool:
    return False


def _position(rule: _CompiledRule) -> int:
    return rule.position


@dataclass(frozen=True, slots=True)
class _Gate:
    """Dynamic rules that need one field, in the order of the number that it must reach."""

    field: str | None  # None: they need none
    thresholds: tuple[float, ...]
    ordered: tuple[_CompiledRule, ...]

    def rules(self, facts: Facts) -> Sequence[_CompiledRule]:
        """Those that the field's value does not rule out."""
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
    """A field that the condition cannot hold without, and the least number that it must reach.

    The field that most processes lack, or fall short of, is the best: a rate or a probe's result
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
    """Every field that the condition cannot hold without, and the least number that it needs."""
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


Bound = Callable[[Facts], bool] | bool


def _presence(name: str) -> Callable[[Facts], bool]:
    return lambda facts: name in facts


def _number_bound(predicate: Number) -> Callable[[Facts], bool]:
    """The comparison, quick for what it is mostly asked about: a fraction."""
    name, compare, threshold = (
        predicate.field,
        OPERATORS[predicate.comparison],
        predicate.threshold,
    )

    def holds(facts: Facts) -> bool:
        value = facts.get(name)
        if type(value) is float:
            return compare(value, threshold)
        return number_holds(predicate, facts)

    return holds


def _joined(bounds: list[Bound], *, decides: bool) -> Bound:
    """All (decided by a False) or any (decided by a True) of the bounds."""
    if any(bound is decides for bound in bounds):
        return decides
    asked = tuple(dict.fromkeys(bound for bound in bounds if callable(bound)))
    if not asked:
        return not decides
    if len(asked) == 1:
        return asked[0]

    def joined(facts: Facts) -> bool:
        # A loop, not any() or all() over a generator, which takes twice as long.
        for ask in asked:
            if ask(facts) is decides:
                return decides
        return not decides

    return joined
