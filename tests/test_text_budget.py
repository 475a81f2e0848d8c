from __future__ import annotations

import sys
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from minerwatch.agent.kept_text import bound_text, shorten_texts
from minerwatch.agent.tracked import TrackedProcess
from minerwatch.detection.facts import static_facts
from minerwatch.detection.matching.matcher import Matcher
from minerwatch.detection.sigma.rule import Rule
from minerwatch.text_budget import GAP, both_ends, fattest_over, shared, size_of, water_level
from tests.builders import make_process
from tests.detection.sigma.test_rule import parsed

_MIN_BYTES = 200  # headers of a str, a tuple and the gap

texts = (
    st.builds(lambda piece, times: piece * times, st.text(max_size=8), st.integers(0, 20_000))
    | st.text()
)


@given(texts, st.integers(0, 100_000))
def test_both_ends_of_a_text_fit(text: str, max_bytes: int) -> None:
    kept = both_ends(text, max_bytes)
    assert size_of(kept) <= max(max_bytes, _MIN_BYTES)
    if kept != text and kept:
        head, tail = kept.split(GAP, 1) if kept.count(GAP) == 1 else ("", "")
        assert text.startswith(head)
        assert text.endswith(tail)


@given(st.lists(texts, max_size=30).map(tuple), st.integers(0, 100_000))
def test_both_ends_of_a_list_fit(values: tuple[str, ...], max_bytes: int) -> None:
    kept = both_ends(values, max_bytes)
    assert size_of(kept) <= max(max_bytes, 2 * _MIN_BYTES)
    if kept != values:
        assert GAP in kept or any(GAP in each for each in kept)


@given(st.lists(st.integers(0, 1 << 20), max_size=50), st.integers(0, 1 << 22))
def test_what_is_cut_to_the_water_level_fits(sizes: list[int], max_bytes: int) -> None:
    level = water_level(sizes, max_bytes)
    assert sum(min(size, level) for size in sizes) <= max_bytes
    if sum(sizes) <= max_bytes:
        assert all(size <= level for size in sizes)


@given(st.dictionaries(st.text(max_size=4), st.integers(0, 1 << 22), max_size=20))
def test_whoever_keeps_less_than_the_mean_never_gives_way(kept: dict[str, int]) -> None:
    limit = 1 << 23
    over = fattest_over(kept, max_owner=1 << 21, max_node=limit)
    if over is None:
        assert sum(kept.values()) <= limit
        assert all(each <= 1 << 21 for each in kept.values())
    else:
        owner, keeps = over
        assert kept[owner] * len(kept) >= sum(kept.values())
        assert keeps < kept[owner]


def process(command_line: str) -> TrackedProcess:
    found = TrackedProcess(make_process(1, command_line=command_line))
    bound_text(found, None)
    return found


def test_the_longest_texts_of_a_container_give_way_and_its_short_ones_stay() -> None:
    short = [process(f"worker --number {number}") for number in range(100)]
    long = [process("\\xff" * 15_000 + str(number)) for number in range(100)]
    before = [each.process for each in short]
    assert shorten_texts([*long, *short], 1 << 20) == len(long)
    assert sum(each.text_bytes for each in (*long, *short)) <= 1 << 20
    assert [each.process for each in short] == before
    assert not any(each.is_shortened for each in short)
    assert all(each.is_shortened and GAP in each.process.command_line for each in long)


def test_a_parent_is_kept_in_brief() -> None:
    child = process("worker")
    parent = process("😀" + "x" * 10_000).process
    bound_text(child, parent)
    assert child.parent is not None
    assert child.parent.command_line.startswith("😀")
    assert child.text_bytes < 8 << 10
    short = replace(parent, command_line="bash")
    bound_text(child, short)
    assert child.parent is short


def a_rule(number: int, signal: str, score: int, status: str) -> Rule:
    return parsed(
        f"""
title: rule {number}
id: 00000000-0000-4000-8000-{number:012}
status: {status}
logsource: {{product: linux, category: process_creation}}
detection: {{selection: {{CommandLine|contains: word}}, condition: selection}}
level: high
minerwatch: {{signal: {signal}, score: {score}}}
"""
    )


def test_of_very_many_matches_those_that_decide_are_kept() -> None:
    rules = [
        *(a_rule(number, "identity", 40, "stable") for number in range(100)),
        a_rule(100, "identity", 60, "stable"),
        a_rule(101, "network", 35, "stable"),
        a_rule(102, "identity", 88, "experimental"),
    ]
    found = Matcher(rules)
    flood = [process("word " + "x" * 200 + str(number)) for number in range(50)]
    for each in flood:
        each.matches = found.static_matches(static_facts(each.process, None))
        assert len(each.matches) == len(rules)
        bound_text(each, None)
    shorten_texts(flood, 50 * 2000)
    for each in flood:
        kept = {match.rule.id[-3:] for match in each.matches}
        assert {"100", "101", "102"} <= kept
        assert len(kept) < 10
    assert sum(each.text_bytes for each in flood) < 50 * 2500


def test_short_texts_are_shared_and_long_ones_are_not_held() -> None:
    first, second = ("".join(["/usr/", "bin/env"]) for _ in range(2))
    assert first is not second
    assert shared(first) is shared(second)
    long = "x" * 10_000
    before = sys.getrefcount(long)
    shared(long)
    assert sys.getrefcount(long) == before
