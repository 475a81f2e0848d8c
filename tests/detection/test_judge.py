from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.detection.condition import Present
from minerwatch.detection.judge import (
    MAX_FINDINGS,
    MAX_PROCESSES_PER_RULE,
    POD_COUNTERS,
    Judge,
    Sighting,
    is_cullable,
    joined_score,
    of_worst_abuse,
    proven_abuse,
    scores_by_abuse,
    signal_scores,
)
from minerwatch.detection.sigma.rule import LogSource, Rule
from minerwatch.model import Abuse, ContainerKey, Evidence, Level, Maturity, ProcessId, Signal

HERE = ContainerKey("/x", 1)


def rule(
    identifier: str = "r",
    *,
    score: float = 60,
    signal: Signal = Signal.IDENTITY,
    hold_s: float = 0,
    maturity: Maturity = Maturity.STABLE,
    abuse: Abuse = Abuse.MINING,
) -> Rule:
    return Rule(
        id=identifier, title=identifier, path=Path("r.yml"), signal=signal, score=score,
        hold_s=hold_s, level="", maturity=maturity, logsource=LogSource("linux", ""),
        condition=Present("Comm"), fields=frozenset(("Comm",)), abuse=abuse,
    )  # fmt: skip


def seen(one: Rule, pid: int = 1) -> Sighting:
    return Sighting(one, ProcessId(pid, 0), ())


scores = st.floats(0, 100, allow_nan=False)
rules = st.builds(
    lambda number, score, signal: rule(f"r{number}", score=score, signal=signal),
    st.integers(0, 1000),
    scores,
    st.sampled_from(Signal),
)


def test_kinds_of_abuse_do_not_add_up() -> None:
    mining = rule("m", score=60, signal=Signal.IDENTITY)
    cracking = rule("c", score=65, signal=Signal.COMPUTE, abuse=Abuse.CRACKING)
    verdict = Judge().verdict(HERE, [seen(mining), seen(cracking)], 0.0)
    assert verdict.score == 65
    assert {finding.rule for finding in verdict.findings} == {"m", "c"}
    assert {each.rule for each in of_worst_abuse(verdict.findings)} == {"c"}


@pytest.mark.parametrize("abuse", Abuse)
def test_only_abuse_that_computes_is_ever_culled(abuse: Abuse) -> None:
    proof = [
        seen(rule("a", score=88, signal=Signal.COMPUTE, abuse=abuse)),
        seen(rule("b", score=88, signal=Signal.IDENTITY, abuse=abuse)),
    ]
    verdict = Judge().verdict(HERE, proof, 0.0)
    assert verdict.level is Level.CONFIRMED
    assert is_cullable(verdict) is (abuse in {Abuse.MINING, Abuse.CRACKING})


@pytest.mark.parametrize("abuse", Abuse)
@pytest.mark.parametrize("field", ["FailedConnectShare", "DestinationPort"])
def test_scans_and_floods_are_culled_by_the_pods_own_counters_only(
    abuse: Abuse, field: str
) -> None:
    shown = (Evidence(field, 0.9, "at least 0.5"),)
    counted = replace(seen(rule("a", score=88, signal=Signal.NETWORK, abuse=abuse)), evidence=shown)
    named = seen(rule("b", score=88, signal=Signal.IDENTITY, abuse=abuse))
    verdict = Judge().verdict(HERE, [counted, named], 0.0)
    assert verdict.level is Level.CONFIRMED
    is_proof = field in POD_COUNTERS and abuse in {Abuse.SCANNING, Abuse.FLOODING}
    assert proven_abuse(verdict.findings) is (abuse if is_proof else None)
    words = replace(counted, words_only=True)
    assert not is_cullable(Judge().verdict(HERE, [words, named], 0.0))


@pytest.mark.parametrize(
    ("fields", "is_proof"),
    [
        (("RawPacketsPerSecond", "RawSocketCount"), True),
        (("UnreachablePerSecond",), False),
        (("DatagramsPerSecond", "UnreachablePerSecond"), False),
    ],
)
def test_answers_that_a_neighbour_can_send_are_no_proof(
    fields: tuple[str, ...], is_proof: bool
) -> None:
    shown = tuple(Evidence(field, 90.0, "at least 5") for field in fields)
    scan = seen(rule("a", score=88, signal=Signal.NETWORK, abuse=Abuse.SCANNING))
    named = seen(rule("b", score=88, signal=Signal.IDENTITY, abuse=Abuse.SCANNING))
    verdict = Judge().verdict(HERE, [replace(scan, evidence=shown), named], 0.0)
    assert (proven_abuse(verdict.findings) is Abuse.SCANNING) is is_proof


def test_scores_by_abuse_are_listed_worst_first() -> None:
    mining = rule("m", score=60, signal=Signal.IDENTITY)
    scans = [rule(f"s{score}", score=score, abuse=Abuse.SCANNING) for score in (20, 70)]
    findings = Judge().verdict(HERE, [seen(mining), *map(seen, scans)], 0.0).findings
    assert [*scores_by_abuse(findings).items()] == [(Abuse.SCANNING, 70), (Abuse.MINING, 60)]


def test_scores_by_abuse_of_a_host_are_those_of_its_worst_processes() -> None:
    one = rule("m", score=60, signal=Signal.IDENTITY)
    other = rule("n", score=60, signal=Signal.NETWORK)
    findings = Judge().verdict(HERE, [seen(one, 1), seen(other, 2)], 0.0, apart=True).findings
    assert scores_by_abuse(findings, apart=True) == {Abuse.MINING: 60}
    assert scores_by_abuse(findings) == {Abuse.MINING: 84}


def test_two_kinds_of_abuse_are_no_proof_together() -> None:
    compute = seen(rule("a", score=88, signal=Signal.COMPUTE, abuse=Abuse.CRACKING))
    named = seen(rule("b", score=88, signal=Signal.IDENTITY))
    assert not is_cullable(Judge().verdict(HERE, [compute, named], 0.0))


@pytest.mark.parametrize(
    ("by_signal", "joined"),
    [
        ({}, 0),
        ({Signal.IDENTITY: 88}, 88),
        ({Signal.IDENTITY: 60, Signal.EXECUTION: 60}, 84),
        ({Signal.IDENTITY: 35, Signal.BEHAVIOUR: 29}, 53.85),
        ({Signal.IDENTITY: 88, Signal.BEHAVIOUR: 29}, 89.99),
        ({Signal.IDENTITY: 60, Signal.BEHAVIOUR: 29}, 69.99),
        ({Signal.IDENTITY: 15, Signal.BEHAVIOUR: 29}, 29.99),
        ({Signal.COMPUTE: 100, Signal.CONTENT: 0}, 100),
    ],
)
def test_independent_signals_are_joined_by_noisy_or(
    by_signal: dict[Signal, float], joined: float
) -> None:
    assert joined_score(by_signal) == pytest.approx(joined)


@given(st.lists(rules, max_size=20), rules)
def test_a_score_is_0_to_100_and_never_falls_with_a_finding_more(
    before: list[Rule], more: Rule
) -> None:
    fewer = Judge().verdict(HERE, [seen(each) for each in before], 0)
    extended = Judge().verdict(HERE, [seen(each) for each in [*before, more]], 0)
    assert 0 <= fewer.score <= extended.score <= 100
    assert fewer.level <= extended.level


@given(st.dictionaries(st.sampled_from(Signal), scores))
def test_behaviour_never_changes_a_level(by_signal: dict[Signal, float]) -> None:
    others: dict[Signal, float] = {
        signal: n for signal, n in by_signal.items() if signal is not Signal.BEHAVIOUR
    }
    with_behaviour = joined_score(by_signal)
    assert joined_score(others) <= with_behaviour
    assert Level.of(with_behaviour) is Level.of(joined_score(others))


@given(st.lists(st.tuples(rules, st.integers(1, 3)), max_size=20))
def test_words_alone_never_make_more_than_suspicious(those: list[tuple[Rule, int]]) -> None:
    words = [
        Sighting(each, ProcessId(pid, 0), (), words_only=True)
        for each, pid in those
        if each.signal is not Signal.BEHAVIOUR
    ]
    verdict = Judge().verdict(HERE, words, 0)
    assert verdict.level <= Level.SUSPICIOUS
    assert not is_cullable(verdict)


@pytest.mark.parametrize(
    ("signal", "score", "level"),
    [
        (Signal.NETWORK, 29, Level.SUSPICIOUS),
        (Signal.NETWORK, 45, Level.SUSPICIOUS),  # 60 and 45 would make 78
        (Signal.EXECUTION, 60, Level.SUSPICIOUS),
        (Signal.COMPUTE, 75, Level.LIKELY),
        (Signal.COMPUTE, 88, Level.LIKELY),  # 60 and 88 would make 95.2
        (Signal.COMPUTE, 90, Level.CONFIRMED),
    ],
)
def test_words_of_one_argument_lift_nothing_above_suspicious(
    signal: Signal, score: float, level: Level
) -> None:
    words = Sighting(rule("words", score=88), ProcessId(1, 0), (), words_only=True)
    other = seen(rule("other", score=score, signal=signal))
    verdict = Judge().verdict(HERE, [words, other], 0)
    assert verdict.level is level
    assert verdict.score >= Judge().verdict(HERE, [other], 0).score
    assert is_cullable(verdict) is (level is Level.CONFIRMED)


@given(st.lists(rules, max_size=20))
def test_findings_of_one_signal_do_not_add_up(those: list[Rule]) -> None:
    verdict = Judge().verdict(HERE, [seen(each) for each in those], 0)
    assert signal_scores(verdict.findings) == {
        signal: max(each.score for each in those if each.signal is signal)
        for signal in {each.signal for each in those}
    }


def test_what_has_nothing_to_do_with_each_other_does_not_support_each_other() -> None:
    name, hidden = rule("name", score=60), rule("hidden", score=60, signal=Signal.EXECUTION)
    busy = Sighting(rule("busy", score=20, signal=Signal.BEHAVIOUR), None, ())
    seen_apart = [seen(name, pid=1), seen(hidden, pid=2), busy]
    assert Judge().verdict(HERE, seen_apart, 0).score == pytest.approx(87.2)
    verdict = Judge().verdict(HERE, seen_apart, 0, apart=True)
    assert verdict.score == pytest.approx(68)
    assert len(verdict.findings) == 3
    both = [seen(name, pid=1), seen(hidden, pid=1), busy]
    assert Judge().verdict(HERE, both, 0, apart=True).score == pytest.approx(87.2)


@given(st.lists(st.tuples(rules, st.integers(1, 3)), max_size=20))
def test_apart_is_never_more_than_together(those: list[tuple[Rule, int]]) -> None:
    sightings = [seen(each, pid) for each, pid in those]
    together = Judge().verdict(HERE, sightings, 0)
    assert Judge().verdict(HERE, sightings, 0, apart=True).score <= together.score


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_a_level_rises_at_once_and_falls_after_three_ticks_below_it(present: list[bool]) -> None:
    judge, level, below = Judge(ticks_below=3), Level.CLEAR, 0
    for number, is_there in enumerate(present):
        verdict = judge.verdict(HERE, [seen(rule(score=75))] if is_there else [], number)
        if is_there:
            level, below = Level.LIKELY, 0
        else:
            below += 1
            level = Level.CLEAR if below >= 3 else level
        assert verdict.level is level


def test_since_is_when_the_level_was_reached() -> None:
    judge = Judge()
    assert judge.verdict(HERE, [seen(rule(score=40))], 10).since_s == 10
    assert judge.verdict(HERE, [seen(rule(score=40))], 20).since_s == 10
    assert judge.verdict(HERE, [seen(rule(score=75))], 30).since_s == 30


def test_a_rule_that_must_hold_counts_only_once_it_has_held_without_a_break() -> None:
    judge, patient = Judge(), rule(hold_s=60)
    assert not judge.verdict(HERE, [seen(patient)], 0).findings
    assert not judge.verdict(HERE, [seen(patient)], 59).findings
    (finding,) = judge.verdict(HERE, [seen(patient)], 60).findings
    assert finding.since_s == 0
    judge.verdict(HERE, [], 70)
    assert not judge.verdict(HERE, [seen(patient)], 80).findings


def test_a_rule_does_not_hold_while_nothing_is_watched() -> None:
    judge, patient = Judge(max_gap_s=60), rule(hold_s=300)
    judge.verdict(HERE, [seen(patient)], 0)
    assert not judge.verdict(HERE, [seen(patient)], 400).findings
    for at_s in range(410, 710, 10):
        verdict = judge.verdict(HERE, [seen(patient)], at_s)
    (finding,) = verdict.findings
    assert finding.since_s == 400


def test_a_miner_that_restarts_is_one_miner() -> None:
    judge = Judge(ticks_below=3)
    for tick in range(200):
        restarts = tick % 24 == 23
        sightings = [] if restarts else [seen(rule(score=88), pid=tick // 24)]
        verdict = judge.verdict(HERE, sightings, tick * 10)
        assert verdict.level is Level.LIKELY
        assert [finding.since_s for finding in verdict.findings] == ([] if restarts else [0])


@pytest.mark.parametrize(
    ("signal", "is_found"), [(Signal.COMPUTE, True), (Signal.EXECUTION, False)]
)
def test_what_is_computed_holds_over_short_lived_workers(signal: Signal, is_found: bool) -> None:
    judge, patient = Judge(), rule(score=88, signal=signal, hold_s=300)
    for tick in range(40):
        sightings = [] if tick % 4 == 3 else [seen(patient, pid=tick // 2)]
        verdict = judge.verdict(HERE, sightings, tick * 10)
    assert (judge.verdict(HERE, [seen(patient, pid=99)], 400).findings != ()) is is_found
    assert (verdict.level is Level.LIKELY) is is_found


def test_on_the_host_each_process_is_timed_by_itself() -> None:
    judge = Judge()
    judge.verdict(HERE, [seen(rule(), pid=1)], 0, apart=True)
    (finding,) = judge.verdict(HERE, [seen(rule(), pid=2)], 10, apart=True).findings
    assert finding.since_s == 10


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60))
def test_between_ticks_a_level_never_falls(execs: list[int]) -> None:
    judge = Judge(ticks_below=3)
    level = judge.verdict(HERE, [seen(rule(score=75))], 0).level
    for number, pid in enumerate(execs):
        sightings = [seen(rule(score=35), pid)] if pid else []
        now = judge.verdict(HERE, sightings, number / 100, is_tick=False).level
        assert now >= level
        level = now


def test_a_rule_holds_for_each_process_by_itself() -> None:
    judge, patient = Judge(), rule(hold_s=60)
    judge.verdict(HERE, [seen(patient, pid=1)], 0)
    verdict = judge.verdict(HERE, [seen(patient, pid=1), seen(patient, pid=2)], 60)
    assert [finding.process for finding in verdict.findings] == [ProcessId(1, 0)]


def test_what_is_remembered_is_bounded_and_goes_with_the_container() -> None:
    judge = Judge()
    crowd = [seen(rule(f"r{r}"), pid) for r in range(3) for pid in range(1000)]
    verdict = judge.verdict(HERE, crowd, 0)
    assert len(verdict.findings) == MAX_FINDINGS
    assert {finding.rule for finding in verdict.findings} == {"r0", "r1", "r2"}
    judge.forget(HERE)
    assert HERE not in judge


def test_processes_that_are_remembered_are_bounded() -> None:
    judge, patient = Judge(), rule(hold_s=60)
    judge.verdict(HERE, [seen(patient, pid) for pid in range(10 * MAX_PROCESSES_PER_RULE)], 0)
    first, last = MAX_PROCESSES_PER_RULE - 1, MAX_PROCESSES_PER_RULE
    verdict = judge.verdict(HERE, [seen(patient, first), seen(patient, last)], 60)
    assert [finding.process for finding in verdict.findings] == [ProcessId(first, 0)]


@pytest.mark.parametrize("decoys", [10, 30, MAX_FINDINGS, MAX_PROCESSES_PER_RULE, 1000])
@pytest.mark.parametrize("is_first", [True, False])
def test_decoys_do_not_push_out_what_is_found_on_the_process_that_computes(
    decoys: int, is_first: bool
) -> None:
    words = [rule(f"w{number}", score=88) for number in range(4)]
    computes = rule("c", score=88, signal=Signal.COMPUTE)
    idle = [seen(each, pid) for pid in range(2, decoys + 2) for each in words]
    miner = [
        *(seen(each) for each in words),
        seen(computes),
    ]
    verdict = Judge().verdict(HERE, [*miner, *idle] if is_first else [*idle, *miner], 0)
    assert len(verdict.findings) <= MAX_FINDINGS
    assert is_cullable(verdict)


def test_a_clear_container_is_not_remembered() -> None:
    judge = Judge()
    judge.verdict(HERE, [seen(rule(score=75))], 0)
    assert HERE in judge
    for at_s in (1, 2, 3):
        judge.verdict(HERE, [], at_s)
    assert HERE not in judge


@pytest.mark.parametrize(
    ("those", "cullable"),
    [
        ([rule(score=88), rule("b", score=60, signal=Signal.COMPUTE)], True),
        ([rule(score=88), rule("b", score=29, signal=Signal.BEHAVIOUR)], False),
        (
            [rule(score=95, signal=Signal.COMPUTE), rule("b", score=29, signal=Signal.BEHAVIOUR)],
            False,
        ),
        ([rule(score=88), rule("b", score=88, signal=Signal.NETWORK)], False),  # can be planted
        ([rule(score=88), rule("b", score=75, signal=Signal.CONTENT)], False),
        ([rule(score=99)], False),  # one signal never culls
        ([rule(score=88, maturity=Maturity.TEST), rule("b", signal=Signal.COMPUTE)], False),
        ([rule(score=60), rule("b", score=60, signal=Signal.COMPUTE)], False),  # 84: likely
        ([rule(score=95), rule("b", score=0, signal=Signal.COMPUTE)], False),
    ],
)
def test_only_what_is_confirmed_by_two_stable_signals_may_be_culled(
    those: list[Rule], cullable: bool
) -> None:
    assert is_cullable(Judge().verdict(HERE, [seen(each) for each in those], 0)) is cullable


def test_what_two_processes_show_together_is_no_proof_against_either() -> None:
    word, computes = rule(score=88), rule("b", score=60, signal=Signal.COMPUTE)
    apart = Judge().verdict(HERE, [seen(word, pid=1), seen(computes, pid=2)], 0)
    assert apart.level is Level.CONFIRMED
    assert not is_cullable(apart)
    both = [seen(word, pid=1), seen(computes, pid=2), seen(word, pid=3), seen(computes, pid=3)]
    assert is_cullable(Judge().verdict(HERE, both, 0))
    of_container = Sighting(computes, None, ())
    assert is_cullable(Judge().verdict(HERE, [seen(word, pid=1), of_container], 0))


@pytest.mark.parametrize(
    ("works_s", "pauses_s", "is_found"),
    [(1750, 40, True), (200, 60, True), (60, 100, False), (300, 600, False)],
)
def test_a_pause_takes_off_as_much_as_it_lasts(works_s: int, pauses_s: int, is_found: bool) -> None:
    judge, patient = Judge(), rule(score=88, signal=Signal.COMPUTE, hold_s=1800)
    found = False
    for at_s in range(0, 4 * 3600, 10):
        is_working = at_s % (works_s + pauses_s) < works_s
        verdict = judge.verdict(HERE, [seen(patient)] if is_working else [], at_s)
        found |= bool(verdict.findings)
    assert found is is_found


def test_what_was_computed_is_forgotten_within_the_time_that_it_must_hold() -> None:
    judge, patient = Judge(), rule(score=88, signal=Signal.COMPUTE, hold_s=600)
    for at_s in range(0, 36_000, 10):
        judge.verdict(HERE, [seen(patient)], at_s)
    for at_s in range(36_000, 36_700, 10):
        judge.verdict(HERE, [], at_s)
    assert HERE not in judge


def test_a_worse_looking_neighbour_does_not_spare_the_process_that_computes() -> None:
    """An idle decoy may have more findings than the miner beside it, only not what is computed."""
    miner = [rule("c", score=88, signal=Signal.COMPUTE), rule("d", signal=Signal.EXECUTION)]
    decoy = [
        rule("w", score=88), rule("n", score=75, signal=Signal.NETWORK),
        rule("e", score=75, signal=Signal.EXECUTION),
    ]  # fmt: skip
    sightings = [*(seen(each, pid=1) for each in miner), *(seen(each, pid=2) for each in decoy)]
    assert is_cullable(Judge().verdict(HERE, sightings, 0))
    assert not is_cullable(Judge().verdict(HERE, sightings[1:], 0))


@pytest.mark.parametrize("is_of_process", [True, False])
def test_decoys_do_not_hide_the_scanner_behind_them(*, is_of_process: bool) -> None:
    shown = (Evidence("FailedConnectShare", 0.98, "at least 0.8"),)
    named = rule("n", score=85, signal=Signal.IDENTITY, abuse=Abuse.SCANNING)
    fails = rule("f", score=75, signal=Signal.NETWORK, abuse=Abuse.SCANNING)
    decoys = [seen(named, pid) for pid in range(1, MAX_PROCESSES_PER_RULE + 100)]
    process = ProcessId(5000, 0) if is_of_process else None
    scanner = [seen(named, 5000), Sighting(fails, process, shown)]
    verdict = Judge().verdict(HERE, [*decoys, *scanner], 0.0)
    assert len(verdict.findings) == MAX_FINDINGS
    assert proven_abuse(verdict.findings) is Abuse.SCANNING


def test_findings_of_another_abuse_neither_hide_nor_lift_a_miner() -> None:
    named = seen(rule("n", score=60, signal=Signal.IDENTITY))
    noise = [
        seen(rule(f"x{number}", score=59, signal=signal, abuse=abuse))
        for number, (signal, abuse) in enumerate(
            (signal, abuse) for signal in Signal for abuse in Abuse if abuse is not Abuse.MINING
        )
    ]
    verdict = Judge().verdict(HERE, [named, *noise], 0.0)
    assert scores_by_abuse(verdict.findings)[Abuse.MINING] == 60
    computes = seen(rule("c", score=88, signal=Signal.COMPUTE))
    verdict = Judge().verdict(HERE, [named, computes, *noise], 0.0)
    assert proven_abuse(verdict.findings) is Abuse.MINING
