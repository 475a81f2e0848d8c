"""The report as one page that can be forwarded: no script, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

from minerwatch.untrusted_text.display import printable, shown_name
from minerwatch.view.abuse_report import PROMETHEUS, Report
from minerwatch.view.report_parts import (
    Name,
    Row,
    Table,
    coverage,
    facts,
    hours,
    left_out,
    money,
    recorded_share,
    seconds,
    tables,
    title,
)
from minerwatch.web.chart import gap_pattern, rounded_up
from minerwatch.web.html import Markup, document, tag
from minerwatch.web.layout import cell, level_mark, more, table
from minerwatch.web.style import CSS, REPORT_CSS, source_of

_MAX_ROWS = 200
_MAX_NOTES = 200
_BELOW_LENGTH = 400
_CSS = CSS + REPORT_CSS
_POLICY = f"default-src 'none'; style-src {source_of(_CSS)}; base-uri 'none'; form-action 'none'"
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 720, 150, 38, 10, 24
_PLOT_HEIGHT = _HEIGHT - _TOP - _BOTTOM
_MAX_LABELS = 10
_FEW = 4  # columns of a table that needs little width
_SHORT = 16  # characters of a word that is not broken
_LEVELS = ("suspicious", "likely", "confirmed")
_FOOT = (
    "By minerwatch. It shows what ran, not the culprit: an owner may be the victim of a break-in."
    " Secrets are masked as far as they are known as such."
)


def report_page(report: Report) -> str:
    """Return the page."""
    heading = title(report)
    is_whole = not report.missing and (report.recorded_share or 0.0) >= 0.995
    return document(
        f"{heading} · minerwatch",
        _CSS,
        tag(
            "main",
            tag("h1", heading),
            tag("p", _scope(report), class_="dim"),
            tag("p", coverage(report), class_=None if is_whole else "notice"),
            _cards(report),
            tag("dl", [(tag("dt", each.label), tag("dd", each.value)) for each in facts(report)]),
            _chart(report),
            [_table(each) for each in tables(report, _MAX_ROWS)],
            _notes(report),
        ),
        tag("footer", tag("p", _FOOT)),
        meta=(
            tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
            tag("meta", name="referrer", content="no-referrer"),
        ),
    )


def _scope(report: Report) -> str:
    scope = shown_name(report.scope)
    only = f"namespace {shown_name(report.namespace)} only" if report.namespace else ""
    source = "by Prometheus" if report.source == PROMETHEUS else "by the agents' journals"
    return " · ".join(filter(None, (scope, only, source)))


def _cards(report: Report) -> Markup:
    total = report.total
    shown = [
        (f"{total.incidents:,}", "containers, likely or confirmed abuse"),
        (f"{report.owner_count:,}", "owners"),
        (hours(total.cpu_hours) if total.incidents else "0", "CPU hours while flagged"),
    ]
    if total.gpu_hours is not None:
        shown.append((hours(total.gpu_hours), "GPU hours while flagged"))
    if report.prices:
        shown.append((money(total.cost if total.incidents else 0.0, report.prices), "cost"))
    if total.incidents:
        shown.append((seconds(report.detection.median_s), "from start to detection, median"))
    cards = (
        tag("div", tag("strong", value), tag("span", text), class_="card") for value, text in shown
    )
    return tag("div", cards, class_="cards")


def _chart(report: Report) -> Markup | None:
    """Return flagged CPU hours by day; the part of a day that is not recorded is hatched."""
    days = report.days
    if not days:
        return None
    top = rounded_up(max(each.flagged_cpu_hours for each in days))
    base = _TOP + _PLOT_HEIGHT
    text = "CPU hours by day (UTC) of flagged containers; hatched: not recorded"
    picture = tag(
        "svg",
        (gap_pattern(), _scale(top, base), _bars(report, top, base)),
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label=f"{text}; at most {top:g}",
    )
    return tag("figure", tag("figcaption", text), picture)


def _bars(report: Report, top: float, base: int) -> Iterator[Markup]:
    slot = (_WIDTH - _LEFT) / len(report.days)
    for number, day in enumerate(report.days):
        x, gap = _LEFT + number * slot, (1 - recorded_share(day, report)) * slot
        height = min(1.0, day.flagged_cpu_hours / top) * _PLOT_HEIGHT
        if gap > 1:
            yield tag(
                "rect", x=f"{x + slot - gap:.1f}", y=_TOP, width=f"{gap:.1f}",
                height=_PLOT_HEIGHT, fill="url(#gap)",
            )  # fmt: skip
        if height:
            width = max(1.0, (slot - gap) * 0.8)
            bar = f"M{x:.1f} {base}v-{height:.1f}h{width:.1f}v{height:.1f}z"
            yield tag("path", class_="bar", d=bar)
        if number % (len(report.days) // _MAX_LABELS + 1) == 0:
            label = printable(day.date, 16)[5:]
            yield tag("text", label, class_="tick", x=f"{x + 2:.1f}", y=_HEIGHT - 8)


def _scale(top: float, base: int) -> Iterator[Markup]:
    for value in (top, top / 2, 0.0):
        y = base - value / top * _PLOT_HEIGHT
        yield tag("path", class_="grid", d=f"M{_LEFT} {y:.1f}h{_WIDTH - _LEFT}")
        yield tag(
            "text", f"{value:g}", class_="tick", x=_LEFT - 6, y=f"{y + 4:.1f}", text_anchor="end"
        )


def _table(part: Table) -> list[Markup | None]:
    about = tag("p", part.about, class_="dim") if part.about else None
    if not part.rows:
        return [tag("h2", part.title), tag("p", part.empty)]
    titles = [each.title for each in part.columns]
    numbers = [each.title for each in part.columns if each.is_number]
    rest = left_out(part)
    drawn = table(titles, [_row(part, row) for row in part.rows], numbers)
    return [
        tag("h2", part.title),
        about,
        tag("div", drawn, class_="small") if len(part.columns) <= _FEW else drawn,
        tag("p", f"… {rest}", class_="dim") if rest else None,
    ]


def _row(part: Table, row: Row) -> Markup:
    why = printable(row.below, _BELOW_LENGTH)
    cells = []
    for number, (column, text) in enumerate(zip(part.columns, row.cells, strict=True)):
        shown = shown_name(text)
        content: Markup | str = level_mark(shown) if shown in _LEVELS else shown
        if number == 0:
            below = tag("div", why, class_="why") if why else None
            cells.append(cell((content, below), "name"))
        else:
            class_ = "n" if column.is_number else _class_of(text, shown)
            cells.append(cell(content, class_, column.title))
    return tag("tr", cells)


def _class_of(text: str, shown: str) -> str:
    """Return the class of a cell: short text is not broken."""
    if isinstance(text, Name):
        return "short" if len(shown) <= _SHORT else "text"
    return ""


def _notes(report: Report) -> list[Markup | None]:
    lines = []
    for each in report.notes[:_MAX_NOTES]:
        of = f"{shown_name(each.node)}: " if each.node else ""
        why = f": {printable(each.detail, _BELOW_LENGTH)}" if each.detail else ""
        lines.append(tag("li", f"{of}{each.text}{why}"))
    return [
        tag("h2", "Not in these figures"),
        tag("ul", lines) if lines else tag("p", "Nothing is known to be missing."),
        more(len(report.notes) - _MAX_NOTES),
    ]
