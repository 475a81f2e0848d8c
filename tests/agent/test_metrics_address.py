"""The address of metrics, as each configuration has it: who may read what, over what."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from minerwatch.agent.endpoints import MetricsAddress, open_metrics_address
from minerwatch.api.port import TOKEN_HEADER, audience
from minerwatch.config.schema import Config, Tls
from minerwatch.kube.client import Cluster, from_kubeconfig
from minerwatch.report.http_server import Answer, Routes
from tests.kube.api_server import Answering, ApiServer
from tests.kube.conftest import make_certificate, needs_openssl, write_kubeconfig
from tests.waiting import PATIENCE_S

ROUTES: Routes = {
    "/metrics": lambda: Answer(b"up 1\n"),
    "/healthz": lambda: Answer(b"ok\n"),
    "/readyz": lambda: Answer(b"ok\n"),
}
VIEWER = "system:serviceaccount:minerwatch:minerwatch-view"
SCRAPER = "system:serviceaccount:minerwatch:minerwatch-scrape"


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as server:
        server.users = {"good": SCRAPER, "tenant": "system:serviceaccount:tenant:default"}
        server.permitted = {(SCRAPER, "get", "/metrics"), (VIEWER, "get", "/report")}
        server.users["viewer"] = VIEWER
        server.audiences["viewer"] = {audience("n1")}
        yield server


@pytest.fixture
def cluster(api: ApiServer, tmp_path: Path) -> Iterator[Cluster]:
    opened = from_kubeconfig(write_kubeconfig(tmp_path / "config", api.url, "agent"))
    yield opened
    opened.close()


@contextmanager
def opened(config: Config, cluster: Cluster | None) -> Iterator[MetricsAddress]:
    found = open_metrics_address(
        config,
        cluster,
        ROUTES,
        lambda _error: None,
        node="n1",
        reports={"/report": lambda: Answer(b"{}"), "/report/full": lambda: Answer(b"{}")},
    )
    try:
        yield found
    finally:
        found.listener.close()


def asked(
    address: MetricsAddress,
    path: str,
    token: str | None = None,
    scheme: str | None = None,
    header: str = "Authorization",
) -> tuple[int, bytes]:
    host = f"127.0.0.1:{address.address.rpartition(':')[2]}"
    client: http.client.HTTPConnection
    if (scheme or address.scheme) == "https":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        client = http.client.HTTPSConnection(host, timeout=PATIENCE_S, context=context)
    else:
        client = http.client.HTTPConnection(host, timeout=PATIENCE_S)
    try:
        headers = {} if token is None else {header: token}
        client.request("GET", path, headers=headers)
        response = client.getresponse()
        return response.status, response.read()
    finally:
        client.close()


EVERYWHERE = Config(listen="0.0.0.0:0")


def test_in_a_cluster_metrics_are_for_tokens_that_may_get_them(cluster: Cluster) -> None:
    with opened(EVERYWHERE, cluster) as address:
        assert address.scheme == "https"
        assert asked(address, "/metrics", "Bearer good") == (200, b"up 1\n")
        for token in (None, "good", "Bearer ", "Basic good", "Bearer unknown"):
            status, body = asked(address, "/metrics", token)
            assert (status, b"up 1" in body) == (401, False)
        assert address.listener.failures == {}


def test_a_token_that_may_not_get_metrics_is_refused(cluster: Cluster) -> None:
    with opened(EVERYWHERE, cluster) as address:
        assert asked(address, "/metrics", "Bearer tenant")[0] == 403
        assert address.listener.failures == {}


def test_health_is_open_to_the_kubelet(cluster: Cluster) -> None:
    with opened(EVERYWHERE, cluster) as address:
        assert asked(address, "/healthz") == (200, b"ok\n")
        assert asked(address, "/readyz", "Bearer unknown") == (200, b"ok\n")


def test_an_api_server_that_fails_opens_nothing_and_is_counted(
    api: ApiServer, cluster: Cluster
) -> None:
    with opened(EVERYWHERE, cluster) as address:
        api.misbehave(Answering(500))
        assert asked(address, "/metrics", "Bearer good")[0] == 503
        assert address.listener.failures == {"not reviewed": 1}


def test_nothing_is_said_over_plain_http_there(cluster: Cluster) -> None:
    with (
        opened(EVERYWHERE, cluster) as address,
        pytest.raises((OSError, http.client.HTTPException)),
    ):
        asked(address, "/healthz", scheme="http")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/report?token=viewer", 401),
        ("/report#x", 404),
        ("/report/", 404),
        ("//report", 401),  # http.server makes it /report
        ("/metrics/../report", 404),
        ("/%72eport", 404),
        ("/REPORT", 404),
        ("/snapshot", 404),
        ("/snapshot/unmasked", 404),
        ("/status", 404),
    ],
)
def test_no_other_path_leads_to_reports(cluster: Cluster, path: str, status: int) -> None:
    with opened(EVERYWHERE, cluster) as address:
        assert asked(address, path)[0] == status


@pytest.mark.parametrize("path", ["/report", "/report/full"])
def test_reports_are_for_tokens_of_this_node_only(cluster: Cluster, path: str) -> None:
    with opened(EVERYWHERE, cluster) as address:
        assert asked(address, path, "viewer", header=TOKEN_HEADER) == (200, b"{}")
        assert asked(address, path, "good", header=TOKEN_HEADER)[0] == 401
        for token in (None, "Bearer viewer", "Bearer good"):
            assert asked(address, path, token) == (401, b"send a token that may get this URL\n")
        assert asked(address, "/metrics", "viewer", header=TOKEN_HEADER)[0] == 401
        assert asked(address, "/metrics", "Bearer viewer")[0] == 401


@pytest.mark.parametrize(
    "config",
    [
        Config(listen="127.0.0.1:0"),
        Config(listen="0.0.0.0:0", authorize_metrics=False),
    ],
)
def test_where_no_token_is_reviewed_there_are_no_reports(config: Config, cluster: Cluster) -> None:
    with opened(config, cluster) as address:
        assert asked(address, "/report")[0] == 404
    with opened(EVERYWHERE, None) as address:
        assert asked(address, "/report")[0] == 404


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/elsewhere", "/report"])
@pytest.mark.parametrize("token", ["Bearer good", "Basic x", ""])
@pytest.mark.parametrize("header", ["Authorization", TOKEN_HEADER])
def test_a_token_over_plain_http_is_refused(path: str, token: str, header: str) -> None:
    with opened(EVERYWHERE, None) as address:
        assert address.scheme == "http"
        status, body = asked(address, path, token, header=header)
        assert status == 400
        assert b"plain HTTP" in body
        assert b"good" not in body
        assert address.listener.failures == {"token in the clear": 1}
        assert asked(address, "/metrics") == (200, b"up 1\n")


@pytest.mark.parametrize(
    "config",
    [
        Config(listen="127.0.0.1:0"),
        Config(listen="localhost:0"),
        Config(listen="0.0.0.0:0", authorize_metrics=False),
    ],
)
def test_a_loopback_address_and_the_operators_choice_stay_open(
    config: Config, cluster: Cluster
) -> None:
    with opened(config, cluster) as address:
        assert address.scheme == "http"
        assert asked(address, "/metrics") == (200, b"up 1\n")


@needs_openssl
def test_a_configured_certificate_is_shown(cluster: Cluster, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    config = Config(listen="0.0.0.0:0", tls=Tls(certificate=str(certificate)))
    with opened(config, cluster) as address:
        context = ssl.create_default_context(cafile=str(certificate.with_suffix(".crt")))
        port = int(address.address.rpartition(":")[2])
        client = http.client.HTTPSConnection("127.0.0.1", port, timeout=PATIENCE_S, context=context)
        client.request("GET", "/metrics", headers={"Authorization": "Bearer good"})
        assert client.getresponse().read() == b"up 1\n"
        client.close()


@needs_openssl
def test_a_client_certificate_is_as_good_as_a_token(cluster: Cluster, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    authority = str(certificate.with_suffix(".crt"))
    config = Config(listen="0.0.0.0:0", tls=Tls(certificate=str(certificate), client_ca=authority))
    with opened(config, cluster) as address:
        assert asked(address, "/metrics")[0] == 401
        assert asked(address, "/metrics", "Bearer good")[0] == 200
        context = ssl.create_default_context(cafile=authority)
        context.load_cert_chain(certificate)
        port = int(address.address.rpartition(":")[2])
        client = http.client.HTTPSConnection("127.0.0.1", port, timeout=PATIENCE_S, context=context)
        client.request("GET", "/metrics")
        assert client.getresponse().read() == b"up 1\n"
        client.close()
        client.request("GET", "/report")  # a scraper's certificate is no right to command lines
        assert client.getresponse().status == 401
        client.close()
