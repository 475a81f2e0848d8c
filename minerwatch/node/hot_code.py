"""Name what the code computes that runs hot in a process, from addresses that were sampled in it.

A child (children/hot_code_scanner.py) reads the pages and matches rules, one process at a time. It
exits when there is nothing to do, and the agent itself sees no code. Containers take turns.
"""

from __future__ import annotations

import re
import time
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from minerwatch.model import ProcessId
from minerwatch.node.guarded_child import CHILDREN, GuardedChild, GuardedProgram
from minerwatch.node.proc_files import living_task_path
from minerwatch.node.question_queue import Question
from minerwatch.node.yara_scan import MAX_NAMES, RULE_NAME, CodeReader

SCANNER = CHILDREN / "hot_code_scanner.py"
MAX_ADDRESSES = 256

_ANSWER_S = 30.0
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
    task_path: str  # below ``proc``: its memory is read through this process or thread
    pid: int
    start_ticks: int
    addresses: list[tuple[int, int]]  # and how often each was sampled


class HotCodeReader(CodeReader[HotCodeFindings]):
    """Look at the hot code of processes in a short-lived child."""

    name = "hot_code"

    def __init__(
        self,
        proc: str,
        rule_files: Sequence[Path],
        *,
        program: GuardedProgram | None = None,
        idle_s: float = 2.0,
        stall_s: float = 5.0,
    ) -> None:
        self._addresses: dict[ProcessId, list[tuple[int, int]]] = {}
        self._tids: dict[ProcessId, int] = {}
        program = program or GuardedProgram(SCANNER, needs_packages=True)
        super().__init__(proc, rule_files, program, idle_s, stall_s)

    def ask(
        self,
        process: ProcessId,
        owner: Hashable = None,
        addresses: Mapping[int, int] = MappingProxyType({}),
        tid: int = 0,
    ) -> bool:
        """Queue a look at the code at ``addresses``, with counts; False: refused, ask again.

        ``tid``: a thread that ran lately, by which memory is read if the first one has exited.
        """
        if process not in self.questions:
            ranked = sorted(addresses.items(), key=lambda each: -each[1])
            self._addresses[process] = ranked[:MAX_ADDRESSES]
            self._tids[process] = tid
        if super().ask(process, owner):
            return True
        self._forget(process)
        return False

    def _answer(self, question: Question) -> HotCodeFindings | None:
        try:
            return super()._answer(question)
        finally:
            self._forget(question.process)

    def _forget(self, process: ProcessId) -> None:
        self._addresses.pop(process, None)
        self._tids.pop(process, None)

    def _task_path(self, process: ProcessId) -> str:
        return living_task_path(self._proc, process.pid, self._tids.get(process, 0))

    def _ask_child(
        self, child: GuardedChild, process: ProcessId, task_path: str
    ) -> HotCodeFindings | None:
        until_s = time.monotonic() + _ANSWER_S
        addresses = self._addresses.get(process, [])
        child.send(_Look(self._proc, task_path, *process, addresses), until_s)
        answer = child.receive(HotCodeAnswer, until_s, self._stall_s)
        return answer.findings() if answer.is_there else None

    def _failed(self, question: Question, error: Exception) -> None:
        if isinstance(error, TimeoutError):
            self._avoid(question.owner, _AVOIDED_S)
