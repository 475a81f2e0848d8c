"""A queue of processes to examine, between the tick and the thread that reads them."""

from __future__ import annotations

import queue
import threading
import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

from minerwatch.fair_queue import FairQueue
from minerwatch.model import ProcessId
from minerwatch.node.guarded_child import GuardedChild, GuardedProgram
from minerwatch.node.proc_files import living_task_path
from minerwatch.worker import Worker

Answer = TypeVar("Answer")

MAX_PENDING_PER_OWNER = 32
_JOIN_S = 1.0


class Question(NamedTuple):
    """A process to examine, and the container or pod that it belongs to."""

    process: ProcessId
    owner: Hashable


class Questions:
    """Pending questions, by round robin over their owners; safe to use from several threads.

    Each owner has a few at most, so that one with thousands of processes delays the others by one
    question at a time. A question beyond that is refused and not kept: put it again later.
    """

    def __init__(self) -> None:
        self._pending: dict[ProcessId, Hashable] = {}
        self._count_of: Counter[Hashable] = Counter()
        self._waiting: FairQueue[Question] = FairQueue()
        self._changed = threading.Condition()
        self._is_woken = False

    def __len__(self) -> int:
        return len(self._pending)

    def __contains__(self, process: ProcessId) -> bool:
        return process in self._pending

    def put(self, process: ProcessId, owner: Hashable) -> bool:
        """Add a question, unless it is pending; return False if it is refused."""
        with self._changed:
            if process in self._pending:
                return True
            if self._count_of[owner] >= MAX_PENDING_PER_OWNER:
                return False
            self._pending[process] = owner
            self._count_of[owner] += 1
            self._waiting.push(owner, Question(process, owner))
            self._changed.notify()
            return True

    def pop(self, timeout_s: float | None = None) -> Question | None:
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
            if process not in self._pending:
                return
            owner = self._pending.pop(process)
            self._count_of[owner] -= 1
            if not self._count_of[owner]:
                del self._count_of[owner]

    def wake(self) -> None:
        """Make one ``pop`` return None, now or at its next call."""
        with self._changed:
            self._is_woken = True
            self._changed.notify()


class QueuedReader(Generic[Answer]):
    """A source that reads one process after another in a thread; its callers never wait.

    ``failures`` counts by reason since the start; ``crowded``: questions refused because their
    owner has too many pending.
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
        is_pending = self.questions.put(process, owner)
        self.failures["crowded"] += not is_pending
        return is_pending

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


class ChildReader(QueuedReader[Answer]):
    """Base of readers whose child looks at one process at a time.

    The child is killed when there is nothing left to do. ``failures`` counts besides ``crowded``:
    ``timeout``, looks that took too long or hung; ``child``, children that exited or answered
    nonsense. What hung a look is left alone for a while.
    """

    def __init__(
        self, name: str, proc: str, program: GuardedProgram, idle_s: float, *reasons: str
    ) -> None:
        """``idle_s``: the child's life without questions."""
        super().__init__("timeout", "child", *reasons)
        self._proc = proc
        self._program = program
        self._idle_s = idle_s
        self._avoided: dict[Hashable, float] = {}  # process or container -> until then
        self._closing = threading.Event()
        self._thread = Worker(name, self._serve).start()

    def close(self) -> None:
        """End child and thread; do not wait for either if it hangs."""
        self._closing.set()
        super().close()
        self._program.kill()
        self._thread.join(_JOIN_S)

    # In the thread.

    @abstractmethod
    def _child(self, owner: Hashable) -> GuardedChild | None:
        """Return a child that is ready; None: there is none now. Raises as its methods do."""

    @abstractmethod
    def _ask_child(self, child: GuardedChild, process: ProcessId, task_path: str) -> Answer | None:
        """Return the answer of ``child``; raises as its methods do."""

    @abstractmethod
    def _failed(self, question: Question, error: Exception) -> Answer | None:
        """Avoid what has broken a look, if need be; return what was found before."""

    def _serve(self) -> None:
        while not self._closing.is_set():
            question = self.questions.pop(self._idle_s if self._program.is_running else None)
            if question is None:
                self._program.discard()
                continue
            answer = None
            try:
                answer = self._answer(question)
            finally:
                self._finish(question.process, answer)
        self._program.close()

    def _answer(self, question: Question) -> Answer | None:
        process, owner = question
        now_s = time.monotonic()
        if any(self._avoided.get(each, 0.0) > now_s for each in (process, owner)):
            return None
        try:
            task_path = self._task_path(process)
        except OSError:
            return None  # it has exited
        try:
            child = self._child(owner)
            if child is None:
                self.failures["child"] += 1
                return None
            return self._ask_child(child, process, task_path)
        except TimeoutError as error:
            self.failures["timeout"] += 1
            self._program.discard(owner)
            return self._failed(question, error)
        except (OSError, ValueError) as error:
            self.failures["child"] += not self._closing.is_set()
            self._program.discard(has_failed=True)
            return self._failed(question, error)

    def _task_path(self, process: ProcessId) -> str:
        """Return the folder that shows a process's memory; raises OSError if it has exited."""
        return living_task_path(self._proc, process.pid)

    def _avoid(self, key: Hashable, for_s: float) -> None:
        now_s = time.monotonic()
        self._avoided = {each: s for each, s in self._avoided.items() if s > now_s}
        self._avoided[key] = now_s + for_s
