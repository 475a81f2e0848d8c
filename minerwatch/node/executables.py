"""SHA-256 of what processes execute: what an investigator looks up first.

/proc/PID/exe opens the very file that runs, also one that was deleted or that another mount hides
(proc_pid_exe(5)). It may lie on a file system that hangs, or that the process serves itself, so it
is read by a child (executable_hasher.py) that is killed when its time is over, and left behind if
it cannot even be killed.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from minerwatch.model import ProcessId
from minerwatch.node.confined import CONFINED

MAX_FILE_BYTES = 512 << 20
_MAX_PROCESSES = 32
_MAX_DYING = 4
_HASHER = Path(__file__).with_name("executable_hasher.py")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MAX_REASON_CHARS = 100


class ExecutableHasher:
    """For one thread at a time."""

    def __init__(self, proc: str = "/proc", *, deadline_s: float = 10.0) -> None:
        """``deadline_s`` is for one call of ``digests``."""
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
        lines = self._printed([f"{pid}:{each.start_ticks}" for pid, each in asked.items()])
        found: dict[ProcessId, str] = {}
        for line in lines.decode("utf-8", "replace").splitlines():
            pid, _, answer = line.partition(" ")
            if pid in asked and _is_answer(answer):
                found[asked[pid]] = answer[: _MAX_REASON_CHARS if answer[0] == "-" else None]
        return found

    def _printed(self, words: list[str]) -> bytes:
        command = [*CONFINED, "-I", str(_HASHER), self._proc, str(MAX_FILE_BYTES), *words]
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError:
            return b""
        try:
            printed, _ = child.communicate(timeout=self._deadline_s)
        except subprocess.TimeoutExpired as error:
            child.kill()
            if child.stdout is not None:
                child.stdout.close()
            self._dying.append(child)
            printed = error.output or b""
        return bytes(printed)


def _is_answer(answer: str) -> bool:
    return answer.startswith("- ") or _DIGEST.fullmatch(answer) is not None
