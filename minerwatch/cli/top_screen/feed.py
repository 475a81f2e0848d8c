"""Threads that poll and wait: an agent that hangs neither stops the screen nor delays its end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeVar

from minerwatch.cli.top_screen.sources import Watched
from minerwatch.errors import MinerwatchError
from minerwatch.view.screen.poll import Poll

T = TypeVar("T")


async def in_thread(work: Callable[[], T]) -> T:
    """Return the result of ``work``, done in a daemon thread; Textual's own would be joined."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def finish(result: T | None, error: Exception | None) -> None:
        if future.done():  # cancelled meanwhile
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def do() -> None:
        result, failure = None, None
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 - the caller shows it
            failure = error
        with suppress(RuntimeError):  # the screen is closed
            loop.call_soon_threadsafe(finish, result, failure)

    threading.Thread(target=do, name="work", daemon=True).start()
    return await future


def reason_of(error: Exception) -> str:
    """Return why something failed, for people: our own errors are sentences."""
    return str(error) if isinstance(error, MinerwatchError) else f"{type(error).__name__}: {error}"


class Feed:
    """Delivers every poll as it comes, until it is closed."""

    def __init__(self, watched: Watched, deliver: Callable[[Poll], None]) -> None:
        """``deliver`` is called from the feed's thread."""
        self._watched = watched
        self._deliver = deliver
        self._last: Poll | None = None
        self._turn = threading.Event()
        self._is_paused = False
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def start(self) -> None:
        """Start polling."""
        self._thread.start()

    def hurry(self) -> None:
        """Poll again at once."""
        self._turn.set()

    def pause(self, *, is_paused: bool) -> None:
        """Stop polling, or go on at once."""
        self._is_paused = is_paused
        if not is_paused:
            self._turn.set()

    def close(self) -> None:
        """Stop polling; the poll in progress is not waited for."""
        self._is_closed = True
        self._turn.set()

    def _run(self) -> None:
        while not self._is_closed:
            if not self._is_paused:
                self._poll()
            self._turn.wait(None if self._is_paused else self._watched.refresh_s)
            self._turn.clear()
        self._watched.close()

    def _poll(self) -> None:
        try:
            for poll in self._watched.polls():
                if self._is_closed:
                    return
                self._last = poll
                self._deliver(poll)
        except Exception as error:  # noqa: BLE001 - the screen survives it, and shows it
            last = self._last or Poll((), datetime.now(UTC))
            self._deliver(replace(last, failure=reason_of(error), progress=None))
