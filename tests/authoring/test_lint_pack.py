from __future__ import annotations

from pathlib import Path

import pytest

from minerwatch.authoring.lint import lint
from minerwatch.authoring.recordings import Recording
from minerwatch.detection.sigma import rulebook
from tests.authoring.test_lint import with_selection
from tests.authoring.test_rule_tests import GOOD, OTHER_ID, RULE_ID, book

ORDINARY = [
    Recording("science/one", "benign", 60, {"CommandLine": "python3 pool.py", "CpuCores": 1.0}),
    Recording("science/two", "benign", 60, {"CommandLine": "python3 pool2.py", "CpuCores": 1.0}),
]


@pytest.mark.parametrize(
    ("selection", "level", "is_said"),
    [
        ("{CommandLine|contains: pool}", "high", True),
        ("{CommandLine|contains: pool}", "low", False),  # it raises nothing alone
        ("{CommandLine|contains: stratum}", "high", False),
    ],
)
def test_a_rule_that_holds_on_ordinary_programs_is_too_broad(
    tmp_path: Path, selection: str, level: str, is_said: bool
) -> None:
    text = with_selection(selection).replace("level: high", f"level: {level}")
    found = [remark.text for remark in lint(book(tmp_path, text), ORDINARY)]
    said = (
        "too broad: also matches science/one, 'python3 pool.py' (CommandLine contains 'pool'):"
        " narrow it, or score below 30"
    )
    assert (said in found) is is_said
    assert sum("too broad" in text for text in found) == is_said


def test_a_title_and_a_condition_that_another_rule_has(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text(GOOD)
    (tmp_path / "b.yml").write_text(GOOD.replace(RULE_ID, OTHER_ID).replace("A rule", "a RULE"))
    same = f"same condition as {tmp_path}/a.yml: the two rules say no more than one"
    assert [str(remark) for remark in lint(rulebook.load((tmp_path,)))] == [
        f"{tmp_path}/b.yml:3: warning: {same}",
        f"{tmp_path}/b.yml:3: warning: the title is also that of {tmp_path}/a.yml",
    ]


def test_a_copied_id_is_said_in_one_folder_and_across_folders(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    for folder in (first, second):
        folder.mkdir()
    copied = GOOD.replace("A rule", "Another").replace("{Comm: miner}, c", "{Comm: digger}, c")
    (first / "a.yml").write_text(GOOD)
    (first / "b.yml").write_text(copied)
    (remark,) = lint(rulebook.load((first,)))
    assert str(remark) == f"{first}/b.yml:3: error: id {RULE_ID} is also that of {first}/a.yml"
    (first / "b.yml").rename(second / "b.yml")
    (remark,) = lint(rulebook.load((first, second)))
    assert str(remark) == (
        f"{second}/b.yml:3: warning: replaces 'A rule' ({first}/a.yml):"
        " give it its own id if that is not meant"
    )


def test_a_rule_may_be_replaced_by_one_of_the_same_title(tmp_path: Path) -> None:
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.yml").write_text(GOOD)
    assert lint(rulebook.load((tmp_path / "1", tmp_path / "2"))) == ()
