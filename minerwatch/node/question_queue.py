"""A queue of processes to examine, between the tick and the thread that reads them."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

from minerwatch.fair_queue import FairQueue
from minerwatch.model import ProcessId
from minerwatch.worker import Worker

Answer = TypeVar("Answer")

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


class QueuedReader(Generic[Answer]):
    """A source that reads one process after another in a thread; its callers never wait.

    ``failures`` counts by reason since the start; ``crowded``: questions refused because their
    owner has too many open.
    """

    _thread: Worker

    def __init__(self, *reasons: str) -> None:
        self.failures = dict.fromkeys((*reasons, "crowded"), 0)
        self.questions = Questions()
        self._answers: queue.SimpleQueue[tuple[ProcessId, Answer]] = queue.SimpleQueue()

    def ask(self, process: ProcessId, owner: Hashable = None) -> bool:
        """Queue a question on ``process`` of pod or container ``owner``; False: ask again later.

        A pending question is not queued twice.
        """
        is_open = self.questions.put(process, owner)
        self.failures["crowded"] += not is_open
        return is_open

    def answers(self) -> dict[ProcessId, Answer]:
        """Return the answers since the last call; never wait."""
        found: dict[ProcessId, Answer] = {}
        while not self._answers.empty():
            process, answer = self._answers.get()
            self.questions.close(process)
            found[process] = answer
        return found

    def close(self) -> None:
        """Let the thread end once it has read its current process."""
        self._thread.close()
        self.questions.wake()

    def _finish(self, process: ProcessId, answer: Answer | None) -> None:
        """Hand over the answer; None: there is none, and the question may be asked again."""
        if answer is None:
            self.questions.close(process)
        else:
            self._answers.put((process, answer))
