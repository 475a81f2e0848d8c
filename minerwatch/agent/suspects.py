"""Chooses the processes that probes look at."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from minerwatch.agent.tracked import TrackedContainer
from minerwatch.config.schema import Examination
from minerwatch.fair_queue import interleaved
from minerwatch.probes.base import Suspect


def suspects_in(
    hot: Iterable[TrackedContainer], examination: Examination, limit: int
) -> list[Suspect]:
    """Return processes with a finding or a high CPU rate: the busiest of each owner in turn."""
    suspects: list[tuple[float, Suspect]] = []
    for container in hot:
        found = {finding.process for finding in container.verdict.findings}
        for process in container.measured_processes():
            if process.cpu is None:
                continue
            cores, identity = process.cpu.cores or 0.0, process.process.id
            has_finding = bool(process.matches) or identity in found
            if has_finding or cores >= examination.suspect_cpu_cores:
                is_busy = process.cpu.busy_for_s() >= examination.suspect_after
                program, is_settled = process.process.program, has_finding or is_busy
                suspect = Suspect(identity, program, is_settled, container.owner)
                suspects.append((cores, suspect))
    return foremost(suspects, limit)


def foremost(suspects: Iterable[tuple[float, Suspect]], limit: int) -> list[Suspect]:
    """Return ``limit`` suspects, the busiest of each owner in turn; each comes with its rate."""
    ranked = sorted(suspects, key=lambda each: (each[0], each[1].process), reverse=True)
    busiest = (suspect for _, suspect in ranked)
    return list(islice(interleaved(busiest, lambda each: each.owner), limit))
