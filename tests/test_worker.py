from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from minerwatch import worker
from minerwatch.worker import Worker, revive_all
from tests.waiting import PATIENCE_S, until


class Squares:
    """A worker that squares numbers, and falls over what is none."""

    def __init__(self) -> None:
        self.asked: queue.SimpleQueue[object] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.worker = Worker("squares", self._serve, first_pause_s=0.01, last_pause_s=0.02)

    def _serve(self) -> None:
        while (number := self.asked.get()) is not None:
            if isinstance(number, BaseException):
                raise number
            assert isinstance(number, int)
            self.answers.put(number * number)

    def close(self) -> None:
        self.worker.close()
        self.asked.put(None)
        self.worker.join(PATIENCE_S)


@pytest.fixture
def squares() -> Iterator[Squares]:
    squares = Squares()
    squares.worker.start()
    yield squares
    squares.close()
    assert not squares.worker.is_alive()
    assert all(state.name != "squares" for state in revive_all())


def state() -> worker.WorkerState:
    return next(state for state in revive_all() if state.name == "squares")


@pytest.mark.parametrize(
    "error", [ValueError("x"), MemoryError(), SystemExit(), KeyboardInterrupt(), RecursionError()]
)
def test_it_goes_on_whatever_is_raised(squares: Squares, error: BaseException) -> None:
    squares.asked.put(3)
    squares.asked.put(error)
    squares.asked.put(4)
    assert [squares.answers.get(timeout=PATIENCE_S) for _ in range(2)] == [9, 16]
    assert state().failures == {type(error).__name__: 1}
    assert isinstance(state().last_error, Exception)


def test_a_fault_is_seen_until_it_has_gone_on_for_some_time(
    squares: Squares,
) -> None:
    assert state().down_s == 0.0
    squares.asked.put(ValueError())
    squares.asked.put(5)
    squares.answers.get(timeout=PATIENCE_S)
    assert state().down_s > 0.0
    assert squares.worker.state(time.monotonic() + 61.0).down_s == 0.0


def test_what_returns_though_nobody_closed_it_is_called_again(squares: Squares) -> None:
    squares.asked.put(None)
    squares.asked.put(6)
    assert squares.answers.get(timeout=PATIENCE_S) == 36
    assert state().down_s > 0.0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_is_gone_is_started_again(
    squares: Squares, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even counting the error worked: out of memory, say."""

    class Unspeakable(BaseException):
        def __repr__(self) -> str:
            raise SystemExit  # which threading takes for a wanted end

    squares.asked.put(Unspeakable())
    until(lambda: not squares.worker.is_alive())

    def none_left(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)
    assert state().is_dead
    assert state().down_s > 0.0
    monkeypatch.undo()
    squares.asked.put(7)
    assert not state().is_dead
    assert squares.answers.get(timeout=PATIENCE_S) == 49


def test_workers_of_one_name_are_one_line(squares: Squares) -> None:
    other = Squares()
    other.worker.start()
    for each in (squares, other):
        each.asked.put(ValueError())
        each.asked.put(1)
        each.answers.get(timeout=PATIENCE_S)
    assert [each.failures for each in revive_all() if each.name == "squares"] == [{"ValueError": 2}]
    other.close()


_WITHOUT = {
    "cli/top_screen/feed.py": "of the screen, not of the agent",
    "kube/fleet.py": "of a command that asks all agents",
    "worker.py": "the one",
}
"""Modules that start a thread by themselves, and why they may."""


def test_every_thread_of_the_agent_is_a_worker() -> None:
    package = Path(worker.__file__).parent
    starting = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if re.search(r"\bThread[()]", path.read_text())
    }
    assert starting == _WITHOUT.keys()
