"""The agent's threads and children keep the capabilities that they need, and no others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.test_daemon import RunningAgent
from tests.agent.test_tick import POOL
from tests.conftest import TOP, CgroupFolders, Programs, container_id, needs_root
from tests.node.test_confined import bits, held

pytestmark = needs_root
CONTAINER = container_id("e7")


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAgent]:
    running = RunningAgent(tmp_path_factory.mktemp("agent"), all_rules=False)
    yield running
    running.close()


def statuses(pid: int) -> list[dict[str, int]]:
    """The capabilities of each thread of a process."""
    return [held(path.read_text()) for path in Path(f"/proc/{pid}/task").glob("*/status")]


def children(pid: int) -> dict[str, int]:
    """The pids of a process' children, by the script that they run."""
    found = {}
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in path.read_text().split():
            try:
                arguments = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            except OSError:  # it has ended
                continue
            scripts = [Path(word.decode()).name for word in arguments if word.endswith(b".py")]
            found.update({script: int(child) for script in scripts[1:2]})  # after confined.py
    return found


def events(agent: RunningAgent) -> float:
    metrics = agent.get("/metrics")[1]
    (found,) = re.findall(r"^minerwatch_exec_events_total (\S+)$", metrics, re.MULTILINE)
    return float(found)


def test_net_admin_is_given_up_once_exec_events_come(
    agent: RunningAgent, cgroups: CgroupFolders, programs: Programs
) -> None:
    agent.line("watching")
    if agent.line("probe is on")["probe"] != "execs":
        pytest.skip("no exec events here: run it in the first network namespace, with NET_ADMIN")
    pid = agent.process.pid
    for status in statuses(pid):
        assert not status["CapEff"] & bits("NET_ADMIN")
        assert not status["CapPrm"] & bits("NET_ADMIN")
        assert status["NoNewPrivs"] == 1
    before = events(agent)
    miner = programs.start("xmrig", *POOL, busy=True)
    cgroups.put(miner, cgroups.make(f"{TOP}/docker/{CONTAINER}"))
    agent.until(lambda: events(agent) > before)


def test_the_scanner_of_content_may_read_processes_and_nothing_else(
    agent: RunningAgent, cgroups: CgroupFolders, programs: Programs
) -> None:
    agent.line("watching")
    miner = programs.start("xmrig", *POOL, busy=True)
    cgroups.put(miner, cgroups.make(f"{TOP}/docker/{CONTAINER}"))
    pid = agent.process.pid
    allowed = bits("SYS_PTRACE", "DAC_READ_SEARCH") & statuses(pid)[0]["CapPrm"]

    def is_confined() -> bool:  # once it has started
        found = statuses(children(pid).get("yara_scanner.py", pid))
        return bool(found) and all(
            status["CapEff"] == status["CapPrm"] == allowed for status in found
        )

    agent.until(is_confined)
