"""Deep looks at suspects: what is too costly to ask of every process.

Each probe is isolated: it fails alone, is counted and timed. It keeps what it has learnt of a
process as facts, for as long as the process is a suspect. Nothing here waits for a process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Protocol

from minerwatch.config import Config
from minerwatch.detection.facts import measured
from minerwatch.model import Connection, Facts, FactValue, FpSample, ProcessId
from minerwatch.node.content import ContentReader
from minerwatch.node.mappings import MappingReader
from minerwatch.node.pool_names import PoolNames
from minerwatch.node.privilege import effective_capabilities
from minerwatch.node.ptrace import PtraceSampler, PtraceUnavailableError
from minerwatch.node.quota import OwnQuota
from minerwatch.node.rounding import ENOUGH_ROUNDS, LEAST_SAMPLES, RoundingSamples
from minerwatch.node.sockets import ConnectionReader
from minerwatch.node.tasks import TaskIterator

_CONNECTIONS_EVERY_S = 30.0
_MAPPINGS_EVERY_S = 60.0
_FIRST_CONTENT_PAUSE_S = 600.0
_LAST_CONTENT_PAUSE_S = 4 * 3600.0
"""A scan costs about a second: the longer a process is known, the rarer it is scanned again."""
_ROUNDING_EVERY_S = 300.0
_ODD_ROUNDING_EVERY_S = 60.0
_SAMPLING_ENDS_AFTER_S = 60.0

_NO_FP_CONTROL = "it does not know where this kernel keeps the floating-point control word"

NO_FACTS: Facts = {}

_IsTimeLeft = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Suspect:
    """A process that is worth a closer look."""

    process: ProcessId
    program: tuple[int, int, int]  # as in ProcessStat
    is_settled: bool  # something was found in it, or it has burnt CPU for long enough


class Probe(Protocol):
    """One way to look at suspects."""

    name: str
    looks_early: bool  # so cheap that it looks at all that burn CPU now, not the settled only

    @property
    def failures(self) -> Mapping[str, int]:
        """What went wrong since the start, by reason."""

    def look(self, suspects: Sequence[ProcessId], at_s: float, is_time_left: _IsTimeLeft) -> None:
        """Learns what it can of ``suspects`` and forgets all others."""

    def facts(self, process: ProcessId) -> Facts:
        """What is known of ``process``."""

    def close(self) -> None:
        """Lets go of what it holds."""


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
        pool_servers: Sequence[str] = (),
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
        self._rounding: Rounding | None = None
        self._sampler: PtraceSampler | None = None
        self._content: Content | None = None
        self._connections: Connections | None = None
        self._proc = proc = config.node.proc
        pools = pool_servers if config.probes.resolve_pools else ()
        lacks = _missing_capability()
        switches: tuple[tuple[str, bool, str, Callable[[], Probe]], ...] = (
            ("connections", config.probes.connections, lacks, lambda: self._opened_sockets(pools)),
            ("mappings", config.probes.mappings, lacks, lambda: MemoryMappings(proc)),
            ("content", config.probes.content, lacks, lambda: self._opened_content(content_rules)),
        )
        for name, is_wanted, lack, opened in switches:
            off = lack if is_wanted else f"switched off (probes.{name})"
            if not off:
                self._probes.append(opened())
            self.status.append(ProbeStatus(name, off, is_wanted))
        self._open_rounding(config, tasks, tasks_off)

    def _opened_sockets(self, pool_servers: Sequence[str]) -> Probe:
        self._connections = Connections(self._proc, pool_servers)
        return self._connections

    def _opened_content(self, rules: Sequence[Path]) -> Probe:
        self._content = Content(ContentReader(self._proc, rules))
        return self._content

    def use_content_rules(self, rules: Sequence[Path]) -> None:
        """Puts other YARA rules in force."""
        if self._content is not None:
            self._content.use(rules)

    def _open_rounding(self, config: Config, tasks: TaskIterator | None, tasks_off: str) -> None:
        """By the task iterator; else by ptrace, where the operator allows it."""
        if tasks is not None and not tasks.has_fp_control:
            tasks, tasks_off = None, _NO_FP_CONTROL
        is_wanted = config.probes.rounding
        is_ptrace_wanted = is_wanted and config.probes.ptrace and tasks is None
        off = "" if is_wanted else "switched off (probes.rounding)"
        if is_ptrace_wanted:
            self._sampler, ptrace_off = _opened_sampler(config)
        elif not config.probes.ptrace:
            ptrace_off = "switched off (probes.ptrace)"
        else:
            ptrace_off = "not needed: " + (off or "the task iterator tells how suspects round")
        if is_wanted and tasks is not None:
            self._rounding = Rounding(tasks)
        elif self._sampler is not None:
            self._rounding = Rounding(self._sampler, spares_the_innocent=True)
        elif is_wanted:
            off = f"it needs the task iterator or ptrace; tasks: {tasks_off}; ptrace: {ptrace_off}"
        if self._rounding is not None:
            self._probes.append(self._rounding)
        self.status.append(ProbeStatus("rounding", off, is_wanted))
        self.status.append(ProbeStatus("ptrace", ptrace_off, is_ptrace_wanted))

    def look(self, suspects: Sequence[Suspect], at_s: float) -> dict[str, float]:
        """Looks at ``suspects`` within the budget; the seconds that each probe took."""
        ends_s = time.perf_counter() + self._budget_s
        took_s = {}
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
        if self._sampler is not None:
            self._sampler.close()

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


class Connections:
    """Whom suspects are connected to."""

    name = "connections"
    looks_early = False

    def __init__(self, proc: str, pool_servers: Sequence[str] = ()) -> None:
        self._reader = ConnectionReader(proc)
        self._pools = PoolNames(pool_servers) if pool_servers else None
        self._asked_s: dict[ProcessId, float] = {}
        self._facts: dict[ProcessId, Facts] = {}
        self._open: dict[ProcessId, tuple[Connection, ...]] = {}

    @property
    def failures(self) -> Mapping[str, int]:
        """As ConnectionReader counts them."""
        return self._reader.failures

    def look(self, suspects: Sequence[ProcessId], at_s: float, is_time_left: _IsTimeLeft) -> None:
        """Takes the answers that have come, and asks for those whose last one is old."""
        answers = self._reader.answers()
        self._asked_s = {each: self._asked_s.get(each, float("-inf")) for each in suspects}
        self._facts = {each: self._facts.get(each, NO_FACTS) for each in suspects}
        self._open = {each: self._open[each] for each in suspects if each in self._open}
        for process in suspects:
            if process in answers:
                self._open[process] = connections = answers[process]
                names = self._names(connections)
                self._facts[process] = _connection_facts(connections, names, at_s)
        due = [each for each in suspects if at_s - self._asked_s[each] >= _CONNECTIONS_EVERY_S]
        if due and is_time_left() and self._reader.ask(due, at_s):
            self._asked_s.update(dict.fromkeys(due, at_s))

    def facts(self, process: ProcessId) -> Facts:
        """DestinationIp, DestinationPort, DestinationHostname, LongestConnection, Initiated."""
        return self._facts.get(process, NO_FACTS)

    def connections(self, process: ProcessId) -> tuple[Connection, ...]:
        """Those that ``process`` had at the last look, oldest first."""
        return self._open.get(process, ())

    def close(self) -> None:
        """Ends the reader's thread and the look-ups."""
        self._reader.close()
        if self._pools is not None:
            self._pools.close()

    def _names(self, connections: Sequence[Connection]) -> tuple[str, ...]:
        if self._pools is None:
            return ()
        names = (self._pools.names(each.address) for each in connections)
        return tuple(dict.fromkeys(name for each in names for name in each))


class MemoryMappings:
    """What suspects keep in memory."""

    name = "mappings"
    looks_early = False

    def __init__(self, proc: str) -> None:
        self._reader = MappingReader(proc)
        self._asked_s: dict[ProcessId, float] = {}
        self._facts: dict[ProcessId, Facts] = {}

    @property
    def failures(self) -> Mapping[str, int]:
        """As MappingReader counts them."""
        return self._reader.failures

    def look(self, suspects: Sequence[ProcessId], at_s: float, is_time_left: _IsTimeLeft) -> None:
        """Takes the answers that have come, and asks again where the last one is old."""
        answers = self._reader.answers()
        self._asked_s = {each: self._asked_s.get(each, float("-inf")) for each in suspects}
        self._facts = {each: self._facts.get(each, NO_FACTS) for each in suspects}
        for process in suspects:
            if process in answers:
                mappings = answers[process]
                self._facts[process] = measured(
                    JitMiB=mappings.jit_mib, LargestAnonymousMiB=mappings.largest_anonymous_mib
                )
            if at_s - self._asked_s[process] >= _MAPPINGS_EVERY_S and is_time_left():
                self._asked_s[process] = at_s
                self._reader.ask(process)

    def facts(self, process: ProcessId) -> Facts:
        """JitMiB, LargestAnonymousMiB."""
        return self._facts.get(process, NO_FACTS)

    def close(self) -> None:
        """Ends the reader's thread."""
        self._reader.close()


class Content:
    """What the executables and the memory of suspects hold."""

    name = "content"
    looks_early = False

    def __init__(self, reader: ContentReader) -> None:
        self._reader = reader
        self._pause_s: dict[ProcessId, float] = {}
        self._due_s: dict[ProcessId, float] = {}
        self._facts: dict[ProcessId, Facts] = {}

    @property
    def failures(self) -> Mapping[str, int]:
        """As ContentReader counts them."""
        return self._reader.failures

    def use(self, rules: Sequence[Path]) -> None:
        """Scans again, by other rules."""
        self._reader.use(rules)
        self._due_s.clear()

    def look(self, suspects: Sequence[ProcessId], at_s: float, is_time_left: _IsTimeLeft) -> None:
        """Takes the answers that have come, and asks again where the last one is old."""
        del is_time_left  # nothing is read here
        answers = self._reader.answers()
        first_s = _FIRST_CONTENT_PAUSE_S
        self._due_s = {each: self._due_s.get(each, at_s) for each in suspects}
        self._pause_s = {each: self._pause_s.get(each, first_s) for each in suspects}
        self._facts = {each: self._facts.get(each, NO_FACTS) for each in suspects}
        for process in suspects:
            if process in answers:
                names = answers[process]
                self._facts[process] = {"ContentMatches": names} if names else NO_FACTS
            if at_s >= self._due_s[process]:
                self._due_s[process] = at_s + self._pause_s[process]
                self._pause_s[process] = min(2 * self._pause_s[process], _LAST_CONTENT_PAUSE_S)
                self._reader.ask(process)

    def facts(self, process: ProcessId) -> Facts:
        """ContentMatches."""
        return self._facts.get(process, NO_FACTS)

    def close(self) -> None:
        """Ends the scanner."""
        self._reader.close()


class FpSource(Protocol):
    """Where control words of threads come from."""

    failures: dict[str, int]
    most_at_once: int  # processes that it can tell of

    def fp_samples(self, processes: Iterable[ProcessId]) -> Sequence[FpSample]:
        """What is known of them now; it does not wait."""

    def rest(self) -> None:
        """Lets go of what is not needed while nobody is sampled."""


@dataclass(slots=True)
class _Sampling:
    """One round of samples of a process."""

    began_s: float
    samples: RoundingSamples = field(default_factory=RoundingSamples)


class Rounding:
    """How suspects round: some dozens of samples, a second apart, then a rest.

    Where there are more suspects than its source can tell of at once, those that have waited
    longest come first.
    """

    name = "rounding"
    looks_early = True

    def __init__(self, source: FpSource, *, spares_the_innocent: bool = False) -> None:
        """``spares_the_innocent``: fewer samples do where all show the same mode."""
        self._source = source
        self._enough_of_one_mode = LEAST_SAMPLES if spares_the_innocent else ENOUGH_ROUNDS
        self._sampled: dict[ProcessId, _Sampling] = {}
        self._due_s: dict[ProcessId, float] = {}
        self._facts: dict[ProcessId, Facts] = {}

    @property
    def failures(self) -> Mapping[str, int]:
        """As its source counts them."""
        return self._source.failures

    @property
    def wants_samples(self) -> bool:
        """Whether anybody is being sampled."""
        return bool(self._sampled)

    def look(self, suspects: Sequence[ProcessId], at_s: float, is_time_left: _IsTimeLeft) -> None:
        """Begins with those that have not been sampled for some time."""
        del is_time_left  # nothing is read here
        self._facts = {each: self._facts.get(each, NO_FACTS) for each in suspects}
        self._due_s = {each: self._due_s.get(each, at_s) for each in suspects}
        self._sampled = {
            each: sampling for each, sampling in self._sampled.items() if each in self._due_s
        }
        self._begin(at_s)

    def sample(self, at_s: float) -> None:
        """Takes one sample of running threads of those that are being sampled."""
        for sample in self._source.fp_samples(tuple(self._sampled)):
            sampling = self._sampled.get(sample.process)
            if sampling is not None:
                sampling.samples.add(at_s, sample.tid, sample.fp_control, sample.switches)
        for process, sampling in list(self._sampled.items()):
            self._take_note(process, sampling, at_s)
        self._begin(at_s)

    def facts(self, process: ProcessId) -> Facts:
        """RoundingShare, RoundingModes, FlushToZeroShare."""
        return self._facts.get(process, NO_FACTS)

    def close(self) -> None:
        """Nothing is held but the source, which is not its own."""

    def _begin(self, at_s: float) -> None:
        due = [each for each in self._due_s if self._due_s[each] <= at_s]
        due.sort(key=self._due_s.__getitem__)
        waiting = (each for each in due if each not in self._sampled)
        free = self._source.most_at_once - len(self._sampled)
        self._sampled.update((each, _Sampling(at_s)) for each in islice(waiting, free))
        if not self._sampled:
            self._source.rest()

    def _take_note(self, process: ProcessId, sampling: _Sampling, at_s: float) -> None:
        rounding = sampling.samples.rounding()
        modes = rounding.modes if rounding is not None else 0
        if rounding is not None:
            self._facts[process] = measured(
                RoundingShare=rounding.share,
                RoundingModes=modes,
                FlushToZeroShare=rounding.flush_to_zero_share,
            )
        is_late = at_s - sampling.began_s >= _SAMPLING_ENDS_AFTER_S
        enough = self._enough_of_one_mode if modes == 1 else ENOUGH_ROUNDS
        if is_late or sampling.samples.rounds >= enough:
            rest_s = _ODD_ROUNDING_EVERY_S if modes > 1 else _ROUNDING_EVERY_S
            self._due_s[process] = at_s + rest_s
            del self._sampled[process]


def _connection_facts(
    connections: Sequence[Connection], names: tuple[str, ...], at_s: float
) -> Facts:
    if not connections:
        return NO_FACTS
    return {
        **({"DestinationHostname": names} if names else {}),
        "Initiated": True,  # what others opened is not told
        "DestinationIp": tuple(dict.fromkeys(each.address for each in connections)),
        "DestinationPort": tuple(dict.fromkeys(str(each.port) for each in connections)),
        "LongestConnection": at_s - min(each.since_s for each in connections),
    }


def _opened_sampler(config: Config) -> tuple[PtraceSampler | None, str]:
    """Samples by short stops, or why there are none."""
    lacks = _missing_capability()
    if not lacks and config.node.proc != Config().node.proc:
        lacks = "node.proc is not this kernel's"
    if lacks:
        return None, lacks
    try:
        return PtraceSampler(OwnQuota(config.node.sys).reason), ""
    except PtraceUnavailableError as error:
        return None, str(error)


def _missing_capability() -> str:
    if "SYS_PTRACE" in effective_capabilities():
        return ""
    return "the capability SYS_PTRACE is missing: grant it to the agent, or run it as root"
