"""What a measure brings, as rows, and the table that is made of them: markdown for people, JSON.

Every measure is a module of this package. It has a function that returns rows, and can be run by
itself; ``python -m benchmarks`` runs them all, one after the other, each in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import msgspec


class NotHereError(Exception):
    """A measure that this machine cannot do; the message says what is missing."""


class Outcome(StrEnum):
    """What became of a row's budget."""

    MET = "met"
    MISSED = "MISSED"
    NOT_MEASURED = "not measured"
    NO_BUDGET = ""


@dataclass(frozen=True, slots=True)
class Budget:
    """What is allowed: at most ``limit``, or at least that much."""

    limit: float
    is_least: bool = False

    def is_met_by(self, value: float) -> bool:
        """Return True if ``value`` keeps to it."""
        return value >= self.limit if self.is_least else value <= self.limit

    def text(self, unit: str) -> str:
        """As it stands in the table."""
        return f"{'≥' if self.is_least else '≤'} {number(self.limit)} {unit}".rstrip()


@dataclass(frozen=True, slots=True)
class Row:
    """One figure, of one case of one measure; without a value, ``note`` says why."""

    measure: str
    case: str
    figure: str
    value: float | None
    unit: str = ""
    budget: Budget | None = None
    note: str = ""

    @property
    def outcome(self) -> Outcome:
        """Return True if the budget was kept to."""
        if self.budget is None:
            return Outcome.NO_BUDGET
        if self.value is None:
            return Outcome.NOT_MEASURED
        return Outcome.MET if self.budget.is_met_by(self.value) else Outcome.MISSED

    @property
    def what(self) -> str:
        """Case and figure, in one line."""
        return f"{self.case}: {self.figure}" if self.case else self.figure

    @property
    def measured(self) -> str:
        """The value with its unit."""
        return "not here" if self.value is None else f"{number(self.value)} {self.unit}".rstrip()


@dataclass(frozen=True, slots=True)
class Run:
    """All that one run brought."""

    machine: str
    command: str
    load: float  # processes that wanted to run, on average, as the run ended (getloadavg(3))
    took_s: float
    rows: tuple[Row, ...]


def number(value: float) -> str:
    """``value`` with three digits that count, and commas."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    digits = 2 if abs(value) < 1 else 1 if abs(value) >= 10 else 2
    if abs(value) < 0.1:
        digits = 4
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if value == int(value) else text


def missing(measure: str, figure: str, reason: str, budget: Budget | None = None) -> Row:
    """A row for what could not be measured here."""
    return Row(measure, "", figure, None, budget=budget, note=reason)


def as_json(run: Run) -> bytes:
    """The run, for programs."""
    content = {
        "machine": run.machine,
        "command": run.command,
        "load": run.load,
        "took_s": round(run.took_s, 1),
        "rows": [
            {**msgspec.to_builtins(row), "outcome": row.outcome.value or None} for row in run.rows
        ],
    }
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"


def rows_from_json(content: bytes) -> list[Row]:
    """What ``show`` printed for a machine; raises ValueError if it is something else."""
    try:
        return msgspec.json.decode(content, type=list[Row])
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error


def as_markdown(run: Run) -> str:
    """The run, for people: what became of the budgets, then a table for each measure."""
    minutes = f"{run.took_s / 60:.1f} minutes"
    parts = [f"`{run.command}`: {run.machine}; {minutes}, a load of {run.load:.1f} at its end."]
    if with_budget := [row for row in run.rows if row.budget is not None]:
        parts.append("### Budgets\n\n" + _budgets(with_budget))
    for measure in dict.fromkeys(row.measure for row in run.rows):
        rows = [row for row in run.rows if row.measure == measure]
        parts.append(f"### {measure}\n\n" + measure_table(rows))
    return "\n\n".join(parts) + "\n"


def measure_table(rows: Sequence[Row]) -> str:
    """One measure: a line a case where all cases have the same figures, else a line a figure."""
    cases = list(dict.fromkeys(row.case for row in rows))
    figures = list(dict.fromkeys((row.figure, row.unit) for row in rows))
    cells = {(row.case, row.figure): row for row in rows}
    if len(cases) < 2 or len(rows) != len(cases) * len(figures) or len(cells) != len(rows):
        return _lines(("", "measured", ""), [(row.what, row.measured, row.note) for row in rows])
    head = ("", *(f"{figure}, {unit}" if unit else figure for figure, unit in figures))
    body = []
    for case in cases:
        of_case = [cells[case, figure] for figure, _ in figures]
        body.append((case, *("–" if r.value is None else number(r.value) for r in of_case)))
    notes = dict.fromkeys(f"{row.figure}: {row.note}" for row in rows if row.note)
    return "\n\n".join([_lines(head, body), *notes])


def _budgets(rows: Iterable[Row]) -> str:
    body = [
        (
            f"{row.measure}: {row.what}",
            row.budget.text(row.unit) if row.budget else "",
            row.measured,
            row.outcome.value,
        )
        for row in rows
    ]
    return _lines(("", "budget", "measured", ""), body)


def _lines(head: tuple[str, ...], body: Sequence[tuple[str, ...]]) -> str:
    """A markdown table whose columns are as wide as they have to be; the first is for words."""
    kept = [place for place in range(len(head)) if head[place] or any(row[place] for row in body)]
    table = [tuple(row[place].replace("|", "\\|") for place in kept) for row in (head, *body)]
    widths = [max(3, *(len(row[place]) for row in table)) for place in range(len(kept))]
    is_text = [
        place == 0 or not any(_is_number(row[place]) for row in table[1:])
        for place in range(len(kept))
    ]
    rule = [
        "-" * width if text else "-" * (width - 1) + ":"
        for width, text in zip(widths, is_text, strict=True)
    ]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if text else cell.rjust(width)
            for cell, width, text in zip(row, widths, is_text, strict=True)
        ]
        return "| " + " | ".join(cells) + " |"

    return "\n".join([line(table[0]), line(rule), *(line(row) for row in table[1:])])


def _is_number(cell: str) -> bool:
    return cell[:1].isdigit() or (cell[:1] == "-" and cell[1:2].isdigit())


# What every measure's module does when it is run by itself.


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The options of a measure, to begin with."""
    found = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    found.add_argument("--json", action="store_true", help="rows for a program")
    return found


def show(measure: str, rows: Callable[[], Iterable[Row]], *, is_json: bool) -> None:
    """Measures and prints; what cannot be done here is a row that says so."""
    try:
        found = list(rows())
    except NotHereError as error:
        found = [missing(measure, "all of it", str(error))]
    if is_json:
        sys.stdout.buffer.write(msgspec.json.encode(found))
        return
    print(f"{machine()}; a load of {os.getloadavg()[0]:.1f}\n")
    for each in dict.fromkeys(row.measure for row in found):
        print(f"### {each}\n\n{measure_table([row for row in found if row.measure == each])}\n")


def needs_root() -> None:
    """Raises NotHereError for others."""
    if os.geteuid() != 0:
        raise NotHereError("makes cgroups and reads others' processes: run it as root")


def machine() -> str:
    """What this runs on, in one line."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return (
        f"{model}, {os.cpu_count()} cores, Linux {platform.release()},"
        f" Python {platform.python_version()}"
    )


def cpu_ms(work: Callable[[], object]) -> float:
    """CPU milliseconds that ``work`` takes of this process."""
    started_ns = time.process_time_ns()
    work()
    return (time.process_time_ns() - started_ns) / 1e6
