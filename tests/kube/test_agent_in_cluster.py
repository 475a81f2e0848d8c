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
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from minerwatch.api.client import answer
from minerwatch.api.snapshot import decode_agent
from minerwatch.cli.main import cli
from tests.agent.test_daemon import OWN_RULES_ONLY, RunningAgent
from tests.agent.test_tick import runtime_bundle
from tests.conftest import (
    TOP,
    CgroupFolders,
    Programs,
    container_id,
    pod_uid,
    remove_parent_cgroups,
)
from tests.kube.api_server import (
    Answering,
    ApiServer,
    as_agent,
    eventually,
    pod_json,
    put_daemon_set,
)
from tests.kube.exec_endpoint import Printing
from tests.waiting import until

UID = pod_uid("5d3c1a22")
ID = container_id("c4")
POD_PATH = f"{TOP}/kubepods/burstable/pod{UID}/{ID}"
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
        f"{OWN_RULES_ONLY}node: {{name: {NODE}}}\n"
        f"kubernetes: {{enabled: true, kubeconfig: {kubeconfig}, contact: {CONTACT}}}\n"
        "probes: {content: false}\n"
    )
    running = RunningAgent(tmp_path, "--config", str(settings), in_cluster=True, all_rules=False)
    yield running
    running.close()


def test_a_flagged_container_bears_its_pods_names(agent: RunningAgent, api: ApiServer) -> None:
    agent.line("verdict", namespace="", container=ID[:12])
    assert "minerwatch_unmapped_containers 0.0" not in agent.get("/metrics")[1]

    def names() -> set[str]:
        found = agent.statuses()
        return {f"{each.pod} {each.container}" for each in found}

    raw = the_pod()  # the kernel knew it before the API did, ...
    raw["status"]["containerStatuses"] = []
    api.put(raw)
    agent.until(lambda: f"jupyter-ada {ID[:12]}" in names())
    assert f'container="{ID[:12]}"' not in agent.get("/metrics")[1]
    assert api.items("events", "/apis/events.k8s.io/v1") == []
    api.put(the_pod())  # ... and the API knew the pod before the kubelet's status
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
    assert f'container="{ID[:12]}"' not in metrics
    eventually(lambda: api.items("events", "/apis/events.k8s.io/v1"))
    (event,) = api.items("events", "/apis/events.k8s.io/v1")
    assert event["regarding"]["fieldPath"] == "spec.containers{notebook}"


def test_a_pods_sandbox_is_no_container_until_it_does_something(
    agent: RunningAgent, api: ApiServer, cgroups: CgroupFolders, programs: Programs
) -> None:
    api.put(the_pod())
    agent.line("verdict", namespace="jupyter", pod="jupyter-ada")
    folder = cgroups.make(f"{POD_PATH.rpartition('/')[0]}/{'5a' * 32}")
    pause = programs.start("pause", busy=False)
    cgroups.put(pause, folder)

    def known() -> set[str]:
        statuses = agent.statuses()
        return {status.container_id[:2] for status in statuses if status.pod_uid == UID}

    others = [programs.start("pause", busy=False) for _ in range(2)]
    for other in others:  # what the API does not name shows as long as it is more than that
        cgroups.put(other, folder)
    agent.until(lambda: "5a" in known())
    for other in others:
        other.kill()
    agent.until(lambda: "5a" not in known())
    assert ID[:2] in known()


def test_an_agent_that_may_not_list_pods_is_not_ready(
    api: ApiServer, kubeconfig: Path, tmp_path: Path
) -> None:
    api.misbehave(Answering(403, "pods is forbidden"), times=999)
    settings = tmp_path / "config.yaml"
    settings.write_text(
        f"{OWN_RULES_ONLY}node: {{name: {NODE}}}\n"
        f"kubernetes: {{enabled: true, kubeconfig: {kubeconfig}}}\n"
    )
    agent = RunningAgent(tmp_path, "--config", str(settings), in_cluster=True, all_rules=False)
    try:
        said = "the pods of this node cannot be listed: forbidden\n"
        agent.until(lambda: agent.get("/readyz") == (503, said))
        assert agent.get("/healthz")[0] == 200
        status = decode_agent(answer(agent.socket, "/status"))
        assert "pods is forbidden" in str(status.troubles)
        _until_top_says(agent, f"minerwatch: node {NODE}: the pods of this node cannot be listed")
    finally:
        agent.close()


def _until_top_says(agent: RunningAgent, said: str) -> None:
    """On a busy machine the agent may need more than the 5 s that a command waits."""

    def shown() -> bool:
        command = ["top", "--once", "--socket", str(agent.socket)]
        return said in CliRunner().invoke(cli, command).stderr

    until(shown)


def test_an_agent_that_has_lost_its_api_server_says_so_and_stays_ready(
    agent: RunningAgent, api: ApiServer, kubeconfig: Path
) -> None:
    api.put(the_pod())
    agent.until(lambda: agent.get("/readyz")[0] == 200)
    api.vanish()
    agent.until(lambda: "not up to date" in agent.get("/readyz")[1])
    assert agent.get("/readyz")[0] == 200, "it has names, and goes on"
    _until_top_says(agent, "the pods of this node are not up to date")


@pytest.mark.nightly
def test_an_agent_that_is_told_a_wrong_node_says_so(agent: RunningAgent) -> None:
    def reasons() -> list[str]:
        return [str(line.get("reason")) for line in agent.lines()]

    agent.until(lambda: any(f"no pod of node '{NODE}'" in reason for reason in reasons()))
    assert any("set node.name or MINERWATCH_NODE" in reason for reason in reasons())


def output_of(command: list[str]) -> bytes:
    return subprocess.run(command, capture_output=True).stdout


def test_a_laptop_sees_it_in_top_and_explain(
    agent: RunningAgent, api: ApiServer, kubeconfig: Path
) -> None:
    api.put(the_pod())
    agent.line("verdict", namespace="jupyter", pod="jupyter-ada")
    labels = {"app.kubernetes.io/name": "minerwatch"}
    put_daemon_set(api)
    api.put(as_agent(pod_json("minerwatch-x", namespace="minerwatch", node=NODE, labels=labels)))
    api.put({"kind": "Node", "metadata": {"name": NODE}}, resource="nodes")
    for options in (["--with-status"], ["--full"]):
        command = ["snapshot", *options]
        in_pod = [sys.executable, "-m", "minerwatch", *command, "--socket", str(agent.socket)]
        # A program is reported as it starts: before the first tick there is no snapshot.
        printed = until(partial(output_of, in_pod))
        api.runs("minerwatch", "minerwatch-x", Printing(printed), "minerwatch", *command)
    asked = ["--kubeconfig", str(kubeconfig)]
    shown = CliRunner().invoke(cli, ["top", "-A", "--once", *asked])
    assert shown.exit_code == 0, shown.stderr
    assert "context lab · all namespaces · 1 of 1 node answered" in shown.stdout
    (line,) = [text for text in shown.stdout.splitlines() if "jupyter-ada/notebook" in text]
    assert "ada@example.org" in line
    why = CliRunner().invoke(cli, ["explain", "jupyter/jupyter-ada", *asked])
    assert "stratum+tcp://" in why.stdout
    assert f"Node       {NODE}" in why.stdout


def test_what_is_in_no_pod_counts_in_a_cluster_too(agent: RunningAgent, api: ApiServer) -> None:
    """Each process of the node belongs to something that is watched."""
    api.put(the_pod())
    agent.line("verdict", namespace="jupyter", pod="jupyter-ada")
    statuses = agent.statuses()
    assert {"pod", "host"} <= {status.kind for status in statuses}
    assert all(status.namespace == "" for status in statuses if status.kind != "pod")


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


@pytest.mark.nightly
def test_the_owner_is_told_when_it_is_suspected_and_when_it_is_clear(
    agent: RunningAgent, api: ApiServer, cgroups: CgroupFolders
) -> None:
    agent.line("verdict", namespace="")
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


def test_who_may_not_exec_reads_the_agent_on_its_port(
    api: ApiServer, kubeconfig: Path, programs: Programs, tmp_path: Path
) -> None:
    """The agent's real port, its token reviews, and the commands as an on-call types them."""
    programs.start("sleep", "--password=hunter2xyz", busy=True)
    settings = tmp_path / "config.yaml"
    settings.write_text(
        f"{OWN_RULES_ONLY}node: {{name: {NODE}}}\n"
        f"kubernetes: {{enabled: true, kubeconfig: {kubeconfig}}}\n"
    )
    options = ("--config", str(settings), "--listen", "0.0.0.0:0")
    agent = RunningAgent(tmp_path, *options, in_cluster=True, all_rules=False)
    try:
        put_daemon_set(api)
        head = {"name": "minerwatch-view", "namespace": "minerwatch"}
        api.put({"kind": "ServiceAccount", "metadata": head}, resource="serviceaccounts")
        api.permitted = {("system:serviceaccount:minerwatch:minerwatch-view", "get", "/report")}
        labels = {"app.kubernetes.io/name": "minerwatch"}
        pod = as_agent(pod_json("a", namespace="minerwatch", node=NODE, labels=labels))
        pod["spec"]["containers"][0]["ports"] = [{"name": "metrics", "containerPort": 9797}]
        api.put(pod)
        port = str(agent.line("watching")["metrics"]).rpartition(":")[2].partition("/")[0]
        api.serves("minerwatch", "a", f"127.0.0.1:{port}")
        api.misbehave(Answering(403, "pods/exec"), times=100, when=lambda asked: asked.is_exec)

        def typed(*words: str) -> str:
            environment = {"KUBECONFIG": str(kubeconfig)}
            done = CliRunner().invoke(cli, [*words, "-A"], env=environment)
            assert done.exit_code in (0, 1), done.output
            return done.output

        agent.until(lambda: "--password=" in typed("top", "--once", "-o", "json"))
        shown = typed("top", "--once", "-o", "json") + typed("explain", "host")
        assert "hunter2xyz" not in shown
        assert NODE in typed("status")
        assert "pods/exec" in typed("explain", "host", "--unmasked")
    finally:
        agent.close()
