"""The report as text, as Markdown, and as CSV. Pure.

Text of others is shown on one line; in Markdown it stands in code spans, where it can be no link,
mention or markup; in CSV no cell begins like a formula.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator

from rich.cells import cell_len

from minerwatch.untrusted_text.display import printable
from minerwatch.view.abuse_report import PROMETHEUS, Report, ReportedIncident
from minerwatch.view.lines import fitted, padded
from minerwatch.view.report_parts import (
    Name,
    Table,
    coverage,
    done,
    facts,
    left_out,
    tables,
    title,
)

_MAX_ROWS = 30
_MAX_NOTES = 50
_MAX_CELL = 60  # columns
_MAX_TEXT = 400
_GAP = "  "
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ,%+()-]*")
_FORMULA = "=+-@\uff1d\uff0b\uff0d\uff20"  # the full width ones too: spreadsheets narrow them

CSV_COLUMNS = (
    *("kind", "node", "namespace", "pod", "container", "image", "owner", "abuse", "level"),
    *("score", "started", "flagged", "detected", "ended", "delay_s", "acted_s", "cpu_hours"),
    *("gpu_hours", "energy_kwh", "cost", "currency", "done", "released", "rules", "note"),
)


def text(report: Report) -> str:
    """Return the report for a terminal or a mail."""
    return "\n".join(_text_lines(report)) + "\n"


def _text_lines(report: Report) -> Iterator[str]:
    yield title(report)
    if scope := _scope(report):
        yield scope
    yield coverage(report)
    yield ""
    found = facts(report)
    width = max(len(fact.label) for fact in found)
    for fact in found:
        yield f"{fact.label:<{width}}{_GAP}{_shown(fact.value, _MAX_TEXT)}"
    for table in tables(report, _MAX_ROWS):
        yield ""
        yield table.title.upper()
        yield from _text_table(table)
    yield from ("", "NOT IN THESE FIGURES")
    yield from _notes(
        report,
        lambda node: _shown(Name(node), _MAX_CELL),
        lambda detail: _shown(Name(detail), _MAX_TEXT),
    )


def _notes(
    report: Report, node: Callable[[str], str], detail: Callable[[str], str]
) -> Iterator[str]:
    for each in report.notes[:_MAX_NOTES]:
        of = f"{node(each.node)}: " if each.node else ""
        yield f"- {of}{each.text}{f': {detail(each.detail)}' if each.detail else ''}"
    if not report.notes:
        yield "Nothing is known to be missing."
    if len(report.notes) > _MAX_NOTES:
        yield f"- and {len(report.notes) - _MAX_NOTES:,} more"


def _scope(report: Report) -> str:
    scope = _shown(Name(report.scope), _MAX_CELL) if report.scope else ""
    only = f"namespace {_shown(Name(report.namespace), _MAX_CELL)} only" if report.namespace else ""
    source = "by Prometheus" if report.source == PROMETHEUS else ""
    return ", ".join(filter(None, (scope, only, source)))


def _text_table(table: Table) -> Iterator[str]:
    if table.about:
        yield table.about
    if not table.rows:
        yield table.empty
        return
    titles = [column.title for column in table.columns]
    cells = [[_shown(cell, _MAX_CELL) for cell in row.cells] for row in table.rows]
    columns = zip(titles, *cells, strict=True)
    widths = [max(map(cell_len, column)) for column in columns]
    right = [column.is_number for column in table.columns]
    for index, line in enumerate([titles, *cells]):
        filled = (
            padded(cell, width, to_the_right=to_the_right)
            for cell, width, to_the_right in zip(line, widths, right, strict=True)
        )
        yield _GAP.join(filled).rstrip()
        if index and (below := table.rows[index - 1].below):
            yield f"    {_shown(below, _MAX_TEXT)}"
    if more := left_out(table):
        yield more


def _shown(cell: str, most: int) -> str:
    """Return a cell on one line; the middle of long text of others is cut."""
    return fitted(printable(cell, 4 * most), most) if isinstance(cell, Name) else cell


def markdown(report: Report) -> str:
    """Return the report for a ticket, a wiki or a chat."""
    return "\n".join(_markdown_lines(report)) + "\n"


def _markdown_lines(report: Report) -> Iterator[str]:
    yield f"# {title(report)}"
    yield ""
    scope = f"{code(report.scope)}. " if report.scope else ""
    only = f"Namespace {code(report.namespace)} only. " if report.namespace else ""
    source = "By Prometheus. " if report.source == PROMETHEUS else ""
    yield f"{scope}{only}{source}{coverage(report)}"
    yield ""
    for fact in facts(report):
        yield f"- **{fact.label}:** {_safe(fact.value)}"
    for table in tables(report, _MAX_ROWS):
        yield from ("", f"## {table.title}", "")
        yield from _markdown_table(table)
    yield from ("", "## Not in these figures", "")
    yield from _notes(report, code, code)


def _markdown_table(table: Table) -> Iterator[str]:
    if not table.rows:
        yield table.empty
        return
    if table.about:
        yield from (table.about, "")
    with_below = any(row.below for row in table.rows)
    titles = [column.title for column in table.columns] + (["Why"] if with_below else [])
    marks = ["--:" if column.is_number else "---" for column in table.columns]
    yield f"| {' | '.join(titles)} |"
    yield f"| {' | '.join(marks + (['---'] if with_below else []))} |"
    for row in table.rows:
        cells = (*row.cells, Name(row.below or "-")) if with_below else row.cells
        yield f"| {' | '.join(map(_safe, cells))} |"
    if more := left_out(table):
        yield from ("", more)


def _safe(cell: str) -> str:
    return code(cell) if isinstance(cell, Name) else cell


def code(untrusted: str) -> str:
    """Return text of others as Markdown: as it is if it is a plain word, else as a code span."""
    shown = printable(untrusted, _MAX_TEXT).strip() or "-"
    if _PLAIN.fullmatch(shown) or shown == "-":
        return shown
    return f"`{shown.replace('`', chr(0x2019)).replace('|', chr(0xA6))}`"


def csv_text(report: Report) -> str:
    """Return one row an incident, then one a gap and one a node that is missing."""
    written = io.StringIO()
    table = csv.DictWriter(
        written, CSV_COLUMNS, restval="", quoting=csv.QUOTE_NONNUMERIC, lineterminator="\r\n"
    )
    table.writeheader()
    for row in _csv_rows(report):
        table.writerow({name: _csv_cell(value) for name, value in row.items()})
    return written.getvalue()


def _csv_rows(report: Report) -> Iterator[dict[str, str | float | None]]:
    for each in report.incidents:
        yield {"kind": "incident", **_csv_incident(each, report)}
    for node in report.nodes:
        for gap in node.gaps:
            yield {
                "kind": "gap", "node": node.node, "flagged": gap.since, "ended": gap.until,
                "note": "nothing was recorded",
            }  # fmt: skip
    for missing in report.missing:
        yield {"kind": "missing", "node": missing.node, "note": missing.reason}
    for note in report.notes:
        said = f"{note.text}: {note.detail}" if note.detail else note.text
        yield {"kind": "note", "node": note.node, "note": said}


def _csv_incident(each: ReportedIncident, report: Report) -> dict[str, str | float | None]:
    names = set(CSV_COLUMNS) & set(each.__struct_fields__)
    return {
        **{name: getattr(each, name) for name in names},
        "currency": report.prices.currency if report.prices else "",
        "done": done(each),
        "rules": " | ".join(f"{rule.signal}: {rule.title}" for rule in each.rules),
    }


def _csv_cell(value: str | float | None) -> str | float:
    """Return a cell in which no spreadsheet sees a formula, whatever separates its cells."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return value
    shown = printable(value, _MAX_TEXT).replace(";", ",")
    return f"'{shown}" if shown.lstrip()[:1] in tuple(_FORMULA) else shown
