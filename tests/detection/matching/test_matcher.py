from __future__ import annotations

import random
import re
import time
import tracemalloc
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import re2
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from minerwatch.detection.condition import All, Condition, Known, Not, Predicate, shared
from minerwatch.detection.condition import Any as AnyOf
from minerwatch.detection.matching.evaluation import Evaluations
from minerwatch.detection.matching.evidence import observed
from minerwatch.detection.matching.matcher import MAX_EVIDENCE, Match, Matcher
from minerwatch.detection.predicate import (
    compiled_regex,
    encoded,
    predicate_holds,
    regex_span,
    regex_test,
)
from minerwatch.detection.sigma.lists import Lists
from minerwatch.detection.sigma.rule import Rule
from minerwatch.model import Evidence, Facts
from tests.builders import parse_rule
from tests.detection.reference import rule_holds
from tests.examples import examples

LISTS = Lists(
    (Path("lists"),),
    {"pools": ("pool.example", "a*b", "x?y", "c:\\d"), "names": ("xmrig", "T-Rex", "ΑΣ")},
)
HEADER = {
    "title": "a rule",
    "id": "11111111-2222-4333-8444-555555555555",
    "logsource": {"product": "linux", "category": "process_creation"},
    "level": "high",
}


def rule_of(detection: dict[str, Any], number: int = 0) -> Rule:
    content = {
        **HEADER,
        "id": f"11111111-2222-4333-8444-{number:012d}",
        "detection": detection,
    }
    text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False)
    rule = parse_rule(Path("rule.yml"), text, LISTS)
    assert isinstance(rule, Rule)
    return rule


def sharing(rules: Iterable[Rule]) -> list[Rule]:
    """As a rule book has them: equal conditions are one object."""
    known: Known = {}
    return [replace(rule, condition=shared(rule.condition, known)) for rule in rules]


def holds(selection: Any, facts: Facts, condition: str = "selection") -> bool:
    rule = rule_of({"selection": selection, "condition": condition})
    matches = Matcher([rule]).matches(facts)
    assert rule_holds(
        {"detection": {"selection": selection, "condition": condition}}, facts, LISTS.entries
    ) is bool(matches)
    assert Evaluations().holds(rule.condition, facts) is bool(matches)
    return bool(matches)


# Random rules on random facts: the matcher agrees with the reference.

# Texts and patterns are made of the same few pieces, so that they meet often.
PIECES = ["a", "b", "A", "ab", "a", "b", "xmrig", "-x", "*", "?", "\\", " ", "\n", "%"]
RARE = ["pool.example", "Σ", "σ", "ΑΣ", "İ", "ß", "😀", "\\*", "\\?", "3333", "true"]
PIECE = st.one_of(st.sampled_from(PIECES), st.sampled_from(PIECES), st.sampled_from(RARE))
PATTERN = st.lists(PIECE, max_size=3).map("".join)
REGEX = st.sampled_from(
    ["a+", "^a", "b$", "[a-x]{2}", "(a|b)+$", r"\s-", "(?i)A", "x.y", r"\bk\b", "σ"]
)
PLACEHOLDER = st.sampled_from(["%pools%", "-%names%", "%names%*%pools%", "%names% a"])
NUMBER = st.one_of(st.integers(-2, 4), st.sampled_from([0.5, 1.5, 2.0, 3333]))
TEXT_FIELDS = ["CommandLine", "Image", "DestinationHostname"]
NUMBER_FIELDS = ["CpuCores", "Threads", "DestinationPort", "ExeDeleted"]
FIELDS = [*TEXT_FIELDS, *NUMBER_FIELDS, "LogonId"]


def listed(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(values, st.lists(values, min_size=1, max_size=4))


@st.composite
def items(draw: st.DrawFn) -> tuple[str, Any]:
    kind = draw(
        st.sampled_from(["text", "text", "text", "regex", "number", "plain", "expand", "ref"])
    )
    every = draw(st.sampled_from(["", "", "|all"]))
    negated = draw(st.sampled_from(["", "", "", "|neq"]))
    if kind == "text":
        field = draw(st.sampled_from(["CommandLine", *TEXT_FIELDS, "Threads", ""]))
        how = draw(st.sampled_from(["|contains", "|startswith", "|endswith", ""]))
        cased = draw(st.sampled_from(["", "", "|cased"]))
        return field + how + cased + every + negated, draw(listed(PATTERN))
    if kind == "regex":
        flag = draw(st.sampled_from(["", "|i", "|s", "|m"]))
        return draw(st.sampled_from(TEXT_FIELDS)) + "|re" + flag + every, draw(listed(REGEX))
    if kind == "number":
        compare = draw(st.sampled_from(["", "|gt", "|gte", "|lt", "|lte"]))
        return draw(st.sampled_from(NUMBER_FIELDS)) + compare + every + negated, draw(
            listed(NUMBER)
        )
    if kind == "plain":
        value = st.one_of(st.none(), st.booleans(), NUMBER, PATTERN)
        return draw(st.sampled_from(FIELDS)) + every + negated, draw(listed(value))
    if kind == "expand":
        how = draw(st.sampled_from(["|contains", "|startswith", "|endswith", "|re", ""]))
        return draw(st.sampled_from(TEXT_FIELDS)) + how + "|expand" + every, draw(
            listed(PLACEHOLDER)
        )
    how = draw(st.sampled_from(["", "|startswith", "|endswith", "|contains"]))
    exists = draw(st.booleans())
    if exists:
        return draw(st.sampled_from(FIELDS)) + "|exists", draw(st.booleans())
    other = draw(st.sampled_from(FIELDS))
    return draw(st.sampled_from(FIELDS)) + "|fieldref" + how + negated, other


MAPPING = st.lists(items(), min_size=1, max_size=3).map(dict)
SELECTION = st.one_of(
    MAPPING,
    st.lists(MAPPING, min_size=1, max_size=2),
    st.lists(st.one_of(PATTERN, st.integers(0, 99)), min_size=1, max_size=3),
    PATTERN,
)
NAMES = ("sel_a", "sel_b", "filter_c", "_hidden")
LEAF = st.sampled_from(
    [*NAMES, "1 of sel_*", "all of sel_*", "any of them", "all of them", "1 of _*"]
)
CONDITION = st.recursive(
    LEAF,
    lambda inner: st.one_of(
        inner.map(lambda text: f"not ({text})"),
        LEAF.map(lambda text: f"not {text}"),
        st.tuples(inner, inner).map(" and ".join),
        st.tuples(inner, inner).map(" or ".join),
        st.tuples(inner, inner).map(lambda both: f"({both[0]} or {both[1]})"),
    ),
    max_leaves=3,
)
MANY_SELECTIONS = st.fixed_dictionaries(
    {
        **dict.fromkeys(NAMES, SELECTION),
        "condition": st.one_of(CONDITION, st.lists(CONDITION, min_size=1, max_size=2)),
    }
)
ONE_SELECTION = st.fixed_dictionaries(
    {"sel_a": SELECTION, "condition": st.sampled_from(["sel_a", "sel_a", "not sel_a"])}
)
DETECTION = st.one_of(ONE_SELECTION, ONE_SELECTION, MANY_SELECTIONS)
OBSERVED = st.one_of(
    st.lists(PIECE, max_size=4).map("".join),
    st.sampled_from(["true", "3333", "1.5", "xmrig -a pool.example", "\x00a"]),
)
FACTS = st.fixed_dictionaries(
    {"CommandLine": OBSERVED, "CpuCores": st.sampled_from([-0.5, 0.5, 1, 1.5, 2, 2.0, 2.5])},
    optional={
        "Image": OBSERVED,
        "DestinationHostname": st.lists(OBSERVED, max_size=3).map(tuple),
        "DestinationPort": st.lists(st.sampled_from(["3333", "443", "x", "-1"])).map(tuple),
        "Threads": st.integers(-1, 4),
        "ExeDeleted": st.booleans(),
    },
)


def is_true(condition: Condition, facts: Facts) -> bool:
    match condition:
        case All(conditions):
            return all(is_true(inner, facts) for inner in conditions)
        case AnyOf(conditions):
            return any(is_true(inner, facts) for inner in conditions)
        case Not(inner):
            return not is_true(inner, facts)
    return predicate_holds(condition, facts)


def reasons_of(condition: Condition, facts: Facts) -> Iterator[Predicate]:
    """Yield the true predicates of a true condition that are not under a ``not``."""
    match condition:
        case All(conditions) | AnyOf(conditions):
            for inner in conditions:
                if is_true(inner, facts):
                    yield from reasons_of(inner, facts)
        case Not():
            return
        case _:
            yield condition


@settings(max_examples=examples(100), deadline=None)
@given(st.lists(DETECTION, min_size=1, max_size=4), st.lists(FACTS, min_size=4, max_size=10))
def test_matching_agrees_with_the_reference(detections: list[Any], some_facts: list[Any]) -> None:
    rules = sharing(rule_of(detection, number) for number, detection in enumerate(detections))
    matcher = Matcher(rules)
    for facts in (*some_facts, *some_facts):
        expected = {
            rule.id
            for rule, detection in zip(rules, detections, strict=True)
            if rule_holds({"detection": detection}, facts, LISTS.entries)
        }
        matches = matcher.matches(facts)
        assert {match.rule.id for match in matches} == expected
        for match in matches:
            reasons = set(reasons_of(match.rule.condition, facts))
            assert len(match.evidence) == min(len(reasons), MAX_EVIDENCE)
            assert set(match.evidence) <= {
                Evidence(reason.field, observed(reason, facts), reason.describe())
                for reason in reasons
            }
        for rule in rules:
            assert Evaluations().holds(rule.condition, facts) is (rule.id in expected)


@pytest.mark.parametrize("seed", range(20))
def test_random_texts_agree_with_the_reference(seed: int) -> None:
    """Evenly random, where hypothesis looks for corners: each kind of pattern meets many texts."""
    chance = random.Random(seed)
    pieces = [*PIECES, *RARE]

    def joined(most: int) -> str:
        return "".join(chance.choices(pieces, k=chance.randint(0, most)))

    detections = []
    for _ in range(30):
        how = chance.choice(["", "|contains", "|startswith", "|endswith"])
        cased = chance.choice(["", "", "|cased"])
        every = chance.choice(["", "", "|all"])
        value = [joined(2) for _ in range(chance.choice([1, 1, 2]))]
        field = chance.choice(["CommandLine", "DestinationHostname", "Threads"])
        item: dict[str, Any] = {
            field + how + cased + every: value,
            "CpuCores|gte": chance.choice([0, 1, 2]),
        }
        if chance.random() < 0.5:
            del item["CpuCores|gte"]
        if chance.random() < 0.2:
            item = {"DestinationHostname": None, "Image|exists": chance.choice([True, False])}
        unless = {"Image" + chance.choice(["|contains", "|endswith"]): joined(1)}
        condition = chance.choice(["sel", "sel and not unless", "sel or unless", "not sel"])
        detections.append({"sel": item, "unless": unless, "condition": condition})
    rules = sharing(rule_of(detection, number) for number, detection in enumerate(detections))
    matcher = Matcher(rules)
    for _ in range(200):
        facts: dict[str, Any] = {"CommandLine": joined(4), "Image": joined(2)}
        facts["DestinationHostname"] = tuple(joined(3) for _ in range(chance.randint(0, 2)))
        facts["CpuCores"] = chance.choice([0.5, 1, 1.0, 2.5])
        facts["Threads"] = chance.choice([3333, 0, 33])
        for name in chance.sample(sorted(facts), chance.randint(0, 2)):
            del facts[name]
        expected = {
            rule.id
            for rule, detection in zip(rules, detections, strict=True)
            if rule_holds({"detection": detection}, facts)
        }
        assert {match.rule.id for match in matcher.matches(facts)} == expected


# One table for every modifier.


@pytest.mark.parametrize(
    ("selection", "facts", "expected"),
    [
        ({"CommandLine": "Foo"}, {"CommandLine": "fOO"}, True),
        ({"CommandLine": "Foo"}, {"CommandLine": "foot"}, False),
        ({"CommandLine|cased": "Foo"}, {"CommandLine": "foo"}, False),
        ({"CommandLine|cased": "Foo"}, {"CommandLine": "Foo"}, True),
        ({"CommandLine|contains|cased": "Foo"}, {"CommandLine": "a Foo b"}, True),
        ({"CommandLine|contains|cased": "Foo"}, {"CommandLine": "a foo b"}, False),
        ({"CommandLine|contains": ["x", "oo"]}, {"CommandLine": "FOOT"}, True),
        ({"CommandLine|contains|all": ["x", "oo"]}, {"CommandLine": "foot"}, False),
        ({"CommandLine|contains|all": ["t", "oo"]}, {"CommandLine": "foot"}, True),
        ({"Image|startswith": "/tmp/"}, {"Image": "/TMP/x"}, True),
        ({"Image|startswith": "/tmp/"}, {"Image": "/a/tmp/x"}, False),
        ({"Image|endswith": "/xmrig"}, {"Image": "/opt/XMRig"}, True),
        ({"Image|endswith": "/xmrig"}, {"Image": "/opt/xmrig2"}, False),
        ({"Image": "/opt/*/x?"}, {"Image": "/opt/a/b/xy"}, True),
        ({"Image": "/opt/*/x?"}, {"Image": "/opt/a/x"}, False),
        ({"Image": r"/opt/\*"}, {"Image": "/opt/*"}, True),
        ({"Image": r"/opt/\*"}, {"Image": "/opt/a"}, False),
        ({"Image": r"a\\*"}, {"Image": "a\\b"}, True),
        ({"Image": r"a\b"}, {"Image": "a\\b"}, True),
        ({"CommandLine": "a*b"}, {"CommandLine": "a\nb"}, True),
        ({"CommandLine": "*"}, {"CommandLine": "x"}, True),
        ({"CommandLine": "*"}, {"CommandLine": ""}, False),
        ({"CommandLine": ""}, {"CommandLine": ""}, True),
        ({"CommandLine": ""}, {}, False),
        ({"CommandLine|re": "a.c"}, {"CommandLine": "xabcx"}, True),
        ({"CommandLine|re": "A.C"}, {"CommandLine": "xabcx"}, False),
        ({"CommandLine|re|i": "A.C"}, {"CommandLine": "xabcx"}, True),
        ({"CommandLine|re": "a.c"}, {"CommandLine": "a\nc"}, False),
        ({"CommandLine|re|s": "a.c"}, {"CommandLine": "a\nc"}, True),
        ({"CommandLine|re": "^c"}, {"CommandLine": "a\nc"}, False),
        ({"CommandLine|re|m": "^c"}, {"CommandLine": "a\nc"}, True),
        ({"DestinationIp|cidr": "10.0.0.0/8"}, {"DestinationIp": ("1.1.1.1", "10.9.8.7")}, True),
        ({"DestinationIp|cidr": "10.0.0.0/8"}, {"DestinationIp": ("1.1.1.1", "ten")}, False),
        ({"DestinationIp|cidr": "fd00::/8"}, {"DestinationIp": ("fd12::1",)}, True),
        ({"CpuCores|gt": 1}, {"CpuCores": 1.0}, False),
        ({"CpuCores|gte": 1}, {"CpuCores": 1.0}, True),
        ({"CpuCores|lt": 1.5}, {"CpuCores": 1}, True),
        ({"CpuCores|lte": 1}, {"CpuCores": 1.25}, False),
        ({"CpuCores|lt": 1}, {}, False),
        ({"CpuCores|neq": 0}, {"CpuCores": 0.5}, True),
        ({"CpuCores|neq": 0}, {"CpuCores": 0.0}, False),
        ({"CpuCores|neq": 0}, {}, False),
        ({"User|neq": ["root", "nobody"]}, {"User": "Nobody"}, False),
        ({"User|neq": ["root", "nobody"]}, {"User": "jo"}, True),
        ({"DestinationPort": 3333}, {"DestinationPort": ("443", "3333")}, True),
        ({"DestinationPort": "3333"}, {"DestinationPort": ("443", "3333")}, True),
        ({"DestinationPort|gte": 1024}, {"DestinationPort": ("443", "80")}, False),
        ({"Threads": "4"}, {"Threads": 4}, True),
        ({"ProcessId|startswith": "12"}, {"ProcessId": 123}, True),
        ({"ExeDeleted": True}, {"ExeDeleted": True}, True),
        ({"ExeDeleted": "true"}, {"ExeDeleted": True}, True),
        ({"ExeDeleted": False}, {"ExeDeleted": True}, False),
        ({"ExeDeleted": False}, {"ExeDeleted": False}, True),
        ({"ExeDeleted": "false"}, {"ExeDeleted": False}, True),
        ({"ExeDeleted": False}, {}, False),
        ({"ExeDeleted": 1}, {"ExeDeleted": True}, False),
        ({"Initiated": "true"}, {}, False),
        ({"ParentImage": None}, {}, True),
        ({"ParentImage": None}, {"ParentImage": ""}, True),
        ({"ParentImage": None}, {"ParentImage": "/bin/sh"}, False),
        ({"ParentImage|exists": False}, {}, True),
        ({"ParentImage|exists": True}, {}, False),
        ({"ParentImage|exists": True}, {"ParentImage": "/bin/sh"}, True),
        (
            {"DestinationHostname|contains|all": ["a", "b"]},
            {"DestinationHostname": ("a", "b")},
            True,
        ),
        ({"DestinationHostname|contains|all": ["a", "b"]}, {"DestinationHostname": ("a",)}, False),
        (["stratum", "pool"], {"CommandLine": "x -o STRATUM+tcp"}, True),
        ("stratum", {"Image": "stratum"}, False),
        ({"|all": ["stratum", "pool"]}, {"CommandLine": "stratum pool"}, True),
        ({"|all": ["stratum", "pool"]}, {"CommandLine": "stratum"}, False),
        ([4444], {"CommandLine": "nc -l 4444"}, True),
        ({"Image|fieldref": "ParentImage"}, {"Image": "/A", "ParentImage": "/a"}, True),
        (
            {"CommandLine|fieldref|startswith": "Image"},
            {"CommandLine": "/a b", "Image": "/a"},
            True,
        ),
        ({"CommandLine|fieldref|endswith": "Image"}, {"CommandLine": "b /a", "Image": "/a"}, True),
        ({"CommandLine|fieldref": "Image"}, {"CommandLine": "/a"}, False),
        ({"CommandLine|expand|contains": "%pools%"}, {"CommandLine": "-o POOL.example:1"}, True),
        ({"CommandLine|contains|expand": "%pools%"}, {"CommandLine": "-o a*b"}, True),
        ({"CommandLine|contains|expand": "%pools%"}, {"CommandLine": "-o aXb"}, False),
        ({"CommandLine|contains|expand": "%pools%"}, {"CommandLine": r"c:\d"}, True),
        ({"Image|endswith|expand": "/%names%"}, {"Image": "/opt/t-rex"}, True),
        ({"CommandLine|re|expand": "^%pools%$"}, {"CommandLine": "a*b"}, True),
        ({"CommandLine|re|expand": "^%pools%$"}, {"CommandLine": "poolXexample"}, False),
    ],
)
def test_modifier(selection: Any, facts: Facts, expected: bool) -> None:
    assert holds(selection, facts) is expected
    assert holds(selection, facts, "not selection") is not expected


@pytest.mark.parametrize(
    ("selection", "line", "expected"),
    [
        ({"CommandLine|base64|contains": "stratum+tcp"}, "echo c3RyYXR1bSt0Y3A= | base64 -d", True),
        ({"CommandLine|base64offset|contains": "stratum"}, "echo eHN0cmF0dW14", True),
        ({"CommandLine|base64offset|contains": "stratum"}, "echo stratum", False),
        ({"CommandLine|wide|base64offset|contains": "pool"}, "cABvAG8AbAA=", True),
        ({"CommandLine|windash|contains": " -donate"}, "x /donate", True),
        ({"CommandLine|windash|contains": " -donate"}, "x +donate", False),
        ({"CommandLine|windash|contains|all": [" -a", " -b"]}, "x /a -b", True),
        ({"CommandLine|windash|contains|all": [" -a", " -b"]}, "x /a", False),
    ],
)
def test_encoding_modifier(selection: Any, line: str, expected: bool) -> None:
    rule = rule_of({"selection": selection, "condition": "selection"})
    assert bool(Matcher([rule]).static_matches({"CommandLine": line})) is expected


def test_ipv4_address_written_as_ipv6_is_in_its_network() -> None:
    rule = rule_of({"a": {"DestinationIp|cidr": "10.0.0.0/8"}, "condition": "a"})
    assert Matcher([rule]).matches({"DestinationIp": ("::ffff:10.1.2.3",)})


# Static and dynamic.


def test_static_rules_are_apart_from_dynamic_ones() -> None:
    static = rule_of({"a": {"Image|endswith": "/x"}, "condition": "a"}, 1)
    dynamic = rule_of({"a": {"Image|endswith": "/x", "CpuCores|gte": 0.5}, "condition": "a"}, 2)
    unknown = rule_of({"a": {"LogonId": None}, "condition": "a"}, 3)
    matcher = Matcher([static, dynamic, unknown])
    facts: Facts = {"Image": "/x", "CpuCores": 0.75}
    assert [match.rule for match in matcher.static_matches(facts)] == [static, unknown]
    assert [match.rule for match in matcher.dynamic_matches(facts)] == [dynamic]
    assert len(matcher.matches(facts)) == 3


class Unread(str):
    """A text that must not be searched."""

    __slots__ = ()

    def lower(self) -> str:
        raise AssertionError


def test_idle_process_costs_no_text_matching() -> None:
    rule = rule_of({"a": {"CommandLine|re": "(a+)+$", "CpuCores|gte": 0.9}, "condition": "a"})
    matcher = Matcher([rule])
    assert matcher.dynamic_matches({"CommandLine": Unread("a"), "CpuCores": 0.5}) == ()
    assert matcher.dynamic_matches({"CommandLine": "a", "CpuCores": 0.95})


def test_no_rules_match_nothing() -> None:
    assert Matcher([]).matches({"CommandLine": "xmrig"}) == ()


# Evidence.


def test_evidence_lists_what_made_the_rule_hold() -> None:
    rule = rule_of(
        {
            "miner": {"CommandLine|contains": ["--donate-level", "--randomx-"], "Threads|gte": 4},
            "reader": {"Image|endswith": "/grep"},
            "condition": "miner and not reader",
        }
    )
    facts: Facts = {"CommandLine": "./a --donate-level 1", "Threads": 8, "Image": "/a"}
    assert Matcher([rule]).matches(facts) == (
        Match(
            rule,
            (
                Evidence("CommandLine", "--donate-level", "contains '--donate-level'"),
                Evidence("Threads", 8, ">= 4"),
            ),
            words_only=True,  # the option alone makes it hold
        ),
    )


def test_evidence_of_a_list_is_the_element_that_matched() -> None:
    rule = rule_of({"a": {"DestinationPort": 3333}, "condition": "a"})
    [match] = Matcher([rule]).matches({"DestinationPort": ("443", "3333")})
    assert match.evidence == (Evidence("DestinationPort", "3333", "= 3333"),)


def test_evidence_of_a_long_text_is_cut_around_the_hit() -> None:
    rule = rule_of({"a": {"CommandLine|contains": "stratum"}, "condition": "a"})
    [match] = Matcher([rule]).matches({"CommandLine": "a" * 5000 + "Stratum" + "b" * 5000})
    observed = match.evidence[0].observed
    assert isinstance(observed, str)
    assert "Stratum" in observed
    assert len(observed) <= 202


# Hostile text.


def test_nested_repetition_is_linear() -> None:
    rule = rule_of({"a": {"CommandLine|re": "(a+)+$"}, "condition": "a"})
    matcher = Matcher([rule])
    start = time.thread_time()
    assert matcher.matches({"CommandLine": "a" * 250_000 + "!"}) == ()
    assert time.thread_time() - start < 2


def test_text_of_a_quarter_mebibyte_is_linear() -> None:
    rule = rule_of(
        {
            "a": {"CommandLine|contains": ["a", "aa", "aaa", "b"]},
            "w": {"CommandLine": "*a*a?a*z"},
            "condition": "a and not w",
        }
    )
    start = time.thread_time()
    assert Matcher([rule]).matches({"CommandLine": "aA" * 131_072})
    assert time.thread_time() - start < 2


def test_text_with_surrogates_does_not_stop_the_matcher() -> None:
    rule = rule_of({"a": {"CommandLine|re": "ab"}, "condition": "a"})
    assert Matcher([rule]).matches({"CommandLine": "\ud800ab"})


@given(
    st.sampled_from([r"(?i)k\w{2,5}", "^$", r"\bé+\b", r"a.b$", r"\x00x", r"(?s)x.*y\z", "ſ|K"]),
    st.text(alphabet="akKéſx\0yb \n-ｂ\ud800", max_size=12),
)
def test_an_expression_is_searched_as_by_the_public_interface(pattern: str, text: str) -> None:
    """The matcher calls what lies below it, which is quicker."""
    data = encoded(text)
    found = compiled_regex(pattern).search(data)
    assert regex_test(pattern)(text) is (found is not None)
    span = regex_span(pattern, text)
    assert (span is None) is (found is None)
    if span is not None and found is not None:
        assert encoded(text)[slice(*found.span())] == encoded(text[slice(*span)])


def test_a_pattern_that_runs_out_of_memory_is_still_right() -> None:
    """RE2 then goes on without an automaton; an expression that does not compile gets more."""
    pattern = r"\b(?:pkill|killall)\b[^;&|]*(?:xmrig|minerd|[a-z]{30,60})\s+-9"
    regex = compiled_regex(pattern, memory=1 << 10)
    chance = random.Random(1)
    for _ in range(300):
        words = chance.choices(["pkill", "xmrig", "minerd", "-9", ";", "x" * 40, "é"], k=60)
        text = " ".join(words)
        assert bool(regex.search(text)) is bool(re.search(pattern, text))


def test_patterns_are_compiled_only_when_a_text_may_match_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rule = rule_of({"a": {"CommandLine|re": ["ab+c.d", "xy{2,}z"]}, "condition": "a"})
    matcher = Matcher([rule])
    compiled: list[str] = []
    compile_regex = re2.compile

    def compile_and_count(pattern: str, options: re2.Options) -> Any:
        compiled.append(pattern)
        return compile_regex(pattern, options)

    monkeypatch.setattr(re2, "compile", compile_and_count)
    assert not matcher.matches({"CommandLine": "nothing of the kind"})
    assert compiled == []
    assert matcher.static_matches({"CommandLine": "xyyz"})
    assert set(compiled) == {"xy{2,}z"}


def test_what_folds_to_ascii_is_found_also_where_python_keeps_it() -> None:
    """RE2 takes the long s for an s and the Kelvin sign for a k; str.lower() only the latter."""
    rule = rule_of({"a": {"CommandLine|re": "(?i)mask"}, "condition": "a"})
    for text in ("maſk", "maS\u212a", "MASK"):
        assert Matcher([rule]).matches({"CommandLine": text})
    literal = rule_of({"a": {"CommandLine|contains": "mask"}, "condition": "a"})
    assert not Matcher(
        [literal, rule_of({"a": {"CommandLine|re": "mas"}, "condition": "a"})]
    ).matches({"CommandLine": "maſk"})


def test_results_on_images_are_right_when_images_come_again() -> None:
    """More images than are remembered, in turn; an absent one and one that is no text, too."""
    rule = rule_of(
        {
            "a": {"Image|re": "^/tmp/[0-9]*[05]$"},
            "b": {"Image|re": "/(?:0|1)?5+$"},
            "condition": "a and not b",
        }
    )
    matcher = Matcher([rule])
    for number in (*range(200), *range(200)):
        is_held = str(number)[-1] in "05" and number not in {5, 15, 55, 155}
        assert bool(matcher.matches({"Image": f"/tmp/{number}"})) is is_held
        assert not matcher.matches({"Image": number})
        assert not matcher.matches({})


@pytest.mark.parametrize("selection", [{"ExeDeleted": False}, {"ExeDeleted|contains": "als"}])
def test_a_rule_may_need_a_false_flag(selection: dict[str, Any]) -> None:
    assert holds(selection, {"ExeDeleted": False})
    assert not holds(selection, {"ExeDeleted": True})
    assert not holds(selection, {"ExeDeleted": 0})


def _kept_bytes(matcher: Matcher, texts: Iterable[Facts]) -> int:
    """Return what is still allocated after all ``texts`` were matched."""
    tracemalloc.start()
    try:
        for facts in texts:
            matcher.matches(facts)
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def test_memory_of_seen_texts_is_bounded() -> None:
    matcher = Matcher([rule_of({"a": {"CommandLine|contains": "ab"}, "condition": "a"})])
    matcher.matches({"CommandLine": "ab"})
    lines: Iterator[Facts] = ({"CommandLine": f"{n} {'x' * 200}"} for n in range(10_000))
    assert _kept_bytes(matcher, lines) < 1 << 20


def test_long_paths_are_not_remembered() -> None:
    rule = rule_of({"a": {"Image|re": "^/[^/]*[0-9]x+[.]x$"}, "condition": "a"})
    matcher = Matcher([rule])
    assert matcher.matches({"Image": "/1x.x"})
    paths: Iterator[Facts] = ({"Image": f"/\U0001f600{n}{'x' * 4000}.x"} for n in range(60))
    assert _kept_bytes(matcher, paths) < 512 << 10  # one takes 16 KiB
