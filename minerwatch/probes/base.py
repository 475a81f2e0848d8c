"""The base of the probes of suspects: expire what is known, receive answers, ask again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Generic, TypeVar

from minerwatch.model import Facts, ProcessId
from minerwatch.node.question_queue import QueuedReader

T = TypeVar("T")
Answer = TypeVar("Answer")

NO_FACTS: Facts = {}

IsTimeLeft = Callable[[], bool]
OwnerOf = Callable[[ProcessId], Hashable]


@dataclass(frozen=True, slots=True)
class Suspect:
    """A process that the probes examine."""

    process: ProcessId
    program: int  # as in ProcessStat
    is_for_all_probes: bool  # it has a finding, or it got a full look; False: for cheap ones only
    owner: Hashable = None  # its pod or container: owners take turns
    is_due: bool = True  # it has a finding, or that look was earned just now


class Probe(ABC):
    """One source of evidence on suspects; it keeps facts for as long as they are suspects."""

    name: str
    looks_early = False
    """Also examine suspects that are not for all probes: this one is cheap enough."""
    failures: Mapping[str, int]
    """Failures since the start, by reason."""

    def __init__(self, owner_of: OwnerOf) -> None:
        self._owner_of = owner_of
        self._due_s: dict[ProcessId, float] = {}  # not before that, of each suspect
        self._earned: set[ProcessId] = set()  # suspects with a look that was not taken yet
        self._facts: dict[ProcessId, Facts] = {}

    def examine(
        self,
        suspects: Sequence[ProcessId],
        at_s: float,
        is_time_left: IsTimeLeft,
        earned: Set[ProcessId] | None = None,
    ) -> None:
        """Forget all but ``suspects``; examine the new ones, and those that have ``earned`` a look.

        None: all of them have.
        """
        self._receive_answers(at_s)
        wanted = self._earned.union(suspects if earned is None else earned)
        self._earned = {each for each in suspects if each in wanted or each not in self._due_s}
        self._due_s = kept(self._due_s, suspects, at_s)
        self._facts = {each: self._facts[each] for each in suspects if each in self._facts}
        self._examine_due(suspects, at_s, is_time_left)

    def _receive_answers(self, at_s: float) -> None:
        """Receive the answers to earlier questions."""
        del at_s  # most probes get none

    @property
    def wants_samples(self) -> bool:
        """Return True if ``sample`` should be called between two ticks."""
        return False

    def sample(self, at_s: float) -> None:
        """Take one sample of each suspect that is being sampled."""
        del at_s  # most probes take none

    def facts(self, process: ProcessId) -> Facts:
        """Return the facts about ``process``."""
        return self._facts.get(process, NO_FACTS)

    @abstractmethod
    def close(self) -> None:
        """Release what the probe holds."""

    @abstractmethod
    def _examine_due(
        self, suspects: Sequence[ProcessId], at_s: float, is_time_left: IsTimeLeft
    ) -> None: ...


class ReaderProbe(Probe, Generic[Answer]):
    """A probe that asks a reader about suspects with an earned look, at most every ``every_s``."""

    every_s: float

    def __init__(self, reader: QueuedReader[Answer], owner_of: OwnerOf) -> None:
        super().__init__(owner_of)
        self._reader = reader
        self.failures = reader.failures

    def close(self) -> None:
        """End the reader's thread."""
        self._reader.close()

    def _receive_answers(self, at_s: float) -> None:
        for process, answer in self._reader.answers().items():
            if process in self._due_s:
                self._earned.discard(process)
                self._receive(process, answer, at_s)

    def _examine_due(
        self, suspects: Sequence[ProcessId], at_s: float, is_time_left: IsTimeLeft
    ) -> None:
        for process in suspects:
            is_due = process in self._earned and at_s >= self._due_s[process]
            if is_due and is_time_left() and self._reader.ask(process, self._owner_of(process)):
                self._due_s[process] = at_s + self.every_s

    @abstractmethod
    def _receive(self, process: ProcessId, answer: Answer, at_s: float) -> None:
        """Turn an answer into facts."""


def no_owner(process: ProcessId) -> Hashable:
    """Return None: all processes take turns together."""
    del process
    return None


def kept(known: Mapping[ProcessId, T], suspects: Iterable[ProcessId], new: T) -> dict[ProcessId, T]:
    """Return the values of ``suspects``, ``new`` where there is none."""
    return {each: known.get(each, new) for each in suspects}
