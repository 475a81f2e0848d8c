"""Ends of pods' connections: those that fail, short ones to login services, all peers.

The kernel counts failed connects, but not where they led. A thread looks at the sockets of chosen
network namespaces again and again, at random times, within a share of one core: a connect to a host
that is silent has its socket open for seconds, one that is refused for as long as a packet travels.
What was answered and closed at once the kernel remembers for a minute (TIME_WAIT).
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from minerwatch.node.cluster_networks import ClusterNetworks
from minerwatch.node.socket_iterator import NamespaceSockets, RemoteEnd, address_text, is_loopback
from minerwatch.worker import Worker

_MAX_CPU_SHARE = 0.02
_PAUSE_S = (0.02, 0.2)
_LOGIN_PAUSE_S = (0.5, 1.5)
_CALM_PAUSE_S = (10.0, 20.0)
_CALM_CPU_SHARE = 0.001
_NEW_LOGINS = 4
"""Connections to login services, new at one look, after which the next one comes soon."""
_MAX_PEERS = 64
"""Counted of one namespace."""
_MAX_ENDS = 1024
"""Ends of connects without an answer, kept of one namespace: those that were seen last."""
_MAX_CONNECTS = 16_384
"""Without an answer, looked at in one namespace at once."""
_MAX_CONNECTS_OF_END = 4
"""Counted of one end, so that decoys to it do not hide the others."""
_MAX_CONNECT_AGE_S = 60.0
_CLOSED_EVERY_S = 10.0
_MAX_ENDED = 1024
_MIN_CONNECTS = 3
"""With fewer, their spread is not reported."""
_SHORT_S = 30.0
_RATE_S = 60.0
_LISTED = 8
LOGIN_PORTS = frozenset((21, 22, 23, 139, 445, 2222, 3389, 5900, 5985))
"""FTP, SSH, Telnet, SMB, RDP, VNC, WinRM."""
DATABASE_PORTS = frozenset((389, 1433, 1521, 3306, 5432, 5984, 6379, 9200, 11211, 27017))
"""Inside the cluster many a program opens a connection to its database for each query."""

_Remote = tuple[bytes, int]


@dataclass(frozen=True, slots=True)
class Watched:
    """A network namespace to look at."""

    pids: Sequence[int]  # the first is in it, others are of the same pod
    has_failures: bool  # its connects are looked at as often as the share of a core permits
    closes_at_once: bool = False  # many connections bring nothing: where they led is read, too


@dataclass(frozen=True, slots=True)
class Tally:
    """Ends that connections led to; addresses and ports by number of connections."""

    connections: int = 0
    ends: int = 0  # distinct addresses with ports
    addresses: tuple[bytes, ...] = ()
    ports: tuple[int, ...] = ()

    @property
    def spread(self) -> float | None:
        """Distinct ends per connection; None if there are few."""
        return self.ends / self.connections if self.connections >= _MIN_CONNECTS else None


@dataclass(frozen=True, slots=True)
class PodConnections:
    """Connections of one namespace, as far as they were seen."""

    unanswered: Tally
    short_sessions: Tally  # to login services, that ended within the last minute
    closed: Tally  # ends of connections that it closed within the last minute
    peers: int | None  # addresses outside the cluster to which connections were opened
    accepts: bool | None  # it has a connection that another host opened; None: not measured


class PodSocketsSource(Protocol):
    """A source of the sockets of network namespaces."""

    failures: dict[str, int]

    def by_namespace(self, namespaces: Set[int]) -> Mapping[int, NamespaceSockets] | None:
        """Return the sockets of these namespaces; None if all sockets cannot be read."""

    def unanswered(self, namespace: int, pids: Sequence[int]) -> Iterable[RemoteEnd]:
        """Return connects that have no answer, some repeatedly; ``pids``: of the namespace."""

    def close(self) -> None:
        """Release the kernel's resources."""


class ClosedSource(Protocol):
    """A source of the ends of connections that were closed lately."""

    failures: dict[str, int]

    def closed(self, pid: int) -> Iterable[_Remote]:
        """Return those of the namespace of a process."""


@dataclass(slots=True)
class _Seen:
    unanswered: OrderedDict[_Remote, dict[int, float]] = field(default_factory=OrderedDict)
    """When each connect was last seen, by its end and inode."""
    sessions: dict[int, tuple[_Remote, float]] = field(default_factory=dict)  # open ones, by inode
    ended: deque[tuple[float, _Remote]] = field(default_factory=lambda: deque(maxlen=_MAX_ENDED))
    peers: int | None = None
    accepts: bool | None = None
    looks: int = 0
    closed: Sequence[_Remote] = ()
    closed_s: float = float("-inf")


class PodSockets:
    """Watches given namespaces."""

    def __init__(
        self,
        source: PodSocketsSource,
        networks: ClusterNetworks | None = None,
        closed: ClosedSource | None = None,
    ) -> None:
        """``networks``: inside the cluster; used by the thread, as are both sources."""
        self._closed = closed
        self._source = source
        self._networks = networks or ClusterNetworks()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._watched: Mapping[int, Watched] = {}
        self._seen: dict[int, _Seen] = {}
        self._is_closed = False
        self._has_begun = False  # connects fail since the last look
        self._thread: Worker | None = None

    def failures(self) -> Iterator[tuple[str, int]]:
        """Yield failures of the sources since the start: reason, count."""
        yield from self._source.failures.items()
        if self._closed is not None:
            yield from self._closed.failures.items()

    def start(self) -> PodSockets:
        """Look in a thread from now on."""
        self._thread = Worker("pod_network", self._serve).start()
        return self

    def watch(self, namespaces: Mapping[int, Watched]) -> None:
        """Watch these namespaces, and forget all others."""
        with self._lock:
            failing = {inode for inode, each in self._watched.items() if each.has_failures}
            self._watched = namespaces
            self._seen = {each: self._seen.get(each) or _Seen() for each in namespaces}
            self._has_begun = any(
                each.has_failures and inode not in failing for inode, each in namespaces.items()
            )
            self._changed.notify()

    def seen(self, namespace: int, now_s: float | None = None) -> PodConnections | None:
        """Return what was seen of a namespace since it is watched; None: nothing yet."""
        now_s = time.monotonic() if now_s is None else now_s
        with self._lock:
            seen = self._seen.get(namespace)
            if seen is None or not seen.looks:
                return None
            short = [remote for at_s, remote in seen.ended if at_s > now_s - _RATE_S]
            connects = [end for end, inodes in seen.unanswered.items() for _ in inodes]
            return PodConnections(
                _tally(connects), _tally(short), _tally(seen.closed), seen.peers, seen.accepts
            )

    def close(self) -> None:
        """End the thread."""
        if self._thread is None:
            self._source.close()
            return
        self._thread.close()
        with self._lock:
            self._is_closed = True
            self._changed.notify()

    def _serve(self) -> None:
        while not self._is_closed:
            with self._lock:
                self._changed.wait_for(lambda: self._watched or self._is_closed)
                self._has_begun = False
            worked_s = time.thread_time()
            pause_s = self.read_watched(time.monotonic())
            share = _CALM_CPU_SHARE if pause_s >= _CALM_PAUSE_S[0] else _MAX_CPU_SHARE
            pause_s = max((time.thread_time() - worked_s) / share, pause_s)
            with self._lock:
                self._changed.wait_for(lambda: self._has_begun or self._is_closed, pause_s)
        self._source.close()

    def read_watched(self, now_s: float) -> float:
        """Look once at all that is watched; return the pause until the next look."""
        pause_s = random.uniform(*_CALM_PAUSE_S)  # noqa: S311
        with self._lock:
            watched = self._watched
        self._update_closed(watched, now_s)
        sockets = self._source.by_namespace(watched.keys()) if watched else None
        for namespace, each in watched.items():
            connects: list[RemoteEnd] = []
            if each.has_failures:
                unanswered = self._source.unanswered(namespace, each.pids)
                connects = list(islice(unanswered, _MAX_CONNECTS))
            new = self._update(namespace, connects, sockets, now_s)
            if each.has_failures:
                pause_s = min(pause_s, random.uniform(*_PAUSE_S))  # noqa: S311
            elif new >= _NEW_LOGINS:
                pause_s = min(pause_s, random.uniform(*_LOGIN_PAUSE_S))  # noqa: S311
        return pause_s

    def _update(
        self,
        namespace: int,
        connects: Iterable[RemoteEnd],
        sockets: Mapping[int, NamespaceSockets] | None,
        now_s: float,
    ) -> int:
        """Keep what one look showed of a namespace; return how many sessions are new.

        ``sockets``: None if they cannot be read, so that sessions and peers stay as they are.
        """
        found = (sockets or {}).get(namespace, NamespaceSockets())
        peers, logins = self._peers(found, now_s), self._logins(found, now_s)
        with self._lock:
            seen = self._seen.get(namespace)
            if seen is None:
                return 0
            seen.looks += 1
            _drop_connects(seen, found.outbound, now_s)
            _add_connects(seen, [*connects, *found.unanswered], now_s)
            if sockets is None:
                return 0
            new = _add_sessions(seen, logins, now_s)
            seen.peers, seen.accepts = peers, found.accepts
            return new

    def _update_closed(self, watched: Mapping[int, Watched], now_s: float) -> None:
        """Read closed connections of one namespace: the kernel goes through those of all."""
        with self._lock:
            due = [
                (seen.closed_s, watched[namespace].pids[0], seen)
                for namespace, seen in self._seen.items()
                if namespace in watched
                and watched[namespace].closes_at_once
                and now_s >= seen.closed_s + _CLOSED_EVERY_S
            ]
        if not due or self._closed is None:
            return
        _, pid, seen = min(due, key=lambda each: each[0])
        ends = Counter(islice(self._closed.closed(pid), _MAX_CONNECTS))
        closed = [
            end
            for end, count in ends.items()
            if not is_loopback(end[0])
            for _ in range(min(count, _MAX_CONNECTS_OF_END))
        ]
        with self._lock:
            seen.closed, seen.closed_s = closed, now_s

    def _peers(self, found: NamespaceSockets, now_s: float) -> int:
        addresses = {address for _, address, _ in found.outbound}
        outside = (each for each in addresses if self._is_outside(each, now_s))
        return sum(1 for _ in islice(outside, _MAX_PEERS))

    def _logins(self, found: NamespaceSockets, now_s: float) -> list[RemoteEnd]:
        return [
            (inode, address, port)
            for inode, address, port in found.outbound
            if port in LOGIN_PORTS
            or (
                # A server may open a connection for each request that it accepts
                port in DATABASE_PORTS and not found.accepts and self._is_outside(address, now_s)
            )
        ]

    def _is_outside(self, address: bytes, now_s: float) -> bool:
        return self._networks.is_outside(address_text(address), now_s)


def _add_connects(seen: _Seen, connects: Iterable[RemoteEnd], now_s: float) -> None:
    for inode, address, port in connects:
        if is_loopback(address):
            continue
        inodes = seen.unanswered.setdefault((address, port), {})
        inodes.pop(inode, None)
        inodes[inode] = now_s
        seen.unanswered.move_to_end((address, port))
        if len(inodes) > _MAX_CONNECTS_OF_END:
            del inodes[next(iter(inodes))]
        if len(seen.unanswered) > _MAX_ENDS:
            seen.unanswered.popitem(last=False)


def _drop_connects(seen: _Seen, answered: Iterable[RemoteEnd], now_s: float) -> None:
    """Drop connects that have an answer by now, and those that were seen long ago."""
    for inode, address, port in answered:
        seen.unanswered.get((address, port), {}).pop(inode, None)
    for end, inodes in list(seen.unanswered.items()):
        for inode, at_s in list(inodes.items()):
            if at_s < now_s - _MAX_CONNECT_AGE_S:
                del inodes[inode]
        if not inodes:
            del seen.unanswered[end]


def _add_sessions(seen: _Seen, logins: Iterable[RemoteEnd], now_s: float) -> int:
    """Keep open sessions, and short ones that ended; return how many are new."""
    is_first = seen.peers is None
    before, seen.sessions = seen.sessions, {}
    for inode, address, port in logins:
        started_s = float("-inf") if is_first else now_s
        seen.sessions[inode] = before.pop(inode, ((address, port), started_s))
    seen.ended.extend(
        (now_s, remote) for remote, since_s in before.values() if now_s - since_s < _SHORT_S
    )
    return sum(since_s == now_s for _, since_s in seen.sessions.values())


def _tally(remotes: Sequence[_Remote]) -> Tally:
    addresses = Counter(address for address, _ in remotes)
    ports = Counter(port for _, port in remotes)
    return Tally(
        len(remotes),
        len(set(remotes)),
        tuple(address for address, _ in addresses.most_common(_LISTED)),
        tuple(port for port, _ in ports.most_common(_LISTED)),
    )
