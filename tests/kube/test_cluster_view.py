"""What the agent sees of its cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from minerwatch.kube.cluster_view import ClusterNode
from minerwatch.model import Container, ContainerKey, Observation, Verdict
from tests.builders import config_of
from tests.kube.any_cluster import EVENTS
from tests.kube.api_server import Answering, ApiServer, eventually, pod_json
from tests.kube.test_events import CLEAR, LIKELY, verdict
from tests.kube.test_identity import ID, UID, a_container

Open = Callable[..., ClusterNode]


@pytest.fixture
def said() -> list[str]:
    """Why something failed, as the agent would log it."""
    return []


@pytest.fixture
def node(api: ApiServer, kubeconfig: Path, said: list[str]) -> Iterator[Open]:
    opened: list[ClusterNode] = []

    def open_node(**settings: Any) -> ClusterNode:
        kubernetes = {"enabled": True, "kubeconfig": str(kubeconfig), **settings}
        config = config_of({"kubernetes": kubernetes})
        opened.append(ClusterNode(config, "n1", lambda reason, _error: said.append(reason)))
        eventually(lambda: opened[-1].synced_unix_s)
        return opened[-1]

    yield open_node
    for each in opened:
        each.close()


@pytest.fixture
def pod(api: ApiServer) -> None:
    api.put(pod_json("jupyter-ada", uid=UID, containers={"notebook": ID}))


def observed(judged: Verdict, container: Container | None = None) -> Observation:
    found = container or a_container()
    return Observation(found, 100.0, 1.0, 1.0, None, None, judged, 1, ())


def failures(node: ClusterNode) -> dict[str, int]:
    return {f"{probe} {reason}": count for probe, reason, count in node.failures() if count}


def test_a_node_whose_pods_cannot_be_listed_says_why(api: ApiServer, kubeconfig: Path) -> None:
    api.misbehave(Answering(403, "pods is forbidden"), times=999)
    config = config_of({"kubernetes": {"enabled": True, "kubeconfig": str(kubeconfig)}})
    opened = ClusterNode(config, "n1", lambda *_: None)
    try:
        assert not opened.has_listed
        eventually(lambda: "pods is forbidden" in opened.trouble)
        assert opened.trouble.startswith("the pods of this node cannot be listed: ")
        api.behave()
        eventually(lambda: opened.has_listed)
        eventually(lambda: opened.trouble == "")
    finally:
        opened.close()


def test_owners_are_told_with_the_configured_contact(api: ApiServer, pod: None, node: Open) -> None:
    opened = node(contact="Ask abuse@example.org.")
    for judged in (LIKELY, LIKELY, CLEAR):
        opened.announce([observed(judged)])
    eventually(lambda: len(api.items("events", EVENTS)) == 2)
    suspected, cleared = api.items("events", EVENTS)
    assert (suspected["reason"], cleared["reason"]) == ("MinerSuspected", "MinerCleared")
    assert suspected["note"].endswith("Ask abuse@example.org.")
    assert suspected["regarding"]["fieldPath"] == "spec.containers{notebook}"


def test_whose_pod_is_not_known_is_told_once_it_is(api: ApiServer, node: Open) -> None:
    opened = node()
    opened.announce([observed(LIKELY)])
    api.put(pod_json("jupyter-ada", uid=UID, containers={"notebook": ID}))
    eventually(lambda: opened.identity(a_container()))
    assert api.items("events", EVENTS) == []
    opened.announce([observed(LIKELY)])
    eventually(lambda: api.items("events", EVENTS))


def test_no_more_events_than_are_wanted(api: ApiServer, pod: None, node: Open) -> None:
    opened = node(events_per_minute=1)
    for run in range(10):  # of a container that is restarted again and again
        opened.announce([observed(replace(LIKELY, container=ContainerKey("/x", run)))])
    opened.announce(
        [observed(replace(CLEAR, container=ContainerKey("/x", 1)))]
    )  # is owed, and last
    eventually(lambda: "MinerCleared" in {each["reason"] for each in api.items("events", EVENTS)})
    (suspected, _) = api.items("events", EVENTS)
    assert suspected["series"]["count"] == 2


def test_no_events_where_none_are_wanted(api: ApiServer, pod: None, node: Open) -> None:
    opened = node(events=False)
    opened.announce([observed(LIKELY)])
    assert {probe for probe, _, _ in opened.failures()} == {"pods"}
    opened.close()
    assert not any(request.method == "POST" for request in api.requests)


def test_a_right_that_is_missing_is_counted_and_told(
    api: ApiServer, pod: None, node: Open, said: list[str]
) -> None:
    api.misbehave(Answering(403, "events is forbidden"), when=lambda r: r.method == "POST")
    opened = node()
    opened.announce([observed(LIKELY)])
    eventually(lambda: "events dropped" in failures(opened))
    assert failures(opened) == {"events forbidden": 1, "events dropped": 1}
    assert said == ["events forbidden"]


def test_every_reason_is_there_from_the_start(node: Open) -> None:
    reasons = {(probe, reason) for probe, reason, _ in node().failures()}
    assert {("pods", "gone"), ("events", "throttled"), ("events", "dropped")} <= reasons


def test_why_no_container_has_a_name(api: ApiServer, node: Open) -> None:
    opened = node()
    assert opened.blind_spot(0) == ""
    assert "no pod of node 'n1' is known" in opened.blind_spot(3)
    api.put(pod_json("a"))
    eventually(lambda: opened.blind_spot(3) == "")


def test_what_is_no_pods_has_nobody_to_be_told(api: ApiServer, pod: None, node: Open) -> None:
    opened = node()
    elsewhere = Container("/docker/x", 3, a_container().kind, "x", "docker")
    opened.announce([observed(LIKELY, elsewhere), observed(verdict())])
    opened.close()
    assert api.items("events", EVENTS) == []


@pytest.mark.parametrize("step_s", [7200.0, -7200.0])
def test_a_step_of_the_clock_makes_nothing_stale_and_nothing_fresh(
    node: Open, pod: None, monkeypatch: pytest.MonkeyPatch, step_s: float
) -> None:
    opened = node()
    eventually(lambda: opened.is_synced)  # listed, and followed
    now_s = time.time
    monkeypatch.setattr("time.time", lambda: now_s() + step_s)
    assert opened.is_synced
    later_s = time.monotonic
    monkeypatch.setattr("time.monotonic", lambda: later_s() + 7200)
    assert not opened.is_synced
