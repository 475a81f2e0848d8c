"""``cull`` and ``release``, as typed on a node and on a laptop."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result
from msgspec import structs

from minerwatch.api import orders
from minerwatch.api.snapshot import encode
from minerwatch.api.types import ContainerStatus, ReleaseAllAnswer
from minerwatch.cli.main import cli
from minerwatch.culling.records import AuditLine
from minerwatch.kube import client
from minerwatch.kube.client import in_cluster
from minerwatch.model import Action
from minerwatch.report.http_server import Answer, Posts
from minerwatch.report.socket_listener import SocketListener
from tests.kube.api_server import ApiServer, as_agent, put_daemon_set
from tests.kube.conftest import (
    certificate,
    needs_openssl,
    pod_environment,
    service_account,
    tls_api,
    write_kubeconfig,
)
from tests.kube.exec_endpoint import Printing
from tests.report.samples import MINER, SIMULATION
from tests.view.report_samples import histories
from tests.view.test_culling_text import OBJECTED, PERMITTED, RELEASED, decision

__all__ = ["certificate", "service_account", "tls_api"]  # fixtures

ALICE = f"{MINER.namespace}/{MINER.pod}"
Typed = Callable[..., Result]
RELEASED_ALL = ReleaseAllAnswer("node-2", (RELEASED,), acts_no_more=False, forgotten=False)
LINE = AuditLine("decision", "2026-11-24T10:00:00.000Z", "n", decision=decision("eve"))


class Agent:
    """What a node's agent is told, and what it answers."""

    def __init__(self) -> None:
        self.told: list[tuple[str, object]] = []
        self.cull = Answer(orders.encode(PERMITTED))
        self.release = Answer(orders.encode(RELEASED))
        self.release_all = Answer(orders.encode(RELEASED_ALL))

    def posts(self) -> Posts:
        def take(path: str, body: bytes) -> None:
            self.told.append((path, json.loads(body)))

        def cull(body: bytes) -> Answer:
            take(orders.CULL, body)
            return self.cull

        def release(body: bytes) -> Answer:
            take(orders.RELEASE, body)
            return self.release

        def release_all(body: bytes) -> Answer:
            take(orders.RELEASE_ALL, body)
            return self.release_all

        def audit_lines(body: bytes) -> Answer:
            take(orders.AUDIT_LINES, body)
            return Answer(msgspec.json.encode([LINE]))

        return {
            orders.CULL: cull,
            orders.RELEASE: release,
            orders.RELEASE_ALL: release_all,
            orders.AUDIT_LINES: audit_lines,
            orders.HISTORY: lambda _body: Answer(orders.encode(histories()[0])),
        }


@contextmanager
def answering_agent(
    tmp_path: Path, statuses: Sequence[ContainerStatus], posts: Posts
) -> Iterator[Typed]:
    path = tmp_path / "agent.sock"
    snapshot = Answer(encode(statuses))
    listener = SocketListener(path, {"/snapshot/full": lambda: snapshot}, posts=posts)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(cli, [*arguments, "--socket", str(path)])

    yield run
    listener.close()


@pytest.fixture
def agent() -> Agent:
    return Agent()


@pytest.fixture
def typed(agent: Agent, tmp_path: Path) -> Iterator[Typed]:
    with answering_agent(tmp_path, [MINER, SIMULATION], agent.posts()) as run:
        yield run


def test_an_action_is_ordered_by_name_and_told(agent: Agent, typed: Typed) -> None:
    result = typed("cull", ALICE, "--action", "evict", "--dry-run")
    assert result.exit_code == 0
    assert "The policy permits to evict it." in result.stdout
    order = {
        "cgroup": MINER.cgroup,
        "container_id": MINER.container_id,
        "pod_uid": MINER.pod_uid,
        "action": "evict",
        "dry_run": True,
    }
    assert agent.told == [(orders.CULL, order)]


def test_what_was_not_done_is_status_1(agent: Agent, typed: Typed) -> None:
    agent.cull = Answer(orders.encode(OBJECTED))
    result = typed("cull", ALICE, "--action", "delete")
    assert result.exit_code == 1
    assert "The namespace is protected (binder)." in result.stdout
    agent.cull = Answer(orders.encode(structs.replace(PERMITTED, outcome="unknown")))
    result = typed("cull", ALICE, "--action", "delete", "-o", "json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["outcome"] == "unknown"


def test_an_agent_that_refuses_is_one_line(agent: Agent, typed: Typed) -> None:
    agent.cull = Answer(b"culling is off on this node\n", status=HTTPStatus.CONFLICT)
    result = typed("cull", ALICE, "--action", "delete")
    assert (result.exit_code, result.stderr) == (1, "minerwatch: culling is off on this node\n")


def test_a_target_that_is_not_there_is_not_ordered(agent: Agent, typed: Typed) -> None:
    result = typed("cull", "binder/nobody", "--action", "delete")
    assert result.exit_code == 1
    assert "nothing here is named binder/nobody" in result.stderr
    assert agent.told == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("cull",),
        ("cull", ALICE),
        ("cull", "--action", "kill"),
        ("cull", ALICE, "--action", "observe"),
        ("cull", ALICE, "--action", "kill", "--simulate", "24"),
        ("cull", "--simulate", "0"),
        ("cull", "--simulate", "100000"),
        ("release",),
        ("release", ALICE, "--all"),
        ("release", ALICE, "--forget"),
        ("release", "--retire"),
    ],
)
def test_wrong_usage_is_status_2(agent: Agent, typed: Typed, arguments: tuple[str, ...]) -> None:
    assert typed(*arguments).exit_code == 2
    assert agent.told == []


def test_a_release_is_ordered_and_told(agent: Agent, typed: Typed) -> None:
    result = typed("release", ALICE)
    assert result.exit_code == 0
    assert "2 processes continued: 7, 8" in result.stdout
    assert agent.told[0][0] == orders.RELEASE
    agent.release = Answer(orders.encode(structs.replace(RELEASED, trouble=("process 7: no",))))
    result = typed("release", ALICE, "-o", "json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["trouble"] == ["process 7: no"]


def test_all_is_released_on_this_node(agent: Agent, typed: Typed) -> None:
    result = typed("release", "--all", "-n", "binder")
    assert result.exit_code == 0
    assert "Node node-2: 1 pod released." in result.stdout
    assert "  2 processes continued: 7, 8" in result.stdout
    assert agent.told == [
        (orders.RELEASE_ALL, {"namespace": "binder", "retire": False, "forget": False})
    ]
    everything = structs.replace(RELEASED_ALL, released=(), acts_no_more=True, forgotten=True)
    agent.release_all = Answer(orders.encode(everything))
    result = typed("release", "--all", "--forget")
    assert result.exit_code == 0
    assert "Audit log, evidence and budget are removed." in result.stdout
    assert "does not act again" in result.stdout
    assert agent.told[1][1] == {"namespace": "", "retire": False, "forget": True}


def test_what_of_all_was_not_released_is_status_1(agent: Agent, typed: Typed) -> None:
    for trouble in (
        structs.replace(RELEASED_ALL, trouble=("the log cannot be read",)),
        structs.replace(
            RELEASED_ALL, released=(structs.replace(RELEASED, trouble=("process 7: no",)),)
        ),
    ):
        agent.release_all = Answer(orders.encode(trouble))
        result = typed("release", "--all", "--retire", "-o", "json")
        assert result.exit_code == 1
        (answer,) = json.loads(result.stdout)
        assert answer["trouble"] or answer["released"][0]["trouble"]


def test_the_past_is_simulated(agent: Agent, typed: Typed) -> None:
    result = typed("cull", "--simulate", "24")
    assert result.exit_code == 0
    assert "binder/eve/notebook" in result.stdout
    assert agent.told == [(orders.AUDIT_LINES, {"hours": 24.0})]
    lines = json.loads(typed("cull", "--simulate", "24", "-o", "json").stdout)
    assert lines[0]["decision"]["pod"] == "eve"


# From a laptop.


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as server:
        yield server


@pytest.fixture
def far(api: ApiServer, tmp_path: Path) -> Typed:
    kubeconfig = write_kubeconfig(tmp_path / "config", api.url, "first")
    environment = {"KUBECONFIG": str(kubeconfig), "XDG_RUNTIME_DIR": str(tmp_path)}

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(cli, arguments, env=environment)

    return run


def put_agent(api: ApiServer, node: str, *containers: object) -> None:
    name = f"minerwatch-{node}"
    api.put({"metadata": {"name": node}}, resource="nodes")
    put_daemon_set(api)
    pod = {
        "metadata": {
            "name": name,
            "namespace": "minerwatch",
            "labels": {"app.kubernetes.io/name": "minerwatch"},
        },
        "spec": {"nodeName": node, "containers": [{"name": "minerwatch"}]},
        "status": {"phase": "Running"},
    }
    api.put(as_agent(pod))
    api.runs("minerwatch", name, Printing(encode(containers)))  # type: ignore[arg-type]


def test_the_agent_of_the_pods_node_is_told(api: ApiServer, far: Typed) -> None:
    put_agent(api, "node-1", SIMULATION)
    put_agent(api, "node-2", MINER)
    order = orders.encode(orders.cull_order(MINER, Action.STOP, dry_run=False)).decode()
    command = ("minerwatch", "order", orders.CULL, order)
    answer = Printing(orders.encode(structs.replace(PERMITTED, node="node-2")))
    api.runs("minerwatch", "minerwatch-node-2", answer, *command)
    result = far("cull", "-A", ALICE, "--action", "stop")
    assert result.exit_code == 0, result.output
    assert "on node node-2" in result.stdout
    asked = [each for each in api.requests if each.command[:2] == command[:2]]
    assert [(each.path.split("/")[-2], each.command) for each in asked] == [
        ("minerwatch-node-2", command)
    ]


def test_a_refusal_far_away_is_one_line(api: ApiServer, far: Typed) -> None:
    put_agent(api, "node-2", MINER)
    order = orders.encode(orders.release_order(MINER)).decode()
    says = Printing(stderr=b"minerwatch: culling is off on this node\n", exit_status=1)
    api.runs("minerwatch", "minerwatch-node-2", says, "minerwatch", "order", orders.RELEASE, order)
    result = far("release", "-A", ALICE)
    assert result.exit_code == 1
    assert result.stderr == "minerwatch: node node-2: culling is off on this node\n"


def test_an_answer_that_was_lost_may_have_happened(api: ApiServer, far: Typed) -> None:
    """The agent was stopped, and the command in its pod with it."""
    put_agent(api, "node-2", MINER)
    order = orders.encode(orders.cull_order(MINER, Action.STOP, dry_run=False)).decode()
    command = ("minerwatch", "order", orders.CULL, order)
    for lost in (
        Printing(exit_status=137),
        Printing(b"{}" * 99, cut_after_bytes=10, piece_bytes=5),
    ):
        api.runs("minerwatch", "minerwatch-node-2", lost, *command)
        result = far("cull", "-A", ALICE, "--action", "stop")
        assert result.exit_code == 1
        assert "the action may have been carried out" in result.stderr
    refused = Printing(stderr=b"minerwatch: culling is off\n", exit_status=1)
    api.runs("minerwatch", "minerwatch-node-2", refused, *command)
    assert "may have" not in far("cull", "-A", ALICE, "--action", "stop").stderr


def test_a_target_that_is_not_found_may_be_where_nobody_answered(
    api: ApiServer, far: Typed
) -> None:
    put_agent(api, "node-1", SIMULATION)
    away = Printing(stderr=b"minerwatch: no agent is listening\n", exit_status=1)
    put_agent(api, "node-2")
    api.runs("minerwatch", "minerwatch-node-2", away)
    for command in (("explain", "-A", ALICE), ("cull", "-A", ALICE, "--action", "stop")):
        result = far(*command)
        assert result.exit_code == 1
        assert "1 node did not answer, where it may be" in result.stderr


def test_the_past_of_all_nodes_is_simulated(api: ApiServer, far: Typed) -> None:
    for node in ("node-1", "node-2", "node-3"):
        put_agent(api, node)
    command = (
        "minerwatch",
        "order",
        orders.AUDIT_LINES,
        orders.encode(orders.HoursOrder(24.0)).decode(),
    )
    for node in ("node-1", "node-2"):
        line = msgspec.structs.replace(LINE, decision=decision(f"eve-on-{node}"))
        body = Printing(msgspec.json.encode([line]))
        api.runs("minerwatch", f"minerwatch-{node}", body, *command)
    away = Printing(stderr=b"minerwatch: no agent is listening\n", exit_status=1)
    api.runs("minerwatch", "minerwatch-node-3", away, *command)
    result = far("cull", "-A", "--simulate", "24")
    assert result.exit_code == 1
    assert "node-3: no agent is listening" in result.stderr
    assert "2 left alone" in result.stdout
    assert "eve-on-node-1" in result.stdout


def answer_release_all(api: ApiServer, order: orders.ReleaseAllOrder) -> None:
    """Let the agents of two nodes release all, and that of a third be away."""
    command = ("minerwatch", "order", orders.RELEASE_ALL, orders.encode(order).decode())
    for node in ("node-1", "node-2", "node-3"):
        put_agent(api, node)
        answer = orders.encode(structs.replace(RELEASED_ALL, node=node))
        api.runs("minerwatch", f"minerwatch-{node}", Printing(answer), *command)
    away = Printing(stderr=b"minerwatch: no agent is listening\n", exit_status=1)
    api.runs("minerwatch", "minerwatch-node-3", away, *command)


def test_all_nodes_release_and_one_that_does_not_answer_is_named(
    api: ApiServer, far: Typed
) -> None:
    answer_release_all(api, orders.ReleaseAllOrder(forget=True))
    result = far("release", "--all", "-A", "--forget")
    assert result.exit_code == 1
    assert "node-3: no agent is listening" in result.stderr
    for node in ("node-1", "node-2"):
        assert f"Node {node}: 1 pod released." in result.stdout


@needs_openssl
def test_a_job_in_the_cluster_needs_no_kubeconfig(
    tls_api: ApiServer, service_account: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_release_all(tls_api, orders.ReleaseAllOrder(retire=True))
    environment = pod_environment(tls_api)
    monkeypatch.setattr(client, "is_in_cluster", lambda: True)
    monkeypatch.setattr(client, "in_cluster", lambda: in_cluster(service_account, environment))
    nowhere = {"KUBECONFIG": "", "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    words = ["release", "--all", "--retire", "-A", "--agent-namespace", "minerwatch"]
    result = CliRunner().invoke(cli, words, env=nowhere)
    assert "Node node-1: 1 pod released." in result.stdout, result.output
    assert {each.headers["authorization"] for each in tls_api.requests} == {"Bearer first"}
