"""What containers burnt lately, for sparklines: readings at equal distances, in bounded memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import isnan, nan

from minerwatch.api.types import ContainerStatus
from minerwatch.view.selection import IDLE_CORES

Key = tuple[str, ...]
"""What tells a container, or a group of them, from all others."""

LENGTH = 60
"""Readings that are kept of each container."""

_MAX_CONTAINERS = 20_000
_MOST_CORES = 1e6
"""No node has more: an agent that says so must not bring about infinity, which no bar can show."""

_STEPS = "▁▂▃▄▅▆▇█"
_UNKNOWN = " "


def key_of(status: ContainerStatus) -> Key:
    """A container's identity, as far as snapshots tell it."""
    return (status.node, status.cgroup, status.container_id)


@dataclass(slots=True)
class _Readings:
    """Cores, one float a step; NaN where nothing was asked. The last is that of step ``at``."""

    at: int
    cores: array[float] = field(default_factory=lambda: array("f"))


class CpuHistory:
    """The last readings of each container that has burnt CPU since this was made.

    Readings are added by one thread; others may ask for them. A reading takes four bytes; idle
    containers take none, those that are gone are forgotten, and of too many containers the ones
    that were read longest ago.
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
        """Take a reading of all of ``statuses``; of several within one step the last counts."""
        at = int(at_s // self.step_s)
        for status in statuses:
            key = key_of(status)
            readings = self._readings.get(key)
            if readings is None:
                if status.cpu_cores <= IDLE_CORES:
                    continue
                readings = self._readings[key] = _Readings(at - 1)
            self._put(readings, at, min(status.cpu_cores, _MOST_CORES))
        self._forget(at)

    def of(self, key: Key) -> Sequence[float]:
        """Cores, oldest first; NaN where nothing is known. Empty: idle all the time."""
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

    def _forget(self, at: int) -> None:
        gone = [key for key, each in self._readings.items() if at - each.at >= self._length]
        for key in gone:
            del self._readings[key]
        surplus = len(self._readings) - self._max_containers
        if surplus > 0:
            oldest_first = sorted(self._readings, key=lambda key: self._readings[key].at)
            for key in oldest_first[:surplus]:
                del self._readings[key]


def total(readings: Iterable[Sequence[float]]) -> Sequence[float]:
    """What several burnt together; NaN where nothing is known of any of them."""
    summed: list[float] = []
    for cores in readings:
        summed[:0] = [nan] * (len(cores) - len(summed))
        for place in range(1, len(cores) + 1):
            if not isnan(cores[-place]):
                before = summed[-place]
                summed[-place] = cores[-place] + (0.0 if isnan(before) else before)
    return summed


def sparkline(cores: Sequence[float], width: int, limit_cores: float | None = None) -> str:
    """The last ``width`` readings as bars that grow to the right; spaces where none are known.

    A full bar is the limit, else one core or the most of these readings, whichever is more: so an
    idle program's noise stays low.
    """
    shown = list(cores[-width:]) if width > 0 else []
    full = max((limit_cores or 1.0, *(each for each in shown if not isnan(each))))
    bars = (_UNKNOWN if isnan(each) else _bar(each / full) for each in shown)
    return "".join(bars).rjust(max(0, width))


def _bar(share: float) -> str:
    return _STEPS[min(len(_STEPS) - 1, max(0, int(share * len(_STEPS))))]
