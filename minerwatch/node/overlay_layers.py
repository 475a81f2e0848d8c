"""Look executables up in the layers of their containers, where the root is an overlay.

A child (children/overlay_reader.py) looks a file up in the layers and is killed when there is
nothing left to ask. Containers take turns; one whose layers hang is left alone for a while.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable

import msgspec

from minerwatch.node.guarded_child import CHILDREN, GuardedProgram
from minerwatch.node.proc_files import living_place
from minerwatch.node.question_queue import Question, QueuedReader
from minerwatch.worker import Worker

_IDLE_S = 2.0
_START_S = 10.0
_ANSWER_S = 2.0
_STALL_S = 1.0
_AVOIDED_S = 600.0
_JOIN_S = 1.0


class LayerAnswer(msgspec.Struct):
    """One line of the child, not trusted."""

    is_in_image: bool | None


class _Question(msgspec.Struct):
    pid: int
    place: str
    start_ticks: int


class LayerReader(QueuedReader[LayerAnswer]):
    """Look executables up in the layers of their containers, one at a time, in a thread.

    ``failures`` counts besides ``crowded``: ``timeout``, layers that hang; ``child``, readers that
    exited or answered nonsense.
    """

    def __init__(self, proc: str = "/proc", *, program: GuardedProgram | None = None) -> None:
        super().__init__("timeout", "child")
        self._proc = proc
        self._program = program or GuardedProgram(CHILDREN / "overlay_reader.py", proc)
        self._avoided: dict[Hashable, float] = {}
        self._closing = threading.Event()
        self._thread = Worker("overlay layers", self._serve).start()

    def close(self) -> None:
        """End child and thread; do not wait for either if it hangs."""
        self._closing.set()
        self._thread.close()
        self.questions.wake()
        self._program.kill()
        self._thread.join(_JOIN_S)

    # In the thread.

    def _serve(self) -> None:
        while not self._closing.is_set():
            question = self.questions.take(_IDLE_S if self._program.is_running else None)
            if question is None:
                self._program.discard()
                continue
            answer = None
            try:
                answer = self._answer(question)
            finally:
                self._finish(question.process, answer)
        self._program.close()

    def _answer(self, question: Question) -> LayerAnswer | None:
        process, owner = question
        now_s = time.monotonic()
        if self._avoided.get(owner, 0.0) > now_s:
            return None
        try:
            place = living_place(self._proc, process.pid)
        except OSError:
            return None  # it has exited
        try:
            child = self._program.child(owner)
            if child is None or not child.has_started(now_s + _START_S):
                self.failures["child"] += 1
                return None
            until_s = time.monotonic() + _ANSWER_S
            child.send(_Question(process.pid, place, process.start_ticks), until_s)
            return child.receive(LayerAnswer, until_s, _STALL_S)
        except TimeoutError:
            self.failures["timeout"] += 1
            self._program.discard(owner)
            self._avoided = {each: s for each, s in self._avoided.items() if s > now_s}
            self._avoided[owner] = now_s + _AVOIDED_S
        except (OSError, ValueError):
            self.failures["child"] += not self._closing.is_set()
            self._program.discard(has_failed=True)
        return None
