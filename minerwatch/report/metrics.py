"""The agent's state and counters as Prometheus metrics.

Labels never hold a pid or a command line, and a user's name only where ``metrics.owners`` is on.
Per-container series exist only while the container is at ``suspicious`` or above, and at most
``max_container_series`` of them.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import nan

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    ProcessCollector,
    Summary,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from minerwatch import __version__
from minerwatch.config.values import MODES
from minerwatch.detection.sigma.rule import Rule
from minerwatch.model import Abuse, Action, Level, Maturity, Outcome, Signal
from minerwatch.report.flagged_use import FlaggedUse
from minerwatch.report.gpu_metrics import GpuFigures, GpuMetrics
from minerwatch.untrusted_text.display import printable

disable_created_metrics()  # type: ignore[no-untyped-call]

_TICK_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_DELAY_BUCKETS_S = (15.0, 60.0, 180.0, 900.0, 7200.0)  # few: for each kind of abuse, on every node
MAX_LABEL_LENGTH = 256
MAX_ABUSES = 3
"""Kinds of abuse of one container that have series, the worst ones: a tenant may show all."""

OWNER_LABELS = ("repository", "image", "controller", "user", "client")
"""Labels of minerwatch_flagged_owner_info; the last two only where ``metrics.owners`` is on."""


@dataclass(frozen=True, slots=True)
class FlaggedContainer:
    """The series of a container at ``suspicious`` or above."""

    namespace: str
    pod: str
    container: str
    score: float
    cpu_cores: float
    signals: Mapping[tuple[str, str], float] = field(default_factory=dict)  # abuse, signal -> score
    abuses: Mapping[str, float] = field(default_factory=dict)  # kind -> its score, worst first
    since_unix_s: float = 0.0  # when its level was reached
    owners: Mapping[str, str] = field(default_factory=dict)  # one of OWNER_LABELS -> name
    gpus: float | None = None  # kept busy; None: it has used none, or that is not known


@dataclass(frozen=True, slots=True)
class CullFigures:
    """State of culling."""

    mode: str  # off, dry-run, enforce
    budget_left: int | None = None  # actions of the cluster in this hour; None: unknown
    is_circuit_open: bool = False
    stopped: int = 0  # processes stopped and not yet released


_NO_CULLING = CullFigures("off")
_ACTIONS = tuple(action for action in Action if action is not Action.OBSERVE)
_OUTCOMES = tuple(
    outcome for outcome in Outcome if outcome not in (Outcome.PENDING, Outcome.STARTED)
)


class _Culling(Collector):
    """State of culling, read at each scrape."""

    def __init__(self, figures: Callable[[], CullFigures]) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        figures = self._figures()
        mode = GaugeMetricFamily(
            "minerwatch_cull_mode",
            "1 for the culling mode in force, 0 for the others.",
            labels=["mode"],
        )
        for each in MODES:
            mode.add_metric([str(each)], float(str(each) == figures.mode))
        yield mode
        yield GaugeMetricFamily(
            "minerwatch_circuit_breaker_open",
            "1 while a rule flags so many owners that its findings cause no action.",
            value=float(figures.is_circuit_open),
        )
        yield GaugeMetricFamily(
            "minerwatch_stopped_processes",
            "Processes stopped by minerwatch and not yet released.",
            value=figures.stopped,
        )
        yield GaugeMetricFamily(
            "minerwatch_cull_budget_remaining",
            "Actions left in the cluster's budget for this hour; NaN while unknown.",
            value=nan if figures.budget_left is None else figures.budget_left,
        )


class _FlaggedContainers(Collector):
    """Series of containers, which exist only while the container is flagged."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.flagged: Sequence[FlaggedContainer] = ()

    def collect(self) -> Iterator[Metric]:
        labels = ["namespace", "pod", "container"]
        score = GaugeMetricFamily(
            "minerwatch_container_score", "Score of a flagged container, 0 to 100.", labels=labels
        )
        cores = GaugeMetricFamily(
            "minerwatch_container_cpu_cores",
            "CPU usage of a flagged container in cores.",
            labels=labels,
        )
        by_signal = GaugeMetricFamily(
            "minerwatch_container_signal_score",
            "Score of a flagged container by kind of abuse and signal, 0 to 100.",
            labels=[*labels, "abuse", "signal"],
        )
        by_abuse = GaugeMetricFamily(
            "minerwatch_container_abuse_score",
            "Score of a flagged container by kind of abuse, 0 to 100.",
            labels=[*labels, "abuse"],
        )
        gpus = GaugeMetricFamily(
            "minerwatch_container_gpus", "GPUs that a flagged container keeps busy.", labels=labels
        )
        since = GaugeMetricFamily(
            "minerwatch_container_level_since_timestamp_seconds",
            "Unix time at which a flagged container reached its level.",
            labels=labels,
        )
        owner = GaugeMetricFamily(
            "minerwatch_flagged_owner_info",
            "Owners of a flagged container; names that a tenant may have chosen end in (claimed).",
            labels=[*labels, *OWNER_LABELS],
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
            since.add_metric(names, container.since_unix_s)
            if container.gpus is not None:
                gpus.add_metric(names, container.gpus)
            if container.owners:
                values = (label(container.owners.get(each, "")) for each in OWNER_LABELS)
                owner.add_metric([*names, *values], 1.0)
            worst = dict([*container.abuses.items()][:MAX_ABUSES])
            for abuse, abuse_score in worst.items():
                by_abuse.add_metric([*names, label(abuse)], abuse_score)
            for (abuse, signal), signal_score in container.signals.items():
                if abuse in worst:
                    by_signal.add_metric([*names, label(abuse), label(signal)], signal_score)
        yield from (score, by_abuse, by_signal, cores, gpus, since, owner)
        yield GaugeMetricFamily(
            "minerwatch_container_series_overflow",
            "Flagged containers without series: over the limit, or with the labels of another one.",
            value=len(self.flagged) - len(listed),
        )


class _CountedElsewhere(Collector):
    """Counters kept by the parts that count, read at each scrape."""

    def __init__(
        self,
        failures: Callable[[], Iterable[tuple[str, str, int]]],
        exec_events: Callable[[], tuple[int, int]],
        verdicts_left_out: Callable[[], int],
    ) -> None:
        self._failures = failures
        self._exec_events = exec_events
        self._verdicts_left_out = verdicts_left_out

    def collect(self) -> Iterator[Metric]:
        failed = CounterMetricFamily(
            "minerwatch_probe_failures",
            "Failed reads, by probe and reason.",
            labels=["probe", "reason"],
        )
        counts: collections.Counter[tuple[str, str]] = collections.Counter()
        for probe, reason, count in self._failures():
            counts[label(probe), label(reason)] += count
        for labels, count in counts.items():
            failed.add_metric(labels, count)
        yield failed
        received, lost = self._exec_events()
        yield CounterMetricFamily(
            "minerwatch_exec_events", "Exec events received from the kernel.", value=received
        )
        yield CounterMetricFamily(
            "minerwatch_exec_events_lost",
            "Exec events dropped by the kernel; a rescan makes up for them.",
            value=lost,
        )
        yield CounterMetricFamily(
            "minerwatch_verdict_lines_left_out",
            "Changes of verdict not logged: over the limit of the container or the namespace.",
            value=self._verdicts_left_out(),
        )


def label(text: str) -> str:
    """Return ``text`` as a label value: printable and of limited length."""
    return printable(text, MAX_LABEL_LENGTH)


class Metrics:
    """All metrics of one agent, in its own registry."""

    def __init__(
        self,
        *,
        max_container_series: int = 500,
        probe_failures: Callable[[], Iterable[tuple[str, str, int]]] = tuple,
        exec_events: Callable[[], tuple[int, int]] = lambda: (0, 0),
        culling: Callable[[], CullFigures] = lambda: _NO_CULLING,
        verdicts_left_out: Callable[[], int] = lambda: 0,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.registry = CollectorRegistry()
        self._flagged = _FlaggedContainers(max_container_series)
        self.registry.register(self._flagged)
        self.registry.register(_CountedElsewhere(probe_failures, exec_events, verdicts_left_out))
        self.registry.register(_Culling(culling))
        ProcessCollector(registry=self.registry)  # process_…, as other exporters have them
        self._actions = self._counter(
            "actions", "Finished actions, by action and outcome.", "action", "outcome"
        )
        for action in _ACTIONS:
            for outcome in _OUTCOMES:
                self._actions.labels(action.value, outcome.value)
        self._containers = self._gauge("containers", "Containers by level.", "level")
        self._verdicts = self._counter(
            "verdicts", "Changes of a container's verdict, by new level.", "level"
        )
        for level in Level:
            self._containers.labels(level.label)
            self._verdicts.labels(level.label)
        flagged_cpu = self._counter(
            "flagged_cpu_seconds",
            "CPU time used by containers while they were flagged.",
            *("namespace", "level"),
        )
        self._flagged_cpu = FlaggedUse(flagged_cpu, now_s)
        self._gpu = GpuMetrics(self.registry, now_s)
        self._canary: Gauge | None = None
        self._gauge("build_info", "Version of this agent.", "version").labels(__version__).set(1)
        self._add_tick()
        self._add_rules()
        self._add_probes()

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"minerwatch_{name}", text, labels, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"minerwatch_{name}", text, labels, registry=self.registry)

    def _add_tick(self) -> None:
        self._tick = Histogram(
            "minerwatch_tick_duration_seconds",
            "Duration of a tick: sample, examine, judge, report.",
            buckets=_TICK_BUCKETS_S,
            registry=self.registry,
        )
        self._delay = Histogram(
            "minerwatch_detection_delay_seconds",
            "Time from the start of a process to its container's first level of likely or above.",
            ["abuse"],
            buckets=_DELAY_BUCKETS_S,
            registry=self.registry,
        )
        for abuse in Abuse:
            self._delay.labels(abuse.value)
        self._last_tick = self._gauge(
            "last_tick_timestamp_seconds", "Unix time at which the last tick ended."
        )
        self._processes = self._gauge("processes", "Processes watched by the agent.")
        self._unmapped = self._gauge(
            "unmapped_containers", "Containers of pods that are not known from the API server."
        )
        self._over_bound = self._gauge(
            "cgroups_over_bound",
            "Owners (containers, units, Kubernetes, the node) over their limit of cgroups.",
        )
        self._pods_synced = self._gauge(
            "pods_synced_timestamp_seconds",
            "Unix time of the last sync of the node's pods; 0: never, or no cluster.",
        )
        self._worker_up = self._gauge(
            "worker_up", "1 for a working thread of the agent, 0 for one that fails.", "worker"
        )
        self._kept_text = self._gauge(
            "kept_text_bytes", "Memory used by text of processes: arguments, paths, evidence."
        )
        self._shortened_texts = self._counter(
            "shortened_texts",
            "Processes whose text was shortened because the pod or the node was over its limit.",
        )

    def _add_rules(self) -> None:
        self._findings = self._counter(
            "findings", "Findings that started to hold, by rule and signal.", "rule", "signal"
        )
        self._rules = self._gauge("rules_loaded", "Rules in force, by status.", "status")
        for maturity in Maturity:
            self._rules.labels(maturity.value)
        self._rule_info = self._gauge(
            "rule_info", "Titles of the rules in force, except private ones.", "rule", "title"
        )
        self._rules_broken = self._gauge("rules_broken", "Rule files that cannot be used.")
        self._reload_failures = self._counter(
            "rules_reload_failures", "Rule files that could not be used, summed over all loads."
        )
        self._last_reload = self._gauge(
            "rules_last_reload_timestamp_seconds",
            "Unix time at which rules were last loaded, with or without broken files.",
        )

    def _add_probes(self) -> None:
        self._probe_duration = Summary(
            "minerwatch_probe_duration_seconds",
            "Time spent in each probe.",
            ["probe"],
            registry=self.registry,
        )
        self._probe_up = self._gauge(
            "probe_up", "1 for a probe that is on, 0 for one configured but unavailable.", "probe"
        )
        self._probe_source = self._gauge(
            "probe_source_info", "The source that a probe uses, of several.", "probe", "source"
        )

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        self._flagged_cpu.expire()
        self._gpu.expire()
        return generate_latest(self.registry)

    def rules_loaded(self, rules: Iterable[Rule], failures: int, at_s: float) -> None:
        """Set the rules in force and the number of broken files; ``at_s`` is Unix time."""
        by_maturity = dict.fromkeys(Maturity, 0)
        self._rule_info.clear()
        for rule in rules:
            by_maturity[rule.maturity] += 1
            self._findings.labels(label(rule.id), rule.signal.value)
            if not rule.private:
                self._rule_info.labels(label(rule.id), label(rule.title)).set(1)
        for maturity, count in by_maturity.items():
            self._rules.labels(maturity.value).set(count)
        self._rules_broken.set(failures)
        self._reload_failures.inc(failures)
        self._last_reload.set(at_s)

    def level_changed(self, level: Level) -> None:
        """Count a container's change of verdict to ``level``."""
        self._verdicts.labels(level.label).inc()

    def detected(self, abuse: Abuse, delay_s: float) -> None:
        """Count a container that became likely, so long after its process started."""
        self._delay.labels(abuse.value).observe(delay_s)

    def action_ended(self, action: Action, outcome: Outcome) -> None:
        """Count an action that finished, or was undone."""
        self._actions.labels(action.value, outcome.value).inc()

    def finding_began(self, rule: str, signal: Signal) -> None:
        """Count a finding that started to hold."""
        self._findings.labels(label(rule), signal.value).inc()

    def flagged_cpu(self, namespace: str, level: Level, cpu_s: float) -> None:
        """Add the CPU time that a flagged container used since the last tick."""
        self._flagged_cpu.add(label(namespace), level, cpu_s)

    def flagged_gpu(self, namespace: str, level: Level, gpu_s: float, joules: float) -> None:
        """Add the GPU time and the energy that a flagged container used since the last tick."""
        self._gpu.flagged(label(namespace), level, gpu_s, joules)

    def gpus_seen(self, figures: GpuFigures) -> None:
        """Set the GPUs of the node."""
        self._gpu.figures = figures

    def probe_opened(self, probe: str, *, is_on: bool, source: str = "") -> None:
        """Set whether a configured probe is available, and the source that it uses."""
        self._probe_up.labels(probe).set(is_on)
        if source:
            self._probe_source.labels(probe, source).set(1)

    def worker_is(self, worker: str, *, is_up: bool) -> None:
        """Set whether a thread of the agent works."""
        self._worker_up.labels(worker).set(is_up)

    def text_kept(self, kept_bytes: int, shortened: int) -> None:
        """Set the size of the kept text, and count further shortened texts."""
        self._kept_text.set(kept_bytes)
        self._shortened_texts.inc(shortened)

    def expect_canaries(self) -> None:
        """Publish from now on when a canary was last found; 0: never."""
        self._canary = self._gauge(
            "canary_last_seen_timestamp_seconds",
            "Unix time at which the canary process was last found; 0: never.",
            "planted",
        )
        for planted in ("agent", "elsewhere"):
            self._canary.labels(planted)

    def canary_seen(self, at_s: float, *, is_own: bool) -> None:
        """Count a canary, the agent's own or another, found at ``at_s`` (Unix time)."""
        if self._canary is not None:
            self._canary.labels("agent" if is_own else "elsewhere").set(at_s)

    def probe_took(self, probe: str, duration_s: float) -> None:
        """Add the time that a probe took in this tick."""
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
        over_bound: int = 0,
    ) -> None:
        """Set the figures of a tick that ended at ``at_s`` (Unix time).

        ``unmapped`` containers have no known pod, ``over_bound`` owners have too many cgroups.
        """
        self._tick.observe(duration_s)
        self._last_tick.set(at_s)
        for level in Level:
            self._containers.labels(level.label).set(containers.get(level, 0))
        self._flagged.flagged = tuple(flagged)
        self._processes.set(processes)
        self._unmapped.set(unmapped)
        self._over_bound.set(over_bound)

    def pods_synced(self, at_s: float) -> None:
        """Set the Unix time of the last sync of the node's pods."""
        self._pods_synced.set(at_s)
