from __future__ import annotations

from minerwatch.report.log import PER_CONTAINER, PER_NAMESPACE, LogLimit, Rate

DAY_S = 86400


def test_a_container_that_flips_all_day_has_some_lines_an_hour() -> None:
    limit = LogLimit()
    logged = [
        limit.lines_before("c", "ns", level, at_s)
        for at_s in range(0, DAY_S, 10)
        for level in ("likely", "clear")
    ]
    told = [each for each in logged if each is not None]
    assert len(told) <= PER_CONTAINER.burst + 24 * PER_CONTAINER.per_hour + 2 * 24
    assert limit.left_out == len(logged) - len(told)
    assert limit.lines_before("c", "ns", "likely", 2 * DAY_S) == limit.left_out - sum(told)


def test_the_next_line_says_how_many_were_left_out() -> None:
    limit = LogLimit(Rate(1, 60), PER_NAMESPACE)
    assert limit.lines_before("c", "ns", "likely", 0) == 0
    assert limit.lines_before("c", "ns", "likely", 1) is None
    assert limit.lines_before("c", "ns", "likely", 2) is None
    assert limit.lines_before("c", "ns", "likely", 90) == 2


def test_a_level_that_was_not_told_lately_is_told() -> None:
    limit = LogLimit(Rate(1, 1), PER_NAMESPACE)
    assert limit.lines_before("c", "ns", "suspicious", 0) == 0
    assert limit.lines_before("c", "ns", "suspicious", 1) is None
    assert limit.lines_before("c", "ns", "confirmed", 2) == 1
    assert limit.lines_before("c", "ns", "confirmed", 3) is None


def test_others_are_told_of_whatever_one_does() -> None:
    limit = LogLimit()
    for number in range(5000):
        limit.lines_before(f"c{number}", "noisy", "likely", 0)
    assert limit.left_out == 5000 - PER_NAMESPACE.burst
    assert limit.lines_before("c", "quiet", "likely", 0) == 0


def test_what_is_remembered_is_bounded() -> None:
    limit = LogLimit(Rate(1, 1), Rate(1, 1))
    for number in range(4097):
        assert limit.lines_before(f"c{number}", f"ns{number}", "likely", 0) == 0
    assert limit.lines_before("c1", "ns1", "likely", 0) is None
    assert limit.lines_before("c0", "ns0", "likely", 0) == 0  # forgotten
