"""What a deep look is, and at whom."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from minerwatch.model import Facts, ProcessId

T = TypeVar("T")

NO_FACTS: Facts = {}

IsTimeLeft = Callable[[], bool]
OwnerOf = Callable[[ProcessId], Hashable]


@dataclass(frozen=True, slots=True)
class Suspect:
    """A process that is worth a closer look."""

    process: ProcessId
    program: tuple[int, int, int]  # as in ProcessStat
    is_settled: bool  # something was found in it, or it has burnt CPU for long enough
    owner: Hashable = None  # its pod or container: owners take turns


class Probe(Protocol):
    """One way to look at suspects."""

    name: str
    looks_early: bool  # so cheap that it looks at all that burn CPU now, not the settled only

    @property
    def failures(self) -> Mapping[str, int]:
        """What went wrong since the start, by reason."""

    def look(self, suspects: Sequence[ProcessId], at_s: float, is_time_left: IsTimeLeft) -> None:
        """Learns what it can of ``suspects`` and forgets all others."""

    def facts(self, process: ProcessId) -> Facts:
        """What is known of ``process``."""

    def close(self) -> None:
        """Lets go of what it holds."""


def no_owner(process: ProcessId) -> Hashable:
    """Return None: all processes take turns together."""
    del process
    return None


def kept(known: Mapping[ProcessId, T], suspects: Iterable[ProcessId], new: T) -> dict[ProcessId, T]:
    """What is known of ``suspects``, or ``new``; of all others it is forgotten."""
    return {each: known.get(each, new) for each in suspects}
