"""Waiting, CPU budgets and phase times of the agent's loop."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

_MAX_BURST_S = 0.1
"""CPU time that a burst of work may use before a budget makes it wait."""
_SLICE_S = 0.01
"""CPU time to use at once after a burst. The pause that follows is in proportion, so that small
work of one owner does not wait long for large work of another."""


class Readable(Protocol):
    """A source that poll(2) can wait for."""

    def fileno(self) -> int:
        """Return its file descriptor."""


class Wake:
    """Wakes a waiting loop from a signal handler or another thread."""

    def __init__(self) -> None:
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def up(self) -> None:
        """End the current wait, or the next one if none is under way."""
        with suppress(OSError):
            os.eventfd_write(self._event, 1)

    def wait(self, timeout_s: float, source: Readable | None) -> bool:
        """Wait for ``up``, for ``source`` or the timeout; return True if the source is readable."""
        descriptors = select.poll()
        descriptors.register(self._event, select.POLLIN)
        if source is not None:
            descriptors.register(source, select.POLLIN)
        ready = {fd for fd, _ in descriptors.poll(max(0.0, timeout_s) * 1000)}
        if self._event in ready:
            with suppress(OSError):
                os.eventfd_read(self._event)
        return source is not None and source.fileno() in ready

    def close(self) -> None:
        """Close the file descriptor."""
        os.close(self._event)


class CpuBudget:
    """Limits work to a share of one core, after a burst."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._debt_s = 0.0
        self._at_s = 0.0

    @contextmanager
    def spending(self, now_s: Callable[[], float]) -> Iterator[None]:
        """Count the CPU time that this process uses inside the block.

        Wall time would not do: under a quota the agent waits far longer than it works.
        """
        started_cpu_s = time.process_time()
        try:
            yield
        finally:
            self.spend(now_s(), time.process_time() - started_cpu_s)

    def spend(self, at_s: float, cpu_s: float) -> None:
        """Count work that has just been done."""
        self._repay(at_s)
        self._debt_s += cpu_s

    def pause_s(self, at_s: float) -> float:
        """Return how long the work has to wait; 0.0 if it may go on."""
        self._repay(at_s)
        over_s = self._debt_s - _MAX_BURST_S
        if over_s <= 0:
            return 0.0
        return over_s / self._share if self._share else float("inf")

    def slice_s(self, at_s: float) -> float:
        """Return the CPU time to use at once: the rest of the burst, at least one slice."""
        self._repay(at_s)
        return max(_SLICE_S, _MAX_BURST_S - self._debt_s)

    def _repay(self, at_s: float) -> None:
        self._debt_s = max(0.0, self._debt_s - (at_s - self._at_s) * self._share)
        self._at_s = at_s


class PhaseTimer:
    """Time spent in each phase, without that of phases nested in it."""

    def __init__(self, clock_s: Callable[[], float] = time.perf_counter) -> None:
        self.spent_s: dict[str, float] = {}
        self._clock_s = clock_s
        self._nested_s = 0.0

    def restart(self, *phases: str) -> None:
        """Set the phases to zero and forget all others."""
        self.spent_s = dict.fromkeys(phases, 0.0)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time spent in the block to a phase."""
        started_s = self._clock_s()
        outer_s, self._nested_s = self._nested_s, 0.0
        try:
            yield
        finally:
            took_s = self._clock_s() - started_s
            self.spent_s[name] += took_s - self._nested_s
            self._nested_s = outer_s + took_s
