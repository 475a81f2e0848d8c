"""A queue of processes to examine, between the tick and the thread that reads them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Hashable
from typing import NamedTuple

from minerwatch.fair_queue import FairQueue
from minerwatch.model import ProcessId

MAX_OPEN_PER_OWNER = 32


class Question(NamedTuple):
    """A process to examine, and the container or pod that it belongs to."""

    process: ProcessId
    owner: Hashable


class Questions:
    """Open questions, taken by round robin over their owners; safe to use from several threads.

    Each owner has a few open at most, so that one with thousands of processes delays the others by
    one question at a time. A question beyond that is refused and not kept: put it again later.
    """

    def __init__(self) -> None:
        self._open: dict[ProcessId, Hashable] = {}
        self._count_of: Counter[Hashable] = Counter()
        self._waiting: FairQueue[Question] = FairQueue()
        self._changed = threading.Condition()
        self._is_woken = False

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, process: ProcessId) -> bool:
        return process in self._open

    def put(self, process: ProcessId, owner: Hashable) -> bool:
        """Open a question, unless it is open; return False if it is refused."""
        with self._changed:
            if process in self._open:
                return True
            if self._count_of[owner] >= MAX_OPEN_PER_OWNER:
                return False
            self._open[process] = owner
            self._count_of[owner] += 1
            self._waiting.push(owner, Question(process, owner))
            self._changed.notify()
            return True

    def take(self, timeout_s: float | None = None) -> Question | None:
        """Wait for the next question; return None on timeout, or after ``wake``."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_woken or len(self._waiting) > 0, timeout_s)
            if self._is_woken:
                self._is_woken = False
                return None
            return self._waiting.pop()

    def close(self, process: ProcessId) -> None:
        """Close a question that has been answered, or never will be."""
        with self._changed:
            if process not in self._open:
                return
            owner = self._open.pop(process)
            self._count_of[owner] -= 1
            if not self._count_of[owner]:
                del self._count_of[owner]

    def wake(self) -> None:
        """Make one ``take`` return None, now or at its next call."""
        with self._changed:
            self._is_woken = True
            self._changed.notify()
