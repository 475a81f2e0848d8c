from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from minerwatch.agent.tracked import TrackedContainer, TrackedNode
from minerwatch.model import Container, ContainerKind, Level

POD = "0f3c1a52-7d1e-4b6c-9a55-3b8a2f0d9c11"
SANDBOX = Container(f"/kubepods/pod{POD}/{'5a' * 32}", 7, ContainerKind.POD, "5a" * 32, "", POD)
UNNAMED = {"PodName": "jupyter-ada", "PodNamespace": "jupyter"}


def watched(
    container: Container = SANDBOX, cpu_s: float = 0.04, **changes: Any
) -> TrackedContainer:
    found = TrackedContainer.new(container, 100.0, cpu_s)
    found.cluster_facts = UNNAMED
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def test_what_holds_a_pods_namespaces_is_no_container() -> None:
    assert watched().is_idle_sandbox


@pytest.mark.parametrize(
    "other",
    [
        watched(cluster_facts={**UNNAMED, "ContainerName": "notebook"}),
        watched(cluster_facts={}),  # the pod is not known: it is not known what this is
        watched(cpu_s=1.0),
        watched(processes={1: None, 2: None}),
        watched(verdict=replace(watched().verdict, level=Level.SUSPICIOUS)),
        watched(replace(SANDBOX, kind=ContainerKind.ENGINE)),
        watched(replace(SANDBOX, outer_cgroup="/kubepods/x")),
    ],
)
def test_what_does_anything_is_one_whatever_it_is_called(other: TrackedContainer) -> None:
    assert not other.is_idle_sandbox


def test_a_hosts_cgroup_belongs_to_the_engines_container_around_it() -> None:
    outer = Container(f"/docker/{'1' * 64}", 1, ContainerKind.ENGINE, "1" * 64, "docker")
    node = TrackedNode()
    node.containers[outer.key] = TrackedContainer.new(outer, 0.0, 0.0)
    pod = Container(f"{outer.cgroup}/p", 2, ContainerKind.POD, "p", "", outer_cgroup=outer.cgroup)
    engines = replace(pod, kind=ContainerKind.ENGINE)
    assert node.carrier(engines) == outer
    assert node.carrier(pod) == pod
    assert node.carrier(pod, of_pod=False) == outer
    assert node.carrier(outer, of_pod=False) == outer
    user = Container("/user.slice/user-1.slice/u", 3, ContainerKind.UNIT, "u", "systemd")
    node.containers[user.key] = TrackedContainer.new(user, 0.0, 0.0)
    below = replace(engines, cgroup=f"{user.cgroup}/a", outer_cgroup=user.cgroup)
    assert node.carrier(below, of_pod=False) == below
