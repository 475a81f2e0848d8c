from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from minerwatch.fair_queue import FairQueue, interleaved


def taken(queue: FairQueue[str]) -> list[str]:
    found = []
    while (thing := queue.pop()) is not None:
        found.append(thing)
    return found


def test_each_owner_is_served_in_turn() -> None:
    queue: FairQueue[str] = FairQueue()
    for owner, things in enumerate(("abcd", "x", "12")):
        for thing in things:
            queue.push(owner, thing)
    assert "".join(taken(queue)) == "ax1b2cd"
    assert queue.pop() is None
    assert "".join(interleaved("abxcy", "xy".__contains__)) == "axbyc"


@given(st.lists(st.tuples(st.integers(0, 4), st.integers()), max_size=50))
def test_nothing_is_lost_and_nobody_waits_for_more_than_a_round(
    puts: list[tuple[int, int]],
) -> None:
    queue: FairQueue[tuple[int, int]] = FairQueue()
    for owner, thing in puts:
        queue.push(owner, (owner, thing))
    assert len(queue) == len(puts)
    found = []
    while (taken_one := queue.pop()) is not None:
        found.append(taken_one)
    for owner in range(5):
        assert [each for each in found if each[0] == owner] == [p for p in puts if p[0] == owner]
        first = next((at for at, each in enumerate(found) if each[0] == owner), 0)
        assert first < 5
    assert len(queue) == 0
