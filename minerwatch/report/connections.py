"""Open connections of a listener: the oldest gives way, the overdue are closed."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import Counter


class Connections:
    """Open connections with their addresses and deadlines, oldest first."""

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._open: dict[socket.socket, tuple[object, float]] = {}
        self._lock = threading.Lock()

    def __contains__(self, client: object) -> bool:
        return client in self._open

    def add(self, client: socket.socket, address: object) -> int:
        """Add a connection; return how many there are."""
        with self._lock:
            self._open[client] = address, time.monotonic() + self._deadline_s
            return len(self._open)

    def remove(self, client: socket.socket) -> None:
        """Forget a connection that ends."""
        with self._lock:
            self._open.pop(client, None)

    def close_oldest(self) -> bool:
        """Close the oldest connection of the busiest address; return False if none is open."""
        with self._lock:
            counts = Counter(address for address, _ in self._open.values())
            busiest = max(counts, key=counts.__getitem__, default=None)
            for client, (address, _) in self._open.items():
                if address == busiest:
                    self._close(client)
                    return True
        return False

    def close_overdue(self) -> int:
        """Close connections whose deadline has passed; return how many."""
        now_s = time.monotonic()
        with self._lock:
            overdue = [each for each, (_, deadline_s) in self._open.items() if deadline_s <= now_s]
            for client in overdue:
                self._close(client)
        return len(overdue)

    def _close(self, client: socket.socket) -> None:
        """Shut the connection down; its thread reads the end, and finishes."""
        del self._open[client]
        with contextlib.suppress(OSError):
            # not SSLSocket.shutdown: it takes the TLS state from the thread that uses it
            socket.socket.shutdown(client, socket.SHUT_RDWR)
