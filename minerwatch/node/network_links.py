"""Pairs of interfaces that connect this network namespace with others, by rtnetlink(7).

A packet that a pod sent came through the interface here whose other end is in the pod: the sender
chooses its addresses, but not that. Needs no capability.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from struct import Struct

_ROUTE = 0  # include/uapi/linux/netlink.h
_ERROR, _DONE = 2, 3
_REQUEST, _DUMP = 1, 0x300
_GET_LINK, _GET_NAMESPACE = 18, 90  # include/uapi/linux/rtnetlink.h
_NAME, _EXT_MASK, _LINK_NAMESPACE = 3, 29, 37  # include/uapi/linux/if_link.h
_SKIP_STATS = 1 << 3
_NAMESPACE_ID, _NAMESPACE_PID = 1, 2  # include/uapi/linux/net_namespace.h
_HEADER = Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = Struct("=HH")
_NUMBER = Struct("=i")
_LINK = Struct("=BxHiII")  # ifinfomsg
_GENERIC = Struct("=B3x")  # rtgenmsg
_ANSWER_BYTES = 1 << 16
_TIMEOUT_S = 2.0
_MAX_ANSWERS = 1024


class NetworkLinks:
    """Links of the network namespace that it is opened in; for one thread at a time."""

    def __init__(self) -> None:
        """Raises OSError."""
        self.namespace = Path("/proc/thread-self/ns/net").stat().st_ino
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, _ROUTE)
        self._socket.settimeout(_TIMEOUT_S)
        self._sequence = 0

    def peers(self) -> dict[str, int]:
        """Return the network in which each interface has its other end, if that is another one.

        Raises OSError.
        """
        found: dict[str, int] = {}
        for body in self._answers(_GET_LINK, _DUMP, _LINK.pack(*[0] * 5), _EXT_MASK, _SKIP_STATS):
            attributes = dict(_attributes(body, _LINK.size))
            if _LINK_NAMESPACE in attributes:
                name = attributes.get(_NAME, b"").rstrip(b"\0").decode("utf-8", "replace")
                found[name] = _NUMBER.unpack_from(attributes[_LINK_NAMESPACE])[0]
        return found

    def number_of(self, pid: int) -> int:
        """Return the network of a process as ``peers`` has it; below 0 if none leads there.

        Raises OSError.
        """
        number = -1
        for body in self._answers(_GET_NAMESPACE, 0, _GENERIC.pack(0), _NAMESPACE_PID, pid):
            attributes = dict(_attributes(body, _GENERIC.size))
            number = _NUMBER.unpack_from(attributes[_NAMESPACE_ID])[0]
        return number

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _answers(
        self, kind: int, flags: int, body: bytes, name: int, value: int
    ) -> Iterator[bytes]:
        """Send a request with one attribute; yield the bodies of the answers."""
        self._sequence += 1
        body += _ATTRIBUTE.pack(_ATTRIBUTE.size + _NUMBER.size, name) + _NUMBER.pack(value)
        length = _HEADER.size + len(body)
        self._socket.send(_HEADER.pack(length, kind, flags | _REQUEST, self._sequence, 0) + body)
        for _ in range(_MAX_ANSWERS):
            answer = self._socket.recv(_ANSWER_BYTES)
            at = 0
            while at + _HEADER.size <= len(answer):
                length, found, _flags, sequence, _port = _HEADER.unpack_from(answer, at)
                content = answer[at + _HEADER.size : at + length]
                at += max(_HEADER.size, (length + 3) & ~3)
                if sequence != self._sequence:  # the rest of an answer that was given up
                    continue
                if found == _ERROR:
                    raise OSError(-_NUMBER.unpack_from(content)[0], "rtnetlink refuses")
                if found == _DONE:
                    return
                yield content
                if not flags & _DUMP:
                    return


def _attributes(body: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    while at + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        yield kind, body[at + _ATTRIBUTE.size : at + length]
        at += max(_ATTRIBUTE.size, (length + 3) & ~3)
