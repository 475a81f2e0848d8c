"""Times at which samples of executed code are read, and those of known processes classified."""

from __future__ import annotations

import math
import random
from collections import Counter, deque
from collections.abc import Hashable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple, Protocol

from minerwatch.fair_queue import interleaved
from minerwatch.model import ContainerKey, ProcessId

_ROUND_S = 10
_BETWEEN_ROUNDS_S = (90.0, 180.0)
"""Drawn at random, so that nothing can pause while it is looked at."""
_PAGE = 4096
_PAGE_BITS = 2039
_CHECKED_EVERY = 8
_NEW_PAGE_WEIGHT = 1 / 16
_STEADY_SHARE, _CHANGED_SHARE = 0.1, 0.6
"""A process has changed if so many of the last samples, one of 8, are in pages not classified."""
_CHANGED_FOR_S = 10.0
_MAX_DELAY_S = 30.0
"""Before a process that has changed is looked at, drawn at random: it may show something else for
some seconds."""
_BETWEEN_CHANGES_S = (30.0, 160.0)
"""At first, twice as long each time, and at most."""
_MAX_ADDRESSES = 200
_MAX_ADDRESSES_OF_ONE = 40
"""Classified a second, on the node and of one pod or container."""
_AVOIDED_S = (30.0, 90.0)
"""Drawn at random, so that nothing need hold its readers up for longer than until they come."""
_MINUTE_S = 60.0
_MAX_CPU_S_OF_ONE = 0.5
"""CPU time of the child for one owner in a minute: a process may have 65,000 mappings."""
_FAST_S = 0.1
_FAST_FOR_S = 10.0
_BETWEEN_FAST_S = (10.0, 30.0)
_MAX_FAST_SHARE = 0.004
"""Of one core, for the thread while it reads fast."""
_MANY_GONE, _MANY_GONE_SHARE = 3, 0.2
"""Samples of one read, of processes that have exited, after which it reads fast."""
_CALM_AFTER_S = 30.0


Spot = tuple[int, bytes]
"""An address, and the code there if it was copied while it was executed."""


class Spots(Protocol):
    """The spots of one process: a list, or what makes them when they are asked for."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Spot: ...
    def __iter__(self) -> Iterator[Spot]: ...


class Place(NamedTuple):
    """A process, the container that it runs in, and the pod or container that owns it."""

    process: ProcessId
    container: ContainerKey
    owner: Hashable
    is_relative: bool = False
    """The sample is of another process, which has exited; this one may have the same code."""
    is_of_change: bool = False
    """It counts for the process alone: decoys that change often would dilute their container."""


class Pace:
    """Pauses between reads: short for some seconds while processes exit before they are read.

    They are long when all samples have been of processes that are known, and run, for a while: most
    of the cost of a read is to begin it.
    """

    def __init__(self) -> None:
        self._changed_s = 0.0
        self._fast_until_s = 0.0
        self._slow_until_s = 0.0

    def note(self, samples: int, gone: int, now_s: float) -> None:
        """Count the samples of a read, and those of processes that have exited."""
        if gone:
            self._changed_s = now_s
        if now_s < self._slow_until_s or gone < max(_MANY_GONE, _MANY_GONE_SHARE * samples):
            return
        self._fast_until_s = now_s + _FAST_FOR_S
        self._slow_until_s = self._fast_until_s + random.uniform(*_BETWEEN_FAST_S)  # noqa: S311

    def note_new(self, now_s: float) -> None:
        """Read at the usual pace again: some samples are of processes that are not known yet."""
        self._changed_s = now_s

    def pause_s(self, usual_s: float, calm_s: float, cost_s: float, now_s: float) -> float:
        """Return the pause after a read that took ``cost_s`` of CPU time."""
        if now_s >= self._changed_s + _CALM_AFTER_S:
            return calm_s
        if now_s >= self._fast_until_s:
            return usual_s
        return min(usual_s, max(_FAST_S, cost_s / _MAX_FAST_SHARE))


class HotPages:
    """The pages of one process whose code was classified, to notice when it executes others.

    RandomX fills its data set first. There is a bit for each page, by a hash of its number: a new
    page may seem known. What changes its pages too often for this, or executes other code in the
    same ones, waits for a round.
    """

    __slots__ = ("_bits", "_pause_s", "_salt", "_share", "_since_s")

    def __init__(self) -> None:
        """No page is known."""
        self._bits = 0
        self._salt = random.getrandbits(32)
        self._share = 0.0  # of new pages, in the last samples
        self._since_s = -math.inf  # from when on it is looked at after its last change
        self._pause_s = 0.0  # from then to the next time

    def add(self, addresses: Iterable[int]) -> None:
        """Note where code was classified, unless some of the last samples are elsewhere.

        It may have changed in the last seconds of a round, which tells little of them.
        """
        if self._share < _STEADY_SHARE:
            for address in addresses:
                self._bits |= 1 << self._bit(address)

    def have_changed(self, spots: Spots, now_s: float) -> bool:
        """Return True, for ten seconds, some time after most samples were in new pages."""
        if now_s < self._since_s + self._pause_s:
            return self._since_s <= now_s < self._since_s + _CHANGED_FOR_S
        for index in range(0, len(spots), _CHECKED_EVERY):
            is_new = ~self._bits >> self._bit(spots[index][0]) & 1
            self._share += (is_new - self._share) * _NEW_PAGE_WEIGHT
        if self._share >= _CHANGED_SHARE:
            least_s, most_s = _BETWEEN_CHANGES_S
            self._since_s = now_s + random.uniform(0, _MAX_DELAY_S)  # noqa: S311
            self._pause_s = min(most_s, max(least_s, 2 * self._pause_s))
            self._bits, self._share = 0, 0.0
        return False

    def _bit(self, address: int) -> int:
        return hash((address // _PAGE, self._salt)) % _PAGE_BITS


class Bounds:
    """Addresses that may be classified a second, on the node and of one owner."""

    def __init__(self) -> None:
        self._second_s = 0.0
        self._counts: Counter[Hashable] = Counter()  # in this second, by owner

    @property
    def is_reached(self) -> bool:
        """Return True if there is no room left on the node."""
        return self._counts.total() >= _MAX_ADDRESSES

    def count(self, owner: Hashable, addresses: int) -> None:
        """Count addresses that are classified."""
        self._counts[owner] += addresses

    def chosen(self, due: list[tuple[Place, Spot]], now_s: float) -> list[tuple[Place, Spot]]:
        """Return and count those within the bounds, chosen at random, owners in turn."""
        if now_s >= self._second_s + 1.0:
            self._second_s, self._counts = now_s, Counter()
        if not due:
            return []
        random.shuffle(due)
        left = _MAX_ADDRESSES - self._counts.total()
        chosen: list[tuple[Place, Spot]] = []
        for each in interleaved(due, lambda sample: sample[0].owner):
            owner = each[0].owner
            if len(chosen) < left and self._counts[owner] < _MAX_ADDRESSES_OF_ONE:
                self._counts[owner] += 1
                chosen.append(each)
        return chosen


class Avoided:
    """Owners whose code takes too long to read, or makes the child hang: left out for a while."""

    def __init__(self) -> None:
        self._until: dict[Hashable, tuple[float, bool]] = {}
        self._spent_s: Counter[Hashable] = Counter()
        self._minute = 0

    def of(self, owner: Hashable, now_s: float) -> tuple[bool, bool]:
        """Return True if it is left alone; and True if what was copied of it is decoded then."""
        until_s, copies_only = self._until.get(owner, (now_s, False))
        return until_s > now_s, copies_only

    def add(self, owner: Hashable, now_s: float, *, copies_only: bool) -> None:
        """Leave it alone from now on; ``copies_only``: but for what was copied."""
        self._until = {each: of for each, of in self._until.items() if of[0] > now_s}
        self._until[owner] = now_s + random.uniform(*_AVOIDED_S), copies_only  # noqa: S311

    def is_costly(self, owner: Hashable, took_s: float, now_s: float, *, is_read: bool) -> bool:
        """Count CPU time for code that was read, or copied; return True if it is too much."""
        if int(now_s / _MINUTE_S) != self._minute:
            self._minute, self._spent_s = int(now_s / _MINUTE_S), Counter()
        self._spent_s[owner, is_read] += took_s  # type: ignore[assignment]
        return self._spent_s[owner, is_read] > _MAX_CPU_S_OF_ONE


class Rounds:
    """Addresses of known processes, gathered for ten seconds, then again after a pause.

    A question costs more than an address, so there is one about each process.
    """

    def __init__(self, pause_s: tuple[float, float] = _BETWEEN_ROUNDS_S) -> None:
        """``pause_s``: at least and at most."""
        self._pause_s = pause_s
        self._begins_s = 0.0
        self._gathered: dict[Place, Counter[Spot]] = {}
        self._counts: Counter[Hashable] = Counter()  # of addresses gathered, by owner
        self._waiting: deque[tuple[Place, Counter[Spot]]] = deque()

    def is_on(self, now_s: float) -> bool:
        """Return True while addresses are gathered."""
        return now_s >= self._begins_s

    def add(self, place: Place, spots: Spots, now_s: float) -> int:
        """Gather addresses during a round; return the number beyond the bounds of one owner."""
        if not self.is_on(now_s):
            return 0
        if not self._gathered:
            self._begins_s = now_s
        left = _MAX_ADDRESSES_OF_ONE * _ROUND_S - self._counts[place.owner]
        kept = [*islice(spots, max(0, left))]
        if kept:
            self._counts[place.owner] += len(kept)
            self._gathered.setdefault(place, Counter()).update(kept)
        return len(spots) - len(kept)

    def next(self, now_s: float) -> tuple[Place, Counter[Spot]] | None:
        """Return what was gathered of one process, owners in turn, once a round has ended."""
        if now_s >= self._begins_s + _ROUND_S and not self._waiting:
            self._begins_s = now_s + random.uniform(*self._pause_s)  # noqa: S311
            self._waiting = deque(interleaved(self._gathered.items(), lambda each: each[0].owner))
            self._gathered, self._counts = {}, Counter()
        return self._waiting.popleft() if self._waiting else None
