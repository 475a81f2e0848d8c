"""Counts of classified samples to facts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.detection.executed_code import CLASSES, MIN_SAMPLES, CodeTally
from minerwatch.detection.fields import KNOWN_FIELDS, PROBE_FIELDS
from minerwatch.probes.hot_code import FIELDS as HOT_CODE_FIELDS
from tests.shipped import matcher


def classes(**counts: int) -> list[int]:
    return [counts.get(name, 0) for name in CLASSES]


def tally_of(
    samples: int, hashing: int = 0, anonymous: int = 0, converts: int = 0, **counts: int
) -> CodeTally:
    tally = CodeTally()
    tally.add(samples, hashing, anonymous, converts, classes(**counts), {"page": samples})
    return tally


def test_few_samples_say_nothing() -> None:
    assert tally_of(MIN_SAMPLES - 1, other=99).facts() == {}
    assert tally_of(MIN_SAMPLES, other=99).facts()


def test_one_conversion_of_pairs_is_seen_until_it_is_long_ago() -> None:
    assert not tally_of(MIN_SAMPLES - 1, pairs=1, other=1583).converts_pairs
    assert not tally_of(MIN_SAMPLES, other=1600).converts_pairs
    tally = tally_of(200, pairs=1, other=3199)
    assert tally.converts_pairs
    tally.add(150, 0, 0, 0, classes(other=2400), {})
    assert not tally.converts_pairs


def test_facts_are_shares() -> None:
    tally = tally_of(200, 50, 150, 8, xor=25, rotate=20, multiply=5, float=20, pairs=5, other=25)
    tally.add_io(4000, 2.0, 0.5)
    assert tally.facts() == {
        "HashCodeShare": 0.25,
        "MixingCodeShare": 0.5,
        "FloatCodeShare": 0.25,
        "PairConversionShare": 0.04,
        "RoundingCodeShare": 0.0,
        "VectorCodeShare": 0.0,
        "AnonymousCodeShare": 0.75,
        "HotCodePages": 1,
        "IoBytesPerCpuSecond": 2000.0,
        "KernelCpuShare": 0.25,
    }


def test_code_that_cannot_be_read_is_a_fact_by_itself() -> None:
    tally = CodeTally()
    tally.add_hidden(MIN_SAMPLES - 1)
    assert tally.facts() == {}
    tally.add_hidden(1)
    assert tally.facts() == {"HiddenCodeShare": 1.0}
    assert tally.file_mib == 0.0
    tally.add(300, 0, 0, 0, classes(other=1), {})
    assert tally.facts()["HiddenCodeShare"] == 0.25
    for _ in range(20):  # what hides most of its code hides none of the rest
        tally.add_hidden(90)
        tally.add(60, 60, 0, 0, classes(xor=60), {})
        assert tally.facts()["HashCodeShare"]
    assert tally.seen < 400  # they follow what is executed now
    assert "HiddenCodeShare" not in tally_of(200, other=99).facts()


def test_samples_of_unknown_origin_count_for_pairs_only() -> None:
    """Short-lived workers at addresses of their own: else few of RandomX's samples counted."""
    tally = CodeTally()
    tally.add(4, 4, 3, 10, classes(xor=4), {}, of_unknown_origin=MIN_SAMPLES - 4)
    assert tally.facts() == {"PairConversionShare": 0.1}
    tally.add(196, 196, 147, 0, classes(xor=196), {})
    facts = tally.facts()
    assert (facts["HashCodeShare"], facts["AnonymousCodeShare"]) == (1.0, 0.75)
    assert facts["PairConversionShare"] == 10 / 296
    for _ in range(20):  # a storm of short-lived programs hides nothing
        tally.add(20, 20, 15, 0, classes(xor=20), {}, of_unknown_origin=90)
        facts = tally.facts()
        assert facts["HashCodeShare"] == 1.0
        assert facts["AnonymousCodeShare"] == 0.75
    assert tally.seen < 400


def test_samples_of_unknown_origin_count_by_their_number_however_long_they_come() -> None:
    """A few a minute add up to no more than they are, and a decoy to no more than it runs."""
    for known, unknown in ((95, 5), (5, 95)):
        tally = CodeTally()
        for _ in range(100):
            tally.add(known, 0, 0, unknown, classes(other=known), {}, of_unknown_origin=unknown)
        assert tally.facts()["PairConversionShare"] == pytest.approx(unknown / 100)


def test_where_code_lies_is_known_from_enough_samples_only() -> None:
    """One sample of generated code beside 199 of unknown origin was "Executes RandomX" (88)."""
    tally = CodeTally()
    tally.add(1, 0, 1, 20, classes(other=16), {"": 1}, of_unknown_origin=199)
    assert tally.facts() == {"PairConversionShare": 0.1}
    assert not is_randomx(tally)
    assert has_rule(RANDOMX_NOT_GENERATED, tally)
    tally.add(99, 0, 99, 10, classes(other=99 * 16), {"": 99})
    assert tally.facts()["AnonymousCodeShare"] == 1.0
    assert is_randomx(tally)
    assert not has_rule(RANDOMX_NOT_GENERATED, tally)


def test_each_fact_is_a_known_field_of_the_probe() -> None:
    tally = tally_of(200, other=1)
    tally.add_io(0, 10.0, 0.0)
    tally.add_hidden(1)
    assert {*tally.facts(), *HOT_CODE_FIELDS} == set(PROBE_FIELDS["executed_code"])
    assert tally.facts().keys().isdisjoint(HOT_CODE_FIELDS)
    assert all(KNOWN_FIELDS[name].dynamic for name in tally.facts())


def test_a_file_that_few_samples_have_mapped_counts_little() -> None:
    tally = CodeTally()
    for samples, file_mib in ((180, 2.0), (20, 1e9)):
        tally.add(samples, 0, 0, 0, classes(other=1), {})
        tally.add_file(samples, file_mib)
    assert tally.file_mib == pytest.approx(0.9 * 2 + 0.1 * 128)


def test_hot_pages_hold_nine_tenths() -> None:
    tally = CodeTally()
    tally.add(100, 0, 0, 0, classes(other=1), {"a": 60, "b": 29, "c": 1, "d": 9, "e": 1})
    assert tally.facts()["HotCodePages"] == 3


def test_what_was_executed_long_ago_is_forgotten() -> None:
    tally = tally_of(399, hashing=399, xor=10)
    for _ in range(40):
        tally.add(50, 0, 0, 0, classes(other=10), {"other": 50})
    share = tally.facts()["HashCodeShare"]
    assert isinstance(share, float)
    assert share < 0.01


@given(
    st.lists(
        st.tuples(
            st.integers(1, 60),
            st.lists(st.integers(0, 900), min_size=len(CLASSES), max_size=len(CLASSES)),
            st.dictionaries(st.text(max_size=6), st.integers(1, 60), max_size=60),
        ),
        max_size=60,
    )
)
def test_shares_are_shares_whatever_is_added(
    answers: list[tuple[int, list[int], dict[str, int]]],
) -> None:
    tally = CodeTally()
    for samples, counts, pages in answers:
        unknown = samples // 3
        of_all = samples + unknown
        tally.add(samples, samples, samples, of_all, counts, pages, of_unknown_origin=unknown)
        tally.add_hidden(unknown)
    assert tally.samples < 460
    assert len(tally.pages) <= 512
    for name, value in tally.facts().items():
        if name.endswith("Share"):
            assert 0.0 <= float(value) <= 1.0  # type: ignore[arg-type]


def test_two_rounds_of_another_work_outweigh_what_a_process_did_for_hours() -> None:
    tally = CodeTally()
    for mixes in (0, 0, 0, 0, 1, 1):
        tally.make_room(190)
        classes = [0] * len(CLASSES)
        classes[CLASSES.index("xor" if mixes else "other")] = 190 * 16
        tally.add(190, 190 * mixes, 190 * mixes, 0, classes, {"page": 190})
    facts = tally.facts()
    assert float(str(facts["AnonymousCodeShare"])) >= 0.8
    assert float(str(facts["MixingCodeShare"])) >= 0.8
    before = tally.samples
    tally.make_room(50)  # too few to be enough
    assert tally.samples == before


RANDOMX_EXECUTED = "3d0c6a8e-52f5-4c1a-9b1e-6d6a0a1f5c31"
RANDOMX_NOT_GENERATED = "5e8a1c0b-7d94-4f3e-a2b6-c91f0d4e6a57"


def has_rule(rule_id: str, tally: CodeTally) -> bool:
    return any(each.rule.id == rule_id for each in matcher().matches(tally.facts()))


def is_randomx(tally: CodeTally) -> bool:
    return has_rule(RANDOMX_EXECUTED, tally)


@given(
    st.integers(0, 100),
    st.booleans(),
    st.lists(st.integers(0, 1600), min_size=len(CLASSES), max_size=len(CLASSES)),
)
def test_other_code_hides_randomx_only_for_half_of_the_cpu_time(
    decoys: int, is_generated: bool, counts: list[int]
) -> None:
    """Whatever it executes: vectors, floats, integers; in files or generated."""
    tally = tally_of(100, hashing=9, anonymous=95, converts=4, xor=700, float=60, other=900)
    assert is_randomx(tally)
    tally.add(decoys, 0, decoys * is_generated, 0, counts, {"decoy": decoys})
    anonymous = tally.facts()["AnonymousCodeShare"]
    assert is_randomx(tally) == (float(str(anonymous)) >= 0.5)
