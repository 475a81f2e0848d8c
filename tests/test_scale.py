"""Thousands of agents, in small: what must hold however they meet; and the page on that."""

from __future__ import annotations

import re

import pytest
import yaml

from benchmarks.restart import SLOW, Scenario, Traits, run
from benchmarks.scale import (
    CROWDS,
    PAGE,
    RESTARTS,
    chart_values,
    lease_row,
    on_paper,
    restart_row,
    with_paper,
)
from minerwatch.config.schema import CullBudget
from tests.builders import config_of
from tests.deploy.chart import check_as_the_api_server

WEAK = Traits(seats=3, queue_places=10, queue_s=5.0, list_seats=2)
"""A server that turns most of a crowd away."""


def test_the_page_has_the_figures_as_they_are() -> None:
    assert on_paper() in PAGE.read_text(encoding="utf-8"), "run: make figures"


def test_only_the_table_is_written() -> None:
    page = "# A\n```\na\n```\n## On paper\n\nb:\n\n```\nold\nold\n```\n\n```\nc\n```\n"
    assert with_paper(page, "new\n") == page.replace("old\nold", "new")


@pytest.mark.nightly
def test_the_page_has_what_the_simulation_says() -> None:
    """The smallest of its rows, and the last; the others take minutes."""
    page = PAGE.read_text(encoding="utf-8")
    assert restart_row(run(RESTARTS[0])) in page, "see: python -m benchmarks.scale --simulate"
    for crowd in (CROWDS[0], CROWDS[-1]):
        assert lease_row(run(crowd)) in page, "see: python -m benchmarks.scale --simulate"


def test_the_pages_examples_are_taken() -> None:
    level = (PAGE.parent.parent / "deploy" / "priority-level.yaml").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for block in (level, *blocks):
        for document in yaml.safe_load_all(block):
            if "kind" in document:
                check_as_the_api_server(document, "1.37.0")
            elif "podMonitor" in document:
                assert document["podMonitor"].keys() <= chart_values()["podMonitor"].keys()
            else:
                config_of(document)


@pytest.mark.parametrize("away_s", [0.0, 30.0])
@pytest.mark.parametrize("is_orderly", [True, False])
def test_agents_come_back_one_by_one_and_soon(away_s: float, is_orderly: bool) -> None:
    seen = run(Scenario(200, 0, away_s=away_s, is_orderly=is_orderly))
    assert len(seen.following_s) == 200
    assert seen.total("list") == 200
    assert seen.total("list of etcd") == 0
    assert not seen.refused
    assert seen.peak_per_s() <= 3 * 200 / 10 * 1.7  # three requests each, over ten seconds
    whole_s = seen.following_after_s(1.0)
    assert whole_s is not None
    assert whole_s <= 12 + away_s + 10


@pytest.mark.parametrize(
    "server",
    [
        pytest.param(Traits(), id="sound"),
        pytest.param(WEAK, id="weak"),
        pytest.param(SLOW, id="slow", marks=pytest.mark.nightly),
    ],
)
def test_a_crowd_never_does_more_than_the_budget(server: Traits) -> None:
    """Though answers are lost, the server goes away under its writes and turns many away."""
    limits = CullBudget(per_cluster=40)
    scenario = Scenario(
        200, 200, away_s=0.0, falters=5, limits=limits, seed=2, server=server, after_s=200.0
    )
    seen = run(scenario)
    assert seen.most_in_an_hour() <= 40
    assert seen.most_slots <= 40
    assert seen.most_of_a_node() <= limits.per_node
    assert seen.won > 0
    assert seen.conflicts > 0
    assert seen.wants == seen.won + seen.full + sum(seen.gave_up.values())


def test_a_budget_comes_back_after_its_hour_and_not_before() -> None:
    limits = CullBudget(per_cluster=5, per_node=1)
    seen = run(Scenario(20, 20, away_s=0.0, limits=limits, after_s=2.5 * 3600))
    assert seen.most_in_an_hour() == 5
    assert seen.most_of_a_node() == 1
    assert len(seen.acted) == 15


def test_a_run_can_be_repeated() -> None:
    scenario = Scenario(30, 30, falters=2, after_s=120.0)
    assert run(scenario) == run(scenario)
