from __future__ import annotations

from collections.abc import Iterable

from minerwatch.model import FpSample, ProcessId
from minerwatch.probes.fp_rounding import Rounding
from tests.probes.suspects import always, me


class _Words:
    """A source of control words: each time the next, of one thread of each process."""

    def __init__(self, words: Iterable[int], most_at_once: int = 1000) -> None:
        self.failures: dict[str, int] = {}
        self.most_at_once = most_at_once
        self.is_resting = False
        self._words = enumerate(words)

    def fp_samples(self, processes: Iterable[ProcessId]) -> list[FpSample]:
        self.is_resting = False
        switches, word = next(self._words)
        return [FpSample(process, process.pid, switches, word) for process in processes]

    def rest(self) -> None:
        self.is_resting = True


class _NoWords(_Words):
    """A source that knows nothing."""

    def fp_samples(self, processes: Iterable[ProcessId]) -> list[FpSample]:
        return []


ROUNDS_IN_TURN = tuple(0x9FC0 | at % 4 << 13 for at in range(1000))
NEAREST = (0x1F80,) * 1000


def sampled_until_it_rests(probe: Rounding, at_s: float = 0.0) -> float:
    while probe.wants_samples:
        at_s += 1.0
        probe.sample(at_s)
    return at_s


def test_a_suspect_is_sampled_until_enough_is_known_and_then_rests() -> None:
    source = _Words(NEAREST)
    probe = Rounding(source)
    probe.look([me()], 0.0, always)
    at_s = sampled_until_it_rests(probe)
    assert at_s == 49.0  # the first time says only how often each thread has been switched out
    assert source.is_resting
    assert probe.facts(me()) == {
        "RoundingShare": 0.0, "RoundingModes": 1, "FlushToZeroShare": 0.0
    }  # fmt: skip
    probe.look([me()], at_s + 299.0, always)
    assert not probe.wants_samples
    probe.look([me()], at_s + 301.0, always)
    assert probe.wants_samples
    assert probe.facts(me())["RoundingModes"] == 1


def test_who_rounds_oddly_is_sampled_again_soon() -> None:
    probe = Rounding(_Words(ROUNDS_IN_TURN))
    probe.look([me()], 0.0, always)
    at_s = sampled_until_it_rests(probe)
    assert probe.facts(me())["RoundingModes"] == 4
    probe.look([me()], at_s + 61.0, always)
    assert probe.wants_samples


def test_of_many_suspects_each_has_its_turn() -> None:
    suspects = [ProcessId(1000 + number, 1) for number in range(20)]
    probe = Rounding(_Words(NEAREST * 3, most_at_once=8))
    turns: list[set[ProcessId]] = []
    for at_s in range(300):
        if at_s % 10 == 0:
            probe.look(suspects, float(at_s), always)
        probe.sample(float(at_s))
        now = set(probe._sampled)
        assert len(now) <= 8
        if now and (not turns or turns[-1] != now):
            turns.append(now)
    assert [len(turn) for turn in turns] == [8, 8, 4]
    assert set().union(*turns) == set(suspects)


def test_who_does_not_run_is_not_sampled_for_ever() -> None:
    probe = Rounding(_NoWords(()))
    probe.look([me()], 0.0, always)
    probe.sample(30.0)
    assert probe.wants_samples
    probe.sample(61.0)
    assert not probe.wants_samples
    assert probe.facts(me()) == {}


def test_who_is_no_suspect_any_more_is_not_sampled() -> None:
    source = _Words(NEAREST)
    probe = Rounding(source)
    probe.look([me()], 0.0, always)
    probe.look([], 1.0, always)
    assert not probe.wants_samples
    assert source.is_resting
    assert not probe._facts
    assert not probe._due_s


def owner_of(process: ProcessId) -> int:
    return process.pid // 1000


def test_many_suspects_of_one_owner_hold_up_others_by_one_turn() -> None:
    decoys = [ProcessId(1000 + number, 1) for number in range(500)]
    miner = ProcessId(2000, 1)
    probe = Rounding(_Words(NEAREST * 3, most_at_once=8), owner_of=owner_of)
    probe.look(decoys, 0.0, always)
    for at_s in range(1, 110):  # eight of them to their end, then the miner
        probe.look([*decoys, miner], float(at_s), always)
        probe.sample(float(at_s))
    assert probe.facts(miner)


class _NewThreads(_NoWords):
    """Each time other threads of each process."""

    def __init__(self, of_each: int) -> None:
        super().__init__(())
        self._of_each = of_each
        self._tid = 0

    def fp_samples(self, processes: Iterable[ProcessId]) -> list[FpSample]:
        found = []
        for process in processes:
            of_each = self._of_each if owner_of(process) == 1 else 1
            self._tid += of_each
            tids = range(self._tid, self._tid + of_each)
            found += [FpSample(process, tid, tid, 0x1F80) for tid in tids]
        return found


def test_threads_that_come_and_go_take_no_memory_without_end() -> None:
    """Those of one owner give way; the other one is sampled to the end."""
    decoys = [ProcessId(1000 + number, 1) for number in range(100)]
    neighbour = ProcessId(2000, 1)
    probe = Rounding(_NewThreads(of_each=50), owner_of=owner_of)
    probe.look([*decoys, neighbour], 0.0, always)
    for at_s in range(1, 40):
        probe.sample(float(at_s))
        assert sum(probe._threads_by_owner().values()) <= 20_000
        assert neighbour in probe._sampled
