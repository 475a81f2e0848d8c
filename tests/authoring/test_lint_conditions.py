from __future__ import annotations

from pathlib import Path

import pytest

from tests.authoring.test_lint import remarks, with_selection


@pytest.mark.parametrize(
    ("selection", "said"),
    [
        ("{CpuFlatness|gte: 90}", "90 is out of range: CpuFlatness is from 0 to 1"),
        ("{RoundingModes|gte: 5}", "5 is out of range: RoundingModes is at most 4"),
        ("{CpuCores: '1'}", "CpuCores is a number (cores): compare it with |gt"),
        ("{Threads|contains: '1'}", "Threads is a number (count): compare it with |gt"),
        ("{ExeDeleted: 1}", "ExeDeleted is a boolean: use true or false"),
        ("{ExeDeleted: 'true'}", "ExeDeleted is a boolean: use true or false"),
        ("{User: yes}", "User is not a boolean: quote the text"),
        ("{Image|cidr: 10.0.0.0/8}", "Image is not an address: |cidr never holds on it"),
        ("{Image: xmrig}", "Image is an absolute path: for a file name use |endswith: '/xmrig'"),
        ("{ParentImage|startswith: 'usr/'}", "ParentImage is an absolute path"),
        (
            "{Comm: cpuminer-avx512-sha}",
            "Comm is cut to 15 bytes: 'cpuminer-avx512-sha' becomes",
        ),
        ("{CommandLine|re: 'a*'}", "regex 'a*' matches the empty string, so every value"),
        ("{CommandLine|all: [a, b]}", "never matches: CommandLine cannot be 'a' and 'b' at once"),
        (
            "{CpuCores|gt: 3, CpuCores|lt: 2}",
            "never matches: CpuCores cannot be > 3 and < 2",
        ),
        (
            "{CpuCores|gt: 3, CpuCores|lte: 3}",
            "never matches: CpuCores cannot be > 3 and <= 3",
        ),
        ("{Comm: null}", "matches an empty record: add a positive selection"),
        ("{Comm|base64offset: abcdef}", "'base64offset' modifier must be followed by a 'contains'"),
        ("{CommandLine: '*abc*'}", "CommandLine: string contains wildcards at beginning and end"),
        ("{CommandLine|contains: 'a**b'}", "string contains multiple consecutive * wildcards"),
        ("{CommandLine|contains: 'a?b'}", "CommandLine: ? in '*a?b*' matches any character"),
        ("{CommandLine|re: '.*stratum'}", "needs no .* at its ends: it matches anywhere"),
        ("{CommandLine|re: 'stratum.*'}", "needs no .* at its ends: it matches anywhere"),
        ('{CommandLine: "a\\tb"}', "string contains control character"),
        (
            "{CpuCores|gte: 1, Age|gt: 60}",
            "all fields measure CPU usage, but the signal",
        ),
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
    assert found == ["9: warning: matches an empty record: add a positive selection"]


def test_a_filter_that_takes_all_that_is_asked_for_is_said(tmp_path: Path) -> None:
    for filtered in ("{Comm: x}", "{Comm: [y, x]}"):
        text = with_selection("{Comm: x, User: u}\n  filter: " + filtered, "sel and not filter")
        found = remarks(tmp_path, text)
        assert any(
            "never matches: Comm is 'x' is both required and excluded" in each for each in found
        )
    spared = with_selection("{Comm: x}\n  filter: {Comm: x, User: u}", "sel and not filter")
    assert remarks(tmp_path, spared) == []


def test_contradictions_are_found_wherever_they_stand(tmp_path: Path) -> None:
    text = with_selection("{Comm: x}\n  other: {Comm: y}", "not (1 of other and sel)")
    found = remarks(tmp_path, text)
    assert any("never matches: Comm cannot be 'y' and 'x' at once" in remark for remark in found), (
        found
    )
    both = with_selection("{Comm: x}\n  none: {Comm: null}", "sel and none")
    assert any(
        "Comm cannot be absent and have a value at once" in each for each in remarks(tmp_path, both)
    )
