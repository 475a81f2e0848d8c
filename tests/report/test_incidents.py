from __future__ import annotations

import itertools
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.api.history import Incident, NodeHistory
from minerwatch.api.journal import ActionLine, AgentLine, AnyLine, Usage, VerdictLine, encode
from minerwatch.format import rfc3339, unix_s
from minerwatch.report.incidents import MAX_GAPS, MAX_INCIDENTS, node_history
from tests.view.test_journal_history import SINCE_S, UNTIL_S, WEEK_S, usage, verdict

HOUR_S = 3600.0


def changed(at_s: float, level: str, **changes: Any) -> VerdictLine:
    return msgspec.structs.replace(verdict(at_s, level), **changes)


def action(at_s: float, outcome: str = "done", **changes: Any) -> ActionLine:
    known = {
        "at": rfc3339(at_s), "node": "n", "id": "i", "namespace": "ns", "pod": "p", "pod_uid": "u",
        "owner": "alice", "action": "evict", "outcome": outcome, "dry_run": False,
    }  # fmt: skip
    return ActionLine(**{**known, **changes})


def only(lines: list[AnyLine], *actions: ActionLine) -> Incident:
    (found,) = node_history(lines, SINCE_S, UNTIL_S, actions).incidents
    return found


def test_an_incident_lasts_from_the_first_flag_to_the_end_and_has_its_worst_level() -> None:
    found = only(
        [
            changed(SINCE_S + 60, "suspicious", score=40.0),
            changed(SINCE_S + 120, "likely", score=88.0, delay_s=12.0, started=rfc3339(SINCE_S)),
            changed(SINCE_S + 180, "confirmed", score=95.0, image="worst"),
            changed(SINCE_S + 240, "likely", score=80.0, delay_s=99.0),
            changed(SINCE_S + 300, "gone", score=95.0, image="last"),
        ]
    )
    assert (found.level, found.score, found.abuse) == ("confirmed", 95.0, "mining")
    assert found.image == "worst"
    assert found.flagged == rfc3339(SINCE_S + 60)
    assert (found.detected, found.delay_s) == (rfc3339(SINCE_S + 120), 12.0)
    assert found.ended == rfc3339(SINCE_S + 300)


def test_one_that_returns_is_one_incident_and_has_not_ended() -> None:
    lines = [
        changed(SINCE_S + at_s, level)
        for at_s, level in ((60, "likely"), (120, "clear"), (180, "likely"))
    ]
    found = only([*lines])
    assert found.ended == ""
    assert found.detected == rfc3339(SINCE_S + 60)


def test_a_container_that_is_started_again_in_its_pod_is_one_incident() -> None:
    lines: list[AnyLine] = []
    for number in range(3):
        at_s = SINCE_S + 1000 * number
        lines.append(changed(at_s + 60, "likely", key=f"k{number}", cpu_hours=0.1))
        if number:  # the one before is seen to be gone after the next one was flagged
            gone = changed(at_s + 61, "gone", key=f"k{number - 1}", cpu_hours=0.3)
            lines.append(gone)
    used = Usage(key="k2", namespace="ns", pod="p", container="c", level="likely", cpu_cores=0.01)
    found = only([*lines, usage(SINCE_S + 3000, 300.0, used)])
    assert found.ended == ""
    assert found.cpu_hours == pytest.approx(2 * 0.2)
    ended = only([*lines, changed(SINCE_S + 4000, "gone", key="k2", cpu_hours=0.5)])
    assert ended.ended == rfc3339(SINCE_S + 4000)
    assert ended.cpu_hours == pytest.approx(2 * 0.2 + 0.4)


def test_a_usage_before_the_first_change_of_level_is_of_the_same_incident() -> None:
    used = Usage(key="k", namespace="ns", pod="p", container="c", level="likely", cpu_cores=2.0)
    found = only([usage(SINCE_S + 1800, 1800.0, used), changed(SINCE_S + 1860, "confirmed")])
    assert (found.level, found.cpu_hours, found.ended) == ("confirmed", 1.0, "")


def test_cpu_hours_of_before_the_time_are_not_counted() -> None:
    lines: list[AnyLine] = [
        changed(SINCE_S - 86400, "likely", cpu_hours=1.0),
        changed(SINCE_S + 60, "confirmed", cpu_hours=25.0),
        changed(SINCE_S + 3660, "gone", cpu_hours=26.0),
    ]
    assert only(lines).cpu_hours == 1.0


@pytest.mark.parametrize("level", ["clear", "gone"])
def test_what_ended_before_the_time_is_not_in_it_and_what_went_on_is(level: str) -> None:
    before = changed(SINCE_S - 7200, "likely")
    assert node_history([before, changed(SINCE_S - 60, level)], SINCE_S, UNTIL_S).incidents == ()
    assert only([before, changed(SINCE_S + 60, level)]).ended == rfc3339(SINCE_S + 60)
    assert only([before]).flagged == rfc3339(SINCE_S - 7200)


def test_cpu_hours_are_the_larger_of_two_bounds_and_unknown_without_any() -> None:
    flagged, ended = changed(SINCE_S + 60, "likely", cpu_hours=1.0), SINCE_S + 4000
    assert only([flagged]).cpu_hours is None, "one line says nothing of what came then"
    assert only([flagged, changed(ended, "gone", cpu_hours=3.5)]).cpu_hours == 2.5
    miner = Usage(key="k", namespace="ns", pod="p", container="c", level="likely", cpu_cores=4.0)
    used = usage(SINCE_S + 3600, 3600.0, miner)
    assert only([flagged, used, changed(ended, "gone", cpu_hours=3.5)]).cpu_hours == 4.0


def test_gpu_hours_and_energy_are_of_what_is_recorded_and_else_unknown() -> None:
    flagged, ended = changed(SINCE_S + 60, "likely"), SINCE_S + 3660
    found = only([flagged, changed(ended, "gone")])
    assert (found.gpu_hours, found.energy_kwh) == (None, None)
    miner = Usage(
        key="k", container="c", level="likely", cpu_cores=0.1, gpus=0.5, gpu_watts=700.0
    )  # fmt: skip
    lines: list[AnyLine] = [flagged, usage(SINCE_S + 3600, 1800.0, miner)]
    found = only(lines)
    assert (found.gpu_hours, found.energy_kwh) == (0.25, 0.35), "the gap before is in no figure"
    before = changed(SINCE_S + 60, "likely", gpu_hours=3.0, gpu_joules=1e6)
    after = changed(ended, "gone", gpu_hours=4.5, gpu_joules=8.2e6)
    found = only([before, *lines[1:], after])
    assert (found.gpu_hours, found.energy_kwh) == (1.5, 2.0), "the larger of two bounds"
    assert only([before, changed(ended, "gone")]).gpu_hours is None


def test_of_too_many_a_miner_on_a_gpu_stays_whose_cpu_is_idle() -> None:
    lines: list[AnyLine] = []
    for number in range(2 * MAX_INCIDENTS):
        busy = Usage(key=f"k{number}", container="c", level="likely", cpu_cores=1.0, gpus=0.01)
        lines.append(usage(SINCE_S + 300 * (number + 1), 300.0, busy))
    on_gpu = Usage(key="gpu", container="c", level="likely", cpu_cores=0.01, gpus=1.0)
    found = node_history([*lines[:700], usage(SINCE_S + 300 * 700.5, 150.0, on_gpu), *lines[701:]],
                         SINCE_S, UNTIL_S)  # fmt: skip
    assert found.unlisted
    assert found.unlisted_gpu_hours > 0
    assert "gpu" in {each.key for each in found.incidents}


def test_a_container_without_a_change_of_level_is_known_by_its_usage() -> None:
    miner = Usage(
        key="m", namespace="ns", pod="p", container="c", owner="alice", level="likely",
        cpu_cores=2.0,
    )  # fmt: skip
    found = only([usage(SINCE_S + 1800, 1800.0, miner), usage(SINCE_S + 3600, 1800.0, miner)])
    assert (found.level, found.owner, found.cpu_hours) == ("likely", "alice", 2.0)
    assert (found.abuse, found.score, found.rules, found.started) == ("", None, (), "")
    assert found.ended == rfc3339(SINCE_S + 3600), "seen last"


def test_actions_are_those_of_the_pod_in_this_time_each_once() -> None:
    found = only(
        [
            changed(SINCE_S + 60, "confirmed"),
            action(SINCE_S - 60, id="before"),
            action(SINCE_S + 70, pod="other", pod_uid="other", id="other"),
            action(SINCE_S + 90),
        ],
        action(SINCE_S + 90),
        action(SINCE_S + 80, "failed", id="j"),
    )
    assert [(each.outcome, each.at) for each in found.actions] == [
        ("failed", rfc3339(SINCE_S + 80)),
        ("done", rfc3339(SINCE_S + 90)),
    ]


def test_on_a_host_actions_are_found_by_name() -> None:
    unit = changed(SINCE_S + 60, "likely", pod="", namespace="", pod_uid="", container="x.service")
    done = action(SINCE_S + 90, pod="x.service", namespace="", pod_uid="made-up")
    assert len(only([unit, done]).actions) == 1


def test_gaps_and_days_without_a_record_are_shown() -> None:
    lines = [usage(SINCE_S + n * 300.0) for n in range(1, 13)]
    found = node_history(lines, SINCE_S, UNTIL_S)
    assert [(gap.since, gap.until) for gap in found.gaps] == [
        (rfc3339(SINCE_S + HOUR_S), rfc3339(UNTIL_S))
    ]
    assert found.recorded_s == HOUR_S
    assert len(found.days) == 8
    assert [each.recorded_s for each in found.days[1:]] == [0.0] * 7
    empty = node_history([], SINCE_S, UNTIL_S)
    assert (empty.recorded_s, len(empty.gaps)) == (0.0, 1)


def test_of_many_gaps_the_longest_are_listed_in_the_order_of_time() -> None:
    lines = [usage(SINCE_S + n * 1000.0, 300.0) for n in range(1, 300)]
    found = node_history(lines, SINCE_S, UNTIL_S)
    assert len(found.gaps) == MAX_GAPS
    assert found.unlisted_gaps == 200
    assert [*found.gaps] == sorted(found.gaps, key=lambda gap: gap.since)
    assert found.gaps[-1].until == rfc3339(UNTIL_S), "the longest"


def test_lost_changes_and_crashes_are_counted() -> None:
    lines: list[AnyLine] = [
        AgentLine(at=rfc3339(SINCE_S + at_s), node="n", event=event, version="1")
        for at_s, event in ((-60, "start"), (60, "start"), (90, "stop"), (99, "start"))
    ]
    lines += [verdict(SINCE_S + 100, left_out=2), verdict(SINCE_S + 200, left_out=3)]
    found = node_history(lines, SINCE_S, UNTIL_S)
    assert (found.crashes, found.left_out) == (1, 5)


def test_a_tenant_with_thousands_of_incidents_pushes_none_of_others_out() -> None:
    lines: list[AnyLine] = [
        changed(SINCE_S + 1, "likely", key="victim", pod_uid="v", namespace="other")
    ]
    lines += [
        changed(SINCE_S + n, "suspicious", key=f"s{n}", pod_uid=f"s{n}", namespace=f"n{n}")
        for n in range(2, 1500)
    ]
    lines += [
        changed(SINCE_S + n, "confirmed", key=f"c{n}", pod_uid=f"c{n}", namespace="noisy")
        for n in range(1500, 3300)
    ]
    used = [
        Usage(key=f"c{n}", namespace="noisy", container="c", level="confirmed", cpu_cores=1.0)
        for n in range(1500, 3300)
    ]
    lines += [usage(SINCE_S + 4000 + n * 300, 300.0, *used[n::9]) for n in range(9)]
    found = node_history(lines, SINCE_S, UNTIL_S)
    assert len(found.incidents) == MAX_INCIDENTS
    assert "victim" in {each.key for each in found.incidents}
    assert found.unlisted == 1 + 1498 + 1800 - MAX_INCIDENTS, "each once"


numbers = st.floats(allow_nan=False, allow_infinity=False)
levels = st.sampled_from(("clear", "suspicious", "likely", "confirmed", "gone", "other"))
times = st.floats(-WEEK_S, 2 * WEEK_S)


@given(
    verdicts=st.lists(
        st.tuples(times, levels, st.sampled_from(("a", "ab", "b", "c")), numbers), max_size=30
    ),
    used=st.lists(st.tuples(times, numbers, levels, st.sampled_from("abc"), numbers), max_size=30),
)
def test_whatever_is_recorded_sums_are_finite_and_cover_the_time(
    verdicts: list[tuple[float, str, str, float]],
    used: list[tuple[float, float, str, str, float]],
) -> None:
    lines: list[AnyLine] = [
        changed(SINCE_S + at_s, level, key=key, pod_uid=key[:1], cpu_hours=value, score=value)
        for at_s, level, key, value in verdicts
    ]
    lines += [
        usage(SINCE_S + at_s, seconds, Usage(key=key, container="c", level=level, cpu_cores=cores))
        for at_s, seconds, level, key, cores in used
    ]
    lines.sort(key=lambda line: line.at)
    found = node_history(lines, SINCE_S, UNTIL_S)
    assert msgspec.json.decode(msgspec.json.encode(found), type=NodeHistory) == found
    gaps_s = sum((unix_s(gap.until) or 0) - (unix_s(gap.since) or 0) for gap in found.gaps)
    assert found.recorded_s + gaps_s == pytest.approx(WEEK_S, abs=2 * len(found.gaps) + 1)
    assert sum(day.recorded_s for day in found.days) == pytest.approx(found.recorded_s, abs=1)
    for each in found.incidents:
        assert each.level in ("suspicious", "likely", "confirmed")
        assert each.cpu_hours is None or 0 <= each.cpu_hours <= 1e9
    for before, after in itertools.pairwise(found.days):
        assert before.date < after.date


def test_no_line_of_the_journal_holds_a_key_that_older_versions_lack() -> None:
    """Lines without later keys are read, and agents of the version before read the new ones."""
    line = json.loads(encode(verdict(SINCE_S)))
    for later in ("delay_s", "gpu_hours", "gpu_joules"):
        assert line.pop(later) is None
    assert msgspec.convert(line, VerdictLine) == verdict(SINCE_S)
