"""The journal as it lies on a disk, the pages that are drawn of it, and requests for them."""

from __future__ import annotations

import http.client
import io
from functools import cache

import msgspec

from minerwatch.api import journal, orders
from minerwatch.api.history import NodeHistory
from minerwatch.cli import prometheus_source
from minerwatch.config.schema import Web
from minerwatch.errors import OrderError, SnapshotError
from minerwatch.report.incidents import node_history
from minerwatch.report.journal import USAGE, VERDICTS, JournalFiles
from minerwatch.view import report_text
from minerwatch.view.abuse_report import report
from minerwatch.view.journal_history import history
from minerwatch.web.access import Access
from minerwatch.web.container_page import past_page
from minerwatch.web.report_page import report_page
from minerwatch.web.week_page import week_page
from tests.fuzz.contract import are_lines, is_told
from tests.fuzz.places import folder, put
from tests.fuzz.registry import SEPARATOR, target
from tests.web.views import SINCE_S, UNTIL_S, Page, view

_TOKEN = "0123456789abcdef0123456789abcdef"


@target(
    *("api.journal", "report.journal", "report.intervals", "report.incidents"),
    *("view.journal_history", "web.chart", "web.html", "web.week_page", "web.container_page"),
    max_bytes=8192,
    cost=16,
)
def journal_lines(data: bytes) -> None:
    """Two files: what can be read is drawn, and each page has the elements that it opens."""
    place = folder("journal")
    verdicts, _, usage = data.partition(SEPARATOR)
    put(place / VERDICTS, verdicts)
    put(place / USAGE, usage)
    lines = [*JournalFiles(place).read()]
    for line in lines:
        assert journal.decode(journal.encode(line)) is not None
    summed = history(lines, SINCE_S, UNTIL_S)
    shown = view(statuses=(), history=summed)
    Page(week_page(shown))
    for key in summed.containers:
        Page(past_page(shown, key, summed))
    past = node_history(lines, SINCE_S, UNTIL_S)
    assert orders.history_answer(orders.encode(past)) == past
    _is_drawn(past)


@target(
    *("api.orders", "view.abuse_report", "view.report_parts", "view.report_text"),
    "web.report_page",
    max_bytes=8192,
    cost=8,
)
def history_answer(data: bytes) -> None:
    """A node's incidents, as its agent answers them: each format is drawn."""
    try:
        _is_drawn(orders.history_answer(data))
    except OrderError as error:
        is_told(error)


def _is_drawn(past: NodeHistory) -> None:
    made = report([past], (), since_s=SINCE_S, until_s=UNTIL_S)
    Page(report_page(made))
    are_lines(report_text.text(made))
    report_text.markdown(made)
    report_text.csv_text(made)
    msgspec.json.encode(made)


@target("cli.prometheus_source")
def prometheus_answer(data: bytes) -> None:
    """What a Prometheus answers to each query."""
    try:
        found = prometheus_source.decoded(data)
    except SnapshotError as error:
        is_told(error)
        return
    for past in prometheus_source.past_of(lambda _expression: found, SINCE_S, UNTIL_S).histories:
        _is_drawn(past)


@cache
def _accesses() -> tuple[Access, Access]:
    token = folder("web") / "token"
    put(token, _TOKEN.encode())
    listen = "127.0.0.1:9798"
    return Access(Web(listen=listen)), Access(Web(listen=listen, token_file=str(token)))


@target("web.access")
def page_request(data: bytes) -> None:
    """The head of a request: without the token in it, there is no page."""
    try:
        headers = http.client.parse_headers(io.BytesIO(data))
    except http.client.HTTPException:
        return
    without, with_token = (each.refusal(headers) for each in _accesses())
    if without is None:
        assert "localhost" in headers["Host"] or "127." in headers["Host"] or ":" in headers["Host"]
    if with_token is None:
        assert without is None
        assert _TOKEN.encode() in data or b"basic" in data.lower()
