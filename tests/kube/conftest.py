"""An API server, and clusters opened as the agent and as a person would."""

from __future__ import annotations

import base64
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from minerwatch.kube.client import Cluster, from_kubeconfig, in_cluster
from tests.kube.any_cluster import KUBECONFIG, AnyCluster, needs_real_cluster, own_namespace
from tests.kube.api_server import ApiServer

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="makes a certificate: apt install openssl"
)


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as server:
        yield server


@pytest.fixture
def kubeconfig(api: ApiServer, tmp_path: Path) -> Path:
    """Says how ``api`` is reached, with the token "first"."""
    return write_kubeconfig(tmp_path / "config", api.url, "first")


@pytest.fixture
def cluster(kubeconfig: Path) -> Iterator[Cluster]:
    opened = from_kubeconfig(kubeconfig)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


def make_certificate(folder: Path) -> Path:
    """A key and a certificate for 127.0.0.1 in one file; it is its own authority."""
    path = folder / "server.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2"),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", path, "-out", path.with_suffix(".crt")),
        ],
        check=True,
        capture_output=True,
    )
    path.write_bytes(path.read_bytes() + path.with_suffix(".crt").read_bytes())
    return path


@pytest.fixture
def tls_api(certificate: Path) -> Iterator[ApiServer]:
    with ApiServer(certificate) as server:
        yield server


@pytest.fixture
def service_account(tls_api: ApiServer, certificate: Path, tmp_path: Path) -> Path:
    """What the kubelet mounts into a pod, with the token "first"."""
    (tmp_path / "token").write_text("first\n")
    (tmp_path / "namespace").write_text("minerwatch")
    (tmp_path / "ca.crt").write_bytes(certificate.with_suffix(".crt").read_bytes())
    return tmp_path


@pytest.fixture
def pod_cluster(tls_api: ApiServer, service_account: Path) -> Iterator[Cluster]:
    """The cluster as a pod sees it."""
    opened = in_cluster(service_account, pod_environment(tls_api))
    yield opened
    opened.close()


@pytest.fixture(params=["own", pytest.param("real", marks=needs_real_cluster)])
def any_cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AnyCluster]:
    if request.param == "real":
        with own_namespace(Path(KUBECONFIG), is_real=True) as cluster:
            yield cluster
        return
    with ApiServer() as server:
        kubeconfig = write_kubeconfig(tmp_path / "admin", server.url, "admin")
        with own_namespace(kubeconfig, is_real=False) as cluster:
            yield cluster


def pod_environment(server: ApiServer) -> dict[str, str]:
    """What the kubelet tells a pod about ``server``."""
    host, _, port = server.url.rpartition("/")[2].partition(":")
    return {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}


def write_kubeconfig(path: Path, url: str, token: str, authority: Path | None = None) -> Path:
    trusted = base64.b64encode(authority.read_bytes()).decode() if authority else ""
    path.write_text(f"""
apiVersion: v1
kind: Config
clusters:
  - name: here
    cluster: {{server: "{url}", certificate-authority-data: "{trusted}"}}
users:
  - {{name: me, user: {{token: "{token}"}}}}
contexts:
  - {{name: lab, context: {{cluster: here, user: me}}}}
  - {{name: hub, context: {{cluster: here, user: me, namespace: jupyter}}}}
current-context: lab
""")
    return path
