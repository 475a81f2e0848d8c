"""When hot code is looked at, and which facts come of it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minerwatch.detection.fields import KNOWN_FIELDS, PROBE_FIELDS, is_pooled
from minerwatch.model import CODE_OF_32_BITS, ContainerKey, Facts, ProcessId
from minerwatch.node.hot_code import HotCodeFindings
from minerwatch.probes.code_schedule import Place
from minerwatch.probes.hot_code import FIELDS, MIN_SAMPLES, HotCode
from tests.examples import examples

HERE, THERE = ContainerKey("/here", 1), ContainerKey("/there", 2)
ONE, TWO = ProcessId(10, 1), ProcessId(11, 1)
HASHES: Facts = {"HashCodeShare": 0.5, "MixingCodeShare": 0.1}
MIXES: Facts = {"HashCodeShare": 0.1, "MixingCodeShare": 0.3}
INTERPRETS: Facts = {"HashCodeShare": 0.098, "MixingCodeShare": 0.081}
"""RandomX without generated code."""
IDLES: Facts = {"HashCodeShare": 0.05, "MixingCodeShare": 0.05}
SCRYPT = HotCodeFindings(("Salsa20_Rounds",), ("ab" * 16,), ())
MINER = HotCodeFindings(("Hash_Chain",), (), ("cd" * 16,))


class Answers:
    """A reader that answers each question at once, as a test says."""

    def __init__(self) -> None:
        self.failures: dict[str, int] = {"child": 0}
        self.asked: list[tuple[ProcessId, Hashable, dict[int, int]]] = []
        self.tids: list[int] = []
        self.next: HotCodeFindings | None = SCRYPT
        self.refuses = False
        self.rules: Sequence[Path] = ()
        self._open: list[ProcessId] = []

    def ask(
        self, process: ProcessId, owner: Hashable, addresses: Mapping[int, int], tid: int
    ) -> bool:
        if self.refuses:
            return False
        self.tids.append(tid)
        self.asked.append((process, owner, dict(addresses)))
        self._open.append(process)
        return True

    def answers(self) -> Mapping[ProcessId, HotCodeFindings | None]:
        found = dict.fromkeys(self._open, self.next)
        self._open.clear()
        return found

    def use(self, rule_files: Sequence[Path]) -> None:
        self.rules = rule_files

    def close(self) -> None:
        pass


@pytest.fixture
def reader() -> Answers:
    return Answers()


@pytest.fixture
def hot(reader: Answers) -> HotCode:
    return HotCode(reader)


def runs(
    hot: HotCode,
    seconds: float,
    *,
    at_s: float = 0.0,
    process: ProcessId = ONE,
    container: ContainerKey = HERE,
    of_second: int = 10,
) -> float:
    """Let a process run for some seconds; return the time afterwards."""
    end_s = at_s + seconds
    while at_s < end_s:
        at_s += 1.0
        spots = [(0x1000 + n % 3, b"") for n in range(of_second)]
        hot.take({Place(process, container, "pod"): spots}, 0.1, at_s)
    return at_s


def test_the_fields_are_known_and_pooled() -> None:
    assert set(FIELDS) <= set(PROBE_FIELDS["executed_code"])
    assert all(KNOWN_FIELDS[name].dynamic and is_pooled(name) for name in FIELDS)
    assert len(FIELDS) == len(HotCodeFindings._fields)


def test_ordinary_programs_are_never_looked_at(hot: HotCode, reader: Answers) -> None:
    hot.consider(HERE, HERE, IDLES)
    hot.consider(ONE, HERE, {})
    runs(hot, 600)
    assert reader.asked == []
    assert hot.facts(HERE) == {}


@pytest.mark.parametrize("facts", [HASHES, MIXES, INTERPRETS])
def test_a_container_that_hashes_is_looked_at(facts: Facts, hot: HotCode, reader: Answers) -> None:
    hot.consider(HERE, HERE, facts)
    runs(hot, 8)
    assert hot.take({}, 0.1, 9.0) == set()  # the answer was taken before
    (asked,) = reader.asked
    assert asked[:2] == (ONE, "pod")
    assert sum(asked[2].values()) == MIN_SAMPLES
    expected = {"ContentInHotCode": ("Salsa20_Rounds",), "CodeFingerprints": ("ab" * 16,)}
    assert hot.facts(HERE) == hot.facts(ONE) == expected
    assert hot.facts(THERE) == hot.facts(TWO) == {}


def test_a_container_that_converts_pairs_is_looked_at(hot: HotCode, reader: Answers) -> None:
    hot.consider(HERE, HERE, IDLES, converts_pairs=True)
    runs(hot, 8)
    assert len(reader.asked) == 1


def test_a_process_that_hashes_among_others(hot: HotCode, reader: Answers) -> None:
    hot.consider(ONE, HERE, HASHES)
    hot.consider(HERE, HERE, IDLES)
    runs(hot, 20, process=TWO)
    assert reader.asked == []
    runs(hot, 20, at_s=20)
    assert [process for process, *_ in reader.asked] == [ONE]


def test_again_after_a_minute_of_cpu_and_ever_less_often(hot: HotCode, reader: Answers) -> None:
    hot.consider(HERE, HERE, HASHES)
    runs(hot, 64)
    assert len(reader.asked) == 1
    at_s = runs(hot, 2, at_s=64)
    at_s = runs(hot, 10, at_s=at_s)
    assert len(reader.asked) == 2
    runs(hot, 3600, at_s=at_s, of_second=640)
    assert 7 <= len(reader.asked) <= 10


def test_a_slow_process_is_looked_at_with_few_samples(hot: HotCode, reader: Answers) -> None:
    hot.consider(HERE, HERE, HASHES)
    runs(hot, 30, of_second=1)
    assert [sum(addresses.values()) for *_, addresses in reader.asked] == [21]


def test_processes_that_are_replaced_are_looked_at_while_they_run(
    hot: HotCode, reader: Answers
) -> None:
    hot.consider(HERE, HERE, HASHES)
    at_s = 0.0
    for number in range(60):
        at_s = runs(hot, 3, at_s=at_s, process=ProcessId(100 + number, 1), of_second=5)
    assert reader.asked
    assert hot.facts(HERE)["ContentInHotCode"] == ("Salsa20_Rounds",)


def test_what_is_refused_is_asked_again(hot: HotCode, reader: Answers) -> None:
    hot.consider(HERE, HERE, HASHES)
    reader.refuses = True
    at_s = runs(hot, 30)
    reader.refuses = False
    runs(hot, 3, at_s=at_s)
    assert len(reader.asked) == 1


def test_code_that_could_not_be_read_is_no_finding(hot: HotCode, reader: Answers) -> None:
    hot.consider(HERE, HERE, HASHES)
    reader.next = None
    runs(hot, 10)
    assert len(reader.asked) == 1
    assert hot.facts(HERE) == {}


def test_several_looks_add_up_and_old_ones_are_forgotten(hot: HotCode, reader: Answers) -> None:
    hot.consider(HERE, HERE, HASHES)
    at_s = runs(hot, 10)
    reader.next = MINER
    at_s = runs(hot, 120, at_s=at_s)
    facts = hot.facts(HERE)
    assert facts["ContentInHotCode"] == ("Hash_Chain", "Salsa20_Rounds")
    assert facts["ForeignCodeFingerprints"] == ("cd" * 16,)
    runs(hot, 3600, at_s=at_s, of_second=60)
    assert hot.facts(HERE)["ContentInHotCode"] == ("Hash_Chain",)
    assert "CodeFingerprints" not in hot.facts(HERE)


def test_other_rules_are_used_at_once(hot: HotCode, reader: Answers) -> None:
    hot.consider(HERE, HERE, HASHES)
    at_s = runs(hot, 10)
    hot.use([Path("/rules/a.hot.yar")])
    runs(hot, 10, at_s=at_s)
    assert reader.rules == [Path("/rules/a.hot.yar")]
    assert len(reader.asked) == 2


def test_a_container_that_no_longer_hashes_is_left_alone(hot: HotCode, reader: Answers) -> None:
    hot.consider(HERE, HERE, HASHES)
    hot.consider(HERE, HERE, IDLES)
    runs(hot, 60)
    assert reader.asked == []


def test_a_container_that_is_gone_is_forgotten(hot: HotCode) -> None:
    hot.consider(HERE, HERE, HASHES)
    runs(hot, 10)
    hot.end_tick({THERE})
    assert hot.facts(HERE) == hot.facts(ONE) == {}


def test_that_code_has_32_bits_is_passed_on(hot: HotCode, reader: Answers) -> None:
    hot.consider(HERE, HERE, HASHES)
    spots = [(0x1000 + CODE_OF_32_BITS, b"\x48")] * 10
    for second in range(8):
        hot.take({Place(ONE, HERE, "pod"): spots}, 0.1, float(second))
    assert [each.keys() for *_, each in reader.asked] == [{0x1000 + CODE_OF_32_BITS}]


@settings(max_examples=examples(10))
@given(st.integers(1, 1000), st.integers(1, 40))
def test_what_is_kept_is_bounded(subjects: int, processes: int) -> None:
    reader = Answers()
    hot = HotCode(reader)
    for number in range(subjects):
        container = ContainerKey(f"/{number}", 1)
        hot.consider(container, container, HASHES)
    placed = {
        Place(ProcessId(process, 1), container, "pod"): [
            (process * 4096 + place, b"") for place in range(50)
        ]
        for process in range(processes)
    }
    for second in range(30):
        hot.take(placed, 0.01, float(second))
    assert len(reader.asked) == 1
    assert len(reader.asked[0][2]) <= 512
