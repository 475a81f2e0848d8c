"""A real Prometheus scrapes over TLS with a token that the API server reviews."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from minerwatch.agent.endpoints import open_metrics_address
from minerwatch.config.schema import Config
from minerwatch.kube.client import from_kubeconfig
from minerwatch.report.http_server import Answer
from minerwatch.report.metrics import Metrics
from tests.deploy.services import Prometheus, program, until
from tests.kube.api_server import ApiServer
from tests.kube.conftest import write_kubeconfig

SCRAPER = "system:serviceaccount:minerwatch:minerwatch-scrape"


@pytest.fixture
def port(tmp_path: Path) -> Iterator[str]:
    program("prometheus", "prometheus")
    metrics = Metrics()
    routes = {"/metrics": lambda: Answer(metrics.exposition(), "text/plain; version=0.0.4")}
    with ApiServer() as api:
        api.users, api.permitted = {"good": SCRAPER}, {(SCRAPER, "get", "/metrics")}
        with closing(from_kubeconfig(write_kubeconfig(tmp_path / "k", api.url, "a"))) as cluster:
            config = Config(listen="0.0.0.0:0")
            address = open_metrics_address(config, cluster, routes, lambda _error: None)
            with closing(address.listener):
                yield address.address.rpartition(":")[2]


@pytest.mark.parametrize(("token", "is_up"), [("good", "1"), ("unknown", "0")])
def test_prometheus_scrapes_with_a_token(port: str, tmp_path: Path, token: str, is_up: str) -> None:
    scrape = {
        "scheme": "https",
        "tls_config": {"insecure_skip_verify": True},
        "authorization": {"type": "Bearer", "credentials": token},
    }
    with closing(Prometheus(tmp_path, f"127.0.0.1:{port}", None, **scrape)) as prometheus:
        until(lambda: prometheus.has(f"up == {is_up}"), prometheus.said)
        assert prometheus.has("minerwatch_build_info") is (is_up == "1")
