"""Stands between minerwatch and an API server, and misbehaves where it is told to.

So the same faults can be tried on the tests' own server and on a real one. It speaks plain HTTP and
asks the server with the test's credentials. WebSockets are not passed on.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from minerwatch.kube.client import ApiError, Cluster, Response
from tests.kube.api_server import (
    Answering,
    Asking,
    Dripping,
    Dropping,
    Hanging,
    Matches,
    Misbehaviour,
    Request,
)
from tests.kube.conftest import write_kubeconfig
from tests.kube.listener import Listener, QuietHandler

_ANSWER_S = 600.0


class FaultyProxy:
    """Listens on 127.0.0.1 until it is closed; for many threads."""

    def __init__(self, api: Cluster) -> None:
        self.api = api
        self.tokens: set[str] | None = None  # that it lets through; None: all
        self.requests: list[Request] = []
        self._lock = threading.Lock()
        self._misbehaviours: list[tuple[Misbehaviour, Matches, int]] = []
        self._streams: set[_Stream] = set()
        self._closing = threading.Event()
        self._port = 0
        self._listener: _Listener | None = None
        self.listen()

    def __enter__(self) -> FaultyProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self.vanish()

    def write_kubeconfig(self, path: Path, token: str = "first") -> Path:
        """How to reach the server through the proxy."""
        return write_kubeconfig(path, f"http://127.0.0.1:{self._port}", token)

    # what the test does

    def listen(self) -> None:
        self._listener = _Listener(self._port, self)
        self._port = self._listener.server_address[1]

    def vanish(self) -> None:
        """Stop listening and cut all connections."""
        if self._listener is not None:
            self._listener.stop()
            self._listener = None
        self.cut_streams()

    def misbehave(
        self, how: Misbehaviour, *, times: int = 1, when: Matches = lambda _: True
    ) -> None:
        """Let the next ``times`` requests for which ``when`` holds go wrong."""
        with self._lock:
            self._misbehaviours.append((how, when, times))

    def send_raw(self, line: bytes) -> None:
        """Send all who watch these bytes, between two lines of the server's."""
        for stream in self._open_streams():
            stream.write(line)

    def cut_streams(self, after: bytes = b"") -> None:
        """Close the connections of all who watch, in the middle of a line."""
        for stream in self._open_streams():
            stream.cut(after)

    def end_streams(self) -> None:
        """End all watches in order, as when their time is over."""
        for stream in self._open_streams():
            stream.end()

    @property
    def stream_count(self) -> int:
        return len(self._open_streams())

    def _open_streams(self) -> list[_Stream]:
        with self._lock:
            return [*self._streams]

    # what requests come to

    def taken(self, request: Request) -> Misbehaviour | None:
        """Note a request; what is to go wrong with it."""
        with self._lock:
            self.requests.append(request)
            for place, (how, when, times) in enumerate(self._misbehaviours):
                if when(request):
                    self._misbehaviours[place] = (how, when, times - 1)
                    if times <= 1:
                        del self._misbehaviours[place]
                    return how
        if self.tokens is not None:
            token = request.headers.get("authorization", "").rpartition(" ")[2]
            if token not in self.tokens:
                return Answering(401, "Unauthorized")
        return None

    def add(self, stream: _Stream) -> None:
        with self._lock:
            self._streams.add(stream)

    def remove(self, stream: _Stream) -> None:
        with self._lock:
            self._streams.discard(stream)

    def wait(self, seconds: float) -> None:
        self._closing.wait(seconds)


class _Stream:
    """One open watch: lines of the server's, and what the test puts between them."""

    def __init__(self, handler: _Handler, answer: Response) -> None:
        self._handler = handler
        self._answer = answer
        self._lock = threading.Lock()
        self._is_over = False

    def write(self, data: bytes) -> None:
        with self._lock, suppress(OSError):
            if not self._is_over and data:
                self._handler.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
                self._handler.wfile.flush()

    def cut(self, after: bytes) -> None:
        self.write(after)
        self._close(b"")

    def end(self) -> None:
        self._close(b"0\r\n\r\n")

    def _close(self, last: bytes) -> None:
        with self._lock, suppress(OSError):
            if self._is_over:
                return
            self._is_over = True
            if last:  # in order: the connection may be used again
                self._handler.wfile.write(last)
                self._handler.wfile.flush()
            else:
                self._handler.close_connection = True
                self._handler.connection.shutdown(2)
        self._answer.interrupt()

    def pass_on(self) -> None:
        """Until the server ends the watch, or the test does."""
        held = b""
        with suppress(ApiError):
            while piece := self._answer.piece():
                lines, newline, held = (held + piece).rpartition(b"\n")
                self.write(lines + newline)
            self.end()
        self.cut(b"")


class _Listener(Listener):
    def __init__(self, port: int, proxy: FaultyProxy) -> None:
        self.proxy = proxy
        super().__init__(port, _Handler)


class _Handler(QuietHandler):
    server: _Listener

    def handle_request(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = Request(
            self.command,
            url.path,
            dict(parse_qsl(url.query, keep_blank_values=True)),
            {key.lower(): value for key, value in self.headers.items()},
            body,
            time.monotonic(),
        )
        how = self.server.proxy.taken(request)
        if isinstance(how, Hanging):
            self.server.proxy.wait(how.seconds)
            self.close_connection = True
        elif isinstance(how, Answering):
            refused = {"kind": "Status", "code": how.status, "message": how.message}
            body = json.dumps(refused).encode() if how.body is None else how.body
            self._send(how.status, body, how.headers)
        elif isinstance(how, Dropping):
            self.wfile.write(how.after)
            self.close_connection = True
        else:
            query = {**request.query, **(how.query if isinstance(how, Asking) else {})}
            self._ask(request, query, how if isinstance(how, Dripping) else None)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_request  # noqa: N815

    def _ask(self, request: Request, query: Mapping[str, str], drip: Dripping | None) -> None:
        try:
            answer = self.server.proxy.api.open(
                request.method,
                request.path,
                query,
                body=request.body or None,
                content_type=request.headers.get("content-type", "application/json"),
                timeout_s=_ANSWER_S,
            )
            if request.is_watch:
                self._stream(answer)
            else:
                self._send(200, answer.body(), drip=drip)
        except ApiError as error:
            told = {"kind": "Status", "code": error.status, "message": str(error)}
            self._send(error.status or 502, json.dumps(told).encode())

    def _stream(self, answer: Response) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        stream = _Stream(self, answer)
        self.server.proxy.add(stream)
        try:
            stream.pass_on()
        finally:
            self.server.proxy.remove(stream)
            answer.close()

    def _send(
        self,
        status: int,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        drip: Dripping | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        size = drip.piece_bytes if drip else max(1, len(body))
        for at in range(0, len(body), size):
            self.wfile.write(body[at : at + size])
            self.wfile.flush()
            self.server.proxy.wait(drip.pause_s if drip else 0.0)
