"""Code of programs that exit a moment after they were started: it is read while they live."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from minerwatch.errors import SourceUnavailableError
from minerwatch.model import ContainerKey
from minerwatch.node.executed_code import CodeSampler
from minerwatch.node.proc_files import ProcessFiles
from minerwatch.probes.code_schedule import Place
from minerwatch.probes.executed_code import ExecutedCode
from tests.waiting import until

HERE = ContainerKey("/here", 1)
SOURCE = Path(__file__).parents[1] / "targets" / "evading.c"
CHILDREN = """
import os, signal, sys
while True:
    child = os.fork()
    if child == 0:
        signal.setitimer(signal.ITIMER_PROF, 0.3)
        os.execv(sys.argv[1], [sys.argv[1], "sha256", "plain"])
    os.waitpid(child, 0)
"""
"""One program after the other, each killed by the kernel after 0.3 s of CPU time."""


class Session:
    """Places the processes of one session."""

    def __init__(self, leader: int) -> None:
        self._leader = leader
        self._files = ProcessFiles("/proc", {})

    def locate(self, pid: int) -> Place | None:
        with suppress(OSError):
            found = self._files.stat(pid) if os.getsid(pid) == self._leader else None
            return Place(found[0].id, HERE, "pod") if found is not None else None
        return None

    def relatives(self, cgroup: int) -> list[Place]:
        return []


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gcc") is None, reason="run it where gcc is installed")
def test_programs_of_a_third_of_a_second_are_known_by_the_code_of_their_file(
    tmp_path: Path,
) -> None:
    """None of them lives as long as the pause between two reads, and no parent has their code."""
    subprocess.run(["gcc", "-O2", SOURCE, "-o", tmp_path / "hashes"], check=True)
    try:
        sampler = CodeSampler(97.0)
    except SourceUnavailableError as error:
        pytest.skip(f"run it as root of a host: {error}")
    command = [sys.executable, "-c", CHILDREN, str(tmp_path / "hashes")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as parent:
        probe = ExecutedCode(sampler, Session(parent.pid))
        try:
            until(  # the first samples may be of how the programs start
                lambda: float(str(probe.facts(HERE).get("HashCodeShare", 0.0))) >= 0.4,
                lambda: f"{probe.facts(HERE)}, {dict(probe.failures())}",
            )
            assert probe.facts(HERE)["AnonymousCodeShare"] == 0.0
        finally:
            os.killpg(parent.pid, signal.SIGKILL)
            probe.close()
