"""Looks again and again, in threads of their own: whoever hangs does not hang the screen."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeVar

from minerwatch.cli.top_screen.look import Look
from minerwatch.cli.top_screen.sources import Watched
from minerwatch.errors import MinerwatchError

T = TypeVar("T")

Then = Callable[[T | Exception], None]


def in_background(work: Callable[[], T], then: Then[T], name: str) -> threading.Thread:
    """Does ``work`` in a thread that nobody waits for; ``then`` gets its result, from there."""

    def do() -> None:
        try:
            result: T | Exception = work()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is shown
            result = error
        then(result)

    thread = threading.Thread(target=do, name=name, daemon=True)
    thread.start()
    return thread


def reason_of(error: Exception) -> str:
    """Why something failed, as people are told: our own errors are sentences."""
    return str(error) if isinstance(error, MinerwatchError) else f"{type(error).__name__}: {error}"


class Feed:
    """Hands every look on as it comes, until it is closed."""

    def __init__(self, watched: Watched, deliver: Callable[[Look], None]) -> None:
        """``deliver`` is called from the feed's thread."""
        self._watched = watched
        self._deliver = deliver
        self._last: Look | None = None
        self._turn = threading.Event()
        self._is_paused = False
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def start(self) -> None:
        """Looks for the first time."""
        self._thread.start()

    def hurry(self) -> None:
        """Looks again at once."""
        self._turn.set()

    def pause(self, *, is_paused: bool) -> None:
        """Looks no more, or again."""
        self._is_paused = is_paused
        if not is_paused:
            self._turn.set()

    def close(self) -> None:
        """Looks no more; what is under way is not waited for."""
        self._is_closed = True
        self._turn.set()

    def _run(self) -> None:
        while not self._is_closed:
            if not self._is_paused:
                self._look()
            self._turn.wait(None if self._is_paused else self._watched.refresh_s)
            self._turn.clear()
        self._watched.close()

    def _look(self) -> None:
        try:
            for look in self._watched.looks():
                if self._is_closed:
                    return
                self._last = look
                self._deliver(look)
        except Exception as error:  # noqa: BLE001 - the screen outlives whatever a look meets
            last = self._last or Look((), datetime.now(UTC))
            self._deliver(replace(last, failure=reason_of(error), progress=None))
