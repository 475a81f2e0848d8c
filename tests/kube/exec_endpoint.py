"""The ``exec`` subresource of a pod, as an API server speaks it to the official client.

RFC 6455 and ``v5.channel.k8s.io`` or ``v4``: enough to send what a command prints, well or badly.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from io import BufferedIOBase

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_BINARY, _CLOSE, _PING = 0x82, 0x88, 0x89
_STDOUT, _STDERR, _ERROR = b"\x01", b"\x02", b"\x03"


@dataclass(frozen=True, slots=True)
class Printing:
    """What a command does."""

    stdout: bytes = b""
    stderr: bytes = b""
    exit_status: int = 0
    starts_after_s: float = 0.0
    piece_bytes: int = 32 << 10
    pause_s: float = 0.0  # between two pieces
    cut_after_bytes: int | None = None  # of stdout; then the connection is gone
    closes_after_bytes: int | None = None  # of stdout; then the stream is closed without a status
    status_first: bool = False  # the status overtakes the output
    status: bytes | None = None  # in place of the right one
    hangs_after: bool = False  # never closes


def accept(headers: Mapping[str, str], known: Collection[str]) -> bytes:
    """The answer to the request for a WebSocket: the first subprotocol asked for that is known."""
    key = headers["sec-websocket-key"] + _GUID
    accepted = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
    asked = [each.strip() for each in headers["sec-websocket-protocol"].split(",")]
    protocol = next(each for each in asked if each in known)
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accepted}\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
    ).encode()


def write(
    file: BufferedIOBase,
    printing: Printing,
    wait: Callable[[float], None],
    on_end: Callable[[], None],
) -> None:
    """Send what a command prints, and how it ended; ``on_end`` is called before the last of it."""
    wait(printing.starts_after_s)
    _send(file, _PING, b"")
    for channel in (_STDOUT, _STDERR, _ERROR):  # as servers do, to say that they are there
        _send(file, _BINARY, channel)
    if printing.status_first:
        _send(file, _BINARY, _ERROR + _status(printing))
    _send(file, _BINARY, _STDERR + printing.stderr)
    for at in range(0, len(printing.stdout), printing.piece_bytes):
        if printing.cut_after_bytes is not None and at >= printing.cut_after_bytes:
            raise ConnectionAbortedError
        if printing.closes_after_bytes is not None and at >= printing.closes_after_bytes:
            _send(file, _CLOSE, b"\x03\xe8")
            return
        _send(file, _BINARY, _STDOUT + printing.stdout[at : at + printing.piece_bytes])
        wait(printing.pause_s)
    on_end()
    if not printing.status_first:
        _send(file, _BINARY, _ERROR + _status(printing))
    if printing.hangs_after:
        wait(3600)
    _send(file, _CLOSE, b"\x03\xe8")


def _status(printing: Printing) -> bytes:
    if printing.status is not None:
        return printing.status
    if printing.exit_status == 0:
        return json.dumps({"metadata": {}, "status": "Success"}).encode()
    cause = {"reason": "ExitCode", "message": str(printing.exit_status)}
    told = {
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: {printing.exit_status}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [cause]},
    }
    return json.dumps({"metadata": {}, **told}).encode()


def _send(file: BufferedIOBase, kind: int, data: bytes) -> None:
    size = len(data)
    if size < 126:
        head = bytes([kind, size])
    elif size < 1 << 16:
        head = bytes([kind, 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([kind, 127]) + size.to_bytes(8, "big")
    file.write(head + data)
    file.flush()
