"""Pods and events against the tests' own API server, and against a real one where one is named.

Whatever goes wrong between them, minerwatch comes to know what the server knows.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from minerwatch.kube.client import from_kubeconfig
from minerwatch.kube.events import EventSender
from minerwatch.kube.owners import owner, pod_fields, sources
from minerwatch.kube.pods import Pace, PodWatch
from minerwatch.model import ContainerKey, PodContainerKind
from tests.kube.any_cluster import AnyCluster
from tests.kube.api_server import (
    Answering,
    Asking,
    Dripping,
    Dropping,
    Hanging,
    Request,
    eventually,
)
from tests.kube.faulty_proxy import FaultyProxy
from tests.kube.test_events import CLEAR, CONFIRMED, LIKELY
from tests.waiting import PATIENCE_S

QUICK = Pace(first_delay_s=0.02, longest_delay_s=0.2, answer_s=30.0, spread_s=0.05)
GONE = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}


@dataclass
class Watched:
    """A watch whose requests go through a proxy that misbehaves."""

    pods: PodWatch
    proxy: FaultyProxy
    kubeconfig: Path

    def names(self) -> set[str]:
        return {pod.name for pod in self.pods.cache.pods()}

    def labels(self) -> list[Any]:
        return [pod.labels.get("x") for pod in self.pods.cache.pods()]

    def comes_to(self, *names: str) -> None:
        eventually(lambda: self.names() == set(names), f"not {names}", timeout_s=PATIENCE_S)


@contextmanager
def watching(cluster: AnyCluster, folder: Path, pace: Pace = QUICK) -> Iterator[Watched]:
    with FaultyProxy(cluster.api) as proxy:
        kubeconfig = proxy.write_kubeconfig(folder / "proxied")
        through = from_kubeconfig(kubeconfig)
        pods = PodWatch(
            through,
            cluster.node,
            keep=pod_fields(sources("binderhub")),
            on_error=lambda *_: None,
            rng=random.Random(1),
            pace=pace,
        )
        pods.start()
        try:
            yield Watched(pods, proxy, kubeconfig)
        finally:
            pods.close()
            through.close()
            assert pods.failures["unexpected"] == 0


@pytest.fixture
def watched(any_cluster: AnyCluster, tmp_path: Path) -> Iterator[Watched]:
    with watching(any_cluster, tmp_path) as found:
        eventually(lambda: found.pods.is_following, timeout_s=PATIENCE_S)
        yield found


def test_pods_come_change_and_go(any_cluster: AnyCluster, watched: Watched) -> None:
    created = any_cluster.create_pod(
        "a",
        container="notebook",
        labels={"x": "y"},
        annotations={"hub.jupyter.org/username": "ada@example.org"},
        env={"BINDER_REPO_URL": "https://example.org/a/b"},
    )
    any_cluster.create_pod("elsewhere", node=f"{any_cluster.node}-2")
    watched.comes_to("a")
    uid = created["metadata"]["uid"]
    pod = watched.pods.cache.by_uid(uid)
    assert pod is not None
    assert (pod.namespace, pod.name, pod.node) == (any_cluster.namespace, "a", any_cluster.node)
    assert pod.labels["x"] == "y"
    told = owner(pod, sources("binderhub"))
    assert told is not None
    assert (told.name, told.source) == ("https://example.org/a/b", "environment BINDER_REPO_URL")
    any_cluster.start_container("a", "0123456789ab", "notebook")
    eventually(lambda: watched.pods.cache.by_container_id("0123456789ab"), timeout_s=PATIENCE_S)
    found = watched.pods.cache.by_container_id("0123456789ab")
    assert found is not None
    assert (found[0].uid, found[1].name, found[1].kind) == (uid, "notebook", PodContainerKind.MAIN)
    any_cluster.delete_pod("a")
    watched.comes_to()
    remembered = watched.pods.cache.by_uid(uid)
    assert remembered is not None
    assert remembered.is_ending
    assert not any(watched.pods.failures.values())


def test_a_name_that_is_used_again_is_another_pod(
    any_cluster: AnyCluster, watched: Watched
) -> None:
    uids = []
    for number in range(2):
        uids.append(any_cluster.create_pod("again")["metadata"]["uid"])
        any_cluster.start_container("again", f"run-{number}")
        eventually(
            lambda number=number: watched.pods.cache.by_container_id(f"run-{number}"),  # type: ignore[misc]
            timeout_s=PATIENCE_S,
        )
        any_cluster.delete_pod("again")
        watched.comes_to()
    assert uids[0] != uids[1]
    for number, uid in enumerate(uids):
        found = watched.pods.cache.by_container_id(f"run-{number}")
        assert found is not None
        assert found[0].uid == uid


def test_a_pod_that_is_over_is_dropped(any_cluster: AnyCluster, watched: Watched) -> None:
    any_cluster.create_pod("job")
    watched.comes_to("job")
    any_cluster.set_status("job", {"phase": "Succeeded"})
    watched.comes_to()
    assert not any(watched.pods.failures.values())


def test_pods_that_are_there_before_the_watch(any_cluster: AnyCluster, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        any_cluster.create_pod(name)
    with watching(any_cluster, tmp_path) as watched:
        watched.comes_to("a", "b", "c")


def test_a_watch_whose_time_is_over_is_resumed(any_cluster: AnyCluster, tmp_path: Path) -> None:
    """A real server sends a bookmark shortly before it ends a watch."""
    pace = Pace(shortest_watch_s=3, longest_watch_s=3, settled_s=1)
    with watching(any_cluster, tmp_path, pace) as watched:
        any_cluster.create_pod("a")
        watched.comes_to("a")
        eventually(lambda: watches(watched.proxy) >= 2, timeout_s=PATIENCE_S)
        any_cluster.create_pod("b")
        watched.comes_to("a", "b")
        assert lists(watched.proxy) == 1
        assert not any(watched.pods.failures.values())


def test_a_version_that_the_server_has_forgotten(any_cluster: AnyCluster, watched: Watched) -> None:
    any_cluster.create_pod("a")
    watched.comes_to("a")
    watched.proxy.misbehave(Asking({"resourceVersion": "1"}), when=lambda request: request.is_watch)
    watched.proxy.cut_streams()
    any_cluster.create_pod("b")
    watched.comes_to("a", "b")
    any_cluster.delete_pod("a")
    watched.comes_to("b")


def cut(watched: Watched) -> None:
    watched.proxy.cut_streams()


def cut_in_mid_line(watched: Watched) -> None:
    watched.proxy.cut_streams(b'{"type":"DELETED","object":{"metadata":{"uid":')


def end(watched: Watched) -> None:
    watched.proxy.end_streams()


def gone_as_event(watched: Watched) -> None:
    watched.proxy.send_raw(msgspec.json.encode({"type": "ERROR", "object": GONE}) + b"\n")


def gone_as_status(watched: Watched) -> None:
    watched.proxy.misbehave(Answering(410, "too old"), when=is_watch)
    watched.proxy.cut_streams()


def token_expires(watched: Watched) -> None:
    watched.proxy.tokens = {"second"}
    watched.proxy.cut_streams()
    eventually(lambda: watched.pods.failures["unauthorized"], timeout_s=PATIENCE_S)
    watched.proxy.write_kubeconfig(watched.kubeconfig, "second")


def throttled(watched: Watched) -> None:
    watched.proxy.misbehave(Answering(429, headers={"Retry-After": "1"}), times=2)
    watched.proxy.cut_streams()


def garbage(watched: Watched) -> None:
    watched.proxy.send_raw(b'{"type":"ADDED","object":[]}\n')


def garbage_list(watched: Watched) -> None:
    watched.proxy.misbehave(Answering(200, body=b"<html>"), when=lambda request: request.is_list)
    watched.proxy.send_raw(b"garbage\n")


def server_errors(watched: Watched) -> None:
    watched.proxy.misbehave(Answering(503), times=4)
    watched.proxy.cut_streams()


def dropped(watched: Watched) -> None:
    watched.proxy.misbehave(Dropping(), times=3)
    watched.proxy.cut_streams()


def slow(watched: Watched) -> None:
    watched.proxy.misbehave(Dripping(700, 0.001), when=lambda request: request.is_list)
    watched.proxy.send_raw(b"garbage\n")


def away(watched: Watched) -> None:
    watched.proxy.vanish()
    eventually(lambda: watched.pods.failures["connection"] > 2, timeout_s=PATIENCE_S)
    watched.proxy.listen()


def hanging(watched: Watched) -> None:
    watched.proxy.misbehave(Hanging(1.0), times=2)
    watched.proxy.cut_streams()


def is_watch(request: Request) -> bool:
    return request.is_watch


def lists(proxy: FaultyProxy) -> int:
    return sum(request.is_list for request in proxy.requests)


def watches(proxy: FaultyProxy) -> int:
    return sum(request.is_watch for request in proxy.requests)


FAULTS: dict[Callable[[Watched], None], str] = {
    cut: "connection",
    cut_in_mid_line: "connection",
    end: "",
    gone_as_event: "gone",
    gone_as_status: "gone",
    token_expires: "unauthorized",
    throttled: "throttled",
    garbage: "garbage",
    garbage_list: "garbage",
    server_errors: "server",
    dropped: "connection",
    slow: "garbage",
    away: "connection",
    hanging: "connection",
}
"""What goes wrong -> how it is counted."""


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_whatever_goes_wrong_it_comes_to_know_what_the_server_knows(
    any_cluster: AnyCluster, watched: Watched, fault: Callable[[Watched], None]
) -> None:
    for name in ("stays", "changes", "goes"):
        any_cluster.create_pod(name, labels={"x": "before"})
    watched.comes_to("stays", "changes", "goes")
    fault(watched)
    any_cluster.delete_pod("goes")
    any_cluster.set_metadata("changes", labels={"x": "after"})
    any_cluster.create_pod("comes", labels={"x": "after"})
    watched.comes_to("stays", "changes", "comes")
    eventually(lambda: sorted(watched.labels()) == ["after", "after", "before"])
    reason = FAULTS[fault]
    if reason:
        assert watched.pods.failures[reason] > 0
    else:
        assert not any(watched.pods.failures.values())
    assert lists(watched.proxy) <= (3 if reason in {"gone", "garbage"} else 1)
    eventually(lambda: watched.pods.is_following, timeout_s=PATIENCE_S)
    synced_unix_s = watched.pods.synced_unix_s
    assert synced_unix_s is not None
    assert abs(datetime.now(UTC).timestamp() - synced_unix_s) < PATIENCE_S


def test_events_are_taken_counted_and_seen(any_cluster: AnyCluster, watched: Watched) -> None:
    """A real server validates them; the tests' own does as it does."""
    any_cluster.create_pod("miner.with.dots", container="notebook")
    watched.comes_to("miner.with.dots")
    (pod,) = watched.pods.cache.pods()
    errors: list[Exception] = []
    events = EventSender(
        any_cluster.api,
        node=any_cluster.node,
        contact="Falsch? – Schreiben Sie an abuse@example.org.",
        on_error=lambda _reason, error: errors.append(error),
    )
    try:
        for judged in (LIKELY, CONFIRMED, CLEAR, LIKELY):
            events.announce(pod, "notebook", judged)
            nested = replace(judged, container=ContainerKey("/kubepods/x/nested", 2))
            events.announce(pod, "0123456789ab", nested)
        eventually(lambda: events.sent == 8 or errors, timeout_s=PATIENCE_S)
        assert errors == []
        told = any_cluster.events()
    finally:
        events.close()
    assert sorted(event["reason"] for event in told) == sorted(
        ["MinerSuspected", "MinerConfirmed", "MinerCleared"] * 2
    )
    (suspected,) = (
        event
        for event in told
        if event["reason"] == "MinerSuspected" and "fieldPath" in event["regarding"]
    )
    assert suspected["regarding"]["uid"] == pod.uid
    assert suspected["regarding"]["fieldPath"] == "spec.containers{notebook}"
    assert suspected["series"]["count"] == 2
    assert suspected["type"] == "Warning"
    assert suspected["note"].endswith("abuse@example.org.")
    legacy = msgspec.json.decode(  # what kubectl describe asks for
        any_cluster.api.call("GET", f"/api/v1/namespaces/{any_cluster.namespace}/events")
    )
    if legacy["items"]:  # the tests' own server keeps one kind of event only
        seen = [item for item in legacy["items"] if item["involvedObject"].get("uid") == pod.uid]
        assert {item["reason"] for item in seen} >= {"MinerSuspected", "MinerCleared"}
