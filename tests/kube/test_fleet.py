from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from msgspec import structs, to_builtins

from minerwatch.api.snapshot import decode_report, encode, encode_agent
from minerwatch.api.types import AgentStatus, ContainerStatus, NodeReport, Unanswered
from minerwatch.errors import ClusterError, SnapshotError
from minerwatch.kube.client import ApiError, Cluster
from minerwatch.kube.fleet import (
    DEFAULT_SELECTOR,
    FULL_SNAPSHOT,
    SNAPSHOT,
    Fleet,
    Survey,
    find,
)
from minerwatch.kube.pod_exec import Container, output
from tests.kube.api_server import (
    Answering,
    ApiServer,
    Dropping,
    Hanging,
    as_agent,
    pod_json,
    put_daemon_set,
)
from tests.kube.exec_endpoint import Printing
from tests.report.samples import HOSTILE_ONE, MINER, SIMULATION, container
from tests.waiting import PATIENCE_S

LABELS = {"app.kubernetes.io/name": "minerwatch"}
PODS_PATH = "/api/v1/pods"


def agent_pod(number: int, **changes: Any) -> dict[str, Any]:
    item = pod_json(
        f"agent-{number}",
        node=f"node-{number}",
        namespace="minerwatch",
        containers={"proxy": "p", "agent": "a"},
        labels=LABELS,
    )
    return {**as_agent(item), **changes}


@pytest.fixture(autouse=True)
def daemon_set(api: ApiServer) -> None:
    put_daemon_set(api)


def node_json(number: int) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": f"node-{number}"}}


def add_agent(
    api: ApiServer, number: int, printing: Printing | Sequence[ContainerStatus] = (MINER,)
) -> None:
    put_daemon_set(api)
    api.put(agent_pod(number))
    api.put(node_json(number), resource="nodes")
    what = printing if isinstance(printing, Printing) else Printing(encode(printing))
    api.runs("minerwatch", f"agent-{number}", what)


def survey(cluster: Cluster, timeout_s: float = 20.0, at_once: int = 16) -> Survey:
    fleet = Fleet(cluster, decode_report, timeout_s=timeout_s, at_once=at_once)
    return fleet.survey(find(cluster))


def reasons(found: Survey) -> dict[str, str]:
    return {each.node: each.reason for each in found.missing}


# which agents there are


def test_agents_are_found_by_their_label(api: ApiServer, cluster: Cluster) -> None:
    add_agent(api, 2)
    add_agent(api, 1)
    api.put(pod_json("other", node="node-1"))
    agents = find(cluster)
    assert [agent.node for agent in agents.pods] == ["node-1", "node-2"]
    assert [agent.pod for agent in agents.pods] == ["minerwatch/agent-1", "minerwatch/agent-2"]
    assert {agent.container.name for agent in agents.pods} == {"agent"}
    assert (agents.bare_nodes, agents.blind_spot) == ((), "")
    assert api.requests[0].path == PODS_PATH
    assert api.requests[0].query["labelSelector"] == DEFAULT_SELECTOR


def test_of_one_namespace_and_by_another_label(api: ApiServer, cluster: Cluster) -> None:
    for number, namespace in enumerate("xy"):
        pod = pod_json("a", namespace=namespace, node=f"node-{number}", labels={"app": "watch"})
        api.put(as_agent(pod, name="watcher"))
        put_daemon_set(api, namespace, name="watcher")
    agents = find(cluster, selector="app=watch", namespace="y")
    assert [agent.pod for agent in agents.pods] == ["y/a"]
    assert agents.pods[0].container.name == "main"
    with pytest.raises(ClusterError, match=r"in 2 namespaces \(x, y\): use --agent-namespace"):
        find(cluster, selector="app=watch")


def test_nodes_without_an_agent_are_missing(api: ApiServer, cluster: Cluster) -> None:
    add_agent(api, 1)
    api.put(node_json(2), resource="nodes")
    assert find(cluster).bare_nodes == ("node-2",)
    assert survey(cluster).missing == (Unanswered("node-2", "", "no agent runs on it"),)


def test_of_nodes_only_the_metadata_is_asked_for(api: ApiServer, cluster: Cluster) -> None:
    add_agent(api, 1)
    find(cluster)
    (asked,) = (request for request in api.requests if request.path.endswith("/nodes"))
    assert asked.headers["accept"].startswith("application/json;as=PartialObjectMetadataList;")
    assert asked.headers["accept"].endswith(",application/json")  # where that is not understood


Change = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize(
    "change",
    [
        lambda pod: pod["metadata"].update(ownerReferences=[]),
        lambda pod: pod["metadata"]["ownerReferences"][0].update(uid="made-up"),
        lambda pod: pod["metadata"]["ownerReferences"][0].update(controller=False),
        lambda pod: pod["metadata"]["ownerReferences"][0].update(apiVersion="example.org/v1"),
        lambda pod: pod["metadata"]["ownerReferences"][0].update(kind="ReplicaSet"),
        lambda pod: pod["metadata"]["ownerReferences"][0].update(name="missing"),
        lambda pod: pod["spec"].update(hostPID=False),
        lambda pod: pod["metadata"].update(namespace="binder"),
    ],
)
def test_a_pod_that_poses_as_an_agent_is_never_asked(
    api: ApiServer, cluster: Cluster, change: Change
) -> None:
    """Anybody may label a pod; what a miner's own "agent" says must not be taken for the truth."""
    add_agent(api, 1)
    for number in (1, 2):  # beside the real one, and where there is none
        fake = agent_pod(number)
        fake["metadata"]["name"] = f"a-fake-{number}"
        change(fake)
        api.put(fake)
        api.runs(fake["metadata"]["namespace"], f"a-fake-{number}", Printing(encode([])))
    found = survey(cluster)
    assert found.answered == ("node-1",)
    assert len(found.statuses) == 1
    asked = {request.path.split("/")[-2] for request in api.requests if request.is_exec}
    assert asked == {"agent-1"}
    assert "labelled as agents, but not made by a DaemonSet" in found.blind_spot
    assert "/a-fake-1, " in found.blind_spot


def test_who_may_not_see_the_daemon_set_learns_why(api: ApiServer, cluster: Cluster) -> None:
    add_agent(api, 1)
    api.misbehave(Answering(403, "no daemonsets"), when=lambda r: "daemonsets" in r.path)
    agents = find(cluster)
    assert agents.pods == ()
    assert "no daemonsets" in agents.blind_spot


def test_pods_of_very_many_daemon_sets_are_not_looked_up(api: ApiServer, cluster: Cluster) -> None:
    for number in range(20):
        pod = pod_json(f"x-{number}", namespace="binder", node="node-1", labels=LABELS)
        api.put(as_agent(pod, name=f"set-{number}"))
    with pytest.raises(ClusterError, match="20 DaemonSets: use --agent-namespace"):
        find(cluster)


def test_who_may_not_list_nodes_is_told_what_is_not_known(api: ApiServer, cluster: Cluster) -> None:
    add_agent(api, 1)
    api.misbehave(Answering(403, "nodes is forbidden"), when=lambda r: r.path.endswith("/nodes"))
    found = survey(cluster)
    assert found.answered == ("node-1",)
    assert "only nodes with an agent are known" in found.blind_spot
    assert "nodes is forbidden" in found.blind_spot


def test_who_may_not_list_pods_learns_why(api: ApiServer, cluster: Cluster) -> None:
    api.misbehave(Answering(403, "pods is forbidden"))
    with pytest.raises(ApiError, match="pods is forbidden"):
        find(cluster)


def test_many_nodes_come_in_pages(api: ApiServer, cluster: Cluster) -> None:
    for number in range(1200):
        api.put(node_json(number), resource="nodes")
    assert len(find(cluster).bare_nodes) == 1200


def test_a_page_that_is_none(api: ApiServer, cluster: Cluster) -> None:
    api.misbehave(Answering(200, body=b"<html>"))
    with pytest.raises(ApiError, match="invalid answer"):
        find(cluster)


def test_agents_that_do_not_run(api: ApiServer, cluster: Cluster) -> None:
    waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
    statuses = [{"name": "proxy", "state": {}}, {"name": "agent", "state": waiting}]
    crashing = {"phase": "Running", "containerStatuses": statuses}
    api.put(agent_pod(1, status=crashing))
    api.put(agent_pod(2, status={"phase": "Pending"}))
    api.put(agent_pod(3, status={"phase": "Failed"}))
    assert reasons(survey(cluster)) == {
        "node-1": "its agent does not run: CrashLoopBackOff",
        "node-2": "its agent does not run: Pending",
    }
    assert not any(request.is_exec for request in api.requests)


def test_of_two_agents_on_a_node_the_one_that_runs_is_asked(
    api: ApiServer, cluster: Cluster
) -> None:
    old = agent_pod(1, status={"phase": "Pending"})
    old["metadata"] = {**old["metadata"], "name": "agent-0"}
    api.put(old)
    add_agent(api, 1)
    found = survey(cluster)
    assert (found.answered, found.missing) == (("node-1",), ())


# what they answer


def test_every_agent_is_asked_for_its_snapshot(api: ApiServer, cluster: Cluster) -> None:
    add_agent(api, 1, [MINER, HOSTILE_ONE])
    add_agent(api, 2, [SIMULATION])
    found = survey(cluster)
    assert found.answered == ("node-1", "node-2")
    assert found.missing == ()
    assert {status.node for status in found.statuses} == {"node-1", "node-2"}
    assert structs.replace(MINER, node="node-1") in found.statuses
    assert len(found.statuses) == 3
    asked = [request for request in api.requests if request.is_exec]
    assert {request.command for request in asked} == {SNAPSHOT.command}
    assert {request.query["container"] for request in asked} == {"agent"}
    assert {request.headers["authorization"] for request in asked} == {"Bearer first"}


def test_an_agent_cannot_speak_for_another_node(api: ApiServer, cluster: Cluster) -> None:
    add_agent(api, 1, [container(node="node-9")])
    assert [status.node for status in survey(cluster).statuses] == ["node-1"]


def test_what_agents_say_of_themselves(api: ApiServer, cluster: Cluster) -> None:
    said = AgentStatus("by-another-name", "1.2.3", rules={"stable": 7}, culling="dry-run")
    both = b'{"agent":' + encode_agent(said) + b',"containers":' + encode([MINER]) + b"}"
    add_agent(api, 1, Printing(both))
    add_agent(api, 2)
    found = survey(cluster)
    assert found.agents == (structs.replace(said, node="node-1"),)
    assert {status.node for status in found.statuses} == {"node-1", "node-2"}


def test_another_question(api: ApiServer, cluster: Cluster) -> None:
    add_agent(api, 1)
    api.runs("minerwatch", "agent-1", Printing(encode([SIMULATION])), *FULL_SNAPSHOT.command)
    found = Fleet(cluster, decode_report).survey(find(cluster), FULL_SNAPSHOT)
    assert [status.container for status in found.statuses] == [SIMULATION.container]


def test_of_many_agents_only_some_are_asked_at_once(api: ApiServer, cluster: Cluster) -> None:
    for number in range(20):
        add_agent(api, number, Printing(encode([MINER]), starts_after_s=0.02))
    ticks: list[int] = []
    fleet = Fleet(cluster, decode_report, at_once=3)
    found = fleet.survey(find(cluster), on_answer=lambda: ticks.append(1))
    assert len(found.answered) == len(ticks) == 20
    assert api.most_at_once <= 3


@pytest.mark.parametrize(
    ("printing", "reason"),
    [
        (Printing(b"<html>"), "not a snapshot"),
        (Printing(b""), "not a snapshot"),
        (Printing(b'[{"node": "x"}]'), "missing required field"),
        (Printing(encode([MINER])[:-5]), "not a snapshot"),
        (Printing(b"\xff\xfe" * 50), "not a snapshot"),
        (
            Printing(stderr=b"minerwatch: no agent is listening\non x\x1b[2J\n", exit_status=1),
            "no agent is listening on x\N{REPLACEMENT CHARACTER}[2J",
        ),
        (Printing(exit_status=127), "command terminated with non-zero exit code: 127"),
        (Printing(encode([MINER]), status=b"nonsense"), "the end of its answer is no status"),
        (Printing(encode([MINER]), piece_bytes=100, cut_after_bytes=300), "broke off"),
        (Printing(encode([MINER]), piece_bytes=100, closes_after_bytes=300), "broke off"),
    ],
)
def test_what_is_no_answer_is_told(
    api: ApiServer, cluster: Cluster, printing: Printing, reason: str
) -> None:
    add_agent(api, 1, printing)
    add_agent(api, 2)
    found = survey(cluster)
    assert found.answered == ("node-2",)
    assert reason in reasons(found)["node-1"]
    assert [each.pod for each in found.missing] == ["minerwatch/agent-1"]


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (Answering(403, "pods/exec is forbidden"), "pods/exec is forbidden"),
        (Answering(500, body=b"<html>oh</html>"), "answers 500"),
        (Answering(200, body=b"{}"), "200"),
        (Dropping(), "node-1"),
        (Dropping(b"HTTP/1.1 101 Switching\r\n"), "node-1"),
    ],
)
def test_who_refuses_is_told(
    api: ApiServer, cluster: Cluster, how: Answering | Dropping, reason: str
) -> None:
    add_agent(api, 1)
    api.misbehave(how, when=lambda request: request.is_exec)
    found = survey(cluster)
    assert found.answered == ()
    assert list(reasons(found)) == ["node-1"]
    assert reason in str(found.missing)


@pytest.mark.parametrize(
    "printing",
    [
        Printing(encode([MINER]), starts_after_s=3600),
        Printing(encode([MINER]), piece_bytes=1, pause_s=0.5),
        Printing(encode([MINER]), piece_bytes=50, pause_s=3600),
    ],
)
def test_who_is_slow_is_given_up(api: ApiServer, cluster: Cluster, printing: Printing) -> None:
    add_agent(api, 1, printing)
    add_agent(api, 2)
    found = survey(cluster, timeout_s=2)
    assert found.answered == ("node-2",)
    assert "no answer" in reasons(found)["node-1"]


def test_connections_that_hang_are_not_heaped_up(api: ApiServer, cluster: Cluster) -> None:
    add_agent(api, 1)
    add_agent(api, 2)
    api.misbehave(Hanging(), when=lambda r: r.is_exec and "agent-1" in r.path, times=5)
    fleet = Fleet(cluster, decode_report, timeout_s=0.5, at_once=1)
    agents = find(cluster)
    assert "no answer within 0.5 s" in reasons(fleet.survey(agents))["node-1"]
    assert "has not been answered yet" in reasons(fleet.survey(agents))["node-1"]
    assert len([r for r in api.requests if r.is_exec and "agent-1" in r.path]) == 1


def test_output_that_the_status_overtakes_is_not_lost(api: ApiServer, cluster: Cluster) -> None:
    add_agent(api, 1, Printing(encode([MINER]), status_first=True, piece_bytes=500))
    assert survey(cluster).answered == ("node-1",)


def test_a_server_that_does_not_close_is_not_waited_for(api: ApiServer, cluster: Cluster) -> None:
    add_agent(api, 1, Printing(encode([MINER]), hangs_after=True))
    assert survey(cluster).answered == ("node-1",)


def test_snapshots_of_other_versions(api: ApiServer, cluster: Cluster) -> None:
    newer = [{**to_builtins(MINER), "mood": {"of": ["the", "day"]}}]
    older = [{key: value for key, value in to_builtins(MINER).items() if key != "started"}]
    add_agent(api, 1, Printing(json.dumps(newer).encode()))
    add_agent(api, 2, Printing(json.dumps(older).encode()))
    found = survey(cluster)
    assert found.answered == ("node-1", "node-2")
    assert all(status.pod == MINER.pod for status in found.statuses)


def test_a_decoder_that_fails_otherwise_is_a_missing_node(api: ApiServer, cluster: Cluster) -> None:
    def fail(_snapshot: bytes) -> NodeReport:
        raise SnapshotError("of the wrong colour")

    add_agent(api, 1)
    assert "colour" in str(Fleet(cluster, fail).survey(find(cluster)).missing)


# the command itself


def test_large_output_comes_whole(api: ApiServer, cluster: Cluster) -> None:
    large = bytes(range(256)) * (64 << 10)
    api.runs("ns", "p", Printing(large))
    assert output(cluster, Container("ns", "p", "c"), ["x"], timeout_s=60) == large


@pytest.mark.parametrize("version", ["v4", "v5"])
def test_old_and_new_api_servers(api: ApiServer, cluster: Cluster, version: str) -> None:
    api.exec_protocols = [f"{version}.channel.k8s.io"]
    api.runs("ns", "p", Printing(b"ok"))
    assert output(cluster, Container("ns", "p", "c"), ["x"], timeout_s=PATIENCE_S) == b"ok"


def test_output_without_end_is_cut_off(api: ApiServer, cluster: Cluster) -> None:
    api.runs("ns", "p", Printing(b"x" * (3 << 20)))
    with pytest.raises(ApiError, match="longer than 1 MiB") as failed:
        output(cluster, Container("ns", "p", "c"), ["x"], timeout_s=60, limit_bytes=1 << 20)
    assert failed.value.reason == "garbage"


def test_words_of_a_command_stay_words(api: ApiServer, cluster: Cluster) -> None:
    api.runs("ns", "p", Printing(b"ok"))
    words = ("a b", "c&command=d", "é", "")
    output(cluster, Container("ns", "p", "c"), words, timeout_s=PATIENCE_S)
    assert api.requests[-1].command == words


def test_no_redirect_gets_the_token(api: ApiServer, cluster: Cluster) -> None:
    """A node that answers in place of its kubelet must not have the operator's token."""
    with ApiServer() as elsewhere:
        there = f"{elsewhere.url.replace('http', 'ws')}/api/v1/namespaces/ns/pods/p/exec"
        api.misbehave(Answering(302, headers={"Location": there}), when=lambda r: r.is_exec)
        with pytest.raises(ApiError) as failed:
            output(cluster, Container("ns", "p", "c"), ["x"], timeout_s=PATIENCE_S)
        assert (failed.value.reason, elsewhere.requests) == ("connection", [])


def test_over_tls_with_the_token_of_the_service_account(
    tls_api: ApiServer, pod_cluster: Cluster
) -> None:
    tls_api.tokens = {"first"}
    tls_api.runs("ns", "p", Printing(b"ok" * 100_000))
    got = output(pod_cluster, Container("ns", "p", "c"), ["x"], timeout_s=PATIENCE_S)
    assert got == b"ok" * 100_000
    tls_api.tokens = {"second"}
    with pytest.raises(ApiError, match="Unauthorized") as failed:
        output(pod_cluster, Container("ns", "p", "c"), ["x"], timeout_s=PATIENCE_S)
    assert failed.value.reason == "unauthorized"


def test_a_server_that_is_not_there(api: ApiServer, cluster: Cluster) -> None:
    api.vanish()
    with pytest.raises(ApiError) as failed:
        output(cluster, Container("ns", "p", "c"), ["x"], timeout_s=PATIENCE_S)
    assert failed.value.reason == "connection"


@pytest.mark.parametrize(
    ("labels", "name", "account"),
    [
        ({}, "minerwatch", "minerwatch-view"),
        ({"minerwatch.io/gpu": "true"}, "minerwatch-gpu", "minerwatch-view"),
        # the release's own name
        ({}, "minerwatch-gpu", "minerwatch-gpu-view"),
    ],
)
def test_agents_of_gpu_nodes_are_of_the_same_release(
    api: ApiServer, cluster: Cluster, labels: dict[str, str], name: str, account: str
) -> None:
    item = pod_json(
        "agent-7",
        node="node-7",
        namespace="minerwatch",
        containers={"agent": "a", "gpu": "a"},
        labels={**LABELS, **labels},
    )
    item["spec"]["containers"][0]["ports"] = [{"name": "metrics", "containerPort": 9797}]
    put_daemon_set(api, uid="uid-7", name=name)
    api.put(as_agent(item, uid="uid-7", name=name))
    (agent,) = find(cluster).pods
    assert agent.port is not None
    assert (agent.port.account, agent.container.name) == (account, "agent")
