"""Replay recorded facts: read recordings line by line, match them, write the results."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import IO, Any, NoReturn

from minerwatch.detection.facts import with_destination_count
from minerwatch.detection.fields import KNOWN_FIELDS, SIGMA_FIELDS, nearest_field
from minerwatch.detection.judge import Judge, Sighting, is_cullable, signal_scores
from minerwatch.detection.matching.matcher import Match, Matcher
from minerwatch.detection.planted_words import has_computed, with_arguments
from minerwatch.detection.sigma.rule import Rule
from minerwatch.format import counted, one_decimal
from minerwatch.model import ContainerKey, Facts, FactValue, Level, ProcessId
from minerwatch.untrusted_text.display import printable

MAX_LINE_BYTES = 16 << 20
_MAX_NAME = 40  # characters of an id or label
_COLUMNS = (*(level.label for level in Level), "cullable")
_MAX_SECONDS = 1e12


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


def parse_recording(line: bytes | str) -> Recording:
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
    sightings = [sighting(match) for match in counted_matches(recorded, matcher)]
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


def counted_matches(recorded: Recording, matcher: Matcher) -> list[Match]:
    """Return the matches, without delayed ones while the process has used little CPU time."""
    computed = has_computed(recorded.facts, recorded.seconds)
    return [match for match in matcher.matches(recorded.facts) if computed or not match.is_delayed]


def sighting(match: Match, pid: int = 1) -> Sighting:
    """Return the match as a sighting of the process ``pid``."""
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


# Results.


def read_recordings(path: Path) -> list[Recording]:
    """Read a file of recordings; raise ValueError for the first line that is not one."""
    return [parse_recording(line) for line in path.read_bytes().splitlines()]


def numbered_lines(file: IO[bytes], max_bytes: int = MAX_LINE_BYTES) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank with their numbers, cut after ``max_bytes``."""
    number = 0
    while line := file.readline(max_bytes):
        number += 1
        rest = line
        while len(rest) == max_bytes and not rest.endswith(b"\n"):
            rest = file.readline(max_bytes)
        if not line.isspace():
            yield number, line


def json_line(outcome: Outcome) -> str:
    """Return a result as a line of JSON."""
    return json.dumps(asdict(outcome))


def text_line(case: Recording, outcome: Outcome, titles: Mapping[str, str]) -> str:
    """Return a result as a line of text; ``titles`` are those of the rules by id."""
    reasons = "; ".join(titles[rule] for rule in outcome.rules)
    score = one_decimal(outcome.score)
    return (
        f"{score:>5}  {outcome.level:10}  {'cullable' if outcome.cullable else '-':8}"
        f"  {printable(str(case.id), _MAX_NAME)}  {printable(case.label, _MAX_NAME) or '-'}"
        f"  {printable(reasons) or '-'}"
    )


class Tally:
    """Counts results by label and level, and the lines with unknown fields."""

    def __init__(self) -> None:
        self._by_label: dict[str, Counter[str]] = {}
        self._unknown: Counter[str] = Counter()

    def add(self, case: Recording, outcome: Outcome) -> None:
        """Count a result."""
        counts = self._by_label.setdefault(case.label, Counter())
        counts.update((outcome.level, "cullable" if outcome.cullable else ""))
        self._unknown.update(name for name in case.facts if name not in KNOWN_FIELDS)

    def rows(self) -> Iterator[str]:
        """Yield the counts as lines of a table, none if there are none."""
        if not self._by_label:
            return
        names = {label: printable(label, _MAX_NAME) or "-" for label in sorted(self._by_label)}
        width = max(len(name) for name in (*names.values(), "LABEL"))
        yield "  ".join((f"{'LABEL':{width}}", "LINES", *(name.upper() for name in _COLUMNS)))
        for label, name in names.items():
            counts = self._by_label[label]
            lines = sum(counts[level.label] for level in Level)
            cells = (f"{counts[column]:{len(column)}}" for column in _COLUMNS)
            yield "  ".join((f"{name:{width}}", f"{lines:5}", *cells))

    def unknown_fields(self, in_force: Iterable[Rule]) -> Iterator[str]:
        """Yield a warning for each field that no rule names: a misspelt one matches nothing."""
        named = frozenset().union(*(rule.fields for rule in in_force))
        for name, count in self._unknown.most_common():
            if name not in named and name not in SIGMA_FIELDS:
                near = nearest_field(name)
                hint = f": did you mean {near}?" if near else ", which no rule names"
                yield f"{counted(count, 'line')} with the unknown field {name[:_MAX_NAME]}{hint}"
