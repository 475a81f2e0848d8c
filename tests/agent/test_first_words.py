"""A whole agent that reads first words: an idle process that has logged in to a pool."""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from minerwatch.config.schema import BUILT_IN_RULES
from minerwatch.node.confined import CAPABILITY_BITS
from tests.agent.test_daemon import RunningAgent
from tests.conftest import TOP, CgroupFolders, Programs, container_id
from tests.node.test_packet_parser import SUBSCRIBE
from tests.waiting import until

CLIENT = """
import socket, sys, time
sys.stdin.readline()
client = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
client.sendall(bytes.fromhex(sys.argv[2]))
time.sleep(10_000)
"""


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[RunningAgent]:
    rules = tmp_path / "rules"
    rules.mkdir()
    shutil.copy(BUILT_IN_RULES / "network" / "pool_words.yml", rules)
    config = tmp_path / "config.yml"
    config.write_text(
        f"built_in_rules: false\nrules: [{rules}]\nprobes: {{first_words: true, canary: false}}\n"
    )
    found = RunningAgent(tmp_path, "--config", str(config))
    yield found
    found.close()


def test_a_process_that_subscribes_to_work_is_found_though_it_is_idle(
    agent: RunningAgent, cgroups: CgroupFolders, programs: Programs
) -> None:
    agent.line("watching")
    probes = until(lambda: [each for each in agent.lines() if each.get("probe") == "first_words"])
    if "source" not in probes[0]:
        pytest.skip(f"{probes[0]['reason']}: run it as root, where the kernel has BTF")
    name = container_id("f1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        client = programs.run([sys.executable, "-c", CLIENT, port, SUBSCRIBE.hex()])
        cgroups.put(client, cgroups.make(f"{TOP}/docker/{name}"))
        assert client.stdin is not None
        client.stdin.write(b"\n")
        client.stdin.flush()
        agent.line("verdict", container=name[:12], level="likely")
        (status,) = [each for each in agent.statuses() if each.container_id.startswith(name[:12])]
    (finding,) = status.findings
    assert (finding.pid, finding.score) == (client.pid, 88)
    assert finding.evidence["PoolWords"]
    assert "made/1.0" not in agent.log_path.read_text()


def test_net_raw_is_given_up_once_the_sockets_are_open(agent: RunningAgent) -> None:
    agent.line("watching")
    tasks = Path(f"/proc/{agent.process.pid}/task")
    for task in tasks.iterdir():
        status = (task / "status").read_text()
        for name in ("CapEff", "CapPrm"):
            held = int(status.partition(f"{name}:")[2].split()[0], 16)
            assert not held >> CAPABILITY_BITS["NET_RAW"] & 1
