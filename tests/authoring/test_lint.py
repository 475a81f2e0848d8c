from __future__ import annotations

import json
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.authoring.lint import lint
from minerwatch.authoring.remark import Severity
from minerwatch.authoring.rule_tests import Recording
from minerwatch.detection.sigma import rulebook
from tests.authoring.test_rule_tests import GOOD, OTHER_ID, RULE, RULE_ID, book, enough_tests

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
        (("Comm: miner}, c", "md5: miner}, c"), "7: warning: md5 is never measured here"),
        (("{sel:", "{other: {Comm: x}, sel:"), "7: warning: selection 'other' is not used"),
        (("description: Something.\n", ""), "2: warning: no description"),
        (("falsepositives: [Miners in mines]\n", ""), "2: warning: no falsepositives"),
        (("falsepositives:", "falsepositive:"), "8: warning: unknown key 'falsepositive': did you"),
        (("status: test\n", ""), "2: warning: no status: it counts as experimental"),
        (("level: high\nminerwatch:", "minerwatch:\n  score: 60"), "2: warning: no level"),
        (("    match: [{Comm: miner}]\n", ""), "11: warning: no minerwatch.tests.match"),
        (("    no_match: [{Comm: minor}]\n", ""), "11: warning: no minerwatch.tests.no_match"),
        (
            ("{Comm: minor}", "{Com: minor}"),
            "13: warning: the test has a field that nothing looks at, Com: did you mean Comm?",
        ),
        (
            ("{Comm: minor}", "{CpuCores: '0.5'}"),
            "13: warning: the test gives CpuCores as '0.5': it is a number",
        ),
        (("{Comm: minor}", "{ExeDeleted: 1}"), "ExeDeleted as 1: it is true or false"),
        (("{Comm: minor}", "{User: yes}"), "13: warning: the test gives User as True: it is text"),
        (("{Comm: minor}", "{DestinationPort: true}"), "it is a list of texts"),
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


@pytest.mark.parametrize(
    ("selection", "said"),
    [
        ("{CpuFlatness|gte: 90}", "CpuFlatness is from 0 to 1: 90 is beyond"),
        ("{RoundingModes|gte: 5}", "RoundingModes is at most 4: 5 is beyond"),
        ("{CpuCores: '1'}", "CpuCores is a number (cores): compare it with |gt"),
        ("{Threads|contains: '1'}", "Threads is a number (count): compare it with |gt"),
        ("{ExeDeleted: 1}", "ExeDeleted is true or false: ask for one of them"),
        ("{ExeDeleted: 'true'}", "ExeDeleted is true or false: ask for one of them"),
        ("{User: yes}", "User is never true or false: quote a word that is text"),
        ("{Image|cidr: 10.0.0.0/8}", "Image is no address: |cidr does not hold on it"),
        ("{Image: xmrig}", "Image is a path from /: for a name write |endswith: '/xmrig'"),
        ("{ParentImage|startswith: 'usr/'}", "ParentImage is a path from /"),
        ("{Comm: cpuminer-avx512-sha}", "Comm has 15 bytes: 'cpuminer-avx512-sha' is 'cpuminer-"),
        ("{CommandLine|re: 'a*'}", "regular expression 'a*' also matches nothing, so anything"),
        ("{CommandLine|all: [a, b]}", "never holds: CommandLine is not 'a' and 'b' at once"),
        ("{CpuCores|gt: 3, CpuCores|lt: 2}", "never holds: CpuCores is not > 3 and < 2 at once"),
        ("{CpuCores|gt: 3, CpuCores|lte: 3}", "never holds: CpuCores is not > 3 and <= 3 at once"),
        ("{Comm: null}", "it holds on a process of which nothing is known"),
        ("{Comm|base64offset: abcdef}", "'base64offset' modifier must be followed by a 'contains'"),
        ("{CommandLine: '*abc*'}", "CommandLine: string contains wildcards at beginning and end"),
        ("{CommandLine|contains: 'a**b'}", "string contains multiple consecutive * wildcards"),
        ("{CommandLine|contains: 'a?b'}", "CommandLine: ? in '*a?b*' stands for any one character"),
        ("{CommandLine|re: '.*stratum'}", "leave out .* at its ends, which costs time"),
        ("{CommandLine|re: 'stratum.*'}", "leave out .* at its ends, which costs time"),
        ('{CommandLine: "a\\tb"}', "string contains control character"),
        ("{CpuCores|gte: 1, Age|gt: 60}", "it looks at nothing but how CPU is burnt, yet speaks"),
    ],
)
def test_what_conditions_hardly_mean_is_said(tmp_path: Path, selection: str, said: str) -> None:
    found = remarks(tmp_path, with_selection(selection))
    assert any("warning: " in remark and said in remark for remark in found), found


@pytest.mark.parametrize(
    "selection",
    [
        "{CpuFlatness|gte: 0.9, Comm: x}",
        "{DestinationPort: [3333, '4444'], DestinationIp|cidr: 10.0.0.0/8}",
        "{DestinationPort|gte: 3000, DestinationPort|lt: 2000}",  # a list: two may be meant
        "{CommandLine|contains|all: [a, b]}",
        "{CommandLine|re|all: [a, b]}",
        "{CommandLine|re: '^$'}",
        "{CommandLine|windash|contains|all: [' -a', ' -b']}",
        "{CpuCores|gte: 2, CpuCores|lte: 2, Comm: x}",
        "{ExeDeleted: true}",
        "{Comm: cpuminer-avx512}",
        "{Comm: [cpuminer-avx512-sha, cpuminer-avx512]}",
        "{Image: /usr/bin/xmrig, ParentImage|endswith: /bash}",
        "{User: '0', ProcessId: 1}",
        "{CommandLine|re: '^.*x.+y$', Comm: x}",
        "{CommandLine|contains: 'a\\\\?b'}",
        "{CommandLine|re: 'a.*b'}",
    ],
)
def test_what_is_meant_is_not_doubted(tmp_path: Path, selection: str) -> None:
    assert remarks(tmp_path, with_selection(selection)) == []


def test_a_rule_of_nothing_but_exclusions_is_said(tmp_path: Path) -> None:
    found = remarks(tmp_path, with_selection("{Comm: x}", "not sel"))
    assert found == [
        "9: warning: it holds on a process of which nothing is known: ask for something, too"
    ]


def test_a_filter_that_takes_all_that_is_asked_for_is_said(tmp_path: Path) -> None:
    for filtered in ("{Comm: x}", "{Comm: [y, x]}"):
        text = with_selection("{Comm: x, User: u}\n  filter: " + filtered, "sel and not filter")
        found = remarks(tmp_path, text)
        assert any("never holds: Comm is 'x' is asked for, and left out" in each for each in found)
    spared = with_selection("{Comm: x}\n  filter: {Comm: x, User: u}", "sel and not filter")
    assert remarks(tmp_path, spared) == []


def test_contradictions_are_found_wherever_they_stand(tmp_path: Path) -> None:
    text = with_selection("{Comm: x}\n  other: {Comm: y}", "not (1 of other and sel)")
    found = remarks(tmp_path, text)
    assert any("never holds: Comm is not 'y' and 'x' at once" in remark for remark in found), found
    both = with_selection("{Comm: x}\n  none: {Comm: null}", "sel and none")
    assert any(
        "Comm is to be absent, and to be something" in each for each in remarks(tmp_path, both)
    )


def test_header_that_says_a_thing_twice(tmp_path: Path) -> None:
    twice = "[https://a, https://a]\ntags: [attack.t1496, attack.t1496]"
    found = remarks(tmp_path, RULE.replace("[https://example.org/miner]", twice).replace(TAGS, ""))
    assert found == [
        "14: warning: references: the same references appears multiple times",
        "15: warning: the tag 'attack.t1496' is given twice",
    ]


def test_a_reference_that_is_no_text_is_said(tmp_path: Path) -> None:
    found = remarks(tmp_path, RULE.replace("[https://example.org/miner]", "[{a: 1}, {a: 1}]"))
    assert any("14: warning: the reference \"{'a': 1}\" is no address" in each for each in found)


def test_a_stable_rule_without_a_score_is_said(tmp_path: Path) -> None:
    text = RULE.replace("status: test", "status: stable").replace("high", "informational")
    assert remarks(tmp_path, text) == [
        "10: warning: a stable rule that scores 0 counts for nothing",
    ]


def test_a_stable_rule_that_was_not_written_for_this_is_said(tmp_path: Path) -> None:
    foreign = RULE.replace("status: test", "status: stable").partition("minerwatch:")[0]
    found = remarks(tmp_path, foreign)
    assert any("4: warning: stable, but without the key minerwatch" in each for each in found)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ("[https://example.org/miner]", "[https://a, the manual]"),
            "14: warning: the reference 'the manual' is no address to look up",
        ),
        (
            ("date: 2026-11-20", "date: 2026-02-01\nmodified: 2026-01-31"),
            "17: warning: modified before it was written, on 2026-02-01",
        ),
        (
            ("date: 2026-11-20", "date: 2026-11-26"),
            "16: warning: date: 2026-11-26 is still to come",
        ),
        (("date: 2026-11-20\n", ""), "2: warning: no date: nobody knows how old it is"),
        (("author: A. Contributor\n", ""), "2: warning: no author: nobody knows whom to ask"),
        (("references: [https://example.org/miner]\n", ""), "2: warning: no references: nobody"),
        ((TAGS, ""), "2: warning: no tags: write attack.impact and attack.t1496.001"),
        ((".t1496.001", ".T1496-001"), "17: warning: the tag 'attack.T1496-001' is none: lower"),
        (
            ("[Miners in mines]", "[Unknown]"),
            "8: warning: the false positive 'Unknown' says nothing",
        ),
        (("[Miners in mines]", "[None known.]"), "the false positive 'None known.' says nothing"),
        (
            (RULE_ID, "5b7d4b3a-0d43-1f41-8a3d-0c4b5f1d2e3f"),
            "3: warning: the id is not a random one, so another rule may have it",
        ),
        (
            ("minerwatch:\n", "minerwatch:\n  score: 15\n"),
            "9: warning: level high stands for 60, yet it scores 15: whoever reads the level",
        ),
        (
            ("match: [{Comm: miner}]", "match: [{Comm: miner}, {Comm: miner}]"),
            "11: warning: 2 of minerwatch.tests.match: 3 at least",
        ),
        (
            ("match: [{Comm: miner}]", "match: [{Comm: miner}, {Comm: miner}]"),
            "12: warning: the same facts as in line 12: they prove nothing more",
        ),
        (("    match:", "\tmatch:"), "error: not YAML: indented by a tab: YAML takes spaces only"),
        (("Something.", "TODO say it."), "5: warning: still to do: description: TODO say it."),
        (
            ("{Comm: miner}, c", "{CommandLine|re: 'a.{0,800}b'}, c"),
            "warning: CommandLine: the regular expression 'a.{0,800}b' has",
        ),
    ],
)
def test_what_a_reviewer_would_ask_for(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    found = remarks(tmp_path, RULE.replace(*change))
    assert any(said in remark for remark in found), found


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
        "too broad: it also holds on science/one, 'python3 pool.py' (CommandLine contains 'pool'):"
        " ask for more, or score less than 30"
    )
    assert (said in found) is is_said
    assert sum("too broad" in text for text in found) == is_said


# Rules beside each other.


def test_a_title_and_a_condition_that_another_rule_has(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text(GOOD)
    (tmp_path / "b.yml").write_text(GOOD.replace(RULE_ID, OTHER_ID).replace("A rule", "a RULE"))
    same = f"asks for just what {tmp_path}/a.yml asks for: together they say no more than one"
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
        " if it should not, give it an id of its own"
    )


def test_a_rule_may_be_replaced_by_one_of_the_same_title(tmp_path: Path) -> None:
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.yml").write_text(GOOD)
    assert lint(rulebook.load((tmp_path / "1", tmp_path / "2"))) == ()


def test_remarks_come_in_the_order_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "b.yml").write_text("title: [")
    (tmp_path / "a.yml").write_text(GOOD.replace("level: high", "level: highest"))
    found = lint(rulebook.load((tmp_path,)))
    assert [remark.path.name for remark in found] == ["a.yml", "b.yml"]
    assert {remark.severity for remark in found} == {Severity.ERROR}


# Lists.


def test_a_list_that_no_rule_uses_is_said(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "names.txt").write_text("# Source: here. Date: 2026-11-25\na\n")
    (remark,) = lint(book(tmp_path, GOOD))
    assert str(remark).startswith(f"{tmp_path}/lists/names.txt:1: warning: no rule uses this list")


def test_entries_that_are_not_what_they_seem_are_said(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    path = tmp_path / "lists" / "names.txt"
    path.write_text("# names\nminer\n\n*.example.org\nMiner\nhttps://a/\n7\n")
    path.write_text(path.read_text() + "zeta  # in mines\n")
    text = GOOD.replace("{Comm: miner}, c", "{Comm|expand: '%names%'}, c")
    found = [str(remark) for remark in lint(book(tmp_path, text)) if remark.path == path]
    assert found == [
        f"{path}:1: warning: no date: write when they were looked up, '# Date: 2026-11-24'",
        f"{path}:1: warning: no source: write where the entries are from, '# Source: https://…'",
        f"{path}:4: warning: '*.example.org' stands behind 'miner': sort the entries",
        f"{path}:4: warning: entries are literal text: * stands for itself here",
        f"{path}:5: warning: 'Miner' is also in line 2",
        f"{path}:5: warning: 'Miner': write it in lower case, as all are compared",
        f"{path}:6: warning: 'https://a/' is an address: write the host alone",
        f"{path}:8: warning: a comment has a line of its own: this one is in the entry",
    ]


def test_numbers_of_a_list_are_sorted_by_their_size(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    path = tmp_path / "lists" / "ports.txt"
    path.write_text("# Source: here. Date: 2026-11-25\n# Source: there\n80\n443\n3333\n")
    text = GOOD.replace("{Comm: miner}, c", "{DestinationPort|expand: '%ports%'}, c")
    assert [remark for remark in lint(book(tmp_path, text)) if remark.path == path] == []


# Hostile files.


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
        "lint.lint(rulebook.load((BUILT_IN_RULES,)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
