"""Read recordings line by line, and write the results of a replay as text and JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO

from minerwatch.authoring.rule_tests import Outcome, Recording, recording
from minerwatch.detection.fields import KNOWN_FIELDS, SIGMA_FIELDS, nearest_field
from minerwatch.detection.sigma.rule import Rule
from minerwatch.format import counted, one_decimal
from minerwatch.model import Level
from minerwatch.untrusted_text.display import printable

MAX_LINE_BYTES = 16 << 20
_MAX_NAME = 40  # characters of an id or label
_COLUMNS = (*(level.label for level in Level), "cullable")


def recordings(path: Path) -> list[Recording]:
    """Read a file of recordings; raise ValueError for the first line that is not one."""
    return [recording(line) for line in path.read_bytes().splitlines()]


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
