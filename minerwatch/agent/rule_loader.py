"""Loads rules in a child process, at the start and while the agent runs (``rule_updater``).

Loading all rules takes half a second of CPU and 25 MiB, mostly for pySigma: with a small share of
a core that would delay ticks by ten seconds. So rule_loader_child.py loads them in a process that
exits afterwards, and returns only what matching needs.
"""

from __future__ import annotations

import pickle
import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from subprocess import SubprocessError

from minerwatch import __version__
from minerwatch.backoff import Backoff
from minerwatch.detection.matching.matcher import Matcher
from minerwatch.detection.sigma import rulebook
from minerwatch.detection.sigma.rulebook import RuleBook
from minerwatch.errors import RuleError
from minerwatch.node.guarded_child import output_of
from minerwatch.node.yara_scan import compile_errors
from minerwatch.untrusted_text.display import printable
from minerwatch.worker import Worker

_MAX_PAUSE_S = 600.0
_MAX_LOAD_S = 300.0
"""A child that takes longer hangs, mostly on a file system that does."""


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Rules ready to match, and the errors in their files."""

    book: RuleBook
    matcher: Matcher
    content_errors: tuple[RuleError, ...]

    @property
    def errors(self) -> tuple[RuleError, ...]:
        """Errors of all files, YARA's included."""
        return (*self.book.errors, *self.content_errors)


Load = Callable[[tuple[Path, ...], tuple[Path, ...], RuleBook | None], RuleBook]
"""Loads rule folders, private folders and what has changed since an earlier book."""


def load_in_child(
    folders: tuple[Path, ...], private: tuple[Path, ...], previous: RuleBook | None
) -> RuleBook:
    """Load rules in a child. Raises OSError or ValueError if it gives no answer."""
    question = pickle.dumps(__version__)
    question += pickle.dumps((folders, private, previous), pickle.HIGHEST_PROTOCOL)
    try:
        answer = output_of("minerwatch.agent.rule_loader_child", question, max_s=_MAX_LOAD_S)
        book = pickle.loads(answer)  # noqa: S301 - from this program's own child
    except (SubprocessError, pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"the child that loads rules gave no answer: {error}") from error
    if isinstance(book, str):
        raise ValueError(f"version {printable(book, 32)} was installed: restart this agent")
    if not isinstance(book, RuleBook):
        raise ValueError("the child that loads rules returned no rule book")
    return book


class RuleLoader:
    """Loads rules: at the start while the caller waits, later in the background.

    ``failures`` counts errors since the start by reason: ``child`` for loads without an answer,
    after which the earlier rules stay in force.
    """

    def __init__(
        self,
        on_done: Callable[[], None],
        on_error: Callable[[Exception], None],
        *,
        load: Load = load_in_child,
        first_pause_s: float = 30.0,
    ) -> None:
        """``on_done`` is called in another thread as soon as ``answer`` has a result.

        ``on_error`` is called in any thread with the reason why a load gave no answer. The pause
        after it doubles with each one that follows.
        """
        self.failures = {"child": 0}
        self._on_done = on_done
        self._on_error = on_error
        self._load = load
        self._backoff = Backoff(first_pause_s, _MAX_PAUSE_S)
        self._checks_content = False
        self._answers: queue.SimpleQueue[RuleSet | None] = queue.SimpleQueue()
        self._is_busy = False
        self._thread = Worker("rules", tuple)
        self._not_before_s = float("-inf")

    def read(self, folders: Sequence[Path], private: Sequence[Path] = ()) -> RuleSet:
        """Load all rules now; in this process if the child fails."""
        try:
            book = self._load(tuple(folders), tuple(private), None)
        except (OSError, ValueError) as error:
            self._fail(error)
            book = rulebook.bare(rulebook.load(folders, private))
        return RuleSet(book, Matcher(book.rules), ())

    def check_content(self, read: RuleSet) -> RuleSet:
        """Return the rules with the errors of their YARA files, which are checked from now on."""
        self._checks_content = True
        return replace(read, content_errors=tuple(compile_errors(read.book.content)))

    def begin(self, before: RuleSet) -> bool:
        """Begin to load what has changed since ``before``; return False if it must wait.

        It waits for a load under way, and for some time after one that failed.
        """
        if self._is_busy or time.monotonic() < self._not_before_s:
            return False
        self._thread = Worker("rules", lambda: self._load_again(before))
        try:
            self._thread.start()
        except RuntimeError as error:  # no thread can be started
            self._thread.close()
            self._put_off(error)
            return False
        self._is_busy = True
        return True

    def answer(self) -> RuleSet | None:
        """Return the rules of a load that has ended, once; None if there is none yet."""
        try:
            answer = self._answers.get_nowait()
        except queue.Empty:
            return None
        self._is_busy = False
        return answer

    def _load_again(self, before: RuleSet) -> None:
        answer = None
        try:
            answer = self._changed_since(before)
            self._backoff.reset()
        except Exception as error:  # noqa: BLE001 - the earlier rules stay in force
            self._put_off(error)
        finally:
            self._thread.close()  # it loads once
            self._answers.put(answer)
            self._on_done()

    def _changed_since(self, before: RuleSet) -> RuleSet:
        book = self._load(before.book.folders, before.book.private, before.book)
        content_errors = before.content_errors
        if self._checks_content and book.content_stamps != before.book.content_stamps:
            content_errors = tuple(compile_errors(book.content))
        return RuleSet(book, Matcher(book.rules), content_errors)

    def _put_off(self, error: Exception) -> None:
        self._fail(error)
        self._not_before_s = time.monotonic() + self._backoff.next_s()

    def _fail(self, error: Exception) -> None:
        self.failures["child"] += 1
        self._on_error(error)
