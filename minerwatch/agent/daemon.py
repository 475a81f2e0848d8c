"""The agent's loop: a tick at each interval, exec events and samples in between.

What a tick does is in ``tick``, what is published in ``publisher``, what others can ask of the
agent in ``endpoints``.
"""

from __future__ import annotations

import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from minerwatch import __version__
from minerwatch.agent.endpoints import DEFAULT_MAX_DOWN_S, Endpoints
from minerwatch.agent.exec_watcher import ExecWatcher
from minerwatch.agent.heap import HeapKeeper, keep_heap_small
from minerwatch.agent.monitor import MonitoredNode, kernel_source, node_name, now_s, open_node
from minerwatch.agent.parts import AgentState, Parts, Telemetry
from minerwatch.agent.publisher import Publisher, action_notice
from minerwatch.agent.recorder import open_recorder
from minerwatch.agent.rule_loader import RuleLoader, RuleSet
from minerwatch.agent.rule_updater import RuleUpdater
from minerwatch.agent.scheduling import CpuBudget, Wake
from minerwatch.agent.self_report import SelfReport
from minerwatch.agent.self_test import SelfTest
from minerwatch.agent.systemd import Systemd
from minerwatch.agent.tick import TickSummary
from minerwatch.config.schema import Config
from minerwatch.culling.records import ActionRecord
from minerwatch.culling.service import CullSwitch, boot_id
from minerwatch.errors import ConfigError, MinerwatchError
from minerwatch.garbage import collector_paused
from minerwatch.model import Outcome
from minerwatch.node import confined
from minerwatch.node.capabilities import OUTSIDE_UNSEEN, hides_others
from minerwatch.node.exec_events import ExecEvents
from minerwatch.node.first_words import PacketReader, open_host_packets
from minerwatch.probes.registry import ProbeStatus
from minerwatch.report.log import Log, LogLimit, Once
from minerwatch.report.metrics import Metrics
from minerwatch.report.notifier import Notifier
from minerwatch.report.since import FILE_NAME, SinceFile
from minerwatch.worker import revive_all

if TYPE_CHECKING:
    from minerwatch.kube.cluster_view import ClusterNode

_NEED_RESTART = (
    "listen",
    "tls",
    "authorize_metrics",
    "socket",
    "node",
    "examination",
    "probes",
    "judgement",
    "report",
    "kubernetes",
    "owners",
    "web",
    "notify",
)

_EXECS = "the proc connector"

_SAMPLE_EVERY_S = 1.0
"""A thread's control word is that of its last switch-out: closer samples repeat each other."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """Clock, waiting and heap of an agent; benchmarks and tests replace them."""

    now_s: Callable[[], float] = now_s
    wake: Wake = field(default_factory=Wake)
    heap: HeapKeeper = field(default_factory=HeapKeeper)
    max_worker_down_s: float = DEFAULT_MAX_DOWN_S


class Agent:
    """Runs ticks until it is stopped, and publishes what they find."""

    def __init__(
        self,
        config: Config,
        log: Log,
        reread: Callable[[], Config] | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        """Open everything. Raises NodeError or ListenError.

        ``reread`` returns the configuration again when a reload is requested.
        """
        self._log = log
        self._reread = reread
        self._runtime = runtime = runtime or Runtime()
        self._is_stopping = self._is_reload_requested = False
        self._systemd = Systemd()
        self._sampled_s, self._samples_budget = 0.0, CpuBudget(config.probes.rounding_cpu_share)
        self._opened = ExitStack()
        started_s = runtime.now_s()
        self._log_limit = log_limit = LogLimit()
        metrics = Metrics(
            max_container_series=config.report.max_container_series,
            probe_failures=self._failures,
            exec_events=lambda: self._execs.counts(),
            verdicts_left_out=lambda: log_limit.left_out,
            culling=lambda: self._culling.figures(),
        )
        self._telemetry = telemetry = Telemetry(log, Once(log), metrics)
        _raise_open_file_limit()
        events, execs_off = kernel_source("execs", config, ExecEvents)
        if events is not None:
            self._opened.callback(events.close)
        packets = kernel_source("first_words", config, open_host_packets)
        _drop_network_capabilities(log)
        self._loader = RuleLoader(runtime.wake.up, self._log_load_error)
        rules = self._loader.read(config.rule_folders(), config.private_rule_folders())
        self._cluster = cluster = self._open_cluster(config)
        self._node = node = self._open_node(config, rules, packets)
        if ProbeStatus("content", "") in node.probes:
            rules = self._loader.check_content(rules)
        self._state = AgentState(config, rules, started_s)
        recorder = open_recorder(config, node, telemetry.once, runtime.now_s)
        self._recorder = self._opened.enter_context(closing(recorder))
        self._notifier = notifier = Notifier.of(config.notify, telemetry.once.failure)
        self._opened.callback(notifier.close)
        self._culling = culling = self._open_culling(config)
        parts = Parts(
            self._state, telemetry, node, cluster, culling, recorder, runtime.now_s, notifier
        )
        self._rules = RuleUpdater(self._loader, parts, runtime.heap.unfreeze)
        self._self_test = SelfTest(parts)
        self._opened.callback(self._self_test.close)
        self._publisher = Publisher(parts, log_limit, self._self_test.handle)
        self._execs = ExecWatcher(events, parts, self._publisher)
        self._probes = self._publish_probes(execs_off)
        self._report = SelfReport(
            parts, self._probes, self._self_test, self._failures, self._bounds_reached
        )
        try:
            self._endpoints = Endpoints(parts, self._report, runtime.max_worker_down_s)
        except MinerwatchError:
            self._opened.close()
            raise
        self._opened.callback(self._endpoints.close)

    def run(self) -> None:
        """Tick at the configured interval until ``stop`` is called."""
        self._log_start()
        due_s = self._runtime.now_s()
        while not self._is_stopping:
            self.tick()
            self._runtime.heap.tend(self._runtime.now_s())
            due_s = max(due_s + self._state.config.interval, self._runtime.now_s())
            self._wait(due_s)
        self._log.info("stopping")
        self._systemd.stopping()

    def close(self) -> None:
        """Close the socket, the address and the kernel's files."""
        self._opened.close()

    def stop(self) -> None:
        """End ``run`` after the tick under way."""
        self._is_stopping = True
        self._runtime.wake.up()

    def reload(self) -> None:
        """Run the next tick now, and read rules and configuration again in it."""
        self._is_reload_requested = True
        self._runtime.wake.up()

    def tick(self) -> None:
        """Run one tick; an error is counted, logged once, and does not end the agent."""
        started_s = time.perf_counter()
        try:
            self._publisher.publish_workers()
            self._reload_if_requested()
            self._rules.refresh()
            self._execs.handle_lost()
            summary = self._node.watch.tick(self._runtime.now_s())
            self._state.blindness = self._blindness(summary)
            duration_s = time.perf_counter() - started_s
            self._publisher.publish_tick(summary, duration_s)
            self._report.report_tick(summary, duration_s)
            self._state.last_tick_s = self._runtime.now_s()
            self._systemd.ticked(summary, self._state.config.interval)
            self._self_test.tend(self._runtime.now_s())
            self._endpoints.renew_socket()
        except Exception as error:  # noqa: BLE001 - the next tick may succeed
            self._telemetry.fail("tick", error)

    def _wait(self, until_s: float) -> None:
        """Handle exec events and take samples until ``until_s``, a stop or a reload."""
        while not self._is_stopping and not self._is_reload_requested:
            self._rules.apply_loaded()
            at_s = self._runtime.now_s()
            if at_s >= until_s:
                return
            sample_s = self._next_sample_s(at_s)
            if at_s >= sample_s:
                self._sample()
                continue
            next_read_s = self._execs.next_read_s(at_s)
            if at_s >= next_read_s:
                self._execs.read_deferred()
                continue
            pause_s = self._execs.pause_s(at_s)
            left_s = min(until_s, sample_s, next_read_s) - at_s
            events = self._execs.source(at_s)
            if self._runtime.wake.wait(min(left_s, pause_s or left_s), events):
                self._execs.read_events()

    def _next_sample_s(self, at_s: float) -> float:
        if not self._node.watch.wants_samples:
            return float("inf")
        return max(self._sampled_s + _SAMPLE_EVERY_S, at_s + self._samples_budget.pause_s(at_s))

    def _sample(self) -> None:
        started_s = time.perf_counter()
        self._sampled_s = self._runtime.now_s()
        with self._samples_budget.spending(self._runtime.now_s):
            self._node.watch.sample(self._sampled_s)
        self._telemetry.metrics.probe_took("rounding", time.perf_counter() - started_s)

    def _blindness(self, summary: TickSummary) -> str:
        """Return why most processes of the node cannot be seen; empty if they can."""
        proc = Path(self._state.config.node.proc)
        if hides_others(proc):
            return f"{proc} hides other users' processes (hidepid)"
        return OUTSIDE_UNSEEN if summary.foreign_count > summary.process_count else ""

    # Opening.

    def _open_cluster(self, config: Config) -> ClusterNode | None:
        """Return the node's cluster; None if it is in none, or Kubernetes is disabled."""
        if config.kubernetes.enabled is False:
            return None
        from minerwatch.kube.cluster_view import ClusterNode, is_wanted  # 10 MiB

        if not is_wanted(config.kubernetes):
            return None
        cluster = ClusterNode(config, node_name(config), self._log_cluster_error)
        self._opened.callback(cluster.close)
        return cluster

    def _open_node(
        self, config: Config, rules: RuleSet, packets: tuple[PacketReader | None, str]
    ) -> MonitoredNode:
        node = open_node(
            config, rules.book, matcher=rules.matcher, cluster=self._cluster, packets=packets
        )
        self._opened.callback(node.watch.close)
        if node.host is not None:
            self._opened.callback(node.host.close)
        self._opened.callback(self._runtime.wake.close)
        since = config.socket_path.with_name(FILE_NAME)
        return replace(node, since=SinceFile(since, boot_id(), self._runtime.now_s()))

    def _open_culling(self, config: Config) -> CullSwitch:
        culling = CullSwitch(
            config,
            self._node.name,
            self._cluster or self._node.host,
            self._node.watch,
            self._log,
            now_s=self._runtime.now_s,
            on_outcome=self._publish_outcome,
            on_error=self._log_culling_error,
        )
        self._opened.callback(culling.close)
        return culling

    def _publish_probes(self, execs_off: str) -> tuple[ProbeStatus, ...]:
        settings, metrics = self._state.config.probes, self._telemetry.metrics
        probes = (
            ProbeStatus("execs", execs_off, settings.execs, "" if execs_off else _EXECS),
            *self._node.probes,
            ProbeStatus("canary", self._self_test.off, settings.canary),
        )
        for status in probes:
            if status.is_asked_for:
                metrics.probe_opened(status.name, is_on=not status.off, source=status.source)
        return probes

    # Reloading.

    def _reload_if_requested(self) -> None:
        if self._is_reload_requested:
            self._is_reload_requested = False
            self._reload_config()
            self._rules.request_load()

    def _reload_config(self) -> None:
        if self._reread is None:
            return
        try:
            config = self._reread()
        except ConfigError as error:
            self._log.error("configuration not reloaded", reason=str(error))
            return
        before, self._state.config = self._state.config, config
        folders, private = config.rule_folders(), config.private_rule_folders()
        if (folders, private) != (before.rule_folders(), before.private_rule_folders()):
            self._rules.use_folders(folders, private)
        self._culling.use(config)
        for key in _NEED_RESTART:
            if getattr(config, key) != getattr(before, key):
                self._log.warning("a changed setting needs a restart", key=key)

    # Errors.

    def _failures(self) -> Iterator[tuple[str, str, int]]:
        yield from self._node.watch.failures()
        if self._node.host is not None:
            yield from self._node.host.failures()
        yield from (("rules", reason, n) for reason, n in self._loader.failures.items())
        if self._cluster is not None:
            yield from self._cluster.failures()
        yield from self._culling.failures()
        yield from self._notifier.failures()
        yield from self._telemetry.failures()
        yield from self._recorder.failures()
        for state in revive_all():
            yield from ((state.name, reason, n) for reason, n in state.failures.items())
        yield from self._endpoints.failures()

    def _bounds_reached(self) -> dict[str, int]:
        return {
            "exec events lost by the kernel": self._execs.counts()[1],
            "changes of verdict not logged": self._log_limit.left_out,
            "first words not looked at": self._node.first_words_left_out(),
        }

    def _log_cluster_error(self, reason: str, error: Exception) -> None:
        self._telemetry.once.warning("the API server", about=reason, reason=str(error))

    def _publish_outcome(self, record: ActionRecord) -> None:
        """Publish an action's outcome, in the culling thread: maybe before all else is open."""
        self._telemetry.metrics.action_ended(record.action, record.outcome)
        self._recorder.record_action(record)
        if record.outcome is not Outcome.WITHDRAWN:
            self._notifier.queue(action_notice(record))

    def _log_culling_error(self, what: str, error: Exception) -> None:
        if isinstance(error, MinerwatchError):
            about = f"{what} {type(error).__name__}"
            self._telemetry.once.warning(what, about=about, reason=str(error))
        else:
            self._telemetry.fail("culling", error)

    def _log_load_error(self, error: Exception) -> None:
        message = "rules could not be read; those read before stay in force"
        self._telemetry.once.failure(message, error)

    def _log_start(self) -> None:
        self._log.info(
            "watching",
            version=__version__,
            node=self._node.name,
            cgroups=self._node.source,
            rules=len(self._state.rules.book.rules),
            interval=f"{self._state.config.interval:g}s",
            metrics=self._endpoints.metrics_url,
            socket=str(self._endpoints.socket),
            **({"web": self._endpoints.web_url} if self._endpoints.web_url else {}),
            **({"cluster": self._cluster.cluster.server} if self._cluster is not None else {}),
        )
        for status in self._probes:
            if status.off:
                self._log.info("probe is off", probe=status.name, reason=status.off)
            else:
                source = {"source": status.source} if status.source else {}
                self._log.info("probe is on", probe=status.name, **source)
        for spot in self._node.blind_spots:
            self._telemetry.once.warning("cannot see everything", about=spot, reason=spot)


def _drop_network_capabilities(log: Log) -> None:
    """Drop NET_ADMIN and NET_RAW, by which a process could change the network, or forge packets.

    Only the sources opened before need them. Call it before any thread or child is started: each
    inherits the capabilities of the thread that starts it.
    """
    try:
        confined.give_up("NET_ADMIN", "NET_RAW")
    except OSError as error:
        log.warning("NET_ADMIN and NET_RAW cannot be dropped", reason=str(error))


def _raise_open_file_limit() -> None:
    """Raise the soft limit, often 1,024: a counter of every container is kept open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run(
    config: Config,
    log: Log,
    reread: Callable[[], Config] | None = None,
    runtime: Runtime | None = None,
) -> None:
    """Run an agent until SIGTERM or SIGINT; SIGHUP reloads it."""
    keep_heap_small()
    with collector_paused():
        agent = Agent(config, log, reread, runtime)

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            agent.reload()
        else:
            agent.stop()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, on_signal)
    try:
        agent.run()
    finally:
        agent.close()
