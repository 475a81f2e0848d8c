"""What the agent knows, as Prometheus metrics.

Labels never hold a pid, a command line or a user's name. Per-container series exist only while
the container is at ``suspicious`` or above, and at most ``max_container_series`` of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from minerwatch import __version__
from minerwatch.model import Level, Maturity, Signal
from minerwatch.report.exposition import (
    Collector,
    CollectorRegistry,
    Counter,
    CounterMetricFamily,
    Gauge,
    GaugeMetricFamily,
    Histogram,
    Metric,
    Summary,
    generate_latest,
)
from minerwatch.report.text import printable

_TICK_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_MAX_LABEL_LENGTH = 256


@dataclass(frozen=True, slots=True)
class FlaggedContainer:
    """A container at ``suspicious`` or above, as its series show it."""

    namespace: str
    pod: str
    container: str
    score: float
    cpu_cores: float


class _FlaggedContainers(Collector):
    """Series that exist only while their container is flagged."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.flagged: Sequence[FlaggedContainer] = ()

    def collect(self) -> Iterator[Metric]:
        labels = ["namespace", "pod", "container"]
        score = GaugeMetricFamily(
            "minerwatch_container_score", "Score of a flagged container, 0 to 100.", labels=labels
        )
        cores = GaugeMetricFamily(
            "minerwatch_container_cpu_cores", "CPU rate of a flagged container.", labels=labels
        )
        unique = {
            (label(c.namespace), label(c.pod), label(c.container)): c
            for c in sorted(self.flagged, key=lambda c: c.score)
        }
        ranked = sorted(unique.items(), key=lambda item: (-item[1].score, item[0]))
        listed = ranked[: self._limit]
        for names, container in listed:
            score.add_metric(names, container.score)
            cores.add_metric(names, container.cpu_cores)
        yield score
        yield cores
        yield GaugeMetricFamily(
            "minerwatch_container_series_overflow",
            "Flagged containers that have no series of their own: too many, or named alike.",
            value=len(self.flagged) - len(listed),
        )


class _CountedElsewhere(Collector):
    """Counters that live in the sources of what the kernel says, read when scraped."""

    def __init__(
        self,
        failures: Callable[[], Iterable[tuple[str, str, int]]],
        exec_events: Callable[[], tuple[int, int]],
    ) -> None:
        self._failures = failures
        self._exec_events = exec_events

    def collect(self) -> Iterator[Metric]:
        failed = CounterMetricFamily(
            "minerwatch_probe_failures",
            "Readings that failed, by probe and reason.",
            labels=["probe", "reason"],
        )
        counts: dict[tuple[str, str], int] = {}
        for probe, reason, count in self._failures():
            labels = (label(probe), label(reason))
            counts[labels] = counts.get(labels, 0) + count
        for labels, count in counts.items():
            failed.add_metric(labels, count)
        yield failed
        received, lost = self._exec_events()
        yield CounterMetricFamily(
            "minerwatch_exec_events", "Programs started, as the kernel told.", value=received
        )
        yield CounterMetricFamily(
            "minerwatch_exec_events_lost",
            "Programs started that the kernel had no room to tell of; a rescan answers them.",
            value=lost,
        )


def label(text: str) -> str:
    """``text`` as a label's value: printable and of bounded length."""
    return printable(text, _MAX_LABEL_LENGTH)


class Metrics:
    """All metrics of one agent, in a registry of their own."""

    def __init__(
        self,
        *,
        max_container_series: int = 500,
        probe_failures: Callable[[], Iterable[tuple[str, str, int]]] = tuple,
        exec_events: Callable[[], tuple[int, int]] = lambda: (0, 0),
    ) -> None:
        self.registry = CollectorRegistry()
        self._flagged = _FlaggedContainers(max_container_series)
        self.registry.register(self._flagged)
        self.registry.register(_CountedElsewhere(probe_failures, exec_events))
        self._containers = Gauge(
            "minerwatch_containers", "Containers by level.", ["level"], registry=self.registry
        )
        self._verdicts = Counter(
            "minerwatch_verdicts",
            "Changes of a container's verdict, by the level that it changed to.",
            ["level"],
            registry=self.registry,
        )
        self._findings = Counter(
            "minerwatch_findings",
            "Findings that began to hold, by rule and signal.",
            ["rule", "signal"],
            registry=self.registry,
        )
        self._flagged_cpu = Counter(
            "minerwatch_flagged_cpu_seconds",
            "CPU time burnt by containers while they were flagged.",
            ["namespace", "level"],
            registry=self.registry,
        )
        self._tick = Histogram(
            "minerwatch_tick_duration_seconds",
            "How long a tick took: sample, examine, judge, report.",
            buckets=_TICK_BUCKETS_S,
            registry=self.registry,
        )
        self._last_tick = Gauge(
            "minerwatch_last_tick_timestamp_seconds",
            "When the last tick ended.",
            registry=self.registry,
        )
        self._processes = Gauge(
            "minerwatch_processes", "Processes that the agent watches.", registry=self.registry
        )
        self._unmapped = Gauge(
            "minerwatch_unmapped_containers",
            "Containers of pods that the API server has not told of.",
            registry=self.registry,
        )
        self._pods_synced = Gauge(
            "minerwatch_pods_synced_timestamp_seconds",
            "When what is known of the node's pods was last up to date; 0: never, or no cluster.",
            registry=self.registry,
        )
        self._probe_duration = Summary(
            "minerwatch_probe_duration_seconds",
            "Time spent in each probe.",
            ["probe"],
            registry=self.registry,
        )
        self._rules = Gauge(
            "minerwatch_rules_loaded", "Rules in force, by status.", ["status"],
            registry=self.registry,
        )  # fmt: skip
        self._reload_failures = Counter(
            "minerwatch_rules_reload_failures",
            "Rule files that could not be used when rules were loaded.",
            registry=self.registry,
        )
        self._last_reload = Gauge(
            "minerwatch_rules_last_reload_timestamp_seconds",
            "When rules were last loaded, broken files or not.",
            registry=self.registry,
        )
        Gauge(
            "minerwatch_build_info", "The version of this agent.", ["version"],
            registry=self.registry,
        ).labels(__version__).set(1)  # fmt: skip
        for level in Level:
            self._containers.labels(level.label)
            self._verdicts.labels(level.label)
        for maturity in Maturity:
            self._rules.labels(maturity.value)

    def exposition(self) -> bytes:
        """The text format that Prometheus scrapes."""
        return generate_latest(self.registry)

    def rules_loaded(
        self, rules: Iterable[tuple[str, Signal, Maturity]], failures: int, at_s: float
    ) -> None:
        """Takes note of the rules in force (id, signal, maturity); ``at_s`` is Unix time."""
        by_maturity = dict.fromkeys(Maturity, 0)
        for rule, signal, maturity in rules:
            by_maturity[maturity] += 1
            self._findings.labels(label(rule), signal.value)
        for maturity, count in by_maturity.items():
            self._rules.labels(maturity.value).set(count)
        self._reload_failures.inc(failures)
        self._last_reload.set(at_s)

    def level_changed(self, level: Level) -> None:
        """Counts a container's change of verdict to ``level``."""
        self._verdicts.labels(level.label).inc()

    def finding_began(self, rule: str, signal: Signal) -> None:
        """Counts a finding that began to hold."""
        self._findings.labels(label(rule), signal.value).inc()

    def flagged_cpu(self, namespace: str, level: Level, cpu_s: float) -> None:
        """Adds the CPU time that a flagged container burnt since the last tick."""
        self._flagged_cpu.labels(label(namespace), level.label).inc(cpu_s)

    def probe_took(self, probe: str, duration_s: float) -> None:
        """Adds the time that one probe took in this tick."""
        self._probe_duration.labels(probe).observe(duration_s)

    def tick_done(
        self,
        *,
        duration_s: float,
        at_s: float,
        containers: dict[Level, int],
        flagged: Sequence[FlaggedContainer],
        processes: int,
        unmapped: int = 0,
    ) -> None:
        """Takes note of a tick that has ended at ``at_s`` (Unix time).

        ``unmapped`` are containers of pods that the cluster has not told of.
        """
        self._tick.observe(duration_s)
        self._last_tick.set(at_s)
        for level in Level:
            self._containers.labels(level.label).set(containers.get(level, 0))
        self._flagged.flagged = tuple(flagged)
        self._processes.set(processes)
        self._unmapped.set(unmapped)

    def pods_synced(self, at_s: float) -> None:
        """Takes note of when (Unix time) the cluster's pods were last known to be as they are."""
        self._pods_synced.set(at_s)
