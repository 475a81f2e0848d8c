"""The policy that binds an agent's changes of pods to its own node."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from typing import Any

import pytest

from minerwatch.config.values import PodLabel
from minerwatch.culling.actions import ApiRequest, planned, unlabelling
from minerwatch.kube.pod_parsing import PodFields, PodParser
from minerwatch.model import Action
from tests.culling.test_actions import decision
from tests.deploy.admission import AdmissionRequest, Policy
from tests.deploy.chart import VALUES, Release, rendered
from tests.kube.api_server import encode, merged, pod_json

AGENT = "system:serviceaccount:minerwatch:minerwatch"
NODE = "authentication.kubernetes.io/node-name"
OF_NODE_1 = {
    NODE: ["node-1"],
    "authentication.kubernetes.io/pod-name": ["minerwatch-x"],
    "authentication.kubernetes.io/credential-id": ["JTI=1"],
}
EXTRAS: tuple[dict[str, list[str]] | None, ...] = (
    None,
    {},
    {"authentication.kubernetes.io/pod-name": ["minerwatch-x"]},
    {NODE: []},
    {NODE: [""]},
    {NODE: ["node-2"]},
    {NODE: ["node-2", "node-1"]},
    {NODE: ["NODE-1"]},
)
"""What tokens that are not of a pod on node-1 say."""
LABEL = PodLabel("minerwatch.io/quarantine=true")
SERVER = os.environ.get("MINERWATCH_TEST_ADMISSION", "")
_EVICTS = '--set-json=config.culling={"mode":"enforce","ladder":[{"actions":["stop","evict"]}]}'
_SETS = {path.stem: path for path in VALUES}


def chart(name: str, kubernetes: str = "1.30.0", *options: str) -> Release:
    return Release(rendered("-f", str(_SETS[name]), f"--kube-version={kubernetes}", *options))


@pytest.fixture(scope="module")
def policy() -> Policy:
    (found,) = chart("everything").of_kind("ValidatingAdmissionPolicy")
    return Policy(found["spec"])


def request(operation: str, pod: dict[str, Any], **changes: Any) -> AdmissionRequest:
    asked = AdmissionRequest(operation, "pods", AGENT, OF_NODE_1, old_object=pod)
    return replace(asked, **changes)


def of_agent(action: Action, pod: dict[str, Any]) -> AdmissionRequest:
    """What the API server makes of the request that culling sends."""
    metadata = pod["metadata"]
    asked = planned(
        replace(
            decision(action, namespace=metadata["namespace"], pod=metadata["name"]),
            pod_uid=metadata["uid"],
        ),
        LABEL,
        "7",
    )
    assert isinstance(asked, ApiRequest)
    operations = {"PATCH": "UPDATE", "DELETE": "DELETE", "POST": "CREATE"}
    resource = "pods/eviction" if asked.path.endswith("/eviction") else "pods"
    patched = merged(pod, asked.body) if asked.method == "PATCH" else None
    made = request(operations[asked.method], pod, resource=resource, object=patched)
    return replace(made, old_object=None, object=asked.body) if asked.method == "POST" else made


def pod(node: str | None) -> dict[str, Any]:
    found = pod_json("jupyter-eve", node=node or "", namespace="hub", uid="u1")
    found["metadata"]["creationTimestamp"] = "2026-11-23T10:00:00Z"
    if node is None:
        del found["spec"]["nodeName"]
    return found


@pytest.mark.parametrize("action", [Action.LABEL, Action.DELETE])
def test_an_agent_acts_on_pods_of_its_own_node_only(policy: Policy, action: Action) -> None:
    assert policy.refusal(of_agent(action, pod("node-1"))) is None
    refused = policy.refusal(of_agent(action, pod("node-2")))
    assert refused == 'the agent of node "node-1" may not change a pod of node "node-2"'
    assert policy.refusal(of_agent(action, pod(None))), "a pod that waits for a node is not its own"


def test_an_agent_removes_its_label_on_its_own_node(policy: Policy) -> None:
    for node, is_allowed in (("node-1", True), ("node-2", False)):
        held = pod(node)
        seen = PodParser(PodFields()).pod(encode(held))
        assert seen is not None
        asked = unlabelling(seen, LABEL, "7")
        made = request("UPDATE", held, object=merged(held, asked.body))
        assert (policy.refusal(made) is None) is is_allowed


def test_an_eviction_names_no_node_so_that_rbac_alone_limits_it(policy: Policy) -> None:
    assert policy.refusal(of_agent(Action.EVICT, pod("node-2"))) is None
    without = chart("cull-dry-run")
    assert not any("eviction" in permission for permission in without.permissions())


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_token_of_no_pod_or_of_another_node_changes_nothing(
    policy: Policy, extra: dict[str, list[str]] | None
) -> None:
    """Such as one made by hand, or one that was taken from another node."""
    for operation in ("UPDATE", "DELETE"):
        assert policy.refusal(request(operation, pod("node-1"), extra=extra))
        assert policy.refusal(request(operation, pod(None), extra=extra))


@pytest.mark.parametrize(
    "username",
    [
        "system:serviceaccount:minerwatch:minerwatch-view",
        "system:serviceaccount:other:minerwatch",
        "system:serviceaccount:kube-system:daemon-set-controller",
        "system:node:node-2",
        "admin",
    ],
)
def test_others_are_left_alone(policy: Policy, username: str) -> None:
    for operation in ("UPDATE", "DELETE"):
        asked = request(operation, pod("node-2"), username=username, extra=None)
        assert policy.refusal(asked) is None


def asked_of_a_server(policy: dict[str, Any], asked: list[AdmissionRequest]) -> list[str]:
    """The refusals of the API server's own library, "" where a request passes."""
    constraints = policy["spec"]["matchConstraints"]  # with the defaults that a server fills in
    defaults = {"namespaceSelector": {}, "objectSelector": {}, "matchPolicy": "Equivalent"}
    rules = [{**rule, "scope": "*"} for rule in constraints["resourceRules"]]
    spec = {**policy["spec"], "matchConstraints": {**defaults, "resourceRules": rules}}
    (binding,) = chart("everything").of_kind("ValidatingAdmissionPolicyBinding")
    requests = [
        {
            "Operation": each.operation,
            "Resource": each.resource.partition("/")[0],
            "Subresource": each.resource.partition("/")[2],
            "Username": each.username,
            "Extra": each.extra,
            "Object": each.old_object if each.operation == "UPDATE" else None,
            "OldObject": each.old_object,
        }
        for each in asked
    ]
    sent = {"Policy": {**policy, "spec": spec}, "Binding": binding, "Requests": requests}
    done = subprocess.run([SERVER], input=encode(sent), capture_output=True, check=True)
    answers: list[str] = json.loads(done.stdout)
    return answers


@pytest.mark.skipif(
    not SERVER,
    reason="asks the API server's library: run it with tests/deploy/admission_server built, and"
    " name the program in MINERWATCH_TEST_ADMISSION",
)
def test_the_api_servers_own_library_agrees(policy: Policy) -> None:
    asked = [
        *(
            of_agent(action, pod(node))
            for node in ("node-1", "node-2", None)
            for action in (Action.LABEL, Action.DELETE, Action.EVICT)
        ),
        *(
            request(operation, pod(node), username=username, extra=extra)
            for operation in ("UPDATE", "DELETE")
            for node in ("node-1", "node-2", None)
            for username in (AGENT, "system:serviceaccount:other:minerwatch", "admin")
            for extra in EXTRAS
        ),
    ]
    (found,) = chart("everything").of_kind("ValidatingAdmissionPolicy")
    answers = asked_of_a_server(found, asked)
    refused = [policy.refusal(each) is not None for each in asked]
    assert [bool(answer) for answer in answers] == refused
    assert "" in answers
    assert any("may not change a pod of node" in answer for answer in answers)


def test_it_is_bound_and_denies() -> None:
    found = chart("cull-enforce")
    (policy,) = found.of_kind("ValidatingAdmissionPolicy")
    (binding,) = found.of_kind("ValidatingAdmissionPolicyBinding")
    assert binding["spec"]["policyName"] == policy["metadata"]["name"]
    assert binding["spec"]["validationActions"] == ["Deny"]
    assert "matchResources" not in binding["spec"]  # everywhere
    assert policy["spec"]["failurePolicy"] == "Fail"


@pytest.mark.parametrize(
    ("name", "kubernetes", "options", "count"),
    [
        ("cull-dry-run", "1.30.0", (), 1),
        ("cull-enforce", "1.30.0-eks-1234", (), 1),
        ("cull-enforce", "1.29.9", (), 0),
        ("cull-enforce", "1.30.0", ("--set=admissionPolicy.enabled=false",), 0),
        ("default", "1.37.0", (), 0),  # it changes no pod
        ("hub", "1.37.0", (_EVICTS,), 0),
    ],
)
def test_it_is_there_where_agents_may_change_pods_and_the_server_knows_it(
    name: str, kubernetes: str, options: tuple[str, ...], count: int
) -> None:
    found = chart(name, kubernetes, *options)
    assert len(found.of_kind("ValidatingAdmissionPolicy")) == count
    assert len(found.of_kind("ValidatingAdmissionPolicyBinding")) == count


def test_another_account_is_bound_by_its_name() -> None:
    found = chart("cull-enforce", "1.30.0", "--set=serviceAccount.name=watcher")
    (policy,) = found.of_kind("ValidatingAdmissionPolicy")
    (condition,) = policy["spec"]["matchConditions"]
    assert "'system:serviceaccount:minerwatch:watcher'" in condition["expression"]
