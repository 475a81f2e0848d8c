"""Ordinary programs beside RandomX, for real, all at once, under the probes that look deepest."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.innocents import Seen, observe, workloads
from minerwatch.errors import SourceUnavailableError
from tests.conftest import needs_root

SECONDS = 65.0

pytestmark = [needs_root, pytest.mark.nightly]  # all CPUs for a minute


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Seen]]:
    here, _missing = workloads(tmp_path_factory.mktemp("innocents"))
    try:
        yield observe(here, SECONDS)
    except SourceUnavailableError as error:
        pytest.skip(f"run it as root of a host: {error}")


def test_enough_of_them_are_here(seen: list[Seen]) -> None:
    assert len([each for each in seen if not each.workload.is_randomx]) >= 5


def test_ordinary_programs_stay_clear(seen: list[Seen]) -> None:
    accused = {
        each.workload.name: each.findings
        for each in seen
        if each.findings and not each.workload.is_randomx
    }
    assert accused == {}


def test_they_were_really_looked_at(seen: list[Seen]) -> None:
    """Each has burnt CPU, and those that stay one process have been sampled to the end."""
    for each in seen:
        assert sum(each.cpu_s.values()) > 0.2, each.workload.name
    modes = {each.workload.name: each.modes for each in seen}
    assert modes.get("two rounding modes", 2) == 2
    assert modes.get("three rounding modes", 3) == 3
    assert modes.get("a rounding mode held", 1) == 1


def test_randomx_is_told_by_both_signals(seen: list[Seen]) -> None:
    randomx = [each for each in seen if each.workload.is_randomx]
    if not randomx:
        pytest.skip("needs a RandomX binding: pip install cyrx")
    for each in randomx:
        assert "Rounds and flushes like RandomX" in each.findings, each.workload.name
        assert "RandomX in the executable or in memory" in each.findings, each.workload.name
