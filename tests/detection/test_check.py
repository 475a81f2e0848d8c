from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.config import BUILT_IN_RULES
from minerwatch.detection import rulebook
from minerwatch.detection.check import (
    Recording,
    Severity,
    failed_tests,
    lint,
    recording,
    replayed,
)
from minerwatch.detection.match import Matcher
from minerwatch.detection.rulebook import RuleBook
from minerwatch.model import FactValue, Level

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
"""
MATCHER = Matcher(rulebook.load((BUILT_IN_RULES,)).rules)


def book(folder: Path, text: str) -> RuleBook:
    (folder / "rule.yml").write_text(text)
    return rulebook.load((folder,))


def remarks(folder: Path, text: str) -> list[str]:
    return [
        f"{remark.line}: {remark.severity}: {remark.text}" for remark in lint(book(folder, text))
    ]


def test_a_good_rule_has_no_remarks(tmp_path: Path) -> None:
    assert remarks(tmp_path, RULE) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ("Comm: miner}, c", "Com: miner}, c"),
            "7: warning: unknown field Com: did you mean Comm?",
        ),
        (("Comm: miner}, c", "md5: miner}, c"), "7: warning: md5 is never measured here"),
        (("{sel:", "{other: {Comm: x}, sel:"), "selection 'other' is not used by the condition"),
        (("description: Something.\n", ""), "no description"),
        (("falsepositives: [Miners in mines]\n", ""), "no falsepositives"),
        (("    match: [{Comm: miner}]\n", ""), "no minerwatch.tests.match"),
        (("    no_match: [{Comm: minor}]\n", ""), "no minerwatch.tests.no_match"),
        (("{Comm: minor}", "{Com: minor}"), "13: warning: the test has a field that nothing"),
        (("status: test", "status: tset"), "4: error: status: 'tset' is none of"),
        (("Comm: miner}, c", "Comm|re: '(?<=a)b'}, c"), "error: "),
    ],
)
def test_what_is_doubtful_is_said_with_its_line(
    tmp_path: Path, change: tuple[str, str], said: str
) -> None:
    assert any(said in remark for remark in remarks(tmp_path, RULE.replace(*change)))


def test_a_list_that_no_rule_uses_is_said(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "names.txt").write_text("a\n")
    (remark,) = lint(book(tmp_path, RULE))
    assert str(remark).startswith(f"{tmp_path}/lists/names.txt:1: warning: no rule uses this list")


def test_remarks_come_in_the_order_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "b.yml").write_text("title: [")
    (tmp_path / "a.yml").write_text(RULE.replace("level: high", "level: highest"))
    found = lint(rulebook.load((tmp_path,)))
    assert [remark.path.name for remark in found] == ["a.yml", "b.yml"]
    assert {remark.severity for remark in found} == {Severity.ERROR}


def test_a_failed_test_shows_which_condition_did_not_hold(tmp_path: Path) -> None:
    rules = book(tmp_path, RULE.replace("[{Comm: miner}]", "[{Comm: digger}]")).rules
    (failure,) = failed_tests(rules, Matcher(rules))
    head, *tree = str(failure).splitlines()
    assert head == f"{tmp_path}/rule.yml:12: A rule: should say it holds, but it does not"
    assert tree == ["    - Comm is 'miner'; observed: 'digger'"]


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


def test_what_is_confirmed_by_two_stable_signals_is_cullable() -> None:
    facts: dict[str, FactValue] = {
        "CommandLine": "./x -o stratum+tcp://pool.supportxmr.com:3333 -u 4AdU",
        "CpuCores": 0.99,
    }
    assert not replayed(Recording("a", "", 0, facts), MATCHER).cullable
    assert replayed(Recording("a", "", 3600, facts), MATCHER).cullable


def test_a_line_is_taken_apart() -> None:
    line = json.dumps(
        {"id": "a", "label": "x", "seconds": 5, "facts": {"DestinationPort": [3333], "Age": None}}
    )
    assert recording(line) == Recording("a", "x", 5.0, {"DestinationPort": ("3333",)})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("nonsense", "not JSON"),
        ("[]", "not an object"),
        ('{"facts": {}}', "id: missing"),
        ('{"id": true, "facts": {}}', "id: missing"),
        ('{"id": 1}', "facts: missing"),
        ('{"id": 1, "facts": {}, "seconds": -1}', "seconds: not a number"),
        ('{"id": 1, "facts": {}, "seconds": NaN}', "seconds: not a number"),
        ('{"id": 1, "facts": {"Comm": {}}}', "Comm is neither"),
        (b"\xff", "not UTF-8"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_line_that_is_none_says_why(line: str | bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        recording(line)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=6,
)
fields = st.sampled_from(
    ["Comm", "CommandLine", "Image", "CpuCores", "Threads", "ExeDeleted", "DestinationPort", "X"]
)


@given(st.binary(max_size=200))
def test_no_bytes_do_anything_but_parse_or_say_why(line: bytes) -> None:
    try:
        recording(line)
    except ValueError as error:
        said = str(error)
        assert said


@given(st.dictionaries(fields, json_values, max_size=6), st.floats(0, 1e9))
def test_any_facts_have_a_score_and_a_level(facts: dict[str, object], seconds: float) -> None:
    line = json.dumps({"id": 1, "seconds": seconds, "facts": facts})
    try:
        recorded = recording(line)
    except ValueError:
        return
    outcome = replayed(recorded, MATCHER)
    assert 0 <= outcome.score <= 100
    assert outcome.level == Level.of(outcome.score).label
    assert bool(outcome.rules) is bool(outcome.signals)


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_what_holds_longer_never_scores_less(one: float, other: float) -> None:
    facts: dict[str, FactValue] = {"Comm": "xmrig", "CpuCores": 0.99, "CpuFlatness": 0.99}
    shorter, longer = sorted((one, other))
    assert (
        replayed(Recording(1, "", shorter, facts), MATCHER).score
        <= replayed(Recording(1, "", longer, facts), MATCHER).score
    )
