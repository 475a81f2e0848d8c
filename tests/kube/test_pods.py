from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minerwatch.kube.client import ApiError, Cluster, from_kubeconfig, refusal
from minerwatch.kube.pod_parsing import PodFields
from minerwatch.kube.pods import REASONS, Clocks, Pace, PodWatch, WatchDelays
from minerwatch.model import PodContainerKind
from tests.examples import examples
from tests.kube.api_server import (
    Answering,
    ApiServer,
    Dripping,
    Dropping,
    Hanging,
    eventually,
    pod_json,
)
from tests.kube.conftest import make_certificate, needs_openssl, write_kubeconfig

SELECTOR = "spec.nodeName=n1,status.phase!=Succeeded,status.phase!=Failed"
QUICK = Pace(first_delay_s=0.005, longest_delay_s=0.05, answer_s=5.0, spread_s=0.01)


@dataclass
class Watched:
    """A watch, and what it complained of."""

    pods: PodWatch
    errors: list[tuple[str, Exception]] = field(default_factory=list)

    def names(self) -> set[str]:
        return {pod.name for pod in self.pods.cache.pods()}

    def failures(self) -> dict[str, int]:
        return {reason: count for reason, count in self.pods.failures.items() if count}


Watching = Callable[..., Watched]


def watch_threads() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name == "pods"}


@contextmanager
def watching(
    cluster: Cluster, *, pace: Pace = QUICK, keep: PodFields | None = None, **more: Any
) -> Iterator[Watched]:
    errors: list[tuple[str, Exception]] = []
    others = watch_threads()

    def note(reason: str, error: Exception) -> None:
        errors.append((reason, error))

    pods = PodWatch(
        cluster,
        "n1",
        keep=keep or PodFields(),
        on_error=note,
        rng=random.Random(1),
        pace=pace,
        **more,
    )
    pods.start()
    try:
        yield Watched(pods, errors)
    finally:
        pods.close()
        assert watch_threads() <= others


@pytest.fixture
def watched(api: ApiServer, cluster: Cluster) -> Iterator[Watched]:
    """A watch that follows, of a node with the pods a and b."""
    api.put(pod_json("a"))
    api.put(pod_json("b"))
    api.put(pod_json("elsewhere", node="n2"))
    with watching(cluster) as found:
        eventually(lambda: api.stream_count)
        yield found


def lists(api: ApiServer) -> int:
    return sum(request.is_list for request in api.requests)


def watches(api: ApiServer) -> list[str]:
    """The resource versions that watches were asked to begin at."""
    return [r.query["resourceVersion"] for r in api.requests if r.is_watch]


def test_one_list_then_one_watch(api: ApiServer, watched: Watched) -> None:
    assert watched.names() == {"a", "b"}
    first, second = (request.query for request in api.requests)
    assert first == {
        "fieldSelector": SELECTOR,
        "limit": "500",
        "resourceVersion": "0",  # from the API server's cache
    }
    assert second["fieldSelector"] == SELECTOR
    assert second["allowWatchBookmarks"] == "true"
    assert second["resourceVersion"] == api.version
    assert 300 <= int(second["timeoutSeconds"]) <= 600
    assert api.most_at_once == 1


def test_list_and_watch_share_a_connection(
    api: ApiServer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    connect = socket.socket.connect

    def noting(self: socket.socket, address: object) -> None:
        opened.append(address)
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", noting)
    with watching(cluster):
        eventually(lambda: api.stream_count)
    assert len(opened) == 1


def test_pods_come_change_and_go(api: ApiServer, watched: Watched) -> None:
    api.put(pod_json("c"))
    api.put(pod_json("far", node="n2"))
    eventually(lambda: watched.names() == {"a", "b", "c"})
    api.put(pod_json("c", containers={"main": "c2-id"}))
    eventually(lambda: watched.pods.cache.by_container_id("c2-id"))
    assert watched.pods.cache.by_container_id("c-id") is None
    api.remove("default", "c")
    eventually(lambda: watched.names() == {"a", "b"})
    assert lists(api) == 1
    assert watched.failures() == {}


def test_a_container_says_whose_it_is(api: ApiServer, watched: Watched) -> None:
    found = watched.pods.cache.by_container_id("a-id")
    assert found is not None
    pod, container = found
    assert (pod.namespace, pod.name, container.name) == ("default", "a", "main")
    assert watched.pods.cache.by_uid(pod.uid) is pod
    assert watched.pods.cache.by_container_id("") is None
    assert watched.pods.cache.by_uid("") is None


def test_containers_of_every_kind(api: ApiServer, watched: Watched) -> None:
    pod = pod_json("kinds", containers={"main": "m-id"})
    pod["spec"]["initContainers"] = [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]
    pod["spec"]["ephemeralContainers"] = [{"name": "e"}]
    pod["status"]["initContainerStatuses"] = [
        {"name": "i", "containerID": "cri-o://i-id"},
        {"name": "s", "containerID": "docker://s-id"},
    ]
    pod["status"]["ephemeralContainerStatuses"] = [{"name": "e", "containerID": "e-id"}]
    api.put(pod)
    eventually(lambda: watched.pods.cache.by_container_id("e-id"))
    kinds = {
        found[1].container_id: found[1].kind
        for bare in ("m-id", "i-id", "s-id", "e-id")
        if (found := watched.pods.cache.by_container_id(bare))
    }
    assert kinds == {
        "m-id": PodContainerKind.MAIN,
        "i-id": PodContainerKind.INIT,
        "s-id": PodContainerKind.SIDECAR,
        "e-id": PodContainerKind.EPHEMERAL,
    }


def test_a_container_that_the_kernel_shows_first(api: ApiServer, watched: Watched) -> None:
    assert watched.pods.cache.by_container_id("new-id") is None
    uid = api.put(pod_json("new", containers={"main": ""}))["metadata"]["uid"]
    eventually(lambda: watched.pods.cache.by_uid(uid))
    assert watched.pods.cache.by_container_id("new-id") is None
    api.put(pod_json("new", uid=uid))
    eventually(lambda: watched.pods.cache.by_container_id("new-id"))


def test_a_static_pod_is_found_by_what_its_cgroup_bears(api: ApiServer, watched: Watched) -> None:
    mirror = {"kubernetes.io/config.mirror": "0123456789abcdef0123456789abcdef"}
    created = "2026-01-01T00:00:00Z"
    api.put(pod_json("etcd-n1", annotations=mirror, creationTimestamp=created))
    # somebody claims the same, later: the kubelet will not run it
    api.put(pod_json("thief", annotations=mirror, uid="00000000"))
    eventually(lambda: "thief" in watched.names())
    found = watched.pods.cache.by_uid("0123456789abcdef0123456789abcdef")
    assert found is not None
    assert found.name == "etcd-n1"


def test_a_name_that_is_used_again_is_another_pod(api: ApiServer, watched: Watched) -> None:
    (old,) = (pod for pod in watched.pods.cache.pods() if pod.name == "a")
    api.remove("default", "a")
    new_uid = api.put(pod_json("a", containers={"main": "a2-id"}))["metadata"]["uid"]
    eventually(lambda: watched.pods.cache.by_uid(new_uid))
    assert watched.names() == {"a", "b"}
    remembered = watched.pods.cache.by_container_id("a-id")
    assert remembered is not None
    assert remembered[0].uid == old.uid


def test_a_pod_that_is_gone_is_remembered_for_a_while(api: ApiServer, cluster: Cluster) -> None:
    uid = api.put(pod_json("a"))["metadata"]["uid"]
    with watching(cluster, pace=replace(QUICK, remembered_s=0.2)) as watched:
        eventually(lambda: api.stream_count)
        api.remove("default", "a")
        eventually(lambda: not watched.names())
        eventually(lambda: watched.pods.cache.by_uid(uid) is None)
        assert watched.pods.cache.by_container_id("a-id") is None


def test_a_pod_that_is_over_is_gone(api: ApiServer, watched: Watched) -> None:
    over = pod_json("b")
    over["status"]["phase"] = "Succeeded"
    uid = next(pod.uid for pod in watched.pods.cache.pods() if pod.name == "b")
    api.put(pod_json("b", uid=uid) | {"status": over["status"]})
    eventually(lambda: watched.names() == {"a"})
    remembered = watched.pods.cache.by_container_id("b-id")
    assert remembered is not None
    assert remembered[0].is_ending
    assert watched.pods.cache.by_uid(uid) == remembered[0]


def test_a_list_of_many_pages(api: ApiServer, cluster: Cluster) -> None:
    for number in range(1234):
        api.put(pod_json(f"p{number}"))
    with watching(cluster) as watched:
        eventually(lambda: api.stream_count)
        assert len(watched.pods.cache.pods()) == 1234
        pages = [request.query for request in api.requests if request.is_list]
        assert len(pages) == 3
        assert ["resourceVersion" in page for page in pages] == [True, False, False]


def test_a_page_that_has_expired_is_listed_anew(api: ApiServer, cluster: Cluster) -> None:
    for number in range(501):
        api.put(pod_json(f"p{number}"))
    api.misbehave(Answering(410), when=lambda request: "continue" in request.query)
    with watching(cluster) as watched:
        eventually(lambda: api.stream_count)
        assert len(watched.pods.cache.pods()) == 501
        assert watched.failures() == {"gone": 1}


def test_a_bookmark_moves_the_watch_on(api: ApiServer, watched: Watched) -> None:
    before = api.version
    api.put(pod_json("far", node="n2"))
    api.send_bookmarks()
    api.cut_streams()
    eventually(lambda: len(watches(api)) == 2)
    assert watches(api) == [before, api.version]
    assert lists(api) == 1


def test_the_age_of_what_is_known(api: ApiServer, cluster: Cluster) -> None:
    clock = [100.0]
    api.misbehave(Answering(503), when=lambda request: request.is_watch)
    with watching(
        cluster, pace=replace(QUICK, first_delay_s=0.05), clocks=Clocks(unix_s=lambda: clock[0])
    ) as w:
        eventually(lambda: w.failures() == {"server": 1})
        assert w.pods.synced_unix_s == 100
        assert not w.pods.is_following
        clock[0] = 200.0
        eventually(lambda: w.pods.is_following)
        assert w.pods.synced_unix_s == 100  # open, but nothing has been said
        api.send_bookmarks()
        eventually(lambda: w.pods.synced_unix_s == 200)
        clock[0] = 300.0
        api.put(pod_json("a"))
        eventually(lambda: w.pods.synced_unix_s == 300)
        clock[0] = 400.0
        api.end_streams()  # an idle watch that ends in order
        eventually(lambda: w.pods.synced_unix_s == 400)


def test_nothing_is_known_before_the_first_list(api: ApiServer, cluster: Cluster) -> None:
    api.misbehave(Answering(500), times=3)
    with watching(cluster) as watched:
        eventually(lambda: watched.pods.synced_unix_s)
        assert watched.failures() == {"server": 3}


def test_a_watch_whose_time_is_over_goes_on(api: ApiServer, cluster: Cluster) -> None:
    pace = replace(QUICK, shortest_watch_s=1.0, longest_watch_s=1.0, settled_s=0.5)
    with watching(cluster, pace=pace) as watched:
        eventually(lambda: len(watches(api)) == 3)
        api.put(pod_json("a"))
        eventually(lambda: watched.names() == {"a"})
        assert lists(api) == 1
        assert watched.failures() == {}


@pytest.mark.parametrize("as_event", [True, False])
def test_a_forgotten_version_means_a_new_list(
    api: ApiServer, watched: Watched, as_event: bool
) -> None:
    api.gone_as_event = as_event
    gone_uid = next(pod.uid for pod in watched.pods.cache.pods() if pod.name == "a")
    api.put(pod_json("c"))
    eventually(lambda: "c" in watched.names())
    # the connection is lost, and history with it, before it is back
    api.misbehave(Answering(503), times=10**6)
    api.cut_streams()
    eventually(lambda: watched.failures().get("server"))
    api.remove("default", "a")
    api.put(pod_json("d"))
    api.forget_history()
    api.behave()
    eventually(lambda: watched.names() == {"b", "c", "d"})
    assert watched.failures()["gone"] == 1
    assert watched.pods.cache.by_uid(gone_uid) is not None
    again = [request.query for request in api.requests if request.is_list][1]
    assert again["resourceVersion"] == "0"


def test_a_cache_that_cannot_be_followed_is_passed_by(api: ApiServer, cluster: Cluster) -> None:
    api.misbehave(Answering(410), times=2, when=lambda request: request.is_watch)
    with watching(cluster):
        eventually(lambda: api.stream_count)
        asked = [r.query.get("resourceVersion") for r in api.requests if r.is_list]
        assert asked == ["0", None, None]


def test_an_error_event_ends_the_watch(api: ApiServer, watched: Watched) -> None:
    for code in (429, 500, 401, 403):
        streams = len(watches(api))
        event = {"type": "ERROR", "object": {"kind": "Status", "metadata": {}, "code": code}}
        api.send_raw(json.dumps(event).encode() + b"\n")
        eventually(partial(is_watched_again, api, streams + 1))
    assert watched.failures() == {"throttled": 1, "server": 1, "unauthorized": 1, "forbidden": 1}
    assert lists(api) == 1


def is_watched_again(api: ApiServer, times: int) -> bool:
    return len(watches(api)) >= times and api.stream_count > 0


def test_an_expired_token_is_renewed(api: ApiServer, kubeconfig: Path, watched: Watched) -> None:
    api.tokens = {"second"}
    api.cut_streams()
    eventually(lambda: watched.failures().get("unauthorized"))
    assert watched.names() == {"a", "b"}
    write_kubeconfig(kubeconfig, api.url, "second")
    api.put(pod_json("c"))
    eventually(lambda: "c" in watched.names())
    assert lists(api) == 1


@needs_openssl
def test_a_service_accounts_token_is_renewed(
    tls_api: ApiServer, service_account: Path, pod_cluster: Cluster
) -> None:
    tls_api.tokens = {"first"}
    with watching(pod_cluster) as watched:
        eventually(lambda: tls_api.stream_count)
        tls_api.tokens = {"second"}
        tls_api.cut_streams()
        eventually(lambda: watched.failures().get("unauthorized"))
        (service_account / "token").write_text("second")
        tls_api.put(pod_json("a"))
        eventually(lambda: watched.names() == {"a"})
        assert lists(tls_api) == 1  # and it closes while a TLS connection waits


@needs_openssl
def test_a_new_certificate_authority_is_noticed(
    tls_api: ApiServer,
    service_account: Path,
    pod_cluster: Cluster,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with watching(pod_cluster) as watched:
        eventually(lambda: tls_api.stream_count)
        tls_api.vanish()
        renewed = make_certificate(tmp_path_factory.mktemp("renewed"))
        tls_api.certificate = renewed
        tls_api.listen()
        eventually(lambda: watched.failures().get("connection", 0) >= 2)
        (service_account / "ca.crt").write_bytes(renewed.with_suffix(".crt").read_bytes())
        tls_api.put(pod_json("a"))
        eventually(lambda: watched.names() == {"a"})


def test_a_server_that_asks_for_patience_gets_it(api: ApiServer, watched: Watched) -> None:
    is_watch = len(watches(api))
    api.misbehave(Answering(429, headers={"Retry-After": "1"}))
    api.cut_streams()
    eventually(lambda: len(watches(api)) == is_watch + 2)
    refused, next_one = (request.at_s for request in api.requests[-2:])
    assert next_one - refused >= 1.0
    assert watched.failures() == {"connection": 1, "throttled": 1}


@pytest.mark.parametrize("status", [429, 500, 503, 403])
def test_a_server_in_trouble_is_not_stormed(api: ApiServer, cluster: Cluster, status: int) -> None:
    api.put(pod_json("a"))
    pace = replace(QUICK, first_delay_s=0.02, longest_delay_s=0.2)
    with watching(cluster, pace=pace) as watched:
        eventually(lambda: api.stream_count)
        before = len(api.requests)
        api.misbehave(Answering(status), times=10**6)
        began_s = time.monotonic()
        api.cut_streams()
        api.forget_history()
        eventually(lambda: len(api.requests) >= before + 6)
        # 10, 20, 40, 80, 100, 100 … ms at least lie between two of them
        lasted_s = time.monotonic() - began_s
        assert len(api.requests) - before <= 5 + (lasted_s + 0.2) / 0.1
        assert watched.names() == {"a"}
        api.behave()
        eventually(lambda: api.stream_count)


def delays(clock_s: list[float], seed: int = 7) -> WatchDelays:
    return WatchDelays(Pace(), random.Random(seed), lambda: clock_s[0])


def test_ten_minutes_of_outage_are_few_requests() -> None:
    """By the delays themselves: nobody waits ten minutes for a test."""
    for error in (ApiError("connection", ""), refusal(429, "", 1.0), None):
        paused = delays([0.0])
        waits = [paused.next_s(error) for _ in range(200)]
        requests = next(n for n in range(200) if sum(waits[:n]) > 600)
        assert requests <= 18
        assert all(wait <= 120 for wait in waits)
        assert len(set(waits)) == len(waits)  # by chance: agents do not come back together
    asked = [paused.next_s(refusal(429, "", 86400.0)) for _ in range(100)]
    assert all(300 <= wait <= 450 for wait in asked)
    assert paused.next_s(ApiError("connection", "")) <= 120


@pytest.mark.parametrize("error", [None, ApiError("connection", ""), refusal(410, "")])
def test_agents_that_were_all_cut_off_come_back_one_by_one(error: ApiError | None) -> None:
    """A server that stops ends all watches at the same moment, also in good order."""
    waits: list[float] = []
    for seed in range(1000):
        clock_s = [-100.0]
        paused = delays(clock_s, seed)
        paused.start_watch(400.0)
        clock_s[0] = 0.0
        waits.append(paused.next_s(error))
    by_second = [sum(n <= wait < n + 1 for wait in waits) for n in range(10)]
    assert sum(by_second) == len(waits)
    assert max(by_second[1:]) < 150
    paused.start_watch(300.0)
    clock_s[0] = 299.0  # its time is over
    assert paused.next_s(None) == 0


def test_a_server_that_is_back_and_has_forgotten_is_listed_soon() -> None:
    """However long it was away; but one that forgets again and again is left alone."""
    paused = delays([0.0])
    away = [paused.next_s(ApiError("connection", "")) for _ in range(12)]
    assert away[-1] >= 60
    forgotten = [paused.next_s(refusal(410, "")) for _ in range(9)]
    assert forgotten[0] <= 1
    assert forgotten[-1] >= 60


def test_a_watch_that_ends_at_once_is_not_stormed(api: ApiServer, cluster: Cluster) -> None:
    """An orderly end, with and without an event, again and again: no failure, but patience."""
    pace = replace(QUICK, first_delay_s=0.02, longest_delay_s=0.2)
    with watching(cluster, pace=pace) as watched:
        began_s = time.monotonic()
        for number in range(5):
            eventually(lambda: api.stream_count)
            api.put(pod_json(f"p{number}"))
            api.end_streams()
            eventually(lambda: not api.stream_count)
        lasted_s = time.monotonic() - began_s
        assert len(api.requests) <= 6 + (lasted_s + 0.2) / 0.1
        assert watched.failures() == {}
        assert lists(api) == 1


def test_the_api_server_is_away_for_a_while(api: ApiServer, watched: Watched) -> None:
    last = api.version
    api.vanish()
    eventually(lambda: watched.pods.failures["connection"] >= 5)
    assert watched.names() == {"a", "b"}
    assert not watched.pods.is_following
    api.put(pod_json("c"))
    api.listen()
    eventually(lambda: watched.names() == {"a", "b", "c"})
    assert lists(api) == 1
    assert watches(api)[-1] == last


def test_a_connection_cut_in_the_middle_of_a_line(api: ApiServer, watched: Watched) -> None:
    api.put(pod_json("c"))
    eventually(lambda: "c" in watched.names())
    last = api.version
    api.cut_streams(b'{"type":"DELETED","object":{"metadata":{"uid":')
    eventually(lambda: len(watches(api)) == 2)
    api.put(pod_json("d"))
    eventually(lambda: "d" in watched.names())
    assert watched.names() == {"a", "b", "c", "d"}
    assert watches(api)[1] == last
    assert watched.failures() == {"connection": 1}
    assert lists(api) == 1


def test_a_line_without_end_in_an_orderly_answer_is_not_taken(
    api: ApiServer, watched: Watched
) -> None:
    api.send_raw(b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"1"}}}')
    api.end_streams()
    eventually(lambda: len(watches(api)) == 2)
    assert watches(api)[1] == api.version
    assert watched.failures() == {"connection": 1}


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"garbage\n",
        b"[]\n",
        b"{}\n",
        b'{"type":"ADDED"}\n',
        b'{"type":"ADDED","object":3}\n',
        b'{"type":"DELETED","object":{"metadata":{"uid":[]}}}\n',
        b'{"type":"INVENTED","object":{"metadata":{}}}\n',
        b'{"type":"ADDED","object":' + b"[" * 100_000 + b"\n",
        b"\xff\xfe\x00\n",
        b"\x1f\x8b" + bytes(200) + b"\n",
    ],
)
def test_garbage_means_a_new_list(api: ApiServer, watched: Watched, line: bytes) -> None:
    api.send_raw(line)
    eventually(lambda: lists(api) == 2 and api.stream_count)
    api.put(pod_json("c"))
    eventually(lambda: watched.names() == {"a", "b", "c"})
    assert watched.failures() == {"garbage": 1}


def test_a_line_that_never_ends(api: ApiServer, watched: Watched) -> None:
    for _ in range(17):
        api.send_raw(b"x" * (1 << 20))
    eventually(lambda: lists(api) == 2 and api.stream_count)
    assert watched.failures() == {"garbage": 1}
    assert watched.names() == {"a", "b"}


@pytest.mark.parametrize(
    "body",
    [b"", b"nonsense", b"[]", b"{}", b'{"metadata":{},"items":[]}', b'{"metadata":{"items":3}}'],
)
def test_a_list_of_garbage(api: ApiServer, cluster: Cluster, body: bytes) -> None:
    api.put(pod_json("a"))
    api.misbehave(Answering(200, body=body))
    with watching(cluster) as watched:
        eventually(lambda: watched.names() == {"a"})
        assert watched.failures() == {"garbage": 1}


def test_a_list_that_goes_on_for_ever(api: ApiServer, cluster: Cluster) -> None:
    page = b'{"metadata":{"resourceVersion":"1","continue":"x"},"items":[]}'
    api.misbehave(Answering(200, body=page), times=100)
    with watching(cluster) as watched:
        eventually(lambda: api.stream_count)
        assert watched.failures() == {"garbage": 1}


def test_one_garbage_pod_is_left_out(api: ApiServer, cluster: Cluster) -> None:
    api.put(pod_json("a"))
    broken = pod_json("broken")
    broken["status"]["containerStatuses"] = "none"
    api.put(broken)
    with watching(cluster) as watched:
        eventually(lambda: api.stream_count)
        assert watched.names() == {"a"}
        broken = pod_json("a")
        broken["spec"]["containers"] = 7
        api.put(broken)
        api.put(pod_json("b"))
        eventually(lambda: watched.names() == {"a", "b"})
        assert watched.pods.cache.by_container_id("a-id")
        assert watched.failures() == {"garbage": 2}
        assert lists(api) == 1
        api.remove("default", "a")
        eventually(lambda: watched.names() == {"b"})


def test_pods_as_large_as_they_can_be(api: ApiServer, cluster: Cluster) -> None:
    """Whoever may create pods can fill each with 1.4 MiB, which escaped are six times as many."""
    for number in range(8):
        large = pod_json(f"p{number}")
        large["spec"]["containers"][0]["args"] = ["\x01" * 1_400_000]
        api.put(large)
    with watching(cluster) as watched:
        eventually(lambda: api.stream_count)
        assert len(watched.pods.cache.pods()) == 8
        large["metadata"]["labels"] = {"changed": "yes"}
        api.put(large)
        eventually(lambda: {"changed": "yes"} in [pod.labels for pod in watched.pods.cache.pods()])
        # A busy machine may take longer over such a list than a client waits; then it asks again.
        failures = watched.failures()
        assert set(failures) <= {"timeout"}
        assert failures or lists(api) == 1


def test_a_slow_server(api: ApiServer, cluster: Cluster) -> None:
    api.put(pod_json("a"))
    api.misbehave(Dripping(3), times=2)
    with watching(cluster) as watched:
        eventually(lambda: api.stream_count)
        api.put(pod_json("b", labels={"x": "y" * 50}))
        eventually(lambda: watched.names() == {"a", "b"})
        assert watched.failures() == {}


def test_a_server_that_does_not_answer(api: ApiServer, cluster: Cluster) -> None:
    api.put(pod_json("a"))
    api.misbehave(Hanging(), times=2)
    with watching(cluster, pace=replace(QUICK, answer_s=0.1)) as watched:
        eventually(lambda: watched.names() == {"a"})
        assert watched.failures().keys() == {"timeout"}
        assert watched.failures()["timeout"] >= 2  # more where the server waits for a CPU


def test_a_watch_that_falls_silent_is_given_up(api: ApiServer, cluster: Cluster) -> None:
    pace = replace(QUICK, answer_s=0.2, shortest_watch_s=0.2, longest_watch_s=0.2)
    api.misbehave(Dripping(1, pause_s=3600.0), when=lambda request: request.is_watch)
    with watching(cluster, pace=pace) as watched:
        eventually(lambda: api.stream_count)
        api.put(pod_json("a"))  # only its first byte arrives
        eventually(lambda: watched.names() == {"a"})
        assert watched.failures() == {"timeout": 1}


def test_a_connection_that_is_dropped_before_the_answer(api: ApiServer, cluster: Cluster) -> None:
    api.put(pod_json("a"))
    api.misbehave(Dropping(), times=3)
    with watching(cluster) as watched:
        eventually(lambda: watched.names() == {"a"})
        assert watched.failures() == {"connection": 3}


def test_what_went_wrong_is_told(api: ApiServer, cluster: Cluster) -> None:
    api.misbehave(Answering(403, "no right to list pods"))
    with watching(cluster) as watched:
        eventually(lambda: api.stream_count)
        ((reason, error),) = watched.errors
        assert reason == "forbidden"
        assert str(error) == f"{api.url}: GET /api/v1/pods: 403 no right to list pods"


def test_one_who_listens_badly_does_not_end_the_watch(api: ApiServer, cluster: Cluster) -> None:
    api.misbehave(Answering(500), times=2)

    def fail(reason: str, error: Exception) -> None:
        raise RuntimeError(reason)

    pods = PodWatch(
        cluster, "n1", keep=PodFields(), on_error=fail, rng=random.Random(1), pace=QUICK
    )
    pods.start()
    eventually(lambda: pods.synced_unix_s)
    pods.close()
    assert pods.failures["server"] == 2


def test_a_fault_of_our_own_does_not_end_the_watch(api: ApiServer, cluster: Cluster) -> None:
    divisors = iter([0, *[1] * 10])

    def now() -> float:
        return 5.0 / next(divisors)

    with watching(cluster, clocks=Clocks(unix_s=now)) as watched:
        eventually(lambda: api.stream_count)
        assert watched.failures() == {"unexpected": 1}


@pytest.mark.parametrize("when", ["before start", "refused", "hanging", "waiting", "following"])
def test_it_ends_whatever_it_waits_for(api: ApiServer, cluster: Cluster, when: str) -> None:
    if when == "refused":
        api.misbehave(Answering(503), times=10**6)
    if when == "hanging":
        api.misbehave(Hanging(), times=10**6)
    if when == "waiting":
        api.misbehave(Dripping(1, pause_s=3600.0))
    others = watch_threads()
    pods = PodWatch(
        cluster,
        "n1",
        keep=PodFields(),
        on_error=lambda *_: None,
        rng=random.Random(1),
        pace=Pace(),
    )
    if when != "before start":
        pods.start()
        eventually(lambda: api.requests)
    if when == "following":
        eventually(lambda: pods.is_following)
    closing = threading.Thread(target=pods.close, daemon=True)
    closing.start()
    closing.join(10)
    assert not closing.is_alive()
    asked = len(api.requests)
    pods.close()
    if when != "hanging":  # no answer has begun, so there is nothing to interrupt
        assert watch_threads() <= others
    assert len(api.requests) == asked


def test_reasons_are_initialised(watched: Watched) -> None:
    assert tuple(watched.pods.failures) == REASONS


def test_readers_while_everything_changes(api: ApiServer, watched: Watched) -> None:
    stop = threading.Event()
    with ThreadPoolExecutor(4) as readers:
        readings = [readers.submit(keep_reading, watched.pods, stop) for _ in range(4)]
        churn(api, random.Random(3))
        expected = {item["metadata"]["name"] for item in api.items("pods")} - {"elsewhere"}
        eventually(lambda: watched.names() == expected)
        stop.set()
        assert all(reading.result() for reading in readings)


def keep_reading(pods: PodWatch, stop: threading.Event) -> int:
    """How often a reader looked, and always found what fits together."""
    looks = 0
    while not stop.is_set() or not looks:
        for pod in pods.cache.pods():
            for container in pod.containers:
                found = pods.cache.by_container_id(container.container_id)
                assert found is None or found[1].container_id == container.container_id
            pods.cache.by_uid(pod.uid)
        looks += 1
    return looks


def churn(api: ApiServer, chance: random.Random) -> None:
    for number in range(400):
        name = f"p{chance.randrange(40)}"
        if chance.random() < 0.3:
            with suppress(KeyError):
                api.remove("default", name)
        else:
            api.put(pod_json(name, containers={"main": f"id-{number}"}))
        if number % 97 == 0:
            api.cut_streams(b'{"type"')


STEPS = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 5)),
    st.tuples(st.just("put elsewhere"), st.integers(0, 5)),
    st.tuples(st.just("remove"), st.integers(0, 5)),
    st.tuples(
        st.sampled_from(
            ["cut", "cut line", "end", "bookmark", "forget", "garbage", "refuse", "away"]
        ),
        st.just(0),
    ),
)


@settings(max_examples=examples(25))
@given(steps=st.lists(STEPS, max_size=25))
def test_whatever_happens_it_comes_to_know_what_the_server_knows(
    tmp_path: Path, steps: list[tuple[str, int]]
) -> None:
    with ApiServer() as api:
        cluster = from_kubeconfig(write_kubeconfig(tmp_path / "config", api.url, "first"))
        with watching(cluster) as watched:
            for step, number in steps:
                happen(api, step, f"p{number}")
            expected = {
                (item["metadata"]["name"], item["metadata"]["uid"])
                for item in api.items("pods")
                if item["spec"]["nodeName"] == "n1"
            }
            eventually(
                lambda: {(pod.name, pod.uid) for pod in watched.pods.cache.pods()} == expected
            )
            assert watched.failures().get("unexpected") is None
        cluster.close()


def happen(api: ApiServer, step: str, name: str) -> None:
    def remove() -> None:
        with suppress(KeyError):
            api.remove("default", name)

    def away() -> None:
        api.vanish()
        api.listen()

    steps: dict[str, Callable[[], Any]] = {
        "put": lambda: api.put(pod_json(name)),
        "put elsewhere": lambda: api.put(pod_json(name, node="n2")),
        "remove": remove,
        "cut": api.cut_streams,
        "cut line": lambda: api.cut_streams(b'{"type":"DELETED","obj'),
        "end": api.end_streams,
        "bookmark": api.send_bookmarks,
        "forget": api.forget_history,
        "garbage": lambda: api.send_raw(b"{]\n"),
        "refuse": lambda: api.misbehave(Answering(503), times=2),
        "away": away,
    }
    steps[step]()
