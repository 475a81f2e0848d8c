"""Turns at costly answers; those of /metrics: tests/report/test_http_server.py."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from minerwatch.report.pacing import Turns


def test_one_caller_works_at_a_time() -> None:
    turns, working, most = Turns(), [0], [0]

    def work(_number: int) -> None:
        with turns.turn():
            working[0] += 1
            most[0] = max(most[0], working[0])
            time.sleep(0.01)
            working[0] -= 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert most == [1]


def test_a_turn_that_fails_ends() -> None:
    turns = Turns()
    with pytest.raises(LookupError), turns.turn():
        raise LookupError
    done = threading.Event()
    with turns.turn():
        done.set()
    assert done.is_set()


def test_pauses_are_three_times_as_long_as_the_work() -> None:
    """A lower bound, which holds on any machine."""
    turns = Turns()
    began_s, worked_s = time.monotonic(), 0.0
    for _ in range(3):
        with turns.turn():
            turn_began_s = time.thread_time()
            while time.thread_time() - turn_began_s < 0.1:
                pass
            worked_s += 0.1
    assert time.monotonic() - began_s >= worked_s + 3 * (worked_s - 0.1)
