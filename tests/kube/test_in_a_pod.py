"""The agent where a kubelet has mounted a service account: it needs no setting to name pods."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.agent.test_daemon import RunningAgent
from tests.conftest import TOP, CgroupFolders, Programs, container_id, needs_root, pod_uid
from tests.kube.api_server import ApiServer, pod_json
from tests.kube.conftest import needs_openssl, pod_environment

pytestmark = [needs_root, needs_openssl]

UID = pod_uid("5d3c1a33")
ID = container_id("5a")
USERNAME = "hub.jupyter.org/username"
MOUNTED = "/var/run/secrets/kubernetes.io/serviceaccount"
_SEE_ACCOUNT = f"mount -t tmpfs run /run && mkdir -p {MOUNTED} && mount --bind $0 {MOUNTED}"

Start = Callable[..., RunningAgent]


@pytest.fixture
def start(
    tls_api: ApiServer,
    service_account: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Start]:
    """Starts agents that see the account at its place; nobody else does."""
    if shutil.which("unshare") is None or not _may_mount(service_account):
        pytest.skip("gives an agent mounts of its own: run it where root may mount, with unshare")
    for name, value in {**pod_environment(tls_api), "MINERWATCH_NODE": "n1"}.items():
        monkeypatch.setenv(name, value)
    started: list[RunningAgent] = []

    def start_one(*options: str) -> RunningAgent:
        command = [*_in_a_pod(service_account), sys.executable]
        folder = tmp_path_factory.mktemp("agent")
        started.append(
            RunningAgent(folder, *options, command=command, in_cluster=True, all_rules=False)
        )
        return started[-1]

    yield start_one
    for agent in started:
        agent.close()


def _in_a_pod(account: Path) -> list[str]:
    script = f'{_SEE_ACCOUNT} && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, str(account)]


def _may_mount(account: Path) -> bool:
    done = subprocess.run([*_in_a_pod(account), "true"], check=False, capture_output=True)
    return done.returncode == 0


def the_pod(username: str) -> dict[str, object]:
    return pod_json("a", uid=UID, containers={"main": ID}, annotations={USERNAME: username})


def owner(agent: RunningAgent) -> str:
    statuses = agent.statuses()
    return next((status.owner for status in statuses if status.container_id == ID), "")


def test_a_mounted_account_is_used_and_its_token_followed(
    tls_api: ApiServer,
    service_account: Path,
    cgroups: CgroupFolders,
    programs: Programs,
    start: Start,
) -> None:
    tls_api.tokens = {"first"}
    tls_api.put(the_pod("ada"))
    folder = cgroups.make(f"{TOP}/kubepods/pod{UID}/{ID}")
    cgroups.put(programs.start("worker", busy=False), folder)
    agent = start()
    assert agent.line("watching")["cluster"] == tls_api.url
    assert agent.line("watching")["node"] == "n1"
    agent.until(lambda: owner(agent) == "ada")
    assert {request.headers["authorization"] for request in tls_api.requests} == {"Bearer first"}
    tls_api.tokens = {"second"}
    tls_api.cut_streams()
    (service_account / "token").write_text("second\n")
    tls_api.put(the_pod("grace"))
    agent.until(lambda: owner(agent) == "grace")


def test_it_can_be_left_out(tls_api: ApiServer, start: Start) -> None:
    agent = start("--no-kubernetes")
    assert "cluster" not in agent.line("watching")
    agent.until(lambda: agent.get("/readyz")[0] == 200)
    assert tls_api.requests == []
