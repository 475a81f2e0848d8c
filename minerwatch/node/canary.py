"""A harmless process that a shipped rule finds, so that the agent can prove that it would see one.

It waits for the end of its standard input and does nothing else. Its pipe ends with whoever planted
it, so none is ever left behind. rules/identity/canary.yml finds its last argument.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress

WORD = "minerwatch-canary"
"""What the rule looks for in a command line; anybody may plant it."""

RULE = "2f6d4b0e-8f7b-4c27-9d0a-c0a4d1e5b0a7"
"""The rule's id."""

EVERY_S = 600.0
"""An agent plants one this often."""

STAYS_S = 60.0
"""It is taken away after so long at the latest: what is not seen by then is not seen."""

_COMMAND = (sys.executable, "-I", "-S", "-c", "import sys; sys.stdin.read()", WORD)


class Canary:
    """At most one such process, in the cgroup of whoever plants it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._planted_s = float("-inf")

    @property
    def pid(self) -> int | None:
        """Of the process that is there now."""
        return self._process.pid if self._process is not None else None

    def tend(self, at_s: float) -> None:
        """Plants one when it is time, and takes away one that nobody saw. Raises OSError."""
        if self._process is not None and at_s - self._planted_s >= STAYS_S:
            self.remove()
        if at_s - self._planted_s >= EVERY_S:
            self._planted_s = at_s
            self.plant()

    def plant(self) -> None:
        """Starts the process. Raises OSError."""
        self.remove()
        self._process = subprocess.Popen(
            _COMMAND, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def remove(self) -> None:
        """Ends the process, if there is one."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        if process.stdin is not None:
            with suppress(OSError):
                process.stdin.close()
