"""This process as a suspect."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from time import sleep

from minerwatch.model import ProcessId
from minerwatch.probes.probe import Suspect


def me() -> ProcessId:
    stat = Path("/proc/self/stat").read_text()
    return ProcessId(os.getpid(), int(stat.rpartition(")")[2].split()[19]))


def suspect(
    process: ProcessId, program: tuple[int, int, int] = (1, 2, 3), *, is_settled: bool = True
) -> Suspect:
    return Suspect(process, program, is_settled)


def always() -> bool:
    return True


def until(holds: Callable[[], bool]) -> None:
    for _ in range(1000):
        if holds():
            return
        sleep(0.01)
    raise AssertionError("it did not happen")
