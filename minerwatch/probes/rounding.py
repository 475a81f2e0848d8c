"""How suspects round, which tells what they compute."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from minerwatch.detection.facts import measured
from minerwatch.model import Facts, FpSample, ProcessId
from minerwatch.node.rounding import ENOUGH_ROUNDS, LEAST_SAMPLES, RoundingSamples
from minerwatch.probes.probe import NO_FACTS, IsTimeLeft, kept

_ROUNDING_EVERY_S = 300.0
_ODD_ROUNDING_EVERY_S = 60.0
_SAMPLING_ENDS_AFTER_S = 60.0


class FpSource(Protocol):
    """Where control words of threads come from."""

    failures: dict[str, int]
    most_at_once: int  # processes that it can tell of

    def fp_samples(self, processes: Iterable[ProcessId]) -> Sequence[FpSample]:
        """What is known of them now; it does not wait."""

    def rest(self) -> None:
        """Lets go of what is not needed while nobody is sampled."""


@dataclass(slots=True)
class _Sampling:
    """One round of samples of a process."""

    began_s: float
    samples: RoundingSamples = field(default_factory=RoundingSamples)


class Rounding:
    """How suspects round: some dozens of samples, a second apart, then a rest.

    Where there are more suspects than its source can tell of at once, those that have waited
    longest come first.
    """

    name = "rounding"
    looks_early = True

    def __init__(self, source: FpSource, *, spares_the_innocent: bool = False) -> None:
        """``spares_the_innocent``: fewer samples do where all show the same mode."""
        self._source = source
        self._enough_of_one_mode = LEAST_SAMPLES if spares_the_innocent else ENOUGH_ROUNDS
        self._sampled: dict[ProcessId, _Sampling] = {}
        self._due_s: dict[ProcessId, float] = {}
        self._facts: dict[ProcessId, Facts] = {}

    @property
    def failures(self) -> Mapping[str, int]:
        """As its source counts them."""
        return self._source.failures

    @property
    def wants_samples(self) -> bool:
        """Whether anybody is being sampled."""
        return bool(self._sampled)

    def look(self, suspects: Sequence[ProcessId], at_s: float, is_time_left: IsTimeLeft) -> None:
        """Begins with those that have not been sampled for some time."""
        del is_time_left  # nothing is read here
        self._facts = kept(self._facts, suspects, NO_FACTS)
        self._due_s = kept(self._due_s, suspects, at_s)
        self._sampled = {
            each: sampling for each, sampling in self._sampled.items() if each in self._due_s
        }
        self._begin(at_s)

    def sample(self, at_s: float) -> None:
        """Takes one sample of running threads of those that are being sampled."""
        for sample in self._source.fp_samples(tuple(self._sampled)):
            sampling = self._sampled.get(sample.process)
            if sampling is not None:
                sampling.samples.add(at_s, sample.tid, sample.fp_control, sample.switches)
        for process, sampling in list(self._sampled.items()):
            self._take_note(process, sampling, at_s)
        self._begin(at_s)

    def facts(self, process: ProcessId) -> Facts:
        """RoundingShare, RoundingModes, FlushToZeroShare."""
        return self._facts.get(process, NO_FACTS)

    def close(self) -> None:
        """Nothing is held but the source, which is not its own."""

    def _begin(self, at_s: float) -> None:
        due = [each for each in self._due_s if self._due_s[each] <= at_s]
        due.sort(key=self._due_s.__getitem__)
        waiting = (each for each in due if each not in self._sampled)
        free = self._source.most_at_once - len(self._sampled)
        self._sampled.update((each, _Sampling(at_s)) for each in islice(waiting, free))
        if not self._sampled:
            self._source.rest()

    def _take_note(self, process: ProcessId, sampling: _Sampling, at_s: float) -> None:
        rounding = sampling.samples.rounding()
        modes = rounding.modes if rounding is not None else 0
        if rounding is not None:
            self._facts[process] = measured(
                RoundingShare=rounding.share,
                RoundingModes=modes,
                FlushToZeroShare=rounding.flush_to_zero_share,
            )
        is_late = at_s - sampling.began_s >= _SAMPLING_ENDS_AFTER_S
        enough = self._enough_of_one_mode if modes == 1 else ENOUGH_ROUNDS
        if is_late or sampling.samples.rounds >= enough:
            rest_s = _ODD_ROUNDING_EVERY_S if modes > 1 else _ROUNDING_EVERY_S
            self._due_s[process] = at_s + rest_s
            del self._sampled[process]
