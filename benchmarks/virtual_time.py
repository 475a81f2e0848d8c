"""Code that waits, run by a clock that does not: hours of thousands of agents in seconds.

Each task is a greenlet: ordinary blocking code, such as the agent's own, which is switched out
where it waits and in again when its moment has come. Only one runs at a time, none at the same
time as another, and in an order that a seed decides: a run can be repeated.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from greenlet import getcurrent, greenlet

Value = TypeVar("Value")


class VirtualTime:
    """A clock, and what is to happen by it."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self._loop = getcurrent()

    def monotonic_s(self) -> float:
        """The time, as ``time.monotonic`` gives it."""
        return self.now_s

    def after(self, seconds: float, work: Callable[[], object]) -> None:
        """Have ``work`` done then; it must not wait."""
        heapq.heappush(self._due, (self.now_s + seconds, next(self._numbers), work))

    def begin(self, work: Callable[[], object], after_s: float = 0.0) -> None:
        """Have ``work`` done as a task, which may wait."""
        self.after(after_s, lambda: greenlet(work, self._loop).switch())

    def run(self, until_s: float) -> None:
        """Let all happen that is due by then."""
        while self._due and self._due[0][0] <= until_s:
            self.now_s, _, work = heapq.heappop(self._due)
            work()
        self.now_s = until_s

    def sleep(self, seconds: float) -> None:
        """Wait, in a task."""
        self.after(seconds, getcurrent().switch)
        self._loop.switch()


class Promise(Generic[Value]):
    """Something that one task waits for."""

    def __init__(self, time: VirtualTime) -> None:
        self._time = time
        self._kept: list[Value] = []
        self._is_over = False
        self._waiting: greenlet | None = None

    @property
    def is_over(self) -> bool:
        """Return True if it has been kept, or nothing waits for it any more."""
        return self._is_over

    def keep(self, value: Value) -> None:
        """Give the value; only the first counts."""
        if self._is_over:
            return
        self._is_over = True
        self._kept.append(value)
        if self._waiting is not None:
            self._time.after(0.0, self._waiting.switch)

    def value(self, timeout_s: float) -> Value | None:
        """What it was kept with; None if that takes longer than ``timeout_s``."""
        if not self._is_over:
            self._waiting = getcurrent()
            self._time.after(timeout_s, self._give_up)
            self._time._loop.switch()  # noqa: SLF001 - the two are one
        return self._kept[0] if self._kept else None

    def _give_up(self) -> None:
        if not self._is_over:
            self._is_over = True
            if self._waiting is not None:
                self._waiting.switch()


class NeverSet(threading.Event):
    """What the agent's code waits on between two tries: by the simulated clock, and in vain."""

    def __init__(self, time: VirtualTime) -> None:
        super().__init__()
        self._time = time

    def wait(self, timeout: float | None = None) -> bool:
        """Wait that long; False."""
        if timeout is None:
            raise ValueError("that would be for ever")
        self._time.sleep(timeout)
        return False
