"""Run the tests that rules carry, and replay recorded facts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, NoReturn

from minerwatch.authoring.explain_match import why
from minerwatch.detection.facts import with_destination_count
from minerwatch.detection.judge import Judge, Sighting, is_cullable, signal_scores
from minerwatch.detection.matching.evidence import explain
from minerwatch.detection.matching.matcher import Match, Matcher
from minerwatch.detection.planted_words import has_computed, with_arguments
from minerwatch.detection.sigma.filters import outline_of
from minerwatch.detection.sigma.lists import Lists
from minerwatch.detection.sigma.rule import Rule, RuleTest
from minerwatch.errors import RuleError
from minerwatch.model import ContainerKey, Facts, FactValue, ProcessId, Verdict

_MAX_SECONDS = 1e12


# Embedded tests.


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
    except RuleError:  # a file has changed since it was read
        return explain(rule, facts)


# Replay.


@dataclass(frozen=True, slots=True)
class Recording:
    """Facts of one process that held for some time."""

    id: str | int
    label: str  # the kind of program as known to the recorder, or ""
    seconds: float
    facts: Facts


@dataclass(frozen=True, slots=True)
class Outcome:
    """The verdict on a container with that process, after that time."""

    id: str | int
    score: float
    level: str
    signals: tuple[str, ...]
    rules: tuple[str, ...]  # ids, highest score first
    cullable: bool


def recording(line: bytes | str) -> Recording:
    """Parse a line of a recording: ``{"id", "label"?, "seconds", "facts": {…}}``.

    Other keys are ignored. A null fact was not measured. Raises ValueError with a text for people.
    """
    tree = _parsed(line)
    if not isinstance(tree, dict):
        raise ValueError("not an object with id, seconds and facts")
    identifier, label, facts = tree.get("id"), tree.get("label"), tree.get("facts")
    if not isinstance(identifier, str | int) or isinstance(identifier, bool):
        raise ValueError("id: missing, or not a text or whole number")
    if not isinstance(facts, dict):
        raise ValueError("facts: missing, or not an object")
    return Recording(
        id=identifier,
        label="" if label is None else str(label),
        seconds=_seconds(tree.get("seconds")),
        facts=_facts(facts),
    )


def replayed(recorded: Recording, matcher: Matcher) -> Outcome:
    """Return the verdict after the facts have held for the recorded time."""
    judge, container = Judge(max_gap_s=inf), ContainerKey("/", 1)
    sightings = [_sighting(match) for match in _counted(recorded, matcher)]
    judge.verdict(container, sightings, 0.0)
    verdict = judge.verdict(container, sightings, recorded.seconds)
    scores = signal_scores(verdict.findings)
    return Outcome(
        id=recorded.id,
        score=float(verdict.score),
        level=verdict.level.label,
        signals=tuple(sorted(signal.value for signal in scores)),
        rules=tuple(finding.rule for finding in verdict.findings),
        cullable=is_cullable(verdict),
    )


def verdict_together(recordings: Sequence[Recording], matcher: Matcher) -> Verdict:
    """Return the verdict on one container with all of these processes.

    Each process is there for its recorded time, and all until the same moment.
    """
    judge, container = Judge(max_gap_s=inf), ContainerKey("/", 1)
    matches = [_counted(each, matcher) for each in recordings]
    end_s = max((each.seconds for each in recordings), default=0.0)
    verdict = judge.verdict(container, (), end_s)
    for at_s in sorted({*(end_s - each.seconds for each in recordings), end_s}):
        verdict = judge.verdict(
            container,
            [
                _sighting(match, pid)
                for pid, (each, found) in enumerate(zip(recordings, matches, strict=True), 1)
                if end_s - each.seconds <= at_s
                for match in found
            ],
            at_s,
        )
    return verdict


def _counted(recorded: Recording, matcher: Matcher) -> list[Match]:
    """Return the matches, without delayed ones while the process has used little CPU time."""
    computed = has_computed(recorded.facts, recorded.seconds)
    return [match for match in matcher.matches(recorded.facts) if computed or not match.is_delayed]


def _sighting(match: Match, pid: int = 1) -> Sighting:
    process = None if match.rule.of_container else ProcessId(pid, 0)
    return Sighting(match.rule, process, match.evidence, match.words_only)


def _parsed(line: bytes | str) -> Any:
    try:
        return json.loads(line, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from error
    except ValueError as error:  # NaN, or a number of more digits than Python reads
        raise ValueError(f"not JSON: {str(error).partition(':')[0]}") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _seconds(value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value < _MAX_SECONDS:
        raise ValueError("seconds: missing, or not a number of at least 0")
    return float(value)


def _facts(tree: Mapping[str, Any]) -> Facts:
    facts = {name: _fact(name, value) for name, value in tree.items() if value is not None}
    return with_destination_count(with_arguments(facts))


def _fact(name: str, value: Any) -> FactValue:
    if isinstance(value, list):
        return tuple(_element(name, each) for each in value)
    if isinstance(value, str | bool | int | float):
        return value
    raise ValueError(f"facts: {name} is not a text, number, boolean or list of those")


def _element(name: str, value: Any) -> str:
    """Return an element as text: a text of digits still compares as a number."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise ValueError(f"facts: {name} has an element that is not a text or number")
