"""This process as a suspect."""

from __future__ import annotations

import os
from pathlib import Path

from minerwatch.model import ProcessId
from minerwatch.probes.base import Suspect


def me() -> ProcessId:
    stat = Path("/proc/self/stat").read_text()
    return ProcessId(os.getpid(), int(stat.rpartition(")")[2].split()[19]))


def suspect(
    process: ProcessId,
    program: int = 123,
    *,
    is_for_all_probes: bool = True,
    is_due: bool = True,
) -> Suspect:
    return Suspect(process, program, is_for_all_probes, is_due=is_due)


def always() -> bool:
    return True
