"""Rules -> one compiled matcher over facts.

The patterns of all rules are matched together: per field, all literals in one Aho-Corasick
automaton and all regular expressions in one ``re2.Set``. A pattern that several rules share is one
atom. Which atoms are true tells which few rules are worth evaluating: each rule names a set of
atoms of which it needs at least one.

Static rules look only at what never changes while a process runs its program; the others are
dynamic, and are first asked whether their numbers, flags and present fields allow them to hold.
Rules that look only at what a container's processes share are matched once a container.
"""

from __future__ import annotations

import math
import operator
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from typing import Protocol

import ahocorasick
import re2

from minerwatch.detection.condition import (
    Absent,
    All,
    Any,
    Comparison,
    Condition,
    Flag,
    How,
    Network,
    Not,
    Number,
    Predicate,
    Present,
    SameAs,
    Text,
    predicates,
    wildcard_regex,
)
from minerwatch.detection.fields import is_dynamic
from minerwatch.detection.rule import Rule
from minerwatch.model import Evidence, Facts, FactValue

OBSERVED_LENGTH = 200
"""Characters of a text that are kept as evidence, around what matched."""

MAX_EVIDENCE = 16
"""Pieces of evidence that one match lists; a list of names may match many times over."""

MAX_EXPLAINED = 6
"""Conditions of one group that an explanation shows; a list of names may have thousands."""

_MEMO_TEXTS = 4096
_MEMO_LENGTH = 256
_SET_MEMORY = 8 << 20
_SET_MEMORY_EACH = 64 << 10
_SET_MEMORY_LIMIT = 256 << 20

Truths = set[int] | frozenset[int]
Evaluate = Callable[[Truths, Facts], bool]
Judge = Callable[[Predicate], bool]


@dataclass(frozen=True, slots=True)
class Match:
    """A rule that holds on some facts, and the conditions that made it hold."""

    rule: Rule
    evidence: tuple[Evidence, ...]


class Matcher:
    """All rules, compiled; the same facts always give the same matches, in the rules' order."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(rules)
        atoms = _numbered_texts(self.rules)
        self._indexes = {name: _FieldIndex(texts) for name, texts in _by_field(atoms).items()}
        self._atoms = atoms
        compiler = _Compiler(atoms)
        compiled = [compiler.rule(position, rule) for position, rule in enumerate(self.rules)]
        of_process = [rule for rule in compiled if not rule.rule.of_container]
        self._container_gates = _gates([rule for rule in compiled if rule.rule.of_container])
        self._gates = _gates([rule for rule in of_process if rule.rule.dynamic])
        static = [rule for rule in of_process if not rule.rule.dynamic]
        self._static_indexes = self._indexes_of(static)
        self._static_always = tuple(rule for rule in static if rule.needs is None)
        self._static_by_atom: dict[int, list[_CompiledRule]] = {}
        for rule in static:
            for atom in rule.needs or ():
                self._static_by_atom.setdefault(atom, []).append(rule)

    def _indexes_of(self, rules: list[_CompiledRule]) -> tuple[tuple[str, _FieldIndex], ...]:
        names = {name for rule in rules for name in rule.text_fields}
        return tuple((name, index) for name, index in self._indexes.items() if name in names)

    @property
    def fallbacks(self) -> int:
        """How often a text was matched pattern by pattern, since RE2's set ran out of memory."""
        return sum(index.fallbacks for index in self._indexes.values())

    def matches(self, facts: Facts) -> tuple[Match, ...]:
        """Every rule that holds on ``facts``, of a process in its container."""
        return (
            self.static_matches(facts) + self.dynamic_matches(facts) + self.container_matches(facts)
        )

    def static_matches(self, facts: Facts) -> tuple[Match, ...]:
        """The rules that hold on a process and look only at what never changes for its identity."""
        truths: Truths = frozenset()
        for name, index in self._static_indexes:
            value = facts.get(name)
            if value is not None:
                found = index.true_atoms(value)
                if found:
                    truths = truths | found if truths else found
        candidates = self._static_candidates(truths) if truths else self._static_always
        if not candidates:
            return ()
        holding = [rule for rule in candidates if rule.holds(truths, facts)]
        return self._matches(holding, truths, facts) if holding else ()

    def _static_candidates(self, truths: Truths) -> Sequence[_CompiledRule]:
        by_atom = self._static_by_atom
        found = {rule.position: rule for atom in truths for rule in by_atom.get(atom, ())}
        if not found:
            return self._static_always
        found.update((rule.position, rule) for rule in self._static_always)
        return [found[position] for position in sorted(found)]

    def dynamic_matches(self, facts: Facts) -> tuple[Match, ...]:
        """The rules that hold on a process and look at what changes from tick to tick."""
        return self._gated_matches(self._gates, facts)

    def container_matches(self, facts: Facts) -> tuple[Match, ...]:
        """The rules that hold and look at nothing but what a container's processes share."""
        return self._gated_matches(self._container_gates, facts)

    def _gated_matches(self, gates: tuple[_Gate, ...], facts: Facts) -> tuple[Match, ...]:
        possible = [rule for gate in gates for rule in gate.rules(facts) if rule.may_hold(facts)]
        if not possible:
            return ()
        possible.sort(key=_position)
        truths: set[int] = set()
        for name in {name for rule in possible for name in rule.text_fields}:
            value = facts.get(name)
            if value is not None:
                truths |= self._indexes[name].true_atoms(value)
        holding = [rule for rule in possible if rule.holds(truths, facts)]
        return self._matches(holding, truths, facts)

    def _matches(
        self, holding: Iterable[_CompiledRule], truths: Truths, facts: Facts
    ) -> tuple[Match, ...]:
        def judge(predicate: Predicate) -> bool:
            if isinstance(predicate, Text):
                return self._atoms[predicate] in truths
            return _SIMPLE[type(predicate)](predicate, facts)

        return tuple(Match(held.rule, evidence_of(held.rule, facts, judge)) for held in holding)


def explain(rule: Rule, facts: Facts) -> str:
    """The rule's conditions as an indented tree: which of them hold on ``facts``, and on what."""
    return "\n".join(_explained(rule.condition, facts, 0))


def predicate_holds(predicate: Predicate, facts: Facts) -> bool:
    """Whether one predicate holds, found without the compiled matcher."""
    if not isinstance(predicate, Text):
        return _SIMPLE[type(predicate)](predicate, facts)
    return any(_text_holds(predicate, text) for text in _texts(facts.get(predicate.field)))


# Evidence and explanation.


def evidence_of(rule: Rule, facts: Facts, judge: Judge) -> tuple[Evidence, ...]:
    """The conditions of a rule that holds which are true and not under a ``not``."""
    found: dict[Predicate, None] = {}
    for predicate in _reasons(rule.condition, judge):
        found[predicate] = None
        if len(found) == MAX_EVIDENCE:
            break
    return tuple(
        Evidence(predicate.field, _observed(predicate, facts), predicate.describe())
        for predicate in found
    )


def _reasons(condition: Condition, judge: Judge) -> Iterator[Predicate]:
    match condition:
        case All(conditions):
            for inner in conditions:
                yield from _reasons(inner, judge)
        case Any(conditions):
            for inner in conditions:
                if _tree_holds(inner, judge):
                    yield from _reasons(inner, judge)
        case Not():
            return
        case _:
            yield condition


def _tree_holds(condition: Condition, judge: Judge) -> bool:
    match condition:
        case All(conditions):
            return all(_tree_holds(inner, judge) for inner in conditions)
        case Any(conditions):
            return any(_tree_holds(inner, judge) for inner in conditions)
        case Not(inner):
            return not _tree_holds(inner, judge)
        case _:
            return judge(condition)


def _explained(
    condition: Condition, facts: Facts, depth: int, *, decides: bool = True
) -> Iterator[str]:
    """The tree's lines; what is large and does not decide the outcome is folded into one."""

    def judge(predicate: Predicate) -> bool:
        return predicate_holds(predicate, facts)

    holds = _tree_holds(condition, judge)
    start = "  " * depth + ("+ " if holds else "- ")
    if isinstance(condition, All | Any | Not):
        start += _LINKS[type(condition)]
        count = sum(1 for _ in predicates(condition))
        if count > MAX_EXPLAINED and not decides:
            yield f"{start} … ({count:,} conditions)"
            return
    match condition:
        case All(conditions) | Any(conditions):
            yield start
            yield from _explained_group(conditions, facts, depth + 1, holds=holds)
        case Not(inner):
            yield start
            yield from _explained(inner, facts, depth + 1, decides=decides)
        case _:
            observed = "absent" if condition.field not in facts else repr(_seen(condition, facts))
            asked = _excerpt(condition.describe(), 0)
            yield f"{start}{condition.field} {asked}; observed: {observed}"


_LINKS: dict[type, str] = {All: "all of", Any: "any of", Not: "not"}


def _explained_group(
    conditions: tuple[Condition, ...], facts: Facts, depth: int, *, holds: bool
) -> Iterator[str]:
    """Conditions below "all of" or "any of", and how many of them are not shown.

    Those that hold or fail like the whole group are why it does, so they go first.
    """

    def judge(predicate: Predicate) -> bool:
        return predicate_holds(predicate, facts)

    held = [_tree_holds(inner, judge) for inner in conditions]
    ranked = sorted(range(len(held)), key=lambda place: held[place] is not holds)
    for place in sorted(ranked[:MAX_EXPLAINED]):
        yield from _explained(conditions[place], facts, depth, decides=held[place] is holds)
    left_out = [held[place] for place in ranked[MAX_EXPLAINED:]]
    for mark, outcome in (("+", True), ("-", False)):
        if outcome in left_out:
            yield f"{'  ' * depth}{mark} … and {left_out.count(outcome):,} more"


def _observed(predicate: Predicate, facts: Facts) -> str | bool | int | float:
    """What the field was, of a list the element that matched, cut to what surrounds the hit."""
    value = facts.get(predicate.field, "")
    if isinstance(value, tuple):
        alone = ({**facts, predicate.field: (element,)} for element in value)
        hit = (one for one in alone if predicate_holds(predicate, one))
        elements = next(hit, {predicate.field: value[:1]})[predicate.field]
        value = elements[0] if isinstance(elements, tuple) and elements else ""
    if not isinstance(value, str):
        return value
    return _excerpt(value, _hit(predicate, value)) if len(value) > OBSERVED_LENGTH else value


def _seen(predicate: Predicate, facts: Facts) -> FactValue:
    value = facts[predicate.field]
    if isinstance(value, tuple) and not predicate_holds(predicate, facts):
        return tuple(_excerpt(element, 0) for element in value[:8])
    return _observed(predicate, facts)


def _hit(predicate: Predicate, text: str) -> int:
    """Where in a long text the predicate matched, as near as is cheap to tell."""
    if not isinstance(predicate, Text):
        return 0
    if predicate.how is How.ENDSWITH:
        return len(text)
    if predicate.how is How.CONTAINS:
        found = text.lower().find(predicate.pattern.lower())
        return max(found, 0)
    if predicate.how is How.REGEX:
        match = re2.compile(predicate.pattern, _options()).search(_encodable(text))
        return match.start() if match else 0
    return 0


def _excerpt(text: str, hit: int) -> str:
    if len(text) <= OBSERVED_LENGTH:
        return text
    start = max(0, min(hit - OBSERVED_LENGTH // 4, len(text) - OBSERVED_LENGTH))
    end = start + OBSERVED_LENGTH
    return ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")


# One predicate on its own. Text predicates are mostly decided by the field indexes below.


def _texts(value: FactValue | None) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, tuple):
        return value
    if isinstance(value, bool):
        return ("true",) if value else ("false",)
    return (str(value),) if isinstance(value, int) else ()


def _text_holds(predicate: Text, text: str) -> bool:
    if predicate.how is How.REGEX:
        return _search(predicate.pattern, text)
    if not predicate.cased:
        text = text.lower()
    if predicate.how is How.WILDCARD:
        return _search(wildcard_regex(predicate), text)
    pattern = predicate.pattern if predicate.cased else predicate.pattern.lower()
    return _compares(predicate.how, text, pattern)


def _search(pattern: str, text: str) -> bool:
    return re2.compile(pattern, _options()).search(_encodable(text)) is not None


def _compares(how: How, text: str, pattern: str) -> bool:
    match how:
        case How.CONTAINS:
            return pattern in text
        case How.STARTSWITH:
            return text.startswith(pattern)
        case How.ENDSWITH:
            return text.endswith(pattern)
    return text == pattern


_OPERATORS: dict[Comparison, Callable[[float, float], bool]] = {
    Comparison.EQUAL: operator.eq,
    Comparison.LESS: operator.lt,
    Comparison.LESS_OR_EQUAL: operator.le,
    Comparison.GREATER: operator.gt,
    Comparison.GREATER_OR_EQUAL: operator.ge,
}

_PLAIN_NUMBER = re.compile(r"-?\d{1,18}(\.\d{1,9})?", re.ASCII)


def _number(value: FactValue) -> int | float | None:
    if isinstance(value, bool | tuple):
        return None
    if not isinstance(value, str):
        return value
    if len(value) > 30 or not _PLAIN_NUMBER.fullmatch(value):
        return None
    return float(value) if "." in value else int(value)


def _number_holds(predicate: Number, facts: Facts) -> bool:
    value = facts.get(predicate.field)
    if value is None:
        return False
    if isinstance(value, tuple):
        return any(_passes(predicate, _number(element)) for element in value)
    return _passes(predicate, _number(value))


def _passes(predicate: Number, number: int | float | None) -> bool:
    if number is None:
        return False
    return _OPERATORS[predicate.comparison](number, predicate.threshold)


def _flag_holds(predicate: Flag, facts: Facts) -> bool:
    value = facts.get(predicate.field)
    if isinstance(value, bool):
        return value is predicate.expected
    word = "true" if predicate.expected else "false"
    return isinstance(value, str | tuple) and any(t.lower() == word for t in _texts(value))


def _present_holds(predicate: Present, facts: Facts) -> bool:
    return not _is_empty(facts.get(predicate.field))


def _absent_holds(predicate: Absent, facts: Facts) -> bool:
    return _is_empty(facts.get(predicate.field))


def _is_empty(value: FactValue | None) -> bool:
    if value is None or value == "":
        return True
    return isinstance(value, tuple) and not any(value)


def _network_holds(predicate: Network, facts: Facts) -> bool:
    value = facts.get(predicate.field)
    if not isinstance(value, str | tuple):
        return False
    return any(_in_network(text, predicate) for text in _texts(value))


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
    ours = [text.lower() for text in _texts(facts.get(predicate.field))]
    theirs = [text.lower() for text in _texts(facts.get(predicate.other))]
    return any(_compares(predicate.how, text, other) for text in ours for other in theirs)


_SIMPLE: dict[type, Callable[..., bool]] = {
    Number: _number_holds,
    Flag: _flag_holds,
    Present: _present_holds,
    Absent: _absent_holds,
    Network: _network_holds,
    SameAs: _same_holds,
}


# Rules, compiled.


@dataclass(frozen=True, slots=True)
class _CompiledRule:
    position: int
    rule: Rule
    holds: Evaluate
    may_hold: Callable[[Facts], bool]
    needs: frozenset[int] | None  # at least one of these atoms; None: it may hold with none
    text_fields: frozenset[str] = field(default_factory=frozenset)


Atoms = dict[Text, int]


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


def _by_field(atoms: Atoms) -> dict[str, Atoms]:
    by_field: dict[str, Atoms] = {}
    for text, atom in atoms.items():
        by_field.setdefault(text.field, {})[text] = atom
    return by_field


class _Compiler:
    """Conditions -> functions; one for each condition, however many rules have it in them."""

    def __init__(self, atoms: Atoms) -> None:
        self._atoms = atoms
        self._needed: dict[int, frozenset[Text] | None] = {}
        self._evaluations: dict[int, Evaluate] = {}
        self._bounds: dict[tuple[int, bool], Bound] = {}
        self._presences: dict[str, Callable[[Facts], bool]] = {}

    def rule(self, position: int, rule: Rule) -> _CompiledRule:
        needed = self._needs(rule.condition)
        bound = self._bound(rule.condition, upper=True)
        if not callable(bound):
            bound = _always if bound else _never
        return _CompiledRule(
            position=position,
            rule=rule,
            holds=self._evaluation(rule.condition),
            may_hold=bound,
            needs=None if needed is None else frozenset(self._atoms[text] for text in needed),
            text_fields=frozenset(text.field for text in _texts_of(rule.condition, set())),
        )

    def _needs(self, condition: Condition) -> frozenset[Text] | None:
        """Texts of which one must be true for the condition to hold; None: there are none."""
        if id(condition) not in self._needed:
            self._needed[id(condition)] = self._new_needs(condition)
        return self._needed[id(condition)]

    def _new_needs(self, condition: Condition) -> frozenset[Text] | None:
        match condition:
            case Text():
                return frozenset((condition,))
            case All(conditions):
                known = [texts for inner in conditions if (texts := self._needs(inner))]
                return max(known, key=_rarity, default=None)
            case Any(conditions):
                each = [self._needs(inner) for inner in conditions]
                if any(texts is None for texts in each):
                    return None
                return frozenset(text for texts in each for text in texts or ())
        return None

    def _evaluation(self, condition: Condition) -> Evaluate:
        """The condition as one function of the true atoms and the facts."""
        if id(condition) not in self._evaluations:
            self._evaluations[id(condition)] = self._new_evaluation(condition)
        return self._evaluations[id(condition)]

    def _new_evaluation(self, condition: Condition) -> Evaluate:
        match condition:
            case All(conditions):
                return _all_evaluation(*self._apart(conditions))
            case Any(conditions):
                return _any_evaluation(*self._apart(conditions))
            case Not(inner):
                positive = self._evaluation(inner)
                return lambda truths, facts: not positive(truths, facts)
            case Text():
                atom = self._atoms[condition]
                return lambda truths, _facts: atom in truths
        holds = _SIMPLE[type(condition)]
        return lambda _truths, facts: holds(condition, facts)

    def _apart(
        self, conditions: tuple[Condition, ...]
    ) -> tuple[frozenset[int], tuple[Evaluate, ...]]:
        texts = (self._atoms[inner] for inner in conditions if isinstance(inner, Text))
        rest = (self._evaluation(inner) for inner in conditions if not isinstance(inner, Text))
        return frozenset(texts), tuple(rest)

    def _bound(self, condition: Condition, *, upper: bool) -> Bound:
        """Whether the condition may hold (upper) or must hold (lower), asked without any text."""
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
        holds = _SIMPLE[type(condition)]
        return lambda facts: holds(condition, facts)


def _rarity(texts: frozenset[Text]) -> tuple[int, int]:
    """How seldom any of the texts will be true: short patterns are common, and so are many."""
    return min(len(text.pattern) for text in texts), -len(texts)


def _all_evaluation(texts: frozenset[int], rest: tuple[Evaluate, ...]) -> Evaluate:
    def holds(truths: Truths, facts: Facts) -> bool:
        if not texts <= truths:
            return False
        return all(each(truths, facts) for each in rest)

    return holds


def _any_evaluation(texts: frozenset[int], rest: tuple[Evaluate, ...]) -> Evaluate:
    def holds(truths: Truths, facts: Facts) -> bool:
        if not texts.isdisjoint(truths):
            return True
        return any(each(truths, facts) for each in rest)

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
        _OPERATORS[predicate.comparison],
        predicate.threshold,
    )

    def holds(facts: Facts) -> bool:
        value = facts.get(name)
        if type(value) is float:
            return compare(value, threshold)
        return _number_holds(predicate, facts)

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


# All texts of one field, matched together.


class _Finder(Protocol):
    def find(self, text: str, into: set[int]) -> None: ...


class _FieldIndex:
    """All text predicates on one field, and which of them a text makes true."""

    def __init__(self, atoms: Atoms) -> None:
        patterns = {text: atom for text, atom in atoms.items() if text.how in _PATTERNS}
        literals = {text: atom for text, atom in atoms.items() if text.how not in _PATTERNS}
        self._on_lower = _finders(
            {text: atom for text, atom in literals.items() if not text.cased},
            {text: atom for text, atom in patterns.items() if not text.cased},
        )
        self._on_original = _finders(
            {text: atom for text, atom in literals.items() if text.cased},
            {text: atom for text, atom in patterns.items() if text.cased},
        )
        self._memo: dict[str, frozenset[int]] = {}

    @property
    def fallbacks(self) -> int:
        finders = (*self._on_lower, *self._on_original)
        return sum(finder.fallbacks for finder in finders if isinstance(finder, _PatternSet))

    def true_atoms(self, value: FactValue) -> frozenset[int]:
        if isinstance(value, str):
            found = self._memo.get(value)
            return self._of_text(value) if found is None else found
        texts = _texts(value)
        return frozenset().union(*(self._of_text(text) for text in texts))

    def _of_text(self, text: str) -> frozenset[int]:
        true: set[int] = set()
        if self._on_lower:
            lower = text.lower()
            for finder in self._on_lower:
                finder.find(lower, true)
        for finder in self._on_original:
            finder.find(text, true)
        found = frozenset(true) if true else _NOTHING
        if len(text) <= _MEMO_LENGTH:
            if len(self._memo) >= _MEMO_TEXTS:
                self._memo.clear()
            self._memo[text] = found
        return found


_NOTHING: frozenset[int] = frozenset()
_PATTERNS = frozenset((How.WILDCARD, How.REGEX))


def _finders(literals: Atoms, patterns: Atoms) -> tuple[_Finder, ...]:
    finders: list[_Finder] = []
    if literals:
        finders.append(_LiteralSet(literals))
    if patterns:
        finders.append(_PatternSet(patterns))
    return tuple(finders)


class _LiteralSet:
    """Literals of one field and one case, found in one pass over the text."""

    def __init__(self, atoms: Atoms) -> None:
        self._empty = frozenset(atom for text, atom in atoms.items() if not text.pattern)
        by_literal: dict[str, list[tuple[How, int]]] = {}
        for text, atom in atoms.items():
            if text.pattern:
                literal = text.pattern if text.cased else text.pattern.lower()
                by_literal.setdefault(literal, []).append((text.how, atom))
        self._automaton = ahocorasick.Automaton()
        for literal, uses in by_literal.items():
            anywhere = tuple(atom for how, atom in uses if how is How.CONTAINS)
            anchored = tuple(use for use in uses if use[0] is not How.CONTAINS)
            self._automaton.add_word(literal, (len(literal), anywhere, anchored))
        self._has_literals = bool(by_literal)
        self._automaton.make_automaton()

    def find(self, text: str, into: set[int]) -> None:
        if not text:
            into |= self._empty
            return
        if not self._has_literals:
            return
        last = len(text) - 1
        for end, (length, anywhere, anchored) in self._automaton.iter(text):
            into.update(anywhere)
            for how, atom in anchored:
                at_start = end + 1 == length
                if (how is How.ENDSWITH or at_start) and (how is How.STARTSWITH or end == last):
                    into.add(atom)


class _PatternSet:
    """Wildcard patterns and regular expressions of one field, found in one pass over the text.

    RE2's set says "nothing matches" when its memory runs out in the middle of a text. An empty
    pattern, which always matches, tells that from the truth; then each pattern is tried alone.
    """

    def __init__(self, atoms: Atoms) -> None:
        self.fallbacks = 0
        self._atoms = tuple(atoms.values())
        self._patterns = tuple(
            wildcard_regex(text) if text.how is How.WILDCARD else text.pattern for text in atoms
        )
        self._set = _compiled_set(self._patterns)
        self._alone: tuple[re2._Regexp, ...] = ()

    def find(self, text: str, into: set[int]) -> None:
        matched: list[int] = []
        if self._set is not None:
            try:
                matched = self._set.Match(text) or []
            except UnicodeEncodeError:
                matched = self._set.Match(_encodable(text)) or []
        if len(matched) == 1 and matched[0] == 0:
            return
        if 0 in matched:
            into.update(self._atoms[position - 1] for position in matched if position)
        else:
            self._find_alone(_encodable(text), into)

    def _find_alone(self, text: str, into: set[int]) -> None:
        self.fallbacks += 1
        if not self._alone:
            options = _options()
            self._alone = tuple(re2.compile(pattern, options) for pattern in self._patterns)
        for atom, pattern in zip(self._atoms, self._alone, strict=True):
            if pattern.search(text) is not None:
                into.add(atom)


def _compiled_set(patterns: tuple[str, ...]) -> re2.Set | None:
    """All patterns as one set behind the one that always matches; None: too large for RE2."""
    memory = _SET_MEMORY + _SET_MEMORY_EACH * len(patterns)
    while memory <= _SET_MEMORY_LIMIT:
        options = _options()
        options.max_mem = memory
        found = re2.Set.SearchSet(options)
        try:
            for pattern in ("", *patterns):
                found.Add(pattern)
            found.Compile()
        except re2.error:
            memory *= 2
            continue
        return found
    return None


def _options() -> re2.Options:
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    return options


def _encodable(text: str) -> str:
    """The text without surrogates: facts have none, but one that had must not stop the agent."""
    return text.encode("utf-8", "replace").decode("utf-8")
