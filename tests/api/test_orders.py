from __future__ import annotations

import pytest

from minerwatch.api import orders
from minerwatch.api.orders import CullOrder, HoursOrder, ReleaseAllOrder, ReleaseOrder
from minerwatch.api.types import CullAnswer, ReleaseAllAnswer, ReleaseAnswer
from minerwatch.errors import OrderError
from minerwatch.model import Action
from tests.report.samples import MINER


def test_an_order_names_its_container_by_all_three() -> None:
    order = orders.cull_order(MINER, Action.STOP, dry_run=True)
    assert orders.decode(orders.encode(order), CullOrder) == order
    assert (order.cgroup, order.container_id, order.pod_uid) == (
        MINER.cgroup, MINER.container_id, MINER.pod_uid,
    )  # fmt: skip
    released = orders.release_order(MINER)
    assert orders.decode(orders.encode(released), ReleaseOrder) == released


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[]", b"{}", b"[" * 100_000, b"\xff",
        b'{"cgroup": "/a", "container_id": "b", "pod_uid": "c"}',
        b'{"cgroup": "/a", "container_id": "b", "pod_uid": "c", "action": "nuke"}',
        b'{"cgroup": "/a", "container_id": "b", "pod_uid": "c", "action": "kill", "force": true}',
        b'{"cgroup": "/a", "container_id": 7, "pod_uid": "c", "action": "kill"}',
        b'{"cgroup": "' + b"a" * 5000 + b'", "container_id": "", "pod_uid": "", "action": "kill"}',
    ],
)  # fmt: skip
def test_what_is_no_order_is_refused(body: bytes) -> None:
    with pytest.raises(OrderError, match="invalid order"):
        orders.decode(body, CullOrder)


def test_to_release_all_is_to_keep_acting_and_remembering_unless_said() -> None:
    assert orders.decode(b"{}", ReleaseAllOrder) == ReleaseAllOrder("", retire=False, forget=False)
    with pytest.raises(OrderError, match="invalid order"):
        orders.decode(b'{"forget": "yes"}', ReleaseAllOrder)


@pytest.mark.parametrize("hours", ["0", "-1", "1e9", '"7"'])
def test_hours_are_within_bounds(hours: str) -> None:
    with pytest.raises(OrderError):
        orders.decode(f'{{"hours": {hours}}}'.encode(), HoursOrder)


def test_an_answer_that_cannot_be_understood_says_so() -> None:
    with pytest.raises(OrderError, match="cannot be parsed"):
        orders.answer_of(b"{}", CullAnswer)
    with pytest.raises(OrderError, match="cannot be parsed"):
        orders.answer_of(b"<html>", ReleaseAnswer)
    with pytest.raises(OrderError, match="cannot be parsed"):
        orders.answer_of(b"{}", ReleaseAllAnswer)


def test_answers_come_back_as_they_went() -> None:
    answer = CullAnswer("n", "ns", "p", "c", "o", "confirmed", 95.0, "stop", True, True, (), "r")
    assert orders.answer_of(orders.encode(answer), CullAnswer) == answer
