"""Every probe that is on, and why the others are off.

Each probe is isolated: it fails alone, is counted and timed. It keeps what it has learnt of a
process as facts, for as long as the process is a suspect. Nothing here waits for a process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from minerwatch.config.schema import Config
from minerwatch.model import Connection, Facts, FactValue, ProcessId
from minerwatch.node.capabilities import effective_capabilities
from minerwatch.node.task_iterator import TaskIterator
from minerwatch.node.yara_scan import ContentReader
from minerwatch.probes.base import Probe, Suspect
from minerwatch.probes.connections import Connections
from minerwatch.probes.fp_rounding import Rounding
from minerwatch.probes.memory_maps import MemoryMappings
from minerwatch.probes.yara import Content

_NO_FP_CONTROL = "it does not know where this kernel keeps the floating-point control word"


@dataclass(frozen=True, slots=True)
class ProbeStatus:
    """Whether a probe is on, and if not, what would switch it on."""

    name: str
    off: str  # "" if it is on
    is_asked_for: bool = True


class Probes:
    """All probes that are on, and why the others are off."""

    def __init__(
        self,
        config: Config,
        *,
        content_rules: Sequence[Path] = (),
        tasks: TaskIterator | None = None,
        tasks_off: str = "",
    ) -> None:
        """``tasks``: the node's task iterator; without one ``tasks_off`` says why there is none."""
        self.status: list[ProbeStatus] = []
        self._budget_s = config.probes.budget
        self._own_failures: dict[tuple[str, str], int] = {}
        self._probes: list[Probe] = []
        self._programs: dict[ProcessId, tuple[int, int, int]] = {}
        self._owners: dict[ProcessId, Hashable] = {}
        self._rounding: Rounding | None = None
        self._content: Content | None = None
        self._connections: Connections | None = None
        self._proc = proc = config.node.proc
        lacks = _missing_capability()
        switches: tuple[tuple[str, bool, str, Callable[[], Probe]], ...] = (
            ("connections", config.probes.connections, lacks, self._opened_sockets),
            (
                "mappings",
                config.probes.mappings,
                lacks,
                lambda: MemoryMappings(proc, self._owner_of),
            ),
            ("content", config.probes.content, lacks, lambda: self._opened_content(content_rules)),
        )
        for name, is_wanted, lack, opened in switches:
            off = lack if is_wanted else f"switched off (probes.{name})"
            if not off:
                self._probes.append(opened())
            self.status.append(ProbeStatus(name, off, is_wanted))
        self._open_rounding(config, tasks, tasks_off)

    def _opened_sockets(self) -> Probe:
        self._connections = Connections(self._proc, self._owner_of)
        return self._connections

    def _opened_content(self, rules: Sequence[Path]) -> Probe:
        self._content = Content(ContentReader(self._proc, rules), self._owner_of)
        return self._content

    def use_content_rules(self, rules: Sequence[Path]) -> None:
        """Puts other YARA rules in force."""
        if self._content is not None:
            self._content.use(rules)

    def _open_rounding(self, config: Config, tasks: TaskIterator | None, tasks_off: str) -> None:
        if tasks is not None and not tasks.has_fp_control:
            tasks, tasks_off = None, _NO_FP_CONTROL
        is_wanted = config.probes.rounding
        off = "" if is_wanted else "switched off (probes.rounding)"
        if is_wanted and tasks is not None:
            self._rounding = Rounding(tasks, owner_of=self._owner_of)
            self._probes.append(self._rounding)
        elif is_wanted:
            off = f"it needs the task iterator; tasks: {tasks_off}"
        self.status.append(ProbeStatus("rounding", off, is_wanted))

    def look(self, suspects: Sequence[Suspect], at_s: float) -> dict[str, float]:
        """Looks at ``suspects`` within the budget; the seconds that each probe took."""
        ends_s = time.perf_counter() + self._budget_s
        took_s = {}
        self._owners = {each.process: each.owner for each in suspects}
        unchanged = self._unchanged(suspects)
        settled = [each.process for each in unchanged if each.is_settled]
        early = [each.process for each in unchanged]
        for probe in self._probes:
            started_s = time.perf_counter()
            try:
                probe.look(
                    early if probe.looks_early else settled,
                    at_s,
                    lambda: time.perf_counter() < ends_s,
                )
            except Exception as error:  # noqa: BLE001 - a probe fails alone
                self._fail(probe.name, error)
            took_s[probe.name] = time.perf_counter() - started_s
        return took_s

    @property
    def wants_samples(self) -> bool:
        """Whether ``sample`` has something to do."""
        return self._rounding is not None and self._rounding.wants_samples

    def sample(self, at_s: float) -> None:
        """What has to be looked at again and again between two looks."""
        if self._rounding is None:
            return
        try:
            self._rounding.sample(at_s)
        except Exception as error:  # noqa: BLE001 - a probe fails alone
            self._fail(self._rounding.name, error)

    def facts(self, process: ProcessId) -> Facts:
        """Everything that the probes know of ``process``."""
        known: dict[str, FactValue] = {}
        for probe in self._probes:
            known.update(probe.facts(process))
        return known

    def connections(self, process: ProcessId) -> tuple[Connection, ...]:
        """Whom ``process`` was connected to at the last look; of suspects only, oldest first."""
        return self._connections.connections(process) if self._connections is not None else ()

    def failures(self) -> Iterator[tuple[str, str, int]]:
        """What went wrong since the start: probe, reason, count."""
        for probe in self._probes:
            yield from ((probe.name, reason, n) for reason, n in [*probe.failures.items()])
        yield from ((name, reason, n) for (name, reason), n in [*self._own_failures.items()])

    def close(self) -> None:
        """Lets go of what the probes hold."""
        for probe in self._probes:
            probe.close()

    def _owner_of(self, process: ProcessId) -> Hashable:
        return self._owners.get(process)

    def _unchanged(self, suspects: Sequence[Suspect]) -> list[Suspect]:
        """Without those that run another program than at the last look.

        Leaving them out once makes every probe forget what it knew of the program before.
        """
        before = self._programs
        self._programs = {each.process: each.program for each in suspects}
        return [each for each in suspects if before.get(each.process, each.program) == each.program]

    def _fail(self, name: str, error: Exception) -> None:
        key = (name, type(error).__name__)
        self._own_failures[key] = self._own_failures.get(key, 0) + 1


def _missing_capability() -> str:
    if "SYS_PTRACE" in effective_capabilities():
        return ""
    return "the capability SYS_PTRACE is missing: grant it to the agent, or run it as root"
