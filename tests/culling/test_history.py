"""What the agent remembers of its actions, also over restarts and boots."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.config.values import DRY_RUN, OFF
from minerwatch.culling.decision import Reason
from minerwatch.culling.history import KEPT_S, MAX_RECORDS, History
from minerwatch.culling.policy import decide
from minerwatch.culling.records import HOUR_S, ActionRecord, Moment
from minerwatch.model import (
    Action,
    Outcome,
)
from tests.culling.test_policy import (
    CASE,
    DECISION,
    MINER,
    NOW,
    POD,
    SETTINGS,
    acted,
    begun,
    history,
    later,
    moments,
    with_settings,
)


def test_only_what_acts_begins_and_only_once() -> None:
    past = history()
    with pytest.raises(ValueError, match="nothing"):
        past.begin(decide(CASE, with_settings(mode=OFF), past, NOW), NOW)
    past.begin(DECISION, NOW)
    with pytest.raises(ValueError, match="already"):
        past.begin(DECISION, NOW)


def test_only_what_is_pending_is_settled() -> None:
    past, record = begun()
    settled = past.finish(record.id, Outcome.REFUSED)
    assert settled is not None
    assert settled.outcome is Outcome.REFUSED
    assert past.finish(record.id, Outcome.DONE) is None
    assert past.finish("never", Outcome.DONE) is None
    assert past.records()[1:] == (settled,)


def test_dry_runs_count_for_dry_runs_only() -> None:
    past = history()
    dry = decide(CASE, with_settings(mode=DRY_RUN), past, NOW)
    for ago_s in (3000, 2000, 1000):
        past.finish(past.begin(dry, later(-ago_s)).id, Outcome.DRY_RUN)
    assert decide(CASE, SETTINGS, past, NOW).action is Action.KILL
    again = decide(CASE, with_settings(mode=DRY_RUN), past, NOW)
    assert again.reasons == (Reason.NODE_BUDGET_SPENT,)
    assert again.proposed is Action.EVICT


def lines(records: Iterable[ActionRecord]) -> list[bytes]:
    return [msgspec.json.encode(record) for record in records]


def restored(written: Iterable[bytes], now: Moment) -> History:
    return History.restored((msgspec.json.decode(line, type=ActionRecord) for line in written), now)


def test_a_restart_remembers_what_the_audit_log_says() -> None:
    past = history()
    pending = past.begin(DECISION, later(-1000))
    other = replace(DECISION, pod_uid="x")
    begun_too = past.begin(other, later(-900))
    done = past.finish(begun_too.id, Outcome.DONE)
    assert done is not None
    again = restored(lines([pending, begun_too, done]), NOW)
    assert [record.outcome for record in again.records()] == [Outcome.UNKNOWN, Outcome.DONE]
    assert again.spent(NOW, dry_run=False) == 2
    assert again.last_try_s("uid-1", NOW, dry_run=False) == 1000
    assert not again.has_pending(pending.id)


def test_a_log_that_does_not_reach_back_for_an_hour_permits_nothing() -> None:
    assert decide(CASE, SETTINGS, restored([], NOW), NOW).reasons == (Reason.MEMORY_LOST,)
    new = lines(History.started("node-1", later(-3599)).records())
    assert decide(CASE, SETTINGS, restored(new, NOW), NOW).reasons == (Reason.MEMORY_LOST,)
    assert decide(CASE, SETTINGS, restored(new, later(1)), later(1)).acts
    booted = Moment(NOW.unix_s, 3599.0, "another")
    assert not restored(new, booted).knows_last_hour(booted)
    assert restored(new, later(1, booted)).knows_last_hour(later(1, booted))


def test_a_wall_clock_that_jumps_frees_no_budget() -> None:
    past = history()
    record = acted(past, 1000)
    jumped = replace(NOW, unix_s=NOW.unix_s + 1e6)
    assert past.spent(jumped, dry_run=False) == 1
    assert restored(lines([record]), jumped).spent(jumped, dry_run=False) == 1
    back = replace(NOW, unix_s=NOW.unix_s - 1e6)
    assert restored(lines([record]), back).spent(later(2600, back), dry_run=False) == 0


def test_after_a_boot_only_the_time_since_then_is_certain() -> None:
    record = acted(history(), 1000)
    for unix_s in (NOW.unix_s - 1e6, NOW.unix_s, NOW.unix_s + 1e6):
        booted = Moment(unix_s, 60.0, "another")
        again = restored(lines([record]), booted)
        assert again.spent(booted, dry_run=False) == 1
        assert again.last_try_s("uid-1", booted, dry_run=False) == 60
        assert again.spent(later(HOUR_S - 61, booted), dry_run=False) == 1
        assert again.spent(later(HOUR_S - 60, booted), dry_run=False) == 0


def test_the_old_is_forgotten() -> None:
    past = History.started("node-1", later(-2 * KEPT_S))
    acted(past, KEPT_S)
    kept = acted(past, 0, pod=replace(POD, uid="x"))
    assert past.records() == (kept,)


def test_what_no_budget_counts_is_forgotten_first() -> None:
    past = history()
    kept = [acted(past, 7000), past.release(DECISION, later(-6999))]
    idle = acted(past, 6000, Outcome.WITHDRAWN)
    more = (msgspec.structs.replace(idle, id=str(number)) for number in range(MAX_RECORDS))
    past = History.restored((*kept, *more), NOW)
    for ago_s in (30, 20, 10):
        acted(past, ago_s, Outcome.WITHDRAWN)
        assert len(past.records()) == MAX_RECORDS
        assert set(kept) <= set(past.records())
    many = (msgspec.structs.replace(kept[0], id=str(number)) for number in range(3 * MAX_RECORDS))
    assert len(History.restored(many, NOW).records()) == MAX_RECORDS


def test_what_may_stand_still_is_known_after_a_restart() -> None:
    past = history()
    pods = [replace(POD, uid=f"uid-{number}") for number in range(6)]
    outcomes = (
        Outcome.DONE, Outcome.UNKNOWN, Outcome.FAILED, Outcome.WITHDRAWN, Outcome.DRY_RUN,
        Outcome.DONE,
    )  # fmt: skip
    for pod, outcome in zip(pods, outcomes, strict=True):
        acted(past, 7200, outcome, pod, action=Action.STOP)
    acted(past, 7200, pod=replace(POD, uid="killed"))
    past.release(replace(DECISION, pod_uid="uid-5"), NOW)
    known = {("uid-0", MINER), ("uid-1", MINER), ("uid-2", MINER), ("uid-5", MINER)}
    assert set(past.stopped("boot")) == known
    assert set(restored(lines(past.records()), NOW).stopped("boot")) == known
    assert past.stopped("another") == ()  # pids and start times are another boot's


def test_a_log_that_goes_on_tells_how_far_the_one_before_reached() -> None:
    past = history()
    anchor = past.anchor("node-1", NOW)
    assert (anchor.outcome, anchor.monotonic_s) == (Outcome.STARTED, NOW.monotonic_s - 2 * HOUR_S)
    assert anchor.unix_s == NOW.unix_s - 2 * HOUR_S
    assert restored(lines([anchor]), NOW).knows_last_hour(NOW)
    young = History.started("node-1", later(-10)).anchor("node-1", NOW)
    assert not restored(lines([young]), NOW).knows_last_hour(NOW)


@given(st.lists(st.tuples(moments, st.sampled_from(Outcome)), max_size=20), moments)
def test_any_history_is_restored_whole(written: list[tuple[Moment, Outcome]], now: Moment) -> None:
    records = [
        ActionRecord(
            str(number), moment.unix_s, moment.monotonic_s, moment.boot_id, "n", "ns", "p",
            f"uid-{number}", "", Action.KILL, 0, False, outcome,
        )
        for number, (moment, outcome) in enumerate(written)
    ]  # fmt: skip
    again = restored(lines(records), now)
    assert set(again.records()) <= {
        msgspec.structs.replace(record, outcome=Outcome.UNKNOWN)
        if record.outcome is Outcome.PENDING
        else record
        for record in records
    }
    assert again.spent(now, dry_run=True) <= len(records)
    for record in again.records():
        last_s = again.last_try_s(record.pod_uid, now, dry_run=False)
        assert last_s is None or last_s >= 0
