"""The report by a real Prometheus that scraped a real agent, beside a busy loop named a miner."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from minerwatch.cli.main import cli
from minerwatch.cli.prometheus_source import Labels, Prometheus, past_of
from tests.deploy.conftest import CONTAINER, WatchedNode
from tests.deploy.metric_names import OTHERS, exported, metric_names
from tests.deploy.services import AGENT_POD, until

NAME = CONTAINER[:12]


def reported(node: WatchedNode, *words: str) -> str:
    url = f"http://{node.prometheus.address}"
    command = ["report", "--prometheus", url, "--since", "1h", *words]
    results: list[Result] = []

    def is_recorded() -> bool:  # from the first step on, of fifteen seconds
        results[:] = [CliRunner().invoke(cli, command)]
        return results[0].exit_code == 0

    until(is_recorded, lambda: results[0].output)
    return results[0].stdout


def of_miner(node: WatchedNode) -> dict[str, Any]:
    found = json.loads(reported(node, "--format", "json"))
    own = [each for each in found["incidents"] if each["container"] == NAME]
    return {**found, "miner": own[0] if own else {}}


def test_a_miner_is_reported_with_its_cpu_hours(watched_node: WatchedNode) -> None:
    until(
        lambda: (of_miner(watched_node)["miner"].get("cpu_hours") or 0) > 0,
        watched_node.prometheus.said,
    )
    found = of_miner(watched_node)
    miner = found["miner"]
    assert (miner["abuse"], miner["level"]) == ("mining", "confirmed")
    assert miner["node"] == AGENT_POD["instance"]
    assert (miner["pod"], miner["namespace"]) == ("", "")
    assert found["since"] <= miner["flagged"] <= miner["detected"] <= found["until"]
    assert (miner["ended"], miner["delay_s"], miner["acted_s"]) == ("", None, None)
    assert found["source"] == "prometheus"


def test_time_without_a_scrape_is_missing_and_rules_have_their_titles(
    watched_node: WatchedNode,
) -> None:
    until(lambda: of_miner(watched_node)["rules"], watched_node.prometheus.said)
    text = reported(watched_node)
    assert "by Prometheus" in text
    assert "node-1: nothing was recorded for" in text
    assert "XMRig" in text or "miner" in text.lower()
    shown = reported(watched_node, "--format", "html")
    assert NAME in shown


def test_its_queries_are_valid_and_ask_for_metrics_that_exist(watched_node: WatchedNode) -> None:
    known = exported() | OTHERS | {"kube_node_info", "minerwatch_flagged_owner_info"}
    asked: list[str] = []

    def ask(expression: str) -> list[tuple[Labels, float]]:
        asked.append(expression)
        return [({"instance": "n1"}, 1.0)]

    past_of(ask, 0.0, 3600.0)
    assert len(asked) > 10
    for expression in asked:
        watched_node.prometheus.query(expression)
        assert set(metric_names(expression)) <= known, expression


def test_a_prometheus_without_agents_is_one_line(watched_node: WatchedNode) -> None:
    url = f"http://{watched_node.prometheus.address}"
    words = ["report", "--prometheus", url, "--since", "1h"]
    source = Prometheus(url, None, None)
    with pytest.raises(Exception, match="no metrics of an agent in this time"):
        source.read(1.0, 3601.0)
    gone = CliRunner().invoke(cli, [*words[:2], "http://127.0.0.1:9", *words[3:]])
    assert gone.exit_code == 1
    assert gone.stderr.startswith("minerwatch: http://127.0.0.1:9/api/v1/query does not answer")
