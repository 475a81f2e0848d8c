"""Work for the culling thread: the latest tick, and requests of other threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Any, TypeVar

from minerwatch.errors import MinerwatchError
from minerwatch.model import Observation

NOT_RUNNING = "the agent is starting or stopping: try again"
_MAX_REQUESTS = 16

Result = TypeVar("Result")
Flagged = tuple[Observation, ...]
"""Containers that a tick found at suspicious or above."""


@dataclass(slots=True, eq=False)
class PendingRequest:
    """A function to call in the culling thread, and its result."""

    work: Callable[[], Any]
    answer: Future[Any] = field(default_factory=Future)

    def run(self) -> None:
        """Call it; its result or its exception is the answer."""
        try:
            self.answer.set_result(self.work())
        except Exception as error:  # noqa: BLE001 - raised again in the thread that waits
            self.answer.set_exception(error)


class Mailbox:
    """Hand over ticks and requests from any thread to one thread; requests come first."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._requests: deque[PendingRequest] = deque()
        self._tick: Flagged | None = None
        self._is_closed = False

    @property
    def has_tick(self) -> bool:
        """Return True if a tick waits."""
        return self._tick is not None

    def put_tick(self, flagged: Flagged) -> None:
        """Replace the tick that waits; return at once."""
        with self._changed:
            self._tick = flagged
            self._changed.notify_all()

    def post(self, work: Callable[[], object]) -> None:
        """Add a request and return at once; its result is dropped."""
        with self._changed:
            self._requests.append(PendingRequest(work))
            self._changed.notify_all()

    def call(self, work: Callable[[], Result], timeout_s: float) -> Result:
        """Return the result of ``work`` or raise its exception; else raise MinerwatchError."""
        request = PendingRequest(work)
        with self._changed:
            if self._is_closed:
                raise MinerwatchError(NOT_RUNNING)
            if len(self._requests) >= _MAX_REQUESTS:
                raise MinerwatchError("too many requests are waiting: try again later")
            self._requests.append(request)
            self._changed.notify_all()
        wait((request.answer,), timeout_s)
        if not request.answer.done():
            with self._changed:
                if request in self._requests:
                    self._requests.remove(request)
                    raise MinerwatchError("the agent was too busy; nothing was done: try again")
            raise MinerwatchError("it is still in progress; the audit log will have its outcome")
        answer: Result = request.answer.result()
        return answer

    def pop(self) -> PendingRequest | Flagged | None:
        """Wait for a request or a tick and return it; None once the mailbox is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._requests or self.has_tick or self._is_closed)
            if self._is_closed:
                return None
            if self._requests:
                return self._requests.popleft()
            tick, self._tick = self._tick, None
            return tick

    def close(self) -> None:
        """Refuse all requests, also those that wait."""
        with self._changed:
            self._is_closed = True
            while self._requests:
                self._requests.popleft().answer.set_exception(MinerwatchError(NOT_RUNNING))
            self._changed.notify_all()
