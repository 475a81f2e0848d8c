"""The time of day that decisions go by: a step of the node's clock moves no exemption's end."""

from __future__ import annotations

from threading import Lock

_SLEW_S = 5.0
_SETTLED_AFTER_S = 3600.0


class SteadyClock:
    """Time of day counted on from a first reading by the monotonic clock.

    A clock that is slewed is followed. One that steps is believed when it has kept to the new time
    for an hour: by then somebody has meant it.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._offset_s: float | None = None
        self._other_s = 0.0  # where the clock has stepped to
        self._since_s: float | None = None

    def unix_s(self, wall_unix_s: float, monotonic_s: float) -> float:
        """Return the time of day at ``monotonic_s``, while the node's clock shows the other."""
        with self._lock:
            return monotonic_s + self._offset(wall_unix_s - monotonic_s, monotonic_s)

    def _offset(self, offset_s: float, monotonic_s: float) -> float:
        if self._offset_s is None or abs(offset_s - self._offset_s) <= _SLEW_S:
            self._offset_s, self._since_s = offset_s, None
        elif self._since_s is None or abs(offset_s - self._other_s) > _SLEW_S:
            self._other_s, self._since_s = offset_s, monotonic_s
        elif monotonic_s - self._since_s >= _SETTLED_AFTER_S:
            self._offset_s, self._since_s = offset_s, None
        return self._offset_s
