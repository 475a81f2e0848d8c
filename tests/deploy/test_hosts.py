"""The container forms of docs/hosts.md, run by a real docker and a real podman."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path

import pytest

from generate.names import names
from minerwatch import __version__
from tests.conftest import needs_root
from tests.deploy.container import wheel_root
from tests.deploy.test_systemd import UNIT
from tests.engines import Engine, docker, podman, short_folder
from tests.waiting import until

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "hosts.md"
_PROFILE = ROOT / "deploy" / "seccomp" / "minerwatch.json"
QUADLET = ROOT / "deploy" / "podman" / "minerwatch.container"
_IMAGE = f"{names()['image']}:{__version__}"
_PROBES = {"execs", "tasks", "executed_code", "connections", "mappings", "content", "rounding"}


def _command() -> list[str]:
    """The page's ``docker run``, without the program's name."""
    (shown,) = re.findall(r"^(docker run .*?[^\\])$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    words = shlex.split(shown.replace("\\\n", " "))
    return words[1:]


_QUADLET_NEEDS_SYSTEMD = ("--cidfile", "--replace", "--rm", "--cgroups=split", "--sdnotify")


def _quadlet_command(folder: Path) -> list[str]:
    """What podman's generator makes of the quadlet, without the program's name."""
    program = os.environ.get("MINERWATCH_TEST_QUADLET") or shutil.which(
        "quadlet", path="/usr/libexec/podman:/usr/lib/podman"
    )
    if program is None:
        pytest.skip(
            "podman 4.5 or later has the generator of quadlets: install it, or name one of a newer"
            " Debian's package in MINERWATCH_TEST_QUADLET"
        )
    units = folder / "units"
    units.mkdir()
    shutil.copy(QUADLET, units)
    done = subprocess.run(
        [program, "-dryrun"],
        env={**os.environ, "QUADLET_UNIT_DIRS": str(units)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (start,) = re.findall(r"^ExecStart=\S*podman (.*)$", done.stdout, re.MULTILINE)
    return [word for word in shlex.split(start) if not word.startswith(_QUADLET_NEEDS_SYSTEMD)]


def _option(words: list[str], name: str) -> list[str]:
    return [after for word, after in pairwise(words) if word == name]


def _capabilities() -> set[str]:
    (line,) = re.findall(r"^CapabilityBoundingSet=(.*)$", UNIT.read_text(), re.MULTILINE)
    return {name.removeprefix("CAP_") for name in line.split()}


def test_all_forms_grant_the_same() -> None:
    command = _command()
    quadlet = configparser.ConfigParser(strict=False)
    quadlet.optionxform = str  # type: ignore[assignment,method-assign]
    quadlet.read_string(QUADLET.read_text())
    container = quadlet["Container"]
    assert set(_option(command, "--cap-add")) == _capabilities()
    assert set(container["AddCapability"].split()) == _capabilities()
    assert container["Image"] == _IMAGE == command[-3]
    assert container["Exec"].split() == command[-2:]
    assert container["Tmpfs"] == _option(command, "--tmpfs")[0]
    limits = shlex.split(container["PodmanArgs"])
    for name in ("--pid", "--cgroupns", "--memory", "--cpu-shares", "--pids-limit"):
        assert f"{name}={_option(command, name)[0]}" in limits


@pytest.fixture(params=[docker, podman], ids=["docker", "podman"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    open_engine: Callable[[Path], AbstractContextManager[Engine]] = request.param
    with short_folder() as root, open_engine(root) as engine:
        yield engine


@needs_root
@pytest.mark.slow
@pytest.mark.parametrize("form", ["page", "quadlet"])
def test_the_command_on_the_page_starts_an_agent_that_sees_all(
    engine: Engine, form: str, tmp_path: Path
) -> None:
    if form == "quadlet" and engine.name != "podman":
        pytest.skip("a quadlet is podman's: run it with podman")
    command = _command() if form == "page" else _quadlet_command(tmp_path)
    installed = wheel_root(tmp_path)
    image = command.index(_IMAGE)
    options, agent = command[:image], command[image + 1 :]
    mounts = [*installed.mounts, Path("/usr"), Path("/lib"), Path("/lib64"), Path("/bin")]
    for mount in dict.fromkeys(mounts):
        options += ["--volume", f"{mount}:{mount}:ro"]
    if engine.name == "podman":  # this machine permits no higher limits
        options += ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"]
        options += [f"--security-opt=seccomp={_PROFILE}"]  # as the page says of Debian 12's podman
        source = ["--rootfs", str(engine.root / "rootfs")]
    else:
        source = ["shop/web:1.2"]
    probes = _PROBES
    if _lacks_newer_capabilities(engine):
        options = [word for word in options if word not in _NEWER]
        options = [word for word, after in pairwise([*options, ""]) if not _is_bare(word, after)]
        probes = _PROBES - _NEED_NEWER
    tail = ("--listen=127.0.0.1:0", "--interval=1s")
    container_id = engine.run(*options, *source, installed.program, *agent, *tail)

    def lines(event: str) -> list[dict[str, str]]:
        found = [json.loads(each) for each in _log(engine).splitlines() if each[:1] == "{"]
        return [line for line in found if line["event"] == event]

    until(
        lambda: {line["probe"] for line in lines("probe is on")} >= probes,
        lambda: _log(engine),
    )
    unseen = {line["reason"] for line in lines("cannot see everything")}
    without_bpf = {reason for reason in unseen if "BPF and PERFMON are missing" in reason}
    assert unseen == (set() if probes == _PROBES else without_bpf)
    top = ("exec", "minerwatch", installed.program, "top", "--once", "-o", "json")
    shown = until(lambda: engine.output(*top), lambda: engine.run(*top))  # fails on a busy node
    assert {"host", container_id[:12]} <= {each["container"] for each in json.loads(shown)}


_NEWER = ("BPF", "PERFMON")
_NEED_NEWER = {"tasks", "executed_code", "rounding"}


def _lacks_newer_capabilities(engine: Engine) -> bool:
    """Return True for Debian 12's Docker 20.10, which does not know BPF and PERFMON."""
    version = (
        engine.run("version", "--format={{.Server.Version}}") if engine.name == "docker" else ""
    )
    return version.startswith("20.")


def _is_bare(word: str, after: str) -> bool:
    return word == "--cap-add" and after.startswith("--")


def _log(engine: Engine) -> str:
    done = subprocess.run(
        [*engine.command, "logs", "minerwatch"], capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr
