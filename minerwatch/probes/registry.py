"""The probes of suspects that are on, and why the others are off.

Probes are isolated: each fails alone, and is counted and timed. None of them waits for a process.
Probes of all processes or pods are opened by ``agent.monitor``.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from minerwatch.config.schema import Config
from minerwatch.model import Connection, Facts, FactValue, ProcessId
from minerwatch.node.capabilities import effective_capabilities
from minerwatch.node.cluster_networks import ClusterNetworks
from minerwatch.node.memory_maps import MappingReader
from minerwatch.node.overlay_layers import LayerReader
from minerwatch.node.socket_iterator import SocketIterator
from minerwatch.node.task_iterator import TaskIterator
from minerwatch.node.tcp_connections import ConnectionReader
from minerwatch.node.yara_scan import ContentReader
from minerwatch.probes.base import OwnerOf, Probe, Suspect
from minerwatch.probes.connections import ConnectionsProbe
from minerwatch.probes.content import ContentProbe
from minerwatch.probes.drift import DriftProbe
from minerwatch.probes.mappings import MappingsProbe
from minerwatch.probes.rounding import RoundingProbe

ITERATOR, FILES = "a BPF iterator", "files in /proc"
"""Sources of sockets."""
LACKS_PTRACE = "the capability SYS_PTRACE is missing: grant it to the agent, or run it as root"
_LACKS_FP_CONTROL = "it does not know where this kernel keeps the floating-point control word"


@dataclass(frozen=True, slots=True)
class ProbeStatus:
    """State of one probe, for the log and the metrics."""

    name: str
    off: str  # the reason and the remedy; "" if it is on
    is_asked_for: bool = True
    source: str = ""  # the one in use, of several


@dataclass(frozen=True, slots=True)
class _Sources:
    """Everything that a probe may be opened with."""

    proc: str
    content_rules: Sequence[Path]
    tasks: TaskIterator | None
    tasks_off: str
    can_read_processes: bool
    owner_of: OwnerOf
    sockets: SocketIterator | None
    networks: Sequence[str]


def _if_permitted(open_probe: Callable[[_Sources], Probe]) -> Callable[[_Sources], Probe | str]:
    """Open a probe that reads other users' processes."""
    return lambda sources: open_probe(sources) if sources.can_read_processes else LACKS_PTRACE


def _open_connections(sources: _Sources) -> Probe | str:
    networks = ClusterNetworks(sources.networks, sources.proc)
    if sources.sockets is not None:
        reader = ConnectionReader(sources.proc, reader=sources.sockets)
        return ConnectionsProbe(reader, sources.owner_of, networks)
    if not sources.can_read_processes:
        return LACKS_PTRACE
    return ConnectionsProbe(ConnectionReader(sources.proc), sources.owner_of, networks)


def _open_rounding(sources: _Sources) -> Probe | str:
    if sources.tasks is None:
        return f"it needs the task iterator; tasks: {sources.tasks_off}"
    if not sources.tasks.has_fp_control:
        return f"it needs the task iterator; tasks: {_LACKS_FP_CONTROL}"
    return RoundingProbe(sources.tasks, sources.owner_of)


_PROBES: dict[str, Callable[[_Sources], Probe | str]] = {
    "connections": _open_connections,
    "mappings": _if_permitted(lambda of: MappingsProbe(MappingReader(of.proc), of.owner_of)),
    "content": _if_permitted(
        lambda of: ContentProbe(ContentReader(of.proc, of.content_rules), of.owner_of)
    ),
    "drift": _if_permitted(lambda of: DriftProbe(LayerReader(of.proc), of.owner_of)),
    "rounding": _open_rounding,
}
"""Name, which is also its setting below ``probes`` -> the probe, or why it is off."""


class Probes:
    """All probes of suspects that are on; ``status`` has the others, too."""

    def __init__(
        self,
        config: Config | None = None,
        *,
        content_rules: Sequence[Path] = (),
        tasks: TaskIterator | None = None,
        tasks_off: str = "",
        sockets: SocketIterator | None = None,
        more: Sequence[Probe] = (),
    ) -> None:
        """``config``: None switches all off. ``tasks_off``: why there is no task iterator."""
        settings = config or Config()
        self.status: list[ProbeStatus] = []
        self._probes: list[Probe] = [*more]
        self._budget_s = settings.probes.budget
        self._exceptions: Counter[tuple[str, str]] = Counter()
        self._programs: dict[ProcessId, int] = {}
        self._owners: dict[ProcessId, Hashable] = {}
        sources = _Sources(
            settings.node.proc,
            content_rules,
            tasks,
            tasks_off,
            "SYS_PTRACE" in effective_capabilities(),
            self._owner_of,
            sockets,
            settings.node.cluster_networks,
        )
        for name, open_probe in _PROBES.items():
            is_wanted = config is not None and getattr(config.probes, name)
            probe = open_probe(sources) if is_wanted else f"switched off (probes.{name})"
            off = probe if isinstance(probe, str) else ""
            if not isinstance(probe, str):
                self._probes.append(probe)
            source = (ITERATOR if sockets else FILES) if name == "connections" and not off else ""
            self.status.append(ProbeStatus(name, off, is_wanted, source))

    def use_content_rules(self, rules: Sequence[Path]) -> None:
        """Put other YARA rules in force."""
        for probe in self._probes:
            if isinstance(probe, ContentProbe):
                probe.use(rules)

    def examine(self, suspects: Sequence[Suspect], at_s: float) -> dict[str, float]:
        """Examine ``suspects`` within the budget; return the seconds that each probe took."""
        ends_s = time.perf_counter() + self._budget_s
        took_s = {}
        self._owners = {each.process: each.owner for each in suspects}
        unchanged = self._unchanged(suspects)
        for_all = [each.process for each in unchanged if each.is_for_all_probes]
        every = [each.process for each in unchanged]
        earned = {each.process for each in unchanged if each.is_due}
        for probe in self._probes:
            started_s = time.perf_counter()
            try:
                probe.examine(
                    every if probe.looks_early else for_all,
                    at_s,
                    lambda: time.perf_counter() < ends_s,
                    earned,
                )
            except Exception as error:  # noqa: BLE001 - a probe fails alone
                self._exceptions[probe.name, type(error).__name__] += 1
            took_s[probe.name] = time.perf_counter() - started_s
        return took_s

    @property
    def wants_samples(self) -> bool:
        """Return True if ``sample`` has something to do."""
        return any(probe.wants_samples for probe in self._probes)

    def sample(self, at_s: float) -> None:
        """Take the samples that are due between two looks."""
        for probe in self._probes:
            try:
                if probe.wants_samples:
                    probe.sample(at_s)
            except Exception as error:  # noqa: BLE001 - a probe fails alone
                self._exceptions[probe.name, type(error).__name__] += 1

    def facts(self, process: ProcessId) -> Facts:
        """Return the facts of all probes about ``process``."""
        known: dict[str, FactValue] = {}
        for probe in self._probes:
            known.update(probe.facts(process))
        return known

    def connections(self, process: ProcessId) -> tuple[Connection, ...]:
        """Return the connections of a suspect at the last look, oldest first."""
        for probe in self._probes:
            if isinstance(probe, ConnectionsProbe):
                return probe.connections(process)
        return ()

    def failures(self) -> Iterator[tuple[str, str, int]]:
        """Yield the failures since the start: probe, reason, count."""
        for probe in self._probes:
            yield from ((probe.name, reason, n) for reason, n in [*probe.failures.items()])
        yield from ((name, reason, n) for (name, reason), n in [*self._exceptions.items()])

    def close(self) -> None:
        """Release what the probes hold."""
        for probe in self._probes:
            probe.close()

    def _owner_of(self, process: ProcessId) -> Hashable:
        return self._owners.get(process)

    def _unchanged(self, suspects: Sequence[Suspect]) -> list[Suspect]:
        """Leave out suspects that run another program than at the last look.

        Every probe then forgets the facts about the earlier program.
        """
        before = self._programs
        self._programs = {each.process: each.program for each in suspects}
        return [each for each in suspects if before.get(each.process, each.program) == each.program]
