from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.detection.cpu_history import CpuHistory


def history(*readings: tuple[float, float], window_s: float = 60) -> CpuHistory:
    (first_at_s, first_cpu_s), *rest = readings
    taken = CpuHistory(first_at_s, first_cpu_s)
    for at_s, cpu_s in rest:
        taken.add(at_s, cpu_s, window_s=window_s)
    return taken


def test_one_reading_is_no_rate() -> None:
    assert history((0, 5)).cores is None


def test_two_readings_make_a_rate() -> None:
    assert history((0, 5), (10, 20)).cores == 1.5


def test_a_counter_that_falls_starts_anew() -> None:
    taken = history((0, 5), (10, 20), (20, 1))
    assert taken.cores is None
    taken.add(30, 6, window_s=60)
    assert taken.cores == 0.5


def test_a_clock_that_stands_still_changes_nothing() -> None:
    assert history((0, 5), (10, 20), (10, 40)).cores == 1.5


def test_flatness_of_an_even_rate_is_one_and_of_bursts_is_low() -> None:
    even = history(*((at, at * 0.9) for at in range(0, 60, 10)))
    assert even.flatness() == pytest.approx(1)
    bursts = history((0, 0), (10, 10), (20, 10), (30, 20), (40, 20), (50, 30))
    flatness = bursts.flatness()
    assert flatness is not None
    assert flatness < 0.2


def test_too_few_rates_have_no_flatness() -> None:
    assert history((0, 0), (10, 10), (20, 20)).flatness() is None


@given(
    st.lists(
        st.tuples(st.floats(0.01, 100), st.floats(0, 1e6)),  # time passed, counter
        min_size=1,
        max_size=60,
    )
)
def test_rates_are_never_negative_and_flatness_is_a_share(
    readings: list[tuple[float, float]],
) -> None:
    at_s, taken = 0.0, CpuHistory(0.0, 0.0)
    for passed_s, cpu_s in readings:
        at_s += passed_s
        taken.add(at_s, cpu_s, window_s=60)
        assert taken.cores is None or taken.cores >= 0
        flatness = taken.flatness()
        assert flatness is None or 0 <= flatness <= 1
        assert taken.cpu_s == cpu_s


@given(st.lists(st.sampled_from([0.0, 0.0, 0.5, 5.0]), min_size=2, max_size=60), st.data())
def test_ticks_that_were_left_out_while_it_rested_can_be_added_later(
    burnt_s: list[float], data: st.DataObject
) -> None:
    """Whatever of its idle readings were left out: afterwards all is as if they had been taken."""
    whole, with_gaps = CpuHistory(0.0, 0.0), CpuHistory(0.0, 0.0)
    cpu_s = 0.0
    times_s: list[float] = []
    for number, burnt in enumerate(burnt_s, start=1):
        at_s, cpu_s = number * 10.0, cpu_s + burnt
        whole.add(at_s, cpu_s, window_s=300)
        if burnt or not data.draw(st.booleans()):
            with_gaps.add_idle(times_s, window_s=300)
            with_gaps.add(at_s, cpu_s, window_s=300)
        times_s = [each for each in (*times_s, at_s) if each > at_s - 300]
    with_gaps.add_idle(times_s, window_s=300)
    for each in ("cores", "cpu_s"):
        assert getattr(with_gaps, each) == getattr(whole, each)
    assert with_gaps.flatness() == whole.flatness()
