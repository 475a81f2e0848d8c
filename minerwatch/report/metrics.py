"""What the agent knows, as Prometheus metrics.

Labels never hold a pid, a command line or a user's name. Per-container series exist only while
the container is at ``suspicious`` or above, and at most ``max_container_series`` of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from minerwatch import __version__
from minerwatch.config.values import MODES
from minerwatch.model import Action, Level, Maturity, Outcome, Signal
from minerwatch.report.light_imports import parts_only
from minerwatch.untrusted_text.display import printable

with parts_only("prometheus_client"):  # the whole brings HTTP servers and clients, TLS and mail
    from prometheus_client.metrics import (
        Counter,
        Gauge,
        Histogram,
        Summary,
        disable_created_metrics,
    )
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector, CollectorRegistry
    from prometheus_client.samples import Sample
    from prometheus_client.utils import floatToGoString

disable_created_metrics()  # type: ignore[no-untyped-call]

_TICK_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_MAX_LABEL_LENGTH = 256
_MAX_NAMESPACES = 500
_FORGOTTEN_AFTER_S = 86400.0
"""As long as the longest range that alerts and recording rules look back over."""

OTHER_NAMESPACES = "_others"
"""In place of a namespace that has no series of its own; none can be called so (RFC 1123)."""


@dataclass(frozen=True, slots=True)
class FlaggedContainer:
    """A container at ``suspicious`` or above, as its series show it."""

    namespace: str
    pod: str
    container: str
    score: float
    cpu_cores: float
    signals: Mapping[str, float] = field(default_factory=dict)  # signal -> its highest score


@dataclass(frozen=True, slots=True)
class LoadedRule:
    """A rule in force, as far as whoever scrapes may know it."""

    id: str
    signal: Signal
    maturity: Maturity
    title: str  # "" of a private one


@dataclass(frozen=True, slots=True)
class CullFigures:
    """What is measured of culling."""

    mode: str  # off, dry-run, enforce
    budget_left: int | None = None  # of the cluster's hour; None: not known
    is_circuit_open: bool = False
    stopped: int = 0  # processes that minerwatch stopped, and that stand still


_NO_CULLING = CullFigures("off")
_ACTIONS = tuple(action for action in Action if action is not Action.OBSERVE)
_OUTCOMES = tuple(
    outcome for outcome in Outcome if outcome not in (Outcome.PENDING, Outcome.STARTED)
)


class _Culling(Collector):
    """What culling may still do, read when scraped."""

    def __init__(self, figures: Callable[[], CullFigures]) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        figures = self._figures()
        mode = GaugeMetricFamily(
            "minerwatch_cull_mode", "1 for the mode of culling that is in force.", labels=["mode"]
        )
        for each in MODES:
            mode.add_metric([str(each)], float(str(each) == figures.mode))
        yield mode
        yield GaugeMetricFamily(
            "minerwatch_circuit_breaker_open",
            "1 while a rule flags so many owners that nothing is culled on its findings.",
            value=float(figures.is_circuit_open),
        )
        yield GaugeMetricFamily(
            "minerwatch_stopped_processes",
            "Processes that minerwatch has stopped and that stand still, until they are released.",
            value=figures.stopped,
        )
        left = GaugeMetricFamily(
            "minerwatch_cull_budget_remaining",
            "Actions that the cluster may still do in this hour; NaN while that is not known.",
        )
        left.add_metric([], float("nan") if figures.budget_left is None else figures.budget_left)
        yield left


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
        by_signal = GaugeMetricFamily(
            "minerwatch_container_signal_score",
            "Score of a flagged container by kind of evidence, 0 to 100.",
            labels=[*labels, "signal"],
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
            for signal, signal_score in container.signals.items():
                by_signal.add_metric([*names, label(signal)], signal_score)
        yield score
        yield by_signal
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
        verdicts_left_out: Callable[[], int],
    ) -> None:
        self._failures = failures
        self._exec_events = exec_events
        self._verdicts_left_out = verdicts_left_out

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
        yield CounterMetricFamily(
            "minerwatch_verdict_lines_left_out",
            "Changes of verdict that were not logged: too many of one container or namespace.",
            value=self._verdicts_left_out(),
        )


class _FlaggedCpu(Collector):
    """CPU time of flagged containers by namespace; one that is quiet for a day is forgotten.

    At most so many namespaces have series of their own; others are counted together.
    """

    def __init__(self, limit: int, now_s: Callable[[], float]) -> None:
        self._limit = limit
        self._now_s = now_s
        self._cpu_s: dict[str, dict[Level, float]] = {}
        self._added_s: dict[str, float] = {}

    def add(self, namespace: str, level: Level, cpu_s: float) -> None:
        self._forget()
        if namespace not in self._cpu_s and len(self._cpu_s) >= self._limit:
            namespace = OTHER_NAMESPACES
        by_level = self._cpu_s.setdefault(namespace, {})
        by_level[level] = by_level.get(level, 0.0) + cpu_s
        self._added_s[namespace] = self._now_s()

    def _forget(self) -> None:
        past_s = self._now_s() - _FORGOTTEN_AFTER_S
        for namespace in [name for name, added_s in self._added_s.items() if added_s < past_s]:
            del self._cpu_s[namespace], self._added_s[namespace]

    def collect(self) -> Iterator[Metric]:
        self._forget()
        burnt = CounterMetricFamily(
            "minerwatch_flagged_cpu_seconds",
            "CPU time burnt by containers while they were flagged.",
            labels=["namespace", "level"],
        )
        for namespace, by_level in [*self._cpu_s.items()]:
            for level, cpu_s in [*by_level.items()]:
                burnt.add_metric([namespace, level.label], cpu_s)
        yield burnt


def exposition(registry: CollectorRegistry) -> bytes:
    """All metrics of a registry in Prometheus' text format, as prometheus_client writes it."""
    lines = []
    for metric in registry.collect():
        name = metric.name + ("_total" if metric.type == "counter" else "")
        told = metric.documentation.replace("\\", r"\\").replace("\n", r"\n")
        lines.append(f"# HELP {name} {told}\n# TYPE {name} {metric.type}\n")
        lines += map(_sample_line, metric.samples)
    return "".join(lines).encode()


def _sample_line(sample: Sample) -> str:
    labels = ",".join(f'{name}="{_quoted(text)}"' for name, text in sorted(sample.labels.items()))
    value = floatToGoString(sample.value)  # type: ignore[no-untyped-call]
    return f"{sample.name}{f'{{{labels}}}' if labels else ''} {value}\n"


def _quoted(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


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
        culling: Callable[[], CullFigures] = lambda: _NO_CULLING,
        verdicts_left_out: Callable[[], int] = lambda: 0,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.registry = CollectorRegistry()
        self._flagged = _FlaggedContainers(max_container_series)
        self.registry.register(self._flagged)
        self.registry.register(_CountedElsewhere(probe_failures, exec_events, verdicts_left_out))
        self.registry.register(_Culling(culling))
        self._actions = Counter(
            "minerwatch_actions",
            "Actions that have ended, by action and outcome.",
            ["action", "outcome"],
            registry=self.registry,
        )
        for action in _ACTIONS:
            for outcome in _OUTCOMES:
                self._actions.labels(action.value, outcome.value)
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
        self._flagged_cpu = _FlaggedCpu(_MAX_NAMESPACES, now_s)
        self.registry.register(self._flagged_cpu)
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
        self._over_bound = Gauge(
            "minerwatch_cgroups_over_bound",
            "Containers and units, Kubernetes and the node with too many cgroups to keep apart.",
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
        self._worker_up = Gauge(
            "minerwatch_worker_up",
            "1 for a thread of the agent that works, 0 for one that failed within the last minute.",
            ["worker"],
            registry=self.registry,
        )
        self._kept_text = Gauge(
            "minerwatch_kept_text_bytes",
            "Memory taken by arguments and paths of processes, and by what rules saw in them.",
            registry=self.registry,
        )
        self._shortened_texts = Counter(
            "minerwatch_shortened_texts",
            "Processes whose text was shortened, for their pod or the node kept too much of it.",
            registry=self.registry,
        )
        self._probe_up = Gauge(
            "minerwatch_probe_up",
            "1 for a probe that is on, 0 for one that is asked for and cannot be had.",
            ["probe"],
            registry=self.registry,
        )
        self._rules = Gauge(
            "minerwatch_rules_loaded", "Rules in force, by status.", ["status"],
            registry=self.registry,
        )  # fmt: skip
        self._rule_info = Gauge(
            "minerwatch_rule_info", "The title of each rule in force, but of private ones.",
            ["rule", "title"], registry=self.registry,
        )  # fmt: skip
        self._rules_broken = Gauge(
            "minerwatch_rules_broken", "Rule files that cannot be used now.",
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
        self._canary: Gauge | None = None
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
        return exposition(self.registry)

    def rules_loaded(self, rules: Iterable[LoadedRule], failures: int, at_s: float) -> None:
        """Takes note of the rules in force and the files that give none; ``at_s`` is Unix time."""
        by_maturity = dict.fromkeys(Maturity, 0)
        self._rule_info.clear()
        for rule in rules:
            by_maturity[rule.maturity] += 1
            self._findings.labels(label(rule.id), rule.signal.value)
            if rule.title:
                self._rule_info.labels(label(rule.id), label(rule.title)).set(1)
        for maturity, count in by_maturity.items():
            self._rules.labels(maturity.value).set(count)
        self._rules_broken.set(failures)
        self._reload_failures.inc(failures)
        self._last_reload.set(at_s)

    def level_changed(self, level: Level) -> None:
        """Counts a container's change of verdict to ``level``."""
        self._verdicts.labels(level.label).inc()

    def action_ended(self, action: Action, outcome: Outcome) -> None:
        """Counts an action that has ended, or that was undone."""
        self._actions.labels(action.value, outcome.value).inc()

    def finding_began(self, rule: str, signal: Signal) -> None:
        """Counts a finding that began to hold."""
        self._findings.labels(label(rule), signal.value).inc()

    def flagged_cpu(self, namespace: str, level: Level, cpu_s: float) -> None:
        """Adds the CPU time that a flagged container burnt since the last tick."""
        self._flagged_cpu.add(label(namespace), level, cpu_s)

    def probe_opened(self, probe: str, *, is_on: bool) -> None:
        """Takes note of whether a probe that is asked for can be had."""
        self._probe_up.labels(probe).set(is_on)

    def worker_is(self, worker: str, *, is_up: bool) -> None:
        """Takes note of whether a thread of the agent works."""
        self._worker_up.labels(worker).set(is_up)

    def text_kept(self, kept_bytes: int, shortened: int) -> None:
        """Takes note of the text that is kept, and of how many more texts were shortened."""
        self._kept_text.set(kept_bytes)
        self._shortened_texts.inc(shortened)

    def expect_canaries(self) -> None:
        """From now on tells when a canary was last seen; 0: never."""
        self._canary = Gauge(
            "minerwatch_canary_last_seen_timestamp_seconds",
            "When the harmless process with the canary's word was last found; 0: never.",
            ["planted"],
            registry=self.registry,
        )
        for planted in ("agent", "elsewhere"):
            self._canary.labels(planted)

    def canary_seen(self, at_s: float, *, is_own: bool) -> None:
        """Takes note of a canary, the agent's own or another, found at ``at_s`` (Unix time)."""
        if self._canary is not None:
            self._canary.labels("agent" if is_own else "elsewhere").set(at_s)

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
        over_bound: int = 0,
    ) -> None:
        """Takes note of a tick that has ended at ``at_s`` (Unix time).

        ``unmapped`` are containers of pods that the cluster has not told of, ``over_bound`` owners
        of more cgroups than are kept apart.
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
        """Takes note of when (Unix time) the cluster's pods were last known to be as they are."""
        self._pods_synced.set(at_s)
