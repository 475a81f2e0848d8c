"""Delays between retries. Pure but for the chance that is passed in."""

from __future__ import annotations

import random

_MAX_DOUBLINGS = 30


class Backoff:
    """Delays that double with each failure in a row, up to a maximum.

    With ``rng`` each is multiplied by a number between 0.5 and ``max_factor``, so that many agents
    that failed together do not return together.
    """

    def __init__(
        self,
        first_s: float,
        max_s: float,
        rng: random.Random | None = None,
        max_factor: float = 1.0,
    ) -> None:
        self.failures = 0  # in a row
        self._first_s = first_s
        self._max_s = max_s
        self._rng = rng
        self._max_factor = max_factor

    def next_s(self) -> float:
        """Count a failure, and return how long to wait before the next try."""
        delay_s = self._first_s * 2.0 ** min(self.failures, _MAX_DOUBLINGS)
        self.failures += 1
        delay_s = min(delay_s, self._max_s)
        return delay_s if self._rng is None else delay_s * self._rng.uniform(0.5, self._max_factor)

    def reset(self) -> None:
        """Start again with the first delay: a try succeeded."""
        self.failures = 0
