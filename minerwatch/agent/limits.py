"""Bounds on the work of one tick, so that no tenant makes ticks long."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """CPU time for reading and matching processes, and how often slow checks run.

    Work that does not fit waits for the next call, one process of each container in turn. Without
    a bound a tenant's processes could make a tick so long that the kubelet restarts the agent.
    """

    read_s: float = 1.0  # some ten thousand processes
    match_s: float = 0.5
    read_between_ticks_s: float = 0.05
    match_between_ticks_s: float = 0.05
    max_suspects: int = 1000
    ticks_per_table: int = 6  # at most, between two reads of all tasks: finds replaced programs
    ticks_per_place: int = 6  # between two lookups of a container in the cluster
    ticks_per_idle_check: int = 8  # at most, between two readings of an idle process


DEFAULT_LIMITS = Limits()
