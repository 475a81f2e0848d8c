"""When code that a process executes is classified again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from minerwatch.probes.code_schedule import HotPages, Spot

PAGE = 4096


def spots(*pages: int) -> list[Spot]:
    return [(page * PAGE + 64, b"") for page in pages for _ in range(20)]


def asks(pages: HotPages, executed: list[list[Spot]], *, is_learned: bool) -> int:
    """Return how often it has changed, with one list of samples each second."""
    count, was_on = 0, False
    for second, each in enumerate(executed):
        is_on = pages.have_changed(each, float(second))
        if was_on and not is_on and is_learned:
            pages.add(address for address, _ in each)
        count += is_on and not was_on
        was_on = is_on
    return count


@given(st.sets(st.integers(0, 1 << 45), max_size=200), st.data())
def test_what_executes_where_it_was_classified_has_not_changed(
    known: set[int], data: st.DataObject
) -> None:
    pages = HotPages()
    pages.add(page * PAGE for page in known)
    if known:
        order = st.lists(st.sampled_from(sorted(known)), max_size=50)
        executed = [spots(page) for page in data.draw(order)]
        assert asks(pages, executed, is_learned=False) == 0


def test_a_process_that_moves_to_another_page_has_changed_once() -> None:
    pages = HotPages()
    pages.add([7 * PAGE])
    assert asks(pages, [*[spots(7)] * 20, *[spots(8)] * 600], is_learned=True) == 1


def test_a_change_at_the_end_of_a_round_is_a_change() -> None:
    """What was classified is mostly of before."""
    pages = HotPages()
    pages.add([7 * PAGE])
    assert not pages.have_changed(spots(8), 0.0)
    pages.add([7 * PAGE, 8 * PAGE])
    assert asks(pages, [spots(8)] * 600, is_learned=True) == 1


def test_a_few_samples_elsewhere_are_no_change() -> None:
    pages = HotPages()
    pages.add([7 * PAGE])
    mixed = [each for other in range(100, 300) for each in (spots(7, 7, other), spots(7))]
    assert asks(pages, mixed, is_learned=False) == 0


def test_a_decoy_of_some_seconds_does_not_know_when_it_is_looked_at() -> None:
    """It ran for 3 s whenever it could be seen as a change, and was most of what was known."""
    windows: list[float] = []
    for _ in range(200):
        pages = HotPages()
        pages.add([7 * PAGE])
        began = next(second for second in range(99) if pages.have_changed(spots(8), float(second)))
        windows.append(began)
    assert sum(each <= 6 for each in windows) < 60
    assert max(windows) <= 40


def test_what_moves_at_each_moment_is_asked_about_as_often_as_in_rounds() -> None:
    pages = HotPages()
    hour = [spots(page) for page in range(3600)]
    assert 15 <= asks(pages, hour, is_learned=True) <= 3600 / 160 + 5
