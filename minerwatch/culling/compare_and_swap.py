"""Change an object of the API server that other agents change, too.

The object is read, and written back with the resource version it was read with: if another writer
was faster, the API server refuses (409 Conflict), and all of that is done again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event
from typing import TypeVar

from minerwatch.backoff import Backoff
from minerwatch.kube.client import ApiError, Cluster

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SwapPace:
    """Timeouts and retries of one change, in seconds."""

    tries: int = 12
    give_up_s: float = 20.0  # whatever the server asks for
    first_delay_s: float = 0.05
    longest_delay_s: float = 2.0
    answer_s: float = 5.0


def compare_and_swap(
    attempt: Callable[[float], T],
    cluster: Cluster,
    pace: SwapPace,
    closing: Event,
    rng: random.Random,
    monotonic_s: Callable[[], float] = time.monotonic,
) -> T:
    """Call ``attempt`` until it succeeds, and return its result.

    It reads the object, writes it with the resource version it read, and gets the time until which
    it may try. It is called again after a conflict or a transient failure. Raises the last
    ApiError.
    """
    until_s = monotonic_s() + pace.give_up_s
    backoff = Backoff(pace.first_delay_s, pace.longest_delay_s, rng, 1.5)
    while True:
        try:
            return attempt(until_s)
        except ApiError as error:
            if error.reason == "unauthorized":
                cluster.renew_credentials()
            if not error.is_transient and error.reason not in ("conflict", "missing"):
                raise
            wait_s = max(error.retry_after_s or 0.0, backoff.next_s())
            is_last = backoff.failures >= pace.tries or monotonic_s() + wait_s > until_s
            if is_last or closing.wait(wait_s):
                raise
