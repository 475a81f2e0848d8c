"""The certificates that a cluster may show: those that kubectl takes, and no others."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3.util.ssl_

from minerwatch.kube.client import ApiError, Cluster, from_kubeconfig, in_cluster
from minerwatch.kube.pod_exec import Container, output
from tests.kube.api_server import ApiServer
from tests.kube.certificates import GOOD, ODD, WRONG, Certificates, made
from tests.kube.conftest import needs_openssl, pod_environment, write_kubeconfig
from tests.kube.exec_endpoint import Printing

pytestmark = needs_openssl


@pytest.fixture(autouse=True)
def as_under_python_3_13(monkeypatch: pytest.MonkeyPatch) -> None:
    """From then on urllib3 verifies strictly by itself; here on every version."""
    newer = types.SimpleNamespace(version_info=(3, 13))
    monkeypatch.setattr(urllib3.util.ssl_, "sys", newer)


@pytest.fixture
def certificates(request: pytest.FixtureRequest, tmp_path: Path) -> Certificates:
    folder = tmp_path / "certificates"
    folder.mkdir()
    return made(folder, request.param)


@pytest.fixture
def server(certificates: Certificates) -> Iterator[ApiServer]:
    with ApiServer(certificates.server) as server:
        server.tokens = {"first"}
        server.runs("ns", "p", Printing(b"ok"))
        yield server


@pytest.fixture
def agents(server: ApiServer, certificates: Certificates, tmp_path: Path) -> Iterator[Cluster]:
    """The cluster as an agent opens it."""
    (tmp_path / "token").write_text("first")
    (tmp_path / "ca.crt").write_bytes(certificates.authority.read_bytes())
    opened = in_cluster(tmp_path, pod_environment(server))
    yield opened
    opened.close()


@pytest.fixture
def persons(server: ApiServer, certificates: Certificates, tmp_path: Path) -> Iterator[Cluster]:
    """The cluster as a command opens it on a laptop."""
    path = tmp_path / "config"
    opened = from_kubeconfig(write_kubeconfig(path, server.url, "first", certificates.authority))
    yield opened
    opened.close()


def any_of(kinds: tuple[str, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("certificates", kinds, indirect=True)


@any_of((*GOOD, *ODD))
def test_a_server_that_kubectl_takes(agents: Cluster, persons: Cluster) -> None:
    for cluster in (agents, persons):
        cluster.call("GET", "/api/v1/pods")
        assert output(cluster, Container("ns", "p", "agent"), ["x"], timeout_s=10) == b"ok"


@any_of(WRONG)
def test_any_other_is_refused(server: ApiServer, agents: Cluster, persons: Cluster) -> None:
    for cluster in (agents, persons):
        with pytest.raises(ApiError, match="certificate verify failed") as caught:
            cluster.call("GET", "/api/v1/pods")
        assert caught.value.reason == "connection"
        with pytest.raises(ApiError, match="certificate verify failed"):
            output(cluster, Container("ns", "p", "agent"), ["x"], timeout_s=10)
    assert server.requests == []


@any_of(ODD)
def test_the_odd_ones_are_refused_where_verification_is_strict(
    certificates: Certificates, server: ApiServer
) -> None:
    """Else the tests above would prove nothing."""
    context = urllib3.util.ssl_.create_urllib3_context()
    assert context.verify_flags & ssl.VERIFY_X509_STRICT
    with (
        urllib3.PoolManager(ssl_context=context, ca_certs=str(certificates.authority)) as manager,
        pytest.raises(urllib3.exceptions.SSLError, match="certificate verify failed"),
    ):
        manager.request("GET", server.url, retries=False)


ASKS = """
import json, ssl, sys
from minerwatch.kube.client import from_kubeconfig
from minerwatch.kube.pod_exec import Container, output
assert ssl.create_default_context().verify_flags & ssl.VERIFY_X509_STRICT
answers = []
for kubeconfig in sys.argv[1:]:
    cluster = from_kubeconfig(kubeconfig)
    cluster.call("GET", "/api/v1/pods")
    answers.append(output(cluster, Container("ns", "p", "agent"), ["x"], timeout_s=10).decode())
print(json.dumps(answers))
"""
NEEDS = ("kubernetes", "msgspec", "pyyaml", "urllib3", "websocket-client")


@pytest.mark.nightly  # installs packages
def test_under_a_python_that_is_strict_by_itself(tmp_path: Path) -> None:
    """The image's is one; make image-test asks by that."""
    python = _strict_python(tmp_path / "python")
    kubeconfigs, servers = [], []
    try:
        for number, kind in enumerate(ODD):
            folder = tmp_path / str(number)
            folder.mkdir()
            certificates = made(folder, kind)
            servers.append(ApiServer(certificates.server))
            servers[-1].runs("ns", "p", Printing(b"ok"))
            url, authority = servers[-1].url, certificates.authority
            kubeconfigs.append(write_kubeconfig(folder / "config", url, "first", authority))
        root = Path(__file__).parents[2]
        done = subprocess.run(
            [python, "-c", ASKS, *kubeconfigs],
            env={**os.environ, "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        for server in servers:
            server.close()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["ok"] * len(ODD)


def _strict_python(folder: Path) -> Path:
    """A Python from 3.13 on with what asking a cluster needs; skips the test where it has none."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path("~/.pyenv").expanduser())
    found = [
        *(shutil.which(f"python3.{minor}") for minor in (13, 14)),
        *map(str, pyenv.glob("versions/3.1[3-9]*/bin/python3")),
    ]
    is_strict = "import sys; sys.exit(sys.version_info < (3, 13))"
    for python in filter(None, (sys.executable, *found)):
        asked = subprocess.run([python, "-c", is_strict], capture_output=True, check=False)
        if asked.returncode == 0:
            break
    else:
        pytest.skip("needs a Python from 3.13 on beside this one: apt install python3.13, or pyenv")
    subprocess.run([python, "-m", "venv", "--without-pip", folder], check=True)
    uv, target = Path(sys.executable).with_name("uv"), folder / "bin" / "python"
    install = [str(uv), "pip", "install", "--quiet", "--python", str(target), *NEEDS]
    done = subprocess.run(install, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("installs packages for that Python: run it where a registry can be reached")
    return target
