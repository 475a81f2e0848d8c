"""Functions that clients may call often, computed only so often."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

_MAX_FRESH_PER_S = 5
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


class Paced(Generic[_Result]):
    """A function computed by one caller at a time, ``_MAX_FRESH_PER_S`` times a second at most.

    Keeps no result, which may be large.
    """

    def __init__(self, compute: Callable[[], _Result]) -> None:
        self._compute = compute
        self._next_s = 0.0
        self._lock = threading.Lock()

    def __call__(self) -> _Result:
        """Wait for a turn, then return a fresh result."""
        with self._lock:
            time.sleep(max(0.0, self._next_s - time.monotonic()))
            try:
                return self._compute()
            finally:
                self._next_s = time.monotonic() + 1 / _MAX_FRESH_PER_S
