"""Agents read on their ports: through the API server's proxy, with tokens for one node each.

The ports are real, with TLS and reviews by the same API server that makes the tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from minerwatch.agent.endpoints import open_metrics_address
from minerwatch.api.port import REPORT_PATH, TOKEN_HEADER
from minerwatch.api.snapshot import decode_report
from minerwatch.api.types import AgentStatus, NodeReport
from minerwatch.config.schema import Config, Tls
from minerwatch.kube.agent_port import AgentPort, AgentPorts
from minerwatch.kube.client import ApiError, Cluster
from minerwatch.kube.fleet import UNMASKED_SNAPSHOT, Fleet, Survey, find
from minerwatch.report.http_server import Answer
from tests.kube.api_server import Answering, ApiServer, Hanging, Request
from tests.kube.conftest import needs_openssl
from tests.kube.exec_endpoint import Printing
from tests.kube.test_fleet import add_agent, agent_pod
from tests.report.samples import MINER, SIMULATION

pytestmark = needs_openssl

VIEWER = "system:serviceaccount:minerwatch:minerwatch-view"
REPORT = msgspec.json.encode(NodeReport((MINER,), AgentStatus("node-1", "1.2.3")))


def with_port(number: int) -> dict[str, Any]:
    pod = agent_pod(number)
    for container in pod["spec"]["containers"]:
        container["ports"] = [{"name": "metrics", "containerPort": 9797}]
    return pod


@contextmanager
def served(api: ApiServer, cluster: Cluster, number: int, certificate: Path) -> Iterator[None]:
    """An agent's port, as the agent opens it; exec into its pod prints SIMULATION."""
    add_agent(api, number, (SIMULATION,))
    api.put(with_port(number))
    address = open_metrics_address(
        Config(listen="0.0.0.0:0", tls=Tls(certificate=str(certificate))),
        cluster,
        {"/metrics": lambda: Answer(b"up 1\n")},
        lambda _error: None,
        node=f"node-{number}",
        reports={REPORT_PATH: lambda: Answer(REPORT)},
    )
    api.serves("minerwatch", f"agent-{number}", f"127.0.0.1:{address.address.rpartition(':')[2]}")
    try:
        yield
    finally:
        address.listener.close()


@pytest.fixture(autouse=True)
def account(api: ApiServer) -> None:
    """The chart's: it may get reports."""
    head = {"name": "minerwatch-view", "namespace": "minerwatch"}
    api.put({"kind": "ServiceAccount", "metadata": head}, resource="serviceaccounts")
    api.permitted = {(VIEWER, "get", REPORT_PATH)}


@pytest.fixture
def agents(api: ApiServer, cluster: Cluster, certificate: Path) -> Iterator[None]:
    """Two of them."""
    with ExitStack() as stack:
        for number in (1, 2):
            stack.enter_context(served(api, cluster, number, certificate))
        yield


def survey(cluster: Cluster, ports: AgentPorts | None = None, timeout_s: float = 20.0) -> Survey:
    fleet = Fleet(cluster, decode_report, timeout_s=timeout_s, ports=ports)
    return fleet.survey(find(cluster))


def asked(api: ApiServer, holds: Callable[[Request], bool]) -> list[Request]:
    return [request for request in api.requests if holds(request)]


def is_exec(request: Request) -> bool:
    return request.is_exec


def is_token_request(request: Request) -> bool:
    return request.path.endswith("/token")


def is_proxied(request: Request) -> bool:
    return request.is_proxied


def test_agents_are_read_on_their_ports(api: ApiServer, cluster: Cluster, agents: None) -> None:
    found = survey(cluster)
    assert found.missing == ()
    assert [status.container_id for status in found.statuses] == [MINER.container_id] * 2
    assert [status.node for status in found.statuses] == ["node-1", "node-2"]
    assert [agent.version for agent in found.agents] == ["1.2.3"] * 2
    assert asked(api, is_exec) == []
    specs = [request.body["spec"] for request in asked(api, is_token_request)]
    assert sorted(spec["audiences"][0] for spec in specs) == [
        "minerwatch.io/node/node-1",
        "minerwatch.io/node/node-2",
    ]
    assert {spec["expirationSeconds"] for spec in specs} == {600}


def test_a_token_is_used_again(api: ApiServer, cluster: Cluster, agents: None) -> None:
    ports = AgentPorts(cluster)
    for _ in range(3):
        survey(cluster, ports)
    assert len(asked(api, is_token_request)) == 2
    assert len(asked(api, is_proxied)) == 6


def test_an_agent_that_forgets_a_token_gets_another(
    api: ApiServer, cluster: Cluster, agents: None, certificate: Path
) -> None:
    ports = AgentPorts(cluster)
    survey(cluster, ports)
    api.users.clear()
    with served(api, cluster, 1, certificate):  # as after a restart: it has no decisions
        first, second = (survey(cluster, ports).statuses[0] for _ in range(2))
    assert first.container_id == SIMULATION.container_id  # by exec
    assert second.container_id == MINER.container_id


def test_a_node_cannot_use_a_token_at_another_node(
    api: ApiServer, cluster: Cluster, agents: None
) -> None:
    """Whoever is root on node-1 gets the tokens that are sent to it."""
    survey(cluster)
    stolen = next(
        request.headers[TOKEN_HEADER.lower()]
        for request in asked(api, is_proxied)
        if "agent-1:" in request.path
    )
    ports = "/api/v1/namespaces/minerwatch/pods/https:agent-{}:9797/proxy/report"
    headers = {TOKEN_HEADER: stolen}
    assert cluster.call("GET", ports.format(1), headers=headers) == REPORT
    with pytest.raises(ApiError) as refused:
        cluster.call("GET", ports.format(2), headers=headers)
    assert refused.value.status == 401


@pytest.mark.parametrize("token", ["first", "scraper", "other"])
def test_no_other_token_reads_reports(
    api: ApiServer, cluster: Cluster, agents: None, token: str
) -> None:
    api.users |= {
        "first": "admin",  # a user's own credentials
        "scraper": "system:serviceaccount:minerwatch:minerwatch-scrape",
        "other": "system:serviceaccount:tenant:default",  # made for this node by its owner
    }
    api.audiences["other"] = {"minerwatch.io/node/node-1"}
    api.permitted |= {("admin", "get", REPORT_PATH)}
    path = "/api/v1/namespaces/minerwatch/pods/https:agent-1:9797/proxy/report"
    with pytest.raises(ApiError) as refused:
        cluster.call("GET", path, headers={TOKEN_HEADER: token})
    assert refused.value.status == (403 if token == "other" else 401)


def test_secrets_are_never_read_on_a_port(api: ApiServer, cluster: Cluster, agents: None) -> None:
    Fleet(cluster, decode_report).survey(find(cluster), UNMASKED_SNAPSHOT)
    assert {request.command for request in asked(api, is_exec)} == {UNMASKED_SNAPSHOT.command}
    assert asked(api, is_proxied) == []


@pytest.mark.parametrize("status", [403, 404])
def test_without_a_token_agents_are_asked_by_exec(
    api: ApiServer, cluster: Cluster, agents: None, status: int
) -> None:
    """The user may not have one, or the agents' chart has no such account."""
    api.misbehave(Answering(status), when=is_token_request, times=100)
    ports = AgentPorts(cluster)
    for _ in range(3):
        assert {s.container_id for s in survey(cluster, ports).statuses} == {
            SIMULATION.container_id
        }
    assert len(asked(api, is_token_request)) <= 2, "it is asked for once, by each thread"
    assert len(asked(api, is_exec)) == 6


@pytest.mark.parametrize("how", [Answering(503), Answering(404), Hanging()])
def test_agents_whose_port_cannot_be_reached_are_asked_by_exec(
    api: ApiServer, cluster: Cluster, agents: None, how: Answering | Hanging
) -> None:
    api.misbehave(how, when=is_proxied, times=100)
    ports = AgentPorts(cluster)
    tried: list[int] = []
    for _ in range(2):
        found = survey(cluster, ports, timeout_s=4.0)
        assert {s.container_id for s in found.statuses} == {SIMULATION.container_id}
        tried.append(len(asked(api, is_proxied)))
    assert tried[0] == tried[1], "once exec has worked, no port is tried again"
    assert tried[0] in (1, 2), "one agent may be asked after exec has worked for the other"


def test_one_node_cannot_keep_others_from_being_read(
    api: ApiServer, cluster: Cluster, agents: None
) -> None:
    """A hostile node refuses; the user may not exec."""
    ports = AgentPorts(cluster)
    api.misbehave(Answering(403, "no exec"), when=is_exec, times=100)
    api.misbehave(
        Answering(403), when=lambda asked: asked.is_proxied and "agent-1" in asked.path, times=100
    )
    for _ in range(3):
        found = survey(cluster, ports)
        assert found.answered == ("node-2",)
        (missing,) = found.missing
        assert missing.reason.startswith("port 9797: 403 the test says so; exec: ")
        assert "no exec" in missing.reason


def test_an_agent_without_a_port_is_asked_by_exec(api: ApiServer, cluster: Cluster) -> None:
    add_agent(api, 1, Printing(REPORT))
    assert survey(cluster).answered == ("node-1",)
    assert asked(api, is_token_request) == []


def test_names_of_pods_cannot_lead_elsewhere(api: ApiServer, cluster: Cluster) -> None:
    """The API forbids such names; a client that is asked to believe them quotes them."""
    port = AgentPort("node-1", "minerwatch", "../../x?", "minerwatch-view", 9797)
    with pytest.raises(ApiError):
        AgentPorts(cluster).read(port, REPORT_PATH, 5.0)
    assert api.requests[-1].path.endswith("/pods/https:..%2F..%2Fx%3F:9797/proxy/report")


@pytest.mark.parametrize("token", ["a\nX-Evil: 1", "a\r\n\r\nGET /", "", "a\x00b", "ü\u20ac"])
def test_a_token_that_is_none_breaks_out_of_no_header(
    api: ApiServer, cluster: Cluster, agents: None, token: str
) -> None:
    answer = msgspec.json.encode({"status": {"token": token}})
    api.misbehave(Answering(201, body=answer), when=is_token_request)
    port = AgentPort("node-1", "minerwatch", "agent-1", "minerwatch-view", 9797)
    with pytest.raises(ApiError):
        AgentPorts(cluster).read(port, REPORT_PATH, 5.0)
    assert not [each for each in api.requests if "x-evil" in each.headers]
