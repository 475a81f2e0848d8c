from __future__ import annotations

import socket
from collections.abc import Hashable
from pathlib import Path

import pytest

from minerwatch.errors import SourceUnavailableError
from minerwatch.model import Connection, Facts, OpenSockets, ProcessId
from minerwatch.node.cluster_networks import ClusterNetworks
from minerwatch.node.socket_iterator import SocketIterator
from minerwatch.node.tcp_connections import ConnectionReader
from minerwatch.probes.connections import ConnectionsProbe, connection_facts
from tests import shipped
from tests.conftest import needs_root
from tests.networks import two_networks
from tests.probes.suspects import always, me
from tests.waiting import until


def has_looked(probe: ConnectionsProbe, at_s: float) -> bool:
    probe.examine([me()], at_s, always)
    return bool(probe.facts(me()))


def test_connections_become_facts_and_age() -> None:
    probe = ConnectionsProbe(ConnectionReader())
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with socket.create_connection(server.getsockname()), server.accept()[0]:
            until(lambda: has_looked(probe, 100.0))
            until(lambda: has_looked(probe, 160.0) and longest(probe) == 60.0)
            facts = probe.facts(me())
            told = probe.connections(me())
            port = str(server.getsockname()[1])
    assert "127.0.0.1" in facts["DestinationIp"]  # type: ignore[operator]
    assert port in facts["DestinationPort"]  # type: ignore[operator]
    assert ("127.0.0.1", port, 100.0) in [(c.address, str(c.port), c.since_s) for c in told]
    probe.close()


def longest(probe: ConnectionsProbe) -> object:
    return probe.facts(me()).get("LongestConnection")


def test_what_is_no_longer_suspect_is_forgotten() -> None:
    probe = ConnectionsProbe(ConnectionReader())
    probe.examine([me()], 100.0, always)
    probe.examine([], 110.0, always)
    assert probe.facts(me()) == {}
    assert probe.connections(me()) == ()
    probe.close()


def test_nobody_is_looked_at_when_the_time_is_up() -> None:
    asked: list[ProcessId] = []

    class Recorded(ConnectionReader):
        def ask(self, process: ProcessId, owner: Hashable = None) -> bool:
            asked.append(process)
            return super().ask(process, owner)

    probe = ConnectionsProbe(Recorded())
    probe.examine([me()], 100.0, lambda: False)
    assert not asked
    probe.examine([me()], 100.0, always)
    assert asked == [me()]
    probe.close()


QUIET = Connection("203.0.113.7", 443, 0.0, 60_000.0, 240.0)
LOUD = Connection("203.0.113.8", 443, 0.0, 9e9, 9e6)
YOUNG = Connection("203.0.113.9", 443, 590.0, 0.0, 0.0)
INSIDE = Connection("10.0.0.9", 5432, 0.0, 10.0, 1.0)


def session(*connections: Connection, accepts: bool = False) -> Facts:
    return connection_facts(OpenSockets(connections, accepts), 600.0, ClusterNetworks())


def test_the_session_is_the_quietest_that_leads_outside() -> None:
    facts = session(YOUNG, LOUD, QUIET, INSIDE)
    assert facts["SessionCount"] == 4
    assert facts["SessionOutsideCluster"] is True
    assert facts["SessionBytesPerHour"] == 60_000.0
    assert facts["SessionSegmentsPerHour"] == 240.0
    assert facts["SessionAge"] == 600.0


def test_inside_the_cluster_is_said_so() -> None:
    facts = session(INSIDE)
    assert facts["SessionOutsideCluster"] is False
    assert facts["SessionBytesPerHour"] == 10.0


def test_without_counters_there_is_an_age() -> None:
    facts = session(Connection("203.0.113.7", 443, 100.0))
    assert facts["SessionAge"] == 500.0
    assert "SessionBytesPerHour" not in facts


def test_a_server_without_connections_accepts_them() -> None:
    assert session(accepts=True) == {"AcceptsConnections": True, "SessionCount": 0}


@needs_root
def test_a_session_with_a_pool_is_quiet_and_leads_outside() -> None:
    try:
        sockets = SocketIterator()
    except SourceUnavailableError as error:
        pytest.skip(f"{error}: run it as root (it reads the kernel's sockets)")
    probe = ConnectionsProbe(ConnectionReader(reader=sockets, rest_per_work=0))
    with (
        two_networks() as found,
        found.running(found.client, "session: pool", "300") as client,
    ):
        at_s = 0.0

        def lasts() -> bool:
            nonlocal at_s
            at_s += 60.0  # of a real half second
            probe.examine([process_of(client.pid)], at_s, always)
            age_s = probe.facts(process_of(client.pid)).get("SessionAge", 0.0)
            return isinstance(age_s, float) and age_s >= 300.0

        until(lasts, every_s=0.5)
        facts = probe.facts(process_of(client.pid))
    probe.close()
    assert facts["SessionOutsideCluster"] is True
    assert facts["AcceptsConnections"] is False
    assert facts["SessionCount"] == 1
    hot: Facts = {"ContentInHotCode": ("Yespower_Mixing",), "HashCodeShare": 0.9}
    titles = [each.rule.title for each in shipped.matcher().dynamic_matches({**facts, **hot})]
    assert "Runs a function of coins, with a quiet session to the outside" in titles


def process_of(pid: int) -> ProcessId:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return ProcessId(pid, int(stat.rpartition(")")[2].split()[19]))
