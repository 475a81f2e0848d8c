"""Programs that are nobody's children: what the agent itself has started is never stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from minerwatch.model import ProcessId


def identity(pid: int) -> ProcessId:
    """Of a process that is there; raises OSError where it is not."""
    stat = Path(f"/proc/{pid}/stat").read_bytes()
    return ProcessId(pid, int(stat.rpartition(b")")[2].split()[19]))


def children(pid: int) -> list[int]:
    """Of a process that is there; raises OSError where it is not."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Orphan:
    """A running program whose parent has ended; killed with its children by ``close``."""

    def __init__(
        self,
        command: Sequence[str],
        output: Path = Path("/dev/null"),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        shell = subprocess.Popen(
            ["sh", "-c", 'out=$1; shift; "$@" >"$out" 2>&1 & echo $!', "sh", str(output), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
            env=environment,
        )
        assert shell.stdout is not None
        self._group = shell.pid
        self._output = output
        self.pid = int(shell.stdout.readline())
        shell.stdout.close()
        shell.wait()

    @property
    def process(self) -> ProcessId:
        """Its identity; raises OSError where it has ended."""
        return identity(self.pid)

    def family(self) -> list[ProcessId]:
        """Itself and all that it and its children have started, as far as it is there."""
        found: list[ProcessId] = []
        pids = [self.pid]
        while pids:
            pid = pids.pop()
            with suppress(OSError):
                found.append(identity(pid))
                pids += children(pid)
        return found

    @property
    def said(self) -> str:
        """What it has written so far, to standard output and standard error."""
        return self._output.read_text() if self._output.exists() else ""

    @property
    def is_running(self) -> bool:
        """Return True if it is there and has not ended."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_bytes()
        except OSError:
            return False
        return stat.rpartition(b")")[2].split()[0] not in (b"Z", b"X")

    def wait(self, timeout_s: float) -> None:
        """Until it has ended; raises TimeoutError."""
        until_s = time.monotonic() + timeout_s
        while self.is_running:
            if time.monotonic() > until_s:
                raise TimeoutError
            time.sleep(0.01)

    def close(self) -> None:
        """Ends it, and whatever it has started in its process group."""
        with suppress(ProcessLookupError):
            os.killpg(self._group, signal.SIGKILL)

    def __enter__(self) -> Orphan:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
