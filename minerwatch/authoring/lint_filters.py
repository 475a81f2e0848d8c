"""Lint of Sigma filters, and of exclusions that rules copy instead of sharing a filter."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from minerwatch.authoring.diagnostic import Diagnostic, Problems, warning
from minerwatch.detection.condition import All, Any, Condition, Not
from minerwatch.detection.planted_words import DELAY_CPU_S
from minerwatch.detection.sigma.filters import serves
from minerwatch.detection.sigma.rule import Filter, Rule
from minerwatch.detection.sigma.rulebook import RuleBook
from minerwatch.detection.sigma.yaml_document import Document

_CHOSEN_BY_TENANT = frozenset(
    (
        *("Image", "CommandLine", "Arguments", "CurrentDirectory", "Comm", "ParentImage"),
        *("ParentCommandLine", "ContainerImage", "ContainerName", "PodName"),
    )
)
_MIN_COPIES = 3
"""Rules with the same exclusion, from which on it belongs into a filter."""


def check_filter(filter_: Filter, document: Document, book: RuleBook) -> Problems:
    """Warn of a filter that serves no rule, or excludes by what a tenant chooses."""
    by_id = {rule.id: rule for rule in book.rules}
    for index, identifier in enumerate(filter_.rules):
        line = document.line("filter", "rules", index)
        rule = by_id.get(identifier)
        if rule is None:
            yield line, f"no rule in force has the id {identifier}"
        elif identifier in filter_.rules[:index]:
            yield line, f"the id {identifier} is given twice"
        elif not serves(filter_, rule):
            yield line, f"has no effect on {rule.title!r}, which is for another log source"
    if filter_.fields <= _CHOSEN_BY_TENANT:
        fields = ", ".join(sorted(filter_.fields))
        text = (
            f"excludes by {fields} only, which the tenant chooses: add what the program does, or"
            f" delay until CpuSeconds|gte: {DELAY_CPU_S:g}"
        )
        yield document.line("filter", "condition"), text


def copied_exclusions(book: RuleBook) -> Iterator[Diagnostic]:
    """Warn of rules that copy the condition of a filter, or an exclusion of two other rules."""
    copies: dict[Condition, list[Rule]] = defaultdict(list)
    for rule in book.rules:
        for condition in dict.fromkeys(_subtrees(book.as_written(rule).condition)):
            copies[condition].append(rule)
    for each in book.filters:
        for rule in copies.pop(each.condition, ()):
            text = f"copies the filter {each.path}: remove the copy, and add this id to the filter"
            yield warning(rule.path, rule.id_line, text)
    for condition, rules in copies.items():
        if isinstance(condition, Not) and len(rules) >= _MIN_COPIES:
            text = f"{len(rules)} rules have the same exclusion: move it to a Sigma filter"
            for rule in rules:
                yield warning(rule.path, rule.id_line, f"{text} ({_others(rule, rules)})")


def _subtrees(condition: Condition) -> Iterator[Condition]:
    yield condition
    match condition:
        case All(conditions) | Any(conditions):
            for inner in conditions:
                yield from _subtrees(inner)
        case Not(inner):
            yield from _subtrees(inner)


def _others(rule: Rule, rules: list[Rule]) -> str:
    return ", ".join(str(each.path) for each in rules if each is not rule)
