"""One node's sources, opened, and its containers as they are published.

Shared by the agent and by commands that sample the node themselves.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from msgspec import structs

from minerwatch.agent.tick import Sources, Watch
from minerwatch.agent.tracked import is_idle_sandbox
from minerwatch.api.statuses import container_status, encoded_worst_first, worst_first
from minerwatch.api.types import ContainerStatus, CullStatus
from minerwatch.config.schema import Config
from minerwatch.detection.judge import DEFAULT_MAX_GAP_S, MAX_GAP_TICKS, Judge
from minerwatch.detection.matching.matcher import Matcher
from minerwatch.detection.sigma.rulebook import RuleBook
from minerwatch.errors import SourceUnavailableError
from minerwatch.model import Container, Identity, Observation
from minerwatch.node.capabilities import blind_spots, effective_capabilities
from minerwatch.node.cgroups import CgroupTree
from minerwatch.node.cluster_networks import ClusterNetworks
from minerwatch.node.executed_code import CodeSampler, copying_sampler
from minerwatch.node.first_words import PacketReader
from minerwatch.node.gpu_use import (
    NO_NVML,
    ChildSampler,
    ExporterSampler,
    GpuReader,
    GpuSampler,
    SocketSampler,
    gpus_seen,
    nvml_library,
)
from minerwatch.node.host_view import HostView, host_root
from minerwatch.node.hot_code import HotCodeReader
from minerwatch.node.kernel_entries import EntrySampler
from minerwatch.node.network_counters import CounterReader
from minerwatch.node.network_links import NetworkLinks
from minerwatch.node.pod_sockets import PodSockets
from minerwatch.node.processes import ProcessReader
from minerwatch.node.socket_iterator import SocketIterator
from minerwatch.node.task_iterator import TaskIterator
from minerwatch.node.tcp_connections import SocketReader
from minerwatch.probes.executed_code import Sampler
from minerwatch.probes.first_words import FirstWordsProbe
from minerwatch.probes.gpu import Gpus
from minerwatch.probes.hot_code import HotCode
from minerwatch.probes.network_counters import PodNetworks
from minerwatch.probes.registry import FILES, ITERATOR, LACKS_PTRACE, Probes, ProbeStatus
from minerwatch.report.since import SinceFile

if TYPE_CHECKING:
    from minerwatch.kube.cluster_view import ClusterNode

MAX_PROCESSES = 1000
"""Processes of one container in the full snapshot."""

_TASKS = "a BPF iterator"

Source = TypeVar("Source")

Culling = Callable[[Observation], CullStatus | None]
"""Returns what culling would do about a container."""


def now_s() -> float:
    """Return seconds since boot, with suspension: the clock of process start times (proc(5))."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class MonitoredNode:
    """A node whose sources are open: its watch, its containers as published, its blind spots."""

    name: str
    watch: Watch
    source: str  # of containers and their CPU time
    blind_spots: tuple[str, ...]
    probes: tuple[ProbeStatus, ...]
    identity: Callable[[Container], Identity | None] = lambda _container: None
    host: HostView | None = None  # names outside Kubernetes
    since: SinceFile | None = None  # levels that an earlier agent left
    first_words_left_out: Callable[[], int] = int  # packets, since the start

    def statuses(
        self,
        max_processes: int,
        culling: Culling = lambda _observation: None,
        *,
        unmasked: bool = False,
    ) -> list[ContainerStatus]:
        """Return the containers of the last tick as they are published, worst first.

        ``unmasked`` keeps secrets in command lines.
        """
        return list(worst_first(self._statuses(max_processes, culling, unmasked=unmasked)))

    def encoded_statuses(
        self, max_processes: int, culling: Culling, *, unmasked: bool = False
    ) -> bytes:
        """Return the JSON of ``statuses``, a list."""
        return encoded_worst_first(self._statuses(max_processes, culling, unmasked=unmasked))

    def _statuses(
        self, max_processes: int, culling: Culling, *, unmasked: bool
    ) -> Iterator[ContainerStatus]:
        for each in self.watch.observations(max_processes):
            if not self._is_sandbox(each):
                status = self.status(each, unmasked=unmasked)
                yield structs.replace(status, culling=culling(each))

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

    def namespace_of(self, container: Container) -> str:
        """Return the namespace of the container's pod; "": it has none, or it is unknown."""
        identity = self.identity(container)
        return identity.pod.namespace if identity else ""

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
    cluster: ClusterNode | None = None,
    packets: tuple[PacketReader | None, str] = (None, "read by the agent only"),
) -> MonitoredNode:
    """Open the node that ``config`` describes. Raises NodeError.

    ``matcher`` holds the book's rules, where it was compiled already; ``packets`` is their source,
    or why there is none.
    """
    proc = Path(config.node.proc)
    host = HostView(host_root(proc), node_name(config))
    cgroups = CgroupTree(Path(config.node.sys), proc, units=config.node.units)
    processes = ProcessReader(proc, deadline_s=config.examination.read_deadline)
    tasks, tasks_off = kernel_source("tasks", config, TaskIterator)
    code, code_status, code_spot = _code_sampler(config)
    sockets, sockets_off = kernel_source("connections", config, SocketIterator)
    probes = Probes(
        config,
        content_rules=book.content,
        tasks=tasks,
        tasks_off=tasks_off,
        sockets=sockets,
    )
    networks, networks_status = _pod_networks(config)
    talk, talk_status = _first_words(config, *packets)
    gpus, gpu_status = _gpus(config)
    watch = Watch(
        Sources(
            *(cgroups, processes, tasks, probes, code),
            hot_code=HotCode(HotCodeReader(config.node.proc, book.content)) if code else None,
            networks=networks,
            first_words=talk,
            gpus=gpus,
        ),
        matcher or Matcher(book.rules),
        config.examination,
        _judge(config),
        lambda container: (cluster.facts(container) if cluster else {}) or host.facts(container),
    )
    opens_files = config.probes.connections or config.probes.content
    spots = (
        *(cgroups.blind_spot, code_spot, _socket_spot(config, sockets_off)),
        *blind_spots(proc, opens_files=opens_files),
    )
    return MonitoredNode(
        node_name(config),
        watch,
        cgroups.source,
        tuple(spot for spot in spots if spot),
        (
            ProbeStatus("tasks", tasks_off, config.probes.tasks, "" if tasks_off else _TASKS),
            code_status,
            *(networks_status, talk_status, gpu_status),
            *probes.status,
        ),
        lambda container: (
            (cluster.identity(container) if cluster else None) or host.identity(container)
        ),
        host,
        first_words_left_out=lambda: talk.left_out if talk else 0,
    )


def _judge(config: Config) -> Judge:
    max_gap_s = max(DEFAULT_MAX_GAP_S, MAX_GAP_TICKS * config.interval)
    return Judge(config.judgement.ticks_below, max_gap_s=max_gap_s)


def kernel_source(
    name: str, config: Config, open_it: Callable[[], Source]
) -> tuple[Source | None, str]:
    """Open a source that reads the running kernel; return it, or the reason why there is none.

    ``name``: its setting below ``probes``.
    """
    if not getattr(config.probes, name):
        return None, f"switched off (probes.{name})"
    if config.node.proc != Config().node.proc:
        return None, "node.proc is not this kernel's"
    try:
        return open_it(), ""
    except SourceUnavailableError as error:
        return None, str(error)


def _code_sampler(config: Config) -> tuple[Sampler | None, ProbeStatus, str]:
    """Return the best sampler of executed code that works, its status, and its blind spot."""
    name, is_wanted = "executed_code", config.probes.executed_code
    copying, no_copies = kernel_source(name, config, copying_sampler)
    if copying is not None:
        return copying, ProbeStatus(name, "", is_wanted, "perf events, code copied by BPF"), ""
    clock, why = kernel_source(name, config, CodeSampler)
    if clock is not None:
        spot = f"code that moves before it is read is not seen, because of this: {no_copies}"
        return clock, ProbeStatus(name, "", is_wanted, "perf events"), spot
    entries, off = kernel_source(name, config, EntrySampler)
    if entries is None:
        neither = f"{why}; where threads enter the kernel is not seen either: {off}"
        return None, ProbeStatus(name, why if off == why else neither, is_wanted), ""
    spot = f"executed code is seen only where threads enter the kernel, because of this: {why}"
    return entries, ProbeStatus(name, "", is_wanted, "kernel entries"), spot


def _socket_spot(config: Config, sockets_off: str) -> str:
    if not config.probes.connections or config.node.proc != Config().node.proc or not sockets_off:
        return ""
    return f"connections come without counters of bytes: {sockets_off}"


def _pod_networks(config: Config) -> tuple[PodNetworks | None, ProbeStatus]:
    """Return the counters of pods' networks, and the probe's status."""
    name, is_wanted = "pod_network", config.probes.pod_network
    found, off = kernel_source(name, config, CounterReader)
    if found is None:
        return None, ProbeStatus(name, off, is_wanted)
    if "SYS_PTRACE" not in effective_capabilities():
        return None, ProbeStatus(name, LACKS_PTRACE, is_wanted)
    sockets, _ = kernel_source(name, config, SocketIterator)
    source = f"{FILES}, sockets by {FILES if sockets is None else ITERATOR}"
    inside = ClusterNetworks(config.node.cluster_networks, config.node.proc)
    files, closed = SocketReader(config.node.proc), SocketReader(config.node.proc)
    pod_sockets = PodSockets(sockets or files, inside, closed).start()
    return PodNetworks(found, pod_sockets), ProbeStatus(name, "", is_wanted, source)


def _first_words(
    config: Config, packets: PacketReader | None, off: str
) -> tuple[FirstWordsProbe | None, ProbeStatus]:
    """Return the reader of connections' first words, and the probe's status."""
    name, is_wanted = "first_words", config.probes.first_words
    if packets is None:
        return None, ProbeStatus(name, off, is_wanted)
    sockets, sockets_off = kernel_source(name, config, SocketIterator)
    if sockets is None:
        packets.close()
        return None, ProbeStatus(name, sockets_off, is_wanted)
    source = "packet sockets"
    probe = FirstWordsProbe(packets, sockets, NetworkLinks()).start()
    return probe, ProbeStatus(name, "", is_wanted, source)


def _gpus(config: Config) -> tuple[Gpus | None, ProbeStatus]:
    """Return the reader of GPUs, and the probe's status."""
    name, is_wanted = "gpu", config.probes.gpu
    seen = {*gpus_seen(Path(config.node.proc), Path(config.node.sys))}
    socket_path = config.node.gpu_socket or os.environ.get("MINERWATCH_GPU_SOCKET", "")
    library, exporter = config.node.gpu_library, config.node.gpu_exporter
    exporter = exporter or os.environ.get("MINERWATCH_GPU_EXPORTER", "")
    off = "this kernel knows no GPU of NVIDIA, AMD or Intel"
    if library or socket_path or exporter:
        seen.add("nvidia")
    elif "nvidia" in seen and not (library := nvml_library()):
        off = "NVIDIA's library is not here: set node.gpu_library, or in the chart gpu.enabled"
        seen.remove("nvidia")
    if not is_wanted or not seen:
        off = off if is_wanted else f"switched off (probes.{name})"
        return None, ProbeStatus(name, off, is_asked_for=False)
    samplers: list[GpuSampler] = [SocketSampler(Path(socket_path))] if socket_path else []
    if exporter and not socket_path:
        samplers.append(ExporterSampler(exporter))
    if seen != {"nvidia"} or not samplers:
        of = library if "nvidia" in seen and not samplers else NO_NVML
        samplers.append(ChildSampler(config.node.proc, config.node.sys, of))
    by = "a socket" if socket_path else "dcgm-exporter" if exporter else "a child"
    source = f"{', '.join(sorted(seen))}, by {by}"
    interval_s = float(config.interval)
    reader = GpuReader(samplers, with_pipes=config.probes.gpu_pipes, interval_s=interval_s)
    return Gpus(reader, interval_s), ProbeStatus(name, "", is_wanted, source)
