"""Connections of suspects."""

from __future__ import annotations

from collections.abc import Sequence

from minerwatch.detection.facts import with_destination_count
from minerwatch.model import Connection, Facts, ProcessId
from minerwatch.node.tcp_connections import ConnectionReader
from minerwatch.probes.base import NO_FACTS, IsTimeLeft, OwnerOf, ReaderProbe, no_owner


class Connections(ReaderProbe[tuple[Connection, ...]]):
    """Facts: DestinationIp, DestinationPort, DestinationCount, LongestConnection, Initiated."""

    name = "connections"
    every_s = 30.0

    def __init__(self, reader: ConnectionReader, owner_of: OwnerOf = no_owner) -> None:
        super().__init__(reader, owner_of)
        self._reader: ConnectionReader
        self._open: dict[ProcessId, tuple[Connection, ...]] = {}

    def connections(self, process: ProcessId) -> tuple[Connection, ...]:
        """Return the connections that ``process`` had at the last look, oldest first."""
        return self._open.get(process, ())

    def _examine(
        self, suspects: Sequence[ProcessId], at_s: float, is_time_left: IsTimeLeft
    ) -> None:
        self._open = {each: self._open[each] for each in suspects if each in self._open}
        self._reader.at_s = at_s
        super()._examine(suspects, at_s, is_time_left)

    def _take(self, process: ProcessId, answer: tuple[Connection, ...], at_s: float) -> None:
        self._open[process] = answer
        self._facts[process] = _connection_facts(answer, at_s)


def _connection_facts(connections: Sequence[Connection], at_s: float) -> Facts:
    if not connections:
        return NO_FACTS
    facts: Facts = {
        "Initiated": True,  # inbound connections are not reported
        "DestinationIp": tuple(dict.fromkeys(each.address for each in connections)),
        "DestinationPort": tuple(dict.fromkeys(str(each.port) for each in connections)),
        "LongestConnection": at_s - min(each.since_s for each in connections),
    }
    return with_destination_count(facts)
