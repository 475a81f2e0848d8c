"""GPU use of tracked containers: it makes them hot, and earns looks as CPU time does."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from minerwatch.agent.looks import Looks
from minerwatch.agent.tracked import TrackedContainer, TrackedNode
from minerwatch.detection.gpu_fields import REQUEST_FIELDS
from minerwatch.fair_queue import interleaved
from minerwatch.model import Container, ContainerKey, Facts, Level, ProcessId
from minerwatch.probes.gpu import Gpus, GpuUser, Named

_PIDS_PER_TICK = 128
"""Processes in which an open device is looked for: some 100 µs each, in the sampler."""
_NAME_FIELDS = ("PodNamespace", "PodName", "ContainerName")
_USED_SHARE = 0.2
"""Of a GPU, from which on it counts as used; as in the rule on GPUs that were not requested."""


@dataclass(frozen=True, slots=True)
class GpuSummary:
    """GPUs of the node at one tick."""

    sources: tuple[str, ...] = ()  # drivers that answer
    attributions: Mapping[str, int] = field(default_factory=dict)  # none, alone, shared -> GPUs
    unrequested: int = 0  # GPUs in use by pods that requested none, or fewer
    flagged: tuple[tuple[Container, Level, float, float], ...] = ()  # GPU time, joules


class GpuUsers:
    """Attributes GPU use to tracked containers and processes."""

    def __init__(self, node: TrackedNode, gpus: Gpus | None, looks: Looks) -> None:
        self._node = node
        self._gpus = gpus
        self._looks = looks
        self._turn: Iterator[int] = iter(())
        self._over: Mapping[str, int] = {}  # pod -> GPUs in use beyond those it requests

    def tick(self, at_s: float) -> None:
        """Attribute what the samplers have answered; call it before hot containers are chosen."""
        gpus = self._gpus
        if gpus is None:
            return
        gpus.tick(at_s, self._next_pids(), self._user_of, self._names())
        gpus.end_tick(self._node.containers.keys())
        self._looks.earn_gpu(gpus.possible_s)
        self._over = self._over_request(gpus)
        for container in self._node.containers.values():
            facts = gpus.container_facts(container.container.key)
            cluster_facts = container.cluster_facts if facts else {}
            asked = {name: cluster_facts[name] for name in REQUEST_FIELDS if name in cluster_facts}
            over = self._over.get(container.container.pod_uid)
            more = {} if over is None or not facts else {"ContainerGpusOverRequest": over}
            container.gpu = {**facts, **asked, **more}
        for process, possible_s in gpus.process_possible_s.items():
            tracked = self._node.process(process.pid)
            if tracked is not None and tracked.process.id == process:
                tracked.unlooked_gpu_s += possible_s

    def is_notable(self, container: TrackedContainer) -> bool:
        """Return True if the container keeps a part of a GPU busy, or may do so."""
        return self._gpus is not None and self._gpus.is_notable(container.container.key)

    def facts(self, process: ProcessId) -> Facts:
        """Return the facts about a process; empty if it uses no GPU."""
        return self._gpus.facts(process) if self._gpus is not None else {}

    def summary(self) -> GpuSummary:
        """Return the figures of this tick."""
        gpus, every = self._gpus, self._node.containers.values()
        if gpus is None:
            return GpuSummary()
        flagged = (each for each in every if each.verdict.level > Level.CLEAR)
        return GpuSummary(
            gpus.sources(),
            gpus.attributions(),
            sum(map(_unrequested, every)) + sum(self._over.values()),
            tuple(
                (
                    *(each.container, each.verdict.level),
                    gpus.used_s.get(each.container.key, 0.0),
                    gpus.joules.get(each.container.key, 0.0),
                )
                for each in flagged
                if each.gpu
            ),
        )

    def _user_of(self, pid: int) -> GpuUser | None:
        container, process = self._node.container_of.get(pid), self._node.process(pid)
        if container is None or process is None:
            return None
        return GpuUser(process.process.id, process.born_s, container.container.key)

    def _over_request(self, gpus: Gpus) -> Mapping[str, int]:
        """Return the GPUs that each pod keeps busy beyond those it requests, if it requests some.

        A request for shares of a GPU, or for its memory, counts as more devices than it is for, or
        as many.
        """
        used: Counter[str] = Counter()
        limits: dict[str, float] = {}
        for shares in gpus.busy_devices():
            of_pod: dict[str, float] = defaultdict(float)
            for key, share in shares.items():
                container = self._node.containers.get(key)
                limit = container.cluster_facts.get("ContainerGpuLimit") if container else None
                if container is not None and isinstance(limit, float) and limit > 0:
                    limits[container.container.pod_uid] = limit
                    of_pod[container.container.pod_uid] += share
            used.update(pod for pod, share in of_pod.items() if share >= _USED_SHARE)
        return {pod: max(0, count - math.ceil(limits[pod])) for pod, count in used.items()}

    def _names(self) -> Named:
        """Return a function that finds a pod's own container by its names."""
        names: dict[tuple[object, ...], ContainerKey] = {}

        def named(*wanted: str) -> ContainerKey | None:
            if not names:
                for key, each in self._node.containers.items():
                    if not each.container.outer_cgroup:
                        names[tuple(map(each.cluster_facts.get, _NAME_FIELDS))] = key
            return names.get(wanted)

        return named

    def _next_pids(self) -> list[int]:
        """Return the next few PIDs, one of each owner in turn."""
        chosen = [*islice(self._turn, _PIDS_PER_TICK)]
        if len(chosen) < _PIDS_PER_TICK:
            self._turn = interleaved(tuple(self._node.container_of), self._node.owner_of)
        return chosen


def _unrequested(container: TrackedContainer) -> int:
    busy, devices = (container.gpu.get(f"ContainerGpu{each}") for each in ("Busy", "Devices"))
    if container.cluster_facts.get("GpuRequested") is not False:
        return 0
    is_used = isinstance(busy, float) and busy >= _USED_SHARE
    return devices if is_used and isinstance(devices, int) else 0
