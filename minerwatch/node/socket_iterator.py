"""All TCP sockets of the node in one read, by a BPF iterator (bpf/socket_iterator.bpf.c).

Sockets of all network namespaces come with counters that /proc does not have. A process that keeps
a socket only in an io_uring (a direct descriptor) or in flight between two processes has it in no
table of files: it is not seen, here or in /proc.
"""

from __future__ import annotations

import os
import random
import socket
import time
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import chain
from struct import Struct
from typing import NamedTuple

from minerwatch.errors import SourceUnavailableError
from minerwatch.model import Connection, OpenSockets
from minerwatch.node.bpf_iterator import OUTSIDE_HOST_PIDS, BpfIterator

ROW = Struct("=QQQIIIIIHHBBBxI16s")
"""As struct record in bpf/socket_iterator.bpf.c."""
_BRIEF = Struct("=QQQIIII4xHHBB22x")
"""What is read of every socket: inode, bytes received and sent, segments received and sent,
namespace, pid, local and remote port, state, raw or not."""
_ADDRESS = Struct("=56x16s")
_NAMESPACE = Struct("=32xI36x")
_INITIAL_SEQUENCE = Struct("=52xI16x")
_INODE = Struct("=Q64x")
_ESTABLISHED, _SYN_SENT, _CLOSE, _LISTEN = 1, 2, 7, 10  # include/net/tcp_states.h
_MAX_ROWS = 131_072
"""Read at once: 10 MiB."""
_MAX_CONNECTIONS = 64
"""Reported of one process."""
_MAX_KNOWN = 32_768
"""Connections whose age is kept. Beyond, processes with few are kept first."""
_MAX_UNANSWERED = 4096
"""Connects without an answer that are kept of one network namespace."""
_MAX_ONE_BY_ONE = 32
"""Processes that are read one by one at one look; more take as long as all sockets."""
_READS_AT_ONCE = 96
_READS_CPU_S = 0.005
_MAX_AGE_S = 5.0
"""So long one read serves all questions."""
MAPPED = b"\0" * 10 + b"\xff\xff"
"""Before an IPv4 address of 16 bytes."""

_LOOPBACK_V4, _LOOPBACK_V6 = MAPPED + b"\x7f", b"\0" * 15 + b"\1"

RemoteEnd = tuple[int, bytes, int]
"""A connection's inode, remote address (IPv4 as ::ffff:a.b.c.d) and remote port."""
ConnectionStart = tuple[int, bytes, int]
"""The sequence number of the SYN, the remote address and port."""
_Start = tuple[float, int, int]
"""When a connection was first seen, and the bytes and segments that it had transferred by then."""


class Holder(NamedTuple):
    """A process that has a connection open."""

    pid: int
    inode: int
    namespace: int  # of the connection


@dataclass(frozen=True, slots=True)
class NamespaceSockets:
    """Connections of one network namespace to other hosts."""

    outbound: Sequence[RemoteEnd] = ()
    accepts: bool = False  # another host has opened one
    unanswered: Sequence[RemoteEnd] = ()


class SocketTable:
    """The sockets of one read, by process and by network namespace.

    ``unanswered``: connects that have no answer yet, or were refused, by namespace;
    ``raw``: how many raw and packet sockets are open, by namespace.
    """

    def __init__(self, content: bytes | bytearray) -> None:
        self._content = content
        self._established: dict[int, array[int]] = {}
        self._local: set[tuple[int, int]] = set()  # namespaces and ports that are listened on
        self._listeners: set[int] = set()
        self.unanswered: dict[int, list[RemoteEnd]] = {}
        self.raw: Counter[int] = Counter()
        self._known: dict[int, tuple[int, int]] = {}
        at, of_pid, own_offsets = -ROW.size, -1, array("L")
        for (
            inode, received, sent, segments_in, segments_out, namespace, pid, port, remote_port,
            state, is_raw,
        ) in _BRIEF.iter_unpack(content):  # fmt: skip
            at += ROW.size
            if state == _ESTABLISHED and not is_raw:
                if pid != of_pid:  # those of a process follow each other
                    of_pid, own_offsets = pid, self._established.setdefault(pid, array("L"))
                own_offsets.append(at)
                self._known[inode] = received + sent, segments_in + segments_out
            elif is_raw:
                self.raw[namespace] += 1
            elif state == _LISTEN:
                self._local.add((namespace, port))
                self._listeners.add(pid)
            elif state == _SYN_SENT or (state == _CLOSE and remote_port and not segments_out):
                own = self.unanswered.setdefault(namespace, [])
                if len(own) < _MAX_UNANSWERED:
                    own.append((inode, *_ADDRESS.unpack_from(content, at), remote_port))

    def __len__(self) -> int:
        return len(self._content) // ROW.size

    def starts(self, before: dict[int, _Start], at_s: float) -> dict[int, _Start]:
        """Return the start of each connection: that in ``before``, or now."""
        inodes: Iterable[int] = self._known
        if len(self._known) > _MAX_KNOWN:
            inodes = self._of_modest_processes()
        get, known = before.get, self._known
        return {inode: get(inode) or (at_s, *known[inode]) for inode in inodes}

    def sockets_of(self, pid: int, starts: dict[int, _Start], at_s: float) -> OpenSockets:
        """Return what a process has open."""
        found: list[Connection] = []
        accepts = pid in self._listeners
        for at in self._established.get(pid, ()):
            row = ROW.unpack_from(self._content, at)
            inode, namespace, local_port, remote_port = row[0], row[5], *row[8:10]
            if (namespace, local_port) in self._local:
                accepts = True
                continue
            start = starts.get(inode) or (at_s, *self._known[inode])
            has_counters, address = row[12], row[14]
            hours = (at_s - start[0]) / 3600 if has_counters else 0.0
            grown = (now - then for now, then in zip(self._known[inode], start[1:], strict=True))
            rates = [each / hours for each in grown] if hours else (None, None)
            found.append(Connection(address_text(address), remote_port, start[0], *rates))
        found.sort(key=lambda each: (each.since_s, each.address, each.port))
        return OpenSockets(tuple(found[:_MAX_CONNECTIONS]), accepts)

    def of_namespaces(self, wanted: Set[int]) -> dict[int, NamespaceSockets]:
        """Return the connections of these namespaces, without those over loopback."""
        outbound: dict[int, list[RemoteEnd]] = {each: [] for each in wanted}
        accepting: set[int] = set()
        for at in chain.from_iterable(self._established.values()):
            if _NAMESPACE.unpack_from(self._content, at)[0] not in wanted:
                continue
            row = ROW.unpack_from(self._content, at)
            inode, namespace, local_port, remote_port = row[0], row[5], *row[8:10]
            if is_loopback(row[14]):
                continue
            if (namespace, local_port) in self._local:
                accepting.add(namespace)
            else:
                outbound[namespace].append((inode, row[14], remote_port))
        return {
            each: NamespaceSockets(ends, each in accepting, self.unanswered.get(each, ()))
            for each, ends in outbound.items()
        }

    def _of_modest_processes(self) -> list[int]:
        inodes: dict[int, None] = {}
        for offsets in sorted(self._established.values(), key=len):
            for at in offsets:
                if len(inodes) >= _MAX_KNOWN:
                    return [*inodes]
                inodes[_BRIEF.unpack_from(self._content, at)[0]] = None
        return [*inodes]


class SocketIterator:
    """Reads all sockets repeatedly; for one thread at a time.

    ``failures`` counts what went wrong since the start, by reason: ``unreadable``, or ``too_many``
    sockets to read them all.
    """

    def __init__(self, *, reads_cpu_s: float = _READS_CPU_S) -> None:
        """Load the program into the kernel. Raises SourceUnavailableError.

        ``reads_cpu_s``: CPU time after which ``unanswered`` reads no more.
        """
        self._reads_cpu_s = reads_cpu_s
        self._iterator = BpfIterator(
            "socket_iterator", ROW.size, needs="Linux 5.11", what="socket iterator"
        )
        self.failures = self._iterator.failures
        self.failures["too_many"] = 0
        self._table: SocketTable | None = None
        self._starts: dict[int, _Start] = {}
        self._last_read_s = float("-inf")
        with socket.socket() as own:
            me = os.fstat(own.fileno()).st_ino, os.getpid()
            found = [*self._inodes_and_pids(self._iterator.pieces())]
            alone = {pid for _, pid in self._inodes_and_pids(self._iterator.pieces_of(me[1]))}
        if me not in found:
            self.close()
            raise SourceUnavailableError(OUTSIDE_HOST_PIDS)
        self._reads_one_process = alone == {me[1]}

    def table(self) -> SocketTable | None:
        """Read all sockets of the node; None if that failed."""
        failed = self.failures["unreadable"]
        table = SocketTable(self._content(self._iterator.pieces()))
        return table if self.failures["unreadable"] == failed else None

    def refresh(self, at_s: float) -> None:
        """Read all sockets, so that the ages of those are known that are open now."""
        self._table, self._last_read_s = None, at_s  # the old one is freed before the next is read
        self._table = table = self.table()
        if table is not None:
            self._starts = table.starts(self._starts, at_s)

    def sockets_of(self, pid: int, at_s: float) -> OpenSockets | None:
        """Return the sockets of ``pid``, as of the last five seconds; None if that failed."""
        if at_s >= self._last_read_s + _MAX_AGE_S:
            self.refresh(at_s)
        if self._table is None:
            return None
        return self._table.sockets_of(pid, self._starts, self._last_read_s)

    def by_namespace(self, namespaces: Set[int]) -> dict[int, NamespaceSockets] | None:
        """Return the connections of these namespaces; None if they cannot be read."""
        table = self.table()
        return table.of_namespaces(namespaces) if table is not None else None

    def holders(self, wanted: Set[ConnectionStart]) -> dict[ConnectionStart, list[Holder]]:
        """Return the processes that have these connections open."""
        sequences = {sequence for sequence, *_ in wanted}
        found: dict[ConnectionStart, list[Holder]] = {}
        for piece in self._iterator.pieces():
            for number, (sequence,) in enumerate(_INITIAL_SEQUENCE.iter_unpack(piece)):
                if sequence in sequences:
                    row = ROW.unpack_from(piece, number * ROW.size)
                    start = (sequence, row[14], row[9])
                    if start in wanted:
                        found.setdefault(start, []).append(Holder(row[6], row[0], row[5]))
        return found

    def still_open(self, inodes: Set[int]) -> set[int]:
        """Return those of the sockets that a process has open."""
        pieces = self._iterator.pieces()
        return {i for piece in pieces for (i,) in _INODE.iter_unpack(piece) if i in inodes}

    def unanswered(self, namespace: int, pids: Sequence[int]) -> Iterator[RemoteEnd]:
        """Yield connects of ``pids`` that have no answer, or were refused; some repeatedly.

        Where the kernel can (Linux 6.1), their sockets are read again and again: one that a
        neighbour refuses is there for some ten microseconds. Of many processes, some at random.
        """
        if not self._reads_one_process:
            return
        if len(pids) > _MAX_ONE_BY_ONE:
            pids = random.sample(pids, _MAX_ONE_BY_ONE)
        ends_s = time.thread_time() + self._reads_cpu_s
        for pid in [*pids] * (_READS_AT_ONCE // max(1, len(pids))):
            content = self._content(self._iterator.pieces_of(pid))
            yield from SocketTable(content).unanswered.get(namespace, ())
            if time.thread_time() >= ends_s:  # a process may have very many sockets
                return

    def close(self) -> None:
        """Remove the program from the kernel."""
        self._iterator.close()

    def _content(self, pieces: Iterable[bytes]) -> bytearray:
        """Join rows, without a second copy of all."""
        content = bytearray()
        most = _MAX_ROWS * ROW.size
        for piece in pieces:
            content += piece
            if len(content) > most:
                del content[most:]
                self.failures["too_many"] += 1
                break
        return content

    def _inodes_and_pids(self, pieces: Iterable[bytes]) -> Iterator[tuple[int, int]]:
        for piece in pieces:
            yield from ((row[0], row[6]) for row in ROW.iter_unpack(piece))


def is_loopback(address: bytes) -> bool:
    """Return True for an address of 16 bytes that is this host's own."""
    return address.startswith(_LOOPBACK_V4) or address == _LOOPBACK_V6


def address_text(address: bytes) -> str:
    """Return an address of 16 bytes as text; IPv4 as such."""
    if address.startswith(MAPPED):
        return socket.inet_ntop(socket.AF_INET, address[12:])
    return socket.inet_ntop(socket.AF_INET6, address)
