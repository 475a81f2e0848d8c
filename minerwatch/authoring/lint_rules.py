"""Lint of one rule or filter: its header, its tests, and the remarks of pySigma's validators."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from datetime import date
from difflib import get_close_matches
from functools import cache

from minerwatch.authoring.diagnostic import Problems
from minerwatch.authoring.lint_conditions import did_you_mean
from minerwatch.authoring.schema import rule_schema
from minerwatch.detection.fields import CPU_FIELDS, KNOWN_FIELDS, SIGMA_FIELDS
from minerwatch.detection.sigma.rule import LEVEL_SCORES, Filter, Rule
from minerwatch.detection.sigma.yaml_document import Document, KeyPath, Value
from minerwatch.model import Facts, FactValue, Maturity, Signal

_RANDOM_UUID = 4
_MAX_SCORE_DEVIATION = 29
"""Largest distance of a score from its level's: behaviour scores at most 29 at any level."""
_EMPTY_WORD = re.compile(
    r"(?:unknown|none(?: known)?|unlikely|n/?a|-|no|nothing|tbd|\?|rare|possible)\.?", re.IGNORECASE
)
_TAG = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_.-]+)+")
_MIN_TESTS = 3
"""Of each kind: fewer do not cover the most similar innocent programs."""
_UNIT_TYPES = {"bool": "true or false", "": "text", "list": "a list of texts"}


def check_keys(item: Rule | Filter, document: Document) -> Problems:
    """Warn of misspelt keys, an id that is not random, and a missing description."""
    for key in document.content.keys() - _known_keys():
        near = get_close_matches(key.lower(), _known_keys(), n=1, cutoff=0.75)
        if near:
            yield document.line(key), f"unknown key {key!r}: did you mean {near[0]!r}?"
    if uuid.UUID(item.id).version != _RANDOM_UUID:
        yield item.id_line, "the id is not random: create it with `uuidgen`, so that it is unique"
    if not item.description:
        yield document.line("title"), "no description: the on-call needs it"


@cache
def _known_keys() -> frozenset[str]:
    return frozenset(rule_schema()["properties"])


def check_header(rule: Rule, document: Document) -> Problems:
    """Warn of missing keys."""
    status = document.content.get("status")
    for key, value, lack in (
        ("status", status, "the rule counts as experimental, for metrics and log only"),
        ("level", rule.level, "other Sigma tools need one"),
        ("falsepositives", rule.falsepositives, "the on-call needs them"),
        ("references", rule.references, "readers cannot check the rule"),
        ("author", rule.author, "reviewers need a contact"),
        ("date", rule.date, "write the day, yyyy-mm-dd"),
        ("tags", rule.tags, "add attack.impact, attack.t1496.001 and others that apply"),
    ):
        if not value:
            yield document.line("title"), f"no {key}: {lack}"


def check_texts(rule: Rule, document: Document) -> Problems:
    """Warn of references that are not URLs, and of `falsepositives` entries without text."""
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
    if rule.signal is not Signal.BEHAVIOUR and rule.fields and rule.fields <= CPU_FIELDS:
        text = (
            f"all fields measure CPU usage, but the signal is {rule.signal}: use behaviour, or two"
            " rules confirm each other by one measurement"
        )
        yield document.line("minerwatch", "signal"), text


def check_tests(rule: Rule, document: Document) -> Problems:
    """Warn of missing, duplicate and misspelt tests."""
    has_own = "minerwatch" in document.content
    line = document.line("minerwatch", "tests") if has_own else document.line("title")
    for holds, kind, purpose in (
        (True, "match", "the rule must match"),
        (False, "no_match", "the rule must not match"),
    ):
        count = sum(test.holds is holds for test in rule.tests)
        if not count:
            yield line, f"no minerwatch.tests.{kind}: add facts that {purpose}"
        elif count < _MIN_TESTS:
            yield line, f"{count} of minerwatch.tests.{kind}: write at least {_MIN_TESTS}"
    first_in: dict[str, int] = {}
    for test in rule.tests:
        facts = repr(sorted(test.facts.items()))
        if facts in first_in:
            yield test.line, f"the same facts as in line {first_in[facts]}"
        first_in.setdefault(facts, test.line)
        for text in fact_problems(test.facts, rule.fields):
            yield test.line, text


def fact_problems(facts: Facts, more_fields: frozenset[str]) -> Iterator[str]:
    """Find unknown fields, except ``more_fields``, and values of the wrong type."""
    for name, value in facts.items():
        field = KNOWN_FIELDS.get(name)
        if field is None:
            if name not in SIGMA_FIELDS and name not in more_fields:
                yield f"unknown field {name} in the test{did_you_mean(name)}"
        elif not _fits(value, field.unit):
            yield f"{name} is {value!r} in the test: use {_UNIT_TYPES.get(field.unit, 'a number')}"


def _fits(value: FactValue, unit: str) -> bool:
    if unit == "bool" or isinstance(value, bool):
        return unit == "bool" and isinstance(value, bool)
    return unit in ("", "list") or isinstance(value, int | float)


def check_by_sigma(rule: Rule, document: Document) -> Problems:
    """Warn of what pySigma warns of.

    Not "all without contains" and "windash with all", which are correct here.
    """
    from sigma.rule import SigmaDetectionItem, SigmaRule
    from sigma.validators.core import metadata, modifiers, tags, values

    content = {key: value for key, value in document.content.items() if key != "minerwatch"}
    # As texts: the validator puts references into a set.
    sigma = SigmaRule.from_dict({**content, "references": list(rule.references)})
    for key, validator in (
        ("tags", tags.CVETagValidator()),
        ("references", metadata.DuplicateReferencesValidator()),
    ):
        for issue in validator.validate(sigma):
            yield document.line(key), f"{key}: {_uncapitalized(issue.description)}"
    item_validators = (
        modifiers.InvalidModifierCombinationsValidator(),
        values.ControlCharacterValidator(),
        values.DoubleWildcardValidator(),
        values.WildcardsInsteadOfModifiersValidator(),
    )
    correct_here = (
        modifiers.AllWithoutContainsModifierIssue,
        modifiers.WindowsDashCombinedWithAllModifierIssue,
    )
    for at, key, value in _items(document.content["detection"], ("detection",)):
        item = SigmaDetectionItem.from_mapping(key, value)  # type: ignore[arg-type]
        for item_validator in item_validators:
            item_validator.rule = sigma
            for issue in item_validator.validate_detection_item(item):
                if not isinstance(issue, correct_here):
                    yield document.line(*at), f"{key}: {_uncapitalized(issue.description)}"


def _items(definition: Value, at: KeyPath) -> Iterator[tuple[KeyPath, str, Value]]:
    """Yield each ``field|modifiers: value`` of the selections, with its line."""
    if isinstance(definition, list):
        for index, inner in enumerate(definition):
            yield from _items(inner, (*at, index))
    elif isinstance(definition, dict):
        for key, value in definition.items():
            if len(at) > 1:
                yield (*at, key), key, value
            elif key != "condition":
                yield from _items(value, (*at, key))


def _uncapitalized(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:].rstrip(".")
