from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from minerwatch.api.types import ContainerStatus
from minerwatch.untrusted_text.display import printable
from minerwatch.view.columns import reasons
from minerwatch.view.table import banner, table
from tests.report.samples import (
    BUSY,
    HELD,
    HOSTILE,
    HOSTILE_ONE,
    MINER,
    NODE,
    NOW,
    SIMULATION,
    container,
    containers,
    finding,
)

Golden = Callable[[str, str], None]

ORDINARY = tuple(status for status in NODE if status is not HOSTILE_ONE)


@pytest.mark.parametrize("width", [80, 120, 200])
def test_a_terminal_of_usual_width(golden: Golden, width: int) -> None:
    summary = banner(ORDINARY, shown=len(ORDINARY))
    golden(f"top-{width}.txt", f"{summary}\n{table(ORDINARY, now=NOW, width=width, colour=False)}")


def test_hostile_names_beside_ordinary_ones(golden: Golden) -> None:
    golden("top-hostile-120.txt", table(NODE, now=NOW, width=120, colour=False))


def test_a_pipe_gets_one_whole_line_a_container(golden: Golden) -> None:
    shown = table(NODE, now=NOW, width=None, colour=False)
    assert len(shown.splitlines()) == 1 + len(NODE)
    assert MINER.pod in shown
    golden("top-piped.txt", shown)


def test_colours(golden: Golden) -> None:
    shown = table(NODE, now=NOW, width=80, colour=True)
    golden("top-colour.txt", shown)
    assert "\x1b[1;31mconfirmed" in shown


def test_units_alone_leave_no_column_empty() -> None:
    titles = table([SIMULATION], now=NOW, width=200, colour=False).splitlines()[0]
    assert titles.split() == ["SCORE", "LEVEL", "SINCE", "CPU", "CPU-H", "CONTAINER"]


def test_the_node_is_told_where_there_are_several() -> None:
    elsewhere = container(node="node-8")
    assert "NODE" not in table([MINER, SIMULATION], now=NOW, width=None, colour=False)
    assert "node-8" in table([MINER, elsewhere], now=NOW, width=None, colour=False)


def test_the_age_of_pods_is_told_where_it_is_known() -> None:
    old = container(started="2026-11-20T01:00:00Z")
    lines = table([old, container()], now=NOW, width=None, colour=False).splitlines()
    assert "AGE" in lines[0].split()
    assert "3d1h" in lines[1].split()


def test_nothing_is_said_in_words() -> None:
    assert table([], now=NOW, width=80, colour=True) == "no container to show\n"
    assert banner([], shown=0) == "no node · 0 containers · 0 processes · 0.0 cores busy"


def test_no_rounding_lifts_a_score_to_a_level_that_it_has_not() -> None:
    almost = container(score=89.99, level="likely")
    assert "   89  likely" in table([almost], now=NOW, width=80, colour=False)


def test_a_long_name_cannot_push_the_verdict_off_the_screen() -> None:
    long = container(pod="p" * 253, namespace="n" * 63, score=88.0, level="likely")
    line = table([long], now=NOW, width=80, colour=False).splitlines()[1]
    assert line.split()[:3] == ["88", "likely", "3d1h"]
    assert len(line) <= 80


def test_banner_counts_levels_worst_first() -> None:
    assert banner(NODE, shown=3) == (
        "node-7 · 8 containers: 1 confirmed, 2 likely, 2 suspicious, 3 clear"
        " · 239 processes · 11.9 cores busy · 3 shown"
    )
    many = [container(node=f"node-{number}") for number in range(5)]
    assert banner(many, shown=5).startswith("5 nodes · 5 containers")


def test_reasons_name_the_strongest_finding_of_each_signal() -> None:
    assert reasons(MINER) == (
        "identity ×2: XMRig command line; execution: Executable deleted from a temporary folder"
    )
    assert reasons(SIMULATION) == ""
    assert "falls" in reasons(HELD)


@given(containers)
def test_reasons_are_one_short_line(status: ContainerStatus) -> None:
    assert printable(reasons(status)) == reasons(status)
    assert len(reasons(status)) < 4000


@given(
    st.lists(containers, min_size=1, max_size=5),
    st.one_of(st.none(), st.integers(40, 250)),
    st.booleans(),
)
def test_whatever_containers_are_called_lines_fit_and_stay_lines(
    statuses: list[ContainerStatus], width: int | None, colour: bool
) -> None:
    shown = table(statuses, now=NOW, width=width, colour=False)
    lines = shown.split("\n")
    assert lines.pop() == ""
    assert all(printable(line) == line for line in lines)
    assert 1 + len(statuses) <= len(lines) <= 1 + 2 * len(statuses)
    if width is None:
        assert len(lines) == 1 + len(statuses)
    else:
        fixed = 47  # score, level, CPU and gaps, with figures as large as hypothesis likes them
        assert all(cell_len(line) <= max(width, fixed) for line in lines)
    assert "\x1b" not in shown
    coloured = table(statuses, now=NOW, width=width, colour=colour)
    assert coloured.count("\n") == shown.count("\n")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_seen_as_they_are(name: str) -> None:
    shown = table([container(container=name)], now=NOW, width=None, colour=False)
    assert printable(name) in shown


def test_a_title_of_a_megabyte_is_cut() -> None:
    loud = container(findings=(finding("x" * 1_000_000), BUSY), level="likely", score=88.0)
    assert len(table([loud], now=NOW, width=None, colour=False)) < 2000
