"""A pod that calls itself a DaemonSet's is one only if the API server says so."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from minerwatch.kube.client import Cluster
from minerwatch.kube.controllers import KNOWN_S, RETRY_S, ControllerCheck
from minerwatch.kube.pod_parsing import PodFields, PodParser
from minerwatch.model import Pod
from tests.kube.api_server import Answering, ApiServer, Json, encode, pod_json

APPS = "/apis/apps/v1"
LABELS = {"app": "exporter"}


def daemon_set(uid: str = "ds-uid", **changes: Any) -> Json:
    spec = {
        "selector": {"matchLabels": dict(LABELS)},
        "template": {
            "metadata": {"labels": dict(LABELS)},
            "spec": {"containers": [{"name": "main", "image": "main:1", "args": ["--quiet"]}]},
        },
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "exporter", "namespace": "binder", "uid": uid},
        "spec": {**spec, **changes},
    }


def its_pod() -> Json:
    reference = {
        "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "exporter", "uid": "ds-uid",
        "controller": True,
    }  # fmt: skip
    item = pod_json(
        "exporter-x", namespace="binder", uid="uid-1", labels=dict(LABELS),
        creationTimestamp="2026-11-23T08:00:00Z", ownerReferences=[reference],
    )  # fmt: skip
    item["spec"]["containers"][0]["args"] = ["--quiet"]
    return item


def parsed(item: Json) -> Pod:
    pod = PodParser(PodFields()).pod(encode(item))
    assert pod is not None
    return pod


def check(api: ApiServer, cluster: Cluster, pod: Json, controller: Json | None) -> bool | None:
    api.put(pod)
    if controller is not None:
        api.put(controller, APPS, "daemonsets")
    return ControllerCheck(cluster).checked(parsed(pod), "exporter-x-id")


def test_a_daemon_sets_pod_is_one(api: ApiServer, cluster: Cluster) -> None:
    assert check(api, cluster, its_pod(), daemon_set()) is True


def _reference(pod: Json) -> Json:
    reference: Json = pod["metadata"]["ownerReferences"][0]
    return reference


Change = Callable[[Json], Any]


@pytest.mark.parametrize(
    "change",
    [
        lambda pod: _reference(pod).update(uid="made-up"),
        lambda pod: _reference(pod).update(controller=False),
        lambda pod: _reference(pod).update(apiVersion="example.org/v1"),
        lambda pod: _reference(pod).update(kind="Miner"),
        lambda pod: _reference(pod).update(name="missing"),
        lambda pod: pod["metadata"].update(labels={"app": "other"}),
        lambda pod: pod["metadata"].update(ownerReferences=[]),
        lambda pod: pod["spec"].update(priorityClassName="system-node-critical"),
        lambda pod: pod["spec"]["containers"][0].update(image="miner:1"),
        lambda pod: pod["spec"]["containers"][0].update(command=["sh", "-c", "./miner"]),
        lambda pod: pod["spec"]["containers"][0].update(args=["--donate-level", "1"]),
        lambda pod: pod["spec"]["containers"][0].update(name="extra"),
        lambda pod: pod["status"]["containerStatuses"][0].update(containerID="containerd://x"),
    ],
)
def test_a_pod_that_only_says_so_is_none(api: ApiServer, cluster: Cluster, change: Change) -> None:
    pod = its_pod()
    change(pod)
    assert check(api, cluster, pod, daemon_set()) is False


def test_a_container_beside_the_templates_own_is_not_the_daemon_sets(
    api: ApiServer, cluster: Cluster
) -> None:
    pod = its_pod()
    pod["spec"]["containers"].append({"name": "miner", "image": "miner:1"})
    pod["status"]["containerStatuses"].append({"name": "miner", "containerID": "containerd://m"})
    api.put(pod)
    api.put(daemon_set(), APPS, "daemonsets")
    asked = ControllerCheck(cluster)
    assert asked.checked(parsed(pod), "m") is False
    assert asked.checked(parsed(pod), "exporter-x-id") is True


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ({}, False),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["exporter"]}]}, True),
        (
            {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["exporter"]}]},
            False,
        ),
        ({"matchExpressions": [{"key": "app", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}, False),
        ({"matchExpressions": [{"key": "app", "operator": "Like"}]}, False),
    ],
)
def test_selectors(api: ApiServer, cluster: Cluster, selector: Json, expected: bool) -> None:
    assert check(api, cluster, its_pod(), daemon_set(selector=selector)) is expected


@pytest.mark.parametrize("how", [Answering(500), Answering(403), Answering(200, body=b"[]")])
def test_what_the_api_server_does_not_say_is_not_known(
    api: ApiServer, cluster: Cluster, how: Answering
) -> None:
    errors: list[str] = []
    api.put(its_pod())
    api.misbehave(how, when=lambda request: "daemonsets" in request.path)
    asked = ControllerCheck(cluster, on_error=lambda reason, _error: errors.append(reason))
    assert asked.checked(parsed(its_pod()), "exporter-x-id") is None
    assert len(errors) == sum(asked.failures.values()) == 1


def test_answers_are_remembered_for_a_while(api: ApiServer, cluster: Cluster) -> None:
    now_s = [0.0]
    asked = ControllerCheck(cluster, monotonic_s=lambda: now_s[0])
    item = its_pod()
    pod = parsed(item)
    api.put(copy.deepcopy(item))
    api.misbehave(Answering(500), when=lambda request: "daemonsets" in request.path)
    assert asked.known(pod, "exporter-x-id") is None
    assert asked.checked(pod, "exporter-x-id") is None
    api.behave()
    api.put(daemon_set(), APPS, "daemonsets")
    assert asked.checked(pod, "exporter-x-id") is None, "it is not asked at each tick"
    now_s[0] += RETRY_S
    assert asked.checked(pod, "exporter-x-id") is True
    api.remove("binder", "exporter", APPS, "daemonsets")
    assert asked.known(pod, "exporter-x-id") is True
    now_s[0] += KNOWN_S + 1
    assert asked.known(pod, "exporter-x-id") is None
    assert asked.checked(pod, "exporter-x-id") is False
