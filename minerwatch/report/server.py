"""HTTP on an address for Prometheus and the kubelet, and on a Unix socket for the commands.

Both are small and stubborn: few clients at once, a time limit on each, nothing read but a GET.
Command lines leave the node only through the Unix socket, which its owner alone may open (0600).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import BaseServer, TCPServer, ThreadingMixIn
from typing import Any, ClassVar

from minerwatch.errors import ListenError

_CLIENT_TIMEOUT_S = 5.0
_MAX_CLIENTS = 16


@dataclass(frozen=True, slots=True)
class Answer:
    """What one path answers."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: HTTPStatus = HTTPStatus.OK


Routes = Mapping[str, Callable[[], Answer]]


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD on the known paths, and closes."""

    timeout = _CLIENT_TIMEOUT_S
    server_version = "minerwatch"
    sys_version = ""
    routes: ClassVar[Routes] = {}

    def do_GET(self) -> None:
        self._send(with_body=True)

    def do_HEAD(self) -> None:
        self._send(with_body=False)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Scrapes are no news."""

    def _send(self, *, with_body: bool) -> None:
        answer = self._answer()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if with_body:
            self.wfile.write(answer.body)
        self.close_connection = True

    def _answer(self) -> Answer:
        route = self.routes.get(self.path.partition("?")[0])
        if route is None:
            known = " ".join(self.routes)
            return Answer(f"not found; try {known}\n".encode(), status=HTTPStatus.NOT_FOUND)
        return route()


class _Server(ThreadingMixIn, TCPServer):
    """At most ``_MAX_CLIENTS`` at once: a further one is turned away, the agent goes on."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, listening: socket.socket, routes: Routes) -> None:
        handler = type("Handler", (_Handler,), {"routes": routes})
        BaseServer.__init__(self, listening.getsockname(), handler)
        self.socket = listening
        self._places = threading.BoundedSemaphore(_MAX_CLIENTS)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        end = threading.Timer(_CLIENT_TIMEOUT_S, _cut_off, (request,))
        end.daemon = True
        end.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            end.cancel()
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that breaks off is no news."""


def _cut_off(client: socket.socket) -> None:
    """Ends a conversation that a slow client drags on; its thread then sees the end."""
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_RDWR)


class Listener:
    """A server in a thread of its own, until it is closed."""

    def __init__(self, listening: socket.socket, routes: Routes) -> None:
        self._server = _Server(listening, routes)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stops listening; clients that are being answered are cut off with the process."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def address_listener(host: str, port: int, routes: Routes) -> tuple[Listener, str]:
    """A listener on ``host:port`` (port 0: any) and the address that it got.

    Raises ListenError, most of all where another agent has the port.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ListenError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(64)
    except OSError as error:
        listening.close()
        raise ListenError(
            f"cannot listen on {host}:{port}: {error.strerror};"
            " is another agent running? Give this one --listen with another port"
        ) from error
    got_host, got_port = listening.getsockname()[:2]
    shown = f"[{got_host}]:{got_port}" if ":" in got_host else f"{got_host}:{got_port}"
    return Listener(listening, routes), shown


class SocketListener:
    """A listener on a Unix socket that only its owner may open; one agent at a time."""

    def __init__(self, path: Path, routes: Routes) -> None:
        """Raises ListenError, most of all where another agent has the socket."""
        self._path = path
        self._lock = _locked(path.with_name(path.name + ".lock"))
        try:
            _remove_stale_socket(path)
            listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            _bind_privately(listening, path)
            listening.listen(64)
        except OSError as error:
            os.close(self._lock)
            raise ListenError(f"cannot listen on {path}: {error.strerror or error}") from error
        except ListenError:
            os.close(self._lock)
            raise
        self._listener = Listener(listening, routes)

    def close(self) -> None:
        """Stops listening and removes the socket."""
        self._listener.close()
        with contextlib.suppress(OSError):
            self._path.unlink()
        os.close(self._lock)


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


def _bind_privately(listening: socket.socket, path: Path) -> None:
    """Binds with mode 0600 from the first moment on; the umask is the process's, so is set back."""
    umask = os.umask(0o177)
    try:
        listening.bind(str(path))
    finally:
        os.umask(umask)
