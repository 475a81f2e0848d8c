"""A tag is released only if package, chart, changelog and repository agree with it."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from generate import release
from generate.names import ROOT, names
from generate.pypi_readme import readme
from generate.release import faults, notes
from minerwatch import __version__

_FILES = (
    "CHANGELOG.md",
    "pyproject.toml",
    "minerwatch/__init__.py",
    "deploy/helm/minerwatch/Chart.yaml",
)
TAG = f"v{__version__}"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in _FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    changelog = tmp_path / "CHANGELOG.md"
    section = f"## {__version__} (2026-12-01)\n\n- One thing.\n\n## 0.0.1\n\n- Older.\n"
    changelog.write_text(f"# Changelog\n\n## Unreleased\n\n- Later.\n\n{section}")
    return tmp_path


def test_a_release_has_the_notes_of_its_section(checkout: Path) -> None:
    assert faults(TAG, names()["repository"], checkout) == []
    text = notes(TAG, checkout)
    assert text.startswith("- One thing.\n")
    assert "Later" not in text
    assert "Older" not in text
    assert f"oci://{names()['charts']}/minerwatch --version {__version__}" in text


@pytest.mark.parametrize(
    ("tag", "repository", "reason"),
    [
        (__version__, None, "invalid tag"),
        ("v9.9.9", None, "Chart.yaml has version"),
        ("v9.9.9", None, "__init__.py has version"),
        ("v9.9.9", None, "no section '## 9.9.9'"),
        (TAG, "https://github.com/example/fork", "python -m generate.names --repository"),
    ],
)
def test_what_does_not_agree_is_named(
    checkout: Path, tag: str, repository: str | None, reason: str
) -> None:
    assert any(reason in fault for fault in faults(tag, repository, checkout))


def test_a_wrong_tag_prints_no_notes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["release", "v9.9.9"])
    assert release.main() == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "change the file" in printed.err


def test_the_chart_has_the_version_of_the_package() -> None:
    assert [fault for fault in faults(TAG, None) if "CHANGELOG" not in fault] == []


@pytest.mark.parametrize(
    "name", ["README.md", "docs/hosts.md", "deploy/podman/minerwatch.container"]
)
def test_an_image_that_a_page_names_is_one_that_a_release_pushes(name: str) -> None:
    named = re.findall(rf"{re.escape(names()['image'])}:(\S+)", (ROOT / name).read_text())
    assert named
    assert set(named) == {__version__}
    workflow = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    assert re.findall(r"imagetools create --tag (\S+)", workflow) == ['"$IMAGE:$VERSION"']


def test_the_chart_tells_artifact_hub_the_image_that_it_installs() -> None:
    chart = yaml.safe_load((ROOT / "deploy" / "helm" / "minerwatch" / "Chart.yaml").read_text())
    (image,) = yaml.safe_load(chart["annotations"]["artifacthub.io/images"])
    assert image["image"] == f"{names()['image']}:{__version__}"
    for each in (
        *yaml.safe_load(chart["annotations"]["artifacthub.io/links"]),
        *chart["maintainers"],
    ):
        prefix = names()["repository"] + "/"
        assert each["url"].startswith(prefix)
        _, is_page, path = each["url"].partition("/blob/main/")
        assert not is_page or (ROOT / path).is_file()
    icon = chart["icon"].removeprefix(f"{names()['repository']}/raw/main/")
    assert (ROOT / icon).is_file()


def test_the_page_on_pypi_links_to_the_repository_at_the_tag() -> None:
    here, there = ((ROOT / "README.md").read_text(), readme(TAG))
    links = re.findall(r"\]\(([^)#\s]+)", there)
    assert len(links) == len(re.findall(r"\]\(([^)#\s]+)", here))
    for link in links:
        assert link.startswith("https://"), link
        _, is_ours, path = link.partition(f"{names()['repository']}/")
        kind, _, file = path.partition(f"/{TAG}/")
        assert not is_ours or (ROOT / file).exists(), link
        assert (kind == "raw") == link.endswith(".svg"), link
