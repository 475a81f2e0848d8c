"""CPU usage and levels of containers since the screen was opened, in bounded memory. Pure."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import isnan, nan

from minerwatch.api.types import ContainerStatus
from minerwatch.kinds import Level
from minerwatch.view.selection import IDLE_CORES

Key = tuple[str, ...]
"""Identity of a row: a container, a process, a node, or a group of them."""

LENGTH = 60
"""Readings kept of each container."""

_MAX_CONTAINERS = 20_000
_MAX_FLAGGED = 5000
_MAX_CHANGES = 20  # of one container
_MAX_CORES = 1e6
"""No node has more: an agent's figure must not become infinity, for which there is no bar."""

_STEPS = "▁▂▃▄▅▆▇█"


def key_of(status: ContainerStatus) -> Key:
    """Return a container's identity, as far as snapshots have it."""
    return (status.node, status.cgroup, status.container_id)


@dataclass(slots=True)
class _Readings:
    """Cores, one float a step; NaN where there was no reading. The last is that of step ``at``."""

    at: int
    cores: array[float] = field(default_factory=lambda: array("f"))


class CpuHistory:
    """Last readings of each container that has used CPU since this was made.

    One thread adds readings; others may read them. A reading takes four bytes; idle containers take
    none; those that are gone are dropped, and of too many containers the ones read longest ago.
    """

    def __init__(
        self, step_s: float, *, length: int = LENGTH, max_containers: int = _MAX_CONTAINERS
    ) -> None:
        """``step_s``: the distance between two readings, in seconds."""
        self.step_s = step_s
        self._length = length
        self._max_containers = max_containers
        self._readings: dict[Key, _Readings] = {}

    def add(self, statuses: Iterable[ContainerStatus], at_s: float) -> None:
        """Add a reading of all of ``statuses``; of several within one step the last counts."""
        at = int(at_s // self.step_s)
        for status in statuses:
            key = key_of(status)
            readings = self._readings.get(key)
            if readings is None:
                if status.cpu_cores <= IDLE_CORES:
                    continue
                readings = self._readings[key] = _Readings(at - 1)
            self._put(readings, at, min(status.cpu_cores, _MAX_CORES))
        self._drop(at)

    def of(self, key: Key) -> Sequence[float]:
        """Return cores, oldest first; NaN where unknown. Empty: idle all the time."""
        readings = self._readings.get(key)
        return tuple(readings.cores) if readings is not None else ()

    def _put(self, readings: _Readings, at: int, cores: float) -> None:
        steps = at - readings.at
        if steps <= 0:
            if readings.cores:
                readings.cores[-1] = cores
            return
        readings.cores.extend([nan] * (min(steps, self._length) - 1))
        readings.cores.append(cores)
        del readings.cores[: -self._length]
        readings.at = at

    def _drop(self, at: int) -> None:
        gone = [key for key, each in self._readings.items() if at - each.at >= self._length]
        surplus = len(self._readings) - len(gone) - self._max_containers
        if surplus > 0:
            kept = self._readings.keys() - set(gone)
            gone += sorted(kept, key=lambda key: self._readings[key].at)[:surplus]
        for key in gone:
            del self._readings[key]


def total(readings: Iterable[Sequence[float]]) -> Sequence[float]:
    """Return the sum of several histories; NaN where all of them are unknown."""
    summed: list[float] = []
    for cores in readings:
        summed[:0] = [nan] * (len(cores) - len(summed))
        for back in range(1, len(cores) + 1):
            if not isnan(cores[-back]):
                before = summed[-back]
                summed[-back] = cores[-back] + (0.0 if isnan(before) else before)
    return summed


def full_scale(cores: Sequence[float], limit_cores: float | None) -> float:
    """Return the cores of a full bar: the limit, else a core, or the most of ``cores``."""
    return max((limit_cores or 1.0, *(each for each in cores if not isnan(each))))


def sparkline(cores: Sequence[float], width: int, limit_cores: float | None = None) -> str:
    """Return the last ``width`` readings as bars, the newest at the right; spaces where unknown.

    With a core as the least full bar, the noise of an idle program stays low.
    """
    shown = list(cores[-width:]) if width > 0 else []
    full = full_scale(shown, limit_cores)
    bars = (" " if isnan(each) else _bar(each / full) for each in shown)
    return "".join(bars).rjust(max(0, width))


def _bar(share: float) -> str:
    return _STEPS[min(len(_STEPS) - 1, max(0, int(share * len(_STEPS))))]


@dataclass(frozen=True, slots=True)
class LevelChange:
    """A level that became another one between two polls."""

    at: datetime  # of the poll that showed it
    before: str
    after: str


class LevelChanges:
    """Changes of level of flagged containers; for one thread."""

    def __init__(self) -> None:
        self._levels: dict[Key, str] = {}  # of those that are or were flagged
        self._changes: dict[Key, deque[LevelChange]] = {}
        self._is_begun = False

    def add(self, statuses: Iterable[ContainerStatus], at: datetime) -> None:
        """Compare with the poll before."""
        for status in statuses:
            key = key_of(status)
            before = self._levels.get(key)
            if status.level == (before or Level.CLEAR.label):
                continue
            self._levels[key] = status.level
            if before is not None or self._is_begun:
                changes = self._changes.setdefault(key, deque(maxlen=_MAX_CHANGES))
                changes.append(LevelChange(at, before or Level.CLEAR.label, status.level))
        self._is_begun = True
        while len(self._levels) > _MAX_FLAGGED:
            oldest = next(iter(self._levels))
            del self._levels[oldest]
            self._changes.pop(oldest, None)

    def of(self, key: Key) -> Sequence[LevelChange]:
        """Return a container's changes, oldest first."""
        return tuple(self._changes.get(key, ()))
