from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.authoring.recordings import (
    Outcome,
    Recording,
    Tally,
    numbered_lines,
    parse_recording,
    replayed,
)
from minerwatch.detection.fields import KNOWN_FIELDS
from minerwatch.detection.matching.matcher import Matcher
from minerwatch.model import FactValue, Level
from tests import shipped
from tests.authoring.test_rule_tests import RULE, book


def test_a_line_without_end_is_cut_and_the_next_one_read() -> None:
    file = io.BytesIO(b"one\n\n" + b"x" * 1000 + b"\nlast")
    assert list(numbered_lines(file, 100)) == [(1, b"one\n"), (3, b"x" * 100), (4, b"last")]


def test_results_are_counted_by_label() -> None:
    tally = Tally()
    for label, level in (("miner", "likely"), ("miner", "clear"), ("", "clear")):
        case = Recording(1, label, 60, {"Comandline": "x"})
        tally.add(case, Outcome(1, 0.0, level, (), (), cullable=level == "likely"))
    assert list(tally.rows()) == [
        "LABEL  LINES  CLEAR  SUSPICIOUS  LIKELY  CONFIRMED  CULLABLE",
        "-          1      1           0       0          0         0",
        "miner      2      1           0       1          0         1",
    ]
    assert list(tally.unknown_fields(())) == [
        "3 lines with the unknown field Comandline: did you mean CommandLine?"
    ]


def test_without_results_there_is_no_table() -> None:
    assert list(Tally().rows()) == []


def test_for_is_kept(tmp_path: Path) -> None:
    rules = book(tmp_path, RULE.replace("minerwatch:\n", "minerwatch:\n  for: 1m\n")).rules
    matcher = Matcher(rules)
    assert replayed(Recording(1, "", 59, {"Comm": "miner"}), matcher).score == 0
    outcome = replayed(Recording(1, "", 60, {"Comm": "miner"}), matcher)
    assert (outcome.score, outcome.level, outcome.signals) == (60, "suspicious", ("identity",))
    assert outcome.rules == ("5b7d4b3a-0d43-4f41-8a3d-0c4b5f1d2e3f",)
    assert not outcome.cullable


def test_what_is_confirmed_by_compute_and_another_stable_signal_is_cullable() -> None:
    facts: dict[str, FactValue] = {
        "CommandLine": "./x -o stratum+tcp://pool.supportxmr.com:3333 -u 4AdU",
        "CpuCores": 0.99,
    }
    assert not replayed(Recording("a", "", 3600, facts), shipped.matcher()).cullable
    facts |= {"RoundingModes": 4, "RoundingShare": 0.7, "FlushToZeroShare": 1.0}
    facts |= {"LargestAnonymousMiB": 2080.0}
    assert replayed(Recording("a", "", 3600, facts), shipped.matcher()).cullable


def test_a_line_is_taken_apart() -> None:
    line = json.dumps(
        {"id": "a", "label": "x", "seconds": 5, "facts": {"DestinationPort": [3333], "Age": None}}
    )
    assert parse_recording(line) == Recording(
        "a", "x", 5.0, {"DestinationPort": ("3333",), "DestinationCount": 1}
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("nonsense", "not JSON"),
        ("[]", "not an object"),
        ('{"seconds": 1, "facts": {}}', "id: missing"),
        ('{"id": true, "seconds": 1, "facts": {}}', "id: missing"),
        ('{"id": [], "seconds": 1, "facts": {}}', "id: missing"),
        ('{"id": 1, "seconds": 1}', "facts: missing"),
        ('{"id": 1, "facts": {}}', "seconds: missing, or not a number"),
        ('{"id": 1, "facts": {}, "seconds": -1}', "seconds: missing, or not a number"),
        ('{"id": 1, "facts": {}, "seconds": true}', "seconds: missing, or not a number"),
        ('{"id": 1, "facts": {}, "seconds": "5m"}', "seconds: missing, or not a number"),
        ('{"id": 1, "facts": {}, "seconds": 1e999}', "seconds: missing, or not a number"),
        ('{"id": 1, "facts": {}, "seconds": NaN}', "not JSON: NaN is not a number"),
        ('{"id": 1, "seconds": 1, "facts": {"Comm": {}}}', "Comm is not a text"),
        ('{"id": 1, "seconds": 1, "facts": {"Comm": [[]]}}', "Comm has an element"),
        (f'{{"id": {"9" * 5000}}}', "not JSON: Exceeds the limit"),
        (b"\xff", "not UTF-8"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_line_that_is_none_says_why(line: str | bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_recording(line)


def test_facts_of_every_kind_are_read() -> None:
    facts = '{"Comm": "a", "Threads": 3, "CpuCores": 0.5, "ExeDeleted": true, "DestinationIp": []}'
    line = f'{{"id": "x", "seconds": 1, "facts": {facts}, "further": {{}}}}'
    assert parse_recording(line).facts == {
        "Comm": "a", "Threads": 3, "CpuCores": 0.5, "ExeDeleted": True, "DestinationIp": (),
    }  # fmt: skip
    mixed = '{"id": "x", "seconds": 1, "facts": {"DestinationPort": [1, "2", 0.5, true]}}'
    assert parse_recording(mixed).facts["DestinationPort"] == ("1", "2", "0.5", "true")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
fields = st.sampled_from([*KNOWN_FIELDS, "X"]) | st.text(max_size=10)
speaking = st.sampled_from(
    ["xmrig", "/tmp/xmrig", "./a -o stratum+tcp://p:1 -u w", "grep stratum+tcp://a", True, 1.0, 64]
)


@given(st.binary(max_size=200))
def test_no_bytes_do_anything_but_parse_or_say_why(line: bytes) -> None:
    try:
        parse_recording(line)
    except ValueError as error:
        said = str(error)
        assert said


@given(st.dictionaries(fields, json_values | speaking, max_size=8), json_values | st.floats(0, 1e9))
def test_any_facts_have_a_score_and_a_level_or_a_reason(
    facts: dict[str, object], seconds: object
) -> None:
    line = json.dumps({"id": 1, "seconds": seconds, "facts": facts})
    try:
        recorded = parse_recording(line)
    except ValueError:
        return
    outcome = replayed(recorded, shipped.matcher())
    assert 0 <= outcome.score <= 100
    assert outcome.level == Level.of(outcome.score).label
    assert bool(outcome.rules) is bool(outcome.signals)
    assert not outcome.cullable or outcome.level == "confirmed"
    json.dumps(asdict(outcome), allow_nan=False)


EVIDENCE: tuple[dict[str, FactValue], ...] = (
    {"Comm": "xmrig"},
    {"CommandLine": "./x -o stratum+tcp://pool.example.org:3333 -u w"},
    {"KernelThreadName": True},
    {"ExeInMemory": True},
    {"CpuCores": 1.0, "CpuFlatness": 0.99},
    {"SaturatedThreads": 4},
    {"ContainerCpuHours": 20.0, "ContainerCpuCores": 1.0},
    {"HiddenCpuShare": 1.0, "ContainerCpuCores": 1.0},
)


@given(
    st.lists(st.sampled_from(EVIDENCE), unique_by=str),
    st.sampled_from(EVIDENCE),
    st.floats(0, 1e5),
)
def test_more_evidence_never_scores_less(
    some: list[dict[str, FactValue]], another: dict[str, FactValue], seconds: float
) -> None:
    facts = {name: value for each in some for name, value in each.items()}
    less = replayed(Recording(1, "", seconds, facts), shipped.matcher())
    more = replayed(Recording(1, "", seconds, {**facts, **another}), shipped.matcher())
    assert set(less.rules) <= set(more.rules)
    assert less.score <= more.score
    assert less.cullable <= more.cullable


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_what_holds_longer_never_scores_less(one: float, other: float) -> None:
    facts: dict[str, FactValue] = {"Comm": "xmrig", "CpuCores": 0.99, "CpuFlatness": 0.99}
    shorter, longer = sorted((one, other))
    assert (
        replayed(Recording(1, "", shorter, facts), shipped.matcher()).score
        <= replayed(Recording(1, "", longer, facts), shipped.matcher()).score
    )
