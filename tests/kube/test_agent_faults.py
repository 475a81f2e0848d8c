"""Real agents, each behind a proxy that misbehaves in its own way: all stay alive and are right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from tests.agent.test_daemon import OWN_RULES_ONLY, RunningAgent
from tests.conftest import TOP, CgroupFolders, Programs, container_id
from tests.kube.any_cluster import AnyCluster
from tests.kube.api_server import Answering, Dripping, Dropping, Hanging, Request
from tests.kube.faulty_proxy import FaultyProxy

ID = container_id("fa")
USERNAME = "hub.jupyter.org/username"


@dataclass
class Behind:
    """An agent, and the proxy that stands between it and the API server."""

    agent: RunningAgent
    proxy: FaultyProxy
    kubeconfig: Path

    def owner(self) -> str:
        statuses = self.agent.statuses()
        return next((status.owner for status in statuses if status.container_id == ID), "")

    def count(self, reason: str) -> float:
        name = f'minerwatch_probe_failures_total{{probe="pods",reason="{reason}"}} '
        lines = self.agent.get("/metrics")[1].splitlines()
        return next(float(line.removeprefix(name)) for line in lines if line.startswith(name))


def cut_and_refused(behind: Behind) -> None:
    behind.proxy.misbehave(Answering(503))
    behind.proxy.cut_streams(b'{"type":"DELETED","obj')


def gone(behind: Behind) -> None:
    status = {"kind": "Status", "code": 410, "message": "too old resource version"}
    behind.proxy.send_raw(msgspec.json.encode({"type": "ERROR", "object": status}) + b"\n")


def token_expires(behind: Behind) -> None:
    behind.proxy.tokens = {"second"}
    behind.proxy.cut_streams()
    behind.agent.until(lambda: behind.count("unauthorized"))
    behind.proxy.write_kubeconfig(behind.kubeconfig, "second")


def throttled(behind: Behind) -> None:
    behind.proxy.misbehave(Answering(429, headers={"Retry-After": "2"}))
    behind.proxy.cut_streams()


def garbage_then_slow(behind: Behind) -> None:
    behind.proxy.misbehave(Dripping(50, 0.005), when=is_list)
    behind.proxy.send_raw(b"\xff\x00 garbage\n")


def away_then_hanging(behind: Behind) -> None:
    behind.proxy.vanish()
    behind.agent.until(lambda: behind.count("connection"))
    behind.proxy.misbehave(Hanging(0.5))
    behind.proxy.misbehave(Dropping(b"HTTP/1.1 200 OK\r\nContent-Le"))
    behind.proxy.listen()


def is_list(request: Request) -> bool:
    return request.is_list


FAULTS: dict[Callable[[Behind], None], str] = {
    cut_and_refused: "server",
    gone: "gone",
    token_expires: "unauthorized",
    throttled: "throttled",
    garbage_then_slow: "garbage",
    away_then_hanging: "connection",
}


@pytest.fixture
def agents(
    any_cluster: AnyCluster, cgroups: CgroupFolders, programs: Programs, tmp_path: Path
) -> Iterator[dict[Callable[[Behind], None], Behind]]:
    """One for each fault; all know the same pod, and look at the same container of it."""
    created = any_cluster.create_pod("a", annotations={USERNAME: "ada"})
    any_cluster.start_container("a", ID)
    folder = cgroups.make(f"{TOP}/kubepods/pod{created['metadata']['uid']}/{ID}")
    cgroups.put(programs.start("worker", busy=False), folder)
    with ExitStack() as closing:
        found = {
            fault: _behind_a_proxy(any_cluster, tmp_path / fault.__name__, closing)
            for fault in FAULTS
        }
        yield found


def _behind_a_proxy(cluster: AnyCluster, folder: Path, closing: ExitStack) -> Behind:
    folder.mkdir()
    proxy = closing.enter_context(FaultyProxy(cluster.api))
    kubeconfig = proxy.write_kubeconfig(folder / "kubeconfig")
    settings = folder / "config.yaml"
    settings.write_text(
        f"{OWN_RULES_ONLY}node: {{name: {cluster.node}}}\n"
        f"kubernetes: {{enabled: true, kubeconfig: {kubeconfig}, events: false}}\n"
        "probes: {execs: false, tasks: false, rounding: false, content: false}\n"
    )
    options = ("--config", str(settings), "--interval", "1s")  # six of them tick at a time
    agent = RunningAgent(folder, *options, in_cluster=True, all_rules=False)
    closing.callback(agent.close)
    return Behind(agent, proxy, kubeconfig)


def test_every_fault_leaves_the_agent_right_and_alive(
    any_cluster: AnyCluster, agents: dict[Callable[[Behind], None], Behind]
) -> None:
    for behind in agents.values():
        behind.agent.line("watching")
        behind.agent.until(lambda behind=behind: behind.owner() == "ada")  # type: ignore[misc]
    for fault, behind in agents.items():
        fault(behind)
    any_cluster.set_metadata("a", annotations={USERNAME: "grace"})
    for fault, behind in agents.items():
        behind.agent.until(lambda behind=behind: behind.owner() == "grace")  # type: ignore[misc]
        assert behind.count(FAULTS[fault]) > 0
        assert behind.count("unexpected") == 0
        assert behind.agent.get("/healthz") == (200, "ok\n")
        said = [line for line in behind.agent.lines() if line["event"] == "the API server"]
        assert said, "nobody was told"
        assert all("\n" not in str(line["reason"]) for line in said)
