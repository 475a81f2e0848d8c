from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from minerwatch.fair_queue import Turns


def taken(turns: Turns[str]) -> list[str]:
    found = []
    while (thing := turns.take()) is not None:
        found.append(thing)
    return found


def test_each_owner_is_served_in_turn() -> None:
    turns: Turns[str] = Turns()
    for owner, things in enumerate(("abcd", "x", "12")):
        for thing in things:
            turns.put(owner, thing)
    assert "".join(taken(turns)) == "ax1b2cd"
    assert turns.take() is None


@given(st.lists(st.tuples(st.integers(0, 4), st.integers()), max_size=50))
def test_nothing_is_lost_and_nobody_waits_for_more_than_a_round(
    puts: list[tuple[int, int]],
) -> None:
    turns: Turns[tuple[int, int]] = Turns()
    for owner, thing in puts:
        turns.put(owner, (owner, thing))
    assert len(turns) == len(puts)
    found = []
    while (taken_one := turns.take()) is not None:
        found.append(taken_one)
    for owner in range(5):
        assert [each for each in found if each[0] == owner] == [p for p in puts if p[0] == owner]
        first = next((at for at, each in enumerate(found) if each[0] == owner), 0)
        assert first < 5
    assert len(turns) == 0
