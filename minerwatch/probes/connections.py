"""Whom suspects talk to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from minerwatch.detection.facts import with_destination_count
from minerwatch.model import Connection, Facts, ProcessId
from minerwatch.node.tcp_connections import ConnectionReader
from minerwatch.probes.base import NO_FACTS, IsTimeLeft, OwnerOf, kept, no_owner

_CONNECTIONS_EVERY_S = 30.0


class Connections:
    """Whom suspects are connected to."""

    name = "connections"
    looks_early = False

    def __init__(self, proc: str, owner_of: OwnerOf = no_owner) -> None:
        self._reader = ConnectionReader(proc)
        self._owner_of = owner_of
        self._asked_s: dict[ProcessId, float] = {}
        self._facts: dict[ProcessId, Facts] = {}
        self._open: dict[ProcessId, tuple[Connection, ...]] = {}

    @property
    def failures(self) -> Mapping[str, int]:
        """As ConnectionReader counts them."""
        return self._reader.failures

    def look(self, suspects: Sequence[ProcessId], at_s: float, is_time_left: IsTimeLeft) -> None:
        """Takes the answers that have come, and asks for those whose last one is old."""
        answers = self._reader.answers()
        self._asked_s = kept(self._asked_s, suspects, float("-inf"))
        self._facts = kept(self._facts, suspects, NO_FACTS)
        self._open = {each: self._open[each] for each in suspects if each in self._open}
        for process in suspects:
            if process in answers:
                self._open[process] = connections = answers[process]
                self._facts[process] = _connection_facts(connections, at_s)
            is_due = at_s - self._asked_s[process] >= _CONNECTIONS_EVERY_S
            owner = self._owner_of(process)
            if is_due and is_time_left() and self._reader.ask(process, at_s, owner):
                self._asked_s[process] = at_s

    def facts(self, process: ProcessId) -> Facts:
        """DestinationIp, Port and Count, LongestConnection, Initiated."""
        return self._facts.get(process, NO_FACTS)

    def connections(self, process: ProcessId) -> tuple[Connection, ...]:
        """Those that ``process`` had at the last look, oldest first."""
        return self._open.get(process, ())

    def close(self) -> None:
        """Ends the reader's thread."""
        self._reader.close()


def _connection_facts(connections: Sequence[Connection], at_s: float) -> Facts:
    if not connections:
        return NO_FACTS
    facts: Facts = {
        "Initiated": True,  # what others opened is not told
        "DestinationIp": tuple(dict.fromkeys(each.address for each in connections)),
        "DestinationPort": tuple(dict.fromkeys(str(each.port) for each in connections)),
        "LongestConnection": at_s - min(each.since_s for each in connections),
    }
    return with_destination_count(facts)
