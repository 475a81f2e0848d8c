"""The JSON schema that editors complete and check rule files with."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from click.testing import CliRunner

from minerwatch.cli.main import cli
from minerwatch.config.schema import BUILT_IN_RULES
from minerwatch.detection.fields import KNOWN_FIELDS
from minerwatch.detection.sigma.rule import LEVEL_SCORES
from minerwatch.model import Maturity, Signal
from tests.authoring.test_rule_tests import RULE
from tests.test_rules_of_others import SIGMAHQ_STYLE

if TYPE_CHECKING:
    import jsonschema

SCHEMA: dict[str, Any] = json.loads((BUILT_IN_RULES / "rule.schema.json").read_text("utf-8"))


@cache
def validator() -> jsonschema.Draft202012Validator:
    import jsonschema  # seconds, which workers that do not run this module need not spend

    return jsonschema.Draft202012Validator(SCHEMA)


def problems(text: str) -> list[str]:
    """As an editor sees the file: dates are texts."""
    tree = json.loads(json.dumps(yaml.safe_load(text), default=str))
    return [f"{error.json_path}: {error.message}" for error in validator().iter_errors(tree)]


@pytest.mark.parametrize("path", sorted(BUILT_IN_RULES.rglob("*.yml")), ids=lambda path: path.stem)
def test_every_shipped_rule_is_valid(path: Path) -> None:
    assert problems(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("text", [RULE, *SIGMAHQ_STYLE.values()])
def test_rules_that_load_are_valid(text: str) -> None:
    assert problems(text) == []


def test_the_shipped_one_is_that_which_the_command_prints() -> None:
    printed = CliRunner().invoke(cli, ["rules", "schema"]).stdout
    written = (BUILT_IN_RULES / "rule.schema.json").read_text(encoding="utf-8")
    assert written == printed, "run: make figures"


def test_it_is_a_schema() -> None:
    validator().check_schema(SCHEMA)


def test_it_knows_what_the_rules_may_say() -> None:
    properties, definitions = SCHEMA["properties"], SCHEMA["$defs"]
    assert list(definitions["Facts"]["properties"]) == list(KNOWN_FIELDS)
    assert list(definitions["Conditions"]["properties"]) == list(KNOWN_FIELDS)
    assert properties["level"]["enum"] == list(LEVEL_SCORES)
    assert definitions["OwnKeys"]["properties"]["signal"]["enum"] == list(Signal)
    assert set(Maturity) < set(properties["status"]["enum"])


@pytest.mark.parametrize(
    ("before", "after", "place"),
    [
        ("status: test", "status: tset", "$.status"),
        ("{Comm: miner}, c", "{Com: miner}, c", "$.detection.sel"),
        ("level: high", "level: higher", "$.level"),
        ("  tests:", "  signal: smell\n  tests:", "$.minerwatch.signal"),
        ("  tests:", "  hold: 1m\n  tests:", "$.minerwatch"),
        ("[{Comm: miner}]", "[{CpuCores: much}]", "$.minerwatch.tests.match[0].CpuCores"),
        ("id: 5b7d4b3a-", "id: ", "$.id"),
        ("{Comm: miner}, c", "{Comm|contain: miner}, c", "$.detection.sel"),
        ("[{Comm: miner}]", "[{Threads: 1.5}]", "$.minerwatch.tests.match[0].Threads"),
        ("{Comm: miner}, c", "{}, c", "$.detection.sel"),
        ("{Comm: miner}, c", "{Comm: []}, c", "$.detection.sel"),
        (", condition: sel", "", "$.detection"),
        ("level: high\nminerwatch:", "minerwatch:\n  score: 101", "$.minerwatch.score"),
        ("level: high\nminerwatch:", "minerwatch:\n  for: soon", "$.minerwatch.for"),
        ("detection: {", "detections: {", "$"),
    ],
)
def test_what_is_wrong_is_marked(before: str, after: str, place: str) -> None:
    assert [text.partition(": ")[0] for text in problems(RULE.replace(before, after))] == [place]
