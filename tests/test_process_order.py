from __future__ import annotations

from minerwatch.process_order import tree_order


def order(*processes: tuple[int, int], max_depth: int = 9) -> list[tuple[int, int, bool]]:
    """(pid, depth, is the last child) of each (pid, parent)."""
    found = tree_order(processes, lambda each: each, max_depth)
    return [(pid, len(path), path[-1:] == (True,)) for (pid, _), path in found]


def test_parents_come_first_and_the_last_child_is_marked() -> None:
    assert order((4, 3), (3, 2), (9, 0), (2, 1), (5, 3)) == [
        (9, 0, False), (2, 0, False), (3, 1, True), (4, 2, False), (5, 2, True),
    ]  # fmt: skip


def test_a_circle_begins_with_its_first_process() -> None:
    assert order((1, 1), (2, 3), (3, 4), (4, 2)) == [
        (1, 0, False), (2, 0, False), (4, 1, True), (3, 2, True),
    ]  # fmt: skip


def test_a_ladder_stays_at_the_greatest_depth() -> None:
    depths = [depth for _, depth, _ in order(*((pid, pid - 1) for pid in range(2, 500)))]
    assert depths == [min(number, 9) for number in range(498)]
