"""Every query of the dashboard is put to a real Prometheus that scraped a real agent."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from minerwatch.model import Abuse
from tests.deploy.conftest import WatchedNode
from tests.deploy.metric_names import AWAITED, ON_GPU_NODES, OTHERS, exported, metric_names
from tests.deploy.services import DEPLOY, GUIDE, RULES, anchors, until

DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "minerwatch.json").read_text())
RECORDED = set(re.findall(r"record: (\S+)", RULES.read_text()))
RUNBOOKS = set(re.findall(r"alert: (\S+)", RULES.read_text()))
OWNERS_CPU = "minerwatch:flagged_owner_cpu_cores:sum"
_PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
_VARIABLES = {
    "$__rate_interval": "1m",
    "$__range": "1h",
    "$namespace": ".*",
    "$node": ".*",
    "$cluster": ".*",
    "$price": "0.04",
    "[7d:5m]": "[1m:1s]",  # five minutes have not passed yet
}
_BOUND = re.compile(r" >=? [0-9.]+")  # 0 is shown as nothing: no legend of zeros, no 1970


def _queries() -> Iterator[tuple[str, str]]:
    for panel in _PANELS:
        for target in panel.get("targets", ()):
            yield f"{panel['title']}: {target['refId']}", target["expr"]


def _annotations() -> Iterator[tuple[str, str]]:
    for each in DASHBOARD["annotations"]["list"]:
        yield each["name"], each["expr"]


def _filled(expression: str) -> str:
    for variable, value in _VARIABLES.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression.replace("$1", "")
    return expression


@pytest.mark.parametrize(("title", "expression"), tuple(_queries()))
def test_it_returns_data(watched_node: WatchedNode, title: str, expression: str) -> None:
    prometheus = watched_node.prometheus
    expression = _filled(expression)
    if OWNERS_CPU in expression:
        until(lambda: prometheus.query(_BOUND.sub("", expression)), prometheus.said)
    if prometheus.query(expression):
        return
    names = metric_names(expression)
    if missing := [name for name in names if name in OTHERS and not prometheus.query(name)]:
        pytest.skip(f"run it with metrics of others: {', '.join(missing)}; the query is valid")
    if ON_GPU_NODES.intersection(names):
        pytest.skip("run it on a node with a GPU; the query is valid")
    if prometheus.query(_BOUND.sub("", expression)):
        return
    if re.search(r'signal="\w+"', expression):  # of the kinds of evidence that this miner lacks
        assert prometheus.query(re.sub(r'signal="\w+"', 'signal!=""', expression))
        return
    absent = [n for n in names if n in AWAITED and not prometheus.query(n)]
    if absent:
        pytest.skip(f"the agent does not export {', '.join(absent)} yet: {AWAITED[absent[0]]}")
    # After a scrape that failed, or while the agent hardly runs, nothing is there for some time.
    unbound = _BOUND.sub("", expression)
    until(lambda: prometheus.query(unbound), lambda: f"{title} shows nothing: {expression}")


@pytest.mark.parametrize("name", ["namespace", "node"])
def test_a_variable_has_values(watched_node: WatchedNode, name: str) -> None:
    variable = next(v for v in DASHBOARD["templating"]["list"] if v["name"] == name)
    query = variable["query"]["query"].removeprefix("label_values(").removesuffix(")")
    series, _, label = _filled(query).rpartition(", ")
    assert variable["allValue"] == ".*"  # else what has no namespace would be left out
    found = {each["metric"].get(label, "") for each in watched_node.prometheus.query(series)}
    assert found == ({"node-1"} if name == "node" else {""})


@pytest.mark.parametrize("title_and_expression", [*_queries(), *_annotations()], ids=str)
def test_each_metric_exists(title_and_expression: tuple[str, str]) -> None:
    names = set(metric_names(title_and_expression[1]))
    assert names
    assert names <= exported() | OTHERS | RECORDED


def test_annotations_are_valid(watched_node: WatchedNode) -> None:
    for _, expression in _annotations():
        watched_node.prometheus.query(_filled(expression))


def test_clusters_are_kept_apart() -> None:
    """In one Prometheus of several clusters, pods and nodes have the same names."""
    for title, expression in (*_queries(), *_annotations()):
        for series in re.findall(
            r"(minerwatch_\w+|ALERTS|container_cpu\w+)\{([^}]*)\}", expression
        ):
            assert 'cluster=~"$cluster"' in series[1], f"{title}: {series}"
        for labels in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression):
            if {"namespace", "instance"} & set(labels.split(", ")):
                assert "cluster" in labels, f"{title}: {labels}"


@pytest.mark.parametrize("title", ["Flagged now", "Alerts"])
def test_a_row_leads_to_its_runbook(title: str) -> None:
    """``${__value.text}`` is the cell's text: an alert's name, or a kind of abuse."""
    panel = next(each for each in _PANELS if each["title"] == title)
    urls = [
        link["url"]
        for override in panel["fieldConfig"]["overrides"]
        for each in override["properties"]
        if each["id"] == "links"
        for link in each["value"]
    ]
    names = {"Alerts": RUNBOOKS, "Flagged now": {each.value for each in Abuse}}[title]
    leading = [url for url in urls if "${__value.text}" in url]
    assert leading
    for url in leading:
        for name in names:
            page, _, anchor = url.replace("${__value.text}", name).partition("#")
            path = GUIDE.parents[1] / page.partition("/blob/main/")[2]
            assert path.is_file()
            assert not anchor or anchor in anchors(path.read_text())


def test_panels_have_places_of_their_own() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in _PANELS:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} covers {taken[x, y]}"
                taken[x, y] = panel["title"]
    assert len({panel["id"] for panel in _PANELS}) == len(_PANELS)


def test_every_panel_says_what_it_shows_and_asks_the_chosen_source() -> None:
    for panel in _PANELS:
        if panel["type"] == "row":
            continue
        assert panel["description"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"


def test_columns_that_are_named_are_asked_for() -> None:
    for panel in _PANELS:
        letters = {target["refId"] for target in panel.get("targets", ())}
        for change in panel.get("transformations", ()):
            for column in change["options"].get("renameByName", {}):
                _, is_value, letter = column.partition("Value #")
                assert not is_value or letter in letters, f"{panel['title']}: {column}"
