from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from time import sleep

import pytest

from minerwatch.config import Config
from minerwatch.config import Probes as Settings
from minerwatch.model import ProcessId
from minerwatch.probes import Connections, MemoryMappings, Probes
from tests.conftest import needs_root


def me() -> ProcessId:
    stat = Path("/proc/self/stat").read_text()
    return ProcessId(os.getpid(), int(stat.rpartition(")")[2].split()[19]))


def always() -> bool:
    return True


def until(holds: Callable[[], bool]) -> None:
    for _ in range(1000):
        if holds():
            return
        sleep(0.01)
    raise AssertionError("it did not happen")


def test_connections_become_facts_and_age() -> None:
    probe = Connections("/proc")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with socket.create_connection(server.getsockname()), server.accept()[0]:
            probe.look([me()], 100.0, always)
            probe.look([me()], 160.0, always)
            facts = probe.facts(me())
            port = str(server.getsockname()[1])
    assert "127.0.0.1" in facts["DestinationIp"]  # type: ignore[operator]
    assert port in facts["DestinationPort"]  # type: ignore[operator]
    assert facts["LongestConnection"] == 60.0


def test_what_is_no_longer_suspect_is_forgotten() -> None:
    probe = Connections("/proc")
    probe.look([me()], 100.0, always)
    probe.look([], 110.0, always)
    assert probe.facts(me()) == {}
    assert not probe._facts
    assert not probe._looked_s


def test_nobody_is_looked_at_when_the_time_is_up() -> None:
    probe = Connections("/proc")
    probe.look([me()], 100.0, lambda: False)
    assert probe._looked_s[me()] == float("-inf")


def test_mappings_come_when_they_come() -> None:
    probe = MemoryMappings("/proc")
    at_s = 100.0
    probe.look([me()], at_s, always)

    def has_come() -> bool:
        probe.look([me()], at_s, always)
        return bool(probe.facts(me()))

    until(has_come)
    assert probe.facts(me()).keys() == {"JitMiB", "LargestAnonymousMiB"}
    probe.close()


@needs_root
def test_each_probe_can_be_switched_off_and_says_so() -> None:
    probes = Probes(Config(probes=Settings(connections=False)))
    off = {status.name: status.off for status in probes.status}
    assert off["connections"] == "switched off (probes.connections)"
    assert off["mappings"] == ""
    probes.close()


class _Broken:
    name = "broken"
    failures: dict[str, int] = {}  # noqa: RUF012

    def look(self, *_: object) -> None:
        raise ZeroDivisionError

    def facts(self, _process: ProcessId) -> dict[str, str]:
        return {}

    def close(self) -> None:
        pass


def test_a_probe_fails_alone_and_is_counted() -> None:
    probes = Probes(Config())
    probes._probes.insert(0, _Broken())
    took_s = probes.look([me()], 100.0)
    assert ("broken", "ZeroDivisionError", 1) in list(probes.failures())
    assert took_s.keys() >= {"broken"}
    probes.close()


@pytest.mark.parametrize("pid", [4_194_999, 1])
def test_a_suspect_that_is_gone_or_another_has_no_facts(pid: int) -> None:
    probes = Probes(Config())
    gone = ProcessId(pid, 1)
    probes.look([gone], 100.0)
    assert "JitMiB" not in probes.facts(gone)
    probes.close()
