"""Every query of the dashboard is put to a real Prometheus that scraped a real agent."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.deploy.conftest import WatchedNode
from tests.deploy.metric_names import AWAITED, metric_names
from tests.deploy.services import DEPLOY

DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "minerwatch.json").read_text())
_PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
_VARIABLES = {
    "$__rate_interval": "1m",
    "$__range": "1h",
    "$namespace": ".*",
    "$node": ".*",
}
_EMPTY_WITHOUT_A_CLUSTER = {"Agents: pods"}  # 0 is shown as nothing, not as 1970


def _queries() -> Iterator[tuple[str, str]]:
    for panel in _PANELS:
        for target in panel.get("targets", ()):
            yield f"{panel['title']}: {target['refId']}", target["expr"]


@pytest.mark.parametrize(("title", "expression"), tuple(_queries()))
def test_it_returns_data(watched_node: WatchedNode, title: str, expression: str) -> None:
    prometheus = watched_node.prometheus
    for variable, value in _VARIABLES.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression
    if prometheus.query(expression):
        return
    if title in _EMPTY_WITHOUT_A_CLUSTER:
        assert prometheus.query(expression.replace(" > 0", ""))
        return
    if re.search(r'signal="\w+"', expression):  # of the kinds of evidence that this miner lacks
        assert prometheus.query(re.sub(r'signal="\w+"', 'signal!=""', expression))
        return
    absent = [n for n in metric_names(expression) if n in AWAITED and not prometheus.query(n)]
    if absent:
        pytest.skip(f"the agent does not export {', '.join(absent)} yet: {AWAITED[absent[0]]}")
    pytest.fail(f"{title} shows nothing: {expression}")


@pytest.mark.parametrize("name", ["namespace", "node"])
def test_a_variable_has_values(watched_node: WatchedNode, name: str) -> None:
    variable = next(v for v in DASHBOARD["templating"]["list"] if v["name"] == name)
    query = variable["query"]["query"].removeprefix("label_values(").removesuffix(")")
    series, _, label = query.rpartition(", ")
    assert variable["allValue"] == ".*"  # else what has no namespace would be left out
    found = {each["metric"].get(label, "") for each in watched_node.prometheus.query(series)}
    assert found == ({"node-1"} if name == "node" else {""})


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
