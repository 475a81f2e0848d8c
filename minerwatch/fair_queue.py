"""Who is served next, where some bring much and others little."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """What is to be done for several owners: one thing of each in turn, the oldest first.

    Whoever brings a thousand things holds up the others by one at a time.
    """

    def __init__(self) -> None:
        self._waiting: dict[Hashable, deque[T]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, owner: Hashable, thing: T) -> None:
        """Adds a thing of ``owner``."""
        self._waiting.setdefault(owner, deque()).append(thing)
        self._count += 1

    def take(self) -> T | None:
        """The next thing; None if nothing waits."""
        if not self._waiting:
            return None
        owner = next(iter(self._waiting))
        own = self._waiting.pop(owner)
        thing = own.popleft()
        if own:
            self._waiting[owner] = own
        self._count -= 1
        return thing
