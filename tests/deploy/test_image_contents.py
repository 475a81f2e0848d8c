"""What is left out of the image: nothing that minerwatch imports, and nothing that is not there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
from importlib.metadata import distribution
from pathlib import Path

import pytest

from deploy.image.contents import Contents, contents, matches, unused
from deploy.image.debian import broken_links, missing_libraries
from deploy.image.trim import stale, trim
from tests.deploy.services import DEPLOY
from tests.kube.api_server import ApiServer, pod_json
from tests.kube.conftest import write_kubeconfig

_SITE_PACKAGES = Path(sysconfig.get_path("purelib"))
_RULE = DEPLOY.parent / "rules" / "compute" / "randomx_for_half_an_hour.yml"  # needs no lists
_OF_PYTHON = re.compile(r"/python3\.\d+/(?:lib-dynload/)?(\w+)")
_REMAINS = """
import importlib, json, pkgutil, sys
from importlib.abc import MetaPathFinder

without = json.loads(sys.argv[1])

class Removed(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in without or name.partition(".")[0] in without:
            raise ModuleNotFoundError(f"the image has no {name}", name=name)

sys.meta_path.insert(0, Removed())
import minerwatch
for module in pkgutil.walk_packages(minerwatch.__path__, "minerwatch."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)

from pathlib import Path
from minerwatch.detection.sigma import rulebook
from sigma.validators.core import metadata, modifiers, tags, values  # as `rules lint` does
from minerwatch.kube.client import from_kubeconfig
from rich.console import Console
from rich.traceback import Traceback

assert not rulebook.load([Path(sys.argv[3])]).errors
cluster = from_kubeconfig(sys.argv[2])
pods = json.loads(cluster.call("GET", "/api/v1/pods"))
print([pod["metadata"]["name"] for pod in pods["items"]])
cluster.close()
from kubernetes.stream.ws_client import websocket_proxycare  # as minerwatch.kube.pod_exec does
try:
    raise OSError("shown in colours")
except OSError:
    Console(file=open("/dev/null", "w"), force_terminal=True).print(Traceback())
print(sorted(set(without) & set(sys.modules)))
"""


@pytest.mark.nightly
def test_nothing_that_is_left_out_is_missed(tmp_path: Path) -> None:
    """Every module is imported, rules and a cluster are read, a failure is shown, without it."""
    with ApiServer() as api:
        api.put(pod_json("a"))
        kubeconfig = write_kubeconfig(tmp_path / "config", api.url, "first")
        arguments = (json.dumps(sorted(_removed())), str(kubeconfig), str(_RULE))
        done = subprocess.run(
            [sys.executable, "-c", _REMAINS, *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "['a']\n[]\n"


def _removed() -> set[str]:
    """The modules, by name, that are here and not in the image."""
    wanted = contents()
    files = [
        str(file)
        for name in wanted.distributions_without
        for file in distribution(name).files or ()
    ]
    without = {name.removesuffix("/__init__.py") for name in files if name.count("/") == 1}
    assert {"aiohttp", "attr", "yarl"} <= without
    without |= {found[1] for each in wanted.debian_without if (found := _OF_PYTHON.search(each))}
    assert {"pydoc_data", "_curses", "test"} <= without
    folders = {pattern.partition("/")[0] for pattern in wanted.python_without}
    for path in (path for folder in folders for path in (_SITE_PACKAGES / folder).rglob("*.py")):
        name = str(path.relative_to(_SITE_PACKAGES))
        if matches(name, wanted.python_without) and not matches(name, wanted.python_kept):
            without.add(name.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    assert "kubernetes.client.api.core_v1_api" in without
    return without


def test_each_name_and_pattern_stands_for_something() -> None:
    assert not stale(contents(), _SITE_PACKAGES)


@pytest.fixture
def site_packages(tmp_path: Path) -> Path:
    for name in ("used/__init__.py", "used/demo/a.py", "used/demo/b.py", "Un_Used/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    info = tmp_path / "Un_Used-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: Un_Used\nVersion: 1.0\n")
    (info / "RECORD").write_text(
        "Un_Used/__init__.py,,\nUn_Used-1.0.dist-info/METADATA,,\nUn_Used-1.0.dist-info/RECORD,,\n"
    )
    return tmp_path


def _only(**python: dict[str, str]) -> Contents:
    nothing: dict[str, str] = {}
    return Contents(
        largest_mb=1, debian_packages=nothing, debian_files=nothing, debian_without=nothing,
        distributions_without=python.get("distributions", nothing),
        python_without=python.get("without", nothing), python_kept=python.get("kept", nothing),
        programs=nothing,
    )  # fmt: skip


def test_trimming_takes_files_distributions_and_empty_folders(site_packages: Path) -> None:
    wanted = _only(
        distributions={"un-used": "-"}, without={"used/demo/*": "-"}, kept={"used/demo/b.py": "-"}
    )
    assert not stale(wanted, site_packages)
    trim(wanted, site_packages)
    left = {str(path.relative_to(site_packages)) for path in site_packages.rglob("*")}
    assert left == {"used", "used/__init__.py", "used/demo", "used/demo/b.py"}


def test_what_is_gone_already_is_told(site_packages: Path) -> None:
    wanted = _only(distributions={"gone": "-"}, without={"used/none/*": "-"})
    assert stale(wanted, site_packages) == ["not installed: gone", "matches nothing: used/none/*"]


def test_patterns() -> None:
    assert matches("a/b/c.py", ["a/*.py"])
    assert not matches("b/a/c.py", ["a/*.py"])
    assert unused(["a/*", "b/*"], ["a/b/c"]) == ["b/*"]


def test_a_root_that_lacks_something_is_not_whole(tmp_path: Path) -> None:
    (tmp_path / "python").write_bytes(Path(sys.executable).read_bytes())
    (tmp_path / "absolute").symlink_to("/python")
    (tmp_path / "broken").symlink_to("/gone")
    assert broken_links(tmp_path) == ["/broken leads to nothing: /gone"]
    assert any(line.startswith("/python needs libc.so.6") for line in missing_libraries(tmp_path))
