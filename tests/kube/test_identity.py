"""Containers of the kernel and pods of the API, put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from minerwatch.kube.cluster_view import MAX_WAIT_S, NameWait, identity_facts, identity_of
from minerwatch.kube.owners import sources
from minerwatch.kube.pod_cache import PodCache
from minerwatch.kube.pod_parsing import PodFields, PodParser
from minerwatch.model import Container, ContainerKind, Identity, Pod
from tests.builders import make_container, make_pod, make_pod_container
from tests.kube.api_server import encode, pod_json

UID = "0f3c1a52-7d1e-4b6c-9a55-3b8a2f0d9c11"
ID = "e5" * 32
HUB = ("annotation:hub.jupyter.org/username", "namespace")


def known(*pods: Pod) -> PodCache:
    """Pods that are known, without a cluster."""
    cache = PodCache(lambda: 0.0)
    cache.replace(pods)
    return cache


def a_pod(uid: str = UID, container_id: str = ID) -> Pod:
    raw = pod_json(
        "jupyter-ada", namespace="jupyter", uid=uid, creationTimestamp="2026-11-24T00:00:00Z"
    )
    raw["metadata"]["annotations"] = {"hub.jupyter.org/username": "ada@example.org"}
    raw["spec"]["containers"] = [{"name": "notebook", "image": "lab:1"}]
    raw["status"]["containerStatuses"] = [
        {"name": "notebook", "image": "lab:1", "containerID": f"containerd://{container_id}"}
    ]
    keep = PodFields(
        labels=frozenset(),
        annotations=frozenset({"hub.jupyter.org/username"}),
        environment=frozenset(),
    )
    pod = PodParser(keep).pod(encode(raw))
    assert pod is not None
    return pod


def a_container(
    container_id: str = ID, pod_uid: str = UID, kind: ContainerKind = ContainerKind.POD
) -> Container:
    return make_container(container_id, pod_uid, kind=kind, runtime="")


def test_a_container_that_the_api_knows_has_its_name_image_and_owner() -> None:
    identity = identity_of(a_container(), known(a_pod()), sources("default", HUB))
    assert identity is not None
    assert identity.owner is not None
    assert (identity.pod.namespace, identity.pod.name) == ("jupyter", "jupyter-ada")
    assert (identity.container, identity.image) == ("notebook", "lab:1")
    assert identity.owner.name == "ada@example.org"
    assert identity_facts(identity) == {
        "ContainerName": "notebook",
        "ContainerImage": "lab:1",
        "PodNamespace": "jupyter",
        "PodName": "jupyter-ada",
        "OwnerUser": ("ada@example.org",),
        "GpuRequested": False,
    }


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        ((0.0, 0.0), {"GpuRequested": False}),
        # of a pod, one container's request is all containers'
        ((0.0, 2.0), {"GpuRequested": True, "ContainerGpuLimit": 2.0}),
        ((None, 1.0), {"GpuRequested": True}),
        # what is claimed may be a GPU
        ((0.0, None), {}),
    ],
)
def test_the_gpus_that_a_pod_requests(
    gpus: Sequence[float | None], expected: Mapping[str, object]
) -> None:
    containers = tuple(make_pod_container(f"c{n}", gpus=each) for n, each in enumerate(gpus))
    facts = identity_facts(Identity(make_pod(containers=containers), "c0", "", None))
    names = ("GpuRequested", "ContainerGpuLimit")
    assert {name: facts[name] for name in names if name in facts} == expected


def test_a_nested_container_is_its_pods() -> None:
    nested = replace(a_container("d0" * 32), outer_cgroup=a_container().cgroup)
    identity = identity_of(nested, known(a_pod()), ())
    assert identity is not None
    assert identity.pod.name == "jupyter-ada"
    assert (identity.container, identity.image, identity.is_named) == ("d0" * 6, "", True)
    assert "ContainerImage" not in identity_facts(identity)


def test_a_container_is_not_the_pod_of_another_uid() -> None:
    other = "99999999-7d1e-4b6c-9a55-3b8a2f0d9c11"
    assert identity_of(a_container(pod_uid=other), known(a_pod()), ()) is None


def test_what_is_no_pods_or_not_known_has_no_place() -> None:
    assert identity_of(a_container(kind=ContainerKind.ENGINE), known(a_pod()), ()) is None
    assert identity_of(a_container(), known(), ()) is None
    assert identity_facts(None) == {}


NAMED = known(a_pod())
UNNAMED = known(a_pod(container_id=""))
UNKNOWN = known()


def test_what_has_a_name_does_not_wait() -> None:
    container = a_container()
    assert NameWait().is_over(container, identity_of(container, NAMED, ()), 0.0)
    engine = a_container(kind=ContainerKind.ENGINE)
    assert NameWait().is_over(engine, None, 0.0), "it never gets one"
    nested = replace(container, outer_cgroup="/kubepods/x")
    assert NameWait().is_over(nested, identity_of(nested, UNNAMED, ()), 0.0), "neither does this"


def test_what_has_none_waits_but_not_for_ever() -> None:
    container, names = a_container(), NameWait()
    for cache in (UNNAMED, UNKNOWN):
        identity = identity_of(container, cache, ())
        assert not names.is_over(container, identity, 100.0)
        assert not names.is_over(container, identity, 99.0 + MAX_WAIT_S)
    assert names.is_over(container, identity_of(container, UNNAMED, ()), 100.0 + MAX_WAIT_S)


def test_a_name_that_comes_ends_the_wait() -> None:
    container, names = a_container(), NameWait()
    assert not names.is_over(container, identity_of(container, UNNAMED, ()), 100.0)
    assert names.is_over(container, identity_of(container, NAMED, ()), 101.0)
    assert not names.is_over(container, identity_of(container, UNKNOWN, ()), 200.0), (
        "it is another wait"
    )


def test_few_are_remembered() -> None:
    names, first = NameWait(), a_container()
    assert not names.is_over(first, None, 0.0)
    for number in range(10_000):
        container = replace(first, cgroup_inode=first.cgroup_inode + 1 + number)
        assert not names.is_over(container, None, 0.0)
    assert not names.is_over(first, None, MAX_WAIT_S), "it is forgotten, and waits again"
    assert names.is_over(container, None, MAX_WAIT_S)
