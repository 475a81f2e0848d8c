"""``top`` and ``explain`` over a whole cluster, as typed on a laptop."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from msgspec import structs

from minerwatch.api.snapshot import decode, decode_report, encode, encode_agent
from minerwatch.api.types import AgentStatus, NodeReport
from minerwatch.cli.fleet_source import Scope, wants_cluster
from minerwatch.cli.main import cli
from minerwatch.config.schema import Config
from minerwatch.errors import ClusterError
from minerwatch.kube.fleet import FULL_SNAPSHOT, UNMASKED_SNAPSHOT
from minerwatch.model import MachineTotals
from minerwatch.report.http_server import Answer
from minerwatch.report.socket_listener import SocketListener
from tests.kube.api_server import Answering, ApiServer, put_daemon_set
from tests.kube.conftest import write_kubeconfig
from tests.kube.exec_endpoint import Printing
from tests.report.samples import MINER, NODE, SIMULATION, process

Golden = Callable[[str, str], None]

CLUSTER = Path(__file__).parent.parent / "fixtures" / "clusters" / "three-nodes"
MACHINE = MachineTotals(48, 3.5, 384 << 30, 96 << 30)
AGENT = AgentStatus(
    "node-7", "1.2.3", rules={"stable": 3, "test": 2}, culling="off", machine=MACHINE
)
ALICE = "binder/jupyter-example-2dmallory-2dnotebooks-2d0011"


@pytest.fixture
def api() -> Iterator[ApiServer]:
    """The recorded cluster: of its three agents the last crashes."""
    with ApiServer() as server:
        put_daemon_set(server)
        for node in json.loads((CLUSTER / "nodes.json").read_text()):
            server.put(node, resource="nodes")
        for name in ("binder", "ci", "minerwatch", "science"):
            server.put({"metadata": {"name": name}}, resource="namespaces")
        for pod in json.loads((CLUSTER / "pods.json").read_text()):
            server.put(pod)
            answer = CLUSTER / f"{pod['spec']['nodeName']}.json"
            if answer.is_file():
                name = pod["metadata"]["name"]
                server.runs("minerwatch", name, Printing(answer.read_bytes()))
        yield server


@pytest.fixture
def run(api: ApiServer, tmp_path: Path) -> Callable[..., Result]:
    kubeconfig = write_kubeconfig(tmp_path / "config", api.url, "first")
    environment = {"KUBECONFIG": str(kubeconfig), "XDG_RUNTIME_DIR": str(tmp_path)}

    def typed(*arguments: str, program: str = "kubectl minerwatch", **more: str) -> Result:
        return CliRunner().invoke(cli, arguments, env={**environment, **more}, prog_name=program)

    return typed


def without_ages(text: str) -> str:
    """Ages are those of the day that the test runs on, and columns are as wide as they."""
    text = re.sub(" +", " ", text)
    return re.sub(r"(?<= )\d+(?:s|m|h\d\dm|d\d+h)(?= )", "AGE", text)


def test_top_of_three_nodes_one_of_them_missing(golden: Golden, run: Callable[..., Result]) -> None:
    result = run("top", "-A", "--once")
    assert result.exit_code == 1  # an agent did not answer
    assert result.stderr == ""
    golden("top-cluster-piped.txt", without_ages(result.stdout))


@pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="is a plugin of kubectl: install kubectl"
)
def test_as_a_plugin_of_kubectl(api: ApiServer, tmp_path: Path) -> None:
    program = Path(sysconfig.get_path("scripts")) / "kubectl-minerwatch"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / program.name).symlink_to(program)
    environment = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "KUBECONFIG": str(write_kubeconfig(tmp_path / "config", api.url, "first")),
        "HOME": str(tmp_path),
        "XDG_RUNTIME_DIR": str(tmp_path),
    }

    def typed(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["kubectl", "minerwatch", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    shown = typed("top", "--once")
    assert shown.returncode == 1
    assert shown.stdout.startswith("context lab · all namespaces · 2 of 3 nodes answered\n")
    assert f"{ALICE}/notebook" in shown.stdout
    assert "Campaign   one of 5 pods" in typed("explain", ALICE).stdout
    assert typed("--help").stdout.startswith("Usage: kubectl minerwatch ")


def test_json_is_the_agents_list_and_the_missing_are_on_standard_error(
    run: Callable[..., Result],
) -> None:
    result = run("top", "-A", "--once", "-o", "json")
    statuses = json.loads(result.stdout)
    assert len(statuses) == 9
    assert {status["node"] for status in statuses} == {"node-1", "node-2"}
    assert statuses[0]["score"] >= statuses[-1]["score"]
    assert result.stderr == (
        "minerwatch: missing node-3 (minerwatch/minerwatch-9zlpd): "
        "its agent does not run: CrashLoopBackOff\n"
    )
    assert result.exit_code == 1


def test_all_agents_answer(api: ApiServer, run: Callable[..., Result]) -> None:
    api.remove("minerwatch", "minerwatch-9zlpd")
    result = run("top", "-A", "--once")
    assert result.exit_code == 0
    assert "missing node-3: no agent runs on it" in result.stdout
    api.remove("", "node-3", resource="nodes")
    assert "2 of 2 nodes answered" in run("top", "-A", "--once").stdout


def test_as_many_at_once_as_asked_for(run: Callable[..., Result]) -> None:
    assert "2 of 3 nodes answered" in run("top", "-A", "--once", "--at-once", "1").stdout
    assert run("top", "-A", "--once", "--at-once", "0").exit_code == 2


def test_namespace_filter_and_order(run: Callable[..., Result]) -> None:
    result = run("top", "-n", "ci", "--once", "-o", "json", "--sort", "cpu")
    assert [status["cpu_cores"] for status in json.loads(result.stdout)] == [3.97, 0.72]
    filtered = json.loads(run("top", "-A", "--once", "-o", "json", "--filter", "lmp").stdout)
    assert [status["pod"] for status in filtered] == ["melt-0"]
    oldest = json.loads(run("top", "-A", "--once", "-o", "json", "--sort", "age").stdout)
    assert oldest[0]["pod"] == "melt-0"
    lines = run("top", "-n", "ci", "--once").stdout.splitlines()
    assert "namespace ci" in lines[0]
    assert "2 containers" in lines[2]


def test_a_namespace_that_is_not_there_is_said(run: Callable[..., Result]) -> None:
    for command in (("top", "--once"), ("explain", "x"), ("release", "x")):
        result = run(*command, "-n", "bindre")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == (
            "minerwatch: context lab: there is no namespace 'bindre'; did you mean binder?\n"
        )
    far = run("top", "--once", "-n", "zzz").stderr
    assert "there is no namespace 'zzz': it has " in far


def test_without_the_right_to_read_namespaces_none_is_refused(
    api: ApiServer, run: Callable[..., Result]
) -> None:
    api.misbehave(Answering(403, "namespaces is forbidden"), times=1)
    assert run("top", "--once", "-n", "elsewhere").stdout.startswith("context lab · namespace els")


def test_the_machine_is_as_its_agent_says(agent_socket: Path, run: Callable[..., Result]) -> None:
    shown = run("top", "--once", "--socket", str(agent_socket)).stdout
    assert f"of {MACHINE.cores} cores" in " ".join(shown.split())


def test_a_namespace_without_pods_on_this_node_is_said(
    agent_socket: Path, run: Callable[..., Result]
) -> None:
    result = run("top", "--once", "-n", "nope", "--socket", str(agent_socket))
    assert result.exit_code == 0
    assert "no pod of namespace nope runs on this node; here are: " in result.stderr


def test_a_context_is_asked_by_name(run: Callable[..., Result]) -> None:
    assert run("top", "--context", "hub", "--once").stdout.startswith("context hub · all namesp")
    wrong = run("top", "--context", "moon", "--once")
    assert wrong.exit_code == 1
    assert "there is no context 'moon'" in wrong.stderr


def test_a_kubeconfig_that_is_not_there(run: Callable[..., Result]) -> None:
    result = run("top", "--kubeconfig", "/nonexistent", "--once")
    assert result.exit_code == 1
    assert result.stderr.startswith("minerwatch: /nonexistent: there is no such file")


def test_a_cluster_without_agents(api: ApiServer, run: Callable[..., Result]) -> None:
    result = run("top", "-A", "--once", "--agent-selector", "app=other", "--agent-namespace", "x")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "no agent is labelled app=other in namespace x" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_refusal_is_one_line(api: ApiServer, run: Callable[..., Result]) -> None:
    api.misbehave(Answering(403, 'pods is forbidden: User "me" cannot list'))
    result = run("top", "-A", "--once")
    assert result.exit_code == 1
    assert "pods is forbidden" in result.stderr
    assert "use --agent-namespace" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_explain_of_a_pod_names_its_campaign(api: ApiServer, run: Callable[..., Result]) -> None:
    result = run("explain", "-A", ALICE)
    assert result.exit_code == 0
    assert f"{ALICE}/notebook" in result.stdout
    assert "Campaign   one of 5 pods of owner" in result.stdout
    assert "missing node-3" in result.stderr
    assert "other containers of this pod: 313131313131" in result.stderr
    asked = [request for request in api.requests if request.command == FULL_SNAPSHOT.command]
    assert [request.path.split("/")[-2] for request in asked] == ["minerwatch-bxq4t"]


def test_secrets_are_shown_to_those_who_ask_for_them(
    api: ApiServer, run: Callable[..., Result], agent_socket: Path
) -> None:
    run("explain", "-A", ALICE, "--unmasked")
    assert [each.command for each in api.requests if each.command][-1] == UNMASKED_SNAPSHOT.command
    here = ("--socket", str(agent_socket))
    shown = run("explain", MINER.container_id, "--unmasked", *here).stdout
    assert "hunter2xyz" in shown
    assert "hunter2xyz" not in run("explain", MINER.container_id, *here).stdout


def test_explain_as_json(run: Callable[..., Result]) -> None:
    result = run("explain", "-n", "science", "melt-0", "-o", "json")
    assert json.loads(result.stdout)["node"] == "node-1"


def test_explain_of_what_is_on_no_node_that_answered(run: Callable[..., Result]) -> None:
    result = run("explain", "-A", "binder/nobody")
    assert result.exit_code == 1
    assert "missing node-3" in result.stderr
    assert "nothing here is named binder/nobody" in result.stderr


# this node, or the cluster


def scope(**changes: object) -> Scope:
    plain: dict[str, object] = {
        "namespace": "",
        "all_namespaces": False,
        "context": None,
        "kubeconfig": None,
        "agent_namespace": "",
        "agent_selector": "",
        "timeout_s": 1.0,
    }
    return Scope(**{**plain, **changes})  # type: ignore[arg-type]


UNMASKED = structs.replace(MINER, processes=(process(command_line="./a --password hunter2xyz"),))


@pytest.fixture
def agent_socket(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "run" / "agent.sock"
    routes = {
        "/snapshot": lambda: Answer(encode(NODE), "application/json"),
        "/snapshot/full": lambda: Answer(encode([MINER, SIMULATION]), "application/json"),
        "/snapshot/unmasked": lambda: Answer(encode([UNMASKED]), "application/json"),
        "/status": lambda: Answer(encode_agent(AGENT), "application/json"),
    }
    listener = SocketListener(path, routes, on_error=lambda _error: None)
    yield path
    listener.close()


@pytest.mark.parametrize("has_agent", [True, False])
@pytest.mark.parametrize("has_kubeconfig", [True, False])
def test_what_is_asked(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    agent_socket: Path,
    has_agent: bool,
    has_kubeconfig: bool,
) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    if has_kubeconfig:
        kubeconfig.touch()
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    config = Config(socket=str(agent_socket if has_agent else tmp_path / "none"))

    def asks_cluster(*, local: bool = False, path: Path | None = None, **given: object) -> bool:
        return wants_cluster(scope(**given), config, local=local, socket_path=path)

    assert asks_cluster() == (has_kubeconfig and not has_agent)
    if has_kubeconfig:
        assert asks_cluster(all_namespaces=True)
    else:
        with pytest.raises(ClusterError, match="set KUBECONFIG, give --kubeconfig FILE, or leave"):
            asks_cluster(all_namespaces=True)
    assert asks_cluster(namespace="x") == (has_kubeconfig or not has_agent)
    assert asks_cluster(context="lab")
    assert asks_cluster(kubeconfig=kubeconfig)
    assert not asks_cluster(local=True, namespace="x")
    assert not asks_cluster(path=agent_socket, all_namespaces=True)
    for namespace in ("", "x"):  # `kubectl minerwatch` is about the cluster, on a node as well
        asked = wants_cluster(
            scope(namespace=namespace), config, local=False, socket_path=None, by_kubectl=True
        )
        assert asked == (has_kubeconfig or bool(namespace))


@pytest.mark.parametrize("program", ["minerwatch", "kubectl minerwatch"])
def test_kubectl_asks_the_cluster_on_a_node_as_well(
    program: str, run: Callable[..., Result], agent_socket: Path, tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"socket: {agent_socket}\n")
    shown = run("top", "--once", "--config", str(config), program=program).stdout
    assert shown.startswith("context lab") == (program == "kubectl minerwatch")


def test_both_is_wrong_usage(run: Callable[..., Result]) -> None:
    for named in (("--local",), ("--socket", "/x")):
        result = run("top", "--once", "--context", "lab", *named)
        assert result.exit_code == 2
        assert "give one of them" in result.stderr


# the command that runs in agents' pods


def snapshot(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "minerwatch", "snapshot", *arguments],
        capture_output=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", **environment},
    )


def test_snapshot_copies_the_sockets_answer(agent_socket: Path) -> None:
    done = snapshot(MINERWATCH_SOCKET=str(agent_socket))
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == encode(NODE)
    whole = snapshot("--full", "--socket", str(agent_socket))
    assert decode(whole.stdout) == (MINER, SIMULATION)
    unmasked = snapshot("--unmasked", "--socket", str(agent_socket))
    assert decode(unmasked.stdout) == (UNMASKED,)
    both = snapshot("--with-status", "--socket", str(agent_socket))
    assert decode_report(both.stdout) == NodeReport(NODE, AGENT)
    assert decode_report(done.stdout) == NodeReport(NODE, None)


def test_snapshot_without_an_agent_says_so_in_one_line(tmp_path: Path) -> None:
    done = snapshot("--socket", str(tmp_path / "none"))
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode() == f"minerwatch: no agent is listening on {tmp_path}/none\n"


def test_snapshot_is_not_for_people(run: Callable[..., Result]) -> None:
    assert "snapshot" not in run("--help").stdout


_HEAVY = frozenset({"kubernetes", "sigma", "yaml", "psutil", "ahocorasick", "concurrent.futures"})
_SCREEN = frozenset({"textual", "minerwatch.view.screen", "minerwatch.detection.matching"})


@pytest.mark.parametrize(
    ("arguments", "others"),
    [
        (["snapshot"], {"msgspec", "rich", "re2", "minerwatch.model", "minerwatch.config"}),
        (["top", "--once"], {"minerwatch.detection", "minerwatch.model"}),
        (["status"], {"minerwatch.detection", "minerwatch.model", "re2"}),
        (["explain", MINER.container_id], set()),
    ],
    ids=["snapshot", "top", "status", "explain"],
)
def test_commands_on_a_node_import_little(
    arguments: list[str], others: set[str], agent_socket: Path
) -> None:
    script = (
        "import sys; from minerwatch.cli.main import cli\n"
        f"try: cli([*{arguments!r}, '--socket', {str(agent_socket)!r}])\n"
        "except SystemExit as error: assert not error.code, error\n"
        f"heavy = {sorted(_HEAVY | _SCREEN | others)!r}\n"
        "sys.exit(', '.join(each for each in heavy if each in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


# status


def test_the_status_of_this_nodes_agent(agent_socket: Path, run: Callable[..., Result]) -> None:
    result = run("status", MINERWATCH_SOCKET=str(agent_socket))
    assert result.exit_code == 0
    assert result.stdout.startswith("node node-7: ok, agent 1.2.3\n")
    listed = json.loads(run("status", "--socket", str(agent_socket), "-o", "json").stdout)
    assert [agent["node"] for agent in listed] == ["node-7"]


def test_without_an_agent_there_is_no_status(tmp_path: Path, run: Callable[..., Result]) -> None:
    result = run("status", "--socket", str(tmp_path / "none"))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.endswith("none: start it with `minerwatch agent`\n")


def test_the_status_of_all_agents_is_a_line_each(
    api: ApiServer, run: Callable[..., Result]
) -> None:
    result = run("status", "-A")
    assert result.exit_code == 1
    assert result.stderr.startswith("minerwatch: missing node-3 ")
    assert "2 agents too old to say" in result.stderr
    for node, broken in (("node-1", 0), ("node-2", 1)):
        agent = structs.replace(AGENT, node=node, broken_rules=broken)
        report = b'{"agent":' + encode_agent(agent) + b',"containers":[]}'
        name = next(
            pod["metadata"]["name"]
            for pod in json.loads((CLUSTER / "pods.json").read_text())
            if pod["spec"]["nodeName"] == node and pod["metadata"]["namespace"] == "minerwatch"
        )
        api.runs("minerwatch", name, Printing(report))
    result = run("status", "-A")
    assert result.stdout.splitlines() == [
        "node-1: ok · 1.2.3 · 5 rules · observe",
        "node-2: FAILING · 1 rule file rejected · 1.2.3 · 5 rules · observe",
    ]
    assert result.exit_code == 1
