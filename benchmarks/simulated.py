"""An agent on a simulated clock, for benchmarks/whole.py; it imports what an agent does, no more.

    python -m benchmarks.simulated CONFIGURATION [--untuned]

Its own loop runs, only that it does not wait: where it would, the clock is put on. Between two
ticks it prints how many milliseconds the garbage collector took, all in all and at most at once,
and goes on when it is given a line. ``--untuned``: without what ``agent.memory`` does.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path

from minerwatch.agent.daemon import Agent, Runtime
from minerwatch.agent.heap import HeapKeeper, keep_heap_small
from minerwatch.agent.monitor import now_s
from minerwatch.agent.scheduling import Readable, Wake
from minerwatch.config.reader import load
from minerwatch.report.log import logger

_MIN_S = 0.001
"""A clock that is put on by next to nothing stands still: so small a number is lost in the sum."""


class _Clock:
    """Stands still until it is put on."""

    def __init__(self) -> None:
        self._put_on_s = 0.0
        self._began_s = now_s()

    def now_s(self) -> float:
        return self._began_s + self._put_on_s

    def put_on(self, seconds: float) -> None:
        self._put_on_s += seconds


class _Collector:
    """What the garbage collector took since it was last asked."""

    def __init__(self) -> None:
        self._began_s = 0.0
        self._taken_s: list[float] = []
        gc.callbacks.append(self._note)

    def taken_ms(self) -> tuple[float, float]:
        """In all, and at most at once."""
        taken_s, self._taken_s = self._taken_s, []
        return sum(taken_s) * 1000, max(taken_s, default=0.0) * 1000

    def _note(self, phase: str, _info: dict[str, int]) -> None:
        if phase == "start":
            self._began_s = time.thread_time()
        else:
            self._taken_s.append(time.thread_time() - self._began_s)


class _Waiting(Wake):
    """Where the agent would wait it asks once whether it may go on, then the clock is put on."""

    def __init__(self, clock: _Clock) -> None:
        super().__init__()
        self._clock = clock
        self._collector = _Collector()
        self.has_asked = False

    def wait(self, timeout_s: float, source: Readable | None) -> bool:
        if super().wait(0.0, source):
            return True
        if not self.has_asked:
            self.has_asked = True
            print(*self._collector.taken_ms(), flush=True)
            if not sys.stdin.readline():
                sys.exit()
            return super().wait(0.0, source)
        self._clock.put_on(max(timeout_s, _MIN_S))
        return False


class _AskingAgent(Agent):
    """Asks whether it may go on once between two ticks."""

    waiting: _Waiting

    def tick(self) -> None:
        self.waiting.has_asked = False
        super().tick()


class _UntunedHeap(HeapKeeper):
    """Leaves heap and garbage collector as they are."""

    def tend(self, at_s: float) -> None:
        pass


def _forget_pods_by(clock: _Clock) -> None:
    """Pods that are gone are remembered for a minute: of this clock, or all of an hour's are."""
    from minerwatch.kube import pod_cache, pods

    class Cache(pod_cache.PodCache):
        def __init__(self, _now_s: Callable[[], float], remembered_s: float) -> None:
            super().__init__(clock.now_s, remembered_s)

    pods.PodCache = Cache  # type: ignore[assignment, attr-defined]


def main() -> None:
    config = load(Path(sys.argv[1]))
    heap: HeapKeeper = _UntunedHeap()
    if "--untuned" not in sys.argv:
        heap = HeapKeeper()
        keep_heap_small()
    clock = _Clock()
    waiting = _Waiting(clock)
    if config.kubernetes.enabled:
        _forget_pods_by(clock)
    runtime = Runtime(now_s=clock.now_s, wake=waiting, heap=heap)
    agent = _AskingAgent(config, logger(as_json=True), runtime=runtime)
    agent.waiting = waiting
    try:
        agent.run()
    finally:
        agent.close()


if __name__ == "__main__":
    main()
