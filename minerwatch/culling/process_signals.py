"""Stop, continue and kill single processes: exactly the intended one, or none.

A pid may be reused between the decision and the signal. So a pidfd is opened first (pidfd_open(2),
Linux 5.3), then the start time is read: if it is that of the intended process, the process existed
when the pidfd was opened, and the pidfd is its own. A signal sent through the pidfd
(pidfd_send_signal(2)) cannot reach another process.

SIGSTOP and SIGKILL from an ancestor's pid namespace cannot be caught, blocked or ignored, not even
by the init of a container (pid_namespaces(7)). SIGCONT continues a process that ignores it
(signal(7)). Signalling other users' processes requires CAP_KILL.
"""

from __future__ import annotations

import errno
import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from minerwatch.errors import MinerwatchError
from minerwatch.model import ProcessId

PROC = Path("/proc")
STOPPED = "T"  # state of a process stopped by SIGSTOP (proc_pid_stat(5))

_EXITED = ("", "Z", "X")  # gone, zombie or dead
_GONE = frozenset({errno.ESRCH, errno.ENOENT})
_STATE, _START = 0, 19  # indices after the name: fields 3 and 22 of proc_pid_stat(5)


class SignalError(MinerwatchError):
    """A process could not be signalled and is unchanged."""


@dataclass(frozen=True, slots=True)
class Hits:
    """Results of signalling processes."""

    hit: tuple[ProcessId, ...] = ()
    gone: tuple[ProcessId, ...] = ()  # exited before; a reused pid is not signalled
    failed: tuple[tuple[ProcessId, str], ...] = ()  # with the reason


def send_all(processes: tuple[ProcessId, ...], number: signal.Signals | None) -> Hits:
    """Signal each process that still exists; None only checks the permission."""
    hit: list[ProcessId] = []
    gone: list[ProcessId] = []
    failed: list[tuple[ProcessId, str]] = []
    for process in processes:
        try:
            (hit if _send(process, number) else gone).append(process)
        except SignalError as error:
            failed.append((process, str(error)))
    return Hits(tuple(hit), tuple(gone), tuple(failed))


def state(process: ProcessId, proc: Path = PROC) -> str:
    """Return the state letter of ``process`` (proc_pid_stat(5)); "" if it has exited."""
    found = read_stat(process.pid, proc)
    return found[0] if found is not None and found[1] == process.start_ticks else ""


def is_own_proc(proc: Path) -> bool:
    """Return True if ``proc`` shows the pid namespace of this process."""
    try:
        return os.readlink(proc / "self") == str(os.getpid())  # noqa: PTH115 - one word, no path
    except OSError:
        return False


def _send(process: ProcessId, number: signal.Signals | None) -> bool:
    """Signal a process; return False if it has exited. Raises SignalError."""
    if process.pid <= 1 or process.pid == os.getpid():
        raise SignalError(f"process {process.pid} must not be signalled")
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError as error:
        if error.errno in _GONE:
            return False
        raise SignalError(_explanation(error)) from error
    try:
        if state(process) in _EXITED:
            return False
        signal.pidfd_send_signal(pidfd, number or 0)
    except OSError as error:
        if error.errno in _GONE:
            return False
        raise SignalError(_explanation(error)) from error
    finally:
        with suppress(OSError):
            os.close(pidfd)
    return True


def _explanation(error: OSError) -> str:
    if error.errno == errno.ENOSYS:
        return "this kernel has no pidfd_open (Linux 5.3): use evict or delete"
    if error.errno == errno.EPERM:
        return "not permitted: the agent lacks CAP_KILL"
    return error.strerror or repr(error)


def read_stat(pid: int, proc: Path) -> tuple[str, int] | None:
    """Return state and start time of a process; the name before them may contain anything."""
    try:
        fields = (proc / str(pid) / "stat").read_bytes().rpartition(b") ")[2].split()
        return fields[_STATE].decode("ascii"), int(fields[_START])
    except (OSError, ValueError, IndexError):
        return None
