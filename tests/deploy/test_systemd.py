"""The unit file: what systemd says of it, and every probe under its capabilities."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import needs_root
from tests.waiting import until

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "minerwatch.service"
_PROBES = {
    *("execs", "tasks", "executed_code", "connections", "mappings", "content", "drift"),
    *("rounding", "canary"),
}
_MIN_EXPOSURE = 3.5


def _values(key: str) -> list[str]:
    return [
        word
        for line in UNIT.read_text().splitlines()
        if line.startswith(f"{key}=")
        for word in line.partition("=")[2].split()
    ]


def _needs(program: str, package: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}: apt-get install {package}")


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit, with a program that exists here."""
    path = tmp_path / "minerwatch.service"
    path.write_text(UNIT.read_text().replace("/opt/minerwatch/bin/minerwatch", sys.executable))
    return path


def test_systemd_finds_no_fault_in_the_unit(unit: Path) -> None:
    _needs("systemd-analyze", "systemd")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_is_confined(unit: Path) -> None:
    _needs("systemd-analyze", "systemd")
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(unit)],
        capture_output=True,
        text=True,
    )
    exposure = re.search(r"exposure level for minerwatch.service: ([0-9.]+)", done.stdout)
    assert exposure, done.stdout + done.stderr
    assert float(exposure[1]) <= _MIN_EXPOSURE, done.stdout


def _filter(name: str) -> Iterator[str]:
    """Yield the system calls of a filter of systemd's, with those of the filters in it."""
    if not name.startswith("@"):
        yield name
        return
    listed = subprocess.run(
        ["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True
    )
    for line in map(str.strip, listed.stdout.splitlines()[1:]):
        if line and not line.startswith("#"):
            yield from _filter(line)


@needs_root
@pytest.mark.slow
def test_every_probe_works_with_what_the_unit_grants(tmp_path: Path) -> None:
    for program, package in (("setpriv", "util-linux"), ("strace", "strace")):
        _needs(program, package)
    _needs("systemd-analyze", "systemd")
    granted = [f"+{name.removeprefix('CAP_').lower()}" for name in _values("CapabilityBoundingSet")]
    trace, log = tmp_path / "trace", tmp_path / "log"
    command = [
        *("setpriv", f"--bounding-set=-all,{','.join(granted)}", "--no-new-privs"),
        *("strace", "-f", "-qq", "-o", str(trace), sys.executable, "-m", "minerwatch", "agent"),
        *("--no-kubernetes", "--interval=1s", "--listen=127.0.0.1:0", "--log-format=json"),
        f"--socket={tmp_path / 'agent.sock'}",
    ]
    with log.open("wb") as out:
        agent = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)

    def lines(event: str) -> list[dict[str, str]]:
        found = [json.loads(line) for line in log.read_text().splitlines() if line[:1] == "{"]
        return [line for line in found if line["event"] == event]

    try:
        until(lambda: {line["probe"] for line in lines("probe is on")} >= _PROBES, log.read_text)
        until(lambda: "minerwatch-canary" in trace.read_text(errors="replace"))
    finally:
        os.killpg(agent.pid, signal.SIGTERM)  # strace alone would ignore it
        agent.wait(30)
    assert not lines("cannot see everything")
    called = set(
        re.findall(r"^\d+ +([a-z0-9_]+)\(", trace.read_text(errors="replace"), re.MULTILINE)
    )
    allowed = {call for name in _values("SystemCallFilter") for call in _filter(name)}
    assert "bpf" in called
    assert called <= allowed, called - allowed
