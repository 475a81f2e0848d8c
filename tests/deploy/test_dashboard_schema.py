"""The dashboard has Grafana's own types: its foundation SDK knows every field."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

DASHBOARD = (
    Path(__file__).parents[2] / "deploy" / "helm" / "minerwatch" / "files" / "dashboard.json"
)
OF_PROMETHEUS = frozenset(
    ("definition", "refId", "step", "tagKeys", "textFormat", "titleFormat", "useValueForTime")
)
"""Fields of the data source in variables and annotations, for which the SDK has no types."""


def unknown_fields(given: Any, known: Any, name: str = "") -> Iterator[str]:
    """The names of what is not, or not the same, in what the SDK made of it."""
    if isinstance(given, dict) and isinstance(known, dict):
        for key, value in given.items():
            yield from unknown_fields(value, known.get(key), key)
    elif isinstance(given, list) and isinstance(known, list) and len(given) == len(known):
        for one, other in zip(given, known, strict=True):
            yield from unknown_fields(one, other, name)
    elif given != known:
        yield name


def test_every_field_is_one_of_grafanas() -> None:
    register_default_plugins()
    given = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    known = json.loads(JSONEncoder().encode(Dashboard.from_json(given)))
    assert {*unknown_fields(given, known)} == OF_PROMETHEUS


def test_a_field_that_grafana_does_not_have_is_found() -> None:
    register_default_plugins()
    given = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    given["panels"][1]["gridPosition"] = {"h": 1}
    known = json.loads(JSONEncoder().encode(Dashboard.from_json(given)))
    assert "gridPosition" in {*unknown_fields(given, known)}
