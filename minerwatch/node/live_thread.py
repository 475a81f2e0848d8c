"""The folder in /proc of a living thread of a process: its first thread may have exited."""

from __future__ import annotations

import os
from itertools import islice

from minerwatch.node.proc_files import STAT_BYTES, read_once

_MAX_THREADS = 1024
_EXITED = b"ZX"  # proc_pid_stat(5)


def living_place(proc: str, pid: int) -> str:
    """Return the folder below ``proc`` that shows a process's memory: ``PID`` or ``PID/task/TID``.

    A first thread that has exited while others run on is a zombie without memory; the files of any
    other thread show it (proc_pid_task(5)). Raises OSError if the process is gone.
    """
    if not _has_exited(f"{proc}/{pid}"):
        return str(pid)
    with os.scandir(f"{proc}/{pid}/task") as entries:
        for entry in islice(entries, _MAX_THREADS):
            try:
                if not _has_exited(f"{proc}/{pid}/task/{entry.name}"):
                    return f"{pid}/task/{entry.name}"
            except OSError:
                continue  # exited meanwhile
    return str(pid)


def _has_exited(folder: str) -> bool:
    return read_once(f"{folder}/stat", STAT_BYTES).rpartition(b") ")[2][:1] in _EXITED
