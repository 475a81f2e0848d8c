"""Look executables up in the layers of their containers, where the root is an overlay.

A child (children/overlay_reader.py) looks a file up in the layers. Containers take turns; one whose
layers hang is left alone for a while.
"""

from __future__ import annotations

import time
from collections.abc import Hashable

import msgspec

from minerwatch.model import ProcessId
from minerwatch.node.guarded_child import CHILDREN, GuardedChild, GuardedProgram
from minerwatch.node.question_queue import ChildReader, Question

_IDLE_S = 2.0
_START_S = 10.0
_ANSWER_S = 2.0
_STALL_S = 1.0
_AVOIDED_S = 600.0


class LayerAnswer(msgspec.Struct):
    """One line of the child, not trusted."""

    is_in_image: bool | None


class _Question(msgspec.Struct):
    pid: int
    task_path: str
    start_ticks: int


class LayerReader(ChildReader[LayerAnswer]):
    """Look executables up in the layers of their containers, one at a time, in a thread."""

    def __init__(self, proc: str = "/proc", *, program: GuardedProgram | None = None) -> None:
        program = program or GuardedProgram(CHILDREN / "overlay_reader.py", proc)
        super().__init__("drift", proc, program, _IDLE_S)

    def _child(self, owner: Hashable) -> GuardedChild | None:
        child = self._program.child(owner)
        return child if child and child.has_started(time.monotonic() + _START_S) else None

    def _ask_child(
        self, child: GuardedChild, process: ProcessId, task_path: str
    ) -> LayerAnswer | None:
        until_s = time.monotonic() + _ANSWER_S
        child.send(_Question(process.pid, task_path, process.start_ticks), until_s)
        return child.receive(LayerAnswer, until_s, _STALL_S)

    def _failed(self, question: Question, error: Exception) -> None:
        if isinstance(error, TimeoutError):
            self._avoid(question.owner, _AVOIDED_S)
