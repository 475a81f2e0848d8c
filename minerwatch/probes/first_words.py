"""First words of connections, with the processes that sent them: facts of all processes.

A thread takes the packets that the kernel's filter passes, within a share of one core and a number
a second of each interface. A connection is found among the sockets by its server and the sequence
number of its first byte, so that data in the middle of a stream does not count; nor does a packet
under a false address, which comes by another interface. Packets are seen before NAT where they
leave a pod, and again after it: each connection counts once. Names that no rule asks for are
dropped at once.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from minerwatch.detection.condition import How, Text, predicates
from minerwatch.detection.predicate import TextTest, text_test
from minerwatch.detection.sigma.rule import Rule
from minerwatch.model import Facts, FactValue, ProcessId
from minerwatch.node.first_words import Packet
from minerwatch.node.packet_parser import FirstWords, first_words
from minerwatch.node.proc_files import STAT_BYTES, parse_stat, read_once
from minerwatch.node.socket_iterator import ConnectionStart, Holder
from minerwatch.probes.base import NO_FACTS
from minerwatch.worker import Worker

NAME_FIELDS = ("ServerName", "DestinationHostname")
_MAX_CPU_SHARE = 0.01
_MIN_PAUSE_S = 0.1
_PACKETS_AT_ONCE = 64
"""Of each of the kernel's buffers."""
_PACKETS_PER_S = 200
"""Parsed of one interface."""
_MAX_WAITING = 1024
"""Connections whose socket is not found yet."""
_MAX_WAITING_OF_ONE = 32
"""Of one interface."""
_MAX_COPIES = 4
"""Of one connection's first words, each with the ends that NAT gave it."""
_MAX_TRIES = 3
_TRY_PAUSE_S = 1.0
_MAX_COUNTED = 8192
"""Connections that are not counted again."""
_MAX_PROCESSES = 256
"""Kept of one network namespace."""
_MAX_NAMESPACES = 1024
_MAX_CONNECTIONS = 8
"""Kept of one process."""
_CHECK_S = 60.0
_KEPT_S = 600.0
"""After the connection was closed."""

_Message = tuple[int, tuple[str, ...], str]
"""The sequence number of the SYN and the first words: the same in all copies of a packet."""


class PacketSource(Protocol):
    """A source of packets; ``wake`` may be called from any thread, all else from one."""

    @property
    def lost(self) -> int:
        """Packets that the kernel had no room for, since the start."""

    def wait(self, timeout_s: float | None) -> bool:
        """Wait for a packet."""

    def wake(self) -> None:
        """End waiting."""

    def read(self, limit: int) -> Iterator[Packet]:
        """Yield packets that wait."""

    def close(self) -> None:
        """Release the kernel's resources."""


class Connections(Protocol):
    """A source of the node's connections."""

    failures: dict[str, int]

    def holders(self, wanted: Set[ConnectionStart]) -> Mapping[ConnectionStart, list[Holder]]:
        """Return the processes that have these connections open."""

    def still_open(self, inodes: Set[int]) -> Set[int]:
        """Return those of the sockets that a process has open."""

    def close(self) -> None:
        """Release the kernel's resources."""


class Links(Protocol):
    """A source of the links between network namespaces."""

    namespace: int  # in which packets are seen

    def peers(self) -> Mapping[str, int]:
        """Return the network in which each interface has its other end. Raises OSError."""

    def number_of(self, pid: int) -> int:
        """Return the network of a process, below 0 if none leads there. Raises OSError."""

    def close(self) -> None:
        """Release the kernel's resources."""


@dataclass(slots=True)
class _Waiting:
    interface: str
    came_by: set[str] = field(default_factory=set)  # interfaces
    starts: set[ConnectionStart] = field(default_factory=set)
    tries: int = 0


@dataclass(slots=True)
class _Kept:
    words: tuple[str, ...]
    server_name: str
    open_s: float  # when it was last seen open


_Processes = OrderedDict[ProcessId, dict[int, _Kept]]
"""Words that each process sent, by the inode of the connection."""


class WantedNames:
    """Names of servers on which a predicate of some rule holds."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._whole: set[str] = set()
        self._below: set[str] = set()
        self._others: list[TextTest] = []
        found = {each for rule in rules for each in predicates(rule.condition)}
        for each in found:
            if not isinstance(each, Text) or each.field not in NAME_FIELDS:
                continue
            if each.how is How.EQUALS:
                self._whole.add(each.pattern.lower())
            elif each.how is How.ENDSWITH and each.pattern.startswith("."):
                self._below.add(each.pattern.lower())
            else:
                self._others.append(text_test(each))

    def __contains__(self, name: str) -> bool:
        return (
            name in self._whole
            or any(name[at:] in self._below for at, byte in enumerate(name) if byte == ".")
            or any(test(name) for test in self._others)
        )


class FirstWordsProbe:
    """Facts PoolWords, ServerName and DestinationHostname of processes.

    It counts packets that the kernel ``left`` out, ``crowded`` ones of interfaces with too many,
    and connections ``unplaced`` because no process has them open.
    """

    def __init__(
        self, packets: PacketSource, connections: Connections, links: Links, *, proc: str = "/proc"
    ) -> None:
        self._counts = dict.fromkeys(("left", "crowded", "unplaced"), 0)
        self._packets = packets
        self._connections = connections
        self._links = links
        self._proc = proc
        self._names = WantedNames(())
        self._facts: dict[ProcessId, Facts] = {}  # replaced, never changed: others read it
        self._namespaces: OrderedDict[int, _Processes] = OrderedDict()
        self._waiting: dict[_Message, _Waiting] = {}
        self._counted: OrderedDict[_Message, None] = OrderedDict()
        self._parsed: Counter[str] = Counter()  # packets of each interface in this second
        self._second = self._tried_s = self._checked_s = 0.0
        self._is_closed = threading.Event()
        self._thread: Worker | None = None

    def start(self) -> FirstWordsProbe:
        """Read packets in a thread from now on."""
        self._thread = Worker("first_words", self._serve).start()
        return self

    def use(self, rules: Iterable[Rule]) -> None:
        """Keep the names that these rules ask for, from now on."""
        self._names = WantedNames(rules)

    def facts(self, process: ProcessId) -> Facts:
        """Return the facts about ``process``."""
        return self._facts.get(process, NO_FACTS)

    def processes(self) -> Collection[ProcessId]:
        """Return the processes with facts."""
        return self._facts.keys()

    def failures(self) -> Iterator[tuple[str, int]]:
        """Yield failures since the start: reason, count."""
        yield from self._connections.failures.items()
        yield from self._counts.items()

    @property
    def left_out(self) -> int:
        """Packets that were not looked at, since the start."""
        return self._counts["left"] + self._counts["crowded"]

    def close(self) -> None:
        """End the thread, and close the sources."""
        self._is_closed.set()
        if self._thread is None:
            self._close_sources()
            return
        self._thread.close()
        self._packets.wake()

    def read_packets(self, now_s: float) -> None:
        """Read waiting packets, and find the processes of their connections if that is due."""
        for packet in self._packets.read(_PACKETS_AT_ONCE):
            self._add_packet(packet, now_s)
        self._counts["left"] = self._packets.lost
        is_new = any(not each.tries for each in self._waiting.values())
        if is_new or (self._waiting and now_s >= self._tried_s + _TRY_PAUSE_S):
            self._tried_s = now_s
            self._attribute(now_s)
            self._publish()
        if self._namespaces and now_s >= self._checked_s + _CHECK_S:
            self._checked_s = now_s
            self._drop_closed(now_s)
            self._publish()

    def _serve(self) -> None:
        try:
            while not self._is_closed.is_set():
                self._packets.wait(_TRY_PAUSE_S if self._waiting else _CHECK_S)
                worked_s = time.thread_time()
                self.read_packets(time.monotonic())
                spent_s = time.thread_time() - worked_s
                self._is_closed.wait(max(spent_s / _MAX_CPU_SHARE, _MIN_PAUSE_S))
        finally:
            if self._is_closed.is_set():
                self._close_sources()

    def _close_sources(self) -> None:
        for source in (self._packets, self._connections, self._links):
            source.close()

    def _add_packet(self, packet: Packet, now_s: float) -> None:
        if now_s >= self._second + 1:
            self._second = now_s
            self._parsed.clear()
        self._parsed[packet.interface] += 1
        if self._parsed[packet.interface] > _PACKETS_PER_S:
            self._counts["crowded"] += 1
            return
        found = first_words(packet.content)
        if found is None or not (found.words or found.server_name in self._names):
            return
        message = found.initial_sequence, found.words, found.server_name
        if message not in self._counted:
            self._wait_for(message, found, packet)

    def _wait_for(self, message: _Message, found: FirstWords, packet: Packet) -> None:
        waiting = self._waiting.get(message)
        if waiting is None:
            own = sum(each.interface == packet.interface for each in self._waiting.values())
            if own >= _MAX_WAITING_OF_ONE or len(self._waiting) >= _MAX_WAITING:
                self._counts["crowded"] += 1
                return
            waiting = self._waiting[message] = _Waiting(packet.interface)
        if not packet.is_outgoing and len(waiting.came_by) < _MAX_COPIES:
            waiting.came_by.add(packet.interface)
        if len(waiting.starts) < _MAX_COPIES:
            waiting.starts.add((found.initial_sequence, found.remote, found.remote_port))

    def _attribute(self, now_s: float) -> None:
        """Find the processes that have the connections open; give up after some tries."""
        wanted = {start for each in self._waiting.values() for start in each.starts}
        holders = self._connections.holders(wanted)
        for message, waiting in [*self._waiting.items()]:
            waiting.tries += 1
            own = [each for start in waiting.starts for each in holders.get(start, ())]
            senders = [
                each
                for each in own
                if self._may_send(each, waiting.came_by) and self._keep(each, message, now_s)
            ]
            if senders or waiting.tries >= _MAX_TRIES:
                self._counts["unplaced"] += not senders
                del self._waiting[message]
                self._counted[message] = None
                if len(self._counted) > _MAX_COUNTED:
                    self._counted.popitem(last=False)

    def _may_send(self, holder: Holder, came_by: Set[str]) -> bool:
        """Return False if the packet came from another network: its addresses are forged.

        Of a network behind a pod's own, or without an interface here, that is not known.
        """
        try:
            namespace = Path(f"{self._proc}/{holder.pid}/ns/net").stat().st_ino
            number = self._links.number_of(holder.pid)
            peers = self._links.peers()
        except OSError:  # it has exited
            return False
        own = {name for name, other in peers.items() if other == number}
        if own and namespace == holder.namespace:
            return not own.isdisjoint(came_by)
        return holder.namespace != self._links.namespace or not came_by

    def _keep(self, holder: Holder, message: _Message, now_s: float) -> bool:
        """Keep the words; return False if the process has exited."""
        try:
            line = read_once(f"{self._proc}/{holder.pid}/stat", STAT_BYTES)
        except OSError:
            return False
        stat = parse_stat(holder.pid, line)
        if stat is None:
            return False
        own = self._namespaces.setdefault(holder.namespace, OrderedDict())
        self._namespaces.move_to_end(holder.namespace)
        connections = own.setdefault(stat.id, {})
        own.move_to_end(stat.id)
        connections[holder.inode] = _Kept(*message[1:], now_s)
        if len(connections) > _MAX_CONNECTIONS:
            del connections[next(iter(connections))]
        if len(own) > _MAX_PROCESSES:
            own.popitem(last=False)
        if len(self._namespaces) > _MAX_NAMESPACES:
            self._namespaces.popitem(last=False)
        return True

    def _drop_closed(self, now_s: float) -> None:
        """Forget connections that were closed some time ago."""
        every = [own for each in self._namespaces.values() for own in each.values()]
        still_open = self._connections.still_open({inode for own in every for inode in own})
        for namespace, processes in [*self._namespaces.items()]:
            for process, own in [*processes.items()]:
                for inode, each in [*own.items()]:
                    if inode in still_open:
                        each.open_s = now_s
                    elif each.open_s <= now_s - _KEPT_S:
                        del own[inode]
                if not own:
                    del processes[process]
            if not processes:
                del self._namespaces[namespace]

    def _publish(self) -> None:
        self._facts = {
            process: _facts(own.values())
            for each in self._namespaces.values()
            for process, own in each.items()
        }


def _facts(kept: Iterable[_Kept]) -> Facts:
    facts: dict[str, FactValue] = {}
    kept = tuple(kept)
    words = tuple(dict.fromkeys(word for each in kept for word in each.words))
    names = tuple(dict.fromkeys(each.server_name for each in kept if each.server_name))
    if words:
        facts["PoolWords"] = words
    if names:
        facts |= dict.fromkeys(NAME_FIELDS, names)
    return facts
