from __future__ import annotations

from collections import Counter
from pathlib import Path

from minerwatch.agent.self_report import HEALTHY, MAX_RATE, RecentFailures, counts

SOURCE = ("connections", "permission")


def failing(recent: RecentFailures, at_s: float, count: int) -> list[tuple[str, str, int, float]]:
    return list(recent.failing(at_s, Counter({SOURCE: count})))


def test_what_fails_often_is_named_with_its_count() -> None:
    recent = RecentFailures(0.0)
    assert failing(recent, 30.0, 0) == []
    assert failing(recent, 30.0, 3) == []  # as much as a minute may have
    assert failing(recent, 30.0, 4) == [(*SOURCE, 4, 60.0)]
    assert failing(recent, 600.0, 30) == []
    assert failing(recent, 600.0, 31) == [(*SOURCE, 31, 600.0)]


def test_failures_of_long_ago_do_not_count() -> None:
    recent = RecentFailures(0.0)
    for at_s in range(0, 3601, 10):
        recent.add(float(at_s), lambda: [(*SOURCE, 5000)])
    assert failing(recent, 3600.0, 5000) == []
    assert failing(recent, 3600.0, 5100) == [(*SOURCE, 100, 900.0)]


def test_healthy_reasons_and_clients_fail_nothing() -> None:
    recent = RecentFailures(0.0)
    now = counts(
        [("processes", "deferred", 999), ("executed_code", "hot crowded", 999), ("http", "x", 999)]
    )
    assert list(recent.failing(60.0, now)) == []


def test_one_source_may_report_a_reason_twice() -> None:
    assert counts([(*SOURCE, 1), (*SOURCE, 2)]) == {SOURCE: 3}


def test_the_alert_means_the_same() -> None:
    rules = Path(__file__).parents[2] / "deploy" / "prometheus" / "minerwatch.rules.yml"
    alert = rules.read_text().partition("MinerwatchProbeFailing")[2]
    assert f'reason!~"{HEALTHY.pattern}"' in alert
    assert f") > {MAX_RATE}\n" in alert
