"""Addresses of publication stand in pyproject.toml; a fork renames all of them by one command."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from generate.__main__ import found_program
from generate.names import ROOT, names, rename

_FORK = {
    "repository": "https://git.example.org/team/watch",
    "image": "registry.example.org:5000/team/watch",
    "charts": "registry.example.org:5000/team/charts",
}
_OURS = re.compile(
    r"https://github\.com/minerwatch/|ghcr\.io/minerwatch|(?<![\w/])minerwatch/minerwatch:[\w.]+|docker\.io/minerwatch"
)


def _listed(root: Path) -> list[str]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout: run it in a clone")
    return [name for name in done.stdout.decode().split("\0") if name]


@pytest.fixture(scope="module")
def fork(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fork")
    for name in _listed(ROOT):
        if not name.startswith("tests/fuzz/corpus/") and (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    for command in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    assert rename(_FORK, root)
    return root


@pytest.mark.nightly
def test_a_fork_is_renamed_everywhere(fork: Path) -> None:
    assert names(fork) == _FORK
    left = [
        f"{name}: {found[0]}"
        for name in _listed(fork)
        if name not in ("CHANGELOG.md", "tests/test_names.py")
        for found in _OURS.finditer((fork / name).read_text(encoding="utf-8", errors="replace"))
    ]
    assert left == []


def test_the_chart_of_a_fork_has_its_image_and_pages(fork: Path) -> None:
    helm = found_program("helm")
    if helm is None:
        pytest.skip("helm is missing: make helm")
    chart = fork / "deploy" / "helm" / "minerwatch"
    done = subprocess.run(
        [helm, "template", "x", str(chart), "--set=prometheusRule.enabled=true"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    objects = [each for each in yaml.load_all(done.stdout, yaml.CSafeLoader) if each]
    (agent,) = (each for each in objects if each["kind"] == "DaemonSet")
    (container,) = agent["spec"]["template"]["spec"]["containers"]
    assert container["image"].startswith(_FORK["image"] + ":")
    assert _FORK["repository"] + "/blob/main/docs/" in done.stdout
    assert "github.com" not in done.stdout


def test_each_address_of_the_project_is_below_its_repository() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for url in project["urls"].values():
        assert url.startswith(names()["repository"])
