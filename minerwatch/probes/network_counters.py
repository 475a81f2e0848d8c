"""Network counters of pods, as rates, and where the connects lead that fail.

All containers of a pod share its network namespace. Facts go to those of them that use a fifth of
its CPU time or more while its network is busy, so that an idle neighbour is not blamed. Where a pod
has made more namespaces, facts are those of the one that is nearest to a scan or a flood. The
host's own namespace is left out: it is shared by all that runs there.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from minerwatch.detection.facts import measured
from minerwatch.detection.network_rates import network_facts
from minerwatch.model import ContainerKey, Facts, FactValue
from minerwatch.network_totals import DeviceCounters, NetworkCounters
from minerwatch.node.network_counters import CounterReader
from minerwatch.node.pod_sockets import PodSockets, Tally, Watched
from minerwatch.node.socket_iterator import address_text
from minerwatch.probes.base import NO_FACTS

_QUIET_PACKETS_PER_S = 10.0
"""Below, the protocols of a namespace are not read: nothing in it scans or floods."""
_MIN_WINDOW_S = 30.0
_WINDOW_TICKS = 2.5
"""Ticks in a window, where these take long."""
_MAX_NAMESPACES_OF_ONE = 32
"""Nested ones of one pod, which it makes itself; idle ones make room."""
_MAX_NESTED = 4096
"""Of all pods."""
_MIN_CPU_SHARE = 0.2
_CPU_DECAY = 0.8
"""Kept at each tick of the CPU time that shares are of."""
_MIN_CPU_S = 0.01
_LOOKED_AT_CONNECTS = 5.0
_LOOKED_AT_FAILED = 0.3
_LOOKED_AT_SEGMENTS = 3.0
"""Connects per second, their failed share or segments of each, from which they are looked at."""
_MAX_HOST_USER_AGE_S = 600.0
_TOUCHES_PER_S, _TOUCH_SEGMENTS, _TOUCHES_FAIL = 20.0, 2.5, 0.6
_KTHREADD_PID = 2
_RAW_PACKETS_PER_S = 10.0
_MIN_SPREAD = 0.35
"""Below, connects that fail lead to the same ends again: no scan."""
_NOTABLE = {
    "ConnectsPerSecond": _LOOKED_AT_CONNECTS,
    "DatagramsPerSecond": 30.0,
    "RawPacketsPerSecond": _RAW_PACKETS_PER_S,
    "ShortLoginsPerMinute": 30.0,
    "PeerCount": 12.0,
}
"""Rates from which a container's rules are matched however little CPU time it uses."""


class NetworkUser(NamedTuple):
    """A container that ran since the last tick."""

    key: ContainerKey
    owner: Hashable
    cpu_s: float  # since the last tick
    pids: Sequence[int]
    first_pid: int  # of its pod: of the sandbox, if there is one


@dataclass(slots=True)
class _Namespace:
    pid: int
    owner: Hashable
    is_nested: bool
    devices: DeviceCounters
    readings: deque[NetworkCounters] = field(default_factory=deque)
    cpu_s: dict[ContainerKey, float] = field(default_factory=dict)
    rates: Facts = field(default_factory=dict)  # between the first reading and the last
    facts: Facts = field(default_factory=dict)
    last_read_s: float = 0.0
    busy_s: float = float("-inf")
    read_count: int = 0  # since it was opened
    was_skipped: bool = False  # since it was read
    skipped_s: float = float("-inf")

    def is_busy(self, since_s: float) -> bool:
        """Return True if it has sent packets since then."""
        return self.busy_s >= since_s

    def is_skipped(self, at_s: float) -> bool:
        """Return True if it is not read at this tick."""
        return self.skipped_s == at_s

    def may_skip(self) -> bool:
        """Return True if it need not be read: it did nothing notable at the last tick."""
        is_known = self.read_count >= 1 and len(self.readings) != 1
        return is_known and not (self.was_skipped or self.is_nested or _is_notable(self.facts))

    def is_due(self) -> bool:
        """Return True for a nested one that was read once, or may scan or flood."""
        return self.is_nested and (len(self.readings) == 1 or _rank(self.facts) >= 1)


class PodNetworks:
    """Facts on the network of containers; for one thread at a time."""

    def __init__(
        self,
        reader: CounterReader | None = None,
        sockets: PodSockets | None = None,
    ) -> None:
        """``sockets`` shows where connections lead."""
        self._reader = reader or CounterReader()
        self._sockets = sockets
        # Kernel threads are in it, too, and can be asked where PID 1 cannot
        self._host = self._reader.namespace(1) or self._reader.namespace(_KTHREADD_PID)
        self._namespaces: dict[int, _Namespace] = {}
        self._host_users: dict[ContainerKey, float] = {}  # when each was seen
        self._inodes: dict[int, int | None] = {}  # of processes, at this tick
        self._inodes_before: dict[int, int | None] = {}
        self._at_s = 0.0
        self._window_s = _MIN_WINDOW_S
        self._facts: dict[ContainerKey, Facts] = {}

    def facts(self, container: ContainerKey) -> Facts:
        """Return the rates of the container's namespace; empty if it is quiet."""
        return self._facts.get(container, NO_FACTS)

    def is_notable(self, container: ContainerKey) -> bool:
        """Return True if the container's network does enough for rules to match."""
        return _is_notable(self._facts.get(container, NO_FACTS))

    def uses_host_network(self, pid: int) -> bool:
        """Return True if a process shares the host's network namespace."""
        return self._host is not None and self._reader.namespace(pid) == self._host

    @property
    def host_users(self) -> int:
        """Containers without counters of their own: they ran lately in the host's network."""
        return len(self._host_users)

    def recent(self) -> Collection[ContainerKey]:
        """Return the containers with facts at the last tick: to be read even if they did not run.

        Else one that is skipped at every other tick would never match for long.
        """
        return tuple(self._facts)

    def failures(self) -> Iterator[tuple[str, int]]:
        """Yield failures since the start: reason, count."""
        yield from self._reader.failures.items()
        if self._sockets is not None:
            yield from self._sockets.failures()

    def close(self) -> None:
        """End the thread that looks at connects."""
        if self._sockets is not None:
            self._sockets.close()

    def tick(self, users: Iterable[NetworkUser], at_s: float) -> None:
        """Read the namespaces of containers that ran since the last tick."""
        self._inodes_before, self._inodes = self._inodes, {}
        self._window_s = max(_MIN_WINDOW_S, _WINDOW_TICKS * (at_s - self._at_s))
        self._at_s = at_s
        by_namespace: dict[int, list[NetworkUser]] = {}
        due: dict[Hashable, list[int]] = {}  # processes whose namespaces are to be read again
        for each in self._namespaces.values():
            if each.is_due():
                due.setdefault(each.owner, []).append(each.pid)
        for user in users:
            for inode in self._namespaces_of(user, due.get(user.owner, ()), at_s):
                by_namespace.setdefault(inode, []).append(user)
        self._facts = {}
        watched: dict[int, Watched] = {}
        for inode, own in by_namespace.items():
            namespace = self._namespaces[inode]
            if not namespace.is_skipped(at_s):
                self._read(namespace, at_s)
            if not namespace.readings:
                namespace.cpu_s, namespace.facts = {}, {}
                continue
            namespace.facts = self._facts_of(inode, namespace)
            self._give_facts(namespace, own)
            # Others of them may be in a namespace of their own
            pids = dict.fromkeys((namespace.pid, *(pid for user in own for pid in user.pids)))
            watched[inode] = Watched(
                [*pids],
                has_failures=_has_failures(namespace.facts),
                closes_at_once=_closes_at_once(namespace.facts),
            )
        if self._sockets is not None:
            self._sockets.watch(watched)
        long_ago_s = at_s - 2 * self._window_s
        gone = [each for each, own in self._namespaces.items() if own.last_read_s < long_ago_s]
        for inode in gone:
            del self._namespaces[inode]
        long_ago_s = at_s - _MAX_HOST_USER_AGE_S
        self._host_users = {k: s for k, s in self._host_users.items() if s >= long_ago_s}

    def _namespaces_of(self, user: NetworkUser, due: Iterable[int], at_s: float) -> set[int]:
        """Return the namespaces of two of its processes: the pod's first, and one at random.

        The first alone would not do where a process can make a namespace of its own. Those that
        need another reading, or may scan or flood, are read again, whichever process is drawn.
        Where the pod's own is read every other tick, a process is drawn at the others.
        """
        found: set[int] = set()
        again = [pid for pid in due if pid in user.pids]
        own = self._namespaces.get(self._inode(user.first_pid, is_first=True) or 0)
        if own is None or not own.was_skipped or own.is_skipped(at_s):
            again.append(random.choice(user.pids))  # noqa: S311
        for pid in {user.first_pid, *again}:
            is_first = pid == user.first_pid
            inode = self._inode(pid, is_first=is_first)
            if inode is None or inode == self._host or self._host is None:
                if inode is not None and is_first:
                    self._host_users[user.key] = at_s
                continue
            known = self._namespaces.get(inode)
            if known is not None:
                known.pid, known.last_read_s = pid, at_s
                found.add(inode)
                known.is_nested = known.is_nested and not is_first
            elif is_first or self._make_room(user.owner, at_s):
                is_open = self._add_namespace(inode, pid, user.owner, at_s, is_nested=not is_first)
                found.update([inode] if is_open else ())
        return found

    def _inode(self, pid: int, *, is_first: bool) -> int | None:
        """Return the namespace of a process; that of the last tick if it need not be read."""
        if pid not in self._inodes:
            inode = self._inodes_before.get(pid)
            known = self._namespaces.get(inode) if inode is not None else None
            if inode is not None and known is not None and is_first and known.may_skip():
                known.skipped_s, known.was_skipped = self._at_s, True
            else:
                inode = self._reader.namespace(pid)
            self._inodes[pid] = inode
        return self._inodes[pid]

    def _make_room(self, owner: Hashable, at_s: float) -> bool:
        """Return True if there is room for a nested namespace; drop another if need be."""
        nested = {inode: each for inode, each in self._namespaces.items() if each.is_nested}
        own = {inode: each for inode, each in nested.items() if each.owner == owner}
        if len(own) < _MAX_NAMESPACES_OF_ONE and len(nested) < _MAX_NESTED:
            return True
        others = [i for i, each in own.items() if each.last_read_s < at_s and _rank(each.facts) < 1]
        if not others:
            return False
        since_s = at_s - self._window_s
        del self._namespaces[
            min(others, key=lambda i: (own[i].is_busy(since_s), own[i].last_read_s))
        ]
        return True

    def _add_namespace(
        self, inode: int, pid: int, owner: Hashable, at_s: float, *, is_nested: bool
    ) -> bool:
        devices = self._reader.devices(pid, at_s)
        if devices is None:
            return False
        reading = self._reader.protocols(pid, devices)
        self._namespaces[inode] = _Namespace(
            pid, owner, is_nested, devices, deque([reading] if reading else ()), last_read_s=at_s,
            read_count=-(len(self._namespaces) % 2),  # half are skipped while others are read
        )  # fmt: skip
        return True

    def _read(self, namespace: _Namespace, at_s: float) -> None:
        """Add a reading, while packets are sent and for a window after that; else drop all."""
        before, namespace.last_read_s, namespace.was_skipped = namespace.devices, at_s, False
        if before.at_s == at_s:
            return
        readings, since_s = namespace.readings, at_s - self._window_s
        namespace.read_count += 1
        now = self._reader.devices(namespace.pid, at_s)
        if now is None:
            readings.clear()
            return
        namespace.devices = now
        sent = now.sent_packets - before.sent_packets
        if sent >= _QUIET_PACKETS_PER_S * (at_s - before.at_s):
            namespace.busy_s = at_s
        if readings and readings[-1].devices.at_s < since_s:
            readings.clear()  # its rates would be those of hours
        if not namespace.is_busy(since_s):
            readings.clear()
            return
        reading = self._reader.protocols(namespace.pid, now, readings[-1] if readings else None)
        if reading is not None:
            readings.append(reading)
        while len(readings) > 2 and readings[1].devices.at_s <= since_s:
            readings.popleft()
        namespace.rates = network_facts(readings[0], readings[-1]) if readings else {}

    def _facts_of(self, inode: int, namespace: _Namespace) -> Facts:
        facts = dict(namespace.rates)
        if _number(facts, "RawPacketsPerSecond") >= _RAW_PACKETS_PER_S:
            facts["RawSocketCount"] = self._reader.raw_sockets(namespace.pid)
        seen = self._sockets.seen(inode) if self._sockets is not None else None
        if seen is None:
            return facts
        if _has_failures(facts):
            facts |= _tally_facts("Unanswered", seen.unanswered)
            facts |= measured(UnansweredSpread=seen.unanswered.spread)
            if seen.closed.connections:
                facts |= _tally_facts("Closed", seen.closed)
                facts |= measured(ClosedSpread=seen.closed.spread)
        facts |= measured(PeerCount=seen.peers, PodAcceptsConnections=seen.accepts)
        if seen.short_sessions.connections:
            facts |= _tally_facts("ShortLogin", seen.short_sessions)
            facts["ShortLoginsPerMinute"] = seen.short_sessions.connections
        return facts

    def _give_facts(self, namespace: _Namespace, users: Iterable[NetworkUser]) -> None:
        users = tuple(users)
        kept = {key: _CPU_DECAY * cpu_s for key, cpu_s in namespace.cpu_s.items()}
        namespace.cpu_s = {key: cpu_s for key, cpu_s in kept.items() if cpu_s >= _MIN_CPU_S}
        for user in users:
            namespace.cpu_s[user.key] = namespace.cpu_s.get(user.key, 0.0) + user.cpu_s
        least_s = _MIN_CPU_SHARE * sum(namespace.cpu_s.values())
        # Of many that use little each, those that use most: else none would be left
        least_s = min(least_s, max(namespace.cpu_s[user.key] for user in users))
        for user in users:
            known = self._facts.get(user.key)
            is_nearer = not known or _rank(namespace.facts) > _rank(known)
            if is_nearer and namespace.cpu_s[user.key] >= least_s:
                self._facts[user.key] = namespace.facts


def _tally_facts(name: str, tally: Tally) -> dict[str, FactValue]:
    return {
        f"{name}Count": tally.ends,
        f"{name}Ip": tuple(map(address_text, tally.addresses)),
        f"{name}Port": tuple(map(str, tally.ports)),
    }


def _is_notable(facts: Facts) -> bool:
    return any(_number(facts, name) >= least for name, least in _NOTABLE.items())


def _rank(facts: Facts) -> float:
    """Return how near the facts are to a scan, a flood or guesses: from 1 on they may be one."""
    failed = _number(facts, "ConnectsPerSecond") * _number(facts, "FailedConnectShare")
    if _number(facts, "UnansweredSpread", 1.0) < _MIN_SPREAD:
        failed = 0.0
    unanswered = 1 - _number(facts, "DatagramAnswerShare", 1.0)
    return max(
        failed / 5,
        _number(facts, "DatagramsPerSecond") * unanswered / 3000,
        _number(facts, "UnreachablePerSecond") / 5,
        _number(facts, "RawPacketsPerSecond") / 20,
        _number(facts, "ShortLoginsPerMinute") / 60,
    )


def _has_failures(facts: Facts) -> bool:
    """Return True if many connects fail, or bring little."""
    fails = _number(facts, "FailedConnectShare") >= _LOOKED_AT_FAILED
    brings_little = _number(facts, "SegmentsPerConnect", _LOOKED_AT_SEGMENTS) < _LOOKED_AT_SEGMENTS
    return _number(facts, "ConnectsPerSecond") >= _LOOKED_AT_CONNECTS and (fails or brings_little)


def _closes_at_once(facts: Facts) -> bool:
    """Return True if many connections bring nothing: as in rules/network/connects_say_nothing."""
    return (
        _number(facts, "ConnectsPerSecond") >= _TOUCHES_PER_S
        and _number(facts, "SegmentsPerConnect", _TOUCH_SEGMENTS + 1) <= _TOUCH_SEGMENTS
        and _number(facts, "FailedConnectShare") < _TOUCHES_FAIL
    )


def _number(facts: Facts, name: str, default: float = 0.0) -> float:
    value = facts.get(name, default)
    return float(value) if isinstance(value, int | float) else default
