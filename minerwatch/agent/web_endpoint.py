"""The pages' address: each request is checked, then answered from the last tick and the journal."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from email.message import Message
from http import HTTPStatus
from urllib.parse import parse_qs, unquote

import msgspec

from minerwatch.agent.recorder import Recorder
from minerwatch.api.types import AgentStatus, ContainerStatus
from minerwatch.config.schema import Config
from minerwatch.config.values import host_and_port
from minerwatch.errors import TargetError
from minerwatch.node.process_details import machine_totals
from minerwatch.report.http_server import Answer, Limits, address_listener
from minerwatch.report.pacing import Turns
from minerwatch.report.tls import TlsEndpoint, self_signed_tls
from minerwatch.view.journal_history import History, history
from minerwatch.view.selection import found
from minerwatch.web.access import Access
from minerwatch.web.container_page import container_page, past_page
from minerwatch.web.layout import View, error_page, page_key
from minerwatch.web.masking import masked
from minerwatch.web.now_page import now_page
from minerwatch.web.processes_page import processes_page
from minerwatch.web.style import HEADERS
from minerwatch.web.week_page import week_page

_LIMITS = Limits(connections_of_one=16, connections_per_s=20)
_PROCESSES = 50  # of each container, on its page
_ALL_PROCESSES = 200  # the same, on the page of processes
_HTML = "text/html; charset=utf-8"
_WEEK_S = 7 * 86400.0
_HISTORY_FRESH_S = 60.0
_MAX_FIELDS = 8


class WebEndpoint:
    """Serves the pages of one agent, one after the other, at most five a second."""

    def __init__(
        self, config: Config, view: Callable[[int], View], on_error: Callable[[Exception], None]
    ) -> None:
        """``view`` returns the node's state: so many processes of each container, with arguments.

        Raises ListenError.
        """
        self._view = view
        self._turns = Turns()
        self._lock = threading.Lock()
        self._refused: Counter[str] = Counter()
        settings = config.web
        self._access = Access(settings)
        tls = None if self._access.is_on_loopback else _tls(config)
        host, port = host_and_port(settings.listen)
        self._listener, address = address_listener(
            host, port, {}, on_error, tls=tls, pages=self._answer, headers=HEADERS, limits=_LIMITS,
            option="--web",
        )  # fmt: skip
        self.url = f"{'http' if tls is None else 'https'}://{address}/"

    @property
    def failures(self) -> Mapping[str, int]:
        """Requests without a page since the start, by reason."""
        with self._lock:
            return self._refused + Counter(self._listener.failures)

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()

    def _answer(self, target: str, headers: Message) -> Answer:
        refusal = self._access.refusal(headers)
        if refusal is not None:
            with self._lock:
                self._refused[f"page refused: {refusal.status.value}"] += 1
            return refusal
        html, status = self._built(target)
        return Answer(html.encode(), _HTML, status)

    def _built(self, target: str) -> tuple[str, HTTPStatus]:
        """Build a page when its turn has come."""
        with self._turns.turn():
            return self._page(target)

    def _page(self, target: str) -> tuple[str, HTTPStatus]:
        path, _, query = target.partition("?")
        if path == "/":
            chosen = _query(query)
            sort = chosen.get("sort", "")
            return now_page(self._shown(0), sort=sort, shows_all="all" in chosen), HTTPStatus.OK
        if path == "/processes":
            return processes_page(self._shown(_ALL_PROCESSES)), HTTPStatus.OK
        if path == "/week":
            return week_page(self._shown(0)), HTTPStatus.OK
        folder, _, name = path.removeprefix("/").partition("/")
        if folder == "container" and name:
            return self._container(unquote(name))
        text = "The pages are /, /processes, /week and /container/ID."
        return error_page("There is no such page", text), HTTPStatus.NOT_FOUND

    def _container(self, name: str) -> tuple[str, HTTPStatus]:
        """Return the page of a container by its key, or by whatever `explain` takes."""
        view = self._shown(_PROCESSES)
        chosen = next((each for each in view.statuses if page_key(each) == name), None)
        past = view.history
        if chosen is None and past is not None:
            in_lines = any(line.key == name for line in past.verdicts)
            if in_lines or name in past.containers:
                return past_page(view, name, past), HTTPStatus.OK
        try:
            chosen = chosen or found(view.statuses, name)
        except TargetError as error:
            return error_page("There is no such container", str(error)), HTTPStatus.NOT_FOUND
        return container_page(view, chosen, page_key(chosen)), HTTPStatus.OK

    def _shown(self, processes: int) -> View:
        view = self._view(processes)
        if self._access.shows_arguments:
            return replace(view, shows_arguments=True)
        return replace(view, statuses=[masked(each) for each in view.statuses])


class NodeView:
    """The state of an agent's node, as pages show it."""

    def __init__(
        self,
        statuses: Callable[[int], list[ContainerStatus]],
        status: Callable[[], AgentStatus],
        tick_age_s: Callable[[], float | None],
        recorder: Recorder,
    ) -> None:
        """``statuses`` has as many processes of each container as it is called with."""
        self._statuses = statuses
        self._status = status
        self._tick_age_s = tick_age_s
        self._recorder = recorder
        self._history: tuple[Sequence[object], float, History] | None = None

    def __call__(self, processes: int) -> View:
        """Return the state as of the last tick."""
        return View(
            self._statuses(processes),
            self._status(),
            machine_totals(),
            self._past(),
            datetime.now(UTC),
            tick_age_s=self._tick_age_s(),
        )

    def _past(self) -> History | None:
        """Return the last week, read again at most once a minute."""
        journal = self._recorder.journal
        if journal is None:
            return None
        now_s, stamps = time.time(), journal.files.stamps()
        if self._history is not None:
            before, last_read_s, past = self._history
            if 0 <= now_s - last_read_s < _HISTORY_FRESH_S * (5 if before == stamps else 1):
                return past
        past = history(journal.files.read(), now_s - _WEEK_S, now_s)
        self._history = stamps, now_s, past
        return past


def _tls(config: Config) -> TlsEndpoint:
    """Return TLS with the configured certificate, or with one of the agent's own."""
    settings = config.tls
    if not settings.certificate:
        return TlsEndpoint(self_signed_tls())
    return TlsEndpoint(msgspec.structs.replace(settings, client_ca=""))


def _query(query: str) -> dict[str, str]:
    try:
        fields = parse_qs(query, max_num_fields=_MAX_FIELDS)
    except ValueError:
        return {}
    return {name: values[0] for name, values in fields.items()}
