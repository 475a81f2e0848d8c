"""Reading of a request, limited in bytes and in pieces."""

from __future__ import annotations

import io
import socket
from typing import Any

_MAX_HEAD_BYTES = 8192
_MAX_HEAD_PIECES = 64


class RequestError(Exception):
    """The reason for which a request gets no response."""


class BoundedReader(io.RawIOBase):
    """Reads a limited number of bytes, in a limited number of pieces, from a connection."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._bytes_left = _MAX_HEAD_BYTES
        self._pieces_left = _MAX_HEAD_PIECES

    def readable(self) -> bool:
        """Return True."""
        return True

    def allow(self, body_bytes: int) -> None:
        """Raise the limits by a body of that length."""
        self._bytes_left += body_bytes
        self._pieces_left += body_bytes

    def readinto(self, buffer: Any, /) -> int:
        """Read once from the connection. Raises RequestError beyond a limit."""
        if not self._bytes_left:
            raise RequestError("too long")
        if not self._pieces_left:
            raise RequestError("too many pieces")
        count = self._client.recv_into(memoryview(buffer)[: self._bytes_left])
        self._bytes_left -= count
        self._pieces_left -= 1
        return count
