"""How suspects round, which tells what they compute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from minerwatch.detection.facts import measured
from minerwatch.fair_queue import interleaved
from minerwatch.model import Facts, FpSample, ProcessId
from minerwatch.node.fp_rounding import ENOUGH_ROUNDS, LEAST_SAMPLES, RoundingSamples
from minerwatch.probes.base import NO_FACTS, IsTimeLeft, OwnerOf, kept, no_owner
from minerwatch.text_budget import fattest_over

_ROUNDING_EVERY_S = 300.0
_ODD_ROUNDING_EVERY_S = 60.0
_SAMPLING_ENDS_AFTER_S = 60.0
_MAX_THREADS = 20_000
_MAX_THREADS_OF_ONE = 8_000
"""Remembered while they are sampled, of the node and of one pod or container: half a KiB each."""


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

    Where there are more suspects than its source can tell of at once, owners take turns, and of
    each those that have waited longest come first.
    """

    name = "rounding"
    looks_early = True

    def __init__(
        self,
        source: FpSource,
        *,
        spares_the_innocent: bool = False,
        owner_of: OwnerOf = no_owner,
    ) -> None:
        """``spares_the_innocent``: fewer samples do where all show the same mode."""
        self._source = source
        self._owner_of = owner_of
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
        while over := fattest_over(
            self._threads_by_owner(), max_owner=_MAX_THREADS_OF_ONE, max_node=_MAX_THREADS
        ):
            self._end_early(over[0], at_s)
        self._begin(at_s)

    def _threads_by_owner(self) -> Counter[Hashable]:
        threads: Counter[Hashable] = Counter()
        for process, sampling in self._sampled.items():
            threads[self._owner_of(process)] += sampling.samples.threads
        return threads

    def _end_early(self, owner: Hashable, at_s: float) -> None:
        """Ends the sampling of the process of ``owner`` that has shown most threads."""
        own = [each for each in self._sampled if self._owner_of(each) == owner]
        process = max(own, key=lambda each: self._sampled[each].samples.threads)
        self._due_s[process] = at_s + _ROUNDING_EVERY_S
        del self._sampled[process]

    def facts(self, process: ProcessId) -> Facts:
        """RoundingShare, RoundingModes, FlushToZeroShare."""
        return self._facts.get(process, NO_FACTS)

    def close(self) -> None:
        """Nothing is held but the source, which is not its own."""

    def _begin(self, at_s: float) -> None:
        due = [each for each in self._due_s if self._due_s[each] <= at_s]
        due.sort(key=self._due_s.__getitem__)
        free = self._source.most_at_once - len(self._sampled)
        self._sampled.update((each, _Sampling(at_s)) for each in islice(self._in_turn(due), free))
        if not self._sampled:
            self._source.rest()

    def _in_turn(self, due: Iterable[ProcessId]) -> Iterator[ProcessId]:
        """Return those not being sampled, owners with the fewest samples under way first."""
        under_way = Counter(self._owner_of(each) for each in self._sampled)
        waiting = [each for each in due if each not in self._sampled]
        waiting.sort(key=lambda each: under_way[self._owner_of(each)])
        return interleaved(waiting, self._owner_of)

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
