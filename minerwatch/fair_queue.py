"""Round robin between owners, so that one with many items cannot starve the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """A queue that pops one item of each owner in turn, each owner's oldest first."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, deque[T]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def push(self, owner: Hashable, item: T) -> None:
        """Append an item of ``owner``."""
        self._waiting.setdefault(owner, deque()).append(item)
        self._count += 1

    def pop(self) -> T | None:
        """Remove and return the next item; None if the queue is empty."""
        if not self._waiting:
            return None
        owner = next(iter(self._waiting))
        own = self._waiting.pop(owner)
        item = own.popleft()
        if own:
            self._waiting[owner] = own
        self._count -= 1
        return item


def interleaved(items: Iterable[T], owner_of: Callable[[T], Hashable]) -> Iterator[T]:
    """Yield one item of each owner in turn, each owner's in the order given."""
    fair: FairQueue[T] = FairQueue()
    for item in items:
        fair.push(owner_of(item), item)
    while (item_or_none := fair.pop()) is not None:
        yield item_or_none
