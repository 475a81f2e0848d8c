"""What a loop needs that waits for several things and must not take more than its share."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

_BURST_S = 0.1
"""CPU time that a burst of work may take before a budget holds it back."""
_SLICE_S = 0.01
"""CPU time that work may take at once where the burst is used up. The pause after it is as long as
this makes it, so that small work of one owner does not wait for large work of another."""


class Readable(Protocol):
    """Something that poll(2) can wait for."""

    def fileno(self) -> int:
        """Its file descriptor."""


class Wake:
    """Wakes a waiting loop, from a signal handler or another thread."""

    def __init__(self) -> None:
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def up(self) -> None:
        """Ends the wait under way, or else the next one."""
        with suppress(OSError):
            os.eventfd_write(self._event, 1)

    def wait(self, timeout_s: float, source: Readable | None) -> bool:
        """Waits for ``up``, for ``source`` or for the time to pass; whether it was the source."""
        poll = select.poll()
        poll.register(self._event, select.POLLIN)
        if source is not None:
            poll.register(source, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(max(0.0, timeout_s) * 1000)}
        if self._event in ready:
            with suppress(OSError):
                os.eventfd_read(self._event)
        return source is not None and source.fileno() in ready

    def close(self) -> None:
        """Lets go of the file descriptor."""
        os.close(self._event)


class CpuBudget:
    """Lets some work take at most a share of one core, but for a burst."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._debt_s = 0.0
        self._at_s = 0.0

    @contextmanager
    def spending(self, now_s: Callable[[], float]) -> Iterator[None]:
        """Takes note of the CPU time of what is done in it, by this process.

        Not of the time on the wall: under a quota the agent waits far longer than it works.
        """
        started_cpu_s = time.process_time()
        try:
            yield
        finally:
            self.spend(now_s(), time.process_time() - started_cpu_s)

    def spend(self, at_s: float, cpu_s: float) -> None:
        """Takes note of work that has just been done."""
        self._settle(at_s)
        self._debt_s += cpu_s

    def pause_s(self, at_s: float) -> float:
        """How long the work has to wait before there is more; 0.0: it need not."""
        self._settle(at_s)
        over_s = self._debt_s - _BURST_S
        if over_s <= 0:
            return 0.0
        return over_s / self._share if self._share else float("inf")

    def slice_s(self, at_s: float) -> float:
        """CPU time to spend at once: the rest of the burst, or one slice."""
        self._settle(at_s)
        return max(_SLICE_S, _BURST_S - self._debt_s)

    def _settle(self, at_s: float) -> None:
        self._debt_s = max(0.0, self._debt_s - (at_s - self._at_s) * self._share)
        self._at_s = at_s
