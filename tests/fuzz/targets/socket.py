"""What comes over the agent's sockets, from whoever can reach them, and what agents answer."""

from __future__ import annotations

import io
import socket
from contextlib import suppress
from functools import cache, partial
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

import msgspec

from minerwatch.api import client, orders
from minerwatch.api.types import CullAnswer, ReleaseAnswer
from minerwatch.cli.cull import decoded_lines
from minerwatch.errors import OrderError, SnapshotError
from minerwatch.report.bounded_reader import RequestError
from minerwatch.report.http_server import Answer, Listener, Posts, Routes
from minerwatch.view.culling_text import cull_text, release_text, simulation_text
from tests.fuzz.contract import are_lines, is_publishable, is_told
from tests.fuzz.registry import target
from tests.waiting import PATIENCE_S

_Kind = TypeVar("_Kind")
_BODY = b"minerwatch_build_info 1\n"


def _fail(error: Exception) -> None:
    raise AssertionError(repr(error))


@cache
def _server(*, takes_orders: bool) -> Listener:
    routes: Routes = dict.fromkeys(("/healthz", "/metrics"), lambda: Answer(_BODY))
    posts: Posts = {"/cull": lambda body: Answer(str(len(body)).encode())} if takes_orders else {}
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    return Listener(listening, routes, _fail, posts=posts)


@target("report.http_server", "report.bounded_reader", max_bytes=20_000)
def http_request(data: bytes) -> None:
    """Whatever is sent is answered by one whole answer that repeats nothing of it, or by none."""
    for takes_orders in (False, True):
        client, served = socket.socketpair()
        with client, served:
            client.settimeout(PATIENCE_S)
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            with suppress(RequestError):
                _server(takes_orders=takes_orders).finish_request(served, "")
            served.close()
            sent = b"".join(iter(partial(_received, client), b""))
        if sent:
            _is_answer(sent)


def _received(client: socket.socket) -> bytes:
    with suppress(ConnectionResetError):
        return client.recv(65536)
    return b""


def _is_answer(sent: bytes) -> None:
    head, _, body = sent.partition(b"\r\n\r\n")
    first, *fields = head.decode("ascii").split("\r\n")
    version, status, _phrase = first.split(" ", 2)
    assert version == "HTTP/1.0"
    HTTPStatus(int(status))
    told = dict(field.split(": ", 1) for field in fields)
    assert told["Connection"] == "close"
    assert not body or int(told["Content-Length"]) == len(body)
    assert len(sent) < 1000
    assert body.isascii()


def _is_refused_in_words(body: bytes, kind: type[_Kind]) -> _Kind | None:
    try:
        return orders.decode(body, kind)
    except OrderError as error:
        is_told(error)
        return None


@target("api.orders")
def order(data: bytes) -> None:
    """Orders to an agent."""
    for kind in (orders.CullOrder, orders.ReleaseOrder):
        found = _is_refused_in_words(data, kind)
        if found is not None:
            assert all(len(name) <= 4096 for name in (found.cgroup, found.pod_uid))
            is_publishable(found)
    everything = _is_refused_in_words(data, orders.ReleaseAllOrder)
    assert everything is None or len(everything.namespace) <= 4096
    told = _is_refused_in_words(data, orders.HoursOrder)
    assert told is None or 0 < told.hours <= orders.MAX_HOURS


@target("api.orders", "view.culling_text", "cli.cull")
def order_answer(data: bytes) -> None:
    """What an agent answers to an order, as the command shows it."""
    try:
        are_lines(cull_text(orders.answer_of(data, CullAnswer)))
    except OrderError as error:
        is_told(error)
    try:
        are_lines(release_text(orders.answer_of(data, ReleaseAnswer)))
    except OrderError as error:
        is_told(error)
    try:
        lines = decoded_lines("node-1", data)
    except OrderError as error:
        is_told(error)
    else:
        are_lines(simulation_text(lines, 24))
        msgspec.json.encode(lines)


class _Heard(client.UnixConnection):
    """A connection on which that answer has come."""

    def __init__(self, data: bytes) -> None:
        super().__init__(Path("/fuzz.sock"), 1.0)
        self._data = data

    def connect(self) -> None:
        self.sock = SimpleNamespace(
            makefile=lambda *_args, **_kwargs: io.BytesIO(self._data),
            sendall=lambda _data: None,
            close=lambda: None,
        )


@target("api.client", max_bytes=20_000)
def http_answer(data: bytes) -> None:
    """What comes back on the agent's socket."""
    try:
        response, body = client.exchange(_Heard(data), Path("/fuzz.sock"), "GET", "/snapshot")
    except SnapshotError as error:
        is_told(error)
    else:
        assert len(body) <= len(data)
        assert isinstance(response.status, int)
