"""The real agent, in a cluster: a container made by a real runtime, named by an API server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from minerwatch.cli.main import cli
from tests.conftest import CgroupFolders, container_id, pod_uid, remove_parent_cgroups
from tests.kube.api_server import ApiServer, eventually, pod_json
from tests.kube.exec_endpoint import Printing
from tests.test_agent import RunningAgent
from tests.test_watch import runtime_bundle

UID = pod_uid("5d3c1a22")
ID = container_id("c4")
POD_PATH = f"/kubepods/burstable/pod{UID}/{ID}"
NODE = "worker-1"
CONTACT = "Ask abuse@example.org."
EVENTS = "/apis/events.k8s.io/v1"


@contextmanager
def running_miner(bundle: Path, pod_path: str) -> Iterator[None]:
    """A container of runc's in that cgroup; in it, a busy loop called like a miner."""
    runtime_bundle(bundle, pod_path)
    spec = json.loads((bundle / "config.json").read_text())
    miner, spec["process"]["args"] = spec["process"]["args"], ["/bin/busybox-x", "sleep", "1000"]
    (bundle / "config.json").write_text(json.dumps(spec))
    name = f"minerwatch-in-cluster-{os.getpid()}"
    runtime = subprocess.Popen(
        ["runc", "run", "--bundle", str(bundle), name],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        _await_start(runtime, name)
        subprocess.run(["runc", "exec", "--detach", name, *miner], check=True)
        yield
    finally:
        subprocess.run(["runc", "delete", "--force", name], check=False, capture_output=True)
        runtime.wait()
        if runtime.stdout:
            runtime.stdout.close()
        remove_parent_cgroups(pod_path)


def _await_start(runtime: subprocess.Popen[bytes], name: str) -> None:
    until_s = time.monotonic() + 10
    while not _is_running(name):
        if runtime.poll() is not None:
            assert runtime.stdout
            pytest.skip(
                "runc cannot run here (run it as root of a host): "
                + runtime.stdout.read().decode()[-200:]
            )
        assert time.monotonic() < until_s
        time.sleep(0.05)


def _is_running(name: str) -> bool:
    state = subprocess.run(["runc", "state", name], check=False, capture_output=True)
    return state.returncode == 0 and json.loads(state.stdout)["status"] == "running"


@pytest.fixture
def container(cgroups: CgroupFolders, tmp_path: Path) -> Iterator[None]:
    """In the cgroup that a kubelet would give it: a busy loop called like a miner."""
    with running_miner(tmp_path / "bundle", POD_PATH):
        yield


def the_pod() -> dict[str, Any]:
    raw: dict[str, Any] = pod_json("jupyter-ada", namespace="jupyter", uid=UID, node=NODE)
    raw["metadata"]["annotations"] = {"hub.jupyter.org/username": "ada@example.org"}
    raw["spec"]["containers"] = [{"name": "notebook", "image": "lab:1"}]
    raw["status"]["containerStatuses"] = [
        {"name": "notebook", "image": "lab:1", "containerID": f"containerd://{ID}"}
    ]
    return raw


@pytest.fixture
def agent(
    container: None, api: ApiServer, kubeconfig: Path, tmp_path: Path
) -> Iterator[RunningAgent]:
    settings = tmp_path / "config.yaml"
    settings.write_text(
        f"node: {{name: {NODE}}}\n"
        f"kubernetes: {{enabled: true, kubeconfig: {kubeconfig}, contact: {CONTACT}}}\n"
        "probes: {content: false}\n"
    )
    running = RunningAgent(tmp_path, "--config", str(settings), in_cluster=True)
    yield running
    running.close()


def test_a_flagged_container_bears_its_pods_names(agent: RunningAgent, api: ApiServer) -> None:
    agent.until(lambda: f'container="{ID[:12]}"' in agent.get("/metrics")[1])
    assert "minerwatch_unmapped_containers 0.0" not in agent.get("/metrics")[1]
    api.put(the_pod())  # the kernel knew it before the API did
    labels = 'namespace="jupyter",pod="jupyter-ada"'
    agent.until(lambda: labels in agent.get("/metrics")[1])
    (status,) = [s for s in agent.statuses() if s.pod_uid == UID]
    assert (status.namespace, status.pod, status.container) == (
        "jupyter",
        "jupyter-ada",
        "notebook",
    )
    assert (status.image, status.owner, status.node) == ("lab:1", "ada@example.org", NODE)
    assert status.level in ("likely", "confirmed")
    metrics = agent.get("/metrics")[1]
    assert 'minerwatch_flagged_cpu_seconds_total{level="' in metrics
    assert "minerwatch_pods_synced_timestamp_seconds 0.0" not in metrics


def test_an_agent_that_is_told_a_wrong_node_says_so(agent: RunningAgent) -> None:
    def reasons() -> list[str]:
        return [str(line.get("reason")) for line in agent.lines()]

    agent.until(lambda: any(f"no pod of node '{NODE}'" in reason for reason in reasons()))
    assert any("set node.name or MINERWATCH_NODE" in reason for reason in reasons())


def test_a_laptop_sees_it_in_top_and_explain(
    agent: RunningAgent, api: ApiServer, kubeconfig: Path
) -> None:
    api.put(the_pod())
    agent.line("verdict", namespace="jupyter", pod="jupyter-ada")
    labels = {"app.kubernetes.io/name": "minerwatch"}
    api.put(pod_json("minerwatch-x", namespace="minerwatch", node=NODE, labels=labels))
    api.put({"kind": "Node", "metadata": {"name": NODE}}, resource="nodes")
    for options in (["--with-status"], ["--full"]):
        command = ["snapshot", *options]
        printed = subprocess.run(  # as in the agent's pod
            [sys.executable, "-m", "minerwatch", *command, "--socket", str(agent.socket)],
            check=True,
            capture_output=True,
        )
        api.runs("minerwatch", "minerwatch-x", Printing(printed.stdout), "minerwatch", *command)
    asked = ["--kubeconfig", str(kubeconfig)]
    shown = CliRunner().invoke(cli, ["top", "-A", "--once", *asked])
    assert shown.exit_code == 0, shown.stderr
    assert "context lab · all namespaces · 1 of 1 node answered" in shown.stdout
    (line,) = [text for text in shown.stdout.splitlines() if "jupyter-ada/notebook" in text]
    assert "ada@example.org" in line
    why = CliRunner().invoke(cli, ["explain", "jupyter/jupyter-ada", *asked])
    assert "stratum+tcp://" in why.stdout
    assert f"Node       {NODE}" in why.stdout


def test_only_pods_count_in_a_cluster(agent: RunningAgent, api: ApiServer) -> None:
    api.put(the_pod())
    agent.line("verdict", namespace="jupyter", pod="jupyter-ada")
    statuses = agent.statuses()
    assert {status.kind for status in statuses} <= {"pod", "engine"}


def test_an_api_server_that_is_away_stops_nothing(agent: RunningAgent, api: ApiServer) -> None:
    api.put(the_pod())
    agent.line("verdict", namespace="jupyter", pod="jupyter-ada")
    api.vanish()
    name = 'minerwatch_probe_failures_total{probe="pods",reason="connection"} 0.0'
    agent.until(lambda: name not in agent.get("/metrics")[1])
    (status,) = [s for s in agent.statuses() if s.pod_uid == UID]
    assert status.pod == "jupyter-ada"
    assert agent.get("/healthz")[0] == 200
    api.listen()
    eventually(lambda: api.stream_count > 0, "the watch has not come back")


def test_the_owner_is_told_when_it_is_suspected_and_when_it_is_clear(
    agent: RunningAgent, api: ApiServer, cgroups: CgroupFolders
) -> None:
    agent.until(lambda: f'container="{ID[:12]}"' in agent.get("/metrics")[1])
    assert api.items("events", EVENTS) == []  # nobody knows yet whom to tell
    api.put(the_pod())
    eventually(lambda: api.items("events", EVENTS))
    (event, *_) = api.items("events", EVENTS)
    assert event["reason"] in ("MinerSuspected", "MinerConfirmed")
    assert event["regarding"]["name"] == "jupyter-ada"
    assert event["regarding"]["fieldPath"] == "spec.containers{notebook}"
    assert event["reportingInstance"] == NODE
    assert event["note"].startswith("Container notebook ")
    assert event["note"].endswith(CONTACT)
    assert 'probe="events",reason="forbidden"} 0.0' in agent.get("/metrics")[1]
    end_miner(cgroups.root / POD_PATH.strip("/"))
    eventually(lambda: "MinerCleared" in {e["reason"] for e in api.items("events", EVENTS)})


def end_miner(folder: Path) -> None:
    """End what looks like a miner; its container goes on."""
    for pid in (folder / "cgroup.procs").read_text().split():
        if b"stratum" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(int(pid), signal.SIGKILL)
