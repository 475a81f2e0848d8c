"""What samples of the floating-point control word say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.node.fp_rounding import (
    ENOUGH_ROUNDS,
    MIN_SAMPLES,
    RoundingSamples,
    flushes_to_zero,
    rounding_mode,
)

MXCSR = 0x1F80  # what a process starts with: round to nearest, nothing flushed
MXCSR_FLUSHES = 0x8040
MXCSR_MODE = 1 << 13
FPCR_FLUSHES = 1 << 24
FPCR_MODE = 1 << 22


def samples_of(words: list[int], machine: str = "x86_64", tid: int = 1) -> RoundingSamples:
    samples = RoundingSamples(machine)
    for at, word in enumerate(words):
        samples.add(float(at), tid, word)
    return samples


def randomx_words(count: int = 30) -> list[int]:
    return [MXCSR | MXCSR_FLUSHES | MXCSR_MODE * (at % 4) for at in range(count)]


@pytest.mark.parametrize(("machine", "step"), [("x86_64", MXCSR_MODE), ("aarch64", FPCR_MODE)])
def test_each_machine_has_its_bits(machine: str, step: int) -> None:
    assert [rounding_mode(step * mode, machine) for mode in range(4)] == [0, 1, 2, 3]


def test_flushing_is_both_of_results_and_of_operands() -> None:
    assert flushes_to_zero(MXCSR | MXCSR_FLUSHES, "x86_64")
    assert not flushes_to_zero(MXCSR | 0x8000, "x86_64")
    assert not flushes_to_zero(MXCSR | 0x40, "x86_64")
    assert flushes_to_zero(FPCR_FLUSHES, "aarch64")
    assert not flushes_to_zero(0, "aarch64")


def test_few_samples_say_nothing() -> None:
    assert samples_of([MXCSR] * (MIN_SAMPLES - 1)).rounding() is None
    assert samples_of([MXCSR] * MIN_SAMPLES).rounding() is not None


def test_randomx_shows_four_modes_and_flushes() -> None:
    rounding = samples_of(randomx_words()).rounding()
    assert rounding is not None
    assert rounding.modes == 4
    assert rounding.share > 0.5
    assert rounding.flush_to_zero_share == 1.0


def test_interval_arithmetic_shows_fewer_and_does_not_flush() -> None:
    rounding = samples_of([MXCSR | MXCSR_MODE * (at % 3) for at in range(30)]).rounding()
    assert rounding is not None
    assert (rounding.modes, rounding.flush_to_zero_share) == (3, 0.0)


def test_threads_that_compute_otherwise_do_not_hide_the_one_that_hashes() -> None:
    samples = RoundingSamples("x86_64")
    for at, word in enumerate(randomx_words(16)):
        samples.add(float(at), 1, word)
        samples.add(float(at), 2, MXCSR)
        samples.add(float(at), 3, MXCSR)
    rounding = samples.rounding()
    assert rounding is not None
    assert rounding.share > 0.5
    assert rounding.flush_to_zero_share == 1.0


def test_a_thread_that_was_not_switched_out_repeats_itself() -> None:
    samples = RoundingSamples("x86_64")
    for at in range(30):
        samples.add(float(at), 1, MXCSR, switches=7)
    assert samples.count == 0
    samples.add(30.0, 1, MXCSR, switches=8)
    assert samples.count == 1


def test_threads_that_sleep_do_not_use_up_the_samples_of_the_one_that_hashes() -> None:
    samples = RoundingSamples("x86_64")
    for at, word in enumerate(randomx_words(40)):
        for sleeper in range(200):
            samples.add(float(at), 100 + sleeper, MXCSR, switches=3)
        samples.add(float(at), 1, word, switches=at)
    rounding = samples.rounding()
    assert rounding is not None
    assert (rounding.modes, rounding.flush_to_zero_share) == (4, 1.0)
    assert rounding.samples == 39


def test_threads_that_are_new_each_time_count_at_once() -> None:
    """Whoever hashes in threads that last a second does not get away with it."""
    samples = RoundingSamples("x86_64")
    for at, word in enumerate(randomx_words(40)):
        samples.add(float(at), at, word, switches=5)
    rounding = samples.rounding()
    assert rounding is not None
    assert rounding.modes == 4


def test_enough_is_counted_in_rounds_whatever_the_number_of_threads() -> None:
    samples = RoundingSamples("x86_64")
    for at in range(ENOUGH_ROUNDS + 20):
        for tid in range(10):
            samples.add(float(at), tid, MXCSR)
    assert samples.rounds == ENOUGH_ROUNDS
    assert samples.count == 10 * ENOUGH_ROUNDS


def test_samples_that_are_too_close_repeat_each_other() -> None:
    samples = RoundingSamples("x86_64")
    for at in range(100):
        samples.add(at / 1000, 1, MXCSR)
    assert 5 <= samples.count <= 10


@given(
    st.lists(
        st.tuples(
            st.floats(0, 1e6),
            st.integers(0, 1 << 22),
            st.integers(0, (1 << 32) - 1),
            st.none() | st.integers(0, (1 << 32) - 1),
        ),
        max_size=200,
    )
)
def test_any_words_give_shares_or_nothing(
    words: list[tuple[float, int, int, int | None]],
) -> None:
    samples = RoundingSamples("x86_64")
    for at_s, tid, word, switches in words:
        samples.add(at_s, tid, word, switches)
    rounding = samples.rounding()
    assert samples.rounds <= ENOUGH_ROUNDS
    if rounding is not None:
        assert 0 <= rounding.share <= 1
        assert 0 <= rounding.flush_to_zero_share <= 1
        assert 1 <= rounding.modes <= 4
        assert 1 <= rounding.samples <= samples.count
