"""One tick: sample the node, match facts, look at suspects, judge containers.

``tracker`` reads processes, ``process_meter`` their counters, ``matching`` matches rules. A tick
returns what it found; ``publisher`` publishes it.
Processes are measured one by one only in hot containers: those that are new or use CPU, that have a
finding, or about which a probe has news (``Watch._is_hot``).
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from minerwatch.agent.gpu_users import GpuSummary, GpuUsers
from minerwatch.agent.looks import Looks
from minerwatch.agent.matching import Matching
from minerwatch.agent.network_users import network_users
from minerwatch.agent.process_meter import ProcessMeter
from minerwatch.agent.scheduling import PhaseTimer
from minerwatch.agent.tracked import Details, TickLimits, TrackedContainer, TrackedNode
from minerwatch.agent.tracker import LockedLocator, Tracker
from minerwatch.config.schema import Examination
from minerwatch.detection.judge import Judge
from minerwatch.detection.matching.matcher import Matcher
from minerwatch.model import (
    Change,
    Container,
    ContainerKey,
    ContainerKind,
    Facts,
    Finding,
    Level,
    Observation,
    ProcessId,
)
from minerwatch.node.cgroups import CgroupTick, CgroupTree
from minerwatch.node.processes import ProcessReader
from minerwatch.node.task_iterator import TaskIterator
from minerwatch.probes.code_places import Locator
from minerwatch.probes.executed_code import ExecutedCode, Sampler
from minerwatch.probes.first_words import FirstWordsProbe
from minerwatch.probes.gpu import Gpus
from minerwatch.probes.hot_code import HotCode
from minerwatch.probes.network_counters import PodNetworks
from minerwatch.probes.registry import Probes

_MIN_NEW_TEXT_BYTES = 256 << 10
"""Growth of the text of one container after which the text of all is bounded again."""


@dataclass(frozen=True, slots=True)
class Sources:
    """The kernel sources that a watch reads."""

    cgroups: CgroupTree
    processes: ProcessReader
    tasks: TaskIterator | None = None
    probes: Probes = field(default_factory=Probes)
    code: Sampler | None = None
    hot_code: HotCode | None = None
    networks: PodNetworks | None = None
    first_words: FirstWordsProbe | None = None
    gpus: Gpus | None = None

    def close(self) -> None:
        """Release the kernel's files."""
        others = self.tasks, self.networks, self.first_words, self.gpus
        for source in (self.cgroups, self.processes, self.probes, *others):
            if source is not None:
                source.close()


@dataclass(frozen=True, slots=True)
class TickSummary:
    """Findings and figures of one tick."""

    at_s: float
    changes: tuple[Change, ...]
    ended: tuple[Observation, ...]  # containers that are gone and were above clear
    began: tuple[Finding, ...]
    flagged: tuple[Observation, ...]  # at suspicious or above; without their processes
    flagged_cpu_s: tuple[tuple[Container, Level, float], ...]  # CPU time since the last tick
    levels: Mapping[Level, int]
    process_count: int
    unmapped_count: int  # containers of pods that the cluster does not know
    over_bound_count: int  # owners of more cgroups than are kept apart
    foreign_count: int  # processes in PID namespaces that the agent cannot see into
    probe_s: Mapping[str, float]
    text_bytes: int = 0  # kept of all processes
    shortened_texts: int = 0  # processes whose text was shortened since the last tick
    shortened: tuple[Container, ...] = ()  # the containers of these processes
    gpus: GpuSummary = field(default_factory=GpuSummary)
    host_network_users: int = 0  # containers without network counters of their own


@dataclass(frozen=True, slots=True)
class ExecSummary:
    """Findings on processes that exec'ed between two ticks."""

    changes: tuple[Change, ...]
    began: tuple[Finding, ...]
    probe_s: Mapping[str, float]


def _executed_code(sources: Sources, locator: Locator) -> ExecutedCode | None:
    if sources.code is None:
        return None
    return ExecutedCode(sources.code, locator, hot=sources.hot_code)


def _failures_of(
    name: str, source: PodNetworks | FirstWordsProbe | Gpus | ExecutedCode | None
) -> Iterable[tuple[str, str, int]]:
    return ((name, *each) for each in source.failures()) if source is not None else ()


def _ended(tracker: Tracker, judge: Judge, gone: Iterable[ContainerKey]) -> tuple[Observation, ...]:
    """Forget containers; return the last observations of those that were flagged."""
    ended = []
    for key in gone:
        container = tracker.drop_container(key)
        judge.forget(key)
        if container is not None and container.verdict.level > Level.CLEAR:
            ended.append(container.observation())
    return tuple(ended)


def _talking(node: TrackedNode, source: FirstWordsProbe | None) -> Set[ContainerKey]:
    """Mark the processes with first words for matching; return their containers."""
    found: dict[ContainerKey, None] = {}
    for process in source.processes() if source is not None else ():
        container = node.container_of.get(process.pid)
        if container is not None and (own := container.processes.get(process.pid)):
            own.forget_measured()
            found[container.container.key] = None
    return found.keys()


class Watch:
    """The node's containers and processes, from tick to tick.

    ``tick`` and ``observations`` may be called from different threads.
    """

    def __init__(
        self,
        sources: Sources,
        matcher: Matcher,
        examination: Examination,
        judge: Judge,
        facts_of: Callable[[Container], Facts] | None = None,
        limits: TickLimits | None = None,
        timer: PhaseTimer | None = None,
    ) -> None:
        """``facts_of`` returns what the cluster knows of a container, as facts."""
        self._sources = sources
        self._examination = examination
        self._judge = judge
        limits = limits or TickLimits()
        self._timer = timer or PhaseTimer()
        self._lock = threading.Lock()
        self._has_other_rules = False
        self._node = node = TrackedNode()
        self._looks = Looks(node, sources.cgroups, examination, limits.max_suspects)
        self._gpu_users = GpuUsers(node, sources.gpus, self._looks)
        self._meter = ProcessMeter(node, sources.processes, sources.tasks, examination, limits)
        self._matching = Matching(
            node, self._meter, sources.probes, examination, matcher, self._timer
        )
        self._tracker = Tracker(
            node, sources.cgroups, sources.processes, self._meter, self._matching, limits, facts_of
        )
        self._code = _executed_code(sources, LockedLocator(self._lock, self._tracker))
        self._matching.code, self._matching.gpus = self._code, sources.gpus
        self._matching.networks = self._networks = sources.networks
        self._matching.use_first_words(sources.first_words)
        self._talking: Set[ContainerKey] = frozenset()  # with facts about first words
        self._details = Details(
            sources.probes.connections,
            self._code.facts if self._code else lambda _of: {},
            sources.processes.memory_bytes,
            self._gpu_users.facts,
            sources.networks.uses_host_network if sources.networks else lambda _pid: False,
        )

    def use(self, matcher: Matcher) -> None:
        """Put other rules in force; every process is matched again."""
        with self._lock:
            self._matching.use(matcher)
            self._has_other_rules = True

    def use_content_rules(self, rules: Sequence[Path]) -> None:
        """Put other YARA rules in force."""
        with self._lock:
            self._sources.probes.use_content_rules(rules)
            if self._code is not None:
                self._code.use_content_rules(rules)

    def close(self) -> None:
        """Release the kernel's files."""
        if self._code is not None:
            self._code.close()
        with self._lock:
            self._sources.close()

    def failures(self) -> list[tuple[str, str, int]]:
        """Return failed readings since the start: probe, reason, count."""
        sources = self._sources
        tasks = sources.tasks.failures if sources.tasks else {}
        return [
            *(("cgroups", *each) for each in sources.cgroups.failures.items()),
            *(("processes", *each) for each in sources.processes.failures.items()),
            *(("tasks", *each) for each in tasks.items()),
            *sources.probes.failures(),
            *_failures_of("pod_network", sources.networks),
            *_failures_of("first_words", sources.first_words),
            *_failures_of("gpu", sources.gpus),
            *_failures_of("executed_code", self._code),
            ("rules", "deferred", self._matching.deferred),
        ]

    def tick(self, at_s: float) -> TickSummary:
        """Sample, match and judge once; ``at_s`` is in seconds since boot."""
        with self._lock:
            try:
                return self._run_tick(at_s)
            finally:
                self._meter.end_tick()

    def handle_execs(
        self, pids: Iterable[int], at_s: float, max_cpu_s: float = float("inf")
    ) -> ExecSummary:
        """Read processes that have just exec'ed, and judge those that a static rule matches.

        Once ``max_cpu_s`` is used up, the others wait for the next call; owners take turns.
        """
        with self._lock:
            self._timer.restart("processes", "rules")
            with self._timer.phase("processes"):
                touched = self._tracker.read_execs(pids, at_s, max_cpu_s)
            matched = [each for each in touched if each.static_sightings]
            changes, began = _judge(self._judge, matched, at_s, is_tick=False)
            return ExecSummary(changes, began, self._timer.spent_s)

    @property
    def wants_samples(self) -> bool:
        """True if a probe needs ``sample`` to be called before the next tick."""
        return self._sources.probes.wants_samples

    @property
    def has_deferred(self) -> bool:
        """True if processes are left that ``handle_execs`` should read before the next tick."""
        return self._tracker.has_deferred

    def sample(self, at_s: float) -> None:
        """Let probes look at what changes faster than ticks."""
        with self._lock:
            self._sources.probes.sample(at_s)

    def container_of(self, pid: int) -> Container | None:
        """Return the container that a process is in; None: it is gone or not seen."""
        with self._lock:
            return self._sources.cgroups.container_of(pid)

    def recheck(self) -> None:
        """Check at the next tick that every process is still the same program."""
        with self._lock:
            self._tracker.recheck_all()

    def observations(self, max_processes: int) -> tuple[Observation, ...]:
        """Return every container as of the last tick."""
        with self._lock:
            return tuple(
                container.observation(max_processes, self._details)
                for container in self._node.containers.values()
            )

    def observation(self, key: ContainerKey, max_processes: int) -> Observation | None:
        """Return one container as of the last tick; None if there is none."""
        with self._lock:
            container = self._node.containers.get(key)
            if container is None:
                return None
            return container.observation(max_processes, self._details)

    def carrier(self, container: Container, *, of_pod: bool = True) -> Container:
        """Return the pod's (or else: the host's) own container that it is nested in, or itself."""
        with self._lock:
            return self._node.carrier(container, of_pod=of_pod)

    def _run_tick(self, at_s: float) -> TickSummary:
        self._timer.restart("cgroups", "processes", "rules", "tasks", "pod_network", "gpu")
        with self._timer.phase("cgroups"):
            sampled = self._sources.cgroups.tick()
        ended = _ended(self._tracker, self._judge, sampled.gone)
        used_s = self._sample_containers(sampled, at_s)
        self._tracker.update_cluster_facts()
        if self._networks is not None:
            with self._timer.phase("pod_network"):
                self._networks.tick(
                    network_users(self._node, used_s, self._networks.recent()), at_s
                )
        self._talking = _talking(self._node, self._sources.first_words)
        with self._timer.phase("gpu"):
            self._gpu_users.tick(at_s)
        hot = self._hot_containers(at_s)
        with self._timer.phase("tasks"):
            self._meter.begin_tick(hot)
        with self._timer.phase("processes"):
            touched = self._tracker.read_processes(sampled, hot, at_s)
        for container in hot:
            container.count_delayed_cpu(at_s)
        known = set(hot)
        hot += [each for each in touched if each.static_sightings and each not in known]
        suspects = self._examine_suspects(hot, at_s)
        with self._timer.phase("rules"):
            self._match(hot, suspects, at_s)
            changes, began = _judge(self._judge, hot, at_s, is_tick=True)
        self._node.last_tick_s = at_s
        if self._code is not None:
            self._code.end_tick(self._node.containers.keys())
        return self._summary(at_s, ended, used_s, changes, began)

    def _sample_containers(self, sampled: CgroupTick, at_s: float) -> dict[ContainerKey, float]:
        """Take the new CPU readings; return the CPU time of each container since its last."""
        used_s = {}
        containers, times_s = self._node.containers, self._node.tick_times_s
        for key in sampled.read:
            cpu_s = sampled.cpu_s[key]
            container = containers.get(key)
            if container is None:
                containers[key] = TrackedContainer.new(sampled.containers[key], at_s, cpu_s)
                continue
            used_s[key] = max(0.0, cpu_s - container.cpu.cpu_s)
            container.container = sampled.containers[key]
            self._add_missed_ticks(container)
            container.cpu.add(at_s, cpu_s, window_s=self._examination.window)
        for key, container in containers.items():
            container.is_over_bound = key in sampled.over_bound
        self._looks.earn(used_s, at_s - times_s[-1] if times_s else 0.0, at_s)
        times_s.append(at_s)
        while times_s[0] <= at_s - self._examination.window:
            times_s.popleft()
        return used_s

    def _add_missed_ticks(self, container: TrackedContainer) -> None:
        """Add the ticks at which its counter was not read because it stood still."""
        container.cpu.add_idle(self._node.tick_times_s, window_s=self._examination.window)

    def _hot_containers(self, at_s: float) -> list[TrackedContainer]:
        """Return the containers to measure process by process, brought up to date."""
        containers = self._node.containers.values()
        hot = [container for container in containers if self._is_hot(container, at_s)]
        if self._has_other_rules:
            hot, self._has_other_rules = list(containers), False
        for container in hot:
            self._add_missed_ticks(container)
            container.update_limit(self._sources.cgroups.limit(container.container.key))
        return hot

    def _is_hot(self, container: TrackedContainer, at_s: float) -> bool:
        cores = container.cpu.cores
        is_hot = (
            cores is None
            or cores >= self._examination.hot_cpu_cores
            or bool(container.static_sightings)
            or container.has_delayed
            or container.is_over_bound
            or self._looks.wants(container, at_s)
            or self._gpu_users.is_notable(container)
            or (self._networks is not None and self._networks.is_notable(container.container.key))
            or (self._code is not None and self._code.take_news(container.container.key))
            or container.container.key in self._talking
            or container.container.key in self._judge
        )
        if container.is_measured and not is_hot:
            container.forget_measured()
        container.is_measured = is_hot
        return is_hot

    def _examine_suspects(
        self, hot: Iterable[TrackedContainer], at_s: float
    ) -> frozenset[ProcessId]:
        suspects = self._looks.suspects(hot, at_s)
        self._timer.spent_s |= self._sources.probes.examine(suspects, at_s)
        return frozenset(each.process for each in suspects)

    def _match(
        self, hot: Iterable[TrackedContainer], suspects: Set[ProcessId], at_s: float
    ) -> None:
        for container in hot:
            container.dynamic_sightings = tuple(self._matching.sightings(container, suspects, at_s))
            before_bytes = container.text_bytes
            container.count_text()  # with the facts that are cached from now on
            if container.text_bytes > before_bytes + _MIN_NEW_TEXT_BYTES:
                self._matching.bound_all_text()

    def _summary(
        self,
        at_s: float,
        ended: tuple[Observation, ...],
        used_s: Mapping[ContainerKey, float],
        changes: tuple[Change, ...],
        began: tuple[Finding, ...],
    ) -> TickSummary:
        every, cgroups = self._node.containers.values(), self._sources.cgroups
        flagged = [each for each in every if each.verdict.level > Level.CLEAR]
        shortened, shortened_texts = self._matching.pop_shortened()
        return TickSummary(
            at_s=at_s,
            changes=changes,
            ended=ended,
            began=began,
            flagged=tuple(each.observation() for each in flagged),
            flagged_cpu_s=tuple(
                (each.container, each.verdict.level, used_s.get(each.container.key, 0.0))
                for each in flagged
            ),
            levels=Counter(each.verdict.level for each in every if not each.is_idle_sandbox),
            process_count=len(self._node.container_of),
            unmapped_count=sum(
                not each.cluster_facts and each.container.kind is ContainerKind.POD
                for each in every
            ),
            over_bound_count=cgroups.over_bound_count,
            foreign_count=cgroups.foreign_count,
            probe_s=self._timer.spent_s,
            text_bytes=sum(each.text_bytes for each in every),
            shortened_texts=shortened_texts,
            shortened=shortened,
            gpus=self._gpu_users.summary(),
            host_network_users=self._networks.host_users if self._networks else 0,
        )


def _judge(
    judge: Judge, containers: Iterable[TrackedContainer], at_s: float, *, is_tick: bool
) -> tuple[tuple[Change, ...], tuple[Finding, ...]]:
    """Update verdicts; return those whose level changed, and the findings that are new.

    ``is_tick``: False between two ticks, when a level may rise but not fall.
    """
    changes: list[Change] = []
    began: list[Finding] = []
    for container in containers:
        key = container.container.key
        sightings = (*container.static_sightings, *container.dynamic_sightings)
        if not sightings and key not in judge:
            continue
        previous = container.verdict
        is_host = container.container.kind is ContainerKind.HOST
        container.verdict = judge.verdict(key, sightings, at_s, apart=is_host, is_tick=is_tick)
        began += container.newly_found()
        if container.verdict.level is not previous.level:
            changes.append(Change(container.observation(), previous.level))
    return tuple(changes), tuple(began)
