from __future__ import annotations

from collections.abc import Iterable

from minerwatch.model import FpSample, ProcessId
from minerwatch.probes.rounding import RoundingProbe
from tests.probes.suspects import always, me


class _Words:
    """A source of control words: each time the next, of one thread of each process."""

    def __init__(self, words: Iterable[int]) -> None:
        self.failures: dict[str, int] = {}
        self._words = enumerate(words)

    def fp_samples(self, processes: Iterable[ProcessId]) -> list[FpSample]:
        switches, word = next(self._words)
        return [FpSample(process, process.pid, switches, word) for process in processes]


class _NoWords(_Words):
    """A source that knows nothing."""

    def fp_samples(self, processes: Iterable[ProcessId]) -> list[FpSample]:
        return []


ROUNDS_IN_TURN = tuple(0x9FC0 | at % 4 << 13 for at in range(1000))
NEAREST = (0x1F80,) * 1000


def sampled_until_it_rests(probe: RoundingProbe, at_s: float = 0.0) -> float:
    while probe.wants_samples:
        at_s += 1.0
        probe.sample(at_s)
    return at_s


def test_a_suspect_is_sampled_until_enough_is_known_and_then_rests() -> None:
    source = _Words(NEAREST)
    probe = RoundingProbe(source)
    probe.examine([me()], 0.0, always)
    at_s = sampled_until_it_rests(probe)
    assert at_s == 49.0  # the first time says only how often each thread has been switched out
    assert probe.facts(me()) == {
        "RoundingShare": 0.0, "RoundingModes": 1, "FlushToZeroShare": 0.0
    }  # fmt: skip
    probe.examine([me()], at_s + 299.0, always)
    assert not probe.wants_samples
    probe.examine([me()], at_s + 301.0, always)
    assert probe.wants_samples
    assert probe.facts(me())["RoundingModes"] == 1


def test_a_suspect_that_has_not_earned_it_is_not_sampled_again() -> None:
    probe = RoundingProbe(_Words(NEAREST))
    probe.examine([me()], 0.0, always, set())
    assert probe.wants_samples  # it is new
    at_s = sampled_until_it_rests(probe)
    probe.examine([me()], at_s + 301.0, always, set())
    assert not probe.wants_samples
    probe.examine([me()], at_s + 311.0, always, {me()})
    assert probe.wants_samples


def test_who_rounds_oddly_is_sampled_again_soon() -> None:
    probe = RoundingProbe(_Words(ROUNDS_IN_TURN))
    probe.examine([me()], 0.0, always)
    at_s = sampled_until_it_rests(probe)
    assert probe.facts(me())["RoundingModes"] == 4
    probe.examine([me()], at_s + 61.0, always)
    assert probe.wants_samples


def test_who_does_not_run_is_not_sampled_for_ever() -> None:
    probe = RoundingProbe(_NoWords(()))
    probe.examine([me()], 0.0, always)
    probe.sample(30.0)
    assert probe.wants_samples
    probe.sample(61.0)
    assert not probe.wants_samples
    assert probe.facts(me()) == {}


def test_who_is_no_suspect_any_more_is_not_sampled() -> None:
    source = _Words(NEAREST)
    probe = RoundingProbe(source)
    probe.examine([me()], 0.0, always)
    probe.examine([], 1.0, always)
    assert not probe.wants_samples
    assert not probe.sampled


def owner_of(process: ProcessId) -> int:
    return process.pid // 1000


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
    probe = RoundingProbe(_NewThreads(of_each=50), owner_of=owner_of)
    probe.examine([*decoys, neighbour], 0.0, always)
    for at_s in range(1, 40):
        probe.sample(float(at_s))
        assert probe.threads_by_owner().total() <= 20_000
        assert neighbour in probe.sampled
