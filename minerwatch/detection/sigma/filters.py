"""Sigma filters: exclusions that several rules share.

A filter lists the rules that it serves by id. ``any`` is refused, so that no new rule is narrowed
by accident.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from minerwatch.detection.condition import All, Condition, all_of, fields_of, predicates
from minerwatch.detection.sigma.detection_parser import DetectionReader, Outline, check_by_sigma
from minerwatch.detection.sigma.lists import Lists
from minerwatch.detection.sigma.rule import (
    Filter,
    Rule,
    SkippedRule,
    check_header,
    is_uuid,
    is_withdrawn,
    logsource,
    skipped,
    text_of,
    uuid_of,
)
from minerwatch.detection.sigma.yaml_document import Document, read_document, read_text


def is_filter(document: Document) -> bool:
    """Return True if the document is a Sigma filter."""
    return "filter" in document.content and "detection" not in document.content


def filter_of(document: Document, lists: Lists) -> Filter | SkippedRule:
    """Read the filter in a document; raise ``RuleError`` if it has an error."""
    if is_withdrawn(document):
        return skipped(document)
    check_header(document)
    source = logsource(document)
    check_by_sigma(document)
    rules = _served_rules(document)
    reader = DetectionReader(document, lists, "filter")
    condition = reader.condition()
    return Filter(
        id=uuid_of(document),
        title=text_of(document, "title"),
        path=document.path,
        rules=rules,
        logsource=source,
        condition=condition,
        fields=fields_of(condition),
        description=text_of(document, "description"),
        lists=tuple(sorted(reader.lists_used)),
        unused_selections=reader.unused_selections(),
        id_line=document.line("id"),
        field_lines=reader.field_lines,
    )


def _served_rules(document: Document) -> tuple[str, ...]:
    block = document.content["filter"]
    rules = block.get("rules") if isinstance(block, dict) else None
    at = ("filter", "rules")
    if not isinstance(rules, list) or not rules:
        reason = "filter.rules: must be a list of the ids of the rules that it serves"
        raise document.error(reason, *at)
    for index, identifier in enumerate(rules):
        if not isinstance(identifier, str) or not is_uuid(identifier):
            reason = f"filter.rules: {str(identifier)[:80]!r} is not the id of a rule"
            raise document.error(reason, *at, index)
    return tuple(identifier.lower() for identifier in rules)


def serves(filter_: Filter, rule: Rule) -> bool:
    """Return True if the filter names the rule, and its log source includes that of the rule."""
    return rule.id in filter_.rules and all(
        wanted in ("", given)
        for wanted, given in (
            (filter_.logsource.product, rule.logsource.product),
            (filter_.logsource.category, rule.logsource.category),
        )
    )


def with_filters(rule: Rule, filters: Iterable[Filter]) -> Rule:
    """Return the rule narrowed by the filters that serve it."""
    serving = tuple(each for each in filters if serves(each, rule))
    if not serving:
        return rule
    own = rule.condition.conditions if isinstance(rule.condition, All) else (rule.condition,)
    condition = All((*own, *(each.condition for each in serving)))
    public = describe_predicates(rule.condition) - rule.secrets
    hidden = frozenset().union(*(_secrets_of(each) for each in serving))
    return replace(
        rule,
        condition=condition,
        fields=fields_of(condition),
        lists=tuple(sorted({*rule.lists, *(name for each in serving for name in each.lists)})),
        filters=serving,
        secrets=rule.secrets | hidden - public,
    )


def describe_predicates(condition: Condition) -> frozenset[tuple[str, str]]:
    """Return field and description, as evidence has them, of each predicate."""
    return frozenset((each.field, each.describe()) for each in predicates(condition))


def _secrets_of(filter_: Filter) -> frozenset[tuple[str, str]]:
    return describe_predicates(filter_.condition) if filter_.private else filter_.secrets


def outline_of(rule: Rule, lists: Lists) -> Outline:
    """Read a rule and its filters again, as outline; raise ``RuleError`` if one has an error."""
    whole = _outline(rule.path, lists, "detection")
    for each in rule.filters:
        file = f"{each.path.parent.name}/{each.path.name}"
        part = _outline(each.path, lists, "filter", f" in {file}")
        whole = Outline(
            f"{whole.text}; filter {file}: {part.text}",
            all_of((whole.logic, part.logic)),
            {**whole.selections, **part.selections},
            {**whole.lines, **part.lines},
        )
    return whole


def _outline(path: Path, lists: Lists, key: str, suffix: str = "") -> Outline:
    document = read_document(path, read_text(path)[0])
    return DetectionReader(document, lists, key).outline(suffix)
