"""Connections of suspects, and the shape of the session that looks most like a pool's."""

from __future__ import annotations

from collections.abc import Sequence

from minerwatch.detection.facts import measured, with_destination_count
from minerwatch.model import Connection, Facts, OpenSockets, ProcessId
from minerwatch.node.cluster_networks import ClusterNetworks
from minerwatch.node.tcp_connections import ConnectionReader
from minerwatch.probes.base import IsTimeLeft, OwnerOf, ReaderProbe, no_owner


class ConnectionsProbe(ReaderProbe[OpenSockets]):
    """Facts: DestinationIp, DestinationPort, DestinationCount, LongestConnection, Initiated.

    And of sessions: SessionCount, AcceptsConnections; of the quietest one: SessionAge,
    SessionBytesPerHour, SessionSegmentsPerHour, SessionOutsideCluster.
    """

    name = "connections"
    every_s = 30.0

    def __init__(
        self,
        reader: ConnectionReader,
        owner_of: OwnerOf = no_owner,
        networks: ClusterNetworks | None = None,
    ) -> None:
        super().__init__(reader, owner_of)
        self._reader: ConnectionReader
        self._networks = networks or ClusterNetworks()
        self._open: dict[ProcessId, tuple[Connection, ...]] = {}

    def connections(self, process: ProcessId) -> tuple[Connection, ...]:
        """Return the connections that ``process`` had at the last look, oldest first."""
        return self._open.get(process, ())

    def _examine_due(
        self, suspects: Sequence[ProcessId], at_s: float, is_time_left: IsTimeLeft
    ) -> None:
        self._open = {each: self._open[each] for each in suspects if each in self._open}
        self._reader.at_s = at_s
        super()._examine_due(suspects, at_s, is_time_left)

    def _receive(self, process: ProcessId, answer: OpenSockets, at_s: float) -> None:
        self._open[process] = answer.connections
        self._facts[process] = connection_facts(answer, at_s, self._networks)


def connection_facts(sockets: OpenSockets, at_s: float, networks: ClusterNetworks) -> Facts:
    """Return the facts about a process with these sockets."""
    connections = sockets.connections
    facts: Facts = {"AcceptsConnections": sockets.accepts, "SessionCount": len(connections)}
    if not connections:
        return facts
    outside = [each for each in connections if networks.is_outside(each.address, at_s)]
    session = min(outside or connections, key=lambda each: _noise(each, at_s))
    facts = {
        **facts,
        "Initiated": True,  # inbound connections are not reported
        "DestinationIp": tuple(dict.fromkeys(each.address for each in connections)),
        "DestinationPort": tuple(dict.fromkeys(str(each.port) for each in connections)),
        "LongestConnection": at_s - min(each.since_s for each in connections),
        "SessionAge": at_s - session.since_s,
        "SessionOutsideCluster": bool(outside),
        **measured(
            SessionBytesPerHour=session.bytes_per_hour,
            SessionSegmentsPerHour=session.segments_per_hour,
        ),
    }
    return with_destination_count(facts)


_MIN_SESSION_S = 60.0
"""A younger session says little: it may just have begun to transfer."""


def _noise(session: Connection, at_s: float) -> tuple[bool, bool, float, float]:
    """Return a key by which the quietest of those that are old enough comes first."""
    is_young = at_s - session.since_s < _MIN_SESSION_S
    is_counted = session.bytes_per_hour is not None
    return is_young, not is_counted, session.bytes_per_hour or 0.0, session.since_s
