"""Waiting in tests so that a busy machine makes them slow, not wrong.

A test waits for what it is about, or for CPU time that a process has used; never for a time on the
wall after which something "must have" happened. What cannot be written so is marked ``quiet``.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

PATIENCE_S = 240.0
"""Seconds of waiting after which a test fails."""

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_BUSY_TASKS_PER_CPU = 2.0
"""The tests themselves keep about one task for each CPU running: one worker each."""


def until(
    holds: Callable[[], T],
    what: str | Callable[[], object] = "it did not happen",
    *,
    every_s: float = 0.01,
    limit_s: float = PATIENCE_S,
) -> T:
    """Return the first true answer of ``holds``; fails, saying ``what``, if there is none."""
    end_s = time.monotonic() + limit_s
    while not (answer := holds()):
        if time.monotonic() >= end_s:
            raise AssertionError(f"{what() if callable(what) else what} ({limit_s:g} s)")
        time.sleep(every_s)
    return answer


def cpu_s(pid: int) -> float:
    """CPU time of a process and its threads so far; 0.0 if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def until_burnt(pid: int, seconds: float) -> None:
    """Wait until a process has used so much more CPU time."""
    goal_s = cpu_s(pid) + seconds
    until(lambda: cpu_s(pid) >= goal_s, f"{pid} did not use {seconds:g} s of CPU time")


def until_run(process: subprocess.Popen[bytes]) -> None:
    """Wait until the program of ``process`` is mapped: Popen() returns a little earlier."""
    stat = Path(f"/proc/{process.pid}/stat")
    until(
        lambda: (
            process.poll() is not None
            or stat.read_text(errors="replace").rpartition(")")[2].split()[23] != "0"
        )
    )


def threads() -> frozenset[threading.Thread]:
    """Threads of this process, those that other tests have left among them."""
    return frozenset(threading.enumerate())


def threads_since(before: Collection[threading.Thread], name: str = "") -> set[threading.Thread]:
    """Threads, of that name unless it is empty, that are there now and were not before."""
    return {each for each in threads().difference(before) if name in ("", each.name)}


def why_not_quiet(running: Iterable[int] | None = None) -> str:
    """Return why this machine is too busy for what needs a quiet one; "" if it is not.

    ``running`` are counts of tasks that want to run, instead of this machine's.
    """
    cpus = len(os.sched_getaffinity(0))
    counts = sorted(_running_tasks() if running is None else running)
    usual = counts[len(counts) // 2]
    if usual <= _BUSY_TASKS_PER_CPU * cpus:
        return ""
    return f"{usual} tasks want to run on {cpus} CPUs"


def _running_tasks(count: int = 15, every_s: float = 0.02) -> Iterator[int]:
    """Tasks that run or wait for a CPU (proc_loadavg(5)), without this one."""
    for _ in range(count):
        yield int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0]) - 1
        time.sleep(every_s)
