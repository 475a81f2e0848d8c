"""Matches rules: once per program on facts that never change, at each tick on measured ones."""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Set

from minerwatch.agent.kept_text import bound_text, shorten_texts
from minerwatch.agent.process_meter import ProcessMeter
from minerwatch.agent.scheduling import PhaseTimer
from minerwatch.agent.tracked import Measured, TrackedContainer, TrackedNode, TrackedProcess
from minerwatch.config.schema import Examination
from minerwatch.detection.condition import Absent, Number, Present, SameAs, predicates
from minerwatch.detection.facts import container_facts, measured
from minerwatch.detection.fields import KNOWN_FIELDS, is_of_container
from minerwatch.detection.judge import Sighting
from minerwatch.detection.matching.matcher import Matcher
from minerwatch.detection.sigma.rule import Rule
from minerwatch.fair_queue import FairQueue
from minerwatch.model import Container, ContainerKey, Facts, FactValue, ProcessId
from minerwatch.probes.executed_code import ExecutedCode
from minerwatch.probes.first_words import FirstWordsProbe
from minerwatch.probes.gpu import Gpus
from minerwatch.probes.network_counters import PodNetworks
from minerwatch.probes.registry import Probes
from minerwatch.text_budget import fattest_over

_SATURATED_CORES = 0.9
"""At a lower CPU rate no thread of the process can use 95 % of a core for long."""

PROCESS_FIELDS = ("Age", "Threads", "CpuSeconds", "CpuCores", "CpuFlatness")
CONTAINER_FIELDS = tuple(
    each.name
    for each in KNOWN_FIELDS.values()
    if each.dynamic and each.unit != "list" and is_of_container(each.name)
)
"""Dynamic rules are matched again once one of these fields, or of PROCESS_FIELDS, crosses a
threshold of a rule. All other dynamic fields (memory, saturated threads, those of probes) are
measured of busy processes and suspects only, and these are matched at each tick."""
MEMORY_FIELDS = frozenset(("RssMiB", "HugepagesMiB"))


class Matching:
    """Matches containers and processes, and bounds the text that matched processes keep.

    Static rules are matched by queue, dynamic ones for the processes whose facts changed.
    """

    def __init__(
        self,
        node: TrackedNode,
        meter: ProcessMeter,
        probes: Probes,
        examination: Examination,
        matcher: Matcher,
        timer: PhaseTimer,
    ) -> None:
        self.deferred = 0
        """Processes that had to wait for another call, since the start."""
        self._node = node
        self._meter = meter
        self._probes = probes
        self.code: ExecutedCode | None = None
        """Evidence on all processes; set before the first tick."""
        self.networks: PodNetworks | None = None
        self._first_words: FirstWordsProbe | None = None
        self.gpus: Gpus | None = None
        self._examination = examination
        self._timer = timer
        self._queue: FairQueue[tuple[TrackedContainer, TrackedProcess]] = FairQueue()
        self._to_read_again: set[int] = set()
        self._shortened: dict[ContainerKey, Container] = {}
        self._shortened_count = 0
        self.use(matcher)

    def use(self, matcher: Matcher) -> None:
        """Put other rules in force; every process is matched again."""
        self._matcher = matcher
        self._of_process = Thresholds(matcher.rules, PROCESS_FIELDS)
        self._of_container = Thresholds(matcher.rules, CONTAINER_FIELDS)
        self._fields = frozenset().union(*(rule.fields for rule in matcher.rules))
        self.use_first_words(self._first_words)
        for container in self._node.containers.values():
            self.queue_all(container)

    def use_first_words(self, source: FirstWordsProbe | None) -> None:
        """Use this source for the fields of first words that rules name."""
        self._first_words = source
        if source is not None:
            source.use(self._matcher.rules)

    # Static rules.

    @property
    def queued(self) -> int:
        """Number of processes whose static rules are still to be matched."""
        return len(self._queue)

    @property
    def has_deferred(self) -> bool:
        """True if processes must be read again to be matched: their text was shortened."""
        return bool(self._to_read_again)

    def queue_all(self, container: TrackedContainer) -> None:
        """Queue all processes of a container; until matched they keep their matches."""
        for process in container.processes.values():
            process.forget_measured()
            if process.is_shortened:
                self._to_read_again.add(process.process.id.pid)
            elif not process.process.kernel_thread:
                self.queue(container, process)

    def queue(self, container: TrackedContainer, process: TrackedProcess) -> None:
        """Queue a process, once."""
        if not process.is_queued:
            process.is_queued = True
            self._queue.push(container.owner, (container, process))

    def pop_to_read_again(self) -> set[int]:
        """Return the PIDs to read again before they can be matched, once."""
        found, self._to_read_again = self._to_read_again, set()
        return {pid for pid in found if pid in self._node.container_of}

    def match_queued(self, cpu_s: float) -> Iterable[TrackedContainer]:
        """Match queued processes for ``cpu_s`` of CPU time; return their containers.

        One hostile command line takes milliseconds, and there may be thousands.
        """
        touched: dict[TrackedContainer, None] = {}
        with self._timer.phase("rules"):
            until_s = time.thread_time() + cpu_s
            while (queued := self._queue.pop()) is not None:
                container, process = queued
                if container.processes.get(process.process.id.pid) is process:
                    self._match_static(container, process)
                    touched[container] = None
                if time.thread_time() >= until_s:
                    break
        return touched

    def bound_all_text(self) -> None:
        """Shorten the longest texts of the owners that keep most, until all fit."""
        while over := fattest_over(self._text_bytes_by_owner()):
            owner, max_bytes = over
            own = [each for each in self._node.containers.values() if each.owner == owner]
            before_bytes = sum(each.text_bytes for each in own)
            self._shortened_count += shorten_texts(
                (process for each in own for process in each.processes.values()), max_bytes
            )
            for container in own:
                container.collect_static_sightings()
                self._shortened[container.container.key] = container.container
            if sum(each.text_bytes for each in own) >= before_bytes:
                return  # nothing is left to shorten

    def pop_shortened(self) -> tuple[tuple[Container, ...], int]:
        """Return the containers and the number of processes whose text was shortened, once."""
        found = tuple(self._shortened.values()), self._shortened_count
        self._shortened, self._shortened_count = {}, 0
        return found

    def _match_static(self, container: TrackedContainer, process: TrackedProcess) -> None:
        parent = self._node.process(process.process.parent_pid)
        process.parent = parent.process if parent else process.parent  # it may have exited
        process.facts, process.facts_bytes = None, 0
        process.is_queued = False
        process.forget_measured()
        process.matches = self._matcher.static_matches(container.static_facts_of(process))
        process.facts, process.facts_bytes = None, 0  # they hold all of the parent's text
        container.text_bytes -= process.text_bytes
        bound_text(process, process.parent)
        container.text_bytes += process.text_bytes

    def _text_bytes_by_owner(self) -> dict[str, int]:
        kept: dict[str, int] = {}
        for container in self._node.containers.values():
            if container.text_bytes:
                kept[container.owner] = kept.get(container.owner, 0) + container.text_bytes
        return kept

    # Dynamic rules.

    def sightings(
        self, container: TrackedContainer, suspects: Set[ProcessId], at_s: float
    ) -> Iterator[Sighting]:
        """Yield what matches of the container, then of its processes.

        ``suspects``: the only processes that probes may know something about.
        """
        shared = self._shared_facts(container, at_s)
        matched: set[str] = set()
        seen = self._of_container.intervals(shared)
        if seen != container.shared_measured:
            container.shared_measured = seen
            for process in container.processes.values():
                process.forget_measured()
        for process in container.processes.values():
            if process.cpu is not None and not (process.is_idle and at_s < process.idle_until_s):
                is_suspect = process.process.id in suspects
                for sighting in self._process_sightings(
                    container, process, shared, at_s, is_suspect=is_suspect
                ):
                    matched.add(sighting.rule.id)
                    yield sighting
        together = self.code.facts(container.container.key) if self.code else {}
        for match in self._matcher.container_matches({**shared, **together}):
            if match.rule.of_container or match.rule.id not in matched:
                yield Sighting(match.rule, None, match.evidence)

    def _process_sightings(
        self,
        container: TrackedContainer,
        process: TrackedProcess,
        shared: Facts,
        at_s: float,
        *,
        is_suspect: bool,
    ) -> Iterator[Sighting]:
        facts = self._measured_facts(process, at_s)
        of_all = {
            **(self.code.facts(process.process.id) if self.code else {}),
            **(self._first_words.facts(process.process.id) if self._first_words else {}),
            **(self.gpus.facts(process.process.id) if self.gpus else {}),
        }
        cores = process.cpu_cores or 0.0
        if not is_suspect and not of_all and cores < _SATURATED_CORES:
            seen = self._of_process.intervals(facts)
            if seen == process.unmatched:
                self._skip_while_idle(process, facts)
                return
        else:
            seen = None
            facts |= self._extra_facts(process, cores, at_s, is_suspect=is_suspect)
            facts |= of_all
        matches = self._matcher.dynamic_matches(
            {**container.static_facts_of(process), **shared, **facts}
        )
        process.unmatched = seen if not matches else None
        process.is_idle = False
        yield from container.sightings_of(process, matches)

    def _skip_while_idle(self, process: TrackedProcess, facts: Facts) -> None:
        """Stop measuring a process that matches nothing and has not run within the window."""
        if process.cpu is None or process.matches or not process.cpu.is_idle:
            return
        process.is_idle = process.is_lagging = True
        process.facts, process.facts_bytes = None, 0
        process.idle_until_s = process.born_s + self._of_process.next_above("Age", facts)

    def _shared_facts(self, container: TrackedContainer, at_s: float) -> Facts:
        return {
            **container_facts(
                container.container,
                cpu_cores=container.cpu.cores,
                cpu_s=container.cpu.cpu_s,
                cpu_limit_cores=container.limit.cores if container.limit else None,
                hidden_cpu_share=self._hidden_cpu_share(container, at_s),
                cgroups_over_bound=container.is_over_bound,
            ),
            **container.cluster_facts,
            **(self.networks.facts(container.container.key) if self.networks else {}),
            **container.gpu,
        }

    def _hidden_cpu_share(self, container: TrackedContainer, at_s: float) -> float | None:
        """Return the share of the container's CPU rate that no visible process accounts for."""
        cores = container.cpu.cores
        if not cores or cores < self._examination.hot_cpu_cores:
            return None
        seen_cores = 0.0
        for process in container.measured_processes():
            if process.cpu is None:
                continue
            if process.cpu.cores is not None:
                seen_cores += process.cpu.cores
            elif process.born_s >= self._node.last_tick_s:
                seen_cores += process.cpu.cpu_s / (at_s - self._node.last_tick_s)
            else:
                return None
        return max(0.0, 1 - seen_cores / cores)

    def _measured_facts(self, process: TrackedProcess, at_s: float) -> dict[str, FactValue]:
        if process.cpu is None:
            return {}
        return measured(
            Age=at_s - process.born_s,
            Threads=process.threads,
            CpuSeconds=process.cpu.cpu_s,
            CpuCores=process.cpu.cores,
            CpuFlatness=process.cpu.flatness(),
        )

    def _extra_facts(
        self, process: TrackedProcess, cores: float, at_s: float, *, is_suspect: bool
    ) -> dict[str, FactValue]:
        """Return facts that are read of busy processes only, and those that probes know."""
        facts: dict[str, FactValue] = {}
        if cores >= _SATURATED_CORES and "SaturatedThreads" in self._fields:
            facts |= measured(SaturatedThreads=self._meter.saturated_threads(process, at_s))
        is_examined = is_suspect or cores >= _SATURATED_CORES
        if is_examined and self._fields & MEMORY_FIELDS:
            memory = self._meter.memory(process)
            if memory is not None:
                facts |= measured(RssMiB=memory.rss_mib, HugepagesMiB=memory.hugetlb_mib)
        facts.update(self._probes.facts(process.process.id))
        return facts


class Thresholds:
    """The numbers that rules on processes compare some measured facts with.

    While each value stays between the same two thresholds, the same rules match.
    """

    def __init__(self, rules: Iterable[Rule], names: Iterable[str]) -> None:
        numbers: dict[str, set[float]] = {}
        exact: set[str] = set()
        for rule in rules:
            if not rule.dynamic or rule.of_container:
                continue
            for predicate in predicates(rule.condition):
                if isinstance(predicate, Number):
                    numbers.setdefault(predicate.field, set()).add(predicate.threshold)
                elif isinstance(predicate, Present | Absent):
                    numbers.setdefault(predicate.field, set())
                else:
                    exact.add(predicate.field)
                if isinstance(predicate, SameAs):
                    exact.add(predicate.other)
        self._exact = tuple(name for name in names if name in exact)
        self._bounds = {
            name: tuple(sorted(numbers[name]))
            for name in names
            if name in numbers and name not in exact
        }

    def intervals(self, facts: Facts) -> Measured:
        """Return the interval that each value lies in, or the value where rules need it exactly."""
        found = [facts.get(name) for name in self._exact]
        for name, bounds in self._bounds.items():
            value = facts.get(name)
            if isinstance(value, int | float):
                value = bisect_left(bounds, value) + bisect_right(bounds, value)
            found.append(value)
        return tuple(found)

    def next_above(self, name: str, facts: Facts) -> float:
        """Return the number at which the interval of a growing value changes next."""
        value = facts.get(name)
        if name in self._exact or not isinstance(value, int | float):
            return 0.0
        bounds = self._bounds.get(name, ())
        index = bisect_right(bounds, value)
        return bounds[index] if index < len(bounds) else float("inf")
