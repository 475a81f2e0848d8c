from __future__ import annotations

from pathlib import Path

import pytest

from minerwatch.authoring.lint import lint
from minerwatch.detection.sigma import rulebook
from tests import shipped
from tests.authoring.test_rule_tests import GOOD, OTHER_ID, RULE_ID

FILTER = f"""\
title: Busy node
id: 0c5a8c1e-6c2b-4a39-9d0a-3f1c6f0b7a11
description: Programs that only read.
logsource: {{product: linux}}
filter:
  rules:
    - {RULE_ID}
  node:
    LargestFileMiB|gte: 1024
  condition: not node
"""
CONDITION = "detection: {sel: {Comm: miner}, condition: sel}"
WITH_COPY = (
    "detection: {sel: {Comm: miner}, own: {LargestFileMiB|gte: 1024}, condition: sel and not own}"
)
THIRD_ID = "c5cde4f1-4d5f-49e1-9a0f-6c1a3e2b7d12"


def diagnostics(folder: Path, filter_: str, *rules: str) -> list[str]:
    (folder / "filters").mkdir(parents=True)
    (folder / "filters" / "node.yml").write_text(filter_)
    for number, text in enumerate(rules):
        (folder / f"rule{number}.yml").write_text(text)
    return [
        str(each).removeprefix(f"{folder}/").replace(str(folder), "…")
        for each in lint(rulebook.load((folder,)))
    ]


def test_a_good_filter_has_no_remarks(tmp_path: Path) -> None:
    assert diagnostics(tmp_path, FILTER, GOOD) == []


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (RULE_ID, OTHER_ID, f"7: warning: no rule in force has the id {OTHER_ID}"),
        (f"- {RULE_ID}", f"- {RULE_ID}\n    - {RULE_ID}", f"8: warning: the id {RULE_ID} is given"),
        ("{product: linux}", "{category: network_connection}", "7: warning: has no effect on 'A r"),
        ("description: Programs that only read.\n", "", "1: warning: no description"),
        ("id: 0c5a8c1e-6c2b-4", "id: 0c5a8c1e-6c2b-1", "2: warning: the id is not random"),
        ("description:", "titel: x\ndescription:", "3: warning: unknown key 'titel': did you mean"),
        ("LargestFileMiB|gte", "LargestFilMiB|gte", "9: warning: unknown field LargestFilMiB"),
        (": 1024", ": 1024\n  other:\n    Comm: a", "10: warning: selection 'other' is not used"),
        ("LargestFileMiB|gte: 1024", "Image: bin/a", "9: warning: Image is an absolute path"),
        (
            "LargestFileMiB|gte: 1024",
            "Image: /bin/a",
            "10: warning: excludes by Image only, which the tenant chooses: add what the program",
        ),
        ("description: P", "description: TODO P", "3: warning: to do: description: TODO"),
        ("  rules:", "  rule:", "5: error: filter.rules: must be a list"),
    ],
)
def test_what_is_wrong_with_a_filter_is_said(
    tmp_path: Path, before: str, after: str, said: str
) -> None:
    assert before in FILTER
    found = diagnostics(tmp_path, FILTER.replace(before, after, 1), GOOD)
    assert any(each.startswith(f"filters/node.yml:{said}") for each in found), found


def test_a_name_may_delay(tmp_path: Path) -> None:
    delaying = FILTER.replace(
        "LargestFileMiB|gte: 1024", "Comm: miner\n  computes:\n    CpuSeconds|gte: 30"
    ).replace("not node", "not node or computes")
    assert diagnostics(tmp_path, delaying, GOOD) == []


def test_a_copy_of_a_filter_is_refused(tmp_path: Path) -> None:
    copying = GOOD.replace(CONDITION, WITH_COPY).replace(RULE_ID, OTHER_ID).replace("A rule", "B")
    copy, same = diagnostics(tmp_path, FILTER, GOOD, copying)
    assert copy == (
        "rule1.yml:3: warning: copies the filter …/filters/node.yml: remove the copy, and add this"
        " id to the filter"
    )
    assert same.startswith("rule1.yml:3: warning: same condition as …/rule0.yml")


def test_an_exclusion_of_three_rules_belongs_into_a_filter(tmp_path: Path) -> None:
    copying = GOOD.replace(CONDITION, WITH_COPY)
    rules = [
        copying.replace(RULE_ID, identifier)
        .replace("A rule", identifier)
        .replace("sel: {Comm: miner}", f"sel: {{Comm: [miner, {identifier[-4:]}]}}")
        for identifier in (RULE_ID, OTHER_ID, THIRD_ID)
    ]
    unrelated = FILTER.replace("1024", "2048")
    found = diagnostics(tmp_path / "three", unrelated, *rules)
    assert found[0] == (
        "rule0.yml:3: warning: 3 rules have the same exclusion: move it to a Sigma filter"
        " (…/rule1.yml, …/rule2.yml)"
    )
    assert len(found) == 3
    assert diagnostics(tmp_path / "two", unrelated, *rules[:2]) == []


def test_a_filter_that_excludes_all_that_its_rule_finds_is_said(tmp_path: Path) -> None:
    found = diagnostics(tmp_path, FILTER.replace("LargestFileMiB|gte: 1024", "Comm: miner"), GOOD)
    assert "rule0.yml:7: warning: never matches: Comm is 'miner' is both required and excluded" in (
        found
    )


def test_there_are_shipped_filters() -> None:
    """That no shipped rule copies one is lint's: see tests/test_rule_pack.py."""
    assert shipped.book().filters
