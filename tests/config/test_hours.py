from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.config.hours import DAYS, Hours, hours
from minerwatch.errors import ConfigError


def unix_s(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


# 2027-01-15 is a Friday.
@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("mon-fri 09:00-17:00", "2027-01-15T09:00"),
        ("mon-fri 09:00-17:00", "2027-01-15T16:59:59.999"),
        ("09:00-17:00", "2027-01-16T12:00"),
        ("00:00-24:00", "2027-01-16T23:59"),
        ("sat,sun 10:00-12:00", "2027-01-17T11:00"),
        ("fri-mon 10:00-12:00", "2027-01-18T11:00"),
        ("Fri 22:00-06:00", "2027-01-15T23:00"),
        ("fri 22:00-06:00", "2027-01-16T05:59"),
        ("sun 22:00-06:00", "2027-01-18T05:59"),
        ("sun 22:00-00:00", "2027-01-17T23:59"),
        ("thu 00:00-24:00", "1970-01-01T00:00"),
        ("wed 00:00-24:00", "1969-12-31T23:59"),
    ],
)
def test_it_is_within(text: str, moment: str) -> None:
    assert hours(text).include(unix_s(moment))


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("mon-fri 09:00-17:00", "2027-01-15T17:00"),
        ("mon-fri 09:00-17:00", "2027-01-15T08:59:59"),
        ("mon-fri 09:00-17:00", "2027-01-16T12:00"),
        ("fri 22:00-06:00", "2027-01-15T05:00"),
        ("fri 22:00-06:00", "2027-01-16T06:00"),
        ("fri 22:00-06:00", "2027-01-16T23:00"),
        ("sun 22:00-00:00", "2027-01-18T00:00"),
        ("fri-mon 10:00-12:00", "2027-01-19T11:00"),
    ],
)
def test_it_is_not_within(text: str, moment: str) -> None:
    assert not hours(text).include(unix_s(moment))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "always",
        "9-17",
        "09:00",
        "25:00-26:00",
        "09:60-10:00",
        "09:00-24:01",
        "24:00-06:00",
        "09:00-09:00",
        "today 09:00-10:00",
        "mon- 09:00-10:00",
        "mon-fri-sat 09:00-10:00",
        "mon, 09:00-10:00",
        600,
    ],
)
def test_what_is_no_span_of_hours_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        hours(text)


@given(
    st.sampled_from(DAYS),
    st.integers(0, 1439),
    st.integers(1, 1440),
    st.floats(-1e9, 1e11, allow_nan=False),
)
def test_a_week_later_nothing_has_changed(day: str, start: int, end: int, at_s: float) -> None:
    if start == end:
        return
    span = hours(f"{day} {start // 60:02}:{start % 60:02}-{end // 60:02}:{end % 60:02}")
    assert isinstance(span, Hours)
    minute_s = at_s // 60 * 60 + 30
    assert span.include(minute_s) is span.include(minute_s + 7 * 86400)
