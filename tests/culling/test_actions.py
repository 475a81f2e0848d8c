"""What is asked of an API server, word for word, and what it makes of it."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.config.values import PodLabel
from minerwatch.culling.actions import (
    Actions,
    ApiRequest,
    SeenPod,
    SignalRequest,
    planned,
    unlabelling,
)
from minerwatch.culling.decision import Decision, Objection, Reason
from minerwatch.kube.client import ApiError, Cluster
from minerwatch.kube.pod_parsing import PodFields
from minerwatch.model import Action, ContainerKey, ProcessId
from tests.conftest import Programs
from tests.culling.test_process_signals import identity
from tests.kube.api_server import Answering, ApiServer, Json, encode, pod_json

LABEL = PodLabel("example.org/quarantine=yes")
POD = "/api/v1/namespaces/binder/pods/jupyter-eve"


def decision(action: Action, **changes: Any) -> Decision:
    plain = Decision(
        action=action,
        proposed=action,
        rung=0,
        dry_run=False,
        objections=(),
        container=ContainerKey("/kubepods/x", 1),
        container_id="c1",
        pod_uid="uid-1",
        namespace="binder",
        pod="jupyter-eve",
        node="n1",
        owner="eve",
        processes=(ProcessId(4242, 7),),
        grace_period_s=None,
    )
    return replace(plain, **changes)


@pytest.fixture
def actions(cluster: Cluster) -> Actions:
    return Actions(cluster, PodFields())


@pytest.fixture
def pod(api: ApiServer) -> Json:
    return api.put(pod_json("jupyter-eve", namespace="binder", uid="uid-1", labels={"app": "hub"}))


def request(planned_request: object) -> ApiRequest:
    assert isinstance(planned_request, ApiRequest)
    return planned_request


def seen(found: SeenPod | None) -> SeenPod:
    assert found is not None
    return found


# What is planned.


def test_an_eviction_names_the_pod_and_its_uid() -> None:
    assert planned(decision(Action.EVICT, grace_period_s=2.5), LABEL) == ApiRequest(
        "POST",
        f"{POD}/eviction",
        {},
        {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"namespace": "binder", "name": "jupyter-eve"},
            "deleteOptions": {
                "apiVersion": "v1",
                "kind": "DeleteOptions",
                "preconditions": {"uid": "uid-1"},
                "gracePeriodSeconds": 3,
            },
        },
    )


def test_a_dry_run_is_said_wherever_a_server_may_look_for_it() -> None:
    for action in (Action.EVICT, Action.DELETE, Action.LABEL):
        asked = request(planned(decision(action, dry_run=True), LABEL))
        assert asked.query["dryRun"] == "All"
        options: Any = asked.body.get("deleteOptions", asked.body)
        assert action is Action.LABEL or options["dryRun"] == ["All"]
        in_earnest = request(planned(decision(action), LABEL))
        assert "dryRun" not in str(in_earnest)


def test_a_label_is_set_on_the_pod_that_was_seen() -> None:
    asked = request(planned(decision(Action.LABEL), LABEL, "17"))
    assert (asked.method, asked.path, asked.content_type) == (
        "PATCH", POD, "application/merge-patch+json",
    )  # fmt: skip
    assert asked.body == {
        "metadata": {
            "uid": "uid-1",
            "resourceVersion": "17",
            "labels": {"example.org/quarantine": "yes"},
        }
    }


def test_signals_go_to_processes_with_their_start_times() -> None:
    stop, kill = (planned(decision(action), LABEL) for action in (Action.STOP, Action.KILL))
    assert stop == SignalRequest(signal.SIGSTOP, (ProcessId(4242, 7),), dry_run=False)
    assert str(kill) == "SIGKILL to 4242 (start time 7)"
    asked = planned(decision(Action.STOP, dry_run=True), LABEL)
    assert str(asked) == "signal 0, to check SIGSTOP to 4242 (start time 7)"


def test_what_would_be_sent_can_be_shown_where_something_speaks_against_it() -> None:
    refused = decision(
        Action.OBSERVE, proposed=Action.DELETE, objections=(Objection(Reason.OFF, ""),)
    )
    assert request(planned(refused, LABEL)).method == "DELETE"
    assert planned(decision(Action.OBSERVE), LABEL) is None


@given(st.text(min_size=1), st.text(min_size=1), st.floats(min_value=0.001, max_value=1e6))
def test_no_name_reaches_another_path_and_no_grace_period_is_nothing(
    namespace: str, name: str, grace_s: float
) -> None:
    namespace, name = (text.encode("utf-8", "replace").decode() for text in (namespace, name))
    hostile = decision(Action.DELETE, namespace=namespace, pod=name, grace_period_s=grace_s)
    asked = request(planned(hostile, LABEL))
    assert asked.path.count("/") == 6
    assert "?" not in asked.path
    assert "#" not in asked.path
    options: Any = asked.body
    assert options["gracePeriodSeconds"] >= max(1, grace_s)


# What a server makes of it.


def test_a_bare_pod_is_evicted_and_is_gone(api: ApiServer, actions: Actions, pod: Json) -> None:
    assert "ownerReferences" not in pod["metadata"]
    actions.send(request(planned(decision(Action.EVICT), LABEL)))
    assert api.items("pods") == []
    assert actions.fetch("binder", "jupyter-eve") is None


def test_a_pod_is_deleted(api: ApiServer, actions: Actions, pod: Json) -> None:
    actions.send(request(planned(decision(Action.DELETE, grace_period_s=30), LABEL)))
    assert api.items("pods") == []
    assert api.requests[-1].body["gracePeriodSeconds"] == 30


def test_a_pod_is_labelled_and_the_label_taken_off_again(
    api: ApiServer, actions: Actions, pod: Json
) -> None:
    found = seen(actions.fetch("binder", "jupyter-eve"))
    actions.send(request(planned(decision(Action.LABEL), LABEL, found.resource_version)))
    labels = {"app": "hub", "example.org/quarantine": "yes"}
    assert api.items("pods")[0]["metadata"]["labels"] == labels
    found = seen(actions.fetch("binder", "jupyter-eve"))
    assert found.pod.labels == labels
    actions.send(unlabelling(found.pod, LABEL, found.resource_version))
    assert api.items("pods")[0]["metadata"]["labels"] == {"app": "hub"}


@pytest.mark.parametrize("action", [Action.LABEL, Action.EVICT, Action.DELETE])
def test_a_dry_run_changes_nothing(
    api: ApiServer, actions: Actions, pod: Json, action: Action
) -> None:
    found = seen(actions.fetch("binder", "jupyter-eve"))
    asked = planned(decision(action, dry_run=True), LABEL, found.resource_version)
    actions.send(request(asked))
    assert api.items("pods") == [pod]


@pytest.mark.parametrize("action", [Action.LABEL, Action.EVICT, Action.DELETE])
@pytest.mark.parametrize("dry_run", [False, True])
def test_a_pod_that_was_made_anew_under_the_same_name_is_left_alone(
    api: ApiServer, actions: Actions, pod: Json, action: Action, dry_run: bool
) -> None:
    found = seen(actions.fetch("binder", "jupyter-eve"))
    api.remove("binder", "jupyter-eve")
    again = api.put(pod_json("jupyter-eve", namespace="binder", uid="uid-2"))
    asked = planned(decision(action, dry_run=dry_run), LABEL, found.resource_version)
    with pytest.raises(ApiError) as refused:
        actions.send(request(asked))
    assert refused.value.reason == "conflict"
    assert api.items("pods") == [again]


def test_a_pod_that_changed_since_it_was_seen_is_not_labelled(
    api: ApiServer, actions: Actions, pod: Json
) -> None:
    found = seen(actions.fetch("binder", "jupyter-eve"))
    api.put(pod)
    with pytest.raises(ApiError) as refused:
        actions.send(request(planned(decision(Action.LABEL), LABEL, found.resource_version)))
    assert refused.value.reason == "conflict"


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_pod_disruption_budget_is_honoured(
    api: ApiServer, actions: Actions, pod: Json, dry_run: bool
) -> None:
    api.block_eviction("binder", "jupyter-eve")
    with pytest.raises(ApiError, match="disruption budget") as refused:
        actions.send(request(planned(decision(Action.EVICT, dry_run=dry_run), LABEL)))
    assert refused.value.reason == "throttled"
    assert api.items("pods") == [pod]


def test_a_failure_that_comes_as_a_success_is_a_failure(
    api: ApiServer, actions: Actions, pod: Json
) -> None:
    """Two PodDisruptionBudgets on one pod: HTTP 201, and a Status that says Failure."""
    text = "This pod has more than one PodDisruptionBudget"
    status = {"kind": "Status", "status": "Failure", "code": 500, "message": text}
    api.misbehave(Answering(201, body=encode(status)))
    with pytest.raises(ApiError, match="more than one") as refused:
        actions.send(request(planned(decision(Action.EVICT), LABEL)))
    assert (refused.value.reason, refused.value.status) == ("server", 500)


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{}", b"<html>", b'{"metadata": {}}'])
def test_an_answer_that_is_no_pod_is_none(api: ApiServer, actions: Actions, body: bytes) -> None:
    api.misbehave(Answering(200, body=body))
    with pytest.raises(ApiError) as refused:
        actions.fetch("binder", "jupyter-eve")
    assert refused.value.reason == "garbage"


# Processes.


@pytest.fixture
def process(programs: Programs) -> ProcessId:
    return identity(programs.start("xmrig", busy=True).pid)


def test_processes_are_stopped_and_let_go(actions: Actions, process: ProcessId) -> None:
    stop = SignalRequest(signal.SIGSTOP, (process,), dry_run=False)
    assert not actions.is_stopped(process)
    assert actions.signal(replace(stop, dry_run=True)).hit == (process,)
    assert not actions.is_stopped(process)
    assert actions.signal(stop).hit == (process,)
    while not actions.is_stopped(process):
        pass
    assert actions.resume((process,)).hit == (process,)
    assert not actions.is_stopped(process)


def test_pids_of_another_proc_are_never_signalled(
    cluster: Cluster, process: ProcessId, tmp_path: Path
) -> None:
    elsewhere = Actions(cluster, PodFields(), tmp_path)
    hits = elsewhere.signal(SignalRequest(signal.SIGKILL, (process,), dry_run=False))
    assert hits.hit == hits.gone == ()
    assert "has other pids than this process" in json.dumps(hits.failed)
