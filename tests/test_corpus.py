"""The corpus of miners and ordinary programs under the shipped rules: docs/detection.md."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.detection import (
    BEGIN,
    CORPUS,
    DOCUMENT,
    END,
    GOALS,
    MAX_FALSE,
    MIN_RECALL,
    Goal,
    Result,
    documented_rows,
    measured,
    report_lines,
    with_report,
)
from minerwatch.authoring.lint_rules import fact_problems
from minerwatch.authoring.recordings import parse_recording, replayed
from minerwatch.config.schema import BUILT_IN_RULES
from minerwatch.detection.facts import static_facts
from minerwatch.detection.fields import KNOWN_FIELDS
from minerwatch.model import Abuse, Level
from tests import shipped
from tests.detection.test_facts import PROCESS

LEAST = {"benign": 600, "miners": 300}
RECORDED_IN = {"/bin/sh", "/home/jovyan", "/usr/bin", "/usr/lib", "/usr/sbin"}
"""Folders that recorded lines may name: of any machine, not of the one that recorded them."""
RECORDED = ("recorded/", "executed/", "coin/", "hash/", "randomx/")
RENEW = "python -m benchmarks.detection --write"


@pytest.fixture(scope="module")
def result() -> Result:
    return measured()


def lines_of(name: str) -> list[dict[str, object]]:
    text = (CORPUS / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("name", LEAST)
def test_there_are_enough_lines_and_each_has_an_id_of_its_own(name: str) -> None:
    lines = lines_of(name)
    assert len(lines) >= LEAST[name]
    assert [
        each for each, count in Counter(line["id"] for line in lines).items() if count > 1
    ] == []
    assert {line["label"] for line in lines} == {"benign" if name == "benign" else "miner"}


@pytest.mark.parametrize("name", LEAST)
def test_facts_are_such_as_an_agent_measures(name: str) -> None:
    """A misspelt field, or a number that is text, would be an innocent line, or a missed one."""
    text = (CORPUS / f"{name}.jsonl").read_text(encoding="utf-8")
    doubts = {
        case.id: found
        for case in map(parse_recording, text.splitlines())
        if (found := list(fact_problems(case.facts, frozenset())))
    }
    assert doubts == {}
    assert all(
        set(case.facts) <= KNOWN_FIELDS.keys() for case in map(parse_recording, text.splitlines())
    )


@pytest.mark.parametrize("name", LEAST)
def test_what_follows_from_other_facts_follows(name: str) -> None:
    """As the agent would compute it: a line must not be innocent by a fact that nobody measures."""
    wrong = {}
    for case in map(parse_recording, (CORPUS / f"{name}.jsonl").read_text("utf-8").splitlines()):
        facts = case.facts
        process = replace(
            PROCESS,
            comm=str(facts.get("Comm", "")),
            command_line=str(facts.get("CommandLine", "")),
            image=str(facts.get("Image", "")),
        )
        computed = static_facts(process, None)
        wrong[case.id] = {
            field: computed[field]
            for field in ("CommDiffers", "KernelThreadName")
            if field in facts and facts[field] != computed[field]
        } | {
            field: "missing"
            for field, with_it in (("DestinationIp", "DestinationPort"),)
            if with_it in facts and field not in facts
        }
        assert len(process.comm.encode()) <= 15, case.id
    assert {name: fields for name, fields in wrong.items() if fields} == {}


def test_what_lint_tries_rules_on_is_part_of_the_corpus() -> None:
    text = (BUILT_IN_RULES / "tests" / "benign.jsonl").read_text(encoding="utf-8")
    known = (CORPUS / "benign.jsonl").read_text(encoding="utf-8").splitlines()
    sample = text.splitlines()
    assert 40 <= len(sample) <= 100
    assert [line for line in sample if line not in known] == []


@pytest.mark.parametrize("name", LEAST)
def test_nothing_of_the_machine_that_recorded_it_is_left(name: str) -> None:
    """Wherever this checkout lies: its path may well be a word of the corpus."""
    recorded = [line for line in lines_of(name) if str(line["id"]).startswith(RECORDED)]
    assert recorded
    told = " ".join(str(value) for line in recorded for value in line["facts"].values())  # type: ignore[attr-defined]
    folders = set(re.findall(r"(?:^|[ =\['\"])(/[^/ '\"]+/[^/ '\"]+)", told))
    assert folders <= RECORDED_IN, "a folder that only the recording machine has"


def test_no_benign_line_reaches_likely(result: Result) -> None:
    accused = {
        line.recorded.id: [result.rules[rule].title for rule in line.outcome.rules]
        for line in result.benign
        if line.is_false_alarm
    }
    assert accused == {}


def test_no_benign_line_is_cullable(result: Result) -> None:
    assert [line.recorded.id for line in result.benign if line.outcome.cullable] == []


def test_at_most_one_benign_line_in_a_hundred_is_suspicious(result: Result) -> None:
    suspicious = [line.recorded.id for line in result.benign if line.outcome.level != "clear"]
    assert len(suspicious) <= MAX_FALSE * len(result.benign), suspicious


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: goal.name)
def test_hashers_are_found_by_what_they_execute(goal: Goal, result: Result) -> None:
    count, share = goal.share(result.miners)
    assert count >= 15
    assert share >= MIN_RECALL


def test_each_miner_with_executed_code_has_a_goal(result: Result) -> None:
    kinds = {line.kind for line in result.miners if line.is_executed}
    assert kinds == set().union(*(goal.kinds for goal in GOALS))


def test_no_benign_line_with_executed_code_is_suspicious(result: Result) -> None:
    lines = [line for line in result.benign if line.is_executed]
    assert len(lines) >= 24
    assert [line.recorded.id for line in lines if line.outcome.level != "clear"] == []


@pytest.mark.parametrize("line", lines_of("grey"), ids=lambda line: str(line["id"]))
def test_what_some_clusters_permit_is_suspicious_of_what_it_is(line: dict[str, object]) -> None:
    """Crackers and scanners of one's own are abuse on a shared cluster, and never mining."""
    outcome = replayed(parse_recording(json.dumps(line)), shipped.matcher())
    assert (outcome.level, outcome.cullable) == ("suspicious", False)
    rules = [rule for rule in shipped.book().rules if rule.id in outcome.rules]
    assert {rule.abuse for rule in rules if rule.score >= Level.SUSPICIOUS} <= {
        Abuse.CRACKING,
        Abuse.SCANNING,
    }


def test_the_document_promises_no_more_than_the_rules_keep(result: Result) -> None:
    """Better is allowed: rules come more often than the document is renewed."""
    documented = documented_rows(DOCUMENT.read_text(encoding="utf-8"))
    now = {row.name: row for row in result.rows()}
    assert [row.name for row in documented] == list(now), f"run {RENEW}"
    fewer = [row.name for row in documented if now[row.name].miners < row.miners]
    more = [row.name for row in documented if now[row.name].benign > row.benign]
    assert (fewer, more) == ([], []), f"if that is meant, run {RENEW} and say why"


def test_the_document_is_of_this_corpus(result: Result) -> None:
    """It may have fewer lines: rules bring their own, and figures are renewed apart."""
    text = DOCUMENT.read_text(encoding="utf-8")
    counts = re.search(r"(\d+) lines of miners, (\d+) benign lines\.", text)
    assert counts is not None
    assert 0 < int(counts[1]) <= len(result.miners), f"run {RENEW}"
    assert 0 < int(counts[2]) <= len(result.benign), f"run {RENEW}"


def test_a_report_can_be_read_back(result: Result) -> None:
    report = "\n".join(report_lines(result))
    assert documented_rows(report) == result.rows()


def test_only_what_is_between_the_marks_is_written(tmp_path: Path) -> None:
    assert with_report(f"a\n{BEGIN}\nold\n{END}\nb\n", "new\n") == f"a\n{BEGIN}\nnew\n{END}\nb\n"
    with pytest.raises(ValueError, match="has no"):
        with_report("a\n", "new\n")
