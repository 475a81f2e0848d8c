"""Run a command in a pod's container and return what it prints.

The ``exec`` subresource of a pod, over a WebSocket with the subprotocol ``v5.channel.k8s.io``
(API servers since 1.30) or ``v4.channel.k8s.io`` (container runtimes). For this use they are the
same: the first byte of each message is the stream (k8s.io/apimachinery,
``remotecommand.constants``); the last message is a Status on the error stream.

Proxies and credentials are the official client's. The connection is opened here, so that it
verifies certificates as requests do; messages are read here, because the client's reader appends
to what it holds, which is slow for a snapshot of some MiB, and has no limit.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import msgspec

from minerwatch.errors import NOT_JSON
from minerwatch.kube.client import ApiError, Cluster, credentials, one_line, refusal
from minerwatch.kube.objects import Status
from minerwatch.kube.tls_verification import tls_context

if TYPE_CHECKING:
    from websocket import WebSocket

MAX_OUTPUT_BYTES = 64 << 20
_MAX_COMPLAINT_BYTES = 16 << 10
_LAST_WORDS_S = 1.0  # after the status, for output that it has overtaken, until the server closes
_SUBPROTOCOLS = "v5.channel.k8s.io,v4.channel.k8s.io"
_STDOUT, _STDERR, _ERROR = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Container:
    """The container in which a command runs."""

    namespace: str
    pod: str
    name: str


class LostAnswerError(ApiError):
    """The command was begun, and what came of it is not known."""


def output(
    cluster: Cluster,
    container: Container,
    command: Sequence[str],
    *,
    timeout_s: float,
    limit_bytes: int = MAX_OUTPUT_BYTES,
) -> bytes:
    """Return what ``command`` prints to standard output.

    Raises ApiError, without the name of the pod: it was refused, it failed (in its own words), it
    printed more than ``limit_bytes``, or took longer than ``timeout_s``. The time to connect is not
    bounded: the official client has no limit for it, so call this in a thread.
    """
    until_s = time.monotonic() + timeout_s
    socket = _connected(cluster, container, command)
    try:
        return PrintedOutput(limit_bytes, timeout_s).read(socket, until_s)
    finally:
        socket.shutdown()  # type: ignore[no-untyped-call]  # without a handshake, which waits


def _connected(cluster: Cluster, container: Container, command: Sequence[str]) -> WebSocket:
    from kubernetes.stream.ws_client import websocket_proxycare
    from websocket import WebSocket, WebSocketBadStatusException, WebSocketException

    path = f"/api/v1/namespaces/{quote(container.namespace)}/pods/{quote(container.pod)}/exec"
    query = [("container", container.name), ("stdout", "true"), ("stderr", "true")]
    query += [("command", word) for word in command]
    configuration = cluster.client.configuration
    url = f"ws{cluster.server.removeprefix('http')}{path}?{urlencode(query)}"
    headers = {**credentials(configuration), "sec-websocket-protocol": _SUBPROTOCOLS}
    options: dict[str, Any] = {
        "header": [f"{name}: {value}" for name, value in headers.items()],
        "redirect_limit": 0,  # the server that it leads to would get the token
    }
    try:
        tls: dict[str, Any] = {}
        if url.startswith("wss://"):
            name = configuration.tls_server_name
            tls = {"context": tls_context(configuration), "server_hostname": name}
        socket = WebSocket(sslopt=tls, skip_utf8_validation=False)
        options = websocket_proxycare(options, configuration, url, headers)
        socket.connect(url, **options)  # type: ignore[no-untyped-call]
    except WebSocketBadStatusException as error:
        raise refused(error) from error
    except (WebSocketException, OSError, ValueError) as error:
        raise ApiError("connection", one_line(error)) from error
    return socket


def refused(error: Any) -> ApiError:
    """Return the error for a refusal before the first message."""
    status = int(error.status_code)
    try:
        message = msgspec.json.decode(getattr(error, "resp_body", None) or b"", type=Status).message
    except NOT_JSON:
        message = ""
    return refusal(status, one_line(message) if message else f"the API server answers {status}")


class PrintedOutput:
    """Output of a command, as the messages of an exec bring it."""

    def __init__(self, limit_bytes: int, timeout_s: float = float("inf")) -> None:
        self._limit_bytes = limit_bytes
        self._timeout_s = timeout_s
        self._output = bytearray()
        self._complaint = bytearray()
        self._status: bytes | None = None

    def read(self, socket: WebSocket, until_s: float) -> bytes:
        """Return the whole output once the command has exited with 0; raises ApiError."""
        while (left_s := until_s - time.monotonic()) > 0:
            message = self._message(socket, left_s)
            if message is None:
                break
            self._add_channel(message)
            if self._status is not None:
                until_s = min(until_s, time.monotonic() + _LAST_WORDS_S)
        if self._status is None:
            raise LostAnswerError("timeout", f"no answer within {self._timeout_s:g} s")
        self._require_success(self._status)
        return bytes(self._output)

    def _message(self, socket: WebSocket, timeout_s: float) -> bytes | None:
        """Return the next message, b"" for one of another channel; None after the last."""
        from websocket import ABNF, WebSocketException, WebSocketTimeoutException

        socket.settimeout(timeout_s)
        try:
            kind, frame = socket.recv_data_frame(control_frame=True)
        except (WebSocketTimeoutException, TimeoutError):
            return None
        except (WebSocketException, OSError, ValueError) as error:
            if self._status is not None:
                return None
            reason = f"the answer broke off: {one_line(error)}"
            raise LostAnswerError("connection", reason) from error
        if kind == ABNF.OPCODE_CLOSE:
            if self._status is None:
                raise LostAnswerError("connection", "the answer broke off")
            return None
        return bytes(frame.data) if kind in (ABNF.OPCODE_BINARY, ABNF.OPCODE_TEXT) else b""

    def _add_channel(self, message: bytes) -> None:
        channel = message[0] if message else None
        if channel == _STDOUT:
            self._output += message[1:]
        elif channel == _STDERR and len(self._complaint) < _MAX_COMPLAINT_BYTES:
            self._complaint += message[1:]
        elif channel == _ERROR and len(message) > 1:  # servers begin with an empty one
            self._status = message[1:]
        if len(self._output) > self._limit_bytes:
            raise ApiError("garbage", f"its answer is longer than {self._limit_bytes >> 20} MiB")

    def _require_success(self, status: bytes) -> None:
        try:
            ended = msgspec.json.decode(status, type=Status)
        except NOT_JSON as error:
            raise LostAnswerError("garbage", "the end of its answer is no status") from error
        if ended.status != "Success":
            said = self._complaint.decode("utf-8", "backslashreplace").strip()
            if not said:  # it was killed; other failures carry a message
                raise LostAnswerError("server", one_line(ended.message or ""))
            raise ApiError("server", one_line(said))
