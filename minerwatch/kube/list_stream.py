"""A list of the API, read item by item.

Its length is the choice of those that create objects: 40 pods may have 1.5 MiB each, and as JSON
up to six times that, where each ``<`` is escaped. Held as a whole it would fill the agent's memory,
and refused as a whole it would blind the agent; so little more than one item is held.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

MAX_ITEM_BYTES = 16 << 20  # of one object as JSON: etcd takes 1.5 MiB of it in a denser form

_STRING = rb'"(?:[^"\\]++|\\.)*+"'
_TOKEN = re.compile(rb"(?s)" + _STRING + rb"|[{}\[\]]")
_BRACE = re.compile(rb'(?s)[^{}"]*+(?:' + _STRING + rb'[^{}"]*+)*+[{}]')
_MIN_SCANNED_BYTES = 64 << 10


class ListError(ValueError):
    """The answer is not a list."""


class ListReader:
    """Reads one list; ``metadata`` is its JSON, known once all items have been taken."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.metadata = b"{}"
        self._pieces = pieces
        self._held = bytearray()
        self._at = 0  # what is before it has been looked at
        self._has_ended = False

    def items(self) -> Iterator[bytes]:
        """Yield the items, each an object's JSON. Raises ListError if it is no list, or cut off."""
        if self._token() != b"{":
            raise ListError("it is no object")
        key = b""
        while (token := self._token()) != b"}":
            if token == b"[":
                yield from self._array(is_items=key == b'"items"')
            elif token == b"{":
                value = self._object()
                if key == b'"metadata"':
                    self.metadata = value
            elif token == b"]":
                raise ListError("a bracket is not open")
            else:
                key = token
        for _ in self._pieces:
            pass  # an end of line: read, so that the connection can be used again

    def _array(self, *, is_items: bool) -> Iterator[bytes]:
        depth = 1
        while depth:
            token = self._token()
            if token == b"{":
                item = self._object()
                if is_items and depth == 1:
                    yield item
            elif token == b"}":
                raise ListError("a brace is not open")
            else:
                depth += {b"[": 1, b"]": -1}.get(token, 0)

    def _token(self) -> bytes:
        """Return the next string or bracket, and skip what is before it."""
        while (match := _TOKEN.search(self._held, self._at)) is None:
            self._more()
        token, end = match[0], match.end()
        del match  # it would keep the buffer from changing
        del self._held[:end]
        self._at = 0
        return token

    def _object(self) -> bytes:
        """Return the object whose opening brace was the last token."""
        depth = 1
        while depth:
            match = _BRACE.match(self._held, self._at)
            if match is None:
                self._more()
                continue
            self._at = match.end()
            del match
            depth += 1 if self._held[self._at - 1] == ord("{") else -1
        with memoryview(self._held) as view, view[: self._at] as rest:
            value = b"".join((b"{", rest))
        del self._held[: self._at]
        self._at = 0
        return value

    def _more(self) -> None:
        """Read until half as much again is held, so that parsing is not repeated too often."""
        if self._has_ended:
            raise ListError("it is cut off")
        if len(self._held) > MAX_ITEM_BYTES:
            raise ListError(f"an item is longer than {MAX_ITEM_BYTES >> 20} MiB")
        wanted = len(self._held) + max(_MIN_SCANNED_BYTES, (len(self._held) - self._at) // 2)
        while len(self._held) < wanted:
            piece = next(self._pieces, b"")
            if not piece:
                self._has_ended = True
                return
            self._held += piece
