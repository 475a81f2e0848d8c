from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.authoring.rule_tests import Recording, failed_tests, recording, replayed
from minerwatch.detection.fields import KNOWN_FIELDS
from minerwatch.detection.matching.matcher import Matcher
from minerwatch.detection.sigma import rulebook
from minerwatch.detection.sigma.rulebook import RuleBook
from minerwatch.model import FactValue, Level
from tests import shipped

RULE_ID = "5b7d4b3a-0d43-4f41-8a3d-0c4b5f1d2e3f"
OTHER_ID = "c5cde4f1-4d5f-49e1-9a0f-6c1a3e2b7d11"
RULE = """
title: A rule
id: 5b7d4b3a-0d43-4f41-8a3d-0c4b5f1d2e3f
status: test
description: Something.
logsource: {product: linux, category: process_creation}
detection: {sel: {Comm: miner}, condition: sel}
falsepositives: [Miners in mines]
level: high
minerwatch:
  tests:
    match: [{Comm: miner}]
    no_match: [{Comm: minor}]
references: [https://example.org/miner]
author: A. Contributor
date: 2026-11-20
tags: [attack.impact, attack.t1496.001]
"""


def enough_tests(text: str) -> str:
    """The rule with three tests of each kind, each kind in the line where it was."""
    for kind, name in (("match", "miner"), ("no_match", "minor")):
        three = ", ".join(f"{{Comm: {name}, User: u{number}}}" for number in range(3))
        text = text.replace(f"    {kind}: [{{Comm: {name}}}]\n", f"    {kind}: [{three}]\n")
    return text


GOOD = enough_tests(RULE)
MATCHER = shipped.matcher()


def book(folder: Path, text: str) -> RuleBook:
    (folder / "rule.yml").write_text(text)
    return rulebook.load((folder,))


def test_a_failed_test_shows_which_condition_did_not_hold(tmp_path: Path) -> None:
    rules = book(tmp_path, RULE.replace("[{Comm: miner}]", "[{Comm: digger}]")).rules
    (failure,) = failed_tests(rules, Matcher(rules))
    head, *tree = str(failure).splitlines()
    assert head == f"{tmp_path}/rule.yml:12: A rule: must match, but does not"
    assert tree == [
        "    condition: sel",
        "    - sel, line 7: does not hold",
        "        - Comm: 'digger'",
        "            - is 'miner'",
    ]


def test_a_file_that_changed_meanwhile_is_explained_as_it_was_read(tmp_path: Path) -> None:
    rules = book(tmp_path, RULE.replace("[{Comm: miner}]", "[{Comm: digger}]")).rules
    (tmp_path / "rule.yml").write_text("title: [")
    (failure,) = failed_tests(rules, Matcher(rules))
    assert failure.explanation == "- Comm is 'miner'; observed: 'digger'"


def test_tests_that_hold_are_not_mentioned(tmp_path: Path) -> None:
    rules = book(tmp_path, RULE).rules
    assert failed_tests(rules, Matcher(rules)) == ()


# Replay.


def test_for_is_kept(tmp_path: Path) -> None:
    rules = book(tmp_path, RULE.replace("minerwatch:\n", "minerwatch:\n  for: 1m\n")).rules
    matcher = Matcher(rules)
    assert replayed(Recording(1, "", 59, {"Comm": "miner"}), matcher).score == 0
    outcome = replayed(Recording(1, "", 60, {"Comm": "miner"}), matcher)
    assert (outcome.score, outcome.level, outcome.signals) == (60, "suspicious", ("identity",))
    assert outcome.rules == ("5b7d4b3a-0d43-4f41-8a3d-0c4b5f1d2e3f",)
    assert not outcome.cullable


def test_what_is_confirmed_by_compute_and_another_stable_signal_is_cullable() -> None:
    facts: dict[str, FactValue] = {
        "CommandLine": "./x -o stratum+tcp://pool.supportxmr.com:3333 -u 4AdU",
        "CpuCores": 0.99,
    }
    assert not replayed(Recording("a", "", 3600, facts), MATCHER).cullable
    facts |= {"RoundingModes": 4, "RoundingShare": 0.7, "FlushToZeroShare": 1.0}
    facts |= {"LargestAnonymousMiB": 2080.0}
    assert replayed(Recording("a", "", 3600, facts), MATCHER).cullable


def test_a_line_is_taken_apart() -> None:
    line = json.dumps(
        {"id": "a", "label": "x", "seconds": 5, "facts": {"DestinationPort": [3333], "Age": None}}
    )
    assert recording(line) == Recording(
        "a", "x", 5.0, {"DestinationPort": ("3333",), "DestinationCount": 1}
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("nonsense", "not JSON"),
        ("[]", "not an object"),
        ('{"seconds": 1, "facts": {}}', "id: missing"),
        ('{"id": true, "seconds": 1, "facts": {}}', "id: missing"),
        ('{"id": [], "seconds": 1, "facts": {}}', "id: missing"),
        ('{"id": 1, "seconds": 1}', "facts: missing"),
        ('{"id": 1, "facts": {}}', "seconds: missing, or not a number"),
        ('{"id": 1, "facts": {}, "seconds": -1}', "seconds: missing, or not a number"),
        ('{"id": 1, "facts": {}, "seconds": true}', "seconds: missing, or not a number"),
        ('{"id": 1, "facts": {}, "seconds": "5m"}', "seconds: missing, or not a number"),
        ('{"id": 1, "facts": {}, "seconds": 1e999}', "seconds: missing, or not a number"),
        ('{"id": 1, "facts": {}, "seconds": NaN}', "not JSON: NaN is not a number"),
        ('{"id": 1, "seconds": 1, "facts": {"Comm": {}}}', "Comm is not a text"),
        ('{"id": 1, "seconds": 1, "facts": {"Comm": [[]]}}', "Comm has an element"),
        (f'{{"id": {"9" * 5000}}}', "not JSON: Exceeds the limit"),
        (b"\xff", "not UTF-8"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_line_that_is_none_says_why(line: str | bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        recording(line)


def test_facts_of_every_kind_are_read() -> None:
    facts = '{"Comm": "a", "Threads": 3, "CpuCores": 0.5, "ExeDeleted": true, "DestinationIp": []}'
    line = f'{{"id": "x", "seconds": 1, "facts": {facts}, "further": {{}}}}'
    assert recording(line).facts == {
        "Comm": "a", "Threads": 3, "CpuCores": 0.5, "ExeDeleted": True, "DestinationIp": (),
    }  # fmt: skip
    mixed = '{"id": "x", "seconds": 1, "facts": {"DestinationPort": [1, "2", 0.5, true]}}'
    assert recording(mixed).facts["DestinationPort"] == ("1", "2", "0.5", "true")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
fields = st.sampled_from([*KNOWN_FIELDS, "X"]) | st.text(max_size=10)
speaking = st.sampled_from(
    ["xmrig", "/tmp/xmrig", "./a -o stratum+tcp://p:1 -u w", "grep stratum+tcp://a", True, 1.0, 64]
)


@given(st.binary(max_size=200))
def test_no_bytes_do_anything_but_parse_or_say_why(line: bytes) -> None:
    try:
        recording(line)
    except ValueError as error:
        said = str(error)
        assert said


@given(st.dictionaries(fields, json_values | speaking, max_size=8), json_values | st.floats(0, 1e9))
def test_any_facts_have_a_score_and_a_level_or_a_reason(
    facts: dict[str, object], seconds: object
) -> None:
    line = json.dumps({"id": 1, "seconds": seconds, "facts": facts})
    try:
        recorded = recording(line)
    except ValueError:
        return
    outcome = replayed(recorded, MATCHER)
    assert 0 <= outcome.score <= 100
    assert outcome.level == Level.of(outcome.score).label
    assert bool(outcome.rules) is bool(outcome.signals)
    assert not outcome.cullable or outcome.level == "confirmed"
    json.dumps(asdict(outcome), allow_nan=False)


EVIDENCE: tuple[dict[str, FactValue], ...] = (
    {"Comm": "xmrig"},
    {"CommandLine": "./x -o stratum+tcp://pool.example.org:3333 -u w"},
    {"KernelThreadName": True},
    {"ExeInMemory": True},
    {"CpuCores": 1.0, "CpuFlatness": 0.99},
    {"SaturatedThreads": 4},
    {"ContainerCpuHours": 20.0, "ContainerCpuCores": 1.0},
    {"HiddenCpuShare": 1.0, "ContainerCpuCores": 1.0},
)


@given(
    st.lists(st.sampled_from(EVIDENCE), unique_by=str),
    st.sampled_from(EVIDENCE),
    st.floats(0, 1e5),
)
def test_more_evidence_never_scores_less(
    some: list[dict[str, FactValue]], another: dict[str, FactValue], seconds: float
) -> None:
    facts = {name: value for each in some for name, value in each.items()}
    less = replayed(Recording(1, "", seconds, facts), MATCHER)
    more = replayed(Recording(1, "", seconds, {**facts, **another}), MATCHER)
    assert set(less.rules) <= set(more.rules)
    assert less.score <= more.score
    assert less.cullable <= more.cullable


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_what_holds_longer_never_scores_less(one: float, other: float) -> None:
    facts: dict[str, FactValue] = {"Comm": "xmrig", "CpuCores": 0.99, "CpuFlatness": 0.99}
    shorter, longer = sorted((one, other))
    assert (
        replayed(Recording(1, "", shorter, facts), MATCHER).score
        <= replayed(Recording(1, "", longer, facts), MATCHER).score
    )
