"""From a pod to its owner, event and line of ``top``: on the tests' own API server or a real one.

The container is real, and made by runc here; its pod is on a node of the cluster that only the test
knows of, so no kubelet is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from minerwatch.cli.main import cli
from tests.agent.test_daemon import OWN_RULES_ONLY, RunningAgent
from tests.conftest import TOP, CgroupFolders, container_id, needs_root
from tests.kube.any_cluster import AGENT_RULES, PATIENCE_S, AnyCluster
from tests.kube.api_server import eventually
from tests.kube.test_agent_in_cluster import end_miner, running_miner

ID = container_id("e2")
OWNER = "ada@example.org"
CONTACT = "Ask abuse@example.org."


@pytest.fixture
def pod_path(any_cluster: AnyCluster) -> str:
    """A cgroup as a kubelet would make it; below kubepods itself one that runs would remove it."""
    created = any_cluster.create_pod(
        "jupyter-ada", container="notebook", annotations={"hub.jupyter.org/username": OWNER}
    )
    return f"{TOP}/kubepods/burstable/pod{created['metadata']['uid']}/{ID}"


@pytest.fixture
def agent(
    any_cluster: AnyCluster, pod_path: str, cgroups: CgroupFolders, tmp_path: Path
) -> Iterator[RunningAgent]:
    kubeconfig = (
        any_cluster.write_kubeconfig(tmp_path / "agent", "agent", AGENT_RULES)
        if any_cluster.is_real
        else any_cluster.kubeconfig  # the tests' own server permits everybody everything
    )
    settings = tmp_path / "config.yaml"
    settings.write_text(
        f"{OWN_RULES_ONLY}node: {{name: {any_cluster.node}}}\n"
        f"kubernetes: {{enabled: true, kubeconfig: {kubeconfig}, contact: {CONTACT}}}\n"
        "probes: {content: false}\n"
    )
    with running_miner(tmp_path / "bundle", pod_path):
        running = RunningAgent(
            tmp_path, "--config", str(settings), in_cluster=True, all_rules=False
        )
        yield running
        running.close()


@needs_root
def test_a_pod_that_mines(
    any_cluster: AnyCluster, agent: RunningAgent, pod_path: str, cgroups: CgroupFolders
) -> None:
    place = f'namespace="{any_cluster.namespace}",pod="jupyter-ada"'
    agent.line("verdict", pod="jupyter-ada", container=ID[:12])  # by its uid
    assert place not in agent.get("/metrics")[1], "its name is waited for"
    any_cluster.start_container("jupyter-ada", ID, "notebook")
    agent.until(lambda: f'container="notebook",{place}' in agent.get("/metrics")[1])
    uid = pod_path.split("/")[-2].removeprefix("pod")
    (status,) = [s for s in agent.statuses() if s.pod_uid == uid]
    assert (status.namespace, status.pod, status.container) == (
        any_cluster.namespace,
        "jupyter-ada",
        "notebook",
    )
    assert (status.owner, status.node) == (OWNER, any_cluster.node)

    eventually(any_cluster.events, "no event", PATIENCE_S)
    event = any_cluster.events()[0]
    assert event["reason"] in ("MinerSuspected", "MinerConfirmed")
    assert event["regarding"]["uid"] == uid
    assert event["note"].endswith(CONTACT)

    shown = CliRunner().invoke(cli, ["top", "--once", "--socket", str(agent.socket)])
    assert shown.exit_code == 0
    (line,) = [text for text in shown.stdout.splitlines() if "/jupyter-ada/notebook" in text]
    assert OWNER in line
    why = CliRunner().invoke(
        cli, ["explain", f"{any_cluster.namespace}/jupyter-ada", "--socket", str(agent.socket)]
    )
    assert f"Owner      {OWNER}" in why.stdout

    end_miner(cgroups.root / pod_path.strip("/"))
    eventually(lambda: "MinerCleared" in reasons(any_cluster), "not cleared", PATIENCE_S)
    exposition = agent.get("/metrics")[1].splitlines()
    assert [line for line in exposition if "_failures_total{" in line and 'probe="pods"' in line]
    assert not [
        line
        for line in exposition
        if line.startswith("minerwatch_probe_failures_total{")
        and ('probe="pods"' in line or 'probe="events"' in line)
        and not line.endswith(" 0.0")
    ]


def reasons(cluster: AnyCluster) -> set[str]:
    return {event["reason"] for event in cluster.events()}
