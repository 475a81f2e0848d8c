"""What has changed since the screen was opened: levels that rose and fell. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from minerwatch.api.types import ContainerStatus
from minerwatch.cli.top_screen.history import Key, key_of
from minerwatch.model import Level

_MAX_CONTAINERS = 5000
_MAX_CHANGES = 20  # of one container


@dataclass(frozen=True, slots=True)
class LevelChange:
    """A level that became another one between two looks."""

    at: datetime  # of the look that showed it
    before: str
    after: str


class Journal:
    """Changes of level, of the containers that were flagged; for one thread, in bounded memory."""

    def __init__(self) -> None:
        self._levels: dict[Key, str] = {}  # of those that are or were flagged
        self._changes: dict[Key, deque[LevelChange]] = {}
        self._has_seen_any = False

    def add(self, statuses: Iterable[ContainerStatus], at: datetime) -> None:
        """Compare with the look before."""
        for status in statuses:
            is_clear = status.level == Level.CLEAR.label
            key = key_of(status)
            before = self._levels.get(key)
            if before == status.level or (before is None and is_clear):
                continue
            self._levels[key] = status.level
            if before is None and not self._has_seen_any:
                continue
            changes = self._changes.setdefault(key, deque(maxlen=_MAX_CHANGES))
            changes.append(LevelChange(at, before or Level.CLEAR.label, status.level))
        self._has_seen_any = True
        while len(self._levels) > _MAX_CONTAINERS:
            oldest = next(iter(self._levels))
            del self._levels[oldest]
            self._changes.pop(oldest, None)

    def of(self, key: Key) -> Sequence[LevelChange]:
        """A container's changes, oldest first."""
        return tuple(self._changes.get(key, ()))
