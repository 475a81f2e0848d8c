"""How much of the corpus the shipped rules find, and whom they accuse wrongly.

    python -m benchmarks.detection [--write]

Replays ``tests/corpus/miners.jsonl`` and ``tests/corpus/benign.jsonl`` and prints what came out,
by level, signal and kind of line; ``--write`` puts that into ``docs/detection.md``, between its two
marks. Exit status 1: a benign line reaches ``likely``, but for those that are known to, or could be
culled.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from math import inf
from pathlib import Path

from minerwatch.authoring.recordings import (
    Outcome,
    Recording,
    counted_matches,
    parse_recording,
    replayed,
    sighting,
)
from minerwatch.config.schema import BUILT_IN_RULES
from minerwatch.detection.judge import Judge, is_cullable
from minerwatch.detection.matching.matcher import Match, Matcher
from minerwatch.detection.sigma import rulebook
from minerwatch.detection.sigma.rule import Rule
from minerwatch.model import ContainerKey, Facts, Level, Signal, Verdict

CHECKOUT = Path(__file__).parent.parent
CORPUS = CHECKOUT / "tests" / "corpus"
DOCUMENT = CHECKOUT / "docs" / "detection.md"
BEGIN = "<!-- begin: python -m benchmarks.detection --write -->"
END = "<!-- end -->"

FOUND = Level.SUSPICIOUS
ALARM = Level.LIKELY

CONTAINERS = 4_000
PROCESSES = 8
SEED = 20261125


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the corpus and what the rules made of it."""

    recorded: Recording
    outcome: Outcome

    @property
    def kind(self) -> str:
        """The first part of its id: what sort of program it is."""
        return str(self.recorded.id).partition("/")[0]

    @property
    def level(self) -> Level:
        """The level that it reaches."""
        return Level.of(self.outcome.score)

    @property
    def is_false_alarm(self) -> bool:
        """Return True if an innocent would be woken up for, or worse."""
        return self.recorded.label == "benign" and (self.level >= ALARM or self.outcome.cullable)

    @property
    def is_executed(self) -> bool:
        """Return True if the line has facts on executed code."""
        return "HashCodeShare" in self.recorded.facts


Holds = Callable[[Line], bool]


@dataclass(frozen=True, slots=True)
class Row:
    """Of how many lines something is true."""

    name: str
    miners: int
    benign: int


@dataclass(frozen=True, slots=True)
class Goal:
    """A level that lines of these kinds, with facts on executed code, are to reach."""

    name: str
    kinds: frozenset[str]
    level: Level

    def share(self, lines: Sequence[Line]) -> tuple[int, float]:
        """Return the number of these lines, and the share that reaches the level."""
        own = [line for line in lines if line.is_executed and line.kind in self.kinds]
        return len(own), sum(line.level >= self.level for line in own) / max(1, len(own))


GOALS = (
    Goal("RandomX", frozenset(("randomx",)), ALARM),
    Goal("functions of coins, with a session", frozenset(("coin",)), ALARM),
    Goal("general hash functions", frozenset(("hash",)), FOUND),
)
MIN_RECALL = 0.98
MAX_FALSE = 0.01


@dataclass(frozen=True, slots=True)
class Result:
    """Everything that the rules made of the corpus."""

    rules: dict[str, Rule]
    miners: tuple[Line, ...]
    benign: tuple[Line, ...]
    containers: Counter[str]  # of several benign lines each, by level, and cullable

    def rows(self) -> list[Row]:
        """One a level and one a signal: what the documented figures are compared by."""
        return [self._row(name, holds) for name, holds in chain(_LEVELS, _SIGNALS)]

    def _row(self, name: str, holds: Holds) -> Row:
        return Row(name, sum(map(holds, self.miners)), sum(map(holds, self.benign)))


def _reaches(level: Level) -> Holds:
    return lambda line: line.level >= level


def _has(signal: Signal) -> Holds:
    return lambda line: signal.value in line.outcome.signals


_LEVELS: tuple[tuple[str, Holds], ...] = (
    *((f"at least {level.label}", _reaches(level)) for level in Level if level > Level.CLEAR),
    ("cullable", lambda line: line.outcome.cullable),
)
_SIGNALS = tuple((signal.value, _has(signal)) for signal in Signal)


def main() -> None:
    """Prints the figures, or writes them into the document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="into docs/detection.md")
    arguments = parser.parse_args()
    result = measured()
    report = "\n".join(report_lines(result)) + "\n"
    print(report)
    if arguments.write:
        DOCUMENT.write_text(with_report(DOCUMENT.read_text("utf-8"), report), "utf-8")
    accused = [line for line in result.benign if line.outcome.cullable or line.is_false_alarm]
    for line in accused:
        print(f"false alarm: {_told(line, result.rules)}", file=sys.stderr)
    sys.exit(bool(accused))


def measured(rules: Path = BUILT_IN_RULES, corpus: Path = CORPUS) -> Result:
    """The corpus, replayed under ``rules``."""
    book = rulebook.load((rules,))
    matcher = RememberingMatcher(book.rules)
    benign = tuple(_lines(corpus / "benign.jsonl", matcher))
    return Result(
        rules={rule.id: rule for rule in book.rules},
        miners=tuple(_lines(corpus / "miners.jsonl", matcher)),
        benign=benign,
        containers=_containers([line.recorded for line in benign], matcher),
    )


class RememberingMatcher(Matcher):
    """A matcher for lines that are in many containers: it matches the facts of each once."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        super().__init__(rules)
        self._known: dict[int, tuple[Facts, tuple[Match, ...]]] = {}

    def matches(self, facts: Facts) -> tuple[Match, ...]:
        """Return the matches of all rules; the facts must not change afterwards."""
        known = self._known.get(id(facts))
        if known is None:  # kept with its matches, so that the id stays its own
            known = self._known[id(facts)] = (facts, super().matches(facts))
        return known[1]


def _containers(benign: Sequence[Recording], matcher: Matcher) -> Counter[str]:
    """What containers with two to eight benign lines each come to, drawn by a fixed seed."""
    draw = random.Random(SEED)
    levels: Counter[str] = Counter()
    for _ in range(CONTAINERS):
        processes = draw.sample(benign, draw.randint(2, PROCESSES))
        verdict = verdict_together(processes, matcher)
        levels.update((verdict.level.label, "cullable" if is_cullable(verdict) else ""))
    return levels


def verdict_together(recordings: Sequence[Recording], matcher: Matcher) -> Verdict:
    """Return the verdict on one container with all of these processes.

    Each process is there for its recorded time, and all until the same moment.
    """
    judge, container = Judge(max_gap_s=inf), ContainerKey("/", 1)
    matches = [counted_matches(each, matcher) for each in recordings]
    end_s = max((each.seconds for each in recordings), default=0.0)
    verdict = judge.verdict(container, (), end_s)
    for at_s in sorted({*(end_s - each.seconds for each in recordings), end_s}):
        verdict = judge.verdict(
            container,
            [
                sighting(match, pid)
                for pid, (each, found) in enumerate(zip(recordings, matches, strict=True), 1)
                if end_s - each.seconds <= at_s
                for match in found
            ],
            at_s,
        )
    return verdict


def _lines(path: Path, matcher: Matcher) -> Iterator[Line]:
    for text in path.read_text("utf-8").splitlines():
        recorded = parse_recording(text)
        yield Line(recorded, replayed(recorded, matcher))


def with_report(document: str, report: str) -> str:
    """``document`` with ``report`` between its marks."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document has no {BEGIN} … {END}")
    return f"{before}{begin}\n{report}{end}{after}"


def documented_rows(document: str) -> list[Row]:
    """The figures by level and by signal that a document holds."""
    names = {name for name, _ in chain(_LEVELS, _SIGNALS)}
    cells = ([cell.strip() for cell in line.split("|")[1:-1]] for line in document.splitlines())
    return [Row(row[0], int(row[1]), int(row[3])) for row in cells if row and row[0] in names]


# What is printed: Markdown, so that it may stand in the document as it is.


def report_lines(result: Result) -> Iterator[str]:
    """The figures, those that were missed and those that were accused, as Markdown."""
    miners, benign = len(result.miners), len(result.benign)
    yield f"{len(result.rules)} rules, {miners} lines of miners, {benign} benign lines."
    yield ""
    yield from _shares("level", result, _LEVELS)
    yield from _shares("a rule of this signal holds", result, _SIGNALS)
    yield from _goals(result)
    yield from _kinds("Miners, by kind", result.miners)
    yield from _kinds("Benign lines, by kind", result.benign)
    yield from _containers_table(result.containers)
    yield "Miners that stay `clear`:"
    yield ""
    yield from _missed(result.miners)
    yield ""
    yield "Benign lines above `clear`, and why:"
    yield ""
    for line in result.benign:
        if line.level >= FOUND:
            yield f"- {_told(line, result.rules)}"


def _shares(title: str, result: Result, rows: Sequence[tuple[str, Holds]]) -> Iterator[str]:
    yield f"| {title} | miners | recall | benign | false positives |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    names = {name for name, _ in rows}
    for row in result.rows():
        if row.name in names:
            recall = row.miners / len(result.miners)
            false = row.benign / len(result.benign)
            yield f"| {row.name} | {row.miners} | {recall:.1%} | {row.benign} | {false:.1%} |"
    yield ""


def _goals(result: Result) -> Iterator[str]:
    yield "| lines with executed code | lines | level | reach it | goal |"
    yield "| --- | ---: | --- | ---: | ---: |"
    for goal in GOALS:
        count, share = goal.share(result.miners)
        level = f"at least {goal.level.label}"
        yield f"| {goal.name} | {count} | {level} | {share:.1%} | ≥ {MIN_RECALL:.0%} |"
    for name, lines in (
        ("benign ones", [line for line in result.benign if line.is_executed]),
        ("all benign lines, with it or not", result.benign),
    ):
        share = sum(line.level >= FOUND for line in lines) / len(lines)
        level = f"at least {FOUND.label}"
        yield f"| {name} | {len(lines)} | {level} | {share:.1%} | ≤ {MAX_FALSE:.0%} |"
    yield ""


def _kinds(title: str, lines: Iterable[Line]) -> Iterator[str]:
    yield f"| {title} | lines | {' | '.join(level.label for level in Level)} | cullable |"
    yield f"| --- |{' ---: |' * (len(Level) + 2)}"
    by_kind: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        by_kind[line.kind].append(line)
    for kind, members in sorted(by_kind.items()):
        levels = Counter(line.level for line in members)
        cells = " | ".join(str(levels[level]) for level in Level)
        cullable = sum(line.outcome.cullable for line in members)
        yield f"| {kind} | {len(members)} | {cells} | {cullable} |"
    yield ""


def _containers_table(containers: Counter[str]) -> Iterator[str]:
    columns = (*(level.label for level in Level), "cullable")
    yield f"| Containers of 2 to {PROCESSES} benign lines | {' | '.join(columns)} |"
    yield f"| ---: |{' ---: |' * len(columns)}"
    cells = " | ".join(f"{containers[column]:,}" for column in columns)
    yield f"| {CONTAINERS:,} | {cells} |"
    yield ""


def _missed(lines: Iterable[Line]) -> Iterator[str]:
    by_kind: dict[str, list[str]] = defaultdict(list)
    for line in lines:
        if line.level < FOUND:
            by_kind[line.kind].append(str(line.recorded.id).partition("/")[2])
    for kind, names in sorted(by_kind.items()):
        yield f"- {kind}: {', '.join(names)}"


def _told(line: Line, rules: dict[str, Rule]) -> str:
    """The line, its score, and the rules that hold on it; of those on CPU only the first."""
    held = [rules[rule] for rule in line.outcome.rules]
    on_cpu = [rule.title for rule in held if rule.signal is Signal.BEHAVIOUR]
    named = [rule.title for rule in held if rule.signal is not Signal.BEHAVIOUR] + on_cpu[:1]
    return f"`{line.recorded.id}` {line.outcome.score:.1f}: {'; '.join(named)}"


if __name__ == "__main__":
    main()
