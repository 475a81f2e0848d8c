"""Time of day for decisions: a step of the node's clock does not move the end of an exemption."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from threading import Lock

from minerwatch.culling.records import Moment

_MAX_SLEW_S = 5.0
_TRUSTED_AFTER_S = 3600.0
_MAX_SERVER_OFFSET_S = 5.0


class AgentClock:
    """The present moment, by a time of day that advances with the monotonic clock.

    A node's clock that is slewed is followed. One that steps is followed once it has kept the new
    time for an hour: by then the step was intended. The API server's time, which dates the pods, is
    used if the node's differs from it.
    """

    def __init__(
        self, read_clocks: Callable[[], Moment], server_unix_s: Callable[[], float | None]
    ) -> None:
        self._read_clocks = read_clocks
        self._server_unix_s = server_unix_s
        self._lock = Lock()
        self._offset_s: float | None = None
        self._other_s = 0.0  # offset after the clock has stepped
        self._since_s: float | None = None

    def now(self) -> Moment:
        """Return the present moment."""
        now = self._read_clocks()
        with self._lock:
            unix_s = now.monotonic_s + self._offset(now.unix_s - now.monotonic_s, now.monotonic_s)
        server_s = self._server_unix_s()
        if server_s is not None and abs(server_s - unix_s) > _MAX_SERVER_OFFSET_S:
            unix_s = server_s
        return replace(now, unix_s=unix_s)

    def _offset(self, offset_s: float, monotonic_s: float) -> float:
        if self._offset_s is None or abs(offset_s - self._offset_s) <= _MAX_SLEW_S:
            self._offset_s, self._since_s = offset_s, None
        elif self._since_s is None or abs(offset_s - self._other_s) > _MAX_SLEW_S:
            self._other_s, self._since_s = offset_s, monotonic_s
        elif monotonic_s - self._since_s >= _TRUSTED_AFTER_S:
            self._offset_s, self._since_s = offset_s, None
        return self._offset_s
