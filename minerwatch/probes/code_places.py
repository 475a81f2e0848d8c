"""Places of samples of executed code: the process and container that each is counted for."""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from minerwatch.model import ContainerKey, PlainSample
from minerwatch.node.executed_code import Copies
from minerwatch.probes.code_schedule import Place, Spot, Spots

_MAX_LOCATED = 16_384
_MAX_TIDS = 4096
_FIXED_BELOW = 1 << 32
"""Programs linked to fixed addresses lie below: another program has other code at the same one."""


class Locator(Protocol):
    """Finds where processes run."""

    def locate(self, pid: int) -> Place | None:
        """Return the place of a process that runs; None if it has exited or is in no container."""

    def relatives(self, cgroup: int) -> Sequence[Place]:
        """Return some processes of the container with this cgroup id; none if it is unknown."""


class _SpotsAt:
    """Spots of some samples, of which most are only counted."""

    def __init__(self, samples: Sequence[PlainSample], indexes: Sequence[int]) -> None:
        self._samples, self._indexes = samples, indexes

    def __len__(self) -> int:
        return len(self._indexes)

    def __getitem__(self, index: int) -> Spot:
        _, address, _, code, _ = self._samples[self._indexes[index]]
        return address, code

    def __iter__(self) -> Iterator[Spot]:
        return map(self.__getitem__, range(len(self)))


class Placing:
    """Finds the place of samples by their PID, or by their cgroup if the process has exited.

    ``tids``: by PID, a thread of the process that ran lately.
    """

    def __init__(self, locator: Locator, failures: dict[str, int]) -> None:
        """``failures``: where ``unplaced`` and ``gone`` are counted."""
        self._locator = locator
        self._failures = failures
        self._located: dict[int, Place | None] = {}
        self._containers: dict[int, ContainerKey | None] = {}  # by cgroup
        self.tids: dict[int, int] = {}

    def end_tick(self) -> None:
        """Forget where processes run; from any thread."""
        self._located, self._containers = {}, {}

    def by_place(self, samples: Sequence[PlainSample]) -> tuple[Mapping[Place, Spots], int]:
        """Return the samples by place, and the number of those whose process has exited."""
        by_pid: defaultdict[int, list[int]] = defaultdict(list)
        copies = samples if isinstance(samples, Copies) else None
        pids = (each[0] for each in samples) if copies is None else copies.pids
        for index, pid in enumerate(pids):
            by_pid[pid].append(index)
        if len(self.tids) > _MAX_TIDS:
            self.tids.clear()
        by_place: dict[Place, Spots] = {}
        gone: list[PlainSample] = []
        located, tids = self._located, self.tids
        for pid, indexes in by_pid.items():
            if pid not in located:
                self._locate(pid, located)
            place, first, last = located[pid], indexes[0], indexes[-1]
            if place is not None:
                cgroup = samples[first][2] if copies is None else copies.cgroups[first]
                if cgroup == place.container.cgroup_inode or self._is_of(cgroup, place.container):
                    by_place[place] = _SpotsAt(samples, indexes)
                    tids[pid] = samples[last][4] if copies is None else copies.tid(last)
                    continue
                del located[pid]  # another process has the PID
            elif os.path.exists(f"/proc/{pid}"):  # noqa: PTH110 - hot
                self._failures["unplaced"] += len(indexes)
                continue
            gone += map(samples.__getitem__, indexes)
        of_relatives: defaultdict[Place, list[Spot]] = defaultdict(list)
        for relative, spot in self._of_relatives(gone):
            of_relatives[relative].append(spot)
        return by_place | of_relatives, len(gone)

    def _locate(self, pid: int, located: dict[int, Place | None]) -> None:
        if len(located) >= _MAX_LOCATED:
            located.clear()
        located[pid] = self._locator.locate(pid)

    def _is_of(self, cgroup: int, container: ContainerKey) -> bool:
        """Return False if a cgroup is known to be of another container."""
        containers = self._containers
        if cgroup not in containers:
            if len(containers) >= _MAX_LOCATED:
                containers.clear()
            relatives = self._locator.relatives(cgroup) if cgroup else ()
            containers[cgroup] = relatives[0].container if relatives else None
        return containers[cgroup] in (None, container)

    def _of_relatives(self, gone: Iterable[PlainSample]) -> Iterator[tuple[Place, Spot]]:
        chosen: dict[int, Place | None] = {}
        for _, address, cgroup, code, _ in gone:
            if cgroup not in chosen:
                relatives = self._locator.relatives(cgroup)
                chosen[cgroup] = random.choice(relatives) if relatives else None  # noqa: S311
            place = chosen[cgroup]
            if place is None or (address < _FIXED_BELOW and not code):
                self._failures["gone"] += 1
            else:
                yield place._replace(is_relative=True), (address, code)
