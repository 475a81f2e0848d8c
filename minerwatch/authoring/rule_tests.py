"""Run the tests that rules carry."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from minerwatch.authoring.explain_match import why
from minerwatch.detection.matching.matcher import Matcher
from minerwatch.detection.planted_words import has_computed
from minerwatch.detection.sigma.filters import outline_of
from minerwatch.detection.sigma.lists import Lists
from minerwatch.detection.sigma.rule import Rule, RuleTest
from minerwatch.errors import RuleError
from minerwatch.model import Facts


@dataclass(frozen=True, slots=True)
class FailedTest:
    """A test that its rule does not pass."""

    rule: Rule
    test: RuleTest
    explanation: str  # each selection and field: expected, observed

    def __str__(self) -> str:
        """Return ``path:line: title: problem``, then the explanation."""
        problem = "must match, but does not" if self.test.holds else "must not match, but does"
        head = f"{self.rule.path}:{self.test.line}: {self.rule.title}: {problem}"
        return "\n".join((head, *("    " + line for line in self.explanation.splitlines())))


def failed_tests(
    rules: Iterable[Rule], matcher: Matcher, lists: Lists | None = None
) -> tuple[FailedTest, ...]:
    """Return the tests of ``rules`` that fail. ``matcher`` has the rules, ``lists`` their lists."""
    return tuple(
        FailedTest(rule, test, _why(rule, test.facts, lists or Lists()))
        for rule in rules
        for test in rule.tests
        if _is_failed(rule, test, matcher)
    )


def _is_failed(rule: Rule, test: RuleTest, matcher: Matcher) -> bool:
    """Return True if the rule misses a case, or finds at once what it must not match."""
    found = [match for match in matcher.matches(test.facts) if match.rule.id == rule.id]
    if test.holds:
        return not found
    return any(not match.is_delayed or has_computed(test.facts, 0.0) for match in found)


def _why(rule: Rule, facts: Facts, lists: Lists) -> str:
    try:
        return "\n".join(why(outline_of(rule, lists), facts))
    except RuleError as error:  # a file has changed since it was read
        return f"not explained: {error}"
