"""Rules read in a process of their own, while the agent goes on.

Reading all rules takes half a second of CPU and 25 MiB, most of it for pySigma: where the agent
has a small share of a core, that would hold up its ticks for ten seconds. So
rule_loader_child.py reads them in a child that exits when it is done, and returns only what
matching needs.
"""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from minerwatch.detection.matching.matcher import Matcher
from minerwatch.detection.sigma import rulebook
from minerwatch.detection.sigma.rulebook import RuleBook
from minerwatch.errors import RuleError
from minerwatch.node.yara_scan import compile_errors
from minerwatch.worker import Worker

_READ_S = 300.0
"""A child that takes longer hangs, mostly on a file system that does."""
_FIRST_PAUSE_S = 30.0
_LAST_PAUSE_S = 600.0
"""After a child that gave no answer; doubled with each one that follows."""


@dataclass(frozen=True, slots=True)
class RuleSet:
    """The rules in force, ready to match, and what is wrong with the files that they come from."""

    book: RuleBook
    matcher: Matcher
    content_errors: tuple[RuleError, ...]

    @property
    def errors(self) -> tuple[RuleError, ...]:
        """Of all files, YARA's included."""
        return (*self.book.errors, *self.content_errors)


class RuleReading:
    """Reads rules again in the background, when it is asked to.

    ``failures`` counts what went wrong since the start, by reason: ``child`` for readings that
    gave no answer; the rules that were read before then stay in force.
    """

    def __init__(
        self,
        on_done: Callable[[], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        """``on_done`` is called in another thread as soon as ``answer`` has something to say.

        ``on_error`` hears, in any thread, why a reading gave no answer.
        """
        self.failures = {"child": 0}
        self._on_done = on_done
        self._on_error = on_error
        self._checks_content = False
        self._answers: queue.SimpleQueue[RuleSet | None] = queue.SimpleQueue()
        self._is_busy = False
        self._thread = Worker("rules", tuple)
        self._pause_s = _FIRST_PAUSE_S
        self._not_before_s = float("-inf")

    def read(self, folders: Sequence[Path], private: Sequence[Path] = ()) -> RuleSet:
        """All rules, waited for. Where no child can read them, this process does."""
        try:
            book = _read_by_child(tuple(folders), tuple(private), None)
        except (OSError, ValueError) as error:
            self._fail(error)
            book = rulebook.bare(rulebook.load(folders, private))
        return RuleSet(book, Matcher(book.rules), ())

    def check_content(self, read: RuleSet) -> RuleSet:
        """The same with what is wrong with its YARA files, which is found out from now on."""
        self._checks_content = True
        return replace(read, content_errors=tuple(compile_errors(read.book.content)))

    def begin(self, before: RuleSet) -> bool:
        """Reads what has changed since ``before``; whether it begins to.

        It does not while it is at it, nor for some time after it has failed.
        """
        if self._is_busy or time.monotonic() < self._not_before_s:
            return False
        self._is_busy = True
        self._thread = Worker("rules", lambda: self._read_again(before))
        try:
            self._thread.start()
        except RuntimeError as error:  # no thread can be had
            self._thread.close()
            self._is_busy = False
            self._put_off(error)
            return False
        return True

    def answer(self) -> RuleSet | None:
        """The rules that the last reading brought, once; it never waits."""
        try:
            answer = self._answers.get_nowait()
        except queue.Empty:
            return None
        self._is_busy = False
        return answer

    def _read_again(self, before: RuleSet) -> None:
        answer = None
        try:
            answer = self._rule_set(before)
            self._pause_s = _FIRST_PAUSE_S
        except Exception as error:  # noqa: BLE001 - the rules read before stay in force
            self._put_off(error)
        finally:
            self._thread.close()  # it reads once
            self._answers.put(answer)
            self._on_done()

    def _put_off(self, error: Exception) -> None:
        self._fail(error)
        self._not_before_s = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, _LAST_PAUSE_S)

    def _fail(self, error: Exception) -> None:
        self.failures["child"] += 1
        self._on_error(error)

    def _rule_set(self, before: RuleSet) -> RuleSet:
        book = _read_by_child(before.book.folders, before.book.private, before.book)
        content_errors = before.content_errors
        if self._checks_content and book.content_stamps != before.book.content_stamps:
            content_errors = tuple(compile_errors(book.content))
        return RuleSet(book, Matcher(book.rules), content_errors)


def _read_by_child(
    folders: tuple[Path, ...], private: tuple[Path, ...], previous: RuleBook | None
) -> RuleBook:
    """Raises OSError or ValueError where there is no answer."""
    question = pickle.dumps((folders, private, previous), pickle.HIGHEST_PROTOCOL)
    command = [sys.executable, "-P", "-m", "minerwatch.agent.rule_loader_child", str(os.getpid())]
    # What this program is made of is found where it was found; -P leaves out the working folder.
    places = {"PYTHONPATH": os.pathsep.join(place for place in sys.path if place)}
    try:
        done = subprocess.run(
            command,
            input=question,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **places},
            start_new_session=True,  # so that Ctrl-C ends the agent, which then ends it
            timeout=_READ_S,
            check=True,
        )
        book = pickle.loads(done.stdout)  # noqa: S301 - from this program's own child
    except (subprocess.SubprocessError, pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"the reader of rules gave no answer: {error}") from error
    if not isinstance(book, RuleBook):
        raise ValueError("the reader of rules gave no rule book")
    return book
