"""Deep looks at suspects: what is too costly to ask of every process.

Each probe is isolated: it fails alone, is counted and timed. It keeps what it has learnt of a
process as facts, for as long as the process is a suspect. Nothing here waits for a process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from minerwatch.config import Config
from minerwatch.detection.facts import measured
from minerwatch.model import Facts, FactValue, ProcessId
from minerwatch.node.mappings import MappingReader
from minerwatch.node.pool_names import PoolNames
from minerwatch.node.privilege import effective_capabilities
from minerwatch.node.sockets import Connection, SocketReader

_CONNECTIONS_EVERY_S = 30.0
_MAPPINGS_EVERY_S = 60.0

NO_FACTS: Facts = {}

_IsTimeLeft = Callable[[], bool]


class Probe(Protocol):
    """One way to look at suspects."""

    name: str

    @property
    def failures(self) -> Mapping[str, int]:
        """What went wrong since the start, by reason."""

    def look(self, suspects: Sequence[ProcessId], at_s: float, is_time_left: _IsTimeLeft) -> None:
        """Learns what it can of ``suspects`` and forgets all others."""

    def facts(self, process: ProcessId) -> Facts:
        """What is known of ``process``."""

    def close(self) -> None:
        """Lets go of what it holds."""


@dataclass(frozen=True, slots=True)
class ProbeStatus:
    """Whether a probe is on, and if not, what would switch it on."""

    name: str
    off: str  # "" if it is on


class Probes:
    """All probes that are on, and why the others are off."""

    def __init__(self, config: Config, pool_servers: Sequence[str] = ()) -> None:
        self.status: list[ProbeStatus] = []
        self._budget_s = config.probes.budget
        self._own_failures: dict[tuple[str, str], int] = {}
        self._probes: list[Probe] = []
        proc = config.node.proc
        pools = pool_servers if config.probes.resolve_pools else ()
        lacks = _missing_capability()
        switches: tuple[tuple[str, bool, Callable[[], Probe]], ...] = (
            ("connections", config.probes.connections, lambda: Connections(proc, pools)),
            ("mappings", config.probes.mappings, lambda: MemoryMappings(proc)),
        )
        for name, is_wanted, opened in switches:
            off = lacks if is_wanted else f"switched off (probes.{name})"
            if not off:
                self._probes.append(opened())
            self.status.append(ProbeStatus(name, off))

    def look(self, suspects: Sequence[ProcessId], at_s: float) -> dict[str, float]:
        """Looks at ``suspects`` within the budget; the seconds that each probe took."""
        ends_s = time.perf_counter() + self._budget_s
        took_s = {}
        for probe in self._probes:
            started_s = time.perf_counter()
            try:
                probe.look(suspects, at_s, lambda: time.perf_counter() < ends_s)
            except Exception as error:  # noqa: BLE001 - a probe fails alone
                key = (probe.name, type(error).__name__)
                self._own_failures[key] = self._own_failures.get(key, 0) + 1
            took_s[probe.name] = time.perf_counter() - started_s
        return took_s

    def facts(self, process: ProcessId) -> Facts:
        """Everything that the probes know of ``process``."""
        known: dict[str, FactValue] = {}
        for probe in self._probes:
            known.update(probe.facts(process))
        return known

    def failures(self) -> Iterator[tuple[str, str, int]]:
        """What went wrong since the start: probe, reason, count."""
        for probe in self._probes:
            yield from ((probe.name, reason, n) for reason, n in [*probe.failures.items()])
        yield from ((name, reason, n) for (name, reason), n in [*self._own_failures.items()])

    def close(self) -> None:
        """Lets go of what the probes hold."""
        for probe in self._probes:
            probe.close()


class Connections:
    """Whom suspects are connected to."""

    name = "connections"

    def __init__(self, proc: str, pool_servers: Sequence[str] = ()) -> None:
        self._reader = SocketReader(proc)
        self._pools = PoolNames(pool_servers) if pool_servers else None
        self._looked_s: dict[ProcessId, float] = {}
        self._facts: dict[ProcessId, Facts] = {}

    @property
    def failures(self) -> Mapping[str, int]:
        """As SocketReader counts them."""
        return self._reader.failures

    def look(self, suspects: Sequence[ProcessId], at_s: float, is_time_left: _IsTimeLeft) -> None:
        """Reads the connections of those that it has not looked at for some time."""
        self._looked_s = {each: self._looked_s.get(each, float("-inf")) for each in suspects}
        self._facts = {each: self._facts.get(each, NO_FACTS) for each in suspects}
        due = [each for each in suspects if at_s - self._looked_s[each] >= _CONNECTIONS_EVERY_S]
        if not due or not is_time_left():
            return
        found = self._reader.connections([each.pid for each in due], at_s)
        for process in due:
            self._looked_s[process] = at_s
            connections = found.get(process.pid, ())
            self._facts[process] = _connection_facts(connections, self._names(connections), at_s)

    def facts(self, process: ProcessId) -> Facts:
        """DestinationIp, DestinationPort, DestinationHostname, LongestConnection."""
        return self._facts.get(process, NO_FACTS)

    def close(self) -> None:
        """Ends the look-ups."""
        if self._pools is not None:
            self._pools.close()

    def _names(self, connections: Sequence[Connection]) -> tuple[str, ...]:
        if self._pools is None:
            return ()
        names = (self._pools.names(each.address) for each in connections)
        return tuple(dict.fromkeys(name for each in names for name in each))


class MemoryMappings:
    """What suspects keep in memory."""

    name = "mappings"

    def __init__(self, proc: str) -> None:
        self._reader = MappingReader(proc)
        self._asked_s: dict[ProcessId, float] = {}
        self._facts: dict[ProcessId, Facts] = {}

    @property
    def failures(self) -> Mapping[str, int]:
        """As MappingReader counts them."""
        return self._reader.failures

    def look(self, suspects: Sequence[ProcessId], at_s: float, is_time_left: _IsTimeLeft) -> None:
        """Takes the answers that have come, and asks again where the last one is old."""
        answers = self._reader.answers()
        self._asked_s = {each: self._asked_s.get(each, float("-inf")) for each in suspects}
        self._facts = {each: self._facts.get(each, NO_FACTS) for each in suspects}
        for process in suspects:
            if process in answers:
                mappings = answers[process]
                self._facts[process] = measured(
                    JitMiB=mappings.jit_mib, LargestAnonymousMiB=mappings.largest_anonymous_mib
                )
            if at_s - self._asked_s[process] >= _MAPPINGS_EVERY_S and is_time_left():
                self._asked_s[process] = at_s
                self._reader.ask(process)

    def facts(self, process: ProcessId) -> Facts:
        """JitMiB, LargestAnonymousMiB."""
        return self._facts.get(process, NO_FACTS)

    def close(self) -> None:
        """Ends the reader's thread."""
        self._reader.close()


def _connection_facts(
    connections: Sequence[Connection], names: tuple[str, ...], at_s: float
) -> Facts:
    if not connections:
        return NO_FACTS
    return {
        **({"DestinationHostname": names} if names else {}),
        "DestinationIp": tuple(dict.fromkeys(each.address for each in connections)),
        "DestinationPort": tuple(dict.fromkeys(str(each.port) for each in connections)),
        "LongestConnection": at_s - min(each.since_s for each in connections),
    }


def _missing_capability() -> str:
    if "SYS_PTRACE" in effective_capabilities():
        return ""
    return "the capability SYS_PTRACE is missing: grant it to the agent, or run it as root"
