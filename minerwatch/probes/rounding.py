"""Rounding modes of suspects: evidence of what they compute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from minerwatch.detection.facts import measured
from minerwatch.model import FpSample, ProcessId
from minerwatch.node.fp_rounding import ENOUGH_ROUNDS, RoundingSamples
from minerwatch.probes.base import IsTimeLeft, OwnerOf, Probe, no_owner
from minerwatch.text_budget import fattest_over

_EVERY_S = 300.0
_ODD_EVERY_S = 60.0
_MAX_SAMPLING_S = 60.0
_MAX_THREADS = 20_000
_MAX_THREADS_OF_ONE = 8_000
"""Kept while they are sampled, of the node and of one pod or container: half a KiB each."""


class FpSource(Protocol):
    """A source of threads' control words."""

    failures: dict[str, int]

    def fp_samples(self, processes: Iterable[ProcessId]) -> Sequence[FpSample]:
        """Return the control words of ``processes`` now."""


@dataclass(slots=True)
class _Sampling:
    """The samples of one process since it was last due."""

    began_s: float
    samples: RoundingSamples = field(default_factory=RoundingSamples)


class RoundingProbe(Probe):
    """Facts: RoundingShare, RoundingModes, FlushToZeroShare.

    Some dozens of samples a second apart, then a pause.
    """

    name = "rounding"
    looks_early = True

    def __init__(self, source: FpSource, owner_of: OwnerOf = no_owner) -> None:
        super().__init__(owner_of)
        self.failures = source.failures
        self._source = source
        self._sampled: dict[ProcessId, _Sampling] = {}

    @property
    def sampled(self) -> Collection[ProcessId]:
        """Return the processes that are being sampled."""
        return self._sampled.keys()

    @property
    def wants_samples(self) -> bool:
        """Return True while a process is being sampled."""
        return bool(self._sampled)

    def sample(self, at_s: float) -> None:
        """Take one sample of the threads of each process that is being sampled."""
        for sample in self._source.fp_samples(tuple(self._sampled)):
            sampling = self._sampled.get(sample.process)
            if sampling is not None:
                sampling.samples.add(at_s, sample.tid, sample.fp_control, sample.switches)
        for process, sampling in list(self._sampled.items()):
            self._update_facts(process, sampling, at_s)
        while over := fattest_over(
            self.threads_by_owner(), max_owner=_MAX_THREADS_OF_ONE, max_node=_MAX_THREADS
        ):
            self._end_early(over[0], at_s)
        self._begin(at_s)

    def threads_by_owner(self) -> Counter[Hashable]:
        """Return the number of threads that are kept, by owner."""
        threads: Counter[Hashable] = Counter()
        for process, sampling in self._sampled.items():
            threads[self._owner_of(process)] += sampling.samples.threads
        return threads

    def close(self) -> None:
        """Release nothing: the source is not its own."""

    def _examine_due(
        self, suspects: Sequence[ProcessId], at_s: float, is_time_left: IsTimeLeft
    ) -> None:
        del suspects, is_time_left  # sampling is bounded apart
        self._sampled = {each: of for each, of in self._sampled.items() if each in self._due_s}
        self._begin(at_s)

    def _begin(self, at_s: float) -> None:
        for process, due_s in self._due_s.items():
            is_due = process in self._earned and due_s <= at_s
            if is_due and process not in self._sampled:
                self._earned.discard(process)
                self._sampled[process] = _Sampling(at_s)

    def _end_early(self, owner: Hashable, at_s: float) -> None:
        """End the sampling of the process of ``owner`` with the most threads."""
        own = [each for each in self._sampled if self._owner_of(each) == owner]
        process = max(own, key=lambda each: self._sampled[each].samples.threads)
        self._end(process, at_s + _EVERY_S)

    def _update_facts(self, process: ProcessId, sampling: _Sampling, at_s: float) -> None:
        rounding = sampling.samples.rounding()
        if rounding is not None:
            self._facts[process] = measured(
                RoundingShare=rounding.share,
                RoundingModes=rounding.modes,
                FlushToZeroShare=rounding.flush_to_zero_share,
            )
        is_late = at_s - sampling.began_s >= _MAX_SAMPLING_S
        if is_late or sampling.samples.rounds >= ENOUGH_ROUNDS:
            is_odd = rounding is not None and rounding.modes > 1
            self._end(process, at_s + (_ODD_EVERY_S if is_odd else _EVERY_S))

    def _end(self, process: ProcessId, due_s: float) -> None:
        self._due_s[process] = due_s
        del self._sampled[process]
