"""CPU times of one container's processes, without reading those that are idle."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from itertools import islice

from minerwatch.model import ProcessStat

_TURNS = 8
"""An idle process is read at least once in so many calls."""
_ACTIVE_READS = 3
"""Readings until a process counts as idle: the first shows that its rate is 0."""
_MIN_MOVE_S = 0.01
"""CPU time that counts as having run: /proc/PID/stat shows no less."""


class ProcessActivity:
    """Reads those processes of a container that run, and the others in turn.

    CPU time is cumulative, so what an idle process uses between two readings is late, not lost. It
    is not late by much either: the container's counter, less what the processes that were read
    account for, bounds what all others can have used. Once one of them can have reached the limit,
    all are read. If none has (processes that exited used it, or many that each use a little), the
    others are read only in turn for the next ``_TURNS`` calls.
    """

    def __init__(self) -> None:
        self._cpu_s: dict[int, float] = {}  # as last read; longest ago first
        self._active: dict[int, int] = {}  # readings left until it counts as idle
        self._unexplained_s = 0.0
        self._pause = 0  # calls until all may be read again

    def read(
        self,
        pids: Set[int],
        stat_of: Callable[[int], ProcessStat | None],
        used_s: float,
        limit_s: float,
        *,
        always: Iterable[int] = (),
        cpu_ns: Mapping[int, int] | None = None,
    ) -> dict[int, ProcessStat | None]:
        """Return new readings; None for a process that is gone.

        ``pids`` are the container's processes, ``used_s`` what it used since the last call. No
        process uses ``limit_s`` unread, unless in the pause above. Those in ``always`` are read at
        every call. ``cpu_ns`` has the CPU time of all processes, where one read of all tasks brings
        it: exactly those that ran are read then.
        """
        known = self._cpu_s
        for pid in known.keys() - pids:
            del known[pid]
            self._active.pop(pid, None)
        found: dict[int, ProcessStat | None] = {}
        self._unexplained_s = max(0.0, self._unexplained_s + used_s)
        self._pause -= 1
        self._read(pids - known.keys(), stat_of, found)
        self._read([*self._active, *(pids & set(always))], stat_of, found)
        if cpu_ns is not None:
            self._read(_moved(known, cpu_ns), stat_of, found)
            self._unexplained_s = 0.0
            return found
        self._read(list(islice(known, -(-len(known) // _TURNS))), stat_of, found)
        if self._unexplained_s >= limit_s and self._pause <= 0:
            max_used_s = self._read(list(known), stat_of, found)
            self._unexplained_s = 0.0
            self._pause = 0 if max_used_s >= limit_s else _TURNS
        return found

    def _read(
        self,
        pids: Iterable[int],
        stat_of: Callable[[int], ProcessStat | None],
        found: dict[int, ProcessStat | None],
    ) -> float:
        """Read ``pids`` that are not in ``found`` yet; return the most CPU that one has used."""
        max_used_s = 0.0
        for pid in pids:
            if pid in found:
                continue
            found[pid] = stat = stat_of(pid)
            before_s = self._cpu_s.pop(pid, None)
            now_s = stat.cpu_s if stat is not None else 0.0
            self._cpu_s[pid] = now_s
            used_s = now_s - (before_s or 0.0)
            if before_s is None or used_s != 0.0:
                self._active[pid] = _ACTIVE_READS
            elif pid in self._active:
                self._active[pid] -= 1
                if self._active[pid] <= 0:
                    del self._active[pid]
            # A process that came from elsewhere brings CPU time that its container did not use.
            if before_s is not None or used_s <= self._unexplained_s:
                self._unexplained_s -= used_s
            max_used_s = max(max_used_s, used_s)
        return max_used_s


def _moved(known: Mapping[int, float], cpu_ns: Mapping[int, int]) -> list[int]:
    """Return the processes that ran since they were last read, or are gone."""
    return [
        pid
        for pid, cpu_s in known.items()
        if not cpu_s <= cpu_ns.get(pid, -1) / 1e9 < cpu_s + _MIN_MOVE_S
    ]
