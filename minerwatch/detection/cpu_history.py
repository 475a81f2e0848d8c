"""CPU rates from readings of a counter. Pure: the clock is passed in."""

from __future__ import annotations

from collections.abc import Reversible
from itertools import takewhile
from math import fsum, sqrt

_MIN_RATES = 4  # for a flatness


class CpuHistory:
    """The latest readings of one CPU counter, of a process or a container."""

    __slots__ = ("_at_s", "_rates", "cores", "cpu_s")

    def __init__(self, at_s: float, cpu_s: float) -> None:
        self._rates: list[tuple[float, float]] = []  # a deque takes 600 bytes when it is empty
        self._restart(at_s, cpu_s)

    def _restart(self, at_s: float, cpu_s: float) -> None:
        self._at_s = at_s
        self.cpu_s = cpu_s  # the last reading
        self._rates.clear()
        self.cores: float | None = None
        """CPU rate between the last two readings, in cores; None before the second."""

    @property
    def is_idle(self) -> bool:
        """Return True if the counter has stood still at each reading within the window."""
        return self.cores == 0.0 and not any(rate for _, rate in self._rates)

    def add(self, at_s: float, cpu_s: float, *, window_s: float) -> None:
        """Add a reading; a counter that fell restarts the history.

        ``window_s`` is the window of ``flatness``.
        """
        elapsed_s = at_s - self._at_s
        if elapsed_s <= 0:
            return
        if cpu_s < self.cpu_s:
            self._restart(at_s, cpu_s)
            return
        self.cores = (cpu_s - self.cpu_s) / elapsed_s
        self._rates.append((at_s, self.cores))
        while self._rates[0][0] <= at_s - window_s:
            del self._rates[0]
        self._at_s, self.cpu_s = at_s, cpu_s

    def add_idle(self, times_s: Reversible[float], *, window_s: float) -> None:
        """Add the last reading again at each later one of ``times_s``, which is in order."""
        last_s = self._at_s
        missed_s = list(takewhile(lambda at_s: at_s > last_s, reversed(times_s)))
        for at_s in reversed(missed_s):
            self.add(at_s, self.cpu_s, window_s=window_s)

    def flatness(self) -> float | None:
        """Return 1 − the rates' coefficient of variation in the window, 0..1; None if too few."""
        rates = [rate for _, rate in self._rates]
        if len(rates) < _MIN_RATES or not any(rates):
            return None
        mean = fsum(rates) / len(rates)
        variance = fsum((rate - mean) ** 2 for rate in rates) / len(rates)
        return max(0.0, 1 - sqrt(variance) / mean)
