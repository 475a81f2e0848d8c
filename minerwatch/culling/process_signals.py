"""Stops, continues and ends single processes: exactly the one that is meant, or none.

A pid may be used again between the decision and the signal. So a pidfd is opened first
(pidfd_open(2), Linux 5.3), then the start time is read: if the process that is meant is still
there at that moment, it was there when the pidfd was opened, and the pidfd is its own. What is
sent through the pidfd (pidfd_send_signal(2)) can reach no other process.

SIGSTOP and SIGKILL of an ancestor's pid namespace cannot be caught, blocked or ignored, not even by
the init of a container (pid_namespaces(7)); SIGCONT continues a process also where it is ignored
(signal(7)). To signal other users' processes takes CAP_KILL.
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
STOPPED = "T"
"""The state of a process that SIGSTOP has stopped (proc_pid_stat(5))."""

_OVER = ("", "Z", "X")  # gone, or ended and not yet buried
_STAT_BYTES = 4096
_GONE = frozenset({errno.ESRCH, errno.ENOENT})
_STATE, _START = 0, 19  # of the fields behind the name: 3 and 22 of proc_pid_stat(5)


class SignalError(MinerwatchError):
    """A process that could not be signalled; it is as it was."""


@dataclass(frozen=True, slots=True)
class Hits:
    """What became of the processes that were to be signalled."""

    hit: tuple[ProcessId, ...] = ()
    gone: tuple[ProcessId, ...] = ()  # ended before; whoever has the pid now was left alone
    failed: tuple[tuple[ProcessId, str], ...] = ()  # and why


def send_all(processes: tuple[ProcessId, ...], number: signal.Signals | None) -> Hits:
    """Signal each of ``processes`` that is still the same; None only asks whether it may be done.

    No failure keeps the others from being signalled.
    """
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
    """The state of ``process``, one letter as in proc_pid_stat(5); "" if it is no more."""
    found = read_stat(process.pid, proc)
    return found[0] if found is not None and found[1] == process.start_ticks else ""


def is_own_proc(proc: Path) -> bool:
    """Whether the pids in ``proc`` are those that this process may signal."""
    try:
        return os.readlink(proc / "self") == str(os.getpid())  # noqa: PTH115 - one word, no path
    except OSError:
        return False


def _send(process: ProcessId, number: signal.Signals | None) -> bool:
    """Whether it was there, and is signalled now. Raises SignalError."""
    if process.pid <= 1 or process.pid == os.getpid():
        raise SignalError(f"process {process.pid} is not one to be signalled")
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError as error:
        if error.errno in _GONE:
            return False
        raise SignalError(_in_words(error)) from error
    try:
        if state(process) in _OVER:
            return False
        signal.pidfd_send_signal(pidfd, number or 0)
    except OSError as error:
        if error.errno in _GONE:
            return False
        raise SignalError(_in_words(error)) from error
    finally:
        with suppress(OSError):
            os.close(pidfd)
    return True


def _in_words(error: OSError) -> str:
    if error.errno == errno.ENOSYS:
        return "this kernel has no pidfd_open (Linux 5.3): use evict or delete"
    if error.errno == errno.EPERM:
        return "not permitted: the agent lacks CAP_KILL"
    return error.strerror or repr(error)


def read_stat(pid: int, proc: Path) -> tuple[str, int] | None:
    """State and start time of a process; the name before them may hold anything."""
    try:
        fd = os.open(proc / str(pid) / "stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fields = os.read(fd, _STAT_BYTES).rpartition(b") ")[2].split()
        return fields[_STATE].decode("ascii"), int(fields[_START])
    except (OSError, ValueError, IndexError):
        return None
    finally:
        os.close(fd)
