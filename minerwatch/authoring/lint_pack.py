"""Lint of rules beside each other, and beside ordinary programs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from minerwatch.authoring.diagnostic import Diagnostic, warning
from minerwatch.authoring.lint_conditions import line_of
from minerwatch.authoring.rule_tests import Recording
from minerwatch.detection.condition import Condition
from minerwatch.detection.matching.matcher import Match, Matcher
from minerwatch.detection.planted_words import has_computed
from minerwatch.detection.sigma.rule import Rule
from minerwatch.detection.sigma.rulebook import RuleBook
from minerwatch.model import Level, Signal


def similar_rules(rules: Iterable[Rule]) -> Iterator[Diagnostic]:
    """Warn of rules with the title or the condition of another."""
    by_title: dict[str, Rule] = {}
    by_condition: dict[tuple[Condition, Signal, float], Rule] = {}
    for rule in rules:
        first = by_title.setdefault(rule.title.casefold(), rule)
        if first is not rule:
            yield warning(rule.path, rule.id_line, f"the title is also that of {first.path}")
        first = by_condition.setdefault((rule.condition, rule.signal, rule.hold_s), rule)
        if first is not rule:
            text = f"same condition as {first.path}: the two rules say no more than one"
            yield warning(rule.path, rule.id_line, text)


def broad_rules(rules: Sequence[Rule], ordinary: Sequence[Recording]) -> Iterator[Diagnostic]:
    """Warn once of each rule that makes an ordinary program suspicious."""
    matcher = Matcher(rules)
    reported: set[str] = set()
    for recorded in ordinary:
        for match in matcher.matches(recorded.facts):
            rule = match.rule
            if match.is_delayed and not has_computed(recorded.facts, recorded.seconds):
                continue
            if rule.score >= Level.SUSPICIOUS and rule.id not in reported:
                reported.add(rule.id)
                yield warning(rule.path, _matching_line(match), _too_broad(match, recorded))


def _matching_line(match: Match) -> int:
    fields = (evidence.field for evidence in match.evidence)
    return min((line_of(match.rule, name) for name in fields), default=match.rule.id_line)


def _too_broad(match: Match, recorded: Recording) -> str:
    seen = recorded.facts.get("CommandLine") or recorded.facts.get("Image")
    because = "; ".join(f"{each.field} {each.expected[:60]}" for each in match.evidence[:2])
    return (
        f"too broad: also matches {recorded.id}, {str(seen)[:80]!r}"
        f"{f' ({because})' if because else ''}: narrow it, or score below"
        f" {Level.SUSPICIOUS.value}"
    )


def replaced_rules(book: RuleBook) -> Iterator[Diagnostic]:
    """Warn of a copied file that kept the id, and so switches the original off."""
    in_force = {rule.id: rule for rule in book.rules}
    for file in book.files.values():
        old = file.outcome
        new = in_force.get(old.id) if isinstance(old, Rule) else None
        if not isinstance(old, Rule) or new is None or new.title == old.title:
            continue
        if book.files[new.path].folder != file.folder:
            text = f"replaces {old.title!r} ({old.path}): give it its own id if that is not meant"
            yield warning(new.path, new.id_line, text)
