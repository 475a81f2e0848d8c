"""What a contributor reads when a test of a rule fails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.authoring.explain_match import why
from minerwatch.detection.matching.matcher import Matcher
from minerwatch.detection.sigma import rulebook
from minerwatch.detection.sigma.filters import outline_of
from minerwatch.detection.sigma.rule import Rule
from minerwatch.model import Facts
from tests import shipped
from tests.authoring.test_rule_tests import RULE

HEAD = RULE.partition("detection:")[0]
TAIL = "falsepositives: [x]\nlevel: high\n"


def told(folder: Path, detection: str, facts: Facts) -> list[str]:
    path = folder / "rule.yml"
    path.write_text(f"{HEAD}detection:\n{detection}\n{TAIL}")
    book = rulebook.load((folder,))
    assert book.errors == ()
    return list(why(outline_of(book.rules[0], book.lists), facts))


def test_selections_that_decide_are_told_field_by_field(tmp_path: Path) -> None:
    detection = (
        "  sel: {Comm: miner, CpuCores|gte: 0.5}\n  filter: {Image|endswith: /grep}\n"
        "  idle: {CpuCores|lt: 0.1}\n  condition: sel and not filter and not idle"
    )
    facts: Facts = {"Comm": "miner", "CpuCores": 0.2, "Image": "/bin/x"}
    assert told(tmp_path, detection, facts) == [
        "condition: sel and not filter and not idle",
        "- sel, line 8: does not hold",
        "    - all of",
        "        + Comm: 'miner'",
        "            + is 'miner'",
        "        - CpuCores: 0.2",
        "            - >= 0.5",
        "- filter, line 9",
        "- idle, line 10",
    ]


def test_a_filter_that_takes_too_much_is_what_decides(tmp_path: Path) -> None:
    detection = (
        "  sel: {Comm: miner}\n  filter: {Image|endswith: [/grep, /less, /vim, /cat]}\n"
        "  condition: sel and not filter"
    )
    facts: Facts = {"Comm": "miner", "Image": "/bin/less"}
    assert told(tmp_path, detection, facts) == [
        "condition: sel and not filter",
        "+ sel, line 8",
        "+ filter, line 9: holds",
        "    + Image: '/bin/less'",
        "        + ends with '/less'",
        "        1 of 4 hold, any one of them is asked for",
    ]


def test_where_none_decides_alone_all_are_told(tmp_path: Path) -> None:
    detection = "  a: {Comm: x}\n  b: {Comm: y}\n  condition: a and b"
    assert told(tmp_path, detection, {"Comm": "z"})[1::3] == [
        "- a, line 8: does not hold",
        "- b, line 9: does not hold",
    ]


def test_a_field_that_was_not_measured_is_said(tmp_path: Path) -> None:
    lines = told(tmp_path, "  sel: {CpuCores|gt: 1}\n  condition: sel", {"Comm": "x"})
    assert lines[-2:] == [
        "    - CpuCores: absent: not measured here, so nothing that is asked of it holds",
        "        - > 1",
    ]


def test_the_nearest_of_many_is_shown(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    names = [*(f"name{number}.example.org" for number in range(99)), "pool.supportxmr.com"]
    (tmp_path / "lists" / "names.txt").write_text("\n".join(names))
    detection = "  sel: {CommandLine|contains|expand: '%names%'}\n  condition: sel"
    lines = told(tmp_path, detection, {"CommandLine": "./a pool.suportxmr.com:443"})
    assert lines[3] == "        - contains 'pool.supportxmr.com'"
    assert lines[-1] == "        none of 100 holds; nearest are shown"


@pytest.mark.parametrize(
    ("pattern", "line", "said"),
    [
        ("--some[=\\s][0-9]", "./a --some x", "; up to '--some ' it does, but not '[0-9]' behind"),
        ("^python", "node", "; not even its beginning does"),
        ("(?i)POOL:[0-9]+$", "./a pool:33x", "; up to 'pool:33' it does, but not '$' behind"),
    ],
)  # fmt: skip
def test_how_far_a_regular_expression_gets(
    tmp_path: Path, pattern: str, line: str, said: str
) -> None:
    detection = f"  sel: {{CommandLine|re: '{pattern}'}}\n  condition: sel"
    lines = told(tmp_path, detection, {"CommandLine": line})
    assert lines[-1] == f"        - matches /{pattern}/{said}"


def test_what_a_regular_expression_found_is_shown(tmp_path: Path) -> None:
    detection = "  sel: {DestinationIp|re: '^10\\.[0-9]+'}\n  condition: sel"
    lines = told(tmp_path, detection, {"DestinationIp": ("::1", "10.77.0.1")})
    assert lines[-2:] == [
        "    + DestinationIp: ('::1', '10.77.0.1')",
        "        + matches /^10\\.[0-9]+/ at '10.77'",
    ]


def test_lists_of_maps_and_several_conditions_are_told(tmp_path: Path) -> None:
    detection = (
        "  sel:\n    - Comm: x\n    - Image|endswith: /y\n      CpuCores|gt: 1\n"
        "  condition: [sel, 1 of s*]"
    )
    lines = told(tmp_path, detection, {"Image": "/y", "CpuCores": 0.5})
    assert lines[0] == "condition: sel or 1 of s*"
    assert lines[2:5] == [
        "    - any of",
        "        - Comm: absent: not measured here, so nothing that is asked of it holds",
        "            - is 'x'",
    ]
    assert "            - CpuCores: 0.5" in lines


@given(
    st.deferred(lambda: st.sampled_from(shipped.book().rules)),
    st.dictionaries(
        st.sampled_from(["CommandLine", "Image", "Comm", "CpuCores", "ExeDeleted", "Age"]),
        st.text(max_size=40) | st.floats(0, 1e6) | st.booleans() | st.just("./xmrig -o p:1 -u x"),
    ),
)
def test_it_agrees_with_the_matcher_whatever_the_facts(rule: Rule, facts: Facts) -> None:
    """A selection is told to hold where it does, so the rule's outcome follows from the marks."""
    lines = why(outline_of(rule, shipped.book().lists), facts)
    assert lines[0].startswith("condition: ")
    holds = any(match.rule.id == rule.id for match in shipped.matcher().matches(facts))
    outline = outline_of(rule, shipped.book().lists)
    marks = {
        line[2:].split(",")[0]: line.startswith("+") for line in lines[1:] if not line[0].isspace()
    }
    assert marks.keys() == outline.selections.keys()
    names = {name: True for name, mark in marks.items() if mark}
    as_rule = replace(rule, condition=outline.logic, fields=frozenset(marks), lists=())
    assert bool(Matcher((as_rule,)).matches(names)) is holds
