"""Whom processes have connected to: established TCP, read once for each network namespace.

/proc/PID/net/tcp and tcp6 list all sockets of the process's network namespace with their inodes
(proc_net(5), Documentation/networking/proc_net_tcp.rst); /proc/PID/fd tells which of them are the
process's own. Neither takes a lock that the process could hold. But a process can have very many
sockets (docs/performance.md). So a thread reads them, and nobody waits for it.
"""

from __future__ import annotations

import os
import queue
import re
import socket
import struct
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from itertools import islice

from minerwatch.model import Connection, ProcessId

_MAX_TABLE_BYTES = 16 << 20
"""Of one namespace's table: about 100,000 sockets. Whoever opens more is counted, not followed."""
_PIECE_BYTES = 256 << 10
_MAX_DESCRIPTORS = 65_536
_MAX_CONNECTIONS = 64
"""Told of one process."""
_MAX_REMEMBERED = 200_000
_REST_PER_WORK = 50
"""The thread rests so many times as long as it has worked: it takes 2 % of a core at most."""

_ESTABLISHED = re.compile(
    rb"^ *\d+: [0-9A-F]+:([0-9A-F]{4}) ([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4}) 01"
    rb" \S+ \S+ \S+ +\d+ +\d+ (\d+) ",
    re.MULTILINE,
)
"""Local port, remote address and port, state ESTABLISHED (include/net/tcp_states.h), inode."""
_LISTENING = re.compile(rb"^ *\d+: [0-9A-F]+:([0-9A-F]{4}) [0-9A-F]+:0000 0A ", re.MULTILINE)
"""Local port, state LISTEN."""


_SOCKET = re.compile(r"socket:\[([0-9]{1,20})\]")
"""What a socket's descriptor leads to (proc_pid_fd(5))."""


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
        return dict(self.each(pids, at_s))

    def each(
        self, pids: Collection[int], at_s: float
    ) -> Iterator[tuple[int, tuple[Connection, ...]]]:
        """As ``connections``, one process after another."""
        tables: dict[str, dict[int, tuple[str, int]]] = {}
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
            yield pid, self._oldest(own, table, at_s)
        self._forget(tables.keys(), seen)

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
        listening: set[bytes] = set()
        established: list[tuple[int, bytes, tuple[str, int]]] = []
        for name in ("tcp", "tcp6"):
            for lines in self._lines(f"{self._proc}/{pid}/net/{name}"):
                listening.update(match[1] for match in _LISTENING.finditer(lines))
                established += (
                    (int(match[4]), match[1], (_address(match[2]), int(match[3], 16)))
                    for match in _ESTABLISHED.finditer(lines)
                )
        for inode, own_port, remote in established:
            if own_port not in listening:
                yield inode, remote

    def _inodes(self, pid: int) -> Iterator[int]:
        try:
            with os.scandir(f"{self._proc}/{pid}/fd") as entries:
                for entry in islice(entries, _MAX_DESCRIPTORS):
                    target = os.readlink(entry.path)  # noqa: PTH115 - hot
                    match = _SOCKET.fullmatch(target)
                    if match is not None:
                        yield int(match[1])
        except OSError as error:
            self._count(error)

    def _lines(self, path: str) -> Iterator[bytes]:
        """A file's lines, some hundreds together."""
        rest = b""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            self._count(error)
            return
        try:
            for _ in range(_MAX_TABLE_BYTES // 4096):
                piece = os.read(fd, _PIECE_BYTES)
                if not piece:
                    break
                lines, newline, rest = (rest + piece).rpartition(b"\n")
                yield lines + newline
            else:
                self.failures["too_many"] += 1
        except OSError as error:
            self._count(error)
        finally:
            os.close(fd)

    def _count(self, error: OSError) -> None:
        if isinstance(error, PermissionError):
            self.failures["permission"] += 1
        elif not isinstance(error, FileNotFoundError | ProcessLookupError):
            self.failures["unreadable"] += 1


class ConnectionReader:
    """Reads connections in a thread of its own; ``failures`` as SocketReader counts them."""

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = proc
        self._reader = SocketReader(proc)
        self.failures = self._reader.failures
        self._is_asked = False
        self._is_closed = threading.Event()
        self._questions: queue.SimpleQueue[tuple[Sequence[ProcessId], float] | None]
        self._questions = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[ProcessId, tuple[Connection, ...]] | None]
        self._answers = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="connections", daemon=True)
        self._thread.start()

    def ask(self, processes: Sequence[ProcessId], at_s: float) -> bool:
        """Wants to know of ``processes`` as of ``at_s``; False while the last ones are read."""
        if self._is_asked:
            return False
        self._is_asked = True
        self._questions.put((processes, at_s))
        return True

    def answers(self) -> dict[ProcessId, tuple[Connection, ...]]:
        """What has been read since the last call; it never waits."""
        found: dict[ProcessId, tuple[Connection, ...]] = {}
        while not self._answers.empty():
            answer = self._answers.get()
            if answer is None:
                self._is_asked = False
            else:
                found[answer[0]] = answer[1]
        return found

    def close(self) -> None:
        """Ends the thread, as soon as it has read the process under way."""
        self._is_closed.set()
        self._questions.put(None)

    def _serve(self) -> None:
        while (question := self._questions.get()) is not None:
            processes, at_s = question
            by_pid = {each.pid: each for each in processes}
            worked_s = time.thread_time()
            for pid, connections in self._reader.each(by_pid, at_s):
                if self._start_ticks(pid) == by_pid[pid].start_ticks:
                    self._answers.put((by_pid[pid], connections))
                rest_s = _REST_PER_WORK * (time.thread_time() - worked_s)
                if self._is_closed.wait(rest_s):
                    return
                worked_s = time.thread_time()
            self._answers.put(None)

    def _start_ticks(self, pid: int) -> int | None:
        try:
            with open(f"{self._proc}/{pid}/stat", "rb", buffering=0) as file:  # noqa: PTH123
                return int(file.read(4096).rpartition(b")")[2].split()[19])
        except (OSError, ValueError, IndexError):
            return None


def _address(digits: bytes) -> str:
    """The kernel prints each 32-bit word of an address as this machine's number."""
    words = [int(digits[at : at + 8], 16) for at in range(0, len(digits), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    if len(words) == 1:
        return socket.inet_ntop(socket.AF_INET, packed)
    if packed.startswith(b"\0" * 10 + b"\xff\xff"):
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    return socket.inet_ntop(socket.AF_INET6, packed)
