"""The place in /proc of a process whose first thread may have ended."""

from __future__ import annotations

import os
from itertools import islice

_MAX_THREADS = 1024
_STAT_BYTES = 4096
_ENDED = b"ZX"  # proc_pid_stat(5)


def living_place(proc: str, pid: int) -> str:
    """Find the folder below ``proc`` to read a process's memory by: ``PID`` or ``PID/task/TID``.

    A first thread that has ended while others run on is a zombie without memory; the files of any
    other thread show it (proc_pid_task(5)). Raises OSError where the process is gone.
    """
    if not _has_ended(f"{proc}/{pid}"):
        return str(pid)
    with os.scandir(f"{proc}/{pid}/task") as entries:
        for entry in islice(entries, _MAX_THREADS):
            try:
                if not _has_ended(f"{proc}/{pid}/task/{entry.name}"):
                    return f"{pid}/task/{entry.name}"
            except OSError:
                continue  # it has ended meanwhile
    return str(pid)


def _has_ended(folder: str) -> bool:
    fd = os.open(f"{folder}/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, _STAT_BYTES).rpartition(b") ")[2][:1] in _ENDED
    finally:
        os.close(fd)
