from __future__ import annotations

import subprocess
import sys
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minerwatch.detection.condition import (
    All,
    Any,
    Comparison,
    Condition,
    How,
    Network,
    Not,
    Number,
    Present,
    SameAs,
    Text,
    predicates,
)
from minerwatch.detection.fields import KNOWN_FIELDS, nearest_field
from minerwatch.detection.matching.matcher import Matcher
from minerwatch.detection.sigma.lists import Lists, read_lists
from minerwatch.detection.sigma.rule import Rule, SkippedRule
from minerwatch.detection.sigma.yaml_document import read_text
from minerwatch.errors import RuleError
from minerwatch.model import Maturity, Signal
from tests.builders import parse_rule
from tests.examples import examples

PATH = Path("rules/rule.yml")
RULE = """\
title: XMRig command line
id: 00000000-0000-4000-8000-000000000000
status: stable
description: Options that only XMRig has.
references: [https://example.org/xmrig]
author: someone
date: 2026-11-23
modified: 2026/11/24
tags: [attack.impact, attack.t1496]
logsource: {product: linux, category: process_creation}
detection:
  selection:
    CommandLine|contains: ['--donate-level', '--randomx-']
  filter_readers:
    Image|endswith: ['/grep', '/less']
  condition: selection and not filter_readers
falsepositives: [a manual]
level: critical
minerwatch:
  signal: identity
  score: 80
  for: 1m
  tests:
    match:    [{CommandLine: "./a --donate-level 1", DestinationPort: [3333, "443"]}]
    no_match: [{CommandLine: "grep -r --donate-level .", Image: /usr/bin/grep}]
"""


def parsed(text: str, lists: Lists | None = None) -> Rule:
    rule = parse_rule(PATH, text, lists or Lists())
    assert isinstance(rule, Rule)
    return rule


def error_of(text: str, lists: Lists | None = None) -> str:
    with pytest.raises(RuleError) as caught:
        parse_rule(PATH, text, lists or Lists())
    return str(caught.value).removeprefix("rules/rule.yml:")


def with_detection(detection: str) -> str:
    head, _, rest = RULE.partition("detection:\n")
    return head + "detection:\n" + detection + rest[rest.index("falsepositives") :]


def condition_of(item: str) -> Condition:
    return parsed(with_detection(f"  a:\n    {item}\n  condition: a\n")).condition


def test_everything_of_a_rule_file_is_read() -> None:
    rule = parsed(RULE)
    assert rule.id == "00000000-0000-4000-8000-000000000000"
    assert rule.title == "XMRig command line"
    assert rule.maturity is Maturity.STABLE
    assert rule.signal is Signal.IDENTITY
    assert (rule.level, rule.score, rule.hold_s) == ("critical", 80.0, 60.0)
    assert rule.description == "Options that only XMRig has."
    assert (rule.author, rule.date, rule.modified) == ("someone", "2026-11-23", "2026/11/24")
    assert rule.references == ("https://example.org/xmrig",)
    assert rule.tags == ("attack.impact", "attack.t1496")
    assert rule.falsepositives == ("a manual",)
    assert (rule.logsource.product, rule.logsource.category) == ("linux", "process_creation")
    assert rule.fields == {"CommandLine", "Image"}
    assert not rule.dynamic
    assert rule.path == PATH
    assert [(test.holds, test.line) for test in rule.tests] == [(True, 24), (False, 25)]
    assert rule.tests[0].facts["DestinationPort"] == ("3333", "443")
    assert rule.field_lines == {"CommandLine": 13, "Image": 15}
    assert rule.condition == All(
        (
            Any(
                (
                    Text("CommandLine", How.CONTAINS, "--donate-level"),
                    Text("CommandLine", How.CONTAINS, "--randomx-"),
                )
            ),
            Not(Any((Text("Image", How.ENDSWITH, "/grep"), Text("Image", How.ENDSWITH, "/less")))),
        )
    )


def test_rule_is_hashable_and_equal_to_itself_read_again() -> None:
    assert parsed(RULE) == parsed(RULE)
    assert len({parsed(RULE), parsed(RULE)}) == 1


SIGMAHQ_STYLE = """\
title: Linux Miner Started From Shared Memory
id: 3a5d6b0e-3c0a-4b83-9d1d-54f0e6b6a0de
related:
    - id: 5a5d6b0e-3c0a-4b83-9d1d-54f0e6b6a0de
      type: similar
status: test
description: |
    Detects typical arguments of miners
    that were started from shared memory.
references:
    - https://example.org/a
author: A. Person (Some Company), B. Person
date: 2024-01-31
modified: 2024/02/28
tags:
    - attack.impact
    - attack.t1496.001
    - detection.emerging-threats
    - cve.2021-44228
logsource:
    category: process_creation
    product: linux
    definition: 'Requirements: arguments are logged'
detection:
    selection_img:
        - Image|startswith: '/dev/shm/'
        - CurrentDirectory|contains: '/dev/shm'
    selection_cli:
        CommandLine|contains:
            - ' --cpu-priority='
            - 'stratum+tcp://'
        LogonId: '0x3e7'
    filter_main_known:
        ParentImage|endswith: '/known'
        User: null
    filter_optional_other:
        CommandLine|re: '--dry-run\\b'
    condition: >-
        selection_img and 1 of selection_c*
        and not 1 of filter_main_* and not 1 of filter_optional_*
fields:
    - CommandLine
falsepositives:
    - Unknown
level: high
"""


def test_rule_in_the_style_of_sigmahq_loads_unmodified() -> None:
    rule = parsed(SIGMAHQ_STYLE)
    assert (rule.signal, rule.score, rule.maturity) == (Signal.IDENTITY, 60, Maturity.TEST)
    assert rule.unused_selections == ()
    assert "LogonId" in rule.fields


def test_network_rule_in_the_style_of_sigmahq_speaks_for_the_network() -> None:
    rule = parsed(
        SIGMAHQ_STYLE.replace("process_creation", "network_connection").replace(
            "LogonId: '0x3e7'", "Initiated: 'true'\n        DestinationPort: 3333"
        )
    )
    assert rule.signal is Signal.NETWORK
    assert rule.dynamic


@pytest.mark.parametrize(
    ("level", "score"),
    [("informational", 0), ("low", 15), ("medium", 35), ("high", 60), ("critical", 88)],
)
def test_level_gives_the_score(level: str, score: int) -> None:
    text = RULE.replace("level: critical", f"level: {level}").replace("  score: 80\n", "")
    assert parsed(text).score == score


def test_score_of_a_behaviour_rule_is_capped() -> None:
    text = RULE.replace("signal: identity", "signal: behaviour").replace("  score: 80\n", "")
    assert parsed(text).score == 29


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("30s", 30),
        ("1m", 60),
        ("90", 90),
        ("2h", 7200),
        ("1d", 86400),
        ("1.5m", 90),
        ("500ms", 0.5),
    ],
)
def test_duration(written: str, seconds: float) -> None:
    assert parsed(RULE.replace("for: 1m", f"for: {written}")).hold_s == seconds


def test_missing_status_means_experimental() -> None:
    assert parsed(RULE.replace("status: stable\n", "")).maturity is Maturity.EXPERIMENTAL


@pytest.mark.parametrize("status", ["deprecated", "unsupported"])
def test_withdrawn_rule_is_skipped(status: str) -> None:
    rule = parse_rule(PATH, RULE.replace("status: stable", f"status: {status}"), Lists())
    assert isinstance(rule, SkippedRule)
    assert (rule.id, rule.path) == ("00000000-0000-4000-8000-000000000000", PATH)


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("Image|cidr: 10.0.0.0/8", Network("Image", ip_network("10.0.0.0/8"))),
        ("CpuCores|gte: 0.9", Number("CpuCores", Comparison.GREATER_OR_EQUAL, 0.9)),
        ("Image|exists: true", Present("Image")),
        ("Image: '*'", Present("Image")),
        ("Image: '**a**'", Text("Image", How.CONTAINS, "a")),
        ("Image: 'a*b?'", Text("Image", How.WILDCARD, "a*b?")),
        (r"Image: 'a\*b?'", Text("Image", How.WILDCARD, r"a\*b?")),
        ("Image|re|i|s: 'a.b'", Text("Image", How.REGEX, "(?is)a.b", cased=True)),
        ("Image|fieldref: ParentImage", SameAs("Image", How.EQUALS, "ParentImage")),
        ("Image|neq: a", All((Present("Image"), Not(Text("Image", How.EQUALS, "a"))))),
    ],
)
def test_item_becomes_a_condition(item: str, expected: Condition) -> None:
    assert condition_of(item) == expected


def test_several_conditions_mean_any() -> None:
    rule = parsed(with_detection("  a: {Image: x}\n  b: {Image: y}\n  condition: [a, b]\n"))
    assert isinstance(rule.condition, Any)


def test_predicates_describe_themselves() -> None:
    items = "{Image|contains: a, CpuCores|gte: 0.9, ExeDeleted: true, User: null, Comm|re: x}"
    described = [
        each.describe()
        for each in predicates(condition_of(items.strip("{}").replace(", ", "\n    ")))
    ]
    assert described == ["contains 'a'", ">= 0.9", "is true", "is absent", "matches /x/"]


def test_unused_selections_are_told() -> None:
    rule = parsed(with_detection("  a: {Image: x}\n  b: {Image: y}\n  condition: a\n"))
    assert rule.unused_selections == ("b",)


# What is wrong, and where.


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("title: XMRig command line\n", "", "1: title: missing"),
        ("XMRig command line", "''", "1: title: must be text, and not empty"),
        ("0000-4000", "0000-40", "2: id: '00000000-0000-40-8000-000000000000' is not a UUID"),
        (
            "status: stable",
            "status: stabel",
            "3: status: invalid 'stabel': use experimental, test or stable",
        ),
        ("date: 2026-11-23", "date: soon", "7: Rule date 'soon' is invalid, use yyyy-mm-dd"),
        (
            "modified: 2026/11/24",
            "modified: no",
            "8: Rule modified 'False' is invalid, use yyyy-mm-dd",
        ),
        ("[attack.impact, ", "[nodot, ", "9: "),
        (
            "product: linux",
            "product: windows",
            "10: logsource: product 'windows' is not supported: use linux",
        ),
        (
            "category: process_creation",
            "category: dns_query",
            "10: logsource: category 'dns_query'",
        ),
        ("category: process_creation", "service: auditd", "10: logsource: service 'auditd'"),
        ("logsource: {product: linux, category: process_creation}\n", "", "1: logsource: missing"),
        ("level: critical", "level: dire", "18: level: invalid 'dire': use informational, low,"),
        (
            "CommandLine|contains",
            "CommandLine|contian",
            "13: CommandLine|contian: unknown modifier",
        ),
        (
            "CommandLine|contains",
            "CommandLine|hour",
            "13: CommandLine|hour: timestamp modifier 'hour'",
        ),
        (
            "CommandLine|contains",
            "CommandLine|wide",
            "13: CommandLine|wide: UTF-16 is supported",
        ),
        (
            "CommandLine|contains",
            "CommandLine|re|contains",
            "13: CommandLine|re|contains: re searches",
        ),
        (
            "CommandLine|contains",
            "CommandLine|gt",
            "13: Modifier SigmaGreaterThanModifier incompatible",
        ),
        ("['--donate-level', '--randomx-']", "[]", "13: CommandLine|contains: an empty list never"),
        ("['--donate-level', '--randomx-']", "3333", "13: CommandLine|contains: 3333 must be text"),
        (
            "['--donate-level', '--randomx-']",
            "{a: b}",
            "13: CommandLine|contains: {'a': 'b'} is not",
        ),
        (
            "['--donate-level', '--randomx-']",
            "2026-11-23",
            "13: CommandLine|contains: 2026-11-23 is",
        ),
        (
            "not filter_readers",
            "not filter_reader",
            "16: condition: no selection is named 'filter_reader'",
        ),
        ("not filter_readers", "not 1 of flt*", "16: condition: '1 of flt*' matches no selection"),
        ("selection and not", "selection and and not", "16: "),
        (
            "selection and not filter_readers",
            "selection | count() > 3",
            "16: condition: aggregations",
        ),
        (
            "  condition: ",
            "  timeframe: 5m\n  condition: ",
            "16: detection: timeframe is not supported",
        ),
        (
            "  condition: selection and not filter_readers\n",
            "",
            "11: detection: condition is missing",
        ),
        ("minerwatch:", "minerwach:", "19: unknown key 'minerwach': did you mean 'minerwatch'?"),
        ("  signal:", "  signl:", "20: minerwatch: unknown key 'signl': did you mean 'signal'?"),
        (
            "signal: identity",
            "signal: idea",
            "20: minerwatch.signal: invalid 'idea': use ",
        ),
        (
            "signal: identity",
            "signal: behaviour",
            "21: minerwatch.score: 80 is above 29, the limit of",
        ),
        (
            "score: 80",
            "score: 101",
            "21: minerwatch.score: invalid 101: use a number",
        ),
        (
            "score: 80",
            "score: yes",
            "21: minerwatch.score: invalid True: use a number",
        ),
        (
            "for: 1m",
            "for: soon",
            "22: minerwatch.for: invalid 'soon': use a duration such as 30s, 1m",
        ),
        (
            "no_match:",
            "nomatch:",
            "25: minerwatch.tests: unknown key 'nomatch': did you mean 'no_match'?",
        ),
        ("Image: /usr/bin/grep}", "Image: null}", "25: minerwatch.tests: Image is null: remove"),
        (
            "level: critical",
            "title: again\nlevel: critical",
            "18: key 'title' is given twice (first in line 1)",
        ),
        ("level: critical", "level: critical\n---\ntitle: b", "19: a second document begins here"),
        ("level: critical", "level: [", "20: not YAML: "),
        ("level: critical", "correlation: {}", "18: correlation rules are not supported"),
        ("level: critical", "action: global", "18: rule collections (action: …) are not supported"),
        ("level: critical", "1: critical", "18: key 1 is not text: quote it"),
        ("level: critical", "level: critical\n<<: {a: b}", "19: merge keys (<<) are not supported"),
        ("author: someone", "author: !!python/object:os.system x", "6: not a value: "),
    ],
)
def test_error_names_line_and_reason(old: str, new: str, error: str) -> None:
    assert old in RULE
    found = error_of(RULE.replace(old, new, 1))
    assert found.startswith(error), found


def test_missing_id_says_how_to_make_one() -> None:
    found = error_of(RULE.replace("id: 00000000-0000-4000-8000-000000000000\n", ""))
    assert found.startswith("1: id: missing; create one with `uuidgen`")


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(?<=a)b", "look-behind ((?<=) is not supported: matching must take linear time"),
        ("(?<!a)b", "look-behind ((?<!) is not supported: matching must take linear time"),
        ("a(?=b)", "look-ahead ((?=) is not supported: matching must take linear time"),
        (r"(a)\1", r"back-references (\1) are not supported: matching must take linear time"),
        ("a(", "missing ): a("),
        ("(a{999}){999}", "invalid repetition size: {999}"),
    ],
)
def test_what_re2_refuses_is_named(
    pattern: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    found = error_of(
        with_detection(f"  a:\n    Image|re:\n      - fine\n      - '{pattern}'\n  condition: a\n")
    )
    assert found.startswith("15: Image|re: regular expression ")
    assert found.endswith(reason)
    assert capfd.readouterr().err == ""


def test_expanded_regex_that_is_none_is_refused_quietly(capfd: pytest.CaptureFixture[str]) -> None:
    lists = Lists((Path("lists"),), {"names": ("a", "b(")})
    text = with_detection("  a:\n    Image|re|expand: '(?<=x)%names%'\n  condition: a\n")
    assert "look-behind" in error_of(text, lists)
    assert parsed(with_detection("  a:\n    Image|re|expand: '^%names%$'\n  condition: a\n"), lists)


def test_missing_list_is_named_with_where_it_was_looked_for() -> None:
    lists = Lists((Path("/etc/rules/lists"), Path("/own/lists")))
    text = with_detection("  a:\n    Image|expand|contains: '%pools%'\n  condition: a\n")
    found = error_of(text, lists)
    assert (
        found
        == "13: no list for %pools%: not found at /etc/rules/lists/pools.txt, /own/lists/pools.txt"
    )


def test_list_name_cannot_leave_its_folder() -> None:
    text = with_detection("  a:\n    Image|expand: '%../../etc/passwd%'\n  condition: a\n")
    assert error_of(text) == "13: %../../etc/passwd% is not the name of a list"


def test_lists_of_all_folders_add_up(tmp_path: Path) -> None:
    for folder, entries in (
        ("a", "# pools\n\n one.example \ntwo.example\n"),
        ("b", "two.example\nthree*\n"),
    ):
        (tmp_path / folder / "lists").mkdir(parents=True)
        (tmp_path / folder / "lists" / "pools.txt").write_text(entries)
    lists = read_lists([tmp_path / "a", tmp_path / "b"])
    assert lists.entries == {"pools": ("one.example", "two.example", "three*")}
    rule = parsed(
        with_detection("  a:\n    Image|contains|expand: '%pools%'\n  condition: a\n"), lists
    )
    assert rule.lists == ("pools",)
    assert Matcher([rule]).matches({"Image": "a three* b"})
    assert not Matcher([rule]).matches({"Image": "a three b"})


def test_empty_file_is_told() -> None:
    assert error_of("# nothing\n") == "1: empty file: no rule in it"
    assert error_of("- a\n") == "1: not a mapping: a rule starts with keys such as title"


def test_alias_bomb_is_refused() -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
    )
    assert "aliases or lists expand to more" in error_of(RULE + bomb)


def test_alias_of_itself_is_refused() -> None:
    assert "expand" in error_of(RULE + "a: &a [*a]\n")


def test_deep_nesting_is_refused() -> None:
    assert "nested more than" in error_of(RULE + "a: " + "[" * 5000)
    assert "condition" in error_of(
        RULE.replace("selection and", "(" * 500 + "selection" + ")" * 500 + " and")
    )


def test_placeholders_cannot_expand_without_end() -> None:
    lists = Lists((), {"n": tuple(str(number) for number in range(1000))})
    text = with_detection("  a:\n    Image|expand: '%n%%n%'\n  condition: a\n")
    assert error_of(text, lists) == "13: placeholders expand to too many patterns"


def test_large_file_and_other_encoding_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rule.yml"
    path.write_bytes(RULE.encode() + b"#" * (1 << 20))
    with pytest.raises(RuleError, match="larger than 1 MiB"):
        parse_rule(path, read_text(path)[0], Lists())
    path.write_bytes(RULE.encode().replace(b"someone", b"s\xf6meone"))
    with pytest.raises(RuleError, match=r"rule.yml:6: not UTF-8: byte 0xf6"):
        parse_rule(path, read_text(path)[0], Lists())


def test_fifo_does_not_block(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "rule.yml")
    with pytest.raises(RuleError, match="not a regular file"):
        read_text(tmp_path / "rule.yml")


LINES = RULE.splitlines(keepends=True)


@settings(max_examples=examples(300), deadline=None)
@given(st.data())
def test_no_bytes_stop_the_loader(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["text", "cut", "value", "line"]))
    if kind == "text":
        text = data.draw(st.text(max_size=200))
    elif kind == "cut":
        at = data.draw(st.integers(0, len(RULE)))
        until = data.draw(st.integers(at, len(RULE)))
        text = RULE[:at] + data.draw(st.text(max_size=8)) + RULE[until:]
    elif kind == "value":
        number = data.draw(st.integers(0, len(LINES) - 1))
        key = LINES[number].partition(":")[0]
        value = data.draw(
            st.sampled_from(
                [
                    "",
                    "[]",
                    "{}",
                    "1",
                    "1.5",
                    ".inf",
                    "true",
                    "[[1]]",
                    "[{a: 1}]",
                    "{a: {b: [c]}}",
                    "2026-01-01",
                    "~",
                    "[~]",
                    "'*'",
                    "'%a%'",
                    "9" * 5000,
                ]
            )
        )
        text = "".join([*LINES[:number], f"{key}: {value}\n", *LINES[number + 1 :]])
    else:
        number = data.draw(st.integers(0, len(LINES)))
        text = "".join([*LINES[:number], data.draw(st.text(max_size=30)), "\n", *LINES[number:]])
    outcome = outcome_of(text)
    if isinstance(outcome, RuleError):
        assert outcome.line >= 1
        assert "\n" not in outcome.reason
    elif isinstance(outcome, Rule):
        Matcher([outcome]).matches({"CommandLine": "a"})


def outcome_of(text: str) -> Rule | SkippedRule | RuleError:
    try:
        return parse_rule(PATH, text, Lists())
    except RuleError as error:
        return error


@settings(max_examples=examples(100), deadline=None)
@given(st.binary(max_size=200))
def test_no_file_stops_the_loader(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("rules") / "rule.yml"
    path.write_bytes(content)
    with pytest.raises(RuleError):
        parse_rule(path, read_text(path)[0], Lists())


# The field table, and what importing costs.


def test_fields_of_the_design_are_known() -> None:
    assert KNOWN_FIELDS["CpuCores"].dynamic
    assert not KNOWN_FIELDS["Image"].dynamic
    assert nearest_field("Comandline") == "CommandLine"
    assert nearest_field("LogonID") == "LogonId"
    assert nearest_field("Zzz") is None


def test_pysigma_is_not_imported_before_a_rule_is_read() -> None:
    code = (
        "import sys, minerwatch.detection.matching.matcher, minerwatch.detection.sigma.rulebook;"
        "print('sigma' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
