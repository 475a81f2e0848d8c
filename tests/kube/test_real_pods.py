"""Pods that a real kubelet runs: who they are, what ``exec`` brings back, ``top`` and ``explain``.

Stand-ins for agents run in them: a script that prints a recorded snapshot. They need an image with
a shell: MINERWATCH_TEST_IMAGE, or one that a node has already, or busybox from its registry.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from minerwatch.api.snapshot import decode
from minerwatch.cli.main import cli
from minerwatch.kube.client import ApiError, from_kubeconfig
from minerwatch.kube.owners import pod_fields, sources
from minerwatch.kube.pod_exec import Container, output
from minerwatch.kube.pods import PodWatch
from tests.agent.test_daemon import RunningAgent
from tests.agent.test_tick import POOL
from tests.conftest import CGROUPS, needs_root
from tests.kube.any_cluster import (
    AGENT_RULES,
    KUBECONFIG,
    ON_CALL_RULES,
    AnyCluster,
    needs_real_cluster,
    own_namespace,
)
from tests.kube.api_server import eventually
from tests.waiting import PATIENCE_S

pytestmark = needs_real_cluster

CLUSTER = Path(__file__).parent.parent / "fixtures" / "clusters" / "three-nodes"
SELECTOR = "app.kubernetes.io/name=minerwatch-test"
SNAPSHOT = "node-2.json"
IMAGES = ("busybox", "alpine", "debian", "ubuntu", "python")
START_S = 180.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[AnyCluster]:
    with own_namespace(Path(KUBECONFIG), is_real=True) as opened:
        yield opened


def get(cluster: AnyCluster, path: str) -> Any:
    return msgspec.json.decode(cluster.api.call("GET", path))


def image(cluster: AnyCluster) -> str:
    """One with a shell, if possible one that need not be pulled."""
    if chosen := os.environ.get("MINERWATCH_TEST_IMAGE"):
        return chosen
    nodes = get(cluster, "/api/v1/nodes")["items"]
    held = [
        name
        for node in nodes
        for each in node["status"].get("images") or ()
        for name in each.get("names") or ()
        if "@" not in name
    ]
    fitting = (name for known in IMAGES for name in held if f"/{known}:" in f"/{name}")
    return next(fitting, "docker.io/library/busybox:1.37")


def start_pod(
    cluster: AnyCluster, name: str, command: list[str], labels: dict[str, str], **spec: Any
) -> dict[str, Any]:
    """A pod that runs; skips where none can, for want of a node or an image."""
    container = {
        "name": "agent",
        "image": image(cluster),
        "imagePullPolicy": "IfNotPresent",
        "command": command,
        "env": [{"name": "PATH", "value": "/agent:/usr/local/bin:/usr/bin:/bin"}],
        "resources": {"limits": {"cpu": "200m", "memory": "64Mi"}},
        "volumeMounts": [{"name": "agent", "mountPath": "/agent"}],
    }
    pod = {
        "metadata": {
            "name": name,
            "labels": labels,
            "annotations": {"hub.jupyter.org/username": "ada@example.org"},
        },
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "tolerations": [{"operator": "Exists"}],
            "containers": [container],
            "volumes": [{"name": "agent", "configMap": {"name": "agent", "defaultMode": 0o555}}],
            **spec,
        },
    }
    files = {
        "minerwatch": '#!/bin/sh\ntest "$1" = snapshot && cat /agent/snapshot.json\n',
        "snapshot.json": (CLUSTER / SNAPSHOT).read_text(),
    }
    maps = f"/api/v1/namespaces/{cluster.namespace}/configmaps"
    try:
        cluster.send("POST", maps, {"metadata": {"name": "agent"}, "data": files})
    except ApiError as error:
        if error.reason != "conflict":
            raise
    until_s = time.monotonic() + START_S
    created = False
    while time.monotonic() < until_s:
        try:
            if not created:
                cluster.send("POST", cluster.pods_path, pod)
                created = True
        except ApiError as error:
            if error.reason != "forbidden":  # its service account is not there yet
                raise
        found = get(cluster, f"{cluster.pods_path}/{name}") if created else {"status": {}}
        statuses = found["status"].get("containerStatuses") or [{}]
        if "running" in (statuses[0].get("state") or {}):
            return dict(found)
        time.sleep(0.5)
    pytest.skip(
        f"no pod of {image(cluster)} has started within {START_S:g} s:"
        " name an image with a shell in MINERWATCH_TEST_IMAGE"
    )


@pytest.fixture(scope="module")
def agent_pod(cluster: AnyCluster) -> dict[str, Any]:
    loop = ["/bin/sh", "-c", "while :; do sleep 1; done"]
    pod = start_pod(cluster, "agent", loop, dict([SELECTOR.split("=")]), hostPID=True)
    return adopted(cluster, pod)


def adopted(cluster: AnyCluster, pod: dict[str, Any]) -> dict[str, Any]:
    """The pod, once a DaemonSet for its node alone has adopted it."""
    labels = pod["metadata"]["labels"]
    only_there = {"kubernetes.io/hostname": pod["spec"]["nodeName"]}
    container = {"name": "agent", "image": pod["spec"]["containers"][0]["image"]}
    template = {
        "metadata": {"labels": labels},
        "spec": {
            "hostPID": True,
            "nodeSelector": only_there,
            "tolerations": [{"operator": "Exists"}],
            "containers": [container],
        },
    }
    daemon_set = {
        "metadata": {"name": "agent"},
        "spec": {
            "selector": {"matchLabels": labels},
            "updateStrategy": {"type": "OnDelete"},
            "template": template,
        },
    }
    path = f"/apis/apps/v1/namespaces/{cluster.namespace}/daemonsets"
    cluster.send("POST", path, daemon_set)
    pod_path = f"{cluster.pods_path}/{pod['metadata']['name']}"
    eventually(
        lambda: get(cluster, pod_path)["metadata"].get("ownerReferences"),
        "no controller of DaemonSets has adopted the pod",
        PATIENCE_S,
    )
    return dict(get(cluster, pod_path))


def bare_id(pod: dict[str, Any]) -> str:
    return str(pod["status"]["containerStatuses"][0]["containerID"]).rpartition("://")[2]


def test_a_container_is_known_by_the_id_that_its_runtime_gave_it(
    cluster: AnyCluster, agent_pod: dict[str, Any]
) -> None:
    node = agent_pod["spec"]["nodeName"]
    pods = PodWatch(
        cluster.api,
        node,
        keep=pod_fields(sources("jupyterhub")),
        on_error=lambda *_: None,
        rng=random.Random(),
    )
    pods.start()
    try:
        eventually(lambda: pods.cache.by_container_id(bare_id(agent_pod)), timeout_s=PATIENCE_S)
        found = pods.cache.by_container_id(bare_id(agent_pod))
        assert found is not None
        pod, container = found
        assert (pod.uid, pod.node) == (agent_pod["metadata"]["uid"], node)
        assert container.name == "agent"
        assert pod.annotations["hub.jupyter.org/username"] == "ada@example.org"
        assert not any(pods.failures.values())
    finally:
        pods.close()


def test_exec_brings_back_what_a_command_prints(
    cluster: AnyCluster, agent_pod: dict[str, Any], tmp_path: Path
) -> None:
    kubeconfig = cluster.write_kubeconfig(tmp_path / "on-call", "exec", ON_CALL_RULES)
    api = from_kubeconfig(kubeconfig)
    where = Container(cluster.namespace, "agent", "agent")
    assert (
        output(api, where, ["minerwatch", "snapshot"], timeout_s=30)
        == (CLUSTER / SNAPSHOT).read_bytes()
    )
    large = output(api, where, ["/bin/sh", "-c", "head -c 3000000 /dev/zero"], timeout_s=60)
    assert large == bytes(3_000_000)
    words = output(api, where, ["/bin/sh", "-c", 'printf %s "$1"', "sh", "a b&c=é"], timeout_s=30)
    assert words.decode() == "a b&c=é"
    with pytest.raises(ApiError, match="it is broken"):
        output(api, where, ["/bin/sh", "-c", "echo it is broken >&2; exit 3"], timeout_s=30)
    with pytest.raises(ApiError):
        output(api, where, ["/no/such/program"], timeout_s=30)
    with pytest.raises(ApiError):
        output(api, Container(cluster.namespace, "nobody", "agent"), ["true"], timeout_s=30)
    began_s = time.monotonic()
    with pytest.raises(ApiError, match="no answer within 2 s"):
        output(api, where, ["/bin/sh", "-c", "sleep 60"], timeout_s=2)
    assert time.monotonic() - began_s < 30
    api.close()


def test_top_and_explain_ask_the_agents(
    cluster: AnyCluster, agent_pod: dict[str, Any], tmp_path: Path
) -> None:
    kubeconfig = cluster.write_kubeconfig(tmp_path / "on-call", "on-call", ON_CALL_RULES)
    options = ["--kubeconfig", str(kubeconfig), "--agent-namespace", cluster.namespace]
    options += ["--agent-selector", SELECTOR]
    shown = CliRunner().invoke(cli, ["top", "-A", "--once", *options])
    assert shown.exit_code == 0, shown.stderr
    nodes = len(get(cluster, "/api/v1/nodes")["items"])
    assert f"1 of {nodes} node" in shown.stdout
    assert "ci/runner-7f9c-x2k4q/build" in shown.stdout
    assert shown.stdout.count("no agent runs on it") == (1 if nodes > 1 else 0)
    node = agent_pod["spec"]["nodeName"]
    statuses = decode(
        CliRunner().invoke(cli, ["top", "-A", "--once", "-o", "json", *options]).stdout_bytes
    )
    assert {status.node for status in statuses} == {node}
    why = CliRunner().invoke(cli, ["explain", "ci/runner-7f9c-x2k4q", *options])
    assert why.exit_code == 0, why.stderr
    assert "Rounds like RandomX" in why.stdout


@needs_root
def test_a_pod_that_mines_on_this_very_node(cluster: AnyCluster, tmp_path: Path) -> None:
    """The agent on the node's own kernel, with no more rights than it is given."""
    loop = ["/bin/sh", "-c", "while :; do :; done", *POOL]
    pod = start_pod(cluster, "miner", loop, {})  # with their label the DaemonSet would remove it
    if not any(bare_id(pod) in str(folder) for folder in CGROUPS.rglob("*") if folder.is_dir()):
        pytest.skip("the pod runs on another machine: run the tests as root on a cluster's node")
    kubeconfig = cluster.write_kubeconfig(tmp_path / "agent", "agent", AGENT_RULES)
    settings = tmp_path / "config.yaml"
    settings.write_text(
        f"node: {{name: {pod['spec']['nodeName']}}}\n"
        f"kubernetes: {{enabled: true, kubeconfig: {kubeconfig}}}\n"
        "probes: {content: false}\n"
    )
    agent = RunningAgent(tmp_path, "--config", str(settings), in_cluster=True)
    try:
        place = f'namespace="{cluster.namespace}",pod="miner"'
        agent.until(lambda: place in agent.get("/metrics")[1])
        (status,) = [s for s in agent.statuses() if s.pod == "miner"
                     and s.container == "agent"]  # fmt: skip
        assert (status.container_id, status.owner) == (bare_id(pod), "ada@example.org")
        eventually(cluster.events, "no event", PATIENCE_S)
        assert cluster.events()[0]["regarding"]["name"] == "miner"
    finally:
        agent.close()
