from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.api.journal import (
    ActionLine,
    AgentLine,
    AnyLine,
    RuleScore,
    Usage,
    UsageLine,
    VerdictLine,
)
from minerwatch.format import rfc3339
from minerwatch.report.intervals import intervals
from minerwatch.view.journal_history import BUCKET_S, history

SINCE_S = 1_795_000_000.0
WEEK_S = 7 * 86400.0
UNTIL_S = SINCE_S + WEEK_S


def usage(at_s: float, seconds: float = 300.0, *used: Usage, cpu_cores: float = 1.0) -> UsageLine:
    return UsageLine(
        at=rfc3339(at_s), node="n", seconds=seconds, cores=4, cpu_cores=cpu_cores,
        flagged_cpu_cores=sum(each.cpu_cores for each in used if each.level != "clear"),
        containers=used,
    )  # fmt: skip


def verdict(at_s: float, level: str = "likely", left_out: int = 0) -> VerdictLine:
    return VerdictLine(
        at=rfc3339(at_s), node="n", key="k", namespace="ns", pod="p", pod_uid="u", container="c",
        container_id="i", image="", owner="alice", level=level, previous="clear", score=88.0,
        abuse="mining", since=rfc3339(at_s), started="", cpu_cores=1.0, cpu_hours=2.0,
        rules=(RuleScore("r", "title", "identity", 88.0),), left_out=left_out,
    )  # fmt: skip


@dataclass
class _Clock:
    """The node's clock, which may be set: what the agent wrote by it."""

    at_s: float

    def lines(self, steps: list[tuple[float, float]]) -> list[AnyLine]:
        written: list[AnyLine] = []
        for seconds, step_s in steps:
            self.at_s += seconds + step_s
            written.append(usage(self.at_s, seconds))
        return written


@given(
    steps=st.lists(
        st.tuples(
            st.floats(1, 4000), st.sampled_from((0.0, 0.0, 30.0, 7200.0, -7200.0, 1e8, -1e8))
        ),
        max_size=60,
    )
)
def test_intervals_and_gaps_cover_the_time_once_whatever_the_clock_does(
    steps: list[tuple[float, float]],
) -> None:
    found = [*intervals(_Clock(SINCE_S).lines(steps), SINCE_S, UNTIL_S)]
    assert found[0].start_s == SINCE_S
    assert found[-1].end_s == UNTIL_S
    for before, after in itertools.pairwise(found):
        assert before.end_s == after.start_s
        assert before.usage is not None or after.usage is not None, "gaps are whole"
    assert all(each.start_s < each.end_s for each in found)
    summed = history(_Clock(SINCE_S).lines(steps), SINCE_S, UNTIL_S)
    gaps_s = sum(end_s - start_s for start_s, end_s in summed.gaps)
    assert summed.recorded_s + gaps_s == pytest.approx(WEEK_S)


def test_a_time_without_lines_is_a_gap_and_a_restart_is_none() -> None:
    lines = [usage(SINCE_S + 300), usage(SINCE_S + 640), usage(SINCE_S + 4300)]
    summed = history(lines, SINCE_S, SINCE_S + 4300)
    assert summed.gaps == [(SINCE_S + 640, SINCE_S + 4000)]
    assert summed.recorded_s == 940
    assert summed.mean(summed.core_s, 0) == pytest.approx(1.0)
    assert summed.mean(summed.core_s, 2) is None


def test_cpu_time_is_added_up_by_container_and_in_time() -> None:
    miner = Usage(key="m", container="miner", level="likely", cpu_cores=3.0, owner="alice")
    worker = Usage(key="w", container="worker", cpu_cores=0.5)
    lines = [
        usage(SINCE_S + BUCKET_S, BUCKET_S, miner, worker, cpu_cores=3.6),
        usage(SINCE_S + 2 * BUCKET_S, BUCKET_S, worker, cpu_cores=0.6),
    ]
    summed = history(lines, SINCE_S, SINCE_S + 2 * BUCKET_S)
    assert not summed.gaps
    assert summed.containers["m"].flagged_core_s == 3.0 * BUCKET_S
    assert summed.containers["m"].level == "likely"
    assert summed.containers["w"].core_s == 2 * 0.5 * BUCKET_S
    assert [summed.mean(summed.flagged_core_s, bucket) for bucket in (0, 1)] == [3.0, 0.0]


def test_many_containers_give_way_to_those_that_were_flagged_or_used_more() -> None:
    miner = Usage(key="m", container="miner", level="likely", cpu_cores=0.1)
    lines = [usage(SINCE_S + 300, 300, miner)]
    lines += [
        usage(SINCE_S + 300 * n, 300, Usage(key=f"k{n}", container="c", cpu_cores=float(n)))
        for n in range(2, 1500)
    ]
    kept = history(lines, SINCE_S, UNTIL_S).containers
    assert len(kept) == 500
    assert "m" in kept
    assert "k1499" in kept
    assert "k2" not in kept


def test_events_outside_the_time_are_left_out_and_the_newest_are_kept() -> None:
    lines: list[AnyLine] = [verdict(SINCE_S - 1), verdict(UNTIL_S + 60)]
    lines += [verdict(SINCE_S + n, left_out=1) for n in range(600)]
    lines.append(AgentLine(at="not a time", node="n", event="start", version="1"))
    lines.append(
        ActionLine(
            at=rfc3339(SINCE_S + 5), node="n", id="i", namespace="ns", pod="p", pod_uid="u",
            owner="alice", action="evict", outcome="done", dry_run=False,
        )
    )  # fmt: skip
    summed = history(lines, SINCE_S, UNTIL_S)
    assert len(summed.verdicts) == 500
    assert summed.unlisted == 100
    assert summed.left_out == 600
    assert summed.verdicts[-1].at == rfc3339(SINCE_S + 599)
    assert len(summed.actions) == 1
    assert not summed.agents
    assert not summed.is_empty
