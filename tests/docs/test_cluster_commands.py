"""Commands of the pages by the real kubectl and helm, against the tests' API server."""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from generate.__main__ import found_program
from minerwatch.api.snapshot import encode, encode_agent
from minerwatch.api.types import AgentStatus
from minerwatch.report.http_server import Answer
from minerwatch.report.socket_listener import SocketListener
from tests.cli.test_cull import Agent
from tests.docs.classes import Way, way_of
from tests.docs.cluster import AGENT, DEBUGGER, NODE, POD, cluster
from tests.docs.commands import Command, commands
from tests.kube.conftest import write_kubeconfig
from tests.report.samples import NODE as CONTAINERS
from tests.test_documents import FOLDER
from tests.waiting import PATIENCE_S

_STANDS_FOR = {
    "CONTAINER": POD, "FILE": "file", "IP": "192.0.2.1", "MONITORING": "monitoring",
    "NAME": POD, "NAMESPACE": "binder", "NODE": NODE, "NS": "binder", "POD": POD,
    "PROMETHEUS-POD": POD, "VALUES": "deploy/helm/values/binderhub.yaml", "WORD": "xmrig",
}  # fmt: skip
_PLACEHOLDER = re.compile(rf"\b({'|'.join(sorted(_STANDS_FOR, key=len, reverse=True))})\b(?!:\.)")
_INSTALL = "helm install minerwatch deploy/helm/minerwatch --namespace minerwatch"
_UPGRADE = "helm upgrade minerwatch deploy/helm/minerwatch -n minerwatch --reuse-values"
_NAMESPACE = "kubectl create namespace minerwatch"
_BEFORE = {  # what must have been typed before
    "helm install": [_NAMESPACE],
    "helm test": [_NAMESPACE, _INSTALL],
    "helm uninstall": [_NAMESPACE, _INSTALL],
    "helm upgrade": [_NAMESPACE, _INSTALL],
    "helm -n minerwatch get": [_NAMESPACE, _INSTALL],
    "helm -n minerwatch history": [_NAMESPACE, _INSTALL],
    "helm -n minerwatch rollback": [_NAMESPACE, _INSTALL, _UPGRADE],
    "kubectl delete -f": ["kubectl apply -f deploy/manifests/minerwatch.yaml"],
}
_EMPTY = (*_BEFORE, _NAMESPACE)  # nothing is installed yet
_INPUT = {"eviction -f -": '{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {}}'}


def _of_clusters() -> Iterator[object]:
    of_clusters = (each for each in commands() if way_of(each).way is Way.IN_A_CLUSTER)
    for command in {tuple(typed(each)): each for each in of_clusters}.values():
        yield pytest.param(command, id=command.text[:60])


def typed(command: Command) -> list[str]:
    """The words with a name for each placeholder."""
    words = [
        "1"
        if word == "7"
        else word.replace("node-debugger-NODE-XXXXX", DEBUGGER).replace("$agent", f"pod/{AGENT}")
        for word in command.words
    ]
    return [_PLACEHOLDER.sub(lambda match: _STANDS_FOR[match[1]], word) for word in words]


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Path]:
    """The socket of an agent that has what was recorded of a node."""
    status = AgentStatus(NODE, "1.2.3", rules={"stable": 3}, culling="dry-run")
    snapshot = Answer(encode(CONTAINERS), "application/json")
    routes = dict.fromkeys(("/snapshot", "/snapshot/full"), lambda: snapshot)
    routes["/status"] = lambda: Answer(encode_agent(status), "application/json")
    path = tmp_path / "run" / "agent.sock"
    listener = SocketListener(path, routes, posts=Agent().posts())
    yield path
    listener.close()


@pytest.mark.slow
@pytest.mark.parametrize("command", [*_of_clusters()])
def test_it_runs(command: Command, agent: Path, tmp_path: Path) -> None:
    programs = {name: found_program(name) for name in ("kubectl", "helm")}
    if None in programs.values():
        pytest.skip("kubectl or helm is missing: make helm")
    before = next((v for k, v in _BEFORE.items() if command.text.startswith(k)), [])
    is_installed = not command.text.startswith(_EMPTY)
    with cluster(is_installed=is_installed) as server:
        server.agent = agent
        folders = {str(Path(str(each)).parent) for each in programs.values()}
        environment = {
            "PATH": ":".join([sysconfig.get_path("scripts"), *folders, os.environ["PATH"]]),
            "KUBECONFIG": str(write_kubeconfig(tmp_path / "config", server.url, "first")),
            "HOME": str(tmp_path),
            "XDG_RUNTIME_DIR": str(tmp_path),
        }
        for words in (*(each.split() for each in before), typed(command)):
            if words[:2] == ["kubectl", "cp"]:
                words[-1] = str(tmp_path / words[-1])
            text = next((v for k, v in _INPUT.items() if k in " ".join(words)), "")
            if "--create-namespace" in words:
                words.append("--dry-run=server")
            done = subprocess.run(
                words, cwd=FOLDER, env=environment, input=text, capture_output=True, text=True,
                check=False, timeout=PATIENCE_S,
            )  # fmt: skip
            assert done.returncode == 0, (words, done.stdout[-500:], done.stderr[-1500:])
        assert server.requests
