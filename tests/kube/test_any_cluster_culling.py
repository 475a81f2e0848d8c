"""Actions and budget against the tests' own API server, and against a real one where one is named.

With an account that may do only what the chart grants to an agent that culls.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from minerwatch.config.values import PodLabel
from minerwatch.culling.decision import Decision
from minerwatch.culling.lease_budget import LeaseBudget
from minerwatch.culling.lease_codec import IN_EARNEST, LEASE
from minerwatch.culling.pod_actions import Actions, ApiRequest, planned, unlabelling
from minerwatch.kube.client import ApiError, Cluster, from_kubeconfig
from minerwatch.kube.pod_parsing import PodFields
from minerwatch.model import Action
from tests.builders import make_limits
from tests.culling.test_lease_budget import NOW, PATIENT, record
from tests.culling.test_pod_actions import decision
from tests.kube.any_cluster import PATIENCE_S, AnyCluster, needs_real_cluster
from tests.kube.api_server import Answering, Dropping, eventually
from tests.kube.faulty_proxy import FaultyProxy
from tests.kube.test_culling_end_to_end import cull_rules

LABEL = PodLabel("minerwatch.io/quarantine=true")


@pytest.fixture
def account(any_cluster: AnyCluster, tmp_path: Path) -> Iterator[Cluster]:
    """What an agent that culls may do, and no more."""
    kubeconfig = (
        any_cluster.write_kubeconfig(tmp_path / "agent", "agent", cull_rules())
        if any_cluster.is_real
        else any_cluster.kubeconfig
    )
    opened = from_kubeconfig(kubeconfig)
    yield opened
    opened.close()


@pytest.fixture
def actions(account: Cluster) -> Actions:
    return Actions(account, PodFields())


def about(cluster: AnyCluster, pod: dict[str, Any], action: Action, **changes: Any) -> Decision:
    plain = decision(action, namespace=cluster.namespace, pod=pod["metadata"]["name"])
    return replace(plain, pod_uid=pod["metadata"]["uid"], **changes)


def request(asked: Decision, version: str = "") -> ApiRequest:
    made = planned(asked, LABEL, version)
    assert isinstance(made, ApiRequest)
    return made


def is_there(cluster: AnyCluster, actions: Actions, name: str) -> bool:
    seen = actions.fetch(cluster.namespace, name)
    return seen is not None and not seen.pod.is_ending


@pytest.mark.parametrize("action", [Action.EVICT, Action.DELETE])
def test_a_dry_run_changes_nothing_and_in_earnest_the_pod_goes(
    any_cluster: AnyCluster, actions: Actions, action: Action
) -> None:
    pod = any_cluster.create_pod("jupyter-eve")
    any_cluster.start_container("jupyter-eve", "c1")
    actions.send(request(about(any_cluster, pod, action, dry_run=True, grace_period_s=1)))
    assert is_there(any_cluster, actions, "jupyter-eve")
    actions.send(request(about(any_cluster, pod, action, grace_period_s=1)))
    eventually(lambda: not is_there(any_cluster, actions, "jupyter-eve"), "it lives on", PATIENCE_S)


@pytest.mark.parametrize("action", [Action.LABEL, Action.EVICT, Action.DELETE])
@pytest.mark.parametrize("dry_run", [True, False])
def test_another_pod_of_the_same_name_is_left_alone(
    any_cluster: AnyCluster, actions: Actions, action: Action, dry_run: bool
) -> None:
    before = any_cluster.create_pod("jupyter-eve")
    any_cluster.delete_pod("jupyter-eve")
    eventually(lambda: actions.fetch(any_cluster.namespace, "jupyter-eve") is None, "", PATIENCE_S)
    any_cluster.create_pod("jupyter-eve")
    with pytest.raises(ApiError) as refused:
        actions.send(request(about(any_cluster, before, action, dry_run=dry_run)))
    assert refused.value.status in (409, 422)
    seen = actions.fetch(any_cluster.namespace, "jupyter-eve")
    assert seen is not None
    assert not seen.pod.is_ending
    assert LABEL.key not in seen.pod.labels


def test_a_pod_is_labelled_by_its_version_and_released(
    any_cluster: AnyCluster, actions: Actions
) -> None:
    pod = any_cluster.create_pod("jupyter-eve", labels={"app": "hub"})
    asked = about(any_cluster, pod, Action.LABEL)
    actions.send(request(replace(asked, dry_run=True), pod["metadata"]["resourceVersion"]))
    seen = actions.fetch(any_cluster.namespace, "jupyter-eve")
    assert seen is not None
    assert seen.pod.labels == {"app": "hub"}
    any_cluster.set_metadata("jupyter-eve", annotations={"x": "y"})  # somebody changes it
    with pytest.raises(ApiError) as refused:
        actions.send(request(asked, seen.resource_version))
    assert refused.value.reason == "conflict"
    seen = actions.fetch(any_cluster.namespace, "jupyter-eve")
    assert seen is not None
    actions.send(request(asked, seen.resource_version))
    seen = actions.fetch(any_cluster.namespace, "jupyter-eve")
    assert seen is not None
    assert seen.pod.labels == {"app": "hub", LABEL.key: LABEL.value}
    actions.send(unlabelling(seen.pod, LABEL, seen.resource_version))
    seen = actions.fetch(any_cluster.namespace, "jupyter-eve")
    assert seen is not None
    assert seen.pod.labels == {"app": "hub"}


@needs_real_cluster
@pytest.mark.parametrize("any_cluster", ["real"], indirect=True)
def test_a_pod_disruption_budget_is_honoured(any_cluster: AnyCluster, actions: Actions) -> None:
    """A real one, so only on a real cluster: its controller has to count the pods."""
    pod = any_cluster.create_pod("jupyter-eve", labels={"app": "hub"})
    any_cluster.start_container("jupyter-eve", "c1")
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "hub"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "hub"}}},
    }
    path = f"/apis/policy/v1/namespaces/{any_cluster.namespace}/poddisruptionbudgets"
    any_cluster.send("POST", path, budget)
    for dry_run in (True, False):
        with pytest.raises(ApiError) as refused:
            actions.send(request(about(any_cluster, pod, Action.EVICT, dry_run=dry_run)))
        assert refused.value.status == 429
    assert is_there(any_cluster, actions, "jupyter-eve")


def places(cluster: AnyCluster) -> list[Any]:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{cluster.namespace}/leases/{LEASE}"
    lease: Any = msgspec.json.decode(cluster.api.call("GET", path))
    found: list[Any] = msgspec.json.decode(lease["metadata"]["annotations"][IN_EARNEST])
    return found


def test_many_agents_never_take_one_place_too_many(
    any_cluster: AnyCluster, account: Cluster, tmp_path: Path
) -> None:
    """Through a proxy that loses some answers and refuses some requests."""
    agents, limit = 6, 7
    limits = make_limits(per_node=3, per_cluster=limit)
    with FaultyProxy(account) as proxy:
        for how in (Dropping(), Answering(409), Answering(500), Answering(429)):
            proxy.misbehave(how, times=2, when=lambda asked: asked.method in ("PUT", "POST"))

        def agent(number: int) -> int:
            budget = LeaseBudget(proxy_cluster, any_cluster.namespace, limits, pace=PATIENT)
            taken = [budget.reserve(record(f"{number}/{n}", f"n-{number}"), NOW) for n in range(4)]
            return sum(taken)

        proxy_cluster = from_kubeconfig(proxy.write_kubeconfig(tmp_path / "proxied"))
        with ThreadPoolExecutor(agents) as pool:
            taken = list(pool.map(agent, range(agents)))
        proxy_cluster.close()
    assert sum(taken) == limit == len(places(any_cluster))
    assert max(taken) <= 3


def test_a_place_is_given_back(any_cluster: AnyCluster, account: Cluster) -> None:
    limits = make_limits(per_node=1, per_cluster=1)
    budget = LeaseBudget(account, any_cluster.namespace, limits, pace=PATIENT)
    assert budget.reserve(record("a"), NOW)
    assert not budget.reserve(record("b"), NOW)
    budget.give_back(record("a"))
    assert places(any_cluster) == []
    assert budget.reserve(record("b"), NOW)
    assert budget.left(dry_run=False) == 0
