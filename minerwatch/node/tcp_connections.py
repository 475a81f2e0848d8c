"""TCP sockets of processes by files in /proc, where there is no iterator (socket_iterator.py).

/proc/PID/net/tcp and tcp6 list the sockets of the process's network namespace with their inodes
(proc_net(5), Documentation/networking/proc_net_tcp.rst); /proc/PID/fd shows which of them the
process has. Neither takes a lock that the process could hold, but a process can have very many
sockets (docs/performance.md). A thread therefore reads one process at a time; its callers never
wait. Pods and containers take turns. The files have no counters of bytes. Closed connections, and
those in evidence, are always read here.
"""

from __future__ import annotations

import os
import re
import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from minerwatch.model import Connection, OpenSockets, ProcessId
from minerwatch.node.proc_files import CountedFiles, is_alive, living_task_path
from minerwatch.node.question_queue import QueuedReader
from minerwatch.node.socket_iterator import MAPPED, NamespaceSockets, RemoteEnd, address_text
from minerwatch.worker import Worker

_MAX_TABLE_BYTES = 16 << 20
"""Of one namespace's table: about 100,000 sockets. A larger table is counted and read in part."""
_PIECE_BYTES = 256 << 10
_MAX_DESCRIPTORS = 65_536
_MAX_CONNECTIONS = 64
"""Reported of one process."""
_MAX_PROCESSES = 1024
"""Processes whose connections' ages are kept: those that were read last."""
_MAX_TABLE_SOCKETS = 4096
"""A namespace's table of at most so many sockets is kept for the next processes."""
_MAX_TABLES = 4
_TABLE_AGE_S = 5.0
_LARGE_TABLE_AGE_S = 60.0
_REFRESH_S = 30.0
"""Without questions for so long, the source is refreshed, so that it knows how old sockets are."""
_REST_PER_WORK = 50
"""The thread pauses for so many times its CPU time, so it uses at most 2 % of a core."""

_ESTABLISHED = re.compile(
    rb"^ *\d+: [0-9A-F]+:([0-9A-F]{4}) ([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4}) 01"
    rb" \S+ \S+ \S+ +\d+ +\d+ ([1-9]\d*) ",
    re.MULTILINE,
)
"""Local port, remote address and port, state ESTABLISHED (include/net/tcp_states.h), inode.

Without inode 0: no process has it, until the connection is accepted.
"""
_LISTENING = re.compile(
    rb"^ *\d+: [0-9A-F]+:([0-9A-F]{4}) [0-9A-F]+:0000 0A \S+ \S+ \S+ +\d+ +\d+ (\d+) ",
    re.MULTILINE,
)
"""Local port, state LISTEN, inode."""
_UNANSWERED = re.compile(
    rb"^ *\d+: [0-9A-F]+:[0-9A-F]{4} ([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4}) 02"
    rb" \S+ \S+ \S+ +\d+ +\d+ (\d+) ",
    re.MULTILINE,
)
"""Remote address and port, state SYN_SENT, inode."""
_CLOSED = re.compile(
    rb"^ *\d+: [0-9A-F]+:([0-9A-F]{4}) ([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4}) 06 ", re.MULTILINE
)
"""Local port, remote address and port, state TIME_WAIT."""


_SOCKET = re.compile(r"socket:\[([0-9]{1,20})\]")
"""The link of a socket's descriptor (proc_pid_fd(5))."""


_Remote = tuple[str, int] | None
"""The remote end of a connection that was opened here; None: the socket listens, or was accepted.
"""


@dataclass(frozen=True, slots=True)
class _Table:
    """The connections of a namespace, kept for a short time."""

    until_s: float
    remote: dict[int, _Remote] | None  # by inode; None: too many to be kept


class SocketReader:
    """Read connections below ``proc``; for one thread at a time.

    ``failures`` counts by reason since the start: ``permission`` and ``unreadable`` files,
    ``too_many`` sockets to read them all.
    """

    def __init__(
        self,
        proc: str = "/proc",
        *,
        max_table_bytes: int = _MAX_TABLE_BYTES,
        max_table_sockets: int = _MAX_TABLE_SOCKETS,
        piece_bytes: int = _PIECE_BYTES,
    ) -> None:
        """``max_table_sockets``: of a table that is kept for the next processes."""
        self.failures = dict.fromkeys(("permission", "unreadable", "too_many"), 0)
        self._files = CountedFiles(self.failures)
        self._proc = proc
        self._max_table_bytes = max_table_bytes
        self._max_table_sockets = max_table_sockets
        self._piece_bytes = piece_bytes
        self.tables: OrderedDict[str, _Table] = OrderedDict()
        self.since_s: OrderedDict[int, dict[int, float]] = OrderedDict()  # by pid, by inode

    def connections(self, pids: Collection[int], at_s: float) -> dict[int, tuple[Connection, ...]]:
        """Return the connections of each of ``pids`` that exists, oldest first."""
        found = ((pid, self.sockets_of(pid, at_s)) for pid in pids)
        return {pid: sockets.connections for pid, sockets in found if sockets is not None}

    def refresh(self, at_s: float) -> None:
        """Do nothing: sockets are read when they are asked for."""

    def close(self) -> None:
        """Release nothing."""

    def by_namespace(self, namespaces: Set[int]) -> dict[int, NamespaceSockets] | None:
        """Return None: to read all sockets in files would take long."""
        del namespaces
        return None

    def unanswered(self, namespace: int, pids: Sequence[int]) -> Iterator[RemoteEnd]:
        """Yield connects of a namespace that have no answer."""
        del namespace  # that of each of ``pids``
        names = ("tcp", "tcp6") if pids else ()
        for name in names:
            for lines in self._lines(f"{self._proc}/{pids[0]}/net/{name}"):
                for match in _UNANSWERED.finditer(lines):
                    yield int(match[3]), _packed(match[1]), int(match[2], 16)

    def closed(self, pid: int) -> Iterator[tuple[bytes, int]]:
        """Yield the remote ends of connections that the namespace of ``pid`` closed first.

        The kernel keeps each for a minute, in no table of open files. Those to a port that is
        listened on are left out: others opened them. Each file lists what listens first.
        """
        for name in ("tcp", "tcp6"):
            listening: set[bytes] = set()
            found: set[tuple[bytes, bytes, bytes]] = set()  # a list that changes repeats some
            for lines in self._lines(f"{self._proc}/{pid}/net/{name}"):
                listening.update(match[1] for match in _LISTENING.finditer(lines))
                for each in _CLOSED.findall(lines):
                    port, address, remote_port = each
                    if port not in listening and each not in found:
                        found.add(each)
                        yield _packed(address), int(remote_port, 16)

    def sockets_of(self, pid: int, at_s: float) -> OpenSockets | None:
        """Return the sockets of ``pid``; None if it exited or cannot be read.

        A table of sockets serves all processes of its namespace for five seconds.
        """
        try:
            task_path = living_task_path(self._proc, pid)
            namespace = os.readlink(f"{self._proc}/{task_path}/ns/net")  # noqa: PTH115 - hot
        except OSError as error:
            self._files.count(error)
            return None
        inodes = set(self._inodes(task_path))
        table = self._table(task_path, namespace, inodes)
        before = self.since_s.pop(pid, {})
        own = [
            (Connection(*remote, since_s=before.get(inode, at_s)), inode)
            for inode in inodes
            if (remote := table.get(inode)) is not None
        ]
        own.sort(key=lambda each: (each[0].since_s, each[0].address, each[0].port))
        oldest = own[:_MAX_CONNECTIONS]
        if oldest:
            self.since_s[pid] = {inode: each.since_s for each, inode in oldest}
        if len(self.since_s) > _MAX_PROCESSES:
            self.since_s.popitem(last=False)
        accepts = any(inode in table and table[inode] is None for inode in inodes)
        return OpenSockets(tuple(each for each, _ in oldest), accepts)

    def _table(self, task_path: str, namespace: str, inodes: set[int]) -> dict[int, _Remote]:
        """Return remote ends by inode, at least those of ``inodes``."""
        now_s = time.monotonic()
        known = self.tables.get(namespace)
        if known is not None and now_s < known.until_s:
            return known.remote if known.remote is not None else self._own(task_path, inodes)
        every = dict(islice(self._remotes(task_path, None), self._max_table_sockets + 1))
        is_large = len(every) > self._max_table_sockets
        age_s = _LARGE_TABLE_AGE_S if is_large else _TABLE_AGE_S
        self.tables.pop(namespace, None)
        self.tables[namespace] = _Table(now_s + age_s, None if is_large else every)
        if len(self.tables) > _MAX_TABLES:
            self.tables.popitem(last=False)
        return self._own(task_path, inodes) if is_large else every

    def _own(self, task_path: str, inodes: set[int]) -> dict[int, _Remote]:
        return dict(self._remotes(task_path, inodes))

    def _remotes(self, task_path: str, inodes: set[int] | None) -> Iterator[tuple[int, _Remote]]:
        """Yield inode and remote end of sockets; ``inodes``: of these only.

        Each file lists what listens first (Documentation/networking/proc_net_tcp.rst).
        """
        for name in ("tcp", "tcp6"):
            listening: set[bytes] = set()
            for lines in self._lines(f"{self._proc}/{task_path}/net/{name}"):
                for match in _LISTENING.finditer(lines):
                    listening.add(match[1])
                    if inodes is None or int(match[2]) in inodes:
                        yield int(match[2]), None
                for match in _ESTABLISHED.finditer(lines):
                    inode = int(match[4])
                    if inodes is None or inode in inodes:
                        # An inbound connection's remote port is ephemeral.
                        is_inbound = match[1] in listening
                        yield inode, None if is_inbound else (_address(match[2]), int(match[3], 16))

    def _inodes(self, task_path: str) -> Iterator[int]:
        try:
            with os.scandir(f"{self._proc}/{task_path}/fd") as entries:
                for entry in islice(entries, _MAX_DESCRIPTORS):
                    target = os.readlink(entry.path)  # noqa: PTH115 - hot
                    match = _SOCKET.fullmatch(target)
                    if match is not None:
                        yield int(match[1])
        except OSError as error:
            self._files.count(error)

    def _lines(self, path: str) -> Iterator[bytes]:
        """Yield a file's lines, some hundreds at once."""
        rest = b""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            self._files.count(error)
            return
        try:
            for _ in range(self._max_table_bytes // 4096):
                piece = os.read(fd, self._piece_bytes)
                if not piece:
                    break
                lines, newline, rest = (rest + piece).rpartition(b"\n")
                yield lines + newline
            else:
                self.failures["too_many"] += 1
        except OSError as error:
            self._files.count(error)
        finally:
            os.close(fd)


class Sockets(Protocol):
    """A source of the TCP sockets of processes; for one thread at a time."""

    failures: dict[str, int]

    def refresh(self, at_s: float) -> None:
        """Read what is to be known before a process is asked for."""

    def sockets_of(self, pid: int, at_s: float) -> OpenSockets | None:
        """Return the sockets of ``pid``; None if it exited or cannot be read."""

    def close(self) -> None:
        """Release the kernel's resources."""


class ConnectionReader(QueuedReader[OpenSockets]):
    """Read sockets in a thread; ``failures`` has those of the source, too."""

    def __init__(
        self,
        proc: str = "/proc",
        *,
        reader: Sockets | None = None,
        rest_per_work: float = _REST_PER_WORK,
    ) -> None:
        """``rest_per_work``: the thread pauses for so many times its CPU time."""
        super().__init__()
        self._proc = proc
        self._reader = reader or SocketReader(proc)
        self._rest_per_work = rest_per_work
        self.failures = self._reader.failures
        self.failures["crowded"] = 0
        self.at_s = 0.0
        """Time of the last tick; connections count from it."""
        self._refreshed_s = 0.0
        self._is_closed = threading.Event()
        self._thread = Worker("connections", self._serve).start()

    def close(self) -> None:
        """End the thread once it has read its current process."""
        self._is_closed.set()
        super().close()

    def _serve(self) -> None:
        try:
            while not self._is_closed.is_set():
                question = self.questions.pop(_REFRESH_S)
                worked_s = time.thread_time()
                if question is not None:
                    self._answer(question.process)
                elif self._refreshed_s < self.at_s:
                    self._refreshed_s = self.at_s
                    self._reader.refresh(self.at_s)
                self._is_closed.wait(self._rest_per_work * (time.thread_time() - worked_s))
        finally:
            if self._is_closed.is_set():
                self._reader.close()

    def _answer(self, process: ProcessId) -> None:
        sockets = None
        try:
            sockets = self._reader.sockets_of(process.pid, self.at_s)
            if not is_alive(self._proc, process):
                sockets = None
        finally:
            self._finish(process, sockets)


def _address(digits: bytes) -> str:
    return address_text(_packed(digits))


def _packed(digits: bytes) -> bytes:
    """Decode an address: the kernel prints each 32-bit word in this machine's byte order."""
    words = [int(digits[at : at + 8], 16) for at in range(0, len(digits), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    return packed if len(packed) == 16 else MAPPED + packed
