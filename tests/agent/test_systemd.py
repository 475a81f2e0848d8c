"""What the agent tells systemd, over a real socket."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from minerwatch.agent.systemd import Systemd
from minerwatch.agent.tick import TickSummary
from minerwatch.model import Level
from tests.agent.test_daemon import RunningAgent
from tests.waiting import PATIENCE_S, until


def _summary(**levels: int) -> TickSummary:
    return TickSummary(
        at_s=1.0,
        changes=(),
        ended=(),
        began=(),
        flagged=(),
        flagged_cpu_s=(),
        levels=Counter({Level[name.upper()]: count for name, count in levels.items()}),
        process_count=340,
        unmapped_count=0,
        over_bound_count=0,
        foreign_count=0,
        probe_s={},
    )


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        path = str(tmp_path / "notify")
        listening.bind(path)
        listening.settimeout(5)
        yield listening, path


def _received(listening: socket.socket) -> list[str]:
    return listening.recv(4096).decode().splitlines()


def test_the_first_tick_is_ready_and_each_feeds_the_watchdog(
    systemd: tuple[socket.socket, str],
) -> None:
    listening, path = systemd
    environ = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "120000000", "OTHER": "x"}
    agent = Systemd(environ)
    assert environ == {"OTHER": "x"}  # no child may speak in the agent's name
    agent.ticked(_summary(clear=11, suspicious=1), 10)
    status = "STATUS=12 containers and units, 340 processes; 1 suspicious"
    assert _received(listening) == [status, "WATCHDOG=1", "READY=1"]
    agent.ticked(_summary(clear=12), 10)
    status = "STATUS=12 containers and units, 340 processes; nothing flagged"
    assert _received(listening) == [status, "WATCHDOG=1"]
    agent.stopping()
    assert _received(listening) == ["STOPPING=1"]


def test_the_watchdog_waits_for_long_intervals(systemd: tuple[socket.socket, str]) -> None:
    listening, path = systemd
    agent = Systemd({"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "120000000"})
    agent.ticked(_summary(clear=1), 600)
    assert "WATCHDOG_USEC=1815000000" in _received(listening)
    agent.ticked(_summary(clear=1), 10)
    assert len(_received(listening)) == 2


def test_a_real_agent_says_ready_alive_and_stopping(
    systemd: tuple[socket.socket, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    listening, path = systemd
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    listening.settimeout(PATIENCE_S)
    agent = RunningAgent(tmp_path, all_rules=False)
    try:
        status, *said = _received(listening)
        assert "containers and units" in status
        assert said == ["WATCHDOG=1", "READY=1"]
        assert _received(listening)[1:] == ["WATCHDOG=1"]
        agent.process.terminate()
        until(lambda: _received(listening) == ["STOPPING=1"])
    finally:
        agent.close()


def test_an_abstract_socket() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("")  # the kernel chooses an abstract name
        name = listening.getsockname()
        agent = Systemd({"NOTIFY_SOCKET": f"@{name[1:].decode()}"})
        agent.stopping()
        assert _received(listening) == ["STOPPING=1"]


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": "/nowhere"}, {"WATCHDOG_USEC": "x"}])
def test_without_systemd_nothing_happens(environ: dict[str, str]) -> None:
    agent = Systemd(environ)
    agent.ticked(_summary(clear=1), 10)
    agent.stopping()


def test_a_systemd_that_does_not_read_holds_up_no_tick(systemd: tuple[socket.socket, str]) -> None:
    _, path = systemd
    agent = Systemd({"NOTIFY_SOCKET": path})
    for _ in range(1000):
        agent.ticked(_summary(clear=1), 10)
