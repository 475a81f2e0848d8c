"""HTTP on an address for Prometheus and the kubelet, and on a Unix socket for the commands.

The address may be in reach of whoever is being watched, so nobody can wear the agent out or keep
others away: a request is read up to a few KiB and for a few seconds, an address has only so many
connections a second, and when all places are taken, whoever has held one for longest makes room.
What an honest client asks is answered in milliseconds, so that is never an honest client.
Command lines leave the node only through the Unix socket, which its owner alone may open (0600).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import socket
import stat
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from socketserver import BaseRequestHandler, BaseServer, TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any, ClassVar

from minerwatch.errors import ListenError
from minerwatch.worker import Worker

if TYPE_CHECKING:
    from minerwatch.report.tls import TlsEndpoint

_ASK_S = 5.0  # for a client to say what it wants
_ANSWER_S = 10.0  # for it to take the answer
_MAX_CLIENTS = 16
_MAX_HEAD_BYTES = 8192
_MAX_HEAD_PIECES = 64
_MAX_HEAD_LINES = 101
_MAX_BODY_BYTES = 16 << 10
_MAX_CONNECTIONS_PER_S = 50  # from one address
_PLACE_FREED_S = 0.5  # within which whoever is asked to make room does
_OUT_OF_FILES_PAUSE_S = 0.1
_BACKLOG = 64
_MAX_FRESH_PER_S = 5
_VERSION = re.compile(r"HTTP/\d\.\d", re.ASCII)
_NO_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@dataclass(frozen=True, slots=True)
class Answer:
    """What one path answers."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: HTTPStatus = HTTPStatus.OK


HEALTH_PATHS = frozenset({"/healthz", "/readyz"})
"""For every client, also where others need a certificate: the kubelet has none."""

Route = Callable[[], Answer]
Routes = Mapping[str, Route]
Posts = Mapping[str, Callable[[bytes], Answer]]
"""Paths that are asked to do something: what they answer to a body."""


class _RequestError(Exception):
    """A request that is not answered; the reason is counted."""


class _Handler(BaseRequestHandler):
    """Answers GET and HEAD on the known paths, POST on those that are for it, and closes."""

    request: socket.socket
    server: _Server
    routes: ClassVar[Routes] = {}
    posts: ClassVar[Posts] = {}

    def handle(self) -> None:
        self.server.shake_hands(self.request)
        asked = _request(_head(self.request, time.monotonic() + _ASK_S))
        if asked is None:
            return
        answer = self._answer(asked)
        head = (
            f"HTTP/1.0 {answer.status} {answer.status.phrase}\r\n"
            f"Server: minerwatch\r\n"
            f"Content-Type: {answer.content_type}\r\n"
            f"Content-Length: {len(answer.body)}\r\n"
            "Connection: close\r\n\r\n"
        ).encode()
        self.request.settimeout(_ANSWER_S)
        self.request.sendall(head if asked.method == "HEAD" else head + answer.body)

    def _answer(self, asked: _Request) -> Answer:
        """An error is one line of plain text that repeats nothing of the request."""
        if asked.problem is not None:
            return _refusal(asked.problem)
        if asked.method == "POST" and not self.posts:
            return _refusal(HTTPStatus.NOT_IMPLEMENTED)
        body = self._body(asked) if asked.method == "POST" else None
        path = asked.path
        known: Mapping[str, object] = self.routes if body is None else self.posts
        if path not in known:
            names = " ".join(known)
            return Answer(f"not found; try {names}\n".encode(), status=HTTPStatus.NOT_FOUND)
        if not self.server.may_see(self.request, path):
            return Answer(b"show a client certificate\n", status=HTTPStatus.FORBIDDEN)
        try:
            return self.routes[path]() if body is None else self.posts[path](body)
        except Exception as error:  # noqa: BLE001 - the agent outlives whatever an answer meets
            self.server.failed(error)
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            return Answer(b"the agent could not answer; its log says why\n", status=status)

    def _body(self, asked: _Request) -> bytes:
        """What follows the head, as long as it says; what has come of it is read already."""
        deadline_s = time.monotonic() + _ASK_S
        length = asked.length
        if length is None:
            raise _RequestError("no length")
        if length > _MAX_BODY_BYTES:
            raise _RequestError("too long")
        body = asked.begun[:length]
        while len(body) < length:
            self.request.settimeout(max(0.001, deadline_s - time.monotonic()))
            try:
                piece = self.request.recv(length - len(body))
            except TimeoutError as error:
                raise _RequestError("too slow") from error
            if not piece:
                raise _RequestError("broken off")
            body += piece
        return body


def _refusal(status: HTTPStatus) -> Answer:
    return Answer(f"{status.phrase}\n".encode(), status=status)


@dataclass(frozen=True, slots=True)
class _Request:
    """What is asked for; or ``problem``: why there can be no answer."""

    method: str = ""
    path: str = ""
    length: int | None = None  # of a body, as the head says
    begun: bytes = b""  # of the body, what has come with the head
    problem: HTTPStatus | None = None


def _request(received: bytes) -> _Request | None:
    """A head (RFC 9112, 3), and what has come after it; None where there is none.

    Then the client has gone. Of its fields only the body's length says something that matters.
    """
    lines, begun = _lines(received)
    if not lines or not lines[0]:
        return None
    if len(lines) > _MAX_HEAD_LINES:
        return _Request(problem=HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    words = lines[0].decode("latin-1").split(" ")
    if len(words) != 3 or not _VERSION.fullmatch(words[2]):
        return _Request(problem=HTTPStatus.BAD_REQUEST)
    method, target, version = words
    if not version.startswith("HTTP/1."):
        return _Request(problem=HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
    if method not in ("GET", "HEAD", "POST"):
        return _Request(problem=HTTPStatus.NOT_IMPLEMENTED)
    return _Request(method, target.partition("?")[0], _length(lines[1:]), begun)


def _lines(received: bytes) -> tuple[list[bytes], bytes]:
    """The lines of a head, and what follows the empty one at its end."""
    lines: list[bytes] = []
    rest = received.lstrip(b"\r\n")
    while rest:
        line, _, rest = rest.partition(b"\n")
        line = line.rstrip(b"\r")
        if not line:
            break
        lines.append(line)
    return lines, rest


def _length(fields: Iterable[bytes]) -> int | None:
    for line in fields:
        name, _, value = line.partition(b":")
        digits = value.strip()
        if name.lower() == b"content-length":
            return int(digits) if digits.isdigit() and len(digits) < 10 else None
    return None


def _head(client: socket.socket, deadline_s: float) -> bytes:
    """A request up to its first empty line, with what has come of what follows."""
    head = b""
    for _ in range(_MAX_HEAD_PIECES):
        client.settimeout(max(0.001, deadline_s - time.monotonic()))
        try:
            piece = client.recv(_MAX_HEAD_BYTES + 1 - len(head))
        except TimeoutError as error:
            raise _RequestError("too slow") from error
        head += piece
        if not piece or b"\r\n\r\n" in head or b"\n\n" in head:
            return head
        if len(head) > _MAX_HEAD_BYTES:
            raise _RequestError("too long")
    raise _RequestError("too many pieces")


class _Server(ThreadingMixIn, TCPServer):
    """At most ``_MAX_CLIENTS`` at once; ``failures`` counts by reason who was not served."""

    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        listening: socket.socket,
        routes: Routes,
        on_error: Callable[[Exception], None],
        tls: TlsEndpoint | None = None,
        posts: Posts | None = None,
    ) -> None:
        handler = type("Handler", (_Handler,), {"routes": routes, "posts": posts or {}})
        BaseServer.__init__(self, listening.getsockname(), handler)
        self.socket = listening
        self.failures: dict[str, int] = {}
        self._on_error = on_error
        self._tls = tls
        self._places = threading.BoundedSemaphore(_MAX_CLIENTS)
        self._clients: dict[socket.socket, None] = {}  # longest there first
        self._lock = threading.Lock()
        self._second = 0
        self._connections: Counter[str] = Counter()  # in this second, by address

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            client, address = self.socket.accept()
        except OSError as error:
            if error.errno in _NO_RESOURCES:  # the connection waits on, and select returns at once
                self.count("no resources")
                time.sleep(_OUT_OF_FILES_PAUSE_S)
            raise
        if self._tls is None:
            return client, address
        try:
            return self._tls.wrapped(client), address
        except OSError:  # it is gone again
            client.close()
            raise

    def shake_hands(self, client: socket.socket) -> None:
        """Agree on how to encrypt, where that is wanted; within the time for a request."""
        if self._tls is None:
            return
        client.settimeout(_ASK_S)
        try:
            client.do_handshake()  # type: ignore[attr-defined]  # of what TlsEndpoint has wrapped
        except OSError as error:  # as for one that speaks plain HTTP, or knows another CA
            raise _RequestError("tls") from error

    def may_see(self, client: Any, path: str) -> bool:
        """Whether ``client`` has shown what is needed to ask for ``path``."""
        return self._tls is None or path in HEALTH_PATHS or self._tls.knows(client)

    def verify_request(self, _request: Any, client_address: Any) -> bool:
        """Whether its address has connections left in this second; a Unix socket has none."""
        if not isinstance(client_address, tuple):
            return True
        second, address = int(time.monotonic()), client_address[0]
        if second != self._second:
            self._second, self._connections = second, Counter()
        self._connections[address] += 1
        is_welcome = self._connections[address] <= _MAX_CONNECTIONS_PER_S
        if not is_welcome:
            self.count("too often")
        return is_welcome

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self._cut_off_longest()
            self.count("made room")
            if not self._places.acquire(timeout=_PLACE_FREED_S):
                self.count("no place")
                self.shutdown_request(request)
                return
        with self._lock:
            self._clients[request] = None
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread can be had
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._clients.pop(request, None)
        super().shutdown_request(request)

    def server_close(self) -> None:
        super().server_close()
        while self._cut_off_longest():
            pass

    def handle_error(self, _request: Any, _client_address: Any) -> None:
        """Called where an exception is being handled; a client that breaks off is no news."""
        error = sys.exception()
        if isinstance(error, _RequestError):
            self.count(str(error))
        elif isinstance(error, Exception) and not isinstance(error, OSError):
            self.failed(error)

    def failed(self, error: Exception) -> None:
        """Takes note of an error that is the agent's own."""
        self.count(type(error).__name__)
        self._on_error(error)

    def count(self, reason: str) -> None:
        with self._lock:
            self.failures[reason] = self.failures.get(reason, 0) + 1

    def _cut_off_longest(self) -> bool:
        """Ends the oldest conversation; its thread then sees the end. Whether there was one."""
        with self._lock:
            client = next(iter(self._clients), None)
            if client is None:
                return False
            del self._clients[client]
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        return True


class _Sparing:
    """A route that is worked out a few times a second; asked more often, its last answer does."""

    def __init__(self, route: Route) -> None:
        self._route = route
        self._worked_out_s: deque[float] = deque(maxlen=_MAX_FRESH_PER_S)
        self._last = Answer(b"")
        self._lock = threading.Lock()

    def __call__(self) -> Answer:
        with self._lock:
            now_s = time.monotonic()
            times = self._worked_out_s
            if len(times) < _MAX_FRESH_PER_S or now_s - times[0] >= 1:
                self._last = self._route()
                times.append(now_s)
            return self._last


def _ignored(_error: Exception) -> None:
    """What is done about an error that nobody asked to hear of; it is counted all the same."""


class Listener:
    """A server in a thread of its own, until it is closed."""

    def __init__(
        self,
        listening: socket.socket,
        routes: Routes,
        on_error: Callable[[Exception], None] = _ignored,
        tls: TlsEndpoint | None = None,
        posts: Posts | None = None,
    ) -> None:
        """``on_error`` hears of routes that fail; it is called from other threads."""
        self._tls = tls
        self._server = _Server(listening, routes, on_error, tls, posts)
        self._thread = Worker("http", lambda: self._server.serve_forever(poll_interval=0.2)).start()

    @property
    def failures(self) -> dict[str, int]:
        """Clients that were not served, by reason, since the start; and unusable certificates."""
        unusable = self._tls.failures if self._tls is not None else 0
        return {**self._server.failures, **({"certificate": unusable} if unusable else {})}

    def close(self) -> None:
        """Stops listening; clients that are being answered are cut off."""
        self._server.shutdown()
        self._thread.close()
        self._server.server_close()
        self._thread.join()


def address_listener(
    host: str,
    port: int,
    routes: Routes,
    on_error: Callable[[Exception], None] = _ignored,
    tls: TlsEndpoint | None = None,
) -> tuple[Listener, str]:
    """A listener on ``host:port`` and the address that it got.

    Host "" is every address of the machine, port 0 any free port; without ``tls`` it speaks plain
    HTTP. Raises ListenError, most of all where another agent has the port.
    """
    try:
        listening = _listening(host, port)
    except (OSError, UnicodeError) as error:
        raise ListenError(f"cannot listen on {host}:{port}: {_remedy(error)}") from error
    got_host, got_port = listening.getsockname()[:2]
    shown = f"[{got_host}]:{got_port}" if ":" in got_host else f"{got_host}:{got_port}"
    sparing = {path: _Sparing(route) for path, route in routes.items()}
    return Listener(listening, sparing, on_error, tls), shown


def _listening(host: str, port: int) -> socket.socket:
    if not host and socket.has_dualstack_ipv6():
        everywhere = ("::", port)
        return socket.create_server(
            everywhere, family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=True
        )
    family, _, _, _, address = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    return socket.create_server(address[:2], family=family, backlog=_BACKLOG)


def _remedy(error: OSError | UnicodeError) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    match getattr(error, "errno", None):
        case errno.EADDRINUSE:
            return f"{reason}; is another agent running? Give this one --listen with another port"
        case errno.EACCES:
            return f"{reason}; ports below 1024 are root's: give --listen with a higher one"
        case _:
            return f"{reason}; give --listen with an address of this machine"


class SocketListener:
    """A listener on a Unix socket that only its owner may open; one agent at a time."""

    def __init__(
        self,
        path: Path,
        routes: Routes,
        on_error: Callable[[Exception], None] = _ignored,
        posts: Posts | None = None,
    ) -> None:
        """Raises ListenError, most of all where another agent has the socket."""
        self._path = path
        self._serving = (routes, on_error, posts)
        self._failed_before: Counter[str] = Counter()
        self._lock = _locked(_lock_path(path))
        try:
            self._listener, self._place = self._listen()
        except ListenError:
            os.close(self._lock)
            raise

    @property
    def failures(self) -> dict[str, int]:
        """Clients that were not served, by reason, since the start."""
        return dict(self._failed_before + Counter(self._listener.failures))

    def renew(self) -> bool:
        """Listen at the path again if the socket was removed or replaced; return True if it was.

        Raises ListenError where that cannot be: another agent listens there now, or something is
        in the way.
        """
        if _place(_lock_path(self._path)) != _place(self._lock):
            lock = _locked(_lock_path(self._path))
            os.close(self._lock)
            self._lock = lock
        if _place(self._path) == self._place:
            return False
        before = self._listener
        self._listener, self._place = self._listen()
        self._failed_before.update(before.failures)
        before.close()
        return True

    def close(self) -> None:
        """Stops listening and removes the socket."""
        self._listener.close()
        if _place(self._path) == self._place:
            with contextlib.suppress(OSError):
                self._path.unlink()
        os.close(self._lock)

    def _listen(self) -> tuple[Listener, tuple[int, int] | None]:
        path = self._path
        routes, on_error, posts = self._serving
        try:
            _remove_stale_socket(path)
            listening = _bound_privately(path)
        except OSError as error:
            raise ListenError(f"cannot listen on {path}: {error.strerror or error}") from error
        return Listener(listening, routes, on_error, posts=posts), _place(path)


def _lock_path(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _place(file: Path | int) -> tuple[int, int] | None:
    """Return which file it is that is open, or stands at a path; None: none does."""
    try:
        found = os.fstat(file) if isinstance(file, int) else file.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _locked(path: Path) -> int:
    """A file descriptor that holds the lock of ``path`` for as long as it is open."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ListenError(
            f"cannot make {path}: {error.strerror}; give --socket with a path that can be written"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise ListenError(
            f"another agent is listening on {path.with_suffix('')};"
            " stop it, or give this one --socket and --listen of its own"
        ) from error
    return lock


def _remove_stale_socket(path: Path) -> None:
    """The lock is ours, so a socket that is still there belongs to an agent that is gone."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ListenError(f"{path} is in the way and not a socket: remove it, or give --socket")
    path.unlink()


def _bound_privately(path: Path) -> socket.socket:
    """Mode 0600 from the first moment on, without the umask, which is all threads'.

    bind(2) makes the file with the mode of the socket's own inode (unix_bind_bsd, net/unix).
    """
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listening.fileno(), 0o600)
        listening.bind(str(path))
        listening.listen(_BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening
