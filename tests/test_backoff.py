from __future__ import annotations

import random

from minerwatch.backoff import Backoff


def test_delays_double_up_to_the_maximum_and_start_again() -> None:
    backoff = Backoff(1.0, 5.0)
    assert [backoff.next_s() for _ in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert backoff.failures == 5
    backoff.reset()
    assert (backoff.failures, backoff.next_s()) == (0, 1.0)


def test_it_never_overflows() -> None:
    backoff = Backoff(1.0, 60.0)
    assert {backoff.next_s() for _ in range(5000)} <= {1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0}


def test_chance_spreads_delays_between_half_and_all_of_them() -> None:
    delays = [Backoff(8.0, 60.0, random.Random(seed)).next_s() for seed in range(100)]
    assert all(4.0 <= delay <= 8.0 for delay in delays)
    assert len(set(delays)) == len(delays)
