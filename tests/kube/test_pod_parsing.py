from __future__ import annotations

import copy
import json
import sys
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.format import rfc3339
from minerwatch.kube.pod_parsing import (
    MAX_CONTAINERS,
    MAX_HELD,
    MAX_OTHER_LABELS,
    MAX_OWNERS,
    MAX_VALUE_CHARS,
    PodFields,
    PodParser,
    bare_container_id,
    quantity,
)
from minerwatch.model import OwnerReference, Pod, PodContainer, PodContainerKind

KEEP = PodFields(
    labels=frozenset({"team"}),
    annotations=frozenset({"hub.jupyter.org/username"}),
    environment=frozenset({"BINDER_REF_URL", "SHARED"}),
)
DIGEST = "sha256:" + "ab" * 32

# What an API server sends, with what is passed over.
POD: dict[str, Any] = {
    "metadata": {
        "name": "jupyter-ada",
        "generateName": "jupyter-",
        "namespace": "hub",
        "uid": "6f1b2c3d-0000-4000-8000-000000000001",
        "resourceVersion": "4711",
        "creationTimestamp": "2026-11-23T10:00:00Z",
        "labels": {"component": "singleuser-server", "team": "x"},
        "annotations": {"hub.jupyter.org/username": "ada@example.org", "other": "y" * 5000},
        "ownerReferences": [
            {
                "apiVersion": "apps/v1",
                "kind": "ReplicaSet",
                "name": "web-5d4f",
                "uid": "u-1",
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
        "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {"f:phase": {}}}}],
    },
    "spec": {
        "nodeName": "n1",
        "serviceAccountName": "default",
        "priorityClassName": "low",
        "volumes": [{"name": "v", "emptyDir": {}}],
        "initContainers": [
            {"name": "setup", "image": "busybox"},
            {"name": "proxy", "image": "envoy", "restartPolicy": "Always"},
        ],
        "containers": [
            {
                "name": "notebook",
                "image": "quay.io/a/b:1",
                "env": [
                    {"name": "BINDER_REF_URL", "value": "https://example.org/old"},
                    {"name": "BINDER_REF_URL", "value": "https://example.org/new"},
                    {"name": "SHARED", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                    {"name": "TOKEN", "value": "secret"},
                ],
                "resources": {
                    "requests": {"cpu": "250m", "memory": "1Gi"},
                    "limits": {"cpu": "2", "nvidia.com/gpu": "1"},
                },
            },
            {"name": "side", "image": "s", "env": [{"name": "SHARED", "value": "plain"}]},
        ],
        "ephemeralContainers": [{"name": "debugger", "image": "busybox"}],
    },
    "status": {
        "phase": "Running",
        "qosClass": "Burstable",
        "containerStatuses": [
            {
                "name": "notebook",
                "containerID": "containerd://c1",
                "image": "quay.io/a/b:1",
                "imageID": f"quay.io/a/b@{DIGEST}",
                "lastState": {"terminated": {"containerID": "containerd://c0"}},
            },
            {"name": "unknown", "containerID": "containerd://c9"},
        ],
        "initContainerStatuses": [
            {"name": "setup", "containerID": "cri-o://c2", "imageID": "docker.io/x:latest"},
            {"name": "proxy", "containerID": "docker://c3", "imageID": DIGEST},
        ],
        "ephemeralContainerStatuses": [{"name": "debugger"}],
    },
}


def parsed(value: Any, keep: PodFields = KEEP) -> Pod | None:
    return PodParser(keep).pod(msgspec.json.encode(value))


def changed(*path: str | int, to: Any) -> dict[str, Any]:
    pod = copy.deepcopy(POD)
    place: Any = pod
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = to
    return pod


def test_all_that_is_used_is_kept_and_nothing_else() -> None:
    assert parsed(POD) == Pod(
        uid="6f1b2c3d-0000-4000-8000-000000000001",
        namespace="hub",
        name="jupyter-ada",
        node="n1",
        created_unix_s=1795428000.0,
        phase="Running",
        priority_class="low",
        service_account="default",
        labels={"component": "singleuser-server", "team": "x"},
        annotations={"hub.jupyter.org/username": "ada@example.org"},
        environment={"BINDER_REF_URL": "https://example.org/new", "SHARED": "plain"},
        owners=(OwnerReference("ReplicaSet", "web-5d4f", "u-1", is_controller=True),),
        containers=(
            PodContainer("c1", "notebook", "quay.io/a/b:1", DIGEST, PodContainerKind.MAIN, 1.0),
            PodContainer("", "side", "s", "", PodContainerKind.MAIN),
            PodContainer("c2", "setup", "busybox", "", PodContainerKind.INIT),
            PodContainer("c3", "proxy", "envoy", DIGEST, PodContainerKind.SIDECAR),
            PodContainer("", "debugger", "busybox", "", PodContainerKind.EPHEMERAL),
        ),
        mirror_uid="",
        is_ending=False,
    )


def test_the_least_that_a_pod_can_be() -> None:
    metadata = {
        "name": "a",
        "namespace": "b",
        "uid": "c",
        "creationTimestamp": "2026-11-23T10:00:00Z",
    }
    pod = parsed({"metadata": metadata, "spec": {}})
    assert pod is not None
    assert (pod.containers, pod.labels, pod.phase, pod.node) == ((), {}, "", "")
    nulls = {"metadata": {**metadata, "labels": None}, "spec": {"containers": None}, "status": None}
    assert parsed(nulls) == pod


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, 0.0),
        ({"requests": {"cpu": "4", "memory": "1Gi", "ephemeral-storage": "9Gi"}}, 0.0),
        ({"limits": {"nvidia.com/gpu": "0"}}, 0.0),
        ({"limits": {"nvidia.com/gpu": 2}, "requests": {"nvidia.com/gpu": 2}}, 2.0),
        ({"limits": {"nvidia.com/mig-1g.10gb": "1", "nvidia.com/mig-2g.20gb": "1"}}, 2.0),
        ({"limits": {"nvidia.com/gpu.shared": "1"}}, 1.0),
        ({"limits": {"amd.com/gpu": "1"}}, 1.0),
        ({"limits": {"gpu.intel.com/xe": "1"}}, 1.0),
        ({"limits": {"volcano.sh/vgpu-number": "1"}}, 1.0),
        ({"limits": {"aliyun.com/gpu-mem": "8"}}, 8.0),
        ({"limits": {"nvidia.com/gpu": "x", "gpu": None}}, 0.0),
        ({"limits": {"nvidia.com/gpu": "-4"}}, 0.0),
        ({"claims": [{"name": "device", "request": "gpu"}]}, None),
    ],
)
def test_gpus_are_extended_resources_or_claims(
    resources: dict[str, Any], expected: float | None
) -> None:
    pod = parsed(changed("spec", "containers", to=[{"name": "a", "resources": resources}]))
    assert pod is not None
    assert [each.gpus for each in pod.containers if each.name == "a"] == [expected]


def test_a_pod_that_is_being_deleted() -> None:
    pod = parsed(changed("metadata", "deletionTimestamp", to="2026-11-23T11:00:00Z"))
    assert pod is not None
    assert pod.is_ending


def test_a_static_pods_mirror() -> None:
    annotations = {"kubernetes.io/config.mirror": "0123", "kubernetes.io/config.hash": "0123"}
    pod = parsed(changed("metadata", "annotations", to=annotations))
    assert pod is not None
    assert (pod.mirror_uid, pod.annotations) == ("0123", {})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("metadata",), None),
        (("metadata", "uid"), ""),
        (("metadata", "uid"), 3),
        (("metadata", "name"), ""),
        (("metadata", "namespace"), None),
        (("metadata", "creationTimestamp"), None),
        (("metadata", "creationTimestamp"), "yesterday"),
        (("metadata", "creationTimestamp"), "9999-99-99T99:99:99Z"),
        (("metadata", "labels"), ["a"]),
        (("metadata", "labels"), {"a": 3}),
        (("metadata", "ownerReferences"), {"kind": "x"}),
        (("spec",), []),
        (("spec", "containers"), "none"),
        (("spec", "containers", 0), None),
        (("spec", "containers", 0, "env"), {"a": "b"}),
        (("spec", "containers", 0, "resources", "limits", "cpu"), ["2"]),
        (("status", "containerStatuses"), {"name": "x"}),
        (("status", "containerStatuses", 0, "containerID"), 7),
    ],
)
def test_a_pod_of_another_shape_is_none(path: tuple[str | int, ...], value: object) -> None:
    assert parsed(changed(*path, to=value)) is None


@pytest.mark.parametrize("time", ["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59"])
def test_when_a_pod_was_made_can_be_told_whatever_its_zone(time: str) -> None:
    found = parsed(changed("metadata", "creationTimestamp", to=time))
    assert found is not None
    assert rfc3339(found.created_unix_s)[:4] in ("1970", "9999")


@pytest.mark.parametrize(
    "json", [b"", b"{", b"null", b"3", b"[]", b"{}", b"\xff", b"[" * 10**6, b'{"a":' * 10**5]
)
def test_no_pod_at_all(json: bytes) -> None:
    assert PodParser(KEEP).pod(json) is None


def test_depth_below_what_is_passed_over_does_no_harm() -> None:
    deep = b'{"metadata":{"managedFields":' + b"[" * 10**6 + b"]" * 10**6 + b"}}"
    assert PodParser(KEEP).pod(deep) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.binary())
def test_bytes_never_raise(json: bytes) -> None:
    PodParser(KEEP).pod(json)


@given(st.data(), JSON)
def test_a_pod_with_anything_anywhere_never_raises(data: st.DataObject, value: object) -> None:
    path = data.draw(st.sampled_from(PATHS))
    pod = parsed(changed(*path, to=value))
    assert pod is None or (pod.uid and pod.name and pod.namespace)


def paths(value: Any, above: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    children = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    found = [above] if above else []
    for key, child in children:
        found += paths(child, (*above, key))
    return found


PATHS = paths(POD)


@given(st.text(min_size=1, max_size=40), st.text(min_size=1, max_size=40))
def test_hostile_names_are_kept_as_text(name: str, value: str) -> None:
    pod = copy.deepcopy(POD)
    pod["metadata"]["name"] = name
    pod["metadata"]["labels"] = {name: value}
    pod["metadata"]["annotations"] = {"hub.jupyter.org/username": value}
    pod["spec"]["containers"][0]["env"] = [{"name": "BINDER_REF_URL", "value": value}]
    found = PodParser(KEEP).pod(json.dumps(pod).encode())
    if found is None:  # a surrogate by itself is no text
        with pytest.raises(UnicodeEncodeError):
            (name + value).encode()
        return
    assert found.name == name
    assert found.labels == {name: value}
    assert found.annotations == {"hub.jupyter.org/username": value}
    assert found.environment["BINDER_REF_URL"] == value


def test_long_values_are_cut() -> None:
    annotations = {"hub.jupyter.org/username": "x" * 100_000}
    pod = parsed(changed("metadata", "annotations", to=annotations))
    assert pod is not None
    kept = pod.annotations["hub.jupyter.org/username"]
    assert (len(kept), kept[-2:]) == (MAX_VALUE_CHARS, "x…")


def test_a_label_that_is_asked_for_cannot_be_pushed_out() -> None:
    labels = {f"a{number}": "" for number in range(10_000)} | {"team": "x"}
    pod = parsed(changed("metadata", "labels", to=labels))
    assert pod is not None
    assert pod.labels["team"] == "x"
    assert len(pod.labels) == MAX_OTHER_LABELS + 1


def test_owners_are_bounded() -> None:
    reference = {"kind": "X", "name": "y", "uid": "z"}
    pod = parsed(changed("metadata", "ownerReferences", to=[reference] * 1000))
    assert pod is not None
    assert len(pod.owners) == MAX_OWNERS


def test_what_recurs_is_held_once() -> None:
    parser = PodParser(KEEP)
    first, second = (parser.pod(msgspec.json.encode(POD)) for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.namespace is second.namespace
    assert first.containers[0].image is second.containers[0].image


@pytest.mark.nightly
def test_of_pods_that_are_gone_little_is_held() -> None:
    parser = PodParser(KEEP)
    tracemalloc.start()
    try:
        for number in range(5 * MAX_HELD):
            team = f"{number:05}".ljust(MAX_VALUE_CHARS, "x")
            told = changed("metadata", "labels", to={"team": team})
            assert parser.pod(msgspec.json.encode(told)) is not None
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 2 * MAX_HELD * MAX_VALUE_CHARS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *(("2", 2.0), ("500m", 0.5), ("0.1", 0.1), (".5", 0.5), ("2.", 2.0), ("+1", 1.0)),
        *(("1e3", 1000.0), ("1E-3", 0.001), ("100u", 1e-4), ("5n", 5e-9), ("1k", 1000.0)),
        *(("1Ki", 1024.0), ("1M", 1e6), ("2Gi", 2.0 * 1024**3), (3, 3.0), (0.5, 0.5)),
        *(("", None), ("m", None), ("1.2.3", None), ("1 ", None), ("1mm", None), ("٣", None)),
        *(("1e999", None), ("9" * 400, None), ("nan", None), ("inf", None), ("0x1", None)),
        (float("inf"), None),
    ],
)
def test_quantities(text: str | float, expected: float | None) -> None:
    assert quantity(text) == (pytest.approx(expected) if expected is not None else None)


@given(st.text())
def test_a_quantity_never_raises(text: str) -> None:
    quantity(text)


@pytest.mark.parametrize(
    ("text", "bare"),
    [("containerd://ab", "ab"), ("cri-o://ab", "ab"), ("ab", "ab"), ("", ""), ("a://b://c", "c")],
)
def test_container_ids_are_bare(text: str, bare: str) -> None:
    assert bare_container_id(text) == bare


def test_of_a_pod_with_thousands_of_containers_some_are_kept() -> None:
    raw = copy.deepcopy(POD)
    raw["spec"]["containers"] = [{"name": f"c{number}"} for number in range(5000)]
    pod = PodParser(KEEP).pod(json.dumps(raw).encode())
    assert pod is not None
    assert len(pod.containers) == MAX_CONTAINERS
    assert [each.name for each in pod.containers[:3]] == ["setup", "proxy", "c0"], (
        "a container that runs is not exempt because many others do not"
    )


def test_the_images_of_a_pod_take_so_much_memory_together() -> None:
    raw = copy.deepcopy(POD)
    odd = [{"name": f"c{number}", "image": "😀" * 1000 + str(number)} for number in range(250)]
    raw["spec"]["containers"] = [{"name": "main", "image": "docker.io/library/nginx:1"}, *odd]
    pod = PodParser(KEEP).pod(json.dumps(raw).encode())
    assert pod is not None
    assert sum(sys.getsizeof(each.image) for each in pod.containers) <= 64 << 10
    assert pod.containers[0].image == "docker.io/library/nginx:1"
