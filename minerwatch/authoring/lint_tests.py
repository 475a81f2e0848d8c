"""Lint of the tests that a rule carries, and of facts in recordings."""

from __future__ import annotations

from collections.abc import Iterator

from minerwatch.authoring.diagnostic import Problems
from minerwatch.authoring.lint_conditions import did_you_mean
from minerwatch.detection.fields import KNOWN_FIELDS, SIGMA_FIELDS
from minerwatch.detection.sigma.rule import Rule
from minerwatch.detection.sigma.yaml_document import Document
from minerwatch.model import Facts, FactValue

_MIN_TESTS = 3
"""Of each kind: fewer do not cover the most similar innocent programs."""
_UNIT_TYPES = {"bool": "true or false", "": "text", "list": "a list of texts"}


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
