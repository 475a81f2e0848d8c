"""Bounds on the time that answers to clients take."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

_MAX_FRESH_PER_S = 5
_PAUSE_S = 0.2  # after each turn ...
_PAUSE_SHARE = 3.0  # ... or so many times as long as it took
_Result = TypeVar("_Result")


class RateLimited(Generic[_Result]):
    """A function computed ``_MAX_FRESH_PER_S`` times a second; else its last result is returned."""

    def __init__(self, compute: Callable[[], _Result]) -> None:
        self._compute = compute
        self._computed_s: deque[float] = deque(maxlen=_MAX_FRESH_PER_S)
        self._last: _Result | None = None
        self._lock = threading.Lock()

    def __call__(self) -> _Result:
        """Return a fresh result, or the last one."""
        with self._lock:
            now_s = time.monotonic()
            times = self._computed_s
            if self._last is None or len(times) < _MAX_FRESH_PER_S or now_s - times[0] >= 1:
                self._last = self._compute()
                times.append(now_s)
            return self._last


class Turns:
    """Serialises costly work: one caller at a time, with pauses."""

    def __init__(self) -> None:
        self._next_s = 0.0  # on the monotonic clock, when the next turn may begin
        self._lock = threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn; afterwards pause so that all turns take a quarter of a core at most."""
        with self._lock:
            time.sleep(max(0.0, self._next_s - time.monotonic()))
            began_s = time.thread_time()
            try:
                yield
            finally:
                pause_s = max(_PAUSE_S, _PAUSE_SHARE * (time.thread_time() - began_s))
                self._next_s = time.monotonic() + pause_s
