from __future__ import annotations

import os
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.agent.scheduling import CpuBudget, Wake
from tests.conftest import open_files


class Pipe:
    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()

    def fileno(self) -> int:
        return self.read_end


def test_a_wait_ends_when_the_time_is_over() -> None:
    wake = Wake()
    assert not wake.wait(0.01, None)
    wake.close()


def test_a_wait_ends_when_woken_also_before_it_began() -> None:
    wake = Wake()
    wake.up()
    wake.up()
    assert not wake.wait(3600, None)
    timer = threading.Timer(0.05, wake.up)
    timer.start()
    assert not wake.wait(3600, None)
    timer.join()
    wake.close()


def test_a_wait_tells_when_its_source_has_something() -> None:
    wake, pipe = Wake(), Pipe()
    assert not wake.wait(0.0, pipe)
    os.write(pipe.write_end, b"x")
    assert wake.wait(3600, pipe)
    wake.close()


def test_a_burst_is_allowed_and_then_paid_for() -> None:
    budget = CpuBudget(share=0.1)
    assert budget.pause_s(0.0) == 0.0
    budget.spend(0.0, 0.05)
    assert budget.pause_s(0.0) == 0.0
    budget.spend(0.0, 0.15)
    pause_s = budget.pause_s(0.0)
    assert pause_s > 0
    assert budget.pause_s(pause_s + 0.001) == 0.0


def test_only_work_is_spent_not_waiting() -> None:
    budget = CpuBudget(share=0.1)
    with budget.spending(lambda: 0.0):
        time.sleep(0.3)  # three bursts on the clock on the wall
    assert budget.pause_s(0.0) == 0.0
    with budget.spending(lambda: 0.0):
        end_s = time.process_time() + 0.3
        while time.process_time() < end_s:
            pass
    assert budget.pause_s(0.0) > 0.0


def test_without_a_share_there_is_nothing_after_the_burst() -> None:
    budget = CpuBudget(share=0.0)
    budget.spend(0.0, 1.0)
    assert budget.pause_s(1e9) == float("inf")


@given(
    st.floats(0.001, 1.0),
    st.lists(st.tuples(st.floats(0.0, 5.0), st.floats(0.0, 0.5)), max_size=50),
)
def test_in_the_long_run_the_share_holds(share: float, work: list[tuple[float, float]]) -> None:
    budget, at_s, spent_s, longest_s = CpuBudget(share), 1000.0, 0.0, 0.0
    for waited_s, cpu_s in work:
        at_s += waited_s
        if budget.pause_s(at_s) == 0.0:
            budget.spend(at_s, cpu_s)
            spent_s += cpu_s
            longest_s = max(longest_s, cpu_s)
    assert spent_s <= share * (at_s - 1000.0) + 0.1 + longest_s + 1e-6


@given(st.floats(0.01, 1.0), st.floats(0.0, 0.2))
def test_work_without_end_in_slices_never_pauses_for_long(share: float, spent_s: float) -> None:
    """Whatever was spent before; a slice may take half as long again as it should."""
    budget, at_s = CpuBudget(share), 1000.0
    budget.spend(at_s, min(spent_s, 0.1))
    for _ in range(50):
        budget.spend(at_s, 1.5 * budget.slice_s(at_s))
        pause_s = budget.pause_s(at_s)
        assert pause_s <= 0.05 / share + 1e-6
        at_s += pause_s
    assert budget.pause_s(at_s) == pytest.approx(0.0)
    budget.spend(at_s, budget.slice_s(at_s))
    assert budget.pause_s(at_s) <= 0.01 / share + 1e-6


def test_closing_gives_the_file_descriptor_back() -> None:
    before = open_files()
    wake = Wake()
    wake.close()
    assert not open_files() - before
