"""Counters of what flagged containers use, by level and by a bounded number of namespaces."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from prometheus_client import Counter

from minerwatch.model import Level

_MAX_NAMESPACES = 500
_EXPIRY_S = 86400.0
"""The longest range in alerts and recording rules."""

OTHER_NAMESPACES = "_others"
"""Label of the namespaces without series of their own; no namespace can have this name."""


class FlaggedUse:
    """CPU time, GPU time or energy of flagged containers, for at most 500 namespaces.

    Further namespaces are counted together. A namespace without any for a day is removed.
    """

    def __init__(self, counter: Counter, now_s: Callable[[], float]) -> None:
        """``counter`` has the labels namespace and level."""
        self._counter = counter
        self._now_s = now_s
        self._added_s: dict[str, float] = {}

    def add(self, namespace: str, level: Level, amount: float) -> None:
        """Count what a container of ``namespace`` used."""
        self.expire()
        if namespace not in self._added_s and len(self._added_s) >= _MAX_NAMESPACES:
            namespace = OTHER_NAMESPACES
        self._counter.labels(namespace, level.label).inc(amount)
        self._added_s[namespace] = self._now_s()

    def expire(self) -> None:
        """Remove the namespaces without any for a day."""
        past_s = self._now_s() - _EXPIRY_S
        for namespace in [name for name, added_s in self._added_s.items() if added_s < past_s]:
            del self._added_s[namespace]
            for level in Level:
                with suppress(KeyError):
                    self._counter.remove(namespace, level.label)
