"""The image itself, where it has been built: `make image-test` does both."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import canonicalize_name

from deploy.image.contents import contents
from deploy.image.debian import STATUS, broken_links
from generate.names import names
from tests.agent.test_tick import POOL
from tests.conftest import TOP, CgroupFolders, Programs, container_id
from tests.deploy.chart import VALUES, Release, rendered
from tests.deploy.container import AgentContainer, Root, built_root, needs_runc
from tests.deploy.services import DEPLOY
from tests.deploy.test_image import locked_versions
from tests.kube import certificates
from tests.kube.api_server import ApiServer, pod_json
from tests.kube.certificates import ODD
from tests.kube.conftest import needs_openssl, write_kubeconfig
from tests.waiting import PATIENCE_S

_BILL = "opt/minerwatch/share/minerwatch/sbom.cdx.json"
_ID = container_id("b7")
_IMPORTS = """
import importlib, importlib.util, os, pkgutil, sys
import minerwatch
for module in pkgutil.walk_packages(minerwatch.__path__, "minerwatch."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
import kubernetes, sigma.rule
files = {getattr(module, "__file__", None) or "" for module in list(sys.modules.values())}
sources = sorted(file for file in files if file.endswith(".py"))
print([file for file in sources if not os.path.exists(importlib.util.cache_from_source(file))])
"""
_ASKS = """
import json, pathlib, sys
from minerwatch.kube.client import from_kubeconfig
file = pathlib.Path("/tmp/minerwatch-test-kubeconfig")
file.write_text(sys.argv[1])
try:
    pods = from_kubeconfig(file).call("GET", "/api/v1/pods")
finally:
    file.unlink()
print([pod["metadata"]["name"] for pod in json.loads(pods)["items"]])
"""


@pytest.fixture(scope="module")
def image() -> Root:
    root = built_root()
    if root is None:
        pytest.skip("the image has not been built: make image-test")
    return root


@pytest.fixture(scope="module")
def agent(image: Root, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentContainer]:
    """As the chart runs it, without a cluster."""
    needs_runc()
    (default,) = (path for path in VALUES if path.stem == "default")
    release = Release(
        rendered(
            *("-f", str(default), "--set=port=19797", "--set=config.interval=500ms"),
            "--set=config.kubernetes.enabled=false",
        )
    )
    with closing(AgentContainer(tmp_path_factory.mktemp("pod"), image, release)) as running:
        running.line("watching")
        yield running


@pytest.fixture
def miner(cgroups: CgroupFolders, programs: Programs) -> int:
    process = programs.start("xmrig", *POOL, busy=True)
    cgroups.put(process, cgroups.make(f"{TOP}/docker/{_ID}"))
    return process.pid


def test_its_size(image: Root) -> None:
    """What `du` says, and the same on each file system: the bytes of the files, in whole blocks."""
    files = [path.lstat() for path in image.folder.rglob("*")]
    total = sum(-(-each.st_size // 4096) * 4096 for each in files if stat.S_ISREG(each.st_mode))
    assert total / 1e6 <= contents().largest_mb


def test_it_says_what_it_is_and_starts_the_program_as_nobody(image: Root) -> None:
    """The labels that registries show, after the build; a release adds version and revision."""
    inspected = image.folder.parent / "config.json"
    if not inspected.is_file():
        pytest.skip("the image's configuration is not beside its root: make image-test")
    config = json.loads(inspected.read_text())["OCIv1"]["config"]
    labels = config["Labels"]
    prefix = "org.opencontainers.image."
    assert labels[f"{prefix}title"] == "minerwatch"
    assert labels[f"{prefix}source"] == labels[f"{prefix}url"] == names()["repository"]
    assert labels[f"{prefix}documentation"].startswith(names()["repository"])
    assert labels[f"{prefix}licenses"] == "Apache-2.0"
    assert {f"{prefix}description", f"{prefix}vendor"} <= labels.keys()
    assert (config["User"], config["Entrypoint"]) == ("65534:65534", ["minerwatch"])


def test_there_is_nothing_to_start_but_python_and_minerwatch(image: Root) -> None:
    found = {
        str(path.relative_to(image.folder))
        for folder in ("usr/bin", "usr/sbin", "usr/local", "opt/minerwatch/bin", "usr/libexec")
        for path in (image.folder / folder).rglob("*")
    }
    assert found == {
        *("usr/bin/python3", "usr/bin/python3.13"),
        *(f"opt/minerwatch/bin/{name}" for name in ("kubectl-minerwatch", "minerwatch")),
        *(f"opt/minerwatch/bin/{name}" for name in ("python", "python3", "python3.13")),
    }
    site_packages = next((image.folder / "opt/minerwatch/lib").glob("python3*/site-packages"))
    assert not {"pip", "setuptools", "wheel", "aiohttp"} & {p.name for p in site_packages.iterdir()}


def test_nobody_gains_rights_by_it(image: Root) -> None:
    for path in image.folder.rglob("*"):
        mode = path.lstat().st_mode
        assert not mode & (stat.S_ISUID | stat.S_ISGID), path
        is_open = mode & stat.S_IWOTH and not stat.S_ISLNK(mode) and not mode & stat.S_ISVTX
        assert not is_open, path


def test_every_link_leads_somewhere(image: Root) -> None:
    assert not broken_links(image.folder)


def test_nothing_has_to_be_compiled_when_it_starts(image: Root) -> None:
    """Its root is read-only, so what is compiled then is compiled each time."""
    done = _python_in(image, "-c", _IMPORTS)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"


def test_the_authorities_are_found(image: Root) -> None:
    script = "import ssl; print(len(ssl.create_default_context().get_ca_certs()))"
    assert int(_python_in(image, "-c", script).stdout) > 100


def test_the_bill_has_every_package_of_the_lock(image: Root) -> None:
    """As it is installed; but those that contents.toml leaves out, with the reason."""
    bill = _bill(image)
    found = {canonicalize_name(each["name"]): each for each in _of_kind("pkg:pypi/", bill)}
    locked = locked_versions(DEPLOY / "requirements.lock")
    wanted = {name: str(locked[name]) for name in locked}
    for name in contents().distributions_without:
        del wanted[canonicalize_name(name)]
    assert {name: each["version"] for name, each in found.items()} == wanted
    unlicensed = {name for name, each in found.items() if not each.get("licenses")}
    assert unlicensed <= {"pyahocorasick"}, "its metadata names none in a form that can be read"
    assert bill["metadata"]["component"]["name"] == "minerwatch"


def test_the_bill_has_every_package_of_debian(image: Root) -> None:
    found = {each["name"]: each for each in _of_kind("pkg:deb/", _bill(image))}
    assert set(found) == set(contents().debian_packages)
    assert {path.name for path in (image.folder / STATUS).iterdir()} == set(found)
    for name in found:
        assert (image.folder / "usr/share/doc" / name / "copyright").is_file()


def test_a_cluster_is_read(image: Root, tmp_path: Path) -> None:
    """By the client that is left of the official one."""
    with ApiServer() as api:
        api.put(pod_json("a"))
        kubeconfig = write_kubeconfig(tmp_path / "config", api.url, "first").read_text()
        done = _python_in(image, "-c", _ASKS, kubeconfig)
    assert done.stdout == "['a']\n", done.stderr


@needs_openssl
@pytest.mark.parametrize("kind", ODD)
def test_a_clusters_odd_certificates_are_verified(image: Root, tmp_path: Path, kind: str) -> None:
    """By the image's own Python, which is strict by default."""
    made = certificates.made(tmp_path, kind)
    with ApiServer(made.server) as api:
        api.put(pod_json("a"))
        path = write_kubeconfig(tmp_path / "config", api.url, "first", made.authority)
        done = _python_in(image, "-c", _ASKS, path.read_text())
    assert done.stdout == "['a']\n", done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["version"], 0, "minerwatch"),
        (["top", "--once"], 0, "ID"),
        (["explain", "ID"], 0, "xmrig"),
        (["rules", "list"], 0, "Title"),
        (["rules", "lint", "--strict"], 0, "0 errors"),
        (["rules", "test"], 0, "0 failed"),
        (["cull", "ID", "--action", "stop", "--dry-run"], 1, "not"),
    ],
)
def test_its_commands(
    agent: AgentContainer, miner: int, arguments: list[str], code: int, words: str
) -> None:
    """``ID``: the container's, which is another in each worker that collects this test."""
    agent.until(lambda: any(each.container_id == _ID for each in agent.statuses()))
    done = agent.execute(agent.program, *(each.replace("ID", _ID[:12]) for each in arguments))
    assert done.returncode == code, done.stdout + done.stderr
    assert words.replace("ID", _ID[:12]) in done.stdout + done.stderr


def test_its_screen(agent: AgentContainer, miner: int) -> None:
    """On a terminal of `kubectl exec -it`."""
    agent.until(lambda: any(each.container_id == _ID for each in agent.statuses()))
    ours, theirs = pty.openpty()
    command = ("--tty", "--env", "TERM=xterm-256color", agent.name, agent.program, "top")
    with closing(os.fdopen(ours, "r+b", buffering=0)) as terminal:
        process = subprocess.Popen(
            ["runc", "exec", *command],
            stdin=theirs, stdout=theirs, stderr=theirs,
        )  # fmt: skip
        os.close(theirs)
        shown, end_s = b"", time.monotonic() + PATIENCE_S
        while _ID[:12].encode() not in shown:
            assert time.monotonic() < end_s, shown[-2000:]
            if select.select([terminal], [], [], 1.0)[0]:
                shown += terminal.read(65536)
        terminal.write(b"q")
        while process.poll() is None:
            assert time.monotonic() < end_s
            if select.select([terminal], [], [], 0.2)[0] and process.poll() is None:
                _read_rest(terminal)
    assert process.returncode == 0


def _read_rest(terminal: Any) -> None:
    try:
        terminal.read(65536)
    except OSError:  # the other end is closed
        time.sleep(0.05)


def _bill(image: Root) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((image.folder / _BILL).read_text())
    return read


def _of_kind(prefix: str, bill: dict[str, Any]) -> list[dict[str, Any]]:
    return [each for each in bill["components"] if re.match(prefix, each["purl"])]


def _python_in(image: Root, *arguments: str) -> subprocess.CompletedProcess[str]:
    if os.geteuid() != 0:
        pytest.skip("changes its root: run it as root")
    python = str(Path(image.program).with_name("python3"))
    environment = {"PATH": image.path, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [shutil.which("chroot") or "chroot", str(image.folder), python, *arguments],
        capture_output=True, text=True, check=False, env={**environment, "HOME": "/root"},
    )  # fmt: skip
