"""SHA-256 of what processes execute: what an investigator looks up first.

/proc/PID/exe opens the very file that runs, also one that was deleted or that another mount hides
(proc_pid_exe(5)). It may lie on a file system that hangs, or that the process serves itself, so it
is read by a child (children/exe_hasher.py) that is killed when its time is over, and left behind if
it cannot even be killed.
"""

from __future__ import annotations

import os
import re
import select
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from minerwatch.model import ProcessId
from minerwatch.node.confined import CONFINED

MAX_FILE_BYTES = 512 << 20
_MAX_PROCESSES = 32
_MAX_DYING = 4
_PIECE_BYTES = 4096
_MAX_PRINTED_BYTES = 64 << 10
_FAREWELL_S = 0.2
_HASHER = Path(__file__).parent / "children" / "exe_hasher.py"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MAX_ANSWER_CHARS = 100  # a digest has 64


class ExecutableHasher:
    """For one thread at a time."""

    def __init__(self, proc: str = "/proc", *, deadline_s: float = 10.0) -> None:
        """``deadline_s`` is for one call of ``digests``; one file may take a third of it."""
        self._proc = proc
        self._deadline_s = deadline_s
        self._dying: list[subprocess.Popen[bytes]] = []

    def digests(self, processes: Sequence[ProcessId]) -> dict[ProcessId, str]:
        """The digest of what each of ``processes`` executes, or ``- `` and why there is none.

        At most 32 are asked for; what did not come in time is missing.
        """
        self._dying = [child for child in self._dying if child.poll() is None]
        if not processes or len(self._dying) >= _MAX_DYING:
            return {}
        asked = {str(process.pid): process for process in processes[:_MAX_PROCESSES]}
        until_s = time.monotonic() + self._deadline_s
        found: dict[ProcessId, str] = {}
        left = list(asked)
        while left and len(self._dying) < _MAX_DYING and time.monotonic() < until_s:
            lines, has_hung = self._printed(
                [f"{pid}:{asked[pid].start_ticks}" for pid in left], until_s
            )
            for line in lines.decode("utf-8", "replace").splitlines():
                pid, _, answer = line.partition(" ")
                if pid in left:
                    left.remove(pid)
                    if _is_answer(answer):
                        found[asked[pid]] = answer[:_MAX_ANSWER_CHARS]
            left = left[1:] if has_hung else []  # one that hangs does not hide the next
        return found

    def _printed(self, words: list[str], until_s: float) -> tuple[bytes, bool]:
        """Return what the child said, in whole lines, and whether it was killed since it hung."""
        command = [*CONFINED, "-I", str(_HASHER), self._proc, str(MAX_FILE_BYTES), *words]
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
            )
        except OSError:
            return b"", False
        assert child.stdout is not None  # noqa: S101 - it was asked for
        printed = bytearray()
        has_hung = False
        with child.stdout as answers:
            readable = select.poll()
            readable.register(answers, select.POLLIN)
            while True:
                left_s = min(until_s - time.monotonic(), self._deadline_s / 3)
                if not readable.poll(max(0.0, left_s) * 1000):
                    has_hung = True
                    break
                piece = os.read(answers.fileno(), _PIECE_BYTES)
                printed += piece
                if not piece or len(printed) > _MAX_PRINTED_BYTES:
                    break
        child.kill()
        try:
            child.wait(_FAREWELL_S)
        except subprocess.TimeoutExpired:
            self._dying.append(child)
        return bytes(printed[: printed.rfind(b"\n") + 1]), has_hung


def _is_answer(answer: str) -> bool:
    return answer.startswith("- ") or _DIGEST.fullmatch(answer) is not None
