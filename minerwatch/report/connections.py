"""Open connections of a listener: the oldest gives way, the overdue are closed."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections import Counter
from ipaddress import ip_address
from typing import Any

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBxI")  # inet_diag_req_v2 (sock_diag(7)), before the socket's id
_ADDRESSES = struct.Struct("!HH16s16s")
_NO_COOKIE = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
_SUB_UID_MIN, _SUB_UID_COUNT = 100_000, 65_536  # the defaults of login.defs(5)
_UID = struct.Struct("=I")
_STATE_OFFSET = _HEADER.size + 1  # in inet_diag_msg
_UID_OFFSET = _HEADER.size + 4 + _ADDRESSES.size + len(_NO_COOKIE) + 12
_ESTABLISHED = 1


def client_of(address: Any, server: Any) -> Any:
    """Return the client that a connection counts for: on loopback a user, else its address.

    ``address`` and ``server`` are both ends, as accept(2) and getsockname(2) return them. Each user
    of the machine has millions of loopback addresses.
    """
    if not isinstance(address, tuple):
        return address
    host, server_host = (_plain(end[0]) for end in (address, server))
    name = ""
    if ip_address(host).is_loopback:
        name = _user_of(host, address[1], server_host, server[1])
    return (name, address[1]) if name else address


def _name_of(uid: int) -> str:
    """Return a user's name for the count; the ids of a user's namespaces (subuid(5)) are one."""
    if uid < _SUB_UID_MIN:
        return f"user {uid}"
    return f"subordinate ids {(uid - _SUB_UID_MIN) // _SUB_UID_COUNT}"


def _plain(host: str) -> str:
    """Return an address of IPv4 as such, where a listener for both families has it."""
    return host.removeprefix("::ffff:") if "." in host else host


def _user_of(host: str, port: int, server_host: str, server_port: int) -> str:
    """Return the user that made the socket bound to ``host:port``; "": the kernel has no answer.

    One socket is looked up, however many there are. One that was closed already is root's to older
    kernels: those are one client.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    ends = (socket.inet_pton(family, each) for each in (host, server_host))
    request = (
        _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0xFFFFFFFF)
        + _ADDRESSES.pack(port, server_port, *ends)
        + _NO_COOKIE
    )
    size = _HEADER.size + len(request)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
            kernel.send(_HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0) + request)
            answer = kernel.recv(4096, socket.MSG_DONTWAIT)
    except OSError:  # such as a kernel without inet_diag
        return ""
    if _HEADER.unpack_from(answer)[1] != _SOCK_DIAG_BY_FAMILY:
        return ""
    if answer[_STATE_OFFSET] != _ESTABLISHED:
        return "closed"
    return _name_of(*_UID.unpack_from(answer, _UID_OFFSET))


class Connections:
    """Open connections with their clients and deadlines, oldest first."""

    def __init__(self, deadline_s: float, most: int, most_of_one: int) -> None:
        self._deadline_s = deadline_s
        self._most = most
        self._most_of_one = most_of_one
        self._open: dict[socket.socket, tuple[object, float]] = {}
        self._lock = threading.Lock()

    def __contains__(self, client: object) -> bool:
        return client in self._open

    def add(self, connection: socket.socket, client: object) -> bool:
        """Add a connection; return True if the client's oldest, or the busiest's, gave way."""
        with self._lock:
            self._open[connection] = client, time.monotonic() + self._deadline_s
            if sum(each == client for each, _ in self._open.values()) > self._most_of_one:
                return self._close_oldest(client)
            return len(self._open) > self._most and self._close_oldest(self._busiest())

    def remove(self, connection: socket.socket) -> None:
        """Forget a connection that ends."""
        with self._lock:
            self._open.pop(connection, None)

    def close_all(self) -> None:
        """Close every connection."""
        with self._lock:
            for connection in [*self._open]:
                self._close(connection)

    def close_overdue(self) -> int:
        """Close connections whose deadline has passed; return how many."""
        now_s = time.monotonic()
        with self._lock:
            overdue = [each for each, (_, deadline_s) in self._open.items() if deadline_s <= now_s]
            for connection in overdue:
                self._close(connection)
        return len(overdue)

    def _busiest(self) -> object:
        counts = Counter(client for client, _ in self._open.values())
        return max(counts, key=counts.__getitem__)

    def _close_oldest(self, client: object) -> bool:
        self._close(next(each for each, (whose, _) in self._open.items() if whose == client))
        return True

    def _close(self, connection: socket.socket) -> None:
        """Shut the connection down; its thread reads the end, and finishes."""
        del self._open[connection]
        with contextlib.suppress(OSError):
            # not SSLSocket.shutdown: it takes the TLS state from the thread that uses it
            socket.socket.shutdown(connection, socket.SHUT_RDWR)
