"""The Dockerfile and its locks, as far as they can be read; `make image-test` builds it, too."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

from tests.deploy.services import DEPLOY

_ROOT = DEPLOY.parent
_DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
_PROJECT = tomllib.loads((_ROOT / "pyproject.toml").read_text())
_RENEW = "run: make lock"


def _stages() -> list[str]:
    return re.split(r"^FROM ", _DOCKERFILE, flags=re.MULTILINE)[1:]


def test_the_base_is_pinned_by_digest_and_the_same_in_all_stages() -> None:
    (base,) = re.findall(r"^ARG BASE=(\S+)$", _DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"docker\.io/library/debian:[a-z]+-slim@sha256:[0-9a-f]{64}", base)
    assert {stage.split()[0] for stage in _stages()} == {"${BASE}"}


def test_the_last_stage_has_no_compiler_and_no_package_manager_for_python() -> None:
    last = _stages()[-1]
    installed = re.search(r"--no-install-recommends ([^\n\\]+)", last)
    assert installed is not None
    assert installed[1].split() == ["ca-certificates", "libbpf1", "python3"]
    assert "pip" not in last


def test_nothing_is_installed_without_a_hash() -> None:
    commands = re.findall(r"pip --python \S+ install (.*?)(?:&&|\n(?! ))", _DOCKERFILE, re.DOTALL)
    assert len(commands) == 3
    for command in commands:
        assert "--require-hashes" in command or "--no-index" in command


def test_it_runs_as_nobody_unless_told_otherwise() -> None:
    last = _stages()[-1]
    assert "\nUSER 65534:65534\n" in last
    assert '\nENTRYPOINT ["minerwatch"]\n' in last


def test_what_the_dockerfile_copies_is_in_the_build_context() -> None:
    admitted = {
        line[1:] for line in (_ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", _DOCKERFILE, re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    assert names == admitted
    assert all((_ROOT / name).exists() for name in names)


def test_the_lock_has_all_that_the_project_needs() -> None:
    locked = _locked(DEPLOY / "requirements.lock")
    for text in _PROJECT["project"]["dependencies"]:
        needed = Requirement(text)
        name = canonicalize_name(needed.name)
        assert name in locked, f"{name}: {_RENEW}"
        assert locked[name] in needed.specifier, f"{name}: {_RENEW}"


def test_the_lock_has_all_that_a_build_needs() -> None:
    locked = _locked(DEPLOY / "build.lock")
    for text in (*_PROJECT["build-system"]["requires"], "build"):
        needed = Requirement(text)
        assert locked[canonicalize_name(needed.name)] in needed.specifier, _RENEW


def _locked(path: Path) -> dict[NormalizedName, Version]:
    """Name -> version; each has hashes."""
    entries = re.split(r"\n(?=\S)", path.read_text().strip())
    found = {}
    for entry in entries:
        name, version = re.match(r"([\w.-]+)==([^ ;]+)", entry).groups()  # type: ignore[union-attr]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), name
        found[canonicalize_name(name)] = Version(version)
    return found
