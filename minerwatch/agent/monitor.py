"""One node's sources, opened, and its containers as they are published; without a cluster.

Shared by the agent and by commands that sample the node themselves.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from minerwatch.agent.tick import Sources, Watch
from minerwatch.agent.tracked import is_idle_sandbox
from minerwatch.api.snapshot import container_status, worst_first
from minerwatch.api.types import ContainerStatus, CullStatus
from minerwatch.config.schema import Config
from minerwatch.detection.judge import DEFAULT_MAX_GAP_S, MAX_GAP_TICKS, Judge
from minerwatch.detection.matching.matcher import Matcher
from minerwatch.detection.sigma.rulebook import RuleBook
from minerwatch.model import Container, Facts, Identity, Observation
from minerwatch.node.bpf_iterator import BpfUnavailableError
from minerwatch.node.capabilities import blind_spots
from minerwatch.node.cgroups import CgroupTree
from minerwatch.node.executed_code import CodeSampler, SamplerUnavailableError
from minerwatch.node.kernel_entries import EntrySampler
from minerwatch.node.processes import ProcessReader
from minerwatch.node.task_iterator import TaskIterator, TasksUnavailableError
from minerwatch.probes.executed_code import Sampler
from minerwatch.probes.registry import Probes, ProbeStatus
from minerwatch.report.since import SinceFile

MAX_PROCESSES = 1000
"""Processes of one container in the full snapshot."""

OTHER_KERNEL = "node.proc is not this kernel's"


def now_s() -> float:
    """Return seconds since boot, with suspension: the clock of process start times (proc(5))."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _no_identity(_container: Container) -> Identity | None:
    return None


@dataclass(frozen=True, slots=True)
class Node:
    """A node's watch, and what its sources cannot see."""

    name: str
    watch: Watch
    source: str  # of containers and their CPU time
    blind_spots: tuple[str, ...]
    probes: tuple[ProbeStatus, ...]
    identity: Callable[[Container], Identity | None] = _no_identity
    since: SinceFile | None = None  # levels that an earlier agent left

    def statuses(
        self,
        max_processes: int,
        culling: Callable[[Observation], CullStatus | None] = lambda _observation: None,
        *,
        unmasked: bool = False,
    ) -> list[ContainerStatus]:
        """Return the containers of the last tick as they are published, worst first.

        ``culling`` returns what culling would do; ``unmasked`` keeps secrets in command lines.
        """
        return list(
            worst_first(
                replace(self.status(each, unmasked=unmasked), culling=culling(each))
                for each in self.watch.observations(max_processes)
                if not self._is_sandbox(each)
            )
        )

    def status(
        self, observation: Observation, *, unmasked: bool = False, public: bool = False
    ) -> ContainerStatus:
        """Return one observation as it is published."""
        if self.since is not None:
            verdict = observation.verdict
            verdict = replace(verdict, since_s=self.since.since_s(verdict))
            observation = replace(observation, verdict=verdict)
        return container_status(
            observation,
            node=self.name,
            boot_unix_s=time.time() - now_s(),
            identity=self.identity(observation.container),
            unmasked=unmasked,
            public=public,
        )

    def _is_sandbox(self, observation: Observation) -> bool:
        identity = self.identity(observation.container)
        return (
            identity is not None
            and not identity.is_named
            and is_idle_sandbox(
                observation.container,
                observation.verdict,
                observation.cpu_s,
                observation.process_count,
            )
        )


def node_name(config: Config) -> str:
    """Return the configured name, or else that in the environment, or else the host's."""
    return config.node.name or os.environ.get("MINERWATCH_NODE") or socket.gethostname()


def open_node(
    config: Config,
    book: RuleBook,
    *,
    matcher: Matcher | None = None,
    identity: Callable[[Container], Identity | None] = _no_identity,
    place_of: Callable[[Container], Facts] | None = None,
) -> Node:
    """Open the node that ``config`` describes. Raises NodeError.

    ``matcher`` holds the book's rules, where it was compiled already. ``identity`` and
    ``place_of`` return what a cluster knows of a container, for people and as facts.
    """
    proc = Path(config.node.proc)
    cgroups = CgroupTree(Path(config.node.sys), proc, units=config.node.units)
    processes = ProcessReader(proc, deadline_s=config.examination.read_deadline)
    tasks, tasks_off = _task_iterator(config)
    code, code_status, code_spot = _code_sampler(config)
    probes = Probes(
        config,
        content_rules=book.content,
        tasks=tasks,
        tasks_off=tasks_off,
    )
    judge = Judge(
        config.judgement.ticks_below,
        max_gap_s=max(DEFAULT_MAX_GAP_S, MAX_GAP_TICKS * config.interval),
    )
    watch = Watch(
        Sources(cgroups, processes, tasks, probes, code),
        matcher or Matcher(book.rules),
        config.examination,
        judge,
        place_of,
    )
    opens_files = config.probes.connections or config.probes.content
    spots = (cgroups.blind_spot, code_spot, *blind_spots(proc, opens_files=opens_files))
    return Node(
        node_name(config),
        watch,
        cgroups.source,
        tuple(spot for spot in spots if spot),
        (
            ProbeStatus("tasks", tasks_off, config.probes.tasks),
            code_status,
            *probes.status,
        ),
        identity,
    )


def _task_iterator(config: Config) -> tuple[TaskIterator | None, str]:
    """Return the node's task iterator, or the reason why there is none."""
    if not config.probes.tasks:
        return None, "switched off (probes.tasks)"
    if config.node.proc != Config().node.proc:
        return None, OTHER_KERNEL
    try:
        return TaskIterator(), ""
    except TasksUnavailableError as error:
        return None, str(error)


def _code_sampler(config: Config) -> tuple[Sampler | None, ProbeStatus, str]:
    """Return the best sampler of executed code that works, its status, and its blind spot."""
    is_wanted, off = config.probes.executed_code, ""
    if not is_wanted:
        off = "switched off (probes.executed_code)"
    elif config.node.proc != Config().node.proc:
        off = OTHER_KERNEL
    if off:
        return None, ProbeStatus("executed_code", off, is_wanted), ""
    try:
        return CodeSampler(), ProbeStatus("executed_code", "", source="perf events"), ""
    except SamplerUnavailableError as error:
        why = str(error)
    try:
        sampler = EntrySampler()
    except BpfUnavailableError as error:
        off = f"{why}; where threads enter the kernel is not seen either: {error}"
        return None, ProbeStatus("executed_code", off), ""
    spot = f"executed code is seen only where threads enter the kernel, because of this: {why}"
    return sampler, ProbeStatus("executed_code", "", source="kernel entries"), spot
