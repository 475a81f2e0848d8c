"""One HTTP request that ends at its deadline, however slowly the server answers.

Redirects are not followed and proxies are not used: addresses and headers are secrets.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, IncompleteRead
from threading import Event, Timer
from urllib.parse import SplitResult, urlsplit, urlunsplit

FAILURES = (HTTPException, OSError, ValueError)
"""Exceptions of ``send``. Their texts may have the address."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """Answer of a server; ``body`` is cut after as many bytes as were asked for."""

    status: int
    retry_after: str
    body: bytes


def send(
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes | None = None,
    *,
    ca: str,
    answer_s: float,
    max_bytes: int = 0,
) -> HttpAnswer:
    """Send one request, all of it within ``answer_s``; TimeoutError if there is no answer in time.

    ``ca``: PEM file to verify the server by; "": the system's authorities.
    """
    parts = urlsplit(url)
    is_late = Event()
    connection: socket.socket | None = None

    def hang_up() -> None:
        is_late.set()
        if connection is not None:
            with suppress(OSError):
                # not SSLSocket.shutdown: it takes the TLS state from the thread that uses it
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    deadline = Timer(answer_s, hang_up)
    deadline.daemon = True
    deadline.start()
    try:
        connection = _connected(parts, ca, answer_s)
        with connection:
            if is_late.is_set():  # before there was a connection to end
                raise TimeoutError
            answer = _answer(connection, method, parts, headers, body, max_bytes)
    except FAILURES as error:
        if is_late.is_set():
            raise TimeoutError from error
        raise
    finally:
        deadline.cancel()
    if is_late.is_set():  # the body may be cut off
        raise TimeoutError
    return answer


def _connected(parts: SplitResult, ca: str, timeout_s: float) -> socket.socket:
    """Return a connection before its TLS handshake."""
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    connection = socket.create_connection((host, port), timeout_s)
    if parts.scheme == "http":
        return connection
    with ExitStack() as opened:
        opened.enter_context(connection)
        context = ssl.create_default_context(cafile=ca or None)
        wrapped = context.wrap_socket(
            connection, server_hostname=host, do_handshake_on_connect=False
        )
        opened.pop_all()
    return wrapped


def _answer(
    connection: socket.socket,
    method: str,
    parts: SplitResult,
    headers: Mapping[str, str],
    body: bytes | None,
    max_bytes: int,
) -> HttpAnswer:
    if isinstance(connection, ssl.SSLSocket):
        connection.do_handshake()
    client = HTTPConnection(parts.hostname or "", parts.port)
    client.sock = connection
    client.request(method, urlunsplit(("", "", parts.path or "/", parts.query, "")), body, headers)
    with client.getresponse() as response:
        found = response.read(max_bytes)
        if response.length and len(found) < max_bytes:
            raise IncompleteRead(found, response.length)
        return HttpAnswer(response.status, response.headers.get("Retry-After", ""), found)
