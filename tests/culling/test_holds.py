from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from minerwatch.culling.holds import Holds
from minerwatch.detection.judge import MAX_GAP_TICKS
from minerwatch.model import (
    ContainerKey,
    Level,
    Maturity,
    ProcessId,
    Signal,
    Verdict,
)
from tests.builders import make_container, make_finding, make_verdict

CONTAINER = make_container()
KEY = CONTAINER.key
INTERVAL_S = 10.0
GAP_S = MAX_GAP_TICKS * INTERVAL_S


def verdict(at_s: float, pid: int = 7, *, rules: tuple[str, ...] = ("name", "code")) -> Verdict:
    findings = (
        make_finding(Signal.COMPUTE, 60, rule=rule, process=ProcessId(pid, pid)) for rule in rules
    )
    return make_verdict(CONTAINER, *findings, at_s=at_s, level=Level.CONFIRMED)


def seen(*verdicts: Verdict) -> Holds:
    holds = Holds()
    for each in verdicts:
        holds.update([each], each.at_s, INTERVAL_S)
    return holds


def test_the_time_that_was_watched_counts() -> None:
    held = seen(*(verdict(at_s) for at_s in range(100, 401, 10))).of(KEY)
    assert held.by_container == {"name": 300, "code": 300}
    assert held.by_process == {("name", ProcessId(7, 7)): 300, ("code", ProcessId(7, 7)): 300}


def test_two_sightings_with_nothing_between_are_no_time() -> None:
    assert seen(verdict(100), verdict(500)).of(KEY).by_container == {"name": 0, "code": 0}


def test_what_is_no_longer_seen_is_forgotten() -> None:
    holds = seen(verdict(100), verdict(110))
    holds.update([], 110 + GAP_S, INTERVAL_S)
    assert holds.of(KEY).by_container == {"name": 10, "code": 10}
    holds.update([], 111 + GAP_S, INTERVAL_S)
    assert holds.of(KEY).by_container == {}
    assert holds.of(ContainerKey("/other", 1)).by_container == {}


def test_a_program_that_is_started_again_holds_by_container() -> None:
    """``while true; do timeout 240 …; done``: no process lives for five minutes."""
    held = seen(*(verdict(at_s, pid=at_s // 240) for at_s in range(240, 1441, 10))).of(KEY)
    assert held.by_container == {"name": 1200, "code": 1200}
    assert max(held.by_process.values()) < 240


def test_each_rule_holds_for_itself() -> None:
    one = [verdict(at_s, rules=("name",)) for at_s in range(0, 301, 10)]
    both = [verdict(at_s) for at_s in range(310, 351, 10)]
    assert seen(*one, *both).of(KEY).by_container == {"name": 350, "code": 40}


def test_behaviour_and_rules_on_trial_hold_nothing() -> None:
    def changed(each: Verdict) -> Verdict:
        trial = replace(each.findings[0], maturity=Maturity.TEST)
        busy = replace(each.findings[1], signal=Signal.BEHAVIOUR)
        return replace(each, findings=(trial, busy))

    assert seen(*(changed(verdict(at_s)) for at_s in (0, 10, 20))).of(KEY).by_container == {}


@given(st.lists(st.floats(0, 60, allow_nan=False), max_size=60))
def test_no_more_is_held_than_was_watched(steps_s: list[float]) -> None:
    at_s, watched_s, verdicts = 1000.0, 0.0, [verdict(1000.0)]
    for step_s in steps_s:
        at_s += step_s
        watched_s = watched_s + step_s if step_s <= GAP_S else 0.0
        verdicts.append(verdict(at_s))
    held = seen(*verdicts).of(KEY)
    assert all(abs(value - watched_s) < 1e-6 for value in held.by_container.values())


def test_a_short_pause_does_not_start_the_time_again() -> None:
    """A miner that rests for 40 s each five minutes is watched nearly all the time."""
    holds, longest_s = Holds(), 0.0
    for at_s in range(0, 3600, 10):
        holds.update([verdict(at_s)] if at_s % 320 < 280 else [], at_s, INTERVAL_S)
        longest_s = max(longest_s, holds.of(KEY).by_container.get("code", 0.0))
    assert longest_s > 1800


def test_what_pauses_more_than_it_works_is_never_held_for_long() -> None:
    holds, longest_s = Holds(), 0.0
    for at_s in range(0, 3600, 10):
        holds.update([verdict(at_s)] if at_s % 320 < 140 else [], at_s, INTERVAL_S)
        longest_s = max(longest_s, holds.of(KEY).by_container.get("code", 0.0))
    assert longest_s < 150


def test_a_gap_in_the_watching_starts_the_time_again() -> None:
    holds = seen(*(verdict(at_s) for at_s in range(100, 401, 10)))
    holds.update([verdict(401 + GAP_S)], 401 + GAP_S, INTERVAL_S)
    assert holds.of(KEY).by_container == {"name": 0, "code": 0}
