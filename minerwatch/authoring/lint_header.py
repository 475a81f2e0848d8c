"""Lint of the header of a rule: keys, texts, tags, dates, score."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from datetime import date
from difflib import get_close_matches

from minerwatch.authoring.diagnostic import Problems
from minerwatch.detection.sigma.rule import LEVEL_SCORES, Filter, Rule
from minerwatch.detection.sigma.yaml_document import Document
from minerwatch.model import Maturity, Signal

_TOP_KEYS = frozenset(
    (
        *("title", "id", "name", "related", "taxonomy", "status", "description", "license"),
        *("author", "references", "date", "modified", "logsource", "detection", "fields"),
        *("falsepositives", "level", "tags", "scope", "minerwatch", "filter"),
    )
)
_CPU_FIELDS = frozenset(
    (
        *("Age", "CpuCores", "CpuSeconds", "CpuFlatness", "Threads", "SaturatedThreads"),
        *("ContainerCpuCores", "ContainerCpuLimit", "ContainerCpuHours"),
    )
)
_RANDOM_UUID = 4
_MAX_SCORE_DEVIATION = 29
"""Between score and level: behaviour scores at most 29 at any level."""
_EMPTY_WORD = re.compile(
    r"(?:unknown|none(?: known)?|unlikely|n/?a|-|no|nothing|tbd|\?|rare|possible)\.?",
    re.IGNORECASE,
)
_TAG = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_.-]+)+")


def check_keys(item: Rule | Filter, document: Document) -> Problems:
    """Warn of misspelt keys, an id that is not random, and a missing description."""
    for key in document.content.keys() - _TOP_KEYS:
        near = get_close_matches(key.lower(), _TOP_KEYS, n=1, cutoff=0.75)
        if near:
            yield document.line(key), f"unknown key {key!r}: did you mean {near[0]!r}?"
    if uuid.UUID(item.id).version != _RANDOM_UUID:
        yield item.id_line, "the id is not random: create it with `uuidgen`, so that it is unique"
    if not item.description:
        yield document.line("title"), "no description: the on-call needs it"


def check_header(rule: Rule, document: Document) -> Problems:
    """Warn of missing keys."""
    line = document.line("title")
    for key, lack in _missing_keys(rule):
        yield line, f"no {key}: {lack}"
    if not document.content.get("status"):
        yield line, "no status: the rule counts as experimental, for metrics and log only"
    if not rule.level:
        yield line, "no level: other Sigma tools need one"


def _missing_keys(rule: Rule) -> Iterator[tuple[str, str]]:
    for key, value, purpose in (
        ("falsepositives", rule.falsepositives, "the on-call needs them"),
        ("references", rule.references, "readers cannot check the rule"),
        ("author", rule.author, "reviewers need a contact"),
        ("date", rule.date, "write the day, yyyy-mm-dd"),
        ("tags", rule.tags, "add attack.impact, attack.t1496.001 and others that apply"),
    ):
        if not value:
            yield key, purpose


def check_texts(rule: Rule, document: Document) -> Problems:
    """Warn of references that are not addresses, and of empty false positives."""
    for index, reference in enumerate(rule.references):
        if not reference.startswith(("https://", "http://")):
            text = f"reference {reference[:80]!r} is not an address: use https://…"
            yield document.line("references", index), text
    for index, named in enumerate(rule.falsepositives):
        if _EMPTY_WORD.fullmatch(named.strip()):
            text = (
                f"false positive {named[:40]!r} is empty: name a program that matches without"
                " mining, however rare"
            )
            yield document.line("falsepositives", index), text


def check_tags(rule: Rule, document: Document) -> Problems:
    """Warn of malformed and duplicate tags."""
    for index, tag in enumerate(rule.tags):
        if not _TAG.fullmatch(tag):
            text = (
                f"invalid tag {tag[:60]!r}: use lower case, a dot, then letters, digits, dots,"
                " hyphens or underscores, such as attack.t1496.001"
            )
            yield document.line("tags", index), text
        elif tag in rule.tags[:index]:
            yield document.line("tags", index), f"tag {tag!r} is given twice"


def check_dates(rule: Rule, document: Document, today: date | None) -> Problems:
    """Warn of dates in the wrong order, and of those after ``today``."""
    if rule.date and rule.modified and rule.modified < rule.date:
        yield document.line("modified"), f"modified is before date, {rule.date}"
    for key, day in (("date", rule.date), ("modified", rule.modified)):
        if today is not None and day[:10].replace("/", "-") > today.isoformat():
            yield document.line(key), f"{key} {day} is in the future"


def check_score(rule: Rule, document: Document) -> Problems:
    """Warn of status, score, level and signal that contradict each other."""
    if document.content.get("status") == "stable" and rule.maturity is not Maturity.STABLE:
        text = "stable needs the key minerwatch: without it the rule counts as test"
        yield document.line("status"), text
    if rule.maturity is Maturity.STABLE and not rule.score:
        yield document.line("minerwatch", "score"), "a stable rule with score 0 has no effect"
    usual = LEVEL_SCORES.get(rule.level, rule.score)
    if abs(rule.score - usual) > _MAX_SCORE_DEVIATION:
        nearest = min(LEVEL_SCORES, key=lambda level: abs(LEVEL_SCORES[level] - rule.score))
        text = f"level {rule.level} means {usual}, but the score is {rule.score:g}: use {nearest}"
        yield document.line("level"), text
    if rule.signal is not Signal.BEHAVIOUR and rule.fields and rule.fields <= _CPU_FIELDS:
        text = (
            f"all fields measure CPU usage, but the signal is {rule.signal}: use behaviour, or two"
            " rules confirm each other by one measurement"
        )
        yield document.line("minerwatch", "signal"), text
