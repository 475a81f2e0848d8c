"""GPU use, by process and by container.

What a driver reports of a PID belongs to the process that has it now only if that process is older
than the report. A device's own figures (how busy, how many watts) belong to a container only while
no other one has a context on the device: they are never divided.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from minerwatch.detection.cpu_history import CpuHistory
from minerwatch.detection.facts import measured
from minerwatch.model import ContainerKey, Facts, ProcessId
from minerwatch.node.gpu_use import GpuDevice, GpuReader, GpuSample, GpuUse
from minerwatch.probes.base import NO_FACTS
from minerwatch.probes.gpu_pipes import Users, pipe_facts, sole_pipes

_BUSY_SHARE = 0.5
"""From which on a process counts as keeping a GPU busy (``GpuBusyFor``)."""
_NOTABLE_SHARE = 0.05
"""Of a GPU, from which on a container is measured however little CPU time it uses."""
_UNKNOWN_SHARE = 0.2
"""Of a device of which nothing is known, counted towards looks for each container on it."""
_WINDOW_S = 60.0
_KEPT_S, _KEPT_TICKS = 35.0, 3.5
"""A sample stands for the longer of both; then nothing is known. None is counted for more."""

UserOf = Callable[[int], "GpuUser | None"]
Named = Callable[[str, str, str], ContainerKey | None]


class GpuUser(NamedTuple):
    """The process that has a PID, and its container."""

    process: ProcessId
    born_s: float
    container: ContainerKey


@dataclass(slots=True)
class _Sum:
    """Use of one process, or of one container, in one sample."""

    busy: float | None = None  # GPUs kept busy
    possible: float = 0.0  # GPUs that it may keep busy besides: no evidence, but it earns looks
    memory_bytes: int | None = None
    watts: float = 0.0  # of devices that no other container uses
    devices: set[tuple[int, int | None]] = field(default_factory=set)  # devices, instances
    count: int = 0

    def add(self, use: GpuUse) -> None:
        """Add a use."""
        self.devices.add((use.device, use.instance))
        self.count = len(self.devices)
        self._add(use.busy, use.memory_bytes)

    @property
    def most(self) -> float:
        """Return the GPUs that it keeps busy at most."""
        return (self.busy or 0.0) + self.possible

    def merge(self, other: _Sum) -> None:
        """Add what uses devices of another sampler."""
        self.count += other.count
        self._add(other.busy, other.memory_bytes)

    def _add(self, busy: float | None, memory_bytes: int | None) -> None:
        """Add figures; one that is not known leaves the sum as it is."""
        if busy is not None:
            self.busy = (self.busy or 0.0) + busy
        if memory_bytes is not None:
            self.memory_bytes = (self.memory_bytes or 0) + memory_bytes


class _Process:
    """A process on the devices of one sampler."""

    __slots__ = ("_busy_since_s", "_history", "_now", "pipes")

    def __init__(self, now: _Sum, at_s: float) -> None:
        self._now = now
        self._history = CpuHistory(at_s, 0.0)  # of its GPU time
        self._busy_since_s: tuple[float, float] | None = None  # and up to when
        self.pipes = NO_FACTS

    def add(self, now: _Sum, at_s: float, elapsed_s: float) -> None:
        """Add the use during ``elapsed_s`` before ``at_s``."""
        busy = now.busy or 0.0
        self._now = now
        self._history.add(at_s, self._history.cpu_s + busy * elapsed_s, window_s=_WINDOW_S)
        since_s = self._busy_since_s[0] if self._busy_since_s else at_s - elapsed_s
        self._busy_since_s = (since_s, at_s) if busy >= _BUSY_SHARE else None

    def facts(self) -> Facts:
        """Return the facts about it."""
        memory_bytes, busy = self._now.memory_bytes, self._busy_since_s
        of_use = measured(
            GpuDevices=self._now.count,
            GpuBusy=self._now.busy,
            GpuBusyFor=busy[1] - busy[0] if busy else 0.0,
            GpuHours=self._history.cpu_s / 3600,
            GpuFlatness=self._history.flatness(),
            GpuMemoryMiB=None if memory_bytes is None else memory_bytes / (1 << 20),
        )
        return {**of_use, **self.pipes}


@dataclass(slots=True)
class _Known:
    """The last sample of one sampler, by process and container."""

    sample: GpuSample
    users: list[set[ContainerKey | None]]  # of each device; None: a process that is not known
    sums: dict[ProcessId, _Sum] = field(default_factory=dict)
    processes: dict[ProcessId, _Process] = field(default_factory=dict)
    containers: dict[ContainerKey, _Sum] = field(default_factory=dict)
    busy: dict[int, dict[ContainerKey, float]] = field(  # by whole device
        default_factory=lambda: defaultdict(lambda: defaultdict(float))
    )
    container_of: dict[ProcessId, ContainerKey] = field(default_factory=dict)

    def on_devices(self) -> tuple[Sequence[GpuDevice], Users]:
        """Return the devices and the containers on each."""
        return self.sample.devices, self.users

    def add_possible(self, uses: Sequence[tuple[GpuUse, GpuUser]], attributed: set[int]) -> None:
        """Add what containers may use of devices whose rate is not ``attributed`` to one."""
        measured, unmeasured = (
            {(use.device, user.container) for use, user in uses if (use.busy is None) is wanted}
            for wanted in (False, True)
        )
        for index, (device, users) in enumerate(zip(self.sample.devices, self.users, strict=True)):
            rate = _UNKNOWN_SHARE if device.busy is None else device.busy
            for key in users if index not in attributed else ():
                if key is not None and (index, key) not in measured - unmeasured:
                    self.containers[key].possible += max(0.0, rate - self.busy[index][key])


@dataclass(slots=True)
class _Total:
    """GPU time and energy of a container since it was first seen."""

    gpu_s: float = 0.0
    joules: float = 0.0


class Gpus:
    """Facts on GPU use; for one thread at a time."""

    def __init__(self, reader: GpuReader, interval_s: float = 0.0) -> None:
        self._reader = reader
        self._kept_s = max(_KEPT_S, _KEPT_TICKS * interval_s)
        self._known: dict[int, _Known] = {}  # by number of the sampler
        self._totals: dict[ContainerKey, _Total] = {}
        self._unattributed = 0
        self.used_s: Mapping[ContainerKey, float] = {}
        """GPU time of each container since the tick before."""
        self.possible_s: Mapping[ContainerKey, float] = {}
        """The same with what it may have used of shared devices: sharing one avoids no look."""
        self.process_possible_s: Mapping[ProcessId, float] = {}
        """The same of each process; of one whose share is not known, its container's."""
        self.joules: Mapping[ContainerKey, float] = {}
        """Energy since the tick before, of devices that only this container uses."""

    def tick(
        self, at_s: float, pids: Sequence[int], user_of: UserOf,
        named: Named = lambda *_names: None,
    ) -> None:  # fmt: skip
        """Receive the samples that are ready, and request the next; never wait for a driver.

        ``pids``: processes in which to look for an open device. ``user_of`` returns the process
        that has a PID now, ``named`` the container by namespace, pod and name.
        """
        used_s: dict[ContainerKey, float] = defaultdict(float)
        possible_s: dict[ContainerKey, float] = defaultdict(float)
        process_possible_s: dict[ProcessId, float] = defaultdict(float)
        joules: dict[ContainerKey, float] = defaultdict(float)
        for number, sample in self._reader.exchange(pids):
            before = self._known.get(number)
            known = self._known[number] = self._attributed(sample, user_of, named)
            elapsed_s, sole = 0.0, {}
            if before is not None:
                sole = sole_pipes(known.on_devices(), before.on_devices())
                elapsed_s = min(max(0.0, sample.at_s - before.sample.at_s), self._kept_s)
            for process, now in known.sums.items():
                state = (before.processes if before else {}).get(process)
                state = known.processes[process] = state or _Process(now, sample.at_s)
                state.add(now, sample.at_s, elapsed_s)
                state.pipes = pipe_facts([sole[n] for n, _ in now.devices if n in sole])
                of_all = known.containers[known.container_of[process]].most
                busy = of_all if now.busy is None else now.busy
                process_possible_s[process] += busy * elapsed_s
            for key, total in known.containers.items():
                used_s[key] += (total.busy or 0.0) * elapsed_s
                possible_s[key] += total.most * elapsed_s
                joules[key] += total.watts * elapsed_s
        for key in used_s:
            sums = self._totals.setdefault(key, _Total())
            sums.gpu_s += used_s[key]
            sums.joules += joules[key]
        old_s = at_s - self._kept_s
        for number in [n for n, each in self._known.items() if each.sample.at_s < old_s]:
            del self._known[number]
        self.used_s, self.joules = used_s, joules
        self.possible_s, self.process_possible_s = possible_s, process_possible_s

    def end_tick(self, containers: Collection[ContainerKey]) -> None:
        """Forget containers that are gone."""
        for key in [each for each in self._totals if each not in containers]:
            del self._totals[key]

    def facts(self, process: ProcessId) -> Facts:
        """Return the facts about a process; empty if it uses no GPU."""
        for known in self._known.values():
            state = known.processes.get(process)
            if state is not None:
                return state.facts()
        return NO_FACTS

    def container_facts(self, container: ContainerKey) -> Facts:
        """Return the facts about a container; empty if it has used no GPU."""
        total = self._totals.get(container)
        if total is None:
            return NO_FACTS
        now = _Sum()
        for known in self._known.values():
            if container in known.containers:
                now.merge(known.containers[container])
        memory_bytes = now.memory_bytes
        return measured(
            ContainerGpuBusy=now.busy,
            ContainerGpuHours=total.gpu_s / 3600,
            ContainerGpuDevices=now.count,
            ContainerGpuMemoryMiB=None if memory_bytes is None else memory_bytes / (1 << 20),
            ContainerGpuJoules=total.joules or None,
        )

    def is_notable(self, container: ContainerKey) -> bool:
        """Return True if the container keeps a part of a GPU busy, or may do so."""
        return any(
            container in known.containers and known.containers[container].most >= _NOTABLE_SHARE
            for known in self._known.values()
        )

    def busy_devices(self) -> Iterator[Mapping[ContainerKey, float]]:
        """Yield, for each whole device in use, its share that each container keeps busy.

        A share counts where the driver has one of each process, or the container is alone there.
        """
        for known in self._known.values():
            yield from known.busy.values()

    def sources(self) -> tuple[str, ...]:
        """Return the drivers that answer."""
        return tuple(source for known in self._known.values() for source in known.sample.sources)

    def attributions(self) -> dict[str, int]:
        """Return the number of devices by the containers on each: none, one (alone), shared."""
        counts = dict.fromkeys(("none", "alone", "shared"), 0)
        for known in self._known.values():
            for users in known.users:
                counts["none" if not users else "alone" if len(users) == 1 else "shared"] += 1
        return counts

    def failures(self) -> Iterator[tuple[str, int]]:
        """Yield failures since the start: reason, count."""
        yield from [*self._reader.failures.items()]
        yield "unplaced", self._unattributed

    def close(self) -> None:
        """Let the samplers end."""
        self._reader.close()

    def _attributed(self, sample: GpuSample, user_of: UserOf, named: Named) -> _Known:
        """Attribute the uses of a sample to processes and containers."""
        known = _Known(sample, users=[set() for _ in sample.devices])
        uses: list[tuple[GpuUse, GpuUser]] = []
        for use in sample.uses:
            user = user_of(use.pid)
            if user is None or user.born_s > sample.at_s:
                self._unattributed += 1
                known.users[use.device].add(None)
            else:
                known.users[use.device].add(user.container)
                uses.append((use, user))
        for use, user in uses:
            known.container_of[user.process] = user.container
            known.sums.setdefault(user.process, _Sum()).add(use)
            known.containers.setdefault(user.container, _Sum()).add(use)
            if use.busy is not None and not sample.devices[use.device].is_split:
                known.busy[use.device][user.container] += use.busy
        self._attribute_grants(known, named)
        attributed = set()
        for index, device in enumerate(sample.devices):
            users = known.users[index]
            if len(users) != 1 or None in users or device.is_split or device.left_out:
                continue
            (owner,) = users
            assert owner is not None  # noqa: S101 - checked above
            total = known.containers[owner]
            total.watts += device.watts or 0.0
            own = [(use, user.process) for use, user in uses if use.device == index]
            unknown = {process for use, process in own if use.busy is None}
            if device.busy is not None and (unknown or not own):
                attributed.add(index)
                rest = max(0.0, device.busy - known.busy[index][owner])
                total.busy = (total.busy or 0.0) + rest
                known.busy[index][owner] += rest
                if len(unknown) == 1 and rest == device.busy:  # no other process can have used it
                    of_process = known.sums[unknown.pop()]
                    of_process.busy = (of_process.busy or 0.0) + rest
        known.add_possible(uses, attributed)
        return known

    def _attribute_grants(self, known: _Known, named: Named) -> None:
        """Attribute devices to the containers that were given them."""
        for grant in known.sample.grants:
            key = named(grant.namespace, grant.pod, grant.container)
            self._unattributed += key is None
            known.users[grant.device].add(key)
            if key is not None:
                use = GpuUse(0, grant.device, None, None, grant.memory_bytes)
                known.containers.setdefault(key, _Sum()).add(use)
