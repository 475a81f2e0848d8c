"""The Dockerfile and its locks, as far as they can be read; `make image-test` builds it, too."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

from deploy.image.contents import contents
from tests.deploy.services import DEPLOY

_ROOT = DEPLOY.parent
_DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
_PROJECT = tomllib.loads((_ROOT / "pyproject.toml").read_text())
_RENEW = "run: make lock"


def _stages() -> list[str]:
    return re.split(r"^FROM ", _DOCKERFILE, flags=re.MULTILINE)[1:]


def test_the_base_is_pinned_by_digest_and_nothing_else_is_built_on() -> None:
    (base,) = re.findall(r"^ARG BASE=(\S+)$", _DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"docker\.io/library/debian:[a-z]+-slim@sha256:[0-9a-f]{64}", base)
    bases = [stage.split()[0] for stage in _stages()]
    assert bases == ["${BASE}", "system", "scratch"]


def test_the_last_stage_only_copies_what_was_selected() -> None:
    last = _stages()[-1]
    assert not re.findall(r"^(?:RUN|ADD)\b.*", last, re.MULTILINE)
    assert re.findall(r"^COPY .*", last, re.MULTILINE) == [
        "COPY --from=system /image /",
        "COPY --from=build /opt/minerwatch /opt/minerwatch",
    ]


def test_it_has_no_shell_no_compiler_and_no_package_manager() -> None:
    packages = set(contents().debian_packages)
    of_python = {name for name in packages if "python" in name}
    libraries = {name for name in packages if re.match(r"lib|zlib", name)}
    assert packages - of_python - libraries == {
        *("base-files", "ca-certificates", "netbase", "tzdata")
    }
    assert of_python == {
        *("libpython3.13-minimal", "libpython3.13-stdlib"),
        *("python3-minimal", "python3.13-minimal"),
    }


def test_all_that_is_taken_or_left_out_has_its_reason() -> None:
    said = contents()
    for reasons in (
        said.debian_packages, said.debian_files, said.debian_without,
        said.distributions_without, said.python_without, said.python_kept, said.programs,
    ):  # fmt: skip
        assert all(reason.strip() for reason in reasons.values())


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
    locked = locked_versions(DEPLOY / "requirements.lock")
    project = _PROJECT["project"]
    for text in (*project["dependencies"], *project["optional-dependencies"]["agent"]):
        needed = Requirement(text)
        name = canonicalize_name(needed.name)
        assert name in locked, f"{name}: {_RENEW}"
        assert locked[name] in needed.specifier, f"{name}: {_RENEW}"


def test_the_lock_has_all_that_a_build_needs() -> None:
    locked = locked_versions(DEPLOY / "build.lock")
    for text in (*_PROJECT["build-system"]["requires"], "build", "cyclonedx-bom"):
        needed = Requirement(text)
        assert locked[canonicalize_name(needed.name)] in needed.specifier, _RENEW


def locked_versions(path: Path) -> dict[NormalizedName, Version]:
    """Name -> version; each has hashes."""
    entries = re.split(r"\n(?=\S)", path.read_text().strip())
    found = {}
    for entry in entries:
        name, version = re.match(r"([\w.-]+)==([^ ;]+)", entry).groups()  # type: ignore[union-attr]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), name
        found[canonicalize_name(name)] = Version(version)
    return found
