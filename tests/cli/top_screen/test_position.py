from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from minerwatch.cli.top_screen.position import Position
from minerwatch.cli.top_screen.rows import Row
from tests.report.samples import container


def rows(*names: str) -> tuple[Row, ...]:
    return tuple(Row((name,), container(container=name)) for name in names)


ABC = rows(*"abcdefghij")


def test_a_chosen_row_stays_chosen_wherever_it_goes() -> None:
    chosen = Position().moved_to(3, ABC, 10)
    assert (chosen.index, chosen.key) == (3, ("d",))
    carried = chosen.carried_to(rows(*"dabcefghij"), 10)
    assert (carried.index, carried.key) == (0, ("d",))
    assert carried.carried_to(ABC, 10).index == 3


def test_who_has_chosen_nothing_sees_the_worst() -> None:
    assert Position().carried_to(rows("z", *"abc"), 10).index == 0
    chosen = Position().moved_to(3, ABC, 4).moved_to(0, ABC, 4)
    assert chosen.carried_to(rows("z", *"abc"), 4).key == ("a",)


def test_a_chosen_row_stays_on_its_line() -> None:
    chosen = Position(top=4).moved_to(6, ABC, 4)
    assert chosen.top == 4
    carried = chosen.carried_to(rows("y", "z", *"abcdefghij"), 4)
    assert (carried.index - carried.top, carried.key) == (2, ("g",))


def test_while_the_first_rows_are_in_sight_they_stay_in_sight() -> None:
    chosen = Position().moved_to(1, ABC, 4)
    carried = chosen.carried_to(rows("y", *"abcdefghij"), 4)
    assert (carried.top, carried.index) == (0, 2)


def test_who_is_gone_leaves_the_place_to_the_next() -> None:
    chosen = Position().moved_to(3, ABC, 10)
    carried = chosen.carried_to(rows(*"abcefg"), 10)
    assert (carried.index, carried.key) == (3, ("e",))
    last = Position().moved_to(9, ABC, 10).carried_to(rows(*"ab"), 10)
    assert (last.index, last.key) == (1, ("b",))
    assert chosen.carried_to((), 10) == Position()


def test_scrolling_goes_no_further_than_it_must() -> None:
    position = Position()
    for index in range(10):
        position = position.moved_to(index, ABC, 4)
    assert position.top == 6
    position = position.moved_to(7, ABC, 4)
    assert position.top == 6
    assert position.moved_to(-5, ABC, 4).top == 0
    assert position.moved_to(99, ABC, 4).index == 9


names = st.lists(st.sampled_from("abcdefghijklmnop"), unique=True)


@given(names, names, st.lists(st.integers(-3, 20), max_size=5), st.integers(0, 12))
def test_what_is_selected_is_there_and_in_sight(
    before: list[str], after: list[str], moves: list[int], height: int
) -> None:
    old, new = rows(*before), rows(*after)
    position = Position()
    for index in moves:
        position = position.moved_to(index, old, height)
    carried = position.carried_to(new, height)
    if not new:
        assert carried == Position()
        return
    assert 0 <= carried.index < len(new)
    assert carried.top <= carried.index < carried.top + max(1, height)
    assert 0 <= carried.top <= max(0, len(new) - max(1, height))
    if position.key is not None and position.key[0] in after:
        assert new[carried.index].key == position.key
