from __future__ import annotations

from pathlib import Path

from minerwatch.authoring.rule_tests import failed_tests
from minerwatch.detection.matching.matcher import Matcher
from minerwatch.detection.sigma import rulebook
from minerwatch.detection.sigma.rulebook import RuleBook

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


def test_a_file_that_changed_meanwhile_is_not_explained_but_fails(tmp_path: Path) -> None:
    rules = book(tmp_path, RULE.replace("[{Comm: miner}]", "[{Comm: digger}]")).rules
    (tmp_path / "rule.yml").write_text("title: [")
    (failure,) = failed_tests(rules, Matcher(rules))
    assert failure.explanation.startswith(f"not explained: {tmp_path}/rule.yml:")


def test_tests_that_hold_are_not_mentioned(tmp_path: Path) -> None:
    rules = book(tmp_path, RULE).rules
    assert failed_tests(rules, Matcher(rules)) == ()
