"""Actions and budget against the tests' own API server, and against a real one where one is named.

With an account that may do only what the chart grants to an agent that culls.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec
import pytest

from minerwatch.api.port import REPORT_PATH, audience
from minerwatch.config.values import PodLabel
from minerwatch.culling.actions import Actions, ApiRequest, planned, unlabelling
from minerwatch.culling.decision import Decision
from minerwatch.culling.lease_budget import LeaseBudget
from minerwatch.culling.lease_codec import IN_EARNEST, LEASE
from minerwatch.kube.client import ApiError, Cluster, from_kubeconfig
from minerwatch.kube.pod_parsing import PodFields
from minerwatch.kube.token_review import TokenReviewer
from minerwatch.model import Action
from tests.builders import make_limits
from tests.culling.test_actions import decision
from tests.culling.test_lease_budget import NOW, PATIENT, record
from tests.deploy.chart import VALUES, release
from tests.kube.any_cluster import RBAC, AnyCluster, needs_real_cluster
from tests.kube.api_server import Answering, Dropping, eventually
from tests.kube.faulty_proxy import FaultyProxy
from tests.kube.test_culling_end_to_end import cull_rules
from tests.waiting import PATIENCE_S

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


AGENT_ACCOUNT = "system:serviceaccount:minerwatch:minerwatch"
ADMISSION = "/apis/admissionregistration.k8s.io/v1"


def bind_to_node(cluster: AnyCluster, account: str) -> None:
    """Install the chart's policy for that account; skips where the server has none."""
    version = msgspec.json.decode(cluster.api.call("GET", "/version"))
    minor = int("".join(filter(str.isdigit, version["minor"])))
    if (int(version["major"]), minor) < (1, 30):
        pytest.skip(
            f"Kubernetes 1.{minor} lacks ValidatingAdmissionPolicy: run it on 1.30 or later"
        )
    chart = release(next(path for path in VALUES if path.stem == "everything"))
    for kind, plural in (
        ("ValidatingAdmissionPolicy", "validatingadmissionpolicies"),
        ("ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings"),
    ):
        (made,) = chart.of_kind(kind)
        own = f"system:serviceaccount:{cluster.namespace}:{account}"
        text = msgspec.json.encode(made).decode().replace(AGENT_ACCOUNT, own)
        item = msgspec.json.decode(text.replace(made["metadata"]["name"], cluster.namespace))
        cluster.cluster_wide.append(f"{ADMISSION}/{plural}/{cluster.namespace}")
        cluster.send("POST", f"{ADMISSION}/{plural}", item)


def is_refused(actions: Actions, asked: Decision, version: str = "") -> bool:
    """Return True if the policy refuses it; any other refusal is raised."""
    try:
        actions.send(request(asked, version))
    except ApiError as error:
        if "may not change a pod of node" not in str(error):
            raise
        return True
    return False


def test_an_agent_changes_pods_of_its_own_node_only(
    any_cluster: AnyCluster, tmp_path: Path
) -> None:
    """With the token of a pod; a real server evaluates the policy itself, the tests' own by CEL."""
    bind_to_node(any_cluster, "agent")
    kubeconfig = any_cluster.write_kubeconfig(tmp_path / "pod", "agent", cull_rules(), in_pod=True)
    api = from_kubeconfig(kubeconfig)
    actions = Actions(api, PodFields())
    mine = any_cluster.create_pod("mine")
    theirs = any_cluster.create_pod("theirs", node=f"{any_cluster.node}-2")
    version = theirs["metadata"]["resourceVersion"]
    trial = about(any_cluster, theirs, Action.LABEL, dry_run=True)
    eventually(lambda: is_refused(actions, trial, version), "it is not in force", PATIENCE_S)
    assert is_refused(actions, about(any_cluster, theirs, Action.DELETE))
    own = about(any_cluster, mine, Action.LABEL)
    assert not is_refused(actions, own, mine["metadata"]["resourceVersion"])
    assert not is_refused(actions, about(any_cluster, mine, Action.DELETE))
    # What docs/security.md says of evictions.
    assert not is_refused(actions, about(any_cluster, theirs, Action.EVICT, dry_run=True))
    api.close()


def test_a_token_for_one_nodes_reports(any_cluster: AnyCluster) -> None:
    """Made and reviewed by the API server, with its RBAC."""
    name, account = any_cluster.namespace, "minerwatch-view"
    accounts = f"/api/v1/namespaces/{name}/serviceaccounts"
    any_cluster.send("POST", accounts, {"metadata": {"name": account}})
    rules = [{"nonResourceURLs": [REPORT_PATH], "verbs": ["get"]}]
    subject = {"kind": "ServiceAccount", "name": account, "namespace": name}
    reference = {"apiGroup": RBAC.split("/")[2], "kind": "ClusterRole", "name": name}
    binding = {"metadata": {"name": name}, "roleRef": reference, "subjects": [subject]}
    any_cluster.cluster_wide += [
        f"{RBAC}/clusterrolebindings/{name}",
        f"{RBAC}/clusterroles/{name}",
    ]
    asked = {"spec": {"audiences": [audience("n1")], "expirationSeconds": 600}}
    token = any_cluster.send("POST", f"{accounts}/{account}/token", asked)["status"]["token"]

    def reviewed(node: str | None, path: str = REPORT_PATH) -> HTTPStatus:
        meant = audience(node) if node else None
        reviewer = TokenReviewer(any_cluster.api, print, path=path, audience=meant)
        return reviewer(token, "192.0.2.1")

    assert reviewed("n1") == HTTPStatus.FORBIDDEN
    any_cluster.send("POST", f"{RBAC}/clusterroles", {"metadata": {"name": name}, "rules": rules})
    any_cluster.send("POST", f"{RBAC}/clusterrolebindings", binding)
    eventually(lambda: reviewed("n1") == HTTPStatus.OK, "it may not read", PATIENCE_S)
    assert reviewed("n2") == HTTPStatus.UNAUTHORIZED
    assert reviewed(None) == HTTPStatus.UNAUTHORIZED
    assert reviewed("n1", "/metrics") == HTTPStatus.FORBIDDEN
