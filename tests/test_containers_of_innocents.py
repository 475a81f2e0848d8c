"""Ordinary programs beside each other in one container: what they show together is not proof.

A container's score joins what its processes show. A notebook's simulation, a monitor that names
pools and a tool in memory are three programs, each with a reason of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.detection import CORPUS, RememberingMatcher, verdict_together
from minerwatch.authoring.recordings import Recording, parse_recording
from minerwatch.detection.judge import is_cullable, joined_score
from minerwatch.model import Level, Signal, Verdict
from tests import shipped
from tests.examples import examples

LINES = tuple(map(parse_recording, (CORPUS / "benign.jsonl").read_text("utf-8").splitlines()))


@cache
def matcher() -> RememberingMatcher:
    return RememberingMatcher(shipped.book().rules)


def together(lines: Sequence[Recording]) -> Verdict:
    return verdict_together(lines, matcher())


def containers(of: Sequence[Recording]) -> st.SearchStrategy[list[Recording]]:
    return st.lists(st.sampled_from(of), min_size=1, max_size=8, unique_by=lambda line: line.id)


@given(containers(LINES))
@settings(max_examples=examples(200))
def test_no_container_of_innocents_is_cullable(lines: list[Recording]) -> None:
    assert not is_cullable(together(lines))


@given(containers(LINES))
@settings(max_examples=examples(200))
def test_no_container_of_innocents_is_confirmed(lines: list[Recording]) -> None:
    verdict = together(lines)
    assert verdict.level < Level.CONFIRMED, [finding.title for finding in verdict.findings]


def test_all_of_them_together_are_not_cullable() -> None:
    """The worst container that the corpus can make: every line is a process of it."""
    assert not is_cullable(together(LINES))


def profile(line: Recording) -> tuple[tuple[Signal, float], ...]:
    """The highest score of each signal; words of one argument confirm nothing (``score_of``)."""
    scores: dict[Signal, float] = defaultdict(float)
    for match in matcher().matches(line.facts):
        if match.rule.hold_s <= line.seconds and not match.words_only:
            scores[match.rule.signal] = max(scores[match.rule.signal], match.rule.score)
    return tuple(sorted(scores.items()))


def test_no_three_of_them_are_confirmed() -> None:
    """Every container of three lines, by what their signals come to at most."""
    profiles = {profile(line): str(line.id) for line in LINES}
    confirmed = []
    for trio in combinations(profiles, 3):
        joined: dict[Signal, float] = defaultdict(float)
        for signal, score in (pair for one in trio for pair in one):
            joined[signal] = max(joined[signal], score)
        if Level.of(joined_score(joined)) is Level.CONFIRMED:
            confirmed.append([profiles[one] for one in trio])
    assert confirmed == []


@pytest.mark.parametrize("line", LINES, ids=lambda line: str(line.id))
def test_a_simulation_beside_it_makes_none_of_them_cullable(line: Recording) -> None:
    busy = next(each for each in LINES if each.id == "science/kernel-week-long-simulation")
    verdict = together([line, busy])
    assert verdict.level < Level.CONFIRMED
    assert not is_cullable(verdict)
