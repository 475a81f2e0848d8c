"""Lint of files beside each other: similar and broad rules, copied exclusions, filters, lists."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from minerwatch.authoring.diagnostic import Diagnostic, Problems, warning
from minerwatch.authoring.lint_conditions import line_of
from minerwatch.authoring.recordings import Recording, counted_matches
from minerwatch.detection.condition import All, Any, Condition, Not
from minerwatch.detection.matching.matcher import Match, Matcher
from minerwatch.detection.owner_fields import ROWS
from minerwatch.detection.planted_words import DELAY_CPU_S
from minerwatch.detection.sigma.filters import serves
from minerwatch.detection.sigma.rule import Filter, Rule
from minerwatch.detection.sigma.rulebook import RuleBook
from minerwatch.detection.sigma.yaml_document import Document, read_text
from minerwatch.errors import RuleError
from minerwatch.model import Level, Signal

_CHOSEN_BY_TENANT = frozenset(
    (
        *("Image", "CommandLine", "Arguments", "CurrentDirectory", "Comm", "ParentImage"),
        *("ParentCommandLine", "ContainerImage", "ContainerName", "PodName"),
        *(name for name, *_ in ROWS if name != "ContainerImageDigest"),
    )
)
_MIN_COPIES = 3
"""So many rules with the same exclusion should share a filter."""
_SOURCE = re.compile(r"^#\s*Sources?:\s*\S", re.MULTILINE)
_DATE = re.compile(r"^#(?:.*\s)?Date:\s*\d{4}-\d\d-\d\d\b", re.MULTILINE)
_Entry = tuple[int, str]  # with its line


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
        for match in counted_matches(recorded, matcher):
            rule = match.rule
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


# Filters.


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
                others = ", ".join(str(each.path) for each in rules if each is not rule)
                yield warning(rule.path, rule.id_line, f"{text} ({others})")


def _subtrees(condition: Condition) -> Iterator[Condition]:
    yield condition
    match condition:
        case All(conditions) | Any(conditions):
            for inner in conditions:
                yield from _subtrees(inner)
        case Not(inner):
            yield from _subtrees(inner)


# Lists.


def list_diagnostics(book: RuleBook) -> Iterator[Diagnostic]:
    """Warn of errors in lists, and of lists that no rule uses."""
    used = {name for rule in book.rules for name in rule.lists}
    used.update(name for each in book.filters for name in each.lists)
    for folder in dict.fromkeys(book.lists.folders):
        for name in book.lists.entries:
            path = folder / f"{name}.txt"
            if path.is_file():
                yield from _diagnostics_of(path)
                if name not in used:
                    yield warning(path, 1, f"no rule uses %{name}% with |expand")


def _diagnostics_of(path: Path) -> Iterator[Diagnostic]:
    try:
        text = read_text(path)[0]
    except RuleError:  # reported when the list was loaded
        return
    entries = [
        (number, line.strip())
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.strip().startswith("#")
    ]
    for line, problem in (*_check_header(text), *_check_entries(entries), *_check_order(entries)):
        yield warning(path, line, problem)


def _check_header(text: str) -> Problems:
    if not _SOURCE.search(text):
        yield 1, "no source: add '# Source: https://…'"
    if not _DATE.search(text):
        yield 1, "no date: add the day when the source was read, '# Date: 2026-11-24'"


def _check_entries(entries: Sequence[_Entry]) -> Problems:
    first_in: dict[str, int] = {}
    for line, entry in entries:
        first = first_in.setdefault(entry.lower(), line)
        if first != line:
            yield line, f"{entry[:80]!r} is also in line {first}"
        if "*" in entry:
            yield line, "* is literal in a list: write the text itself"
        if " #" in entry:
            yield line, "the comment is part of the entry: give it its own line"
        if entry != entry.lower():
            yield line, f"{entry[:80]!r} has capital letters: write lower case"
        if "://" in entry:
            yield line, f"{entry[:80]!r} is a URL: write the host only"


def _check_order(entries: Sequence[_Entry]) -> Problems:
    """Warn of the first entry that is out of order: it mostly causes the others."""
    for (_, before), (line, entry) in pairwise(entries):
        if _sort_key(entry) < _sort_key(before):
            yield line, f"{entry[:80]!r} follows {before[:80]!r}: sort the entries"
            return


def _sort_key(entry: str) -> tuple[int, str]:
    """Sort numbers by value, before texts."""
    return (int(entry), "") if entry.isdecimal() and len(entry) <= 9 else (1 << 31, entry.lower())
