from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from minerwatch.api.types import ContainerStatus
from minerwatch.untrusted_text.display import printable
from minerwatch.view.campaigns import campaigns
from minerwatch.view.screen.containers import Row, Tree, View, as_one, container_rows
from minerwatch.view.selection import SORT_KEYS
from tests.report.samples import (
    HELD,
    LIKELY,
    MINER,
    NODE,
    SIMULATION,
    SUSPICIOUS,
    container,
    containers,
)

views = st.builds(
    View,
    sort=st.sampled_from(SORT_KEYS),
    is_reversed=st.booleans(),
    show_all=st.booleans(),
    tree=st.sampled_from(Tree),
)


def rows(statuses: tuple[ContainerStatus, ...] = NODE, **chosen: object) -> tuple[Row, ...]:
    view = View(**chosen)  # type: ignore[arg-type]
    return container_rows(statuses, view, campaigns(statuses))[0]


def twins(*numbers: int, **changes: object) -> tuple[ContainerStatus, ...]:
    return tuple(
        structs.replace(MINER, pod=f"pod-{n}", pod_uid=str(n), cgroup=f"/{n}", **changes)
        for n in numbers
    )


def test_the_worst_come_first_and_the_idle_are_left_out() -> None:
    shown = [row.status for row in rows()]
    assert shown[0] == MINER
    assert SIMULATION in shown
    assert container() not in shown
    assert container() in [row.status for row in rows(show_all=True)]
    assert container() in [row.status for row in rows(text="ssh")]


def test_sorted_by_another_column_and_the_other_way_round() -> None:
    assert rows(sort="cpu")[0].status == SIMULATION
    assert rows(sort="cpu", is_reversed=True)[-1].status == SIMULATION


def test_grouped_by_owner() -> None:
    statuses = (*twins(1, 2), *twins(3, owner="bob"), SIMULATION)
    shown = rows(statuses, tree=Tree.OWNER)
    assert [(row.depth, row.group is not None) for row in shown] == [
        (0, True),
        (1, False),
        (1, False),
        (0, False),  # who is alone needs no heading
        (0, False),
    ]
    group = shown[0].group
    assert group is not None
    assert group.title == "2 containers of owner alice"
    assert shown[0].status.cpu_cores == pytest.approx(2 * MINER.cpu_cores)


def test_grouped_by_campaign() -> None:
    statuses = (*twins(1, 2, 3), SIMULATION)
    shown = rows(statuses, tree=Tree.CAMPAIGN)
    group = shown[0].group
    assert group is not None
    assert group.title == "3 containers in 3 pods of owner alice (one image, one wallet, one pool)"
    assert len(shown) == 5


def test_a_closed_group_is_one_row() -> None:
    statuses = twins(1, 2)
    (head, *_) = rows(statuses, tree=Tree.OWNER)
    closed = rows(statuses, tree=Tree.OWNER, closed=frozenset([head.key]))
    assert [row.key for row in closed] == [head.key]
    assert closed[0].group is not None
    assert not closed[0].group.is_open


def test_groups_are_in_the_order_of_what_they_are_as_one() -> None:
    crowd = twins(1, 2, 3, owner="crowd", score=0.0, level="clear", cpu_cores=3.0)
    statuses = (SIMULATION, *crowd)  # 7.96 cores against 3 times 3
    assert rows(statuses, sort="cpu")[0].status == SIMULATION
    head = rows(statuses, sort="cpu", tree=Tree.OWNER)[0]
    assert head.group is not None
    assert head.status.cpu_cores == 9.0


def test_members_as_one() -> None:
    one = as_one([HELD, LIKELY, SUSPICIOUS, MINER])
    assert (one.score, one.level) == (MINER.score, "confirmed")
    assert one.cpu_cores == pytest.approx(0.5 + 0.97 + 0.0 + 1.98)
    assert one.cpu_limit_cores is None  # not all have one
    assert as_one([MINER, MINER]).cpu_limit_cores == 4.0
    assert one.since == MINER.since
    assert one.signals == {"identity": 88.0, "execution": 60.0}
    assert (one.owner, as_one(twins(1, 2)).owner) == ("", "alice")


def test_the_next_way_to_group() -> None:
    assert [Tree.NONE.next, Tree.OWNER.next, Tree.CAMPAIGN.next] == [
        Tree.OWNER,
        Tree.CAMPAIGN,
        Tree.NONE,
    ]


@settings(max_examples=40)
@given(st.lists(containers, max_size=6, unique_by=lambda each: each.cgroup), views)
def test_every_chosen_container_has_one_row_whatever_the_view(
    statuses: list[ContainerStatus], view: View
) -> None:
    found, shown = container_rows(statuses, view, campaigns(statuses))
    leaves = [row for row in found if row.group is None]
    assert len(leaves) == shown
    assert len({row.key for row in found}) == len(found)
    for row in found:
        if row.group is not None:
            assert printable(row.group.title) == row.group.title
            assert row.status.score == max(member.score for member in row.group.members)
    if view.show_all:
        assert len(leaves) == len(statuses)
