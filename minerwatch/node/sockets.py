"""Whom processes have connected to: established TCP, read once for each network namespace.

/proc/PID/net/tcp and tcp6 list all sockets of the process's network namespace with their inodes
(proc_net(5), Documentation/networking/proc_net_tcp.rst); /proc/PID/fd tells which of them are the
process's own. Neither takes a lock that the process could hold.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Collection, Iterator
from itertools import islice

from minerwatch.model import Connection

_MAX_TABLE_BYTES = 16 << 20
"""Of one namespace's table: about 100,000 sockets. Whoever opens more is counted, not followed."""
_PIECE_BYTES = 256 << 10
_MAX_DESCRIPTORS = 65_536
_MAX_CONNECTIONS = 64
"""Told of one process."""
_MAX_REMEMBERED = 200_000

_ESTABLISHED = re.compile(
    rb"^ *\d+: [0-9A-F]+:([0-9A-F]{4}) ([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4}) 01"
    rb" \S+ \S+ \S+ +\d+ +\d+ (\d+) ",
    re.MULTILINE,
)
"""Local port, remote address and port, state ESTABLISHED (include/net/tcp_states.h), inode."""
_LISTENING = re.compile(rb"^ *\d+: [0-9A-F]+:([0-9A-F]{4}) [0-9A-F]+:0000 0A ", re.MULTILINE)
"""Local port, state LISTEN."""


class SocketReader:
    """Reads connections below ``proc``; for one thread at a time.

    ``failures`` counts what went wrong since the start, by reason: ``permission`` and
    ``unreadable`` files, ``too_many`` sockets to read them all.
    """

    def __init__(self, proc: str = "/proc") -> None:
        self.failures = dict.fromkeys(("permission", "unreadable", "too_many"), 0)
        self._proc = proc
        self._since_s: dict[tuple[str, int], float] = {}

    def connections(self, pids: Collection[int], at_s: float) -> dict[int, tuple[Connection, ...]]:
        """The connections of each of ``pids`` that is there; oldest first."""
        tables: dict[str, dict[int, tuple[str, int]]] = {}
        found: dict[int, tuple[Connection, ...]] = {}
        seen: set[tuple[str, int]] = set()
        for pid in pids:
            namespace = self._namespace(pid)
            if namespace is None:
                continue
            if namespace not in tables:
                tables[namespace] = dict(self._table(pid))
            table = tables[namespace]
            own = [(namespace, inode) for inode in self._inodes(pid) if inode in table]
            seen.update(own)
            found[pid] = self._oldest(own, table, at_s)
        self._forget(tables.keys(), seen)
        return found

    def _oldest(
        self, own: list[tuple[str, int]], table: dict[int, tuple[str, int]], at_s: float
    ) -> tuple[Connection, ...]:
        connections = [
            Connection(*table[key[1]], since_s=self._since_s.setdefault(key, at_s)) for key in own
        ]
        connections.sort(key=lambda each: (each.since_s, each.address, each.port))
        return tuple(connections[:_MAX_CONNECTIONS])

    def _forget(self, namespaces: Collection[str], seen: set[tuple[str, int]]) -> None:
        """Drops connections of the namespaces that were read which are no longer there."""
        gone = [key for key in self._since_s if key[0] in namespaces and key not in seen]
        for key in gone:
            del self._since_s[key]
        if len(self._since_s) > _MAX_REMEMBERED:
            self._since_s.clear()

    def _namespace(self, pid: int) -> str | None:
        try:
            return os.readlink(f"{self._proc}/{pid}/ns/net")  # noqa: PTH115 - hot
        except OSError as error:
            self._count(error)
            return None

    def _table(self, pid: int) -> Iterator[tuple[int, tuple[str, int]]]:
        """Inode and remote end of what was opened from here.

        What came in at a port that somebody listens on is a server's client, whose port is chance.
        """
        tables = [self._content(f"{self._proc}/{pid}/net/{name}") for name in ("tcp", "tcp6")]
        listening = {match[1] for table in tables for match in _LISTENING.finditer(table)}
        for table in tables:
            for match in _ESTABLISHED.finditer(table):
                if match[1] not in listening:
                    yield int(match[4]), (_address(match[2]), int(match[3], 16))

    def _inodes(self, pid: int) -> Iterator[int]:
        try:
            with os.scandir(f"{self._proc}/{pid}/fd") as entries:
                for entry in islice(entries, _MAX_DESCRIPTORS):
                    target = os.readlink(entry.path)  # noqa: PTH115 - hot
                    if target.startswith("socket:["):
                        yield int(target[8:-1])
        except OSError as error:
            self._count(error)

    def _content(self, path: str) -> bytes:
        pieces = []
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            self._count(error)
            return b""
        try:
            for _ in range(_MAX_TABLE_BYTES // 4096):
                piece = os.read(fd, _PIECE_BYTES)
                if not piece:
                    break
                pieces.append(piece)
            else:
                self.failures["too_many"] += 1
        except OSError as error:
            self._count(error)
        finally:
            os.close(fd)
        return b"".join(pieces)

    def _count(self, error: OSError) -> None:
        if isinstance(error, PermissionError):
            self.failures["permission"] += 1
        elif not isinstance(error, FileNotFoundError | ProcessLookupError):
            self.failures["unreadable"] += 1


def _address(digits: bytes) -> str:
    """The kernel prints each 32-bit word of an address as this machine's number."""
    words = [int(digits[at : at + 8], 16) for at in range(0, len(digits), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    if len(words) == 1:
        return socket.inet_ntop(socket.AF_INET, packed)
    if packed.startswith(b"\0" * 10 + b"\xff\xff"):
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    return socket.inet_ntop(socket.AF_INET6, packed)
