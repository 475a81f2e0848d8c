from __future__ import annotations

import json
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.authoring.diagnostic import Severity
from minerwatch.authoring.lint import lint
from minerwatch.detection.sigma import rulebook
from tests.authoring.test_rule_tests import GOOD, RULE, book, enough_tests

TAGS = "tags: [attack.impact, attack.t1496.001]\n"


def remarks(folder: Path, text: str) -> list[str]:
    return [
        f"{remark.line}: {remark.severity}: {remark.text}"
        for remark in lint(book(folder, enough_tests(text)), today=date(2026, 11, 25))
    ]


def with_selection(selection: str, condition: str = "sel") -> str:
    written = f"detection:\n  sel: {selection}\n  condition: {condition}"
    return RULE.replace("detection: {sel: {Comm: miner}, condition: sel}", written)


def test_a_good_rule_has_no_remarks(tmp_path: Path) -> None:
    assert remarks(tmp_path, RULE) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ("Comm: miner}, c", "Com: miner}, c"),
            "7: warning: unknown field Com: did you mean Comm?",
        ),
        (("Comm: miner}, c", "Qqqq: miner}, c"), "7: warning: unknown field Qqqq"),
        (("Comm: miner}, c", "md5: miner}, c"), "7: warning: md5 is never measured: conditions"),
        (("{sel:", "{other: {Comm: x}, sel:"), "7: warning: selection 'other' is not used"),
        (("description: Something.\n", ""), "2: warning: no description"),
        (("falsepositives: [Miners in mines]\n", ""), "2: warning: no falsepositives"),
        (("falsepositives:", "falsepositive:"), "8: warning: unknown key 'falsepositive': did you"),
        (("status: test\n", ""), "2: warning: no status: the rule counts as experimental"),
        (("level: high\nminerwatch:", "minerwatch:\n  score: 60"), "2: warning: no level"),
        (("    match: [{Comm: miner}]\n", ""), "11: warning: no minerwatch.tests.match"),
        (("    no_match: [{Comm: minor}]\n", ""), "11: warning: no minerwatch.tests.no_match"),
        (
            ("{Comm: minor}", "{Com: minor}"),
            "13: warning: unknown field Com in the test: did you mean Comm?",
        ),
        (
            ("{Comm: minor}", "{CpuCores: '0.5'}"),
            "13: warning: CpuCores is '0.5' in the test: use a number",
        ),
        (("{Comm: minor}", "{ExeDeleted: 1}"), "ExeDeleted is 1 in the test: use true or false"),
        (("{Comm: minor}", "{User: yes}"), "13: warning: User is True in the test: use text"),
        (("{Comm: minor}", "{DestinationPort: true}"), "use a list of texts"),
        (("status: test", "status: tset"), "4: error: status: invalid 'tset': use"),
        (("Comm: miner}, c", "Comm|re: '(?<=a)b'}, c"), "7: error: Comm|re: regular expression"),
        (
            ("high\nminerwatch:", "high\nminerwatch:\n  signal: behaviour\n  score: 60"),
            "12: error: minerwatch.score: 60 is above 29",
        ),
        (
            ("test\ndescription", "stable\nlevel: informational\ndescription"),
            "10: error: key 'level' is given twice (first in line 5)",
        ),
    ],
)
def test_what_is_doubtful_is_said_with_its_line(
    tmp_path: Path, change: tuple[str, str], said: str
) -> None:
    text = RULE.replace(*change)
    assert text != RULE
    found = remarks(tmp_path, text)
    assert any(said in remark for remark in found), found


def test_remarks_come_in_the_order_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "b.yml").write_text("title: [")
    (tmp_path / "a.yml").write_text(GOOD.replace("level: high", "level: highest"))
    found = lint(rulebook.load((tmp_path,)))
    assert [remark.path.name for remark in found] == ["a.yml", "b.yml"]
    assert {remark.severity for remark in found} == {Severity.ERROR}


def test_a_file_that_changes_after_it_was_loaded_stops_nothing(tmp_path: Path) -> None:
    loaded = book(tmp_path, GOOD)
    (tmp_path / "rule.yml").write_text("title: [")
    assert lint(loaded) == ()
    (tmp_path / "rule.yml").unlink()
    assert lint(loaded) == ()


@given(
    st.dictionaries(
        st.sampled_from(
            ["Comm|re", "Comm", "CpuCores|gt", "ExeDeleted", "Qq|contains", "Image|all"]
        ),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text()),
        min_size=1,
    ),
    st.sampled_from(["sel", "not sel", "1 of sel*", "sel and not sel", "sel or not sel"]),
)
def test_no_selection_stops_lint(
    tmp_path_factory: pytest.TempPathFactory, selection: dict[str, object], condition: str
) -> None:
    folder = tmp_path_factory.mktemp("rules")
    text = with_selection(json.dumps(selection), json.dumps(condition))
    for remark in lint(book(folder, text)):
        assert remark.line >= 1
        assert remark.text


def test_nothing_is_fetched_from_the_network() -> None:
    script = (
        "import socket, sys\n"
        "def refuse(*arguments, **options): sys.exit('asked for the network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from minerwatch.config.schema import BUILT_IN_RULES\n"
        "from minerwatch.authoring import lint\n"
        "from minerwatch.detection.sigma import rulebook\n"
        "lint.lint(rulebook.load((BUILT_IN_RULES / 'behaviour',)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
