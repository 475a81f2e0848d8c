"""Names of the YARA rules that match in a process's code: its program, libraries, generated code.

The scanning is done by children/yara_scanner.py in a child that ends when nothing is left; the
agent itself never loads YARA-X. A thread waits for the child, one process at a time, and nobody
waits for the thread: an answer comes when it comes. Containers take turns.

A process can hang its reader: it can hold its own memory lock, and its executable may lie on a file
system that it serves itself. A child that gets no further is killed. One that cannot even be killed
is left behind, and nothing more is scanned of the container that it hangs in; with a few of those,
nothing is scanned until one of them has ended.
"""

from __future__ import annotations

import os
import queue
import re
import select
import subprocess
import time
from collections.abc import Hashable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from minerwatch.errors import NOT_JSON, RuleError
from minerwatch.model import ProcessId
from minerwatch.node.confined import CONFINED
from minerwatch.node.live_thread import living_place
from minerwatch.node.question_queue import Question, Questions
from minerwatch.worker import Worker

_MAX_RULE_FILE_BYTES = 1 << 20
_MAX_LINE_BYTES = 64 << 10
_MAX_LINES = 10_000
_MAX_NAMES = 64
_MAX_DYING = 4

_IDLE_S = 2.0
_STALLED_S = 10.0
"""A child that uses no CPU for so long hangs; one that merely gets little of it goes on."""
_MOST_S = 120.0
_COMPILE_S = 60.0
_STEP_S = 0.5
_FAREWELL_S = 1.0
_AVOIDED_S = 1800.0
"""How long a process that hung its scan is left alone: otherwise a few could hold up all others."""
_OWNER_AVOIDED_S = 60.0
"""And its whole container, so that one with many such processes costs others 10 s a minute."""

_SCANNER = Path(__file__).parent / "children" / "yara_scanner.py"
_RULE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_FAILURES = ("unreadable", "permission", "too_large", "timeout", "child", "crowded", "rules")
_TOLD_FAILURES = frozenset(("unreadable", "permission", "too_large", "timeout"))


class ContentReader:
    """Scans the code of processes in a short-lived child, one process at a time.

    ``failures`` counts what went wrong since the start, by reason: ``permission`` and
    ``unreadable`` for what could not be read, ``too_large`` for what was read in part,
    ``timeout`` for scans that took too long or hung, ``child`` for scanners that ended or talked
    nonsense, or hang in a container for good, ``crowded`` for questions that were refused since
    their container has too many open, ``rules`` for rule files that are broken: what such a file
    held before stays in force.
    """

    def __init__(self, proc: str, rule_files: Sequence[Path]) -> None:
        self.failures = dict.fromkeys(_FAILURES, 0)
        self._proc = proc
        self._questions = Questions()
        self._answers: queue.SimpleQueue[tuple[ProcessId, tuple[str, ...] | None]]
        self._answers = queue.SimpleQueue()
        self._avoided: dict[Hashable, float] = {}  # processes and containers, until when
        self._dying: list[_Child] = []
        self._child: _Child | None = None
        self._is_closed = False
        self._rules = _Rules(rule_files, None)
        self._thread = Worker("content", self._serve).start()

    def ask(self, process: ProcessId, owner: Hashable = None) -> bool:
        """Want to know of ``process`` of the container ``owner``; False: ask again later.

        A question that is still open is not asked again.
        """
        is_open = self._questions.put(process, owner)
        self.failures["crowded"] += not is_open
        return is_open

    def answers(self) -> dict[ProcessId, tuple[str, ...] | None]:
        """Names of the rules that matched, of what was asked; it never waits.

        None: the process could not be scanned.
        """
        found: dict[ProcessId, tuple[str, ...] | None] = {}
        while not self._answers.empty():
            process, names = self._answers.get()
            self._questions.close(process)
            found[process] = names
        return found

    def use(self, rule_files: Sequence[Path]) -> None:
        """Puts the rules of ``rule_files`` in force, as the files are now."""
        self._rules = _Rules(rule_files, self._rules)

    def close(self) -> None:
        """Ends child and thread; it does not wait for what cannot be ended."""
        self._is_closed = True
        self._thread.close()
        self._questions.wake()
        child = self._child
        if child is not None:
            child.kill()
        self._thread.join(_FAREWELL_S)

    # In the thread.

    def _serve(self) -> None:
        rules = self._rules
        while not self._is_closed:
            question = self._questions.take(None if self._child is None else _IDLE_S)
            if question is None:
                self._end_child()
                continue
            if rules is not self._rules:
                rules = self._rules
                self._avoided.clear()
                self._end_child()
            names = None
            try:
                names = self._scanned(question, rules)
                if rules is not self._rules:  # it was scanned by rules of the past: ask again
                    names = None
            finally:
                self._answers.put((question.process, names))
        self._end_child()

    def _scanned(self, question: Question, rules: _Rules) -> tuple[str, ...] | None:
        process, owner = question
        until_s = max(self._avoided.get(process, 0.0), self._avoided.get(owner, 0.0))
        if until_s > time.monotonic():
            return None
        names: dict[str, None] = {}
        try:
            child = self._started(owner, rules)
            if child is None or not self._scan(child, process, names):
                return None
        except TimeoutError:
            self.failures["timeout"] += 1
        except Exception:  # noqa: BLE001 - whatever the child said, the thread goes on
            self.failures["child"] += not self._is_closed
        else:
            return tuple(names)
        self._avoid(process, owner)
        self._end_child(owner)
        return tuple(names) or None

    def _started(self, owner: Hashable, rules: _Rules) -> _Child | None:
        """The child that is there, or a new one; None while too many do not end."""
        self._dying = [each for each in self._dying if not each.has_ended()]
        if len(self._dying) >= _MAX_DYING or any(each.hung_in == owner for each in self._dying):
            self.failures["child"] += 1
            return None
        if self._child is None:
            self._child = _Child()
            if self._is_closed:  # close() may have seen no child yet
                self._child.kill()
            self.failures["rules"] += rules.given_to(self._child)
        return self._child

    def _scan(self, child: _Child, process: ProcessId, names: dict[str, None]) -> bool:
        """Fills ``names``; whether the process was there all the time."""
        try:
            place = living_place(self._proc, process.pid)
        except OSError:
            return False
        child.put(_Question(self._proc, process.pid, place, process.start_ticks))
        until_s = time.monotonic() + _MOST_S
        for _ in range(_MAX_LINES):
            told = child.told(until_s)
            name = _RULE_NAME.fullmatch(told.name or "")
            if name and len(names) < _MAX_NAMES:
                names[name[0]] = None
            if told.is_there is not None:
                break
        else:
            raise ValueError("it does not come to an end")
        for reason in _TOLD_FAILURES.intersection(told.failures):
            self.failures[reason] += 1
        return told.is_there

    def _avoid(self, process: ProcessId, owner: Hashable) -> None:
        now_s = time.monotonic()
        self._avoided = {each: s for each, s in self._avoided.items() if s > now_s}
        self._avoided[process] = now_s + _AVOIDED_S
        if owner is not None:
            self._avoided[owner] = now_s + _OWNER_AVOIDED_S

    def _end_child(self, hung_in: Hashable = None) -> None:
        if self._child is not None:
            self._child.end()
            self._child.hung_in = hung_in
            self._dying.append(self._child)
            self._child = None
        self._dying = [each for each in self._dying if not each.has_ended()]


def compile_errors(rule_files: Sequence[Path]) -> list[RuleError]:
    """What is wrong with YARA files, at most one error a file; it waits for a child to say so."""
    rules = _Rules(rule_files, None)
    child = _Child()
    try:
        rules.given_to(child)
    except (OSError, *NOT_JSON) as error:
        reason = f"the rules' compiler ended: {error or type(error).__name__}"
        return [RuleError(path, 1, reason) for path in rule_files[:1]]
    finally:
        child.end()
    return list(rules.errors)


# Rules.


class _Rules:
    """The text of rule files, as they were when this was made."""

    def __init__(self, paths: Sequence[Path], before: _Rules | None) -> None:
        self.errors: tuple[RuleError, ...] = ()
        self._good = before.last_good() if before else {}
        self._texts: dict[Path, str] = {}
        self._unreadable: list[RuleError] = []
        self._is_checked = False
        for path in paths:
            try:
                self._texts[path] = _text(path)
            except RuleError as error:
                self._unreadable.append(error)
                self._texts[path] = self._good.get(path, "")

    def last_good(self) -> dict[Path, str]:
        """What each file held when it last compiled; what nobody has compiled yet may."""
        return self._good if self._is_checked else {**self._texts, **self._good}

    def given_to(self, child: _Child) -> int:
        """The number of broken files, when this is found out for the first time."""
        paths = list(self._texts)
        pairs = [(self._texts[path], self._good.get(path, "")) for path in paths]
        child.put(_Setup(pairs))
        told = child.told(time.monotonic() + _COMPILE_S)
        if told.broken is None:
            raise ValueError("no answer on rules")
        if self._is_checked:
            return 0
        self._is_checked = True
        broken = {
            paths[number]: RuleError(paths[number], max(1, line), reason[:500])
            for number, line, reason in told.broken
            if 0 <= number < len(paths)
        }
        self._good |= {path: text for path, text in self._texts.items() if path not in broken}
        self.errors = (*self._unreadable, *broken.values())
        return len(self.errors)


def _text(path: Path) -> str:
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


# The child, and what is said to it and by it.


class _Setup(msgspec.Struct):
    rules: list[tuple[str, str]]  # text, and what the file held when it was last good


class _Question(msgspec.Struct):
    proc: str
    pid: int
    place: str  # below ``proc``, where its memory is reached
    start_ticks: int


class _Told(msgspec.Struct):
    """One line of the child's; which one shows by what is there."""

    broken: list[tuple[int, int, str]] | None = None
    name: str | None = None
    is_there: bool | None = None
    failures: list[str] = []


class _Child:
    """Runs children/yara_scanner.py. It handles what attackers wrote, so it is not trusted."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [*CONFINED, "-I", _SCANNER, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,  # so that Ctrl-C ends the agent, which then ends it
        )
        self._received = bytearray()
        self.hung_in: Hashable = None  # the container of the process that it could not get on with

    @property
    def pid(self) -> int:
        return self._process.pid

    def put(self, message: msgspec.Struct) -> None:
        """Sends a line; TimeoutError where the child does not take it."""
        rest = memoryview(msgspec.json.encode(message) + b"\n")
        stdin = self._stdin
        os.set_blocking(stdin, False)
        writable = select.poll()
        writable.register(stdin, select.POLLOUT)
        until_s = time.monotonic() + _COMPILE_S
        while rest:
            if time.monotonic() > until_s:
                raise TimeoutError
            if writable.poll(_STEP_S * 1000):
                with suppress(BlockingIOError):
                    rest = rest[os.write(stdin, rest) :]

    def told(self, until_s: float) -> _Told:
        """The next line; TimeoutError if it takes too long, ValueError if it is nonsense."""
        readable = select.poll()
        readable.register(self._stdout, select.POLLIN)
        cpu = self._cpu()
        moved_s = time.monotonic()
        while (end := self._received.find(b"\n")) < 0:
            if len(self._received) > _MAX_LINE_BYTES:
                raise ValueError("a line without an end")
            if readable.poll(_STEP_S * 1000):
                received = os.read(self._stdout, _MAX_LINE_BYTES)
                if not received:
                    raise OSError("the scanner ended")
                self._received += received
                continue
            now_s = time.monotonic()
            if (cpu_now := self._cpu()) != cpu:
                cpu, moved_s = cpu_now, now_s
            if now_s > until_s or now_s - moved_s > _STALLED_S:
                raise TimeoutError
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return msgspec.json.decode(line, type=_Told)

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        """Kills it; it is waited for in a moment, or later by ``has_ended``."""
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_FAREWELL_S)

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def _cpu(self) -> bytes:
        """Something that changes as long as it gets anywhere."""
        try:
            with open(f"/proc/{self.pid}/stat", "rb", buffering=0) as file:  # noqa: PTH123
                return b" ".join(file.read(4096).rpartition(b")")[2].split()[11:13])
        except OSError:
            return b""

    @property
    def _stdin(self) -> int:
        assert self._process.stdin is not None  # noqa: S101 - it was asked for
        return self._process.stdin.fileno()

    @property
    def _stdout(self) -> int:
        assert self._process.stdout is not None  # noqa: S101 - it was asked for
        return self._process.stdout.fileno()
