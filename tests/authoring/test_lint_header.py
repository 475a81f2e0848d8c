from __future__ import annotations

from pathlib import Path

import pytest

from tests.authoring.test_lint import TAGS, remarks
from tests.authoring.test_rule_tests import RULE, RULE_ID


def test_header_that_says_a_thing_twice(tmp_path: Path) -> None:
    twice = "[https://a, https://a]\ntags: [attack.t1496, attack.t1496]"
    found = remarks(tmp_path, RULE.replace("[https://example.org/miner]", twice).replace(TAGS, ""))
    assert found == [
        "14: warning: references: the same references appears multiple times",
        "15: warning: tag 'attack.t1496' is given twice",
    ]


def test_a_reference_that_is_no_text_is_said(tmp_path: Path) -> None:
    found = remarks(tmp_path, RULE.replace("[https://example.org/miner]", "[{a: 1}, {a: 1}]"))
    assert any("14: warning: reference \"{'a': 1}\" is not an address" in each for each in found)


def test_a_stable_rule_without_a_score_is_said(tmp_path: Path) -> None:
    text = RULE.replace("status: test", "status: stable").replace("high", "informational")
    assert remarks(tmp_path, text) == [
        "10: warning: a stable rule with score 0 has no effect",
    ]


def test_a_stable_rule_that_was_not_written_for_this_is_said(tmp_path: Path) -> None:
    foreign = RULE.replace("status: test", "status: stable").partition("minerwatch:")[0]
    found = remarks(tmp_path, foreign)
    assert any("4: warning: stable needs the key minerwatch" in each for each in found)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ("[https://example.org/miner]", "[https://a, the manual]"),
            "14: warning: reference 'the manual' is not an address",
        ),
        (
            ("date: 2026-11-20", "date: 2026-02-01\nmodified: 2026-01-31"),
            "17: warning: modified is before date, 2026-02-01",
        ),
        (
            ("date: 2026-11-20", "date: 2026-11-26"),
            "16: warning: date 2026-11-26 is in the future",
        ),
        (("date: 2026-11-20\n", ""), "2: warning: no date: write the day"),
        (("author: A. Contributor\n", ""), "2: warning: no author: reviewers need a contact"),
        (("references: [https://example.org/miner]\n", ""), "2: warning: no references: readers"),
        ((TAGS, ""), "2: warning: no tags: add attack.impact, attack.t1496.001"),
        ((".t1496.001", ".T1496-001"), "17: warning: invalid tag 'attack.T1496-001': use lower"),
        (
            ("[Miners in mines]", "[Unknown]"),
            "8: warning: false positive 'Unknown' is empty",
        ),
        (("[Miners in mines]", "[None known.]"), "false positive 'None known.' is empty"),
        (
            (RULE_ID, "5b7d4b3a-0d43-1f41-8a3d-0c4b5f1d2e3f"),
            "3: warning: the id is not random: create it",
        ),
        (
            ("minerwatch:\n", "minerwatch:\n  score: 15\n"),
            "9: warning: level high means 60, but the score is 15: use low",
        ),
        (
            ("match: [{Comm: miner}]", "match: [{Comm: miner}, {Comm: miner}]"),
            "11: warning: 2 of minerwatch.tests.match: write at least 3",
        ),
        (
            ("match: [{Comm: miner}]", "match: [{Comm: miner}, {Comm: miner}]"),
            "12: warning: the same facts as in line 12",
        ),
        (("    match:", "\tmatch:"), "error: not YAML: indented by a tab: use spaces"),
        (("Something.", "TODO say it."), "5: warning: to do: description: TODO say it."),
        (
            ("{Comm: miner}, c", "{CommandLine|re: 'a.{0,800}b'}, c"),
            "warning: CommandLine: regex 'a.{0,800}b' compiles to",
        ),
    ],
)
def test_what_a_reviewer_would_ask_for(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    found = remarks(tmp_path, RULE.replace(*change))
    assert any(said in remark for remark in found), found
