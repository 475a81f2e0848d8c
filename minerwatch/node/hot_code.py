"""Name what the code computes that runs hot in a process, from addresses that were sampled in it.

A child (children/hot_code_scanner.py) reads the pages and matches rules, one process at a time. It
exits when there is nothing to do, and the agent itself sees no code. Containers take turns.
"""

from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from minerwatch.model import ProcessId
from minerwatch.node.guarded_child import CHILDREN, GuardedChild, GuardedProgram
from minerwatch.node.proc_files import living_place
from minerwatch.node.question_queue import Question, Questions
from minerwatch.node.yara_scan import MAX_NAMES, RULE_NAME, RuleTexts
from minerwatch.worker import Worker

SCANNER = CHILDREN / "hot_code_scanner.py"
MAX_ADDRESSES = 256

_ANSWER_S = 30.0
_JOIN_S = 1.0
_AVOIDED_S = 600.0
"""A container in which a look hung is left alone for so long."""
_MAX_FINGERPRINTS = 4
_FINGERPRINT = re.compile(r"[0-9a-f]{32}")


class HotCodeFindings(NamedTuple):
    """Names of the rules that matched; hashes of hot pages, and those of files not in the image."""

    names: tuple[str, ...] = ()
    fingerprints: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()


class HotCodeAnswer(msgspec.Struct):
    """One line of the child, not trusted."""

    is_there: bool
    names: list[str] = []
    fingerprints: list[str] = []
    foreign: list[str] = []

    def findings(self) -> HotCodeFindings:
        """Return what has the form of names and fingerprints."""
        return HotCodeFindings(
            tuple(each for each in self.names if RULE_NAME.fullmatch(each))[:MAX_NAMES],
            _fingerprints(self.fingerprints),
            _fingerprints(self.foreign),
        )


def _fingerprints(values: Sequence[str]) -> tuple[str, ...]:
    return tuple(each for each in values if _FINGERPRINT.fullmatch(each))[:_MAX_FINGERPRINTS]


class _Look(msgspec.Struct):
    """A question to the child."""

    proc: str
    place: str  # below ``proc``: its memory is read through this process or thread
    pid: int
    start_ticks: int
    addresses: list[tuple[int, int]]  # and how often each was sampled


class HotCodeReader:
    """Look at the hot code of processes in a short-lived child.

    ``failures`` counts by reason since the start: ``hot timeout`` (looks that took too long or
    hung), ``hot child`` (scanners that exited, answered nonsense or cannot be killed).
    """

    def __init__(
        self,
        proc: str,
        rule_files: Sequence[Path],
        *,
        program: GuardedProgram | None = None,
        idle_s: float = 2.0,
        stall_s: float = 5.0,
    ) -> None:
        """``idle_s``: the child's life without questions; ``stall_s``: without any progress."""
        self.failures = dict.fromkeys(("hot timeout", "hot child"), 0)
        self._proc = proc
        self._program = program or GuardedProgram(SCANNER, needs_packages=True)
        self._idle_s = idle_s
        self._stall_s = stall_s
        self._questions = Questions()
        self._addresses: dict[ProcessId, list[tuple[int, int]]] = {}
        self._answers: queue.SimpleQueue[tuple[ProcessId, HotCodeFindings | None]]
        self._answers = queue.SimpleQueue()
        self._avoided: dict[Hashable, float] = {}
        self._closing = threading.Event()
        self._rules = RuleTexts(rule_files)
        self._thread = Worker("hot code", self._serve).start()

    def ask(self, process: ProcessId, owner: Hashable, addresses: Mapping[int, int]) -> bool:
        """Queue a look at the code at ``addresses``, with counts; False: refused, ask again."""
        if process not in self._questions:
            ranked = sorted(addresses.items(), key=lambda each: -each[1])
            self._addresses[process] = ranked[:MAX_ADDRESSES]
        if self._questions.put(process, owner):
            return True
        self._addresses.pop(process, None)
        return False

    def answers(self) -> dict[ProcessId, HotCodeFindings | None]:
        """Return the findings of looks that finished; None: the code could not be read."""
        found: dict[ProcessId, HotCodeFindings | None] = {}
        while not self._answers.empty():
            process, findings = self._answers.get()
            self._questions.close(process)
            found[process] = findings
        return found

    def use(self, rule_files: Sequence[Path]) -> None:
        """Put the rules of ``rule_files`` in force, as the files are now."""
        self._rules = RuleTexts(rule_files, self._rules)

    def close(self) -> None:
        """End child and thread; do not wait for either if it hangs."""
        self._closing.set()
        self._thread.close()
        self._questions.wake()
        self._program.kill()
        self._thread.join(_JOIN_S)

    # In the thread.

    def _serve(self) -> None:
        rules = self._rules
        while not self._closing.is_set():
            question = self._questions.take(self._idle_s if self._program.is_running else None)
            if question is None:
                self._program.discard()
                continue
            if rules is not self._rules:
                rules = self._rules
                self._program.discard()
            findings = None
            try:
                findings = self._look(question, rules)
            finally:
                self._answers.put((question.process, findings))
        self._program.close()

    def _look(self, question: Question, rules: RuleTexts) -> HotCodeFindings | None:
        process, owner = question
        addresses = self._addresses.pop(process, [])
        if self._avoided.get(owner, 0.0) > time.monotonic():
            return None
        try:
            place = living_place(self._proc, process.pid)
        except OSError:
            return None  # it has exited
        try:
            child = self._child_with(rules, owner)
            if child is None:
                self.failures["hot child"] += 1
                return None
            until_s = time.monotonic() + _ANSWER_S
            child.send(_Look(self._proc, place, *process, addresses), until_s)
            answer = child.receive(HotCodeAnswer, until_s, self._stall_s)
        except TimeoutError:
            self.failures["hot timeout"] += 1
            self._program.discard(owner)
            self._avoid(owner)
            return None
        except (OSError, ValueError):
            self.failures["hot child"] += not self._closing.is_set()
            self._program.discard(has_failed=True)
            return None
        return answer.findings() if answer.is_there else None

    def _child_with(self, rules: RuleTexts, owner: Hashable) -> GuardedChild | None:
        """Return the child, with ``rules`` compiled; None if too many killed ones remain."""
        self._closing.wait(self._program.backoff_s)
        is_new = not self._program.is_running
        child = self._program.child(owner)
        if self._closing.is_set():  # close() may have seen no child yet
            self._program.kill()
        if child is not None and is_new:
            rules.compile_in(child)
        return child

    def _avoid(self, owner: Hashable) -> None:
        now_s = time.monotonic()
        self._avoided = {each: s for each, s in self._avoided.items() if s > now_s}
        self._avoided[owner] = now_s + _AVOIDED_S
