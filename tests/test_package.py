"""What users install: the wheel, in an environment of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from generate.man_pages import pages
from minerwatch import __version__
from minerwatch.cli.extra import AGENT_MODULES
from minerwatch.config.schema import BUILT_IN_RULES
from tests.stub_agent import stub_agent

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the source archive, and the wheel from that, as `make wheel` and a release do."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_carries_the_rules_and_nothing_that_is_not_to_be_shipped(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in BUILT_IN_RULES.rglob("*"):
        if path.is_file():
            assert f"minerwatch/built_in_rules/{path.relative_to(BUILT_IN_RULES)}" in names
    assert "minerwatch/py.typed" in names
    assert not [name for name in names if name.startswith(("tests", "benchmarks"))]


def test_the_wheel_carries_the_man_page_of_each_command(wheel: Path, tmp_path: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    shared = f"minerwatch-{__version__}.data/data/share/man/man1"
    found = {
        Path(each).stem: archive.read(each).decode()
        for each in archive.namelist()
        if each.startswith(shared)
    }
    assert found == pages(), "run: make generate"
    if shutil.which("man") is None:
        pytest.skip("man is missing: apt-get install man-db")
    archive.extractall(tmp_path)
    shown = subprocess.run(
        ["man", "-M", str(tmp_path / shared).removesuffix("/man1"), "minerwatch-top"],
        env={**os.environ, "MANPAGER": "cat", "MANROFFOPT": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "MINERWATCH-TOP(1)" in shown.stdout.upper(), shown.stderr


def test_the_version_stands_in_one_place(wheel: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["dynamic"] == ["version"]
    assert wheel.name.startswith(f"minerwatch-{__version__}-")


def _installed(wheel: Path, extra: str, folder: Path) -> Callable[..., CompletedProcess[str]]:
    """Return a function that runs a program of an environment that has only the wheel."""
    venv.create(folder / "env", with_pip=False)
    programs = folder / "env" / "bin"
    installed = subprocess.run(
        [
            *(sys.executable, "-m", "uv", "pip", "install", "--quiet"),
            *("--python", programs / "python", f"{wheel}{extra}"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if installed.returncode:
        pytest.skip(f"run it where its dependencies can be installed: {installed.stderr[-300:]}")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*command: str) -> CompletedProcess[str]:
        return subprocess.run(
            [programs / command[0], *command[1:]],
            cwd=folder, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


def _output(done: CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.nightly
def test_the_wheel_runs_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    run = _installed(wheel, "[agent]", tmp_path)
    assert __version__ in _output(run("minerwatch", "version"))
    assert __version__ in _output(run("kubectl-minerwatch", "version"))
    assert "XMRig" in _output(run("minerwatch", "rules", "list"))
    _output(run("minerwatch", "rules", "test"))
    assert __version__ in _output(run("python", "-m", "minerwatch", "version"))
    _output(run("minerwatch", "top", "--once", "--local"))


@pytest.mark.nightly
def test_the_wheel_alone_is_the_client(wheel: Path, tmp_path: Path) -> None:
    run = _installed(wheel, "", tmp_path)
    names = ", ".join(map(repr, sorted(AGENT_MODULES)))
    find = f"from importlib.util import find_spec; print([*filter(find_spec, [{names}])])"
    assert _output(run("python", "-c", find)) == "[]\n"
    for command in ((), ("top",), ("explain",), ("agent",), ("status",), ("cull",)):
        assert "Usage: " in _output(run("minerwatch", *command, "--help"))
    with stub_agent(tmp_path / "agent.sock") as socket:
        assert "notebook" in _output(run("minerwatch", "top", "--once", "--socket", str(socket)))
        target = "binder/jupyter-example-2dmallory-2dnotebooks-2d0011"
        explained = run("minerwatch", "explain", target, "--socket", str(socket))
        assert "XMRig" in _output(explained)
    refused = run("minerwatch", "agent", "--no-kubernetes")
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "pip install 'minerwatch[agent]'" in refused.stderr
