from __future__ import annotations

import socket
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest

from minerwatch.errors import ClusterError
from minerwatch.kube import client
from minerwatch.kube.client import ApiError, Cluster, from_kubeconfig, in_cluster, is_in_cluster
from tests.kube.api_server import Answering, ApiServer, Dripping, Dropping, Hanging, pod_json
from tests.kube.conftest import needs_openssl, pod_environment, write_kubeconfig

LEASES = "/apis/coordination.k8s.io/v1/namespaces/minerwatch/leases"


def test_a_kubeconfigs_current_context(api: ApiServer, cluster: Cluster) -> None:
    api.tokens = {"first"}
    api.put(pod_json("a"))
    listed = msgspec.json.decode(cluster.call("GET", "/api/v1/pods"))
    assert [item["metadata"]["name"] for item in listed["items"]] == ["a"]
    assert (cluster.context, cluster.namespace) == ("lab", "default")
    assert api.requests[0].headers["user-agent"] == client.USER_AGENT


def test_a_named_context(kubeconfig: Path) -> None:
    opened = from_kubeconfig(kubeconfig, "hub")
    assert (opened.context, opened.namespace) == ("hub", "jupyter")


def test_the_environment_names_kubeconfigs(
    kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'missing'}:{kubeconfig}")
    assert from_kubeconfig().context == "lab"


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ClusterError) as caught:
        from_kubeconfig(tmp_path / "none")
    assert str(caught.value) == (
        f"{tmp_path / 'none'}: there is no such file: name a kubeconfig, or set KUBECONFIG"
    )


def test_a_missing_context_is_one_line(kubeconfig: Path) -> None:
    with pytest.raises(ClusterError) as caught:
        from_kubeconfig(kubeconfig, "prod")
    assert str(caught.value) == f"{kubeconfig}: there is no context 'prod': it has lab, hub"


_ONE_CONTEXT = """
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
"""


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "a: [",
        "\x00",
        "contexts: 3\ncurrent-context: x",
        "contexts: []\ncurrent-context: x",
        "contexts: [{}]\ncurrent-context: x",
        "contexts: [{name: x}]\ncurrent-context: x",
        _ONE_CONTEXT,
        f"""{_ONE_CONTEXT}
clusters: [{{name: c, cluster: {{server: "https://h", certificate-authority-data: "%"}}}}]
users: [{{name: u, user: {{}}}}]
""",
        f"""{_ONE_CONTEXT}
clusters: [{{name: c, cluster: {{server: "https://h"}}}}]
users: [{{name: u, user: {{exec: {{command: /none, apiVersion: v1}}}}}}]
""",
    ],
)
def test_a_broken_kubeconfig_is_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config"
    path.write_text(content)
    with pytest.raises(ClusterError) as caught:
        from_kubeconfig(path).call("GET", "/api/v1/pods")
    assert str(path) in str(caught.value) or isinstance(caught.value, ApiError)
    assert "\n" not in str(caught.value)


@needs_openssl
def test_a_pod_reaches_its_cluster(tls_api: ApiServer, pod_cluster: Cluster) -> None:
    tls_api.tokens = {"first"}
    pod_cluster.call("GET", "/api/v1/pods")
    assert pod_cluster.namespace == "minerwatch"


@needs_openssl
def test_a_token_that_the_kubelet_renewed_is_used_at_once(
    tls_api: ApiServer, service_account: Path, pod_cluster: Cluster
) -> None:
    tls_api.tokens = {"second"}
    with pytest.raises(ApiError, match="401") as caught:
        pod_cluster.call("GET", "/api/v1/pods")
    assert caught.value.reason == "unauthorized"
    (service_account / "token").write_text("second")
    pod_cluster.call("GET", "/api/v1/pods")
    (service_account / "token").unlink()  # the kubelet swaps a link: it may be gone for a moment
    pod_cluster.call("GET", "/api/v1/pods")


@needs_openssl
def test_a_server_that_the_authority_does_not_know_is_refused(
    tls_api: ApiServer, tmp_path: Path
) -> None:
    cluster = from_kubeconfig(write_kubeconfig(tmp_path / "config", tls_api.url, "first"))
    with pytest.raises(ApiError, match="certificate verify failed") as caught:
        cluster.call("GET", "/api/v1/pods")
    assert caught.value.reason == "connection"
    assert tls_api.requests == []


def test_no_service_account(tmp_path: Path) -> None:
    assert not is_in_cluster(tmp_path, {})
    with pytest.raises(ClusterError, match=r"service account in .*: Service host/port is not set"):
        in_cluster(tmp_path, {})


@needs_openssl
def test_a_mounted_service_account_is_noticed(tls_api: ApiServer, service_account: Path) -> None:
    assert is_in_cluster(service_account, pod_environment(tls_api))


def test_a_renewed_kubeconfig_is_read_after_a_401(
    api: ApiServer, kubeconfig: Path, cluster: Cluster
) -> None:
    api.tokens = {"second"}
    write_kubeconfig(kubeconfig, api.url, "second")
    with pytest.raises(ApiError):
        cluster.call("GET", "/api/v1/pods")
    cluster.renew_credentials()
    cluster.call("GET", "/api/v1/pods")
    kubeconfig.write_text("a: [")
    cluster.renew_credentials()
    cluster.call("GET", "/api/v1/pods")  # by what it had


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (401, "unauthorized"),
        (403, "forbidden"),
        (404, "missing"),
        (409, "conflict"),
        (410, "gone"),
        (418, "server"),
        (429, "throttled"),
        (500, "server"),
        (302, "server"),
    ],
)
def test_a_refusal_says_why(api: ApiServer, cluster: Cluster, status: int, reason: str) -> None:
    api.misbehave(Answering(status, "pods is\nforbidden\x1b[31m", {"Retry-After": "7"}))
    with pytest.raises(ApiError) as caught:
        cluster.call("GET", "/api/v1/pods")
    assert (caught.value.reason, caught.value.status) == (reason, status)
    assert caught.value.retry_after_s == 7
    assert str(caught.value) == f"{api.url}: GET /api/v1/pods: {status} pods is forbidden�[31m"
    assert len(api.requests) == 1  # the client's own retries are off


@pytest.mark.parametrize("text", ["", "-1", "soon", "1.5", "²", "9" * 30])
def test_an_odd_retry_after_is_none(api: ApiServer, cluster: Cluster, text: str) -> None:
    api.misbehave(Answering(429, headers={"Retry-After": text.encode().decode("latin-1")}))
    with pytest.raises(ApiError) as caught:
        cluster.call("GET", "/api/v1/pods")
    assert caught.value.retry_after_s is None


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"message": 3}', b"[" * 9999, b"\xff"])
def test_a_refusal_without_sense_is_one_all_the_same(
    api: ApiServer, cluster: Cluster, body: bytes
) -> None:
    api.misbehave(Answering(500, body=body))
    with pytest.raises(ApiError, match="500 Internal Server Error"):
        cluster.call("GET", "/api/v1/pods")


def test_nobody_listens(api: ApiServer, cluster: Cluster) -> None:
    api.vanish()
    with pytest.raises(ApiError, match="refused") as caught:
        cluster.call("GET", "/api/v1/pods")
    assert caught.value.reason == "connection"


@pytest.mark.parametrize(
    "after", [b"", b"\x00\xff\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"]
)
def test_a_connection_that_is_dropped(api: ApiServer, cluster: Cluster, after: bytes) -> None:
    api.misbehave(Dropping(after))
    with pytest.raises(ApiError) as caught:
        cluster.call("GET", "/api/v1/pods")
    assert caught.value.reason == "connection"
    cluster.call("GET", "/api/v1/pods")


def test_no_answer_in_time(api: ApiServer, cluster: Cluster) -> None:
    api.misbehave(Hanging())
    with pytest.raises(ApiError) as caught:
        cluster.call("GET", "/api/v1/pods", timeout_s=0.05)
    assert caught.value.reason == "timeout"


def test_an_answer_that_drips_in_is_read(api: ApiServer, cluster: Cluster) -> None:
    api.put(pod_json("a"))
    api.misbehave(Dripping(1))
    assert b'"items"' in cluster.call("GET", "/api/v1/pods")


def test_an_answer_without_end_is_dropped(
    api: ApiServer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.misbehave(Answering(200, body=b"x" * (2 << 20)))
    with pytest.raises(ApiError, match="longer than 1 MiB") as caught:
        cluster.open("GET", "/api/v1/pods").body(1 << 20)
    assert caught.value.reason == "garbage"
    monkeypatch.setattr(client, "ANSWER_DEADLINE_S", -1.0)
    with pytest.raises(ApiError, match="not complete after") as caught:
        cluster.call("GET", "/api/v1/pods")
    assert caught.value.reason == "timeout"


def test_a_read_that_waits_can_be_interrupted(api: ApiServer, cluster: Cluster) -> None:
    answer = cluster.open("GET", "/api/v1/pods", {"watch": "true"})
    interrupter = threading.Timer(0.05, answer.interrupt)
    interrupter.start()
    with pytest.raises(ApiError):
        answer.piece()
    interrupter.join()
    answer.close()
    answer.interrupt()


def test_connections_are_kept_alive_and_used_again(
    api: ApiServer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[socket.socket] = []
    connect = socket.socket.connect

    def noting(self: socket.socket, address: object) -> None:
        opened.append(self)
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", noting)
    for _ in range(3):
        cluster.call("GET", "/api/v1/pods")
    assert len(opened) == 1
    assert opened[0].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert opened[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30


def test_objects_are_made_changed_and_removed(api: ApiServer, cluster: Cluster) -> None:
    """What later writers need of the client, and of the tests' server."""
    lease = {"metadata": {"name": "budget"}, "spec": {"holderIdentity": "a"}}
    made = msgspec.json.decode(cluster.call("POST", LEASES, body=msgspec.json.encode(lease)))
    assert made["metadata"]["namespace"] == "minerwatch"
    made["spec"]["holderIdentity"] = "b"
    cluster.call("PUT", f"{LEASES}/budget", body=msgspec.json.encode(made))
    with pytest.raises(ApiError) as caught:  # somebody else was first
        cluster.call("PUT", f"{LEASES}/budget", body=msgspec.json.encode(made))
    assert caught.value.reason == "conflict"
    patch = {"metadata": {"labels": {"x": "y"}}, "spec": {"holderIdentity": None}}
    cluster.call(
        "PATCH",
        f"{LEASES}/budget",
        body=msgspec.json.encode(patch),
        content_type="application/merge-patch+json",
    )
    found = msgspec.json.decode(cluster.call("GET", f"{LEASES}/budget"))
    assert (found["spec"], found["metadata"]["labels"]) == ({}, {"x": "y"})
    cluster.call("DELETE", f"{LEASES}/budget", {"dryRun": "All"})
    stale = {"preconditions": {"uid": "another"}}
    with pytest.raises(ApiError, match="409"):
        cluster.call("DELETE", f"{LEASES}/budget", body=msgspec.json.encode(stale))
    cluster.call("DELETE", f"{LEASES}/budget")
    with pytest.raises(ApiError) as caught:
        cluster.call("GET", f"{LEASES}/budget")
    assert caught.value.reason == "missing"


def test_a_pod_is_evicted_unless_a_budget_forbids_it(api: ApiServer, cluster: Cluster) -> None:
    uid = api.put(pod_json("a"))["metadata"]["uid"]
    path = "/api/v1/namespaces/default/pods/a/eviction"
    options = {"preconditions": {"uid": uid}}
    body = msgspec.json.encode({"metadata": {"name": "a"}, "deleteOptions": options})
    api.block_eviction("default", "a")
    with pytest.raises(ApiError, match="disruption budget") as caught:
        cluster.call("POST", path, body=body)
    assert caught.value.reason == "throttled"
    api.put(pod_json("b"))
    cluster.call("POST", "/api/v1/namespaces/default/pods/b/eviction", body=b"{}")
    assert [item["metadata"]["name"] for item in api.items("pods")] == ["a"]


def test_the_client_is_imported_only_when_a_cluster_is_opened() -> None:
    program = (
        "import sys, minerwatch.kube.pods, minerwatch.kube.owners, minerwatch.cli.main;"
        "sys.exit('kubernetes' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


GOOD_EVENT = {
    "apiVersion": "events.k8s.io/v1",
    "kind": "Event",
    "metadata": {"name": "a.1", "namespace": "default"},
    "eventTime": "2026-11-23T12:00:00.250000Z",
    "reportingController": "minerwatch.io/agent",
    "reportingInstance": "n1",
    "action": "Judging",
    "reason": "MinerSuspected",
    "type": "Warning",
    "note": "x",
    "regarding": {"kind": "Pod", "namespace": "default", "name": "a"},
}


@pytest.mark.parametrize(
    "wrong",
    [
        {"metadata": {"name": "A_b", "namespace": "default"}},
        {"eventTime": None},
        {"eventTime": "2026-11-23T12:00:00Z"},
        {"reportingController": ""},
        {"reportingController": "not/a/name"},
        {"reportingInstance": "n" * 129},
        {"action": ""},
        {"reason": None},
        {"type": "Alert"},
        {"note": "é" * 513},
        {"series": {"count": 1, "lastObservedTime": "2026-11-23T12:00:00.250000Z"}},
        {"message": "of another kind of event"},
    ],
)
def test_the_tests_server_refuses_events_that_a_real_one_would(
    api: ApiServer, cluster: Cluster, wrong: dict[str, object]
) -> None:
    events = "/apis/events.k8s.io/v1/namespaces/default/events"
    cluster.call("POST", events, body=msgspec.json.encode(GOOD_EVENT))
    other = {**GOOD_EVENT, "metadata": {"name": "b.1", "namespace": "default"}}
    with pytest.raises(ApiError, match="422"):
        cluster.call("POST", events, body=msgspec.json.encode({**other, **wrong}))
    patch = msgspec.json.encode({"note": "another"})
    with pytest.raises(ApiError, match="note: field is immutable"):
        cluster.call(
            "PATCH", f"{events}/a.1", body=patch, content_type="application/merge-patch+json"
        )


def test_parts_of_the_client_that_nobody_uses_are_not_read(kubeconfig: Path) -> None:
    program = f"""
import sys
from minerwatch.kube.client import from_kubeconfig
print(from_kubeconfig({str(kubeconfig)!r}).server)
print("kubernetes_validate" in sys.modules, "pydoc" in sys.modules)
import kubernetes.watch
print(kubernetes.watch.Watch.__name__, "pydoc" in sys.modules)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert said.stdout.splitlines()[1:] == ["False False", "Watch True"], said.stderr
