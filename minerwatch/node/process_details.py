"""Details of processes and of the machine for people, read by psutil: too slow for every tick."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass

import psutil

from minerwatch.model import MachineTotals


@dataclass(frozen=True, slots=True)
class ProcessDetails:
    """Memory, threads and open files of a process; None: the kernel did not permit reading it."""

    memory_bytes: int | None  # resident
    threads: int | None
    open_files: int | None  # file descriptors


def process_details(pid: int, comm: str) -> ProcessDetails | None:
    """Return the details of ``pid``, or None if it exited or has another name than ``comm``."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            if process.name()[: len(comm)] != comm:
                return None
            memory_bytes = threads = open_files = None
            with suppress(psutil.AccessDenied):
                memory_bytes = process.memory_info().rss
                threads = process.num_threads()
                open_files = process.num_fds()
    except (psutil.Error, OSError):
        return None
    return ProcessDetails(memory_bytes, threads, open_files)


def machine_totals() -> MachineTotals:
    """Return the totals of this machine."""
    memory = psutil.virtual_memory()
    return MachineTotals(
        cores=psutil.cpu_count() or 1,
        load_1m=os.getloadavg()[0],
        memory_bytes=memory.total,
        memory_used_bytes=memory.total - memory.available,
    )
