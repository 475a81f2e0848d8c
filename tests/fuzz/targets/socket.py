"""What comes over the agent's sockets, from whoever can reach them, and what agents answer."""

from __future__ import annotations

import io
from contextlib import suppress
from functools import cache
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import msgspec

from minerwatch.api import client, orders
from minerwatch.cli.cull import _decoded
from minerwatch.errors import OrderError, SnapshotError
from minerwatch.report import http_server
from minerwatch.view.culling_text import cull_text, release_text, simulation_text
from tests.fuzz.contract import are_lines, is_publishable, is_told
from tests.fuzz.registry import target

_Kind = TypeVar("_Kind")
_BODY = b"minerwatch_build_info 1\n"


class _Client:
    """A connection on which ``data`` comes in pieces of some bytes, and then nothing."""

    def __init__(self, data: bytes, piece: int) -> None:
        self._left = data
        self._piece = piece
        self.sent = b""

    def settimeout(self, _seconds: float) -> None:
        pass

    def recv(self, most: int) -> bytes:
        assert most > 0
        piece, self._left = self._left[: min(most, self._piece)], self._left[self._piece :]
        return piece

    def sendall(self, data: bytes) -> None:
        self.sent += data


class _Server:
    """As much of a server as a handler asks of it."""

    def shake_hands(self, _client: Any) -> None:
        pass

    def may_see(self, _client: Any, path: str) -> bool:
        return path != "/metrics"

    def failed(self, error: Exception) -> None:
        raise AssertionError(repr(error))


@cache
def _handler(*, takes_orders: bool) -> type[http_server._Handler]:
    routes = dict.fromkeys(("/healthz", "/metrics"), lambda: http_server.Answer(_BODY))
    posts = (
        {"/cull": lambda body: http_server.Answer(str(len(body)).encode())} if takes_orders else {}
    )
    return type("Handler", (http_server._Handler,), {"routes": routes, "posts": posts})


@target("report.http_server", max_bytes=20_000)
def http_request(data: bytes) -> None:
    """Whatever is sent is answered by one whole answer that repeats nothing of it, or by none."""
    for takes_orders in (False, True):
        for piece in (7, 4096):
            talking = _Client(data, piece)
            kind = _handler(takes_orders=takes_orders)
            handler = kind.__new__(kind)
            handler.request = talking  # type: ignore[assignment]
            handler.server = _Server()  # type: ignore[assignment]
            with suppress(http_server._RequestError):
                handler.handle()
            if talking.sent:
                _is_answer(talking.sent)


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
    told = _is_refused_in_words(data, orders.ToldOrder)
    assert told is None or 0 < told.hours <= orders.MAX_HOURS


@target("api.orders", "view.culling_text", "cli.cull")
def order_answer(data: bytes) -> None:
    """What an agent answers to an order, as the command shows it."""
    try:
        are_lines(cull_text(orders.cull_answer(data)))
    except OrderError as error:
        is_told(error)
    try:
        are_lines(release_text(orders.release_answer(data)))
    except OrderError as error:
        is_told(error)
    try:
        lines = _decoded("node-1", data)
    except OrderError as error:
        is_told(error)
    else:
        are_lines(simulation_text(lines, 24))
        msgspec.json.encode(lines)


class _Heard(client._UnixConnection):
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
        response, body = client._asked(_Heard(data), Path("/fuzz.sock"), "GET", "/snapshot")
    except SnapshotError as error:
        is_told(error)
    else:
        assert len(body) <= len(data)
        assert isinstance(response.status, int)
