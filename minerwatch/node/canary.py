"""A harmless process that a shipped rule finds, to prove that the agent would find a miner.

It only waits for the end of its standard input. That pipe closes when the process that planted it
exits, so none is left behind. rules/identity/canary.yml finds its last argument.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress

WORD = "minerwatch-canary"
"""The word that the rule finds in a command line; any user may plant it."""

RULE = "2f6d4b0e-8f7b-4c27-9d0a-c0a4d1e5b0a7"
"""The rule's id."""

_EVERY_S = 600.0
_MAX_AGE_S = 60.0
"""A canary that has not been found by then is removed."""

_COMMAND = (sys.executable, "-I", "-S", "-c", "import sys; sys.stdin.read()", WORD)


class Canary:
    """One process at most, in the cgroup of the process that plants it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._planted_s = float("-inf")

    @property
    def pid(self) -> int | None:
        """Return the pid of the process, if there is one."""
        return self._process.pid if self._process is not None else None

    def tend(self, at_s: float) -> None:
        """Plant one when it is time, and remove one that was not found. Raises OSError."""
        if self._process is not None and at_s - self._planted_s >= _MAX_AGE_S:
            self.remove()
        if at_s - self._planted_s >= _EVERY_S:
            self._planted_s = at_s
            self.plant()

    def plant(self) -> None:
        """Start the process. Raises OSError."""
        self.remove()
        self._process = subprocess.Popen(
            _COMMAND, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def remove(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        if process.stdin is not None:
            with suppress(OSError):
                process.stdin.close()
