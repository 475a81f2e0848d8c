from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from minerwatch.api.history import Prices
from minerwatch.untrusted_text.display import printable
from minerwatch.view.abuse_report import report
from minerwatch.view.report_text import CSV_COLUMNS, code, csv_text, markdown, text
from minerwatch.web.report_page import report_page
from tests.report.samples import hostile_text
from tests.view.report_samples import PRICES, SINCE_S, UNTIL_S, histories, hostile, made

_FORMULAS = ("=", "+", "-", "@", *"\uff1d\uff0b\uff0d\uff20")
_MARKUP = (
    "=cmd|'/c calc'!A0", "+1", "-1", "@SUM(A1)", "a;=1", "a\t=1", "\t=1", " =1", '";=1,"',
    "a | b", "`", "``` x", "`|`", "\\", "\\`", "[a](javascript:x)", "![a](http://evil.example/x)",
    "<script>alert(1)</script>", "<!--", "@everyone", "https://evil.example", "www.evil.example",
    "a\n# b", "a\r\n| b |", "**", "&lt;", "$x$", "- [ ] x", "~~a~~", "a@evil.example", "\u202etxt",
    "'", "''", "\u2019", "1. a", "#1", ":smile:",
)  # fmt: skip
texts = st.one_of(hostile_text, st.sampled_from(_MARKUP), st.text(alphabet="`|\\<>[]()=;@\n a"))


def test_the_text(golden: Callable[[str, str], None]) -> None:
    golden("report.txt", text(made()))


def test_the_markdown(golden: Callable[[str, str], None]) -> None:
    golden("report.md", markdown(made()))


def test_the_rows(golden: Callable[[str, str], None]) -> None:
    golden("report.csv", csv_text(made()).replace("\r\n", "\n"))


def test_the_json(golden: Callable[[str, str], None]) -> None:
    golden("report.json", msgspec.json.format(msgspec.json.encode(made())).decode() + "\n")


def test_nothing_recorded_is_said_to_be_missing(golden: Callable[[str, str], None]) -> None:
    golden("report-nothing.txt", text(report((), (), since_s=SINCE_S, until_s=UNTIL_S)))


def test_gpu_hours_are_shown_with_their_cost_where_they_are_known() -> None:
    (node, *_) = histories()
    used = [
        msgspec.structs.replace(each, gpu_hours=40.0, energy_kwh=28.0)
        if each.pod == "jupyter-alice"
        else each
        for each in node.incidents
    ]
    node = msgspec.structs.replace(node, incidents=tuple(used))
    found = report([node], (), since_s=SINCE_S, until_s=UNTIL_S, prices=PRICES)
    lines = text(found).splitlines()
    assert "GPU                       40.0 GPU hours" in lines
    assert "Energy                    28.0 kWh of GPUs" in lines
    assert "100.58 EUR at 0.04 EUR per core hour, 2.5 EUR per GPU hour\n" in text(found)
    assert "| CPU hours | GPU hours | Cost, EUR |" in markdown(found)
    (row,) = [
        each
        for each in csv.DictReader(io.StringIO(csv_text(found)))
        if each["pod"] == "jupyter-alice"
    ]
    assert (row["gpu_hours"], row["energy_kwh"], row["cost"]) == ("40.0", "28.0", "100.48")
    no_price = report([node], (), since_s=SINCE_S, until_s=UNTIL_S,
                      prices=Prices(core_hour=0.04))  # fmt: skip
    assert "without GPU hours: report.price_per_gpu_hour" in text(no_price)
    assert "<strong>40.0</strong><span>GPU hours while flagged" in report_page(found)


def test_what_prometheus_does_not_know_is_not_shown_as_none() -> None:
    shown = text(made(source="prometheus", scope="https://prometheus.example"))
    assert "by Prometheus" in shown
    assert "Findings" in shown
    assert "unknown; 1 action undone" in shown
    nothing = report((), (), since_s=SINCE_S, until_s=UNTIL_S, source="prometheus")
    assert text(nothing).count("Not known: metrics do not say.") == 2


def test_long_lists_are_cut_and_counted() -> None:
    found = made()
    many = msgspec.structs.replace(
        found, incidents=found.incidents * 20, owners=found.owners * 20, notes=found.notes * 20
    )
    assert "and 50 more: use --format csv or json" in text(many)
    assert "- and 70 more" in text(many)
    assert len(text(many).splitlines()) < 250


@given(texts)
def test_no_text_has_power_over_a_terminal_or_breaks_a_line(evil: str) -> None:
    shown = text(hostile(evil))
    assert len(shown.splitlines()) == len(text(hostile("x")).splitlines()) or not evil.strip()
    assert all(line == printable(line) for line in shown.split("\n"))


def _inline(tokens: list[Token]) -> list[Token]:
    return [child for token in tokens for child in token.children or ()]


@given(texts)
@pytest.mark.parametrize("preset", ["commonmark", "js-default"])
def test_in_markdown_no_text_is_markup(preset: str, evil: str) -> None:
    parser = MarkdownIt(preset, {"html": True}).enable("table")
    tokens = parser.parse(markdown(hostile(evil)))
    plain = parser.parse(markdown(hostile("x")))
    kinds = {token.type for token in _inline(tokens)}
    assert kinds <= {"text", "code_inline", "strong_open", "strong_close", "softbreak"}
    assert not any(token.type.startswith("html") for token in tokens)
    cells = [token.type for token in tokens if token.type in ("tr_open", "td_open", "th_open")]
    expected = [token.type for token in plain if token.type in ("tr_open", "td_open", "th_open")]
    if evil.strip():
        assert cells == expected, "no text makes a cell or a row"
    said = "".join(token.content for token in _inline(tokens) if token.type == "text")
    for power in ("://", "www.", "@", "<", "`"):
        assert power not in said


@given(texts)
def test_a_code_span_has_the_text_and_ends_with_it(evil: str) -> None:
    (paragraph,) = [t for t in MarkdownIt("commonmark").parse(f"a {code(evil)} z") if t.children]
    assert [t.type for t in paragraph.children or ()] in (
        ["text"], ["text", "code_inline", "text"],
    )  # fmt: skip


@given(texts)
@example("\uff1dcmd|'/c calc'!A1")
def test_no_cell_is_a_formula_whatever_separates_cells(evil: str) -> None:
    found = hostile(evil)
    written = csv_text(found)
    rows = [*csv.reader(io.StringIO(written))]
    notes, gaps = len(found.notes), sum(len(node.gaps) for node in found.nodes)
    assert len(rows) == 1 + len(found.incidents) + gaps + len(found.missing) + notes
    assert all(len(row) == len(CSV_COLUMNS) for row in rows)
    for row in rows:
        assert not any(cell.lstrip().startswith(_FORMULAS) for cell in row)
    for separator in (";", "\t"):
        for row in csv.reader(io.StringIO(written), delimiter=separator):
            assert not any(cell.lstrip().startswith(_FORMULAS) for cell in row)


def test_rows_have_numbers_and_empty_cells_for_what_is_not_known() -> None:
    rows = [*csv.DictReader(io.StringIO(csv_text(made())))]
    short = next(row for row in rows if row["pod"] == "jupyter-mallory-2")
    assert (short["cpu_hours"], short["gpu_hours"], short["cost"]) == ("", "", "")
    alice = next(row for row in rows if row["pod"] == "jupyter-alice")
    assert (float(alice["cpu_hours"]), float(alice["delay_s"])) == (12.0, 45.0)
    assert {row["kind"] for row in rows} == {"incident", "gap", "missing", "note"}


def test_json_has_null_for_what_is_not_known() -> None:
    found = json.loads(msgspec.json.encode(made()))
    assert found["total"]["gpu_hours"] is None
    assert found["incidents"][0]["delay_s"] is None
