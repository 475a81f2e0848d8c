"""The table that all measures share, and what becomes of a measure that fails."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks.__main__ import measured
from benchmarks.table import (
    Budget,
    NotHereError,
    Outcome,
    Row,
    Run,
    as_json,
    as_markdown,
    measure_table,
    missing,
    number,
    rows_from_json,
    show,
)
from benchmarks.whole import growth

AT_MOST, AT_LEAST = Budget(5.0), Budget(50.0, is_least=True)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.00123, "0.0012"),
        (0.05, "0.0500"),
        (0.456, "0.46"),
        (3.14159, "3.14"),
        (2.0, "2"),
        (31.4159, "31.4"),
        (314.159, "314"),
        (12345.6, "12,346"),
        (-2.5, "-2.50"),
    ],
)
def test_numbers_have_the_digits_that_count(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("budget", "value", "outcome"),
    [
        (None, 1.0, Outcome.NO_BUDGET),
        (AT_MOST, None, Outcome.NOT_MEASURED),
        (AT_MOST, 5.0, Outcome.MET),
        (AT_MOST, 5.1, Outcome.MISSED),
        (AT_LEAST, 50.0, Outcome.MET),
        (AT_LEAST, 49.9, Outcome.MISSED),
    ],
)
def test_a_budget_is_met_missed_or_not_measured(
    budget: Budget | None, value: float | None, outcome: Outcome
) -> None:
    assert Row("m", "", "f", value, budget=budget).outcome is outcome


def test_cases_with_the_same_figures_are_lines_of_one_table() -> None:
    rows = [
        Row("m", case, figure, value, "ms")
        for case, base in (("few", 1.0), ("many", 20.0))
        for figure, value in (("tick", base), ("psutil", base * 100))
    ]
    assert measure_table(rows) == (
        "|      | tick, ms | psutil, ms |\n"
        "| ---- | -------: | ---------: |\n"
        "| few  |        1 |        100 |\n"
        "| many |       20 |      2,000 |"
    )


def test_what_was_not_measured_is_a_dash_with_its_reason() -> None:
    rows = [
        Row("m", "few", "tick", 1.5, "ms"),
        Row("m", "few", "tasks", None, "ms", note="no BTF"),
        Row("m", "many", "tick", 2.5, "ms"),
        Row("m", "many", "tasks", None, "ms", note="no BTF"),
    ]
    table = measure_table(rows)
    assert "| few  |     1.50 | –         |" in table
    assert table.endswith("\n\ntasks: no BTF")


def test_other_figures_are_a_line_each() -> None:
    rows = [Row("m", "", "a", 1.5, "µs", note="of a | b"), Row("m", "", "c", None, note="no root")]
    assert measure_table(rows) == (
        "|     | measured |           |\n"
        "| --- | -------: | --------- |\n"
        "| a   |  1.50 µs | of a \\| b |\n"
        "| c   | not here | no root   |"
    )


def test_the_page_begins_with_the_budgets() -> None:
    rows = (Row("m", "x", "y", 6.0, "ms", AT_MOST), missing("n", "z", "no root", AT_LEAST))
    page = as_markdown(Run("a machine", "make bench", 0.51, 90.0, rows))
    assert page.startswith("`make bench`: a machine; 1.5 minutes, a load of 0.5 at its end.\n")
    assert "| m: x: y | ≤ 5 ms |     6 ms | MISSED       |" in page
    assert "| n: z    | ≥ 50   | not here | not measured |" in page
    assert [line for line in page.splitlines() if line.startswith("#")] == [
        "### Budgets",
        "### m",
        "### n",
    ]


def test_json_has_all_rows_and_what_became_of_their_budgets() -> None:
    rows = (Row("m", "x", "y", 6.0, "ms", AT_MOST), Row("m", "x", "z", 1.0))
    read = json.loads(as_json(Run("a machine", "make bench", 0.5, 90.0, rows)))
    assert read["rows"][0]["budget"] == {"limit": 5.0, "is_least": False}
    assert [row["outcome"] for row in read["rows"]] == ["MISSED", None]


def test_rows_come_back_as_a_measure_printed_them(
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    rows = [Row("m", "x", "y", 6.0, "ms", AT_MOST), missing("m", "z", "no root")]
    show("m", lambda: rows, is_json=True)
    assert rows_from_json(capsysbinary.readouterr().out) == rows
    with pytest.raises(ValueError, match="JSON"):
        rows_from_json(b"Traceback")


def test_what_cannot_be_done_here_is_a_row(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    def rows() -> list[Row]:
        raise NotHereError("needs a C compiler")

    show("m", rows, is_json=True)
    found = rows_from_json(capsysbinary.readouterr().out)
    assert found == [missing("m", "all of it", "needs a C compiler")]


@pytest.mark.parametrize(
    ("script", "within_s", "reason"),
    [
        ("raise SystemExit('no such file')", 60.0, "failed: no such file"),
        ("import time; time.sleep(600)", 0.2, "took more than 0 s"),
        ("", 0.0, "there was no time left: run it by itself"),
    ],
)
def test_a_measure_that_fails_is_a_row(script: str, within_s: float, reason: str) -> None:
    rows = measured([sys.executable, "-c", script], "scan", within_s)
    assert rows == [missing("scan", "all of it", reason)]


def test_growth_is_the_slope_of_the_line_that_fits_best() -> None:
    assert growth([50.0, 50.5, 51.0, 51.5]) == pytest.approx(0.5)
    assert growth([50.0, 60.0, 50.0, 60.0, 50.0]) == pytest.approx(0.0)
