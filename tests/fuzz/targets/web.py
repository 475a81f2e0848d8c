"""The journal as it lies on a disk, the pages that are drawn of it, and requests for them."""

from __future__ import annotations

import http.client
import io
from functools import cache

from minerwatch.api import journal
from minerwatch.config.schema import Web
from minerwatch.report.journal import USAGE, VERDICTS, JournalFiles
from minerwatch.view.journal_history import history
from minerwatch.web.access import Access
from minerwatch.web.container_page import past_page
from minerwatch.web.week_page import week_page
from tests.fuzz.places import folder, put
from tests.fuzz.registry import SEPARATOR, target
from tests.web.views import SINCE_S, UNTIL_S, Page, view

_TOKEN = "0123456789abcdef0123456789abcdef"


@target(
    *("api.journal", "report.journal", "view.journal_history", "web.chart", "web.html"),
    *("web.week_page", "web.container_page"),
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
