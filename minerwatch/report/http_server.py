"""HTTP for Prometheus, the kubelet and browsers on addresses, for the commands on a Unix socket.

Clients of the address are untrusted. A request is limited in size and has one deadline from its
connection to the last byte of its response, TLS handshake included. Each client, which is an
address and on loopback a user, may open a limited number of connections a second. When the table is
full, the oldest connection of the client with most is closed: an honest client has few, and is
served in milliseconds.
Command lines leave the agent only through the Unix socket, which only its owner may open (0600),
through ``Private`` routes, and on pages that need loopback and a token (``web.access``).
"""

from __future__ import annotations

import contextlib
import errno
import io
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import BaseServer, TCPServer, ThreadingMixIn
from typing import Any

from minerwatch.api.port import TOKEN_HEADER
from minerwatch.errors import ListenError
from minerwatch.report.bounded_reader import BoundedReader, RequestError
from minerwatch.report.connections import Connections, client_of
from minerwatch.report.pacing import RateLimited, Turns
from minerwatch.report.tls import TlsEndpoint
from minerwatch.worker import Worker

_MAX_BODY_BYTES = 16 << 10
_MIN_PER_S = 2
_CHECK_S = 0.2
_THREAD_FREED_S = 0.5  # for a thread whose connection was closed to end
_OUT_OF_FILES_PAUSE_S = 0.1
BACKLOG = 512
_TOKEN_IN_THE_CLEAR = b"""\
no token is accepted over plain HTTP; replace this one, it was sent in the clear
"""
_NO_TOKEN = b"send a token that may get this URL\n"
_REFUSALS = {
    HTTPStatus.UNAUTHORIZED: b"the cluster does not know this token\n",
    HTTPStatus.FORBIDDEN: b"this token's user may not get this non-resource URL\n",
    HTTPStatus.TOO_MANY_REQUESTS: b"too many unknown tokens from this address\n",
    HTTPStatus.SERVICE_UNAVAILABLE: b"the API server did not review the token\n",
}
_NO_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """The response of a route."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: HTTPStatus = HTTPStatus.OK
    headers: Headers = ()  # further ones


_BUSY = Answer(
    b"other clients are being served: try again\n", status=HTTPStatus.SERVICE_UNAVAILABLE
)


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one listener, besides the size of a request."""

    deadline_s: float = 10.0  # from the connection to the last byte of the response
    connections: int = 32
    connections_of_one: int = 32  # client: an address, on loopback a user
    connections_per_s: int = 50  # of one client,
    connections_per_s_of_all: int = 100  # beyond which each client has _MIN_PER_S: TLS is costly
    private_at_once: int = 2  # answers of private routes in memory: each may have some MiB
    private_wait_s: float = 5.0  # for one of these slots


HEALTH_PATHS = frozenset({"/healthz", "/readyz"})
"""Open to every client, also where others need a certificate or a token: the kubelet has none."""

Route = Callable[[], Answer]
Authorize = Callable[[str, str], HTTPStatus]
"""From a token and the client's address to OK, or to the status of the refusal."""


@dataclass(frozen=True, slots=True)
class Private:
    """A route that always needs a token, in ``TOKEN_HEADER``; a certificate is not enough."""

    route: Route
    authorize: Authorize


Routes = Mapping[str, Route | Private]
Posts = Mapping[str, Callable[[bytes], Answer]]
"""Routes of POST: from a body to the response."""
Pages = Callable[[str, Message], Answer]
"""From the target and the headers of a GET to the response; it checks the client itself."""


class _Handler(BaseHTTPRequestHandler):
    """Serves one request: GET and HEAD of ``routes``, POST of ``posts``."""

    server: Listener
    server_version = "minerwatch"
    sys_version = ""
    default_request_version = "HTTP/1.0"

    def setup(self) -> None:
        self.server.shake_hands(self.request)
        self.connection = self.request
        self._reader = BoundedReader(self.request)
        self.rfile = io.BufferedReader(self._reader)
        self.wfile = self.request.makefile("wb")

    def do_GET(self) -> None:
        if (pages := self.server.pages) is not None:
            self._send(self._answered(lambda: pages(self.path, self.headers)))
            return
        routes, path = self.server.routes, self.path.partition("?")[0]
        if (private := self.server.private.get(path)) is not None:
            self._send_private(private)
            return
        self._send(self._refusal(path, routes) or self._answered(lambda: routes[path]()))

    do_HEAD = do_GET  # noqa: N815 - the name that http.server looks up

    def do_POST(self) -> None:
        posts, path = self.server.posts, self.path.partition("?")[0]
        if not posts:
            self.send_error(HTTPStatus.NOT_IMPLEMENTED)
            return
        body = self._body()
        self._send(self._refusal(path, posts) or self._answered(lambda: posts[path](body)))

    def _send_private(self, private: Private) -> None:
        token, server = self.headers.get(TOKEN_HEADER, "").strip(), self.server
        refusal = self._refusal_of_clear_token() or server.token_refusal(
            private.authorize, token, self.client_address
        )
        if refusal is not None:
            self._send(refusal)
        else:
            with server.slot_for_private() as has_slot:
                self._send(self._answered(private.route) if has_slot else _BUSY)

    def _refusal_of_clear_token(self) -> Answer | None:
        has_token = "Authorization" in self.headers or TOKEN_HEADER in self.headers
        if not has_token or self.server.is_encrypted:
            return None
        self.server.count("token in the clear")
        return Answer(_TOKEN_IN_THE_CLEAR, status=HTTPStatus.BAD_REQUEST)

    def _refusal(self, path: str, routes: Mapping[str, object]) -> Answer | None:
        if clear := self._refusal_of_clear_token():
            return clear
        if path not in routes:
            names = " ".join(routes)
            return Answer(f"not found; try {names}\n".encode(), status=HTTPStatus.NOT_FOUND)
        if path in HEALTH_PATHS:
            return None
        token = self.headers.get("Authorization", "")
        return self.server.refusal(self.request, token, self.client_address)

    def _answered(self, route: Route) -> Answer:
        try:
            return route()
        except Exception as error:  # noqa: BLE001 - a route that fails must not end the agent
            self.server.report_failure(error)
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            return Answer(b"internal error; see the agent's log\n", status=status)

    def _body(self) -> bytes:
        digits = self.headers.get("Content-Length", "").strip()
        if not (digits.isascii() and digits.isdigit() and len(digits) < 10):
            raise RequestError("no length")
        length = int(digits)
        if length > _MAX_BODY_BYTES:
            raise RequestError("too long")
        self._reader.allow(length)
        body = self.rfile.read(length)
        if len(body) < length:
            raise RequestError("broken off")
        return body

    def _send(self, answer: Answer) -> None:
        self.request_version = self.protocol_version  # HTTP/0.9 would get no head
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Connection", "close")
        if answer.status == HTTPStatus.UNAUTHORIZED and not answer.headers:
            self.send_header("WWW-Authenticate", "Bearer")
        for name, value in (*self.server.headers, *answer.headers):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def send_error(self, code: int, *_args: Any, **_kwargs: Any) -> None:
        """Send the status only: the messages of http.server repeat parts of the request."""
        status = HTTPStatus(code)
        self._send(Answer(f"{status.phrase}\n".encode(), status=status))

    def version_string(self) -> str:
        return self.server_version

    def log_message(self, *_args: Any, **_kwargs: Any) -> None:
        """Log nothing: clients are untrusted, and failures are counted."""


def ignore_error(_error: Exception) -> None:
    """Do nothing: the error is counted anyway."""


class _ClosingError(Exception):
    """The server is to end: ``shutdown`` waits forever for a thread that has not begun to serve."""


class Listener(ThreadingMixIn, TCPServer):
    """Serves each connection in a thread; ``start`` accepts connections in another one."""

    daemon_threads = True
    block_on_close = False
    headers: Headers = ()  # of every response

    def __init__(
        self,
        listening: socket.socket,
        routes: Routes,
        on_error: Callable[[Exception], None] = ignore_error,
        *,
        tls: TlsEndpoint | None = None,
        authorize: Authorize | None = None,
        posts: Posts | None = None,
        pages: Pages | None = None,
        limits: Limits = Limits(),
    ) -> None:
        """``on_error`` gets the errors of routes; it is called from other threads.

        ``authorize`` and private routes need ``tls``: no token is accepted over plain HTTP.
        ``pages`` replace the routes of GET.
        """
        BaseServer.__init__(self, listening.getsockname(), _Handler)
        self.socket = listening
        self.private = {at: each for at, each in routes.items() if isinstance(each, Private)}
        self.routes = {at: each for at, each in routes.items() if not isinstance(each, Private)}
        self.posts = posts or {}
        self.pages = pages
        self._private_slots = threading.BoundedSemaphore(limits.private_at_once)
        self._on_error = on_error
        self._tls = tls
        self._authorize = authorize
        self._limits = limits
        # a thread ends a little after its connection was closed
        self._slots = threading.BoundedSemaphore(2 * limits.connections)
        self._connections = Connections(
            limits.deadline_s, limits.connections, limits.connections_of_one
        )
        self._failures: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._is_closing = False
        self._thread = Worker("http", self._serve)
        self._second = 0
        self._opened: Counter[str] = Counter()  # in this second, by client

    def start(self) -> Listener:
        """Serve until ``close``."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop listening and close every connection."""
        self._thread.close()
        self._is_closing = True
        self._thread.join()
        self.server_close()

    def _serve(self) -> None:
        with contextlib.suppress(_ClosingError):
            self.serve_forever(_CHECK_S)

    @property
    def failures(self) -> dict[str, int]:
        """Requests without a response since the start, by reason; and unusable certificates."""
        unusable = self._tls.failures if self._tls is not None else 0
        return {**self._failures, **({"certificate": unusable} if unusable else {})}

    @property
    def is_encrypted(self) -> bool:
        """Return True where the server speaks TLS."""
        return self._tls is not None

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection of an address, or on loopback of a user; pause if out of files."""
        try:
            client, address = self.socket.accept()
            return client, client_of(address, client.getsockname())
        except OSError as error:
            if error.errno in _NO_RESOURCES:  # it stays in the backlog, and select returns at once
                self.count("no resources")
                time.sleep(_OUT_OF_FILES_PAUSE_S)
            raise

    def verify_request(self, _request: Any, client_address: Any) -> bool:
        """Return True if the client may open another connection; a Unix socket has no address."""
        if not isinstance(client_address, tuple):
            return True
        second, address = int(time.monotonic()), client_address[0]
        if second != self._second:
            self._second, self._opened = second, Counter()
        for each in (address, ""):  # and in all
            self._opened[each] += 1
        is_flood = self._opened[""] > self._limits.connections_per_s_of_all
        most = _MIN_PER_S if is_flood else self._limits.connections_per_s
        is_allowed = self._opened[address] <= most
        if not is_allowed:
            self.count("too often")
        return is_allowed

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start the connection's thread; close the oldest connection if the table is full."""
        if not self._slots.acquire(timeout=_THREAD_FREED_S):
            self.count("no place")
            self.shutdown_request(request)
            return
        try:
            if self._tls is not None:
                request = self._tls.wrapped(request)
            if self._connections.add(request, client_address[0] if client_address else None):
                self.count("made room")
            super().process_request(request, client_address)
        except (OSError, RuntimeError):  # the client has gone, or no thread can be started
            self._slots.release()
            self.shutdown_request(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def service_actions(self) -> None:
        """Close overdue connections; called after every connection, and every ``_CHECK_S``."""
        if self._is_closing:
            raise _ClosingError
        for _ in range(self._connections.close_overdue()):
            self.count("too slow")

    def shake_hands(self, client: Any) -> None:
        """Do the TLS handshake, if TLS is on; called in the connection's thread."""
        if self._tls is not None:
            try:
                client.do_handshake()
            except OSError as error:  # such as plain HTTP, or a certificate of another authority
                raise RequestError("tls") from error

    def refusal(self, client: Any, authorization: str, address: Any) -> Answer | None:
        """Return the answer to a client that may see health only; None if it may see everything."""
        if self._tls is None or self._tls.has_certificate(client):
            return None
        if self._authorize is None:
            if not self._tls.asks_for_certificates:
                return None
            return Answer(b"show a client certificate\n", status=HTTPStatus.FORBIDDEN)
        scheme, _, token = authorization.partition(" ")
        bearer = token.strip() if scheme.lower() == "bearer" else ""
        return self.token_refusal(self._authorize, bearer, address)

    def token_refusal(self, authorize: Authorize, token: str, address: Any) -> Answer | None:
        """Return the answer to a client whose token is refused; None if it is accepted."""
        if not token:
            return Answer(_NO_TOKEN, status=HTTPStatus.UNAUTHORIZED)
        status = authorize(token, address[0])
        if status == HTTPStatus.OK:
            return None
        if status in {HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS}:
            self.count("not reviewed")
        return Answer(_REFUSALS[status], status=status)

    @contextlib.contextmanager
    def slot_for_private(self) -> Iterator[bool]:
        """Hold a slot for the answer of a private route; yield False if none is free in time."""
        has_slot = self._private_slots.acquire(timeout=self._limits.private_wait_s)
        if not has_slot:
            self.count("busy")
        try:
            yield has_slot
        finally:
            if has_slot:
                self._private_slots.release()

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        self._connections.remove(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """Stop listening and close every connection."""
        super().server_close()
        self._connections.close_all()

    def handle_error(self, request: Any, _client_address: Any) -> None:
        """Count the current exception, unless it follows from closing the connection."""
        error = sys.exception()
        if isinstance(error, RequestError):
            if request in self._connections:
                self.count(str(error))
        elif isinstance(error, Exception) and not isinstance(error, OSError):
            self.report_failure(error)

    def report_failure(self, error: Exception) -> None:
        """Count and report an error of the agent's own."""
        self.count(type(error).__name__)
        self._on_error(error)

    def count(self, reason: str) -> None:
        """Count a request without a response."""
        with self._lock:
            self._failures[reason] += 1


def address_listener(
    host: str,
    port: int,
    routes: Routes,
    on_error: Callable[[Exception], None] = ignore_error,
    *,
    tls: TlsEndpoint | None = None,
    authorize: Authorize | None = None,
    pages: Pages | None = None,
    headers: Headers = (),
    limits: Limits = Limits(),
    option: str = "--listen",
) -> tuple[Listener, str]:
    """Listen on ``host:port``; return the listener and the address that it got.

    Host "" means every address of the machine, port 0 any free port. Without ``tls`` it speaks
    plain HTTP. ``option`` is the one that errors name. Raises ListenError, for example if another
    agent has the port.
    """
    try:
        listening = _listening(host, port)
    except (OSError, UnicodeError) as error:
        raise ListenError(f"cannot listen on {host}:{port}: {_remedy(error, option)}") from error
    got_host, got_port = listening.getsockname()[:2]
    shown = f"[{got_host}]:{got_port}" if ":" in got_host else f"{got_host}:{got_port}"
    turns = Turns()
    limited = {path: _limited(route, turns) for path, route in routes.items()}
    listener = Listener(
        listening, limited, on_error, tls=tls, authorize=authorize, pages=pages, limits=limits
    )
    listener.headers = headers
    return listener.start(), shown


def _limited(route: Route | Private, turns: Turns) -> Route | Private:
    if not isinstance(route, Private):
        return RateLimited(route)
    compute = route.route

    def in_turn() -> Answer:
        with turns.turn():
            return compute()

    return replace(route, route=in_turn)


def _listening(host: str, port: int) -> socket.socket:
    if not host and socket.has_dualstack_ipv6():
        everywhere = ("::", port)
        return socket.create_server(
            everywhere, family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True
        )
    family, _, _, _, address = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    return socket.create_server(address[:2], family=family, backlog=BACKLOG)


def _remedy(error: OSError | UnicodeError, option: str) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    match getattr(error, "errno", None):
        case errno.EADDRINUSE:
            return f"{reason}; is another agent running? Give this one {option} with another port"
        case errno.EACCES:
            return f"{reason}; ports below 1024 are root's: give {option} with a higher one"
        case _:
            return f"{reason}; give {option} with an address of this machine"
