"""The agent connects to the API server and to no other address.

strace records the system calls by which a process can reach another host, of the agent and of every
process that it starts: what a library does in C is seen as well as what is done in Python.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.agent.test_daemon import RunningAgent
from tests.agent.test_tick import POOL
from tests.conftest import TOP, CgroupFolders, Programs, container_id, needs_root, pod_uid
from tests.kube.api_server import ApiServer, pod_json
from tests.kube.conftest import write_kubeconfig

_CALLS = "connect,sendto,sendmsg,sendmmsg,bind"
_ADDRESS = re.compile(
    r"(?P<call>\w+)\(.*?sin6?_port=htons\((?P<port>\d+)\).*?"
    r'(?:inet_addr\(|AF_INET6, )"(?P<host>[^"]+)"'
)
_RULE = """\
title: Read while it runs
id: 0a0cf9a3-3b0e-4a3e-8f3e-4f9d9b8a7f11
status: experimental
description: A rule of a test.
author: minerwatch contributors
date: 2026-11-25
logsource: {product: linux, category: process_creation}
detection:
  selection:
    CommandLine|contains: nobody has this in a command line
  condition: selection
level: low
minerwatch: {signal: identity}
"""
UID = pod_uid("5d3c1a44")
ID = container_id("6b")

pytestmark = [
    needs_root,
    pytest.mark.skipif(
        shutil.which("strace") is None, reason="records system calls: apt install strace"
    ),
]


class Recorded:
    """What strace wrote of an agent."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "calls"
        # -D: the agent is the child of who starts it, and strace its tracer beside it.
        self.command = (
            *("strace", "-D", "-f", "--seccomp-bpf", "-qq", "--signal=none"),
            *("-e", f"trace={_CALLS}", "-o", str(self._file), sys.executable),
        )

    def listening(self) -> set[tuple[str, int]]:
        return {(host, port) for call, host, port in self._addresses() if call == "bind"}

    def reached(self) -> set[tuple[str, int]]:
        """Host and port of each other end that was tried, whether it answered or not."""
        return {(host, port) for call, host, port in self._addresses() if call != "bind"}

    def _addresses(self) -> Iterator[tuple[str, str, int]]:
        for line in self._file.read_text().splitlines():
            found = _ADDRESS.search(line)
            assert found or "AF_INET" not in line, line
            if found:
                yield found["call"], found["host"], int(found["port"])


Start = Callable[..., tuple[RunningAgent, Recorded]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[RunningAgent] = []

    def start_one(settings: str, *, in_cluster: bool = False) -> tuple[RunningAgent, Recorded]:
        recorded = Recorded(tmp_path)
        (tmp_path / "config.yml").write_text(settings)
        (tmp_path / "rules").mkdir()
        agent = RunningAgent(
            tmp_path,
            *("--config", str(tmp_path / "config.yml"), "--rules", str(tmp_path / "rules")),
            command=recorded.command,
            in_cluster=in_cluster,
        )
        started.append(agent)
        return agent, recorded

    yield start_one
    for agent in started:
        agent.close()


def _examined(agent: RunningAgent) -> None:
    """It found the miner, and looked at it by each probe for suspects that there is here."""
    agent.until(lambda: {"execs", "canary"} <= _probes(agent, "on") | _probes(agent, "off"))
    on = _probes(agent, "on")
    assert {"connections", "mappings", "content"} <= on
    for probe in {"connections", "mappings", "content", "rounding"} & on:
        series = f'minerwatch_probe_duration_seconds_count{{probe="{probe}"}}'
        agent.until(lambda: _value(agent, series) >= 1)  # noqa: B023 - called before the next one


def _probes(agent: RunningAgent, how: str) -> set[str]:
    """Those that it says are on, or off."""
    return {str(line["probe"]) for line in agent.lines() if line["event"] == f"probe is {how}"}


def _value(agent: RunningAgent, series: str) -> float:
    found = re.search(rf"^{re.escape(series)} (\S+)$", agent.get("/metrics")[1], re.MULTILINE)
    return float(found[1]) if found else 0.0


@pytest.mark.nightly
def test_without_a_cluster_it_reaches_nobody(
    start: Start, cgroups: CgroupFolders, programs: Programs, tmp_path: Path
) -> None:
    folder = cgroups.make(f"{TOP}/docker/{ID}")
    cgroups.put(programs.start("xmrig", *POOL, busy=True), folder)
    agent, recorded = start("node: {units: false}\n")
    _examined(agent)
    assert agent.stop() == 0
    assert recorded.reached() == set()
    assert {host for host, _ in recorded.listening()} == {"127.0.0.1"}


def test_in_a_cluster_it_reaches_the_api_server_only(
    start: Start, cgroups: CgroupFolders, programs: Programs, tmp_path: Path
) -> None:
    folder = cgroups.make(f"{TOP}/kubepods/pod{UID}/{ID}")
    cgroups.put(programs.start("xmrig", *POOL, busy=True), folder)
    with closing(ApiServer()) as api:
        api.put(pod_json("a", uid=UID, containers={"main": ID}))
        kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", api.url, "first")
        agent, recorded = start(
            "node: {name: n1, units: false}\n"
            f"kubernetes: {{enabled: true, kubeconfig: {kubeconfig}}}\n",
            in_cluster=True,
        )
        agent.line("watching")
        (tmp_path / "rules" / "added.yml").write_text(_RULE)
        agent.until(lambda: bool(api.items("events", "/apis/events.k8s.io/v1")))
        agent.line("rules loaded")
        _examined(agent)
        assert agent.stop() == 0
        assert recorded.reached() == {("127.0.0.1", int(api.url.rsplit(":", 1)[1]))}
