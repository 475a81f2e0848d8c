"""Ordinary programs beside RandomX, for real, all at once, under the probes that look deepest."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import pytest

from benchmarks.innocents import Seen, observe, workloads
from minerwatch.errors import SourceUnavailableError
from tests.conftest import needs_root
from tests.waiting import PATIENCE_S

SECONDS = 65.0
"""Of all, and of CPU time of one that a busy machine lets see little of until then."""

MODES = {"two rounding modes": 2, "three rounding modes": 3, "a rounding mode held": 1}
RANDOMX = ("Rounds and flushes like RandomX", "RandomX in the executable or in memory")

pytestmark = [needs_root, pytest.mark.nightly]  # all CPUs for a minute


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Seen]]:
    here, _missing = workloads(tmp_path_factory.mktemp("innocents"))
    try:
        yield observe(here, SECONDS, _Patience())
    except SourceUnavailableError as error:
        pytest.skip(f"run it as root of a host: {error}")


class _Patience:
    """True while too little was seen of a program that has had less than its CPU time."""

    def __init__(self) -> None:
        self._ends_s = time.monotonic() + 4 * PATIENCE_S

    def __call__(self, seen: Sequence[Seen]) -> bool:
        return time.monotonic() < self._ends_s and any(
            _unseen(each) and sum(each.cpu_s.values()) < SECONDS for each in seen
        )


def _unseen(seen: Seen) -> list[str]:
    """What the probes should have seen of a program, and have not."""
    missing = []
    if sum(seen.cpu_s.values()) <= 0.2:
        missing.append("CPU time")
    if seen.modes != MODES.get(seen.workload.name, seen.modes):
        missing.append(f"rounding modes: {seen.modes}")
    if seen.workload.is_randomx:
        missing += [title for title in RANDOMX if title not in seen.findings]
    return missing


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
    assert _unseen_of([each for each in seen if not each.workload.is_randomx]) == {}


def test_randomx_is_told_by_both_signals(seen: list[Seen]) -> None:
    randomx = [each for each in seen if each.workload.is_randomx]
    if not randomx:
        pytest.skip("needs a RandomX binding: pip install cyrx")
    assert _unseen_of(randomx) == {}


def _unseen_of(seen: Sequence[Seen]) -> dict[str, list[str]]:
    return {each.workload.name: missing for each in seen if (missing := _unseen(each))}
