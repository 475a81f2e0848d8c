"""What users install: the wheel, in an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from minerwatch import __version__
from minerwatch.config.schema import BUILT_IN_RULES

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
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


def test_the_version_stands_in_one_place(wheel: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["dynamic"] == ["version"]
    assert wheel.name.startswith(f"minerwatch-{__version__}-")


def test_the_wheel_runs_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=False)
    programs = tmp_path / "env" / "bin"
    installed = subprocess.run(
        [
            *(sys.executable, "-m", "uv", "pip", "install", "--quiet"),
            *("--python", programs / "python", wheel),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if installed.returncode:
        pytest.skip(f"its dependencies cannot be installed here: {installed.stderr[-300:]}")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*command: str) -> str:
        done = subprocess.run(
            [programs / command[0], *command[1:]],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert __version__ in run("minerwatch", "version")
    assert __version__ in run("kubectl-minerwatch", "version")
    assert "XMRig" in run("minerwatch", "rules", "list")
    run("minerwatch", "rules", "test")
    assert __version__ in run("python", "-m", "minerwatch", "version")
    run("minerwatch", "top", "--once", "--local")
