"""Addresses of pool servers, resolved in the background where that is wanted.

Off unless configured: a node that looks up mining pools looks like a mining node to whoever watches
its DNS queries.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from minerwatch.worker import Worker

_EVERY_S = 3600.0
_MAX_HOSTS = 1000
_MAX_ADDRESSES = 16
"""Of one host."""

Lookup = Callable[[str], Iterable[str]]


def addresses(host: str) -> Iterable[str]:
    """What the resolver says of ``host`` (getaddrinfo(3)). Raises OSError."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(address[0]) for _, _, _, _, address in found]


class PoolNames:
    """Address -> names of the pool servers that have it."""

    def __init__(self, hosts: Iterable[str], lookup: Lookup = addresses) -> None:
        """Starts to resolve ``hosts``, again every hour; nobody waits for it."""
        self._hosts = tuple(dict.fromkeys(hosts))[:_MAX_HOSTS]
        self._lookup = lookup
        self._names: Mapping[str, tuple[str, ...]] = {}
        self._closed = threading.Event()
        self._thread = Worker("pool names", self._resolve).start()

    def names(self, address: str) -> tuple[str, ...]:
        """The pool servers behind ``address``, as far as they have been resolved."""
        return self._names.get(address, ())

    def close(self) -> None:
        """Ends the thread, at once or when the look-up under way returns."""
        self._closed.set()
        self._thread.close()

    def _resolve(self) -> None:
        while not self._closed.is_set():
            names: dict[str, tuple[str, ...]] = {}
            for host in self._hosts:
                if self._closed.is_set():
                    return
                with suppress(OSError, UnicodeError):  # a pool that is gone is no news
                    for address in list(self._lookup(host))[:_MAX_ADDRESSES]:
                        names[address] = (*names.get(address, ()), host)
            self._names = names
            self._closed.wait(_EVERY_S)
