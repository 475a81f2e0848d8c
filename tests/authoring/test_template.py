from __future__ import annotations

from pathlib import Path

import pytest

from minerwatch.authoring.template import with_rule
from minerwatch.errors import RuleError

PATH = Path("filters/a.yml")
FILTER = "filter:\n  rules:\n    # the first\n    - b  # b\n    - d\n  condition: x\n"


@pytest.mark.parametrize(
    ("identifier", "line"), [("a", 3), ("c", 4), ("e", 5)], ids=["first", "between", "last"]
)
def test_a_rule_is_added_in_the_order_of_the_ids(identifier: str, line: int) -> None:
    lines = FILTER.splitlines()
    lines.insert(line, f"    - {identifier}  # new")
    assert with_rule(PATH, FILTER, identifier, "new").splitlines() == lines


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("title: x\n", "1: not a Sigma filter"),
        ("filter: {rules: any}\n", "1: not a Sigma filter"),
        ("filter:\n  rules: [b,\n    d]\n", "2: write one id a line, then add c"),
        ("- a\n", "1: not a mapping"),
    ],
)
def test_what_cannot_be_added_to_is_refused(text: str, said: str) -> None:
    with pytest.raises(RuleError) as caught:
        with_rule(PATH, text, "c", "new")
    assert str(caught.value).startswith(f"{PATH}:{said}")
