"""Scan the code of processes with YARA rules: their programs, libraries and generated code.

A child (children/yara_scanner.py) scans; the agent itself never loads YARA-X. Only the thread of a
reader waits for the child. Containers take turns.

A process can hang its reader: it can hold its own memory lock, or serve the file system of its
executable itself. It is then left alone for a while, and so is its container.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from minerwatch.errors import RuleError
from minerwatch.model import ProcessId
from minerwatch.node.guarded_child import CHILDREN, GuardedChild, GuardedProgram
from minerwatch.node.question_queue import ChildReader, Question

Answer = TypeVar("Answer")

MAX_NAMES = 64
HOT_CODE_ONLY = ".hot"
"""End of the stem of files whose rules are for hot code, and would be false alarms elsewhere."""
RULE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
SCANNER = CHILDREN / "yara_scanner.py"

_MAX_RULE_FILE_BYTES = 1 << 20
_MAX_LINES = 10_000
_MAX_SCAN_S = 120.0
_MAX_COMPILE_S = 60.0
_PROCESS_AVOIDED_S = 1800.0
"""A process that hung its scan is left alone for so long, so that a few cannot delay all others."""
_OWNER_AVOIDED_S = 60.0
"""And so is its container: one with many of these processes costs others 10 s a minute."""

_SCAN_FAILURES = frozenset(("unreadable", "permission", "too_large", "timeout"))


class ScannerAnswer(msgspec.Struct):
    """One line of the child, not trusted; its kind shows by the field that is set."""

    broken: list[tuple[int, int, str]] | None = None
    name: str | None = None
    is_there: bool | None = None
    failures: list[str] = []


class ScanResult(msgspec.Struct):
    """The result of one scan, as far as it came."""

    names: dict[str, None] = {}
    is_there: bool = False
    failures: frozenset[str] = frozenset()

    def collect(self, receive: Callable[[], ScannerAnswer]) -> None:
        """Receive the answers to one scan; raises ValueError if there are too many."""
        for _ in range(_MAX_LINES):
            answer = receive()
            name = RULE_NAME.fullmatch(answer.name or "")
            if name and len(self.names) < MAX_NAMES:
                self.names[name[0]] = None
            if answer.is_there is not None:
                self.is_there = answer.is_there
                self.failures = _SCAN_FAILURES.intersection(answer.failures)
                return
        raise ValueError("the scanner does not come to an end")


class CodeReader(ChildReader[Answer | None]):
    """Base of readers that scan processes by rules.

    An answer is None where a process could not be scanned. ``failures`` counts a further reason,
    ``rules``: broken rule files. The last version that compiled stays in force.
    """

    name: str

    def __init__(
        self,
        proc: str,
        rule_files: Sequence[Path],
        program: GuardedProgram,
        idle_s: float,
        stall_s: float,
        reasons: Iterable[str] = (),
    ) -> None:
        """``idle_s``: the child's life without questions; ``stall_s``: without any progress."""
        self._stall_s = stall_s
        self._rules = self._compiled = RuleTexts(rule_files)
        super().__init__(self.name, proc, program, idle_s, "rules", *reasons)

    def use(self, rule_files: Sequence[Path]) -> None:
        """Put the rules of ``rule_files`` in force, as the files are now."""
        self._rules = RuleTexts(rule_files, self._rules)

    # In the thread.

    def _answer(self, question: Question) -> Answer | None:
        rules = self._rules
        if rules is not self._compiled:
            self._compiled = rules
            self._avoided.clear()
            self._program.discard()
        answer = super()._answer(question)
        return answer if rules is self._rules else None  # scanned by outdated rules: ask again

    def _finish(self, process: ProcessId, answer: Answer | None) -> None:
        self._answers.put((process, answer))

    def _child(self, owner: Hashable) -> GuardedChild | None:
        """Return the child, with the rules compiled; None if too many killed ones remain."""
        self._closing.wait(self._program.backoff_s)
        is_new = not self._program.is_running
        child = self._program.child(owner)
        if self._closing.is_set():  # close() may have seen no child yet
            self._program.kill()
        if child is not None and is_new:
            self.failures["rules"] += self._compiled.compile_in(child)
        return child


class ContentReader(CodeReader[tuple[str, ...]]):
    """Scan the code of processes; an answer has the rules that matched.

    ``failures`` counts further reasons: ``permission``, ``unreadable``: memory that could not be
    read; ``too_large``: memory that was read in part.
    """

    name = "content"

    def __init__(
        self,
        proc: str,
        rule_files: Sequence[Path],
        *,
        program: GuardedProgram | None = None,
        idle_s: float = 2.0,
        stall_s: float = 10.0,
    ) -> None:
        self._result = ScanResult()
        program = program or GuardedProgram(SCANNER, needs_packages=True)
        super().__init__(
            proc, _for_memory(rule_files), program, idle_s, stall_s, reasons=_SCAN_FAILURES
        )

    def use(self, rule_files: Sequence[Path]) -> None:
        """Put the rules of ``rule_files`` in force, as the files are now."""
        super().use(_for_memory(rule_files))

    def _ask_child(
        self, child: GuardedChild, process: ProcessId, task_path: str
    ) -> tuple[str, ...] | None:
        self._result = result = ScanResult()
        end_s = time.monotonic() + _MAX_SCAN_S
        child.send(_Scan(self._proc, process.pid, task_path, process.start_ticks), end_s)
        result.collect(lambda: child.receive(ScannerAnswer, end_s, self._stall_s))
        for reason in result.failures:
            self.failures[reason] += 1
        return tuple(result.names) if result.is_there else None

    def _failed(self, question: Question, error: Exception) -> tuple[str, ...] | None:
        del error
        self._avoid(question.process, _PROCESS_AVOIDED_S)
        if question.owner is not None:
            self._avoid(question.owner, _OWNER_AVOIDED_S)
        return tuple(self._result.names) or None


def _for_memory(rule_files: Iterable[Path]) -> list[Path]:
    """Return the files whose rules are not for hot code only."""
    return [each for each in rule_files if not each.stem.endswith(HOT_CODE_ONLY)]


def compile_errors(rule_files: Sequence[Path]) -> list[RuleError]:
    """Return the errors of YARA files, at most one a file, as a child finds them."""
    rules = RuleTexts(rule_files)
    program = GuardedProgram(SCANNER, needs_packages=True)
    try:
        if child := program.child():
            rules.compile_in(child)
    except (OSError, ValueError) as error:
        reason = f"the rules' compiler failed: {error or type(error).__name__}"
        return [RuleError(path, 1, reason) for path in rule_files[:1]]
    finally:
        program.close()
    return list(rules.errors)


class RuleTexts:
    """The text of rule files, as they were when this was made."""

    def __init__(self, paths: Sequence[Path], before: RuleTexts | None = None) -> None:
        self.errors: tuple[RuleError, ...] = ()
        self._good = before.last_good() if before else {}
        self._texts: dict[Path, str] = {}
        self._unreadable: list[RuleError] = []
        self._is_checked = False
        for path in paths:
            try:
                self._texts[path] = read_rules(path)
            except RuleError as error:
                self._unreadable.append(error)
                self._texts[path] = self._good.get(path, "")

    def last_good(self) -> dict[Path, str]:
        """Return each file's last version that compiled, or that was not compiled yet."""
        return self._good if self._is_checked else {**self._texts, **self._good}

    def compile_in(self, child: GuardedChild) -> int:
        """Have ``child`` compile all; return the number of broken files the first time."""
        paths = list(self._texts)
        until_s = time.monotonic() + _MAX_COMPILE_S
        pairs = [(self._texts[path], self._good.get(path, "")) for path in paths]
        child.send({"rules": pairs}, until_s)
        return self.keep_broken(child.receive(ScannerAnswer, until_s))

    def keep_broken(self, answer: ScannerAnswer) -> int:
        """Keep the errors that a child found; raises ValueError for any other answer."""
        if answer.broken is None:
            raise ValueError("no answer on rules")
        if self._is_checked:
            return 0
        self._is_checked = True
        paths = list(self._texts)
        broken = {
            paths[number]: RuleError(paths[number], max(1, line), reason[:500])
            for number, line, reason in answer.broken
            if 0 <= number < len(paths)
        }
        self._good |= {path: text for path, text in self._texts.items() if path not in broken}
        self.errors = (*self._unreadable, *broken.values())
        return len(self.errors)


def read_rules(path: Path) -> str:
    """Return the text of a rule file; raises RuleError."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_RULE_FILE_BYTES + 1)
        if len(content) > _MAX_RULE_FILE_BYTES:
            raise RuleError(path, 1, "larger than 1 MiB: split it")
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RuleError(path, line, "not UTF-8") from error
    except OSError as error:
        raise RuleError(path, 1, f"cannot be read: {error.strerror}") from error


class _Scan(msgspec.Struct):
    """A question to the child."""

    proc: str
    pid: int
    task_path: str  # below ``proc``: its memory is read through this process or thread
    start_ticks: int
