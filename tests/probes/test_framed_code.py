"""What an outsider can make an innocent process execute, by the real sampler and rules."""

from __future__ import annotations

import platform
import shutil
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from minerwatch.config.schema import BUILT_IN_RULES
from minerwatch.detection.matching.matcher import Matcher
from minerwatch.detection.sigma import rulebook
from minerwatch.errors import SourceUnavailableError
from minerwatch.model import ContainerKey
from minerwatch.node.executed_code import copying_sampler
from minerwatch.node.hot_code import HotCodeReader
from minerwatch.node.proc_files import ProcessFiles
from minerwatch.probes.code_schedule import Place
from minerwatch.probes.executed_code import ExecutedCode
from minerwatch.probes.hot_code import HotCode
from tests.conftest import needs_root
from tests.waiting import until

TARGETS = Path(__file__).parents[1] / "targets"
HERE = ContainerKey("/here", 1)
HZ = 197.0


class Only:
    """One process runs in a container."""

    def __init__(self, pid: int) -> None:
        found = ProcessFiles("/proc", {}).stat(pid)
        assert found is not None
        self._place = Place(found[0].id, HERE, "owner")

    def locate(self, pid: int) -> Place | None:
        return self._place if pid == self._place.process.pid else None

    def relatives(self, cgroup: int) -> list[Place]:
        del cgroup
        return []


@needs_root
@pytest.mark.nightly  # samples a process until its code is looked at
def test_numbers_in_a_compiled_query_are_not_randomx(tmp_path: Path) -> None:
    """PostgreSQL 15, as it comes: one query with these numbers and sha256() was likely (75)."""
    if shutil.which("cc") is None or platform.machine() != "x86_64":
        pytest.skip("needs a C compiler: apt install gcc libc6-dev; and x86-64")
    program = tmp_path / "compiled_query"
    options = ("-O2", "-fno-tree-vectorize", "-o", program)
    subprocess.run(["cc", *options, TARGETS / "compiled_query.c"], check=True)
    book = rulebook.load((BUILT_IN_RULES,))
    try:
        sampler = copying_sampler(HZ)
    except SourceUnavailableError as error:
        pytest.skip(f"run it as root of a host: {error}")
    with subprocess.Popen([program]) as process:
        hot = HotCode(HotCodeReader("/proc", book.content))
        try:
            with closing(ExecutedCode(sampler, Only(process.pid), hot=hot)) as code:
                until(lambda: "CodeFingerprints" in code.facts(HERE))
                facts = code.facts(HERE)
        finally:
            process.kill()
    assert isinstance(facts["AnonymousCodeShare"], float)
    assert facts["AnonymousCodeShare"] < 0.2
    titles = {match.rule.title for match in Matcher(book.rules).matches(facts)}
    assert "Runs the code of RandomX" not in titles
