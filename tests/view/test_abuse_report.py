from __future__ import annotations

import json

import msgspec
import pytest

from minerwatch.api.history import NodeHistory, Prices
from minerwatch.api.journal import AnyLine
from minerwatch.report.incidents import node_history
from minerwatch.view.abuse_report import ActionCount, Delay, Measured, Report, report
from tests.view.report_samples import (
    DAY_S,
    PRICES,
    SINCE_S,
    UNTIL_S,
    action,
    histories,
    made,
    verdict,
)


def of(*nodes: NodeHistory, prices: Prices | None = PRICES) -> Report:
    return report(nodes, (), since_s=SINCE_S, until_s=UNTIL_S, prices=prices)


def test_false_alarms_and_mere_suspicion_are_in_no_sum_of_abuse() -> None:
    found = made()
    assert found.total.incidents == 4
    assert found.false_alarms.incidents == 1
    assert found.suspicious.incidents == 1
    assert {each.owner for each in found.owners} == {
        "alice", "bob", "https://github.com/example-mallory/notebooks",
    }  # fmt: skip
    assert sum(each.incidents for each in found.abuses) == 4
    assert found.detection.known + found.detection.unknown == 4
    assert len(found.incidents) == 6


def test_costs_are_hours_times_price_and_unknown_where_hours_are() -> None:
    found = made()
    by_pod = {each.pod: each for each in found.incidents}
    assert by_pod["jupyter-alice"].cost == pytest.approx(12.0 * 0.04)
    short = by_pod["jupyter-mallory-2"]
    assert (short.cpu_hours, short.cost) == (None, None)
    assert found.total.without_cpu == 1
    assert found.total.cost == pytest.approx(sum(each.cost or 0 for each in found.owners))
    assert of(*histories(), prices=None).total.cost is None


def test_gpu_hours_cost_as_well_where_they_are_known() -> None:
    node = node_history([verdict("n", 1.0, "a", "likely")], SINCE_S, UNTIL_S)
    (incident,) = node.incidents
    with_gpu = msgspec.structs.replace(incident, gpu_hours=2.0, cpu_hours=None)
    found = of(msgspec.structs.replace(node, incidents=(with_gpu,)))
    assert (found.total.gpu_hours, found.total.cpu_hours, found.total.cost) == (2.0, None, 5.0)
    assert found.total.without_cpu == 1


def test_the_agents_prices_count_if_they_agree() -> None:
    first, second = histories()
    with_price = msgspec.structs.replace(first, prices=PRICES)
    also = msgspec.structs.replace(second, prices=PRICES)
    assert of(with_price, also, prices=None).prices == PRICES
    assert of(with_price, second, prices=None).prices is None
    other = Prices(core_hour=1.0)
    assert of(with_price, also, prices=other).prices == other


def test_an_action_counts_from_the_detection_on() -> None:
    lines: list[AnyLine] = [
        verdict("n", 1.0, "a", "suspicious"),
        verdict("n", 1.01, "a", "likely"),
        action("n", 1.02, "a", "label", "failed"),
        action("n", 1.03, "a", "evict"),
    ]
    found = of(node_history(lines, SINCE_S, UNTIL_S))
    assert found.action.median_s == pytest.approx(0.02 * DAY_S, abs=2)
    assert [(each.action, each.outcome) for each in found.actions] == [
        ("evict", "done"), ("label", "failed"),
    ]  # fmt: skip


def test_two_containers_of_one_pod_share_its_action() -> None:
    lines: list[AnyLine] = [
        verdict("n", 1.0, "a", "likely"),
        verdict("n", 1.0, "b", "likely", pod="jupyter-a", pod_uid="uid-a", container="second"),
        action("n", 1.1, "a", "evict"),
    ]
    found = of(node_history(lines, SINCE_S, UNTIL_S))
    assert [each.count for each in found.actions] == [1]


def test_a_namespace_is_looked_at_alone() -> None:
    assert made(namespace="binder").total.incidents == 4
    assert made(namespace="other").total.incidents == 0


def test_without_owners_each_pod_counts_for_itself() -> None:
    lines = [verdict("n", 1.0, key, "likely", owner="") for key in ("a", "b")]
    found = of(node_history(lines, SINCE_S, UNTIL_S))
    assert found.owner_count == 2
    assert {each.owner for each in found.owners} == {"n/jupyter-a", "n/jupyter-b"}


def test_what_is_missing_is_said_of_each_node() -> None:
    said = [f"{each.node}: {each.text}: {each.detail}" for each in made().notes]
    assert said[0] == "node-3: not in this report: CrashLoopBackOff"
    assert any("nothing was recorded for 12h25m in 2 gaps" in each for each in said)
    assert any("3 changes of level not recorded" in each for each in said)
    assert any("12 lines of the journal" in each and "ENOSPC" in each for each in said)
    assert any("crashed or was killed 1 time" in each for each in said)
    assert made().recorded_share == pytest.approx(0.963, abs=0.001)


def test_a_node_without_any_record_is_no_node_without_abuse() -> None:
    found = of(node_history([], SINCE_S, UNTIL_S))
    assert found.recorded_share == 0.0
    assert "nothing was recorded for 7d0h" in found.notes[0].text
    assert of().recorded_share is None


def test_figures_of_the_cluster_replace_those_by_incident() -> None:
    measured = Measured(
        detection=Delay(known=9, unknown=0, median_s=30.0, longest_s=None),
        actions=(ActionCount(action="evict", outcome="done", dry_run=False, count=7),),
        rules=(),
    )
    found = made(measured=measured, source="prometheus")
    assert (found.detection.median_s, found.actions[0].count, found.rules) == (30.0, 7, ())


def test_its_json_is_read_again_as_the_same() -> None:
    found = made()
    encoded = msgspec.json.encode(found)
    assert msgspec.json.decode(encoded, type=Report) == found
    assert {"version", "total", "owners", "incidents", "missing", "notes"} <= {*json.loads(encoded)}


def test_the_worst_come_first() -> None:
    levels = [(each.level, each.cpu_hours) for each in made().incidents]
    ranks = {"confirmed": 0, "likely": 1, "suspicious": 2}
    assert levels == sorted(levels, key=lambda each: (ranks[each[0]], -(each[1] or 0)))
