from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.config.hours import hours
from minerwatch.config.schema import Exemption
from minerwatch.culling.context import AgentClock
from minerwatch.culling.decision import Reason
from minerwatch.culling.history import History
from minerwatch.culling.policy import decide
from minerwatch.culling.records import Moment
from tests.culling.test_policy import CASE, NOW, POD, SETTINGS

CASE_POD = POD.name
YEAR_S = 365 * 86400


class SteadyClock:
    """An agent's clock on a node whose clocks are set by hand."""

    def __init__(self) -> None:
        self._reading = NOW
        self._clock = AgentClock(lambda: self._reading, lambda: None)

    def unix_s(self, wall_unix_s: float, monotonic_s: float) -> float:
        self._reading = Moment(wall_unix_s, monotonic_s, "boot")
        return self._clock.now().unix_s


@pytest.mark.parametrize("step_s", [YEAR_S, 3600, 60, -60, -3600, -YEAR_S])
def test_a_step_is_not_followed_for_an_hour(step_s: float) -> None:
    clock = SteadyClock()
    assert clock.unix_s(1_800_000_000, 1000) == 1_800_000_000
    for later_s in range(10, 3610, 10):
        shown = clock.unix_s(1_800_000_000 + later_s + step_s, 1000 + later_s)
        assert shown == 1_800_000_000 + later_s
    assert clock.unix_s(1_800_003_610 + step_s, 4610) == 1_800_003_610 + step_s


def test_a_clock_that_is_slewed_is_followed() -> None:
    clock = SteadyClock()
    for second in range(1000):
        assert (
            clock.unix_s(1_800_000_000 + second * 1.001, second) == 1_800_000_000 + second * 1.001
        )


def test_a_step_that_is_taken_back_was_none() -> None:
    clock = SteadyClock()
    clock.unix_s(1_800_000_000, 0)
    for second in range(0, 20_000, 10):
        step_s = YEAR_S if second % 3000 < 1500 else 0
        assert clock.unix_s(1_800_000_000 + second + step_s, second) == 1_800_000_000 + second


@given(st.lists(st.tuples(st.floats(0, 4e9), st.floats(0, 100)), min_size=1))
def test_the_time_of_day_never_runs_backwards_within_an_hour_but_by_slewing(
    readings: list[tuple[float, float]],
) -> None:
    clock, at_s, before = SteadyClock(), 0.0, None
    for wall_s, elapsed_s in readings[:30]:  # 50 minutes at most
        at_s += elapsed_s
        shown = clock.unix_s(wall_s, at_s)
        if before is not None:
            assert shown >= before - 5.001
        before = shown


def test_what_a_step_would_have_changed_stays() -> None:
    """An exemption until tomorrow, active hours, and the age of a pod, all by the steady clock."""
    tomorrow = (datetime.fromtimestamp(NOW.unix_s, UTC) + timedelta(days=1)).date()
    exemption = Exemption(reason="a course", until=tomorrow, pods=(CASE_POD,))
    settings = msgspec.structs.replace(SETTINGS, exemptions=(exemption,))
    clock = SteadyClock()
    clock.unix_s(NOW.unix_s, NOW.monotonic_s)
    stepped_s = clock.unix_s(NOW.unix_s + YEAR_S, NOW.monotonic_s + 1)
    now = Moment(stepped_s, NOW.monotonic_s + 1, NOW.boot_id)
    assert Reason.EXEMPT in decide(CASE, settings, History(0.0), now).reasons
    ended = Moment(NOW.unix_s + YEAR_S, NOW.monotonic_s + 1, NOW.boot_id)
    assert Reason.EXEMPT not in decide(CASE, settings, History(0.0), ended).reasons
    assert hours("fri 08:00-09:00").include(stepped_s)
