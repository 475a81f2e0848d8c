from __future__ import annotations

from datetime import timedelta

import pytest

from minerwatch.format import age, by_signal, byte_size, counted, one_decimal, percent
from tests.report.samples import NOW


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-5, "0s"),
        (0, "0s"),
        (59, "59s"),
        (60, "1m"),
        (3599, "59m"),
        (3600, "1h00m"),
        (12_300, "3h25m"),
        (86_399, "23h59m"),
        (187_200, "2d4h"),
    ],
)
def test_age_in_its_one_or_two_largest_units(seconds: int, shown: str) -> None:
    since = (NOW - timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
    assert age(since, NOW) == shown


@pytest.mark.parametrize("since", ["", "yesterday", "2026-11-23", "2026-11-23T02:00:00", "\x1b[2J"])
def test_a_time_that_is_none_has_no_age(since: str) -> None:
    assert age(since, NOW) == "?"


@pytest.mark.parametrize(
    ("size_bytes", "shown"),
    [(0, "0 KiB"), (812 << 10, "812 KiB"), (57 << 20, "57 MiB"), (1536 << 20, "1.5 GiB")],
)
def test_sizes_in_their_largest_unit(size_bytes: int, shown: str) -> None:
    assert byte_size(size_bytes) == shown


def test_each_signal_is_named_once_with_its_first_title() -> None:
    found = [("identity", "a"), ("compute", "b"), ("identity", "c")]
    assert by_signal(found) == "identity ×2: a; compute: b"
    assert by_signal([]) == ""


def test_shares_and_counts() -> None:
    assert (percent(None), percent(0.0), percent(0.994)) == ("-", "0%", "99%")
    assert counted(1, "process", "processes") == "1 process"
    assert counted(2345, "process", "processes") == "2,345 processes"
    assert counted(0, "container") == "0 containers"


@pytest.mark.parametrize(
    ("score", "shown"),
    [(69.99, "69.9"), (70.0, "70.0"), (89.99, "89.9"), (88.4, "88.4"), (0, "0.0")],
)
def test_no_rounding_lifts_a_score_to_the_next_level(score: float, shown: str) -> None:
    assert one_decimal(score) == shown
