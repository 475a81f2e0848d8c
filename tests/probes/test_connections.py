from __future__ import annotations

import socket
from collections.abc import Hashable

from minerwatch.model import ProcessId
from minerwatch.node.tcp_connections import ConnectionReader
from minerwatch.probes.connections import Connections
from tests.probes.suspects import always, me
from tests.waiting import until


def has_looked(probe: Connections, at_s: float) -> bool:
    probe.look([me()], at_s, always)
    return bool(probe.facts(me()))


def test_connections_become_facts_and_age() -> None:
    probe = Connections(ConnectionReader())
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


def longest(probe: Connections) -> object:
    return probe.facts(me()).get("LongestConnection")


def test_what_is_no_longer_suspect_is_forgotten() -> None:
    probe = Connections(ConnectionReader())
    probe.look([me()], 100.0, always)
    probe.look([], 110.0, always)
    assert probe.facts(me()) == {}
    assert probe.connections(me()) == ()
    probe.close()


def test_nobody_is_looked_at_when_the_time_is_up() -> None:
    asked: list[ProcessId] = []

    class Recorded(ConnectionReader):
        def ask(self, process: ProcessId, owner: Hashable = None) -> bool:
            asked.append(process)
            return super().ask(process, owner)

    probe = Connections(Recorded())
    probe.look([me()], 100.0, lambda: False)
    assert not asked
    probe.look([me()], 100.0, always)
    assert asked == [me()]
    probe.close()
