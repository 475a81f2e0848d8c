"""Threads that restart after unforeseen errors, and report their state.

A thread that ends by an exception takes its queue with it, and its callers wait forever while all
looks well. So each of the agent's threads is a Worker: its exceptions are counted, and it starts
again after a pause that doubles. ``revive_all`` restarts those that have no thread, and returns the
state of all.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from minerwatch.backoff import Backoff

_FIRST_PAUSE_S = 0.1
_LAST_PAUSE_S = 60.0
_STEADY_S = 60.0
"""Time without a failure after which a worker counts as recovered."""

_MAX_REASONS = 64

_workers: weakref.WeakSet[Worker] = weakref.WeakSet()
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class WorkerState:
    """State of the workers of one name."""

    name: str
    down_s: float  # since it failed; 0.0: it works, or has worked for a minute since
    is_dead: bool  # it has no thread, and none can be started
    failures: Mapping[str, int]  # exception name -> count since the start
    last_error: Exception | None  # for the log


class Worker:
    """Runs ``work`` in a thread until it returns after ``close``.

    ``work`` waits for its tasks and returns when it is asked to end. It is called again if it
    raises, or returns before ``close``; callers must not wait for tasks that it left unfinished.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], object],
        *,
        first_pause_s: float = _FIRST_PAUSE_S,
        last_pause_s: float = _LAST_PAUSE_S,
    ) -> None:
        self.name = name
        self.failures: dict[str, int] = {}
        self.last_error: Exception | None = None
        self._work = work
        self._backoff = Backoff(first_pause_s, last_pause_s)
        self._closing = threading.Event()
        self._began_s: float | None = None  # start of the current run; None during a pause
        self._down_since_s: float | None = None
        self._is_dead = False
        self._thread: threading.Thread | None = None

    def start(self) -> Worker:
        """Start the thread. Raises RuntimeError if none can be started."""
        with _lock:
            _workers.add(self)
        self._start()
        return self

    def close(self) -> None:
        """Do not call ``work`` again once it returns or raises."""
        self._closing.set()
        with _lock:
            _workers.discard(self)

    def join(self, timeout_s: float | None = None) -> None:
        """Wait for the thread to end, at most for ``timeout_s``."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def is_alive(self) -> bool:
        """Return True if the thread exists, also during a pause."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def native_id(self) -> int | None:
        """Return the kernel's thread ID."""
        return self._thread.native_id if self._thread is not None else None

    def revive(self) -> None:
        """Start the thread again if it has ended before ``close``."""
        if self._closing.is_set() or self._thread is None or self.is_alive():
            return
        if self._down_since_s is None:
            self._down_since_s = time.monotonic()
        try:
            self._start()
        except RuntimeError as error:
            self._count_failure(error)
            self._is_dead = True

    def state(self, now_s: float) -> WorkerState:
        """Return the state at ``now_s``, on the monotonic clock."""
        since_s, began_s = self._down_since_s, self._began_s
        if self._thread is not None and not self.is_alive():
            since_s = since_s if since_s is not None else now_s
        elif began_s is not None and now_s - began_s >= _STEADY_S:
            since_s = None
        down_s = 0.0 if since_s is None else max(now_s - since_s, 0.001)
        return WorkerState(self.name, down_s, self._is_dead, dict(self.failures), self.last_error)

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        thread.start()
        self._thread = thread
        self._is_dead = False

    def _run(self) -> None:
        while not self._closing.is_set():
            self._began_s = began_s = time.monotonic()
            try:
                self._work()
            except BaseException as error:  # noqa: BLE001 - the thread must survive
                self._count_failure(error)
            if self._closing.is_set():
                return
            now_s, self._began_s = time.monotonic(), None
            if now_s - began_s >= _STEADY_S:
                self._backoff.reset()
                self._down_since_s = None
            if self._down_since_s is None:
                self._down_since_s = now_s
            self._closing.wait(self._backoff.next_s())

    def _count_failure(self, error: BaseException) -> None:
        reason = type(error).__name__
        if reason in self.failures or len(self.failures) < _MAX_REASONS:
            self.failures[reason] = self.failures.get(reason, 0) + 1
        self.last_error = error if isinstance(error, Exception) else RuntimeError(repr(error))


def revive_all() -> list[WorkerState]:
    """Restart dead workers, then return the states of all workers of this process by name."""
    with _lock:
        workers = [*_workers]
    now_s = time.monotonic()
    by_name: dict[str, WorkerState] = {}
    for worker in workers:
        worker.revive()
        state = worker.state(now_s)
        other = by_name.get(state.name)
        by_name[state.name] = _worse(state, other) if other is not None else state
    return [by_name[name] for name in sorted(by_name)]


def _worse(one: WorkerState, other: WorkerState) -> WorkerState:
    reasons = {*one.failures, *other.failures}
    return WorkerState(
        one.name,
        max(one.down_s, other.down_s),
        one.is_dead or other.is_dead,
        {each: one.failures.get(each, 0) + other.failures.get(each, 0) for each in reasons},
        one.last_error or other.last_error,
    )
