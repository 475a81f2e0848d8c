"""Whether rules are good: lint, their embedded tests, and replay of recorded facts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Any

from minerwatch.detection.fields import KNOWN_FIELDS, SIGMA_FIELDS, nearest_field
from minerwatch.detection.judge import Judge, Sighting, is_cullable, signal_scores
from minerwatch.detection.match import Match, Matcher, explain
from minerwatch.detection.rule import Rule, RuleTest
from minerwatch.detection.rulebook import RuleBook
from minerwatch.model import ContainerKey, Facts, FactValue, Maturity, ProcessId

_MAX_LINE_BYTES = 64 << 20


class Severity(StrEnum):
    """How bad a remark is: an error keeps the file out of force."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Remark:
    """What lint has to say of one place in one file."""

    path: Path
    line: int
    severity: Severity
    text: str

    def __str__(self) -> str:
        """``path:line: severity: text``, the form that editors make clickable."""
        return f"{self.path}:{self.line}: {self.severity}: {self.text}"


def lint(book: RuleBook) -> tuple[Remark, ...]:
    """Everything that is wrong or doubtful in the book's files, by path and line."""
    remarks = [
        Remark(error.path, error.line, Severity.ERROR, error.reason) for error in book.errors
    ]
    for rule in book.rules:
        remarks += (Remark(rule.path, line, Severity.WARNING, text) for line, text in _doubts(rule))
    remarks += _unused_lists(book)
    return tuple(sorted(remarks, key=lambda remark: (str(remark.path), remark.line, remark.text)))


def _doubts(rule: Rule) -> Iterator[tuple[int, str]]:
    for name in sorted(rule.fields):
        doubt = _field_doubt(name)
        if doubt:
            yield rule.field_lines.get(name, rule.id_line), doubt
    for selection in rule.unused_selections:
        yield rule.id_line, f"selection {selection!r} is not used by the condition"
    for key, value in (("description", rule.description), ("falsepositives", rule.falsepositives)):
        if not value:
            yield rule.id_line, f"no {key}: whoever is paged by this rule will look for it"
    if rule.maturity is Maturity.STABLE and not rule.score:
        yield rule.id_line, "a stable rule that scores 0 counts for nothing"
    yield from _test_doubts(rule)


def _test_doubts(rule: Rule) -> Iterator[tuple[int, str]]:
    if not any(test.holds for test in rule.tests):
        yield rule.id_line, "no minerwatch.tests.match: nothing proves that it ever holds"
    if all(test.holds for test in rule.tests):
        yield rule.id_line, "no minerwatch.tests.no_match: nothing proves that it spares anybody"
    for test in rule.tests:
        for name in sorted(test.facts.keys() - rule.fields - KNOWN_FIELDS.keys() - SIGMA_FIELDS):
            yield test.line, f"the test has a field that nothing looks at: {name}"


def _field_doubt(name: str) -> str:
    if name in KNOWN_FIELDS:
        return ""
    if name in SIGMA_FIELDS:
        return f"{name} is never measured here: a condition on it does not hold"
    near = nearest_field(name)
    return f"unknown field {name}" + (f": did you mean {near}?" if near else "")


def _unused_lists(book: RuleBook) -> Iterator[Remark]:
    used = {name for rule in book.rules for name in rule.lists}
    for name in sorted(set(book.lists.entries) - used):
        folder = next((f for f in book.lists.folders if (f / f"{name}.txt").is_file()), None)
        if folder is not None:
            text = f"no rule uses this list; write |expand and '%{name}%' where it is meant"
            near = get_close_matches(name, used, n=1)
            text += f" (there is also {near[0]!r})" if near else ""
            yield Remark(folder / f"{name}.txt", 1, Severity.WARNING, text)


# Embedded tests.


@dataclass(frozen=True, slots=True)
class FailedTest:
    """A rule that did not do what its own test says."""

    rule: Rule
    test: RuleTest
    explanation: str  # the condition as a tree: what held, and on what

    def __str__(self) -> str:
        """``path:line: title: what was expected``, then the conditions one below the other."""
        expected = "holds" if self.test.holds else "does not hold"
        did = "does not" if self.test.holds else "does"
        head = f"{self.rule.path}:{self.test.line}: {self.rule.title}: should say it {expected}"
        tree = "\n".join("    " + line for line in self.explanation.splitlines())
        return f"{head}, but it {did}\n{tree}"


def failed_tests(rules: Iterable[Rule], matcher: Matcher) -> tuple[FailedTest, ...]:
    """The embedded tests of ``rules`` that fail, judged by ``matcher``, which holds them all."""
    return tuple(
        FailedTest(rule, test, explain(rule, test.facts))
        for rule in rules
        for test in rule.tests
        if any(match.rule.id == rule.id for match in matcher.matches(test.facts)) is not test.holds
    )


# Replay.


@dataclass(frozen=True, slots=True)
class Recording:
    """Facts of one process that held for some time."""

    id: str | int
    label: str  # what it really was, as far as whoever recorded it knows; ""
    seconds: float
    facts: Facts


@dataclass(frozen=True, slots=True)
class Outcome:
    """What would be thought of a container with that process, after that time."""

    id: str | int
    score: float
    level: str
    signals: tuple[str, ...]
    rules: tuple[str, ...]  # ids, highest score first
    cullable: bool


def recording(line: bytes | str) -> Recording:
    """One line of a recording: ``{"id", "label"?, "seconds", "facts": {…}}``.

    Raises ValueError, its text fit for a person, for anything else.
    """
    if len(line) > _MAX_LINE_BYTES:
        raise ValueError("the line is too long")
    try:
        tree = json.loads(line)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(tree, dict):
        raise ValueError("not an object with id, seconds and facts")
    identifier, facts = tree.get("id"), tree.get("facts")
    if not isinstance(identifier, str | int) or isinstance(identifier, bool):
        raise ValueError("id: missing, or neither text nor whole number")
    if not isinstance(facts, dict):
        raise ValueError("facts: missing, or not an object")
    return Recording(
        id=identifier,
        label=str(tree.get("label") or ""),
        seconds=_seconds(tree.get("seconds", 0)),
        facts=_facts(facts),
    )


def replayed(recorded: Recording, matcher: Matcher) -> Outcome:
    """The verdict once the facts have held for the recorded time; ``for:`` is kept."""
    judge, container = Judge(), ContainerKey("/", 1)
    sightings = [_sighting(match) for match in matcher.matches(recorded.facts)]
    judge.verdict(container, sightings, 0.0)
    verdict = judge.verdict(container, sightings, recorded.seconds)
    scores = signal_scores(verdict.findings)
    return Outcome(
        id=recorded.id,
        score=verdict.score,
        level=verdict.level.label,
        signals=tuple(sorted(signal.value for signal in scores)),
        rules=tuple(finding.rule for finding in verdict.findings),
        cullable=is_cullable(verdict),
    )


def _sighting(match: Match) -> Sighting:
    process = None if match.rule.of_container else ProcessId(1, 0)
    return Sighting(match.rule, process, match.evidence)


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise ValueError("seconds: not a number of at least 0")
    return float(value)


def _facts(tree: Mapping[str, Any]) -> Facts:
    return {name: _fact(name, value) for name, value in tree.items() if value is not None}


def _fact(name: str, value: Any) -> FactValue:
    if isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list) and all(isinstance(each, str | int | float) for each in value):
        return tuple(each if isinstance(each, str) else str(each) for each in value)
    raise ValueError(f"facts: {name} is neither text, number, truth value nor a list of texts")
