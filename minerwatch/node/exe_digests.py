"""SHA-256 of the executables of processes, for the evidence of an action.

/proc/PID/exe opens the file that runs, even if it was deleted or another mount hides it
(proc_pid_exe(5)). It may lie on a file system that hangs or that the process serves itself, so a
child (children/exe_hasher.py) reads it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

import msgspec

from minerwatch.model import ProcessId
from minerwatch.node.guarded_child import CHILDREN, GuardedProgram
from minerwatch.untrusted_text.display import printable

DEFAULT_MAX_FILE_BYTES = 512 << 20
_MAX_PROCESSES = 32
_MAX_REASON_CHARS = 98
_DIGEST = re.compile(r"[0-9a-f]{64}")


class HasherAnswer(msgspec.Struct):
    """One line of the child, not trusted."""

    digest: str = ""
    reason: str = ""

    def text(self) -> str | None:
        """Return the digest, or ``- `` and the reason; None for anything else."""
        if self.reason:
            return f"- {printable(self.reason, _MAX_REASON_CHARS)}"
        return self.digest if _DIGEST.fullmatch(self.digest) else None


class ExecutableHasher:
    """Hash executables in a child; for one thread at a time."""

    def __init__(
        self,
        proc: str = "/proc",
        *,
        deadline_s: float = 10.0,
        max_file_bytes: int = DEFAULT_MAX_FILE_BYTES,
        program: GuardedProgram | None = None,
    ) -> None:
        """``deadline_s``: for one call of ``digests``; one file may take a third of it."""
        self._deadline_s = deadline_s
        self._program = program or GuardedProgram(
            CHILDREN / "exe_hasher.py", proc, str(max_file_bytes)
        )

    def digests(self, processes: Sequence[ProcessId]) -> dict[ProcessId, str]:
        """Return the digest of each executable, or ``- `` and the reason why there is none.

        Only the first 32 processes are read; one with a late or malformed answer is left out.
        """
        until_s = time.monotonic() + self._deadline_s
        found: dict[ProcessId, str] = {}
        for process in processes[:_MAX_PROCESSES]:
            try:
                if (child := self._program.child()) is None or not child.has_started(until_s):
                    break
                late_s = min(until_s, time.monotonic() + self._deadline_s / 3)
                child.send({"pid": process.pid, "start_ticks": process.start_ticks}, late_s)
                text = child.receive(HasherAnswer, late_s).text()
            except TimeoutError:
                self._program.discard()  # the next process gets another child
            except (OSError, ValueError):
                self._program.discard(has_failed=True)
            else:
                if text is not None:
                    found[process] = text
        self._program.close()
        return found
