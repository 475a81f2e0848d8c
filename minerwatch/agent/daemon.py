"""The loop that wires them: sample, examine, judge, report."""

from __future__ import annotations

import os
import resource
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from minerwatch import __version__
from minerwatch.agent.memory import keep_heap_small, settle, trim_heap
from minerwatch.agent.rule_loader import RuleReading, RuleSet
from minerwatch.agent.scheduling import CpuBudget, Wake
from minerwatch.agent.tick import Tick, Watch
from minerwatch.agent.tracked import is_idle_sandbox
from minerwatch.api.snapshot import container_status, encode, encode_agent, worst_first
from minerwatch.api.types import AgentStatus, ContainerStatus, CullStatus
from minerwatch.config.schema import Config, Tls, default_socket
from minerwatch.config.values import host_and_port
from minerwatch.culling.service import CullSwitch, boot_id
from minerwatch.detection.judge import DEFAULT_MAX_GAP_S, MAX_GAP_TICKS, Judge
from minerwatch.detection.matching.matcher import Matcher
from minerwatch.detection.sigma import rulebook
from minerwatch.detection.sigma.rulebook import RuleBook
from minerwatch.errors import ConfigError, MinerwatchError
from minerwatch.format import rfc3339
from minerwatch.model import Change, Container, Finding, Identity, Observation
from minerwatch.node import canary, confined
from minerwatch.node.canary import Canary
from minerwatch.node.capabilities import OUTSIDE_UNSEEN, blind_spots, hides_others
from minerwatch.node.cgroups import CgroupTree
from minerwatch.node.exec_events import ExecEvents, ExecsUnavailableError
from minerwatch.node.processes import ProcessReader
from minerwatch.node.task_iterator import TaskIterator, TasksUnavailableError
from minerwatch.probes.registry import Probes, ProbeStatus
from minerwatch.report.http_server import Answer, Listener, Routes, SocketListener, address_listener
from minerwatch.report.log import Log, Once, verdict_line
from minerwatch.report.log_limit import LogLimit
from minerwatch.report.metrics import FlaggedContainer, LoadedRule, Metrics
from minerwatch.report.since import FILE_NAME, SinceFile
from minerwatch.untrusted_text.display import printable
from minerwatch.worker import WorkerState
from minerwatch.worker import states as worker_states

if TYPE_CHECKING:
    from minerwatch.kube.cluster_view import ClusterNode
    from minerwatch.report.tls import TlsEndpoint

_STALE_INTERVALS = 3
"""Without a tick for so many intervals, and a grace, the agent calls itself unhealthy."""
_STALE_GRACE_S = 15.0

_WORKER_DOWN_S = 120.0
"""A thread that has failed again and again for so long makes the agent not ready; one that is gone
and cannot be started makes it unhealthy."""

ALL_PROCESSES = 1000
"""Of one container, in the full snapshot."""

_NEED_RESTART = (
    "listen",
    "tls",
    "socket",
    "node",
    "examination",
    "probes",
    "judgement",
    "report",
    "kubernetes",
    "owners",
)

_OTHER_KERNEL = "node.proc is not this kernel's"

_SAMPLE_EVERY_S = 1.0
"""A thread's control word is that of its last switch-out: closer samples repeat each other."""

_READ_AGAIN_S = 0.5
"""Until processes are read again that there was no time for; the next tick may be far."""

_EXECS_PAUSE_S = 5.0
"""After exec events could not be read; meanwhile processes are found by ticks only."""

_BATCH_S = 0.002
"""Between two looks at exec events: one that brings many costs less than many that bring one."""

_TRIM_EVERY_S = 60.0

_JSON = "application/json"
_EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


def now_s() -> float:
    """Seconds since boot, suspension included: the clock of process start times (proc(5))."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Node:
    """What is watched, opened: shared by the agent and by commands that sample by themselves."""

    name: str
    watch: Watch
    source: str  # where containers and their CPU come from
    blind_spots: tuple[str, ...]
    probes: tuple[ProbeStatus, ...]
    cluster: ClusterNode | None
    since: SinceFile | None = None  # what the agent before knew

    def statuses(
        self,
        max_processes: int,
        culling: Callable[[Observation], CullStatus | None] = lambda _observation: None,
        *,
        unmasked: bool = False,
    ) -> list[ContainerStatus]:
        """What the last tick found, as it is published; worst first.

        ``culling`` says what would be done about it. ``unmasked``: with the secrets that command
        lines hold.
        """
        observations = self.watch.observations(max_processes)
        statuses = (
            replace(self.status(each, unmasked=unmasked), culling=culling(each))
            for each in observations
            if not self._is_sandbox(each)
        )
        return list(worst_first(statuses))

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

    def status(self, observation: Observation, *, unmasked: bool = False) -> ContainerStatus:
        """One observation as it is published."""
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
        )

    def identity(self, container: Container) -> Identity | None:
        """Whose ``container`` is, as far as a cluster says."""
        return self.cluster.identity(container) if self.cluster is not None else None


def node_name(config: Config) -> str:
    """As configured, or as the pod was told, or the host's own."""
    return config.node.name or os.environ.get("MINERWATCH_NODE") or socket.gethostname()


def open_node(
    config: Config,
    book: RuleBook,
    cluster: ClusterNode | None = None,
    matcher: Matcher | None = None,
) -> Node:
    """The node that ``config`` describes, to be scored by a book's rules. Raises NodeError.

    ``matcher``: of the book's rules, where there is one already.
    """
    proc = Path(config.node.proc)
    cgroups = CgroupTree(Path(config.node.sys), proc, units=config.node.units)
    processes = ProcessReader(proc, deadline_s=config.examination.read_deadline)
    tasks, tasks_off = _task_iterator(config)
    probes = Probes(
        config,
        content_rules=book.content,
        tasks=tasks,
        tasks_off=tasks_off,
    )
    judge = Judge(
        config.judgement.ticks_below,
        max_gap_s=max(DEFAULT_MAX_GAP_S, MAX_GAP_TICKS * config.interval),
    )
    place_of = cluster.facts if cluster is not None else None
    examination = config.examination
    matcher = matcher or Matcher(book.rules)
    watch = Watch(cgroups, processes, matcher, examination, judge, probes, tasks, place_of)
    opens_files = config.probes.connections or config.probes.content
    spots = (cgroups.blind_spot, *blind_spots(proc, opens_files=opens_files))
    return Node(
        node_name(config),
        watch,
        cgroups.source,
        tuple(spot for spot in spots if spot),
        (ProbeStatus("tasks", tasks_off, config.probes.tasks), *probes.status),
        cluster,
    )


def _task_iterator(config: Config) -> tuple[TaskIterator | None, str]:
    """The node's task iterator, or why there is none."""
    if not config.probes.tasks:
        return None, "switched off (probes.tasks)"
    if config.node.proc != Config().node.proc:
        return None, _OTHER_KERNEL
    try:
        return TaskIterator(), ""
    except TasksUnavailableError as error:
        return None, str(error)


class Agent:
    """Ticks until it is stopped; publishes what it knows."""

    def __init__(
        self, config: Config, log: Log, reread: Callable[[], Config] | None = None
    ) -> None:
        """Opens everything; raises NodeError or ListenError where that cannot be.

        ``reread`` gives the configuration anew when a reload is asked for.
        """
        self._config = config
        self._log = log
        self._once = Once(log)
        self._log_limit = LogLimit()
        self._reread = reread
        self._stopping = False
        self._wake = Wake()
        self._reload_asked = False
        self._is_reading_due = False
        self._is_settled = False
        self._trimmed_s = 0.0
        self._started_s = now_s()
        self._last_tick_s: float | None = None
        self._blindness = ""
        self._own_failures: dict[tuple[str, str], int] = {}
        self._listeners: tuple[SocketListener | Listener, ...] = ()
        self._metrics = Metrics(
            max_container_series=config.report.max_container_series,
            probe_failures=self._failures,
            exec_events=self._exec_events,
            verdicts_left_out=lambda: self._log_limit.left_out,
            culling=lambda: self._culling.figures(),
        )
        self._open = ExitStack()
        _raise_open_file_limit()
        # First, since threads and processes have the capabilities of those that start them.
        self._execs, self._execs_off = self._subscribe()
        self._give_up_net_admin()
        self._reading = RuleReading(self._wake.up, self._reading_failed)
        self._rules = self._reading.read(config.rule_folders(), config.private_rule_folders())
        self._cluster = self._opened_cluster()
        self._node = replace(
            open_node(config, self._rules.book, self._cluster, self._rules.matcher),
            since=_since_file(config),
        )
        if ProbeStatus("content", "") in self._node.probes:
            self._rules = self._reading.check_content(self._rules)
        self._note_rules()
        self._open.callback(self._node.watch.close)
        self._open.callback(self._wake.close)
        self._culling = CullSwitch(
            config,
            self._node.name,
            self._cluster,
            self._node.watch,
            log,
            now_s=now_s,
            on_outcome=self._metrics.action_ended,
            on_error=self._culling_failed,
        )
        self._open.callback(self._culling.close)
        self._canary, self._canary_off = self._caged_canary()
        self._execs_lost = 0
        self._execs_not_before_s = 0.0  # after a fault; 0.0: there is none
        self._execs_budget = CpuBudget(config.probes.execs_cpu_share)
        self._samples_budget = CpuBudget(config.probes.rounding_cpu_share)
        self._note_probes()
        self._sampled_s = 0.0
        self._examined_s = 0.0
        self.socket = Path(config.socket) if config.socket else default_socket()
        try:
            self.address = self._listen()
        except MinerwatchError:
            self._open.close()
            raise

    def run(self) -> None:
        """Ticks at the configured interval, from now until ``stop`` is called."""
        self._say_hello()
        due_s = now_s()
        while not self._stopping:
            self.tick()
            self._settle()
            due_s = max(due_s + self._config.interval, now_s())
            self._wait(due_s)
        self._log.info("stopping")

    def close(self) -> None:
        """Lets go of socket, address and the kernel's files."""
        self._open.close()

    def stop(self) -> None:
        """Ends ``run`` after the tick under way."""
        self._stopping = True
        self._wake.up()

    def reload(self) -> None:
        """Asks for rules and configuration to be read again, at the next tick, which is now."""
        self._reload_asked = True
        self._wake.up()

    def tick(self) -> None:
        """One tick; whatever goes wrong in it is counted, logged once and passed over."""
        started_s = time.perf_counter()
        try:
            self._note_workers()
            self._refresh_rules()
            self._answer_lost_execs()
            brought = self._node.watch.tick(now_s())
            self._report(brought, time.perf_counter() - started_s)
            self._last_tick_s = now_s()
            self._tend_canary()
            self._keep_socket()
        except Exception as error:  # noqa: BLE001 - the agent outlives whatever one tick meets
            self._fail("tick", error)

    def _note_workers(self) -> None:
        """Publishes how the agent's threads are; those that are gone are started again."""
        for state in worker_states():
            self._metrics.worker_is(state.name, is_up=state.down_s == 0.0)
            if any(each.name == state.name and not each.off for each in self._node.probes):
                self._metrics.probe_opened(state.name, is_on=state.down_s == 0.0)
            if state.last_error is not None:
                self._once.failure(f"{state.name} failed", state.last_error)

    def _keep_socket(self) -> None:
        """Listen again where the socket was removed, as by a cleaner of temporary folders."""
        try:
            for listener in self._listeners:
                if isinstance(listener, SocketListener) and listener.renew():
                    self._log.warning("socket removed: listening again", socket=str(self.socket))
        except MinerwatchError as error:
            self._fail("socket", error)

    def _settle(self) -> None:
        """Keep it small: once after the first tick and each change of rules, then by the minute."""
        at_s = now_s()
        if not self._is_settled:
            self._is_settled = True
            settle()
        elif at_s - self._trimmed_s >= _TRIM_EVERY_S:
            trim_heap()
        else:
            return
        self._trimmed_s = at_s

    def _wait(self, until_s: float) -> None:
        """Looks at what starts and how suspects round until ``until_s``, a stop or a reload."""
        while not self._stopping and not self._reload_asked:
            self._take_rules()
            at_s = now_s()
            if at_s >= until_s:
                return
            sample_s = self._next_sample_s(at_s)
            if at_s >= sample_s:
                self._sample()
                continue
            reading_s = self._next_reading_s(at_s)
            if at_s >= reading_s:
                self._examine(tuple)
                continue
            pause_s = max(self._execs_budget.pause_s(at_s), self._execs_not_before_s - at_s, 0.0)
            execs = self._execs if pause_s == 0.0 else None
            left_s = min(until_s, sample_s, reading_s) - at_s
            if self._wake.wait(min(left_s, pause_s or left_s), execs):
                self._examine_execs()
                time.sleep(_BATCH_S)

    def _next_sample_s(self, at_s: float) -> float:
        if not self._node.watch.wants_samples:
            return float("inf")
        return max(self._sampled_s + _SAMPLE_EVERY_S, at_s + self._samples_budget.pause_s(at_s))

    def _next_reading_s(self, at_s: float) -> float:
        """When processes are read again that there was no time for."""
        if not self._node.watch.wants_reading:
            return float("inf")
        return max(self._examined_s + _READ_AGAIN_S, at_s + self._execs_budget.pause_s(at_s))

    def _sample(self) -> None:
        started_s = time.perf_counter()
        self._sampled_s = now_s()
        with self._samples_budget.spending(now_s):
            self._node.watch.sample(self._sampled_s)
        self._metrics.probe_took("rounding", time.perf_counter() - started_s)

    def _examine_execs(self) -> None:
        if self._execs is None:
            return
        try:
            started = self._execs.drain()
        except OSError as error:  # poll(2) would return at once, again and again
            self._fail("execs", error)
            self._execs_not_before_s = now_s() + _EXECS_PAUSE_S
            self._metrics.probe_opened("execs", is_on=False)
            self._node.watch.recheck()
            return
        if self._execs_not_before_s:
            self._execs_not_before_s = 0.0
            self._metrics.probe_opened("execs", is_on=True)
        self._examine(lambda: started)

    def _examine(self, started: Callable[[], Collection[int]]) -> None:
        """Judges programs as they start; what goes wrong here, the next tick makes good."""
        cpu_s = self._execs_budget.slice_s(now_s())
        with self._execs_budget.spending(now_s):
            try:
                examined = self._node.watch.examine(started(), now_s(), cpu_s)
                self._report_findings(examined.changes, examined.began)
                for probe, probe_s in examined.probe_s.items():
                    self._metrics.probe_took(probe, probe_s)
            except Exception as error:  # noqa: BLE001 - as in a tick
                self._fail("execs", error)
        self._examined_s = now_s()

    def _answer_lost_execs(self) -> None:
        lost = self._execs.lost if self._execs else 0
        if lost > self._execs_lost:
            self._execs_lost = lost
            self._node.watch.recheck()
            self._once.warning("exec events were lost; all processes are asked again", lost=lost)

    def _subscribe(self) -> tuple[ExecEvents | None, str]:
        """Exec events, or why there are none."""
        if not self._config.probes.execs:
            return None, "switched off (probes.execs)"
        if self._config.node.proc != Config().node.proc:
            return None, _OTHER_KERNEL
        try:
            execs = ExecEvents()
        except ExecsUnavailableError as error:
            return None, str(error)
        self._open.callback(execs.close)
        return execs, ""

    def _give_up_net_admin(self) -> None:
        """Only the subscription needs it, and by it the node's network could be changed."""
        try:
            confined.give_up("NET_ADMIN")
        except OSError as error:
            self._log.warning("NET_ADMIN is kept", reason=str(error))

    def _caged_canary(self) -> tuple[Canary | None, str]:
        """What proves that the agent would see a miner, or why that cannot be proved here."""
        if not self._config.probes.canary:
            return None, "switched off (probes.canary)"
        if all(rule.id != canary.RULE for rule in self._rules.book.rules):
            return None, "its rule is not in force (built_in_rules)"
        if not self._node.watch.is_watched(os.getpid()):
            return None, "the agent itself runs in no container that it watches"
        caged = Canary()
        self._open.callback(caged.remove)
        self._metrics.expect_canaries()
        return caged, ""

    def _tend_canary(self) -> None:
        if self._canary is None:
            return
        try:
            self._canary.tend(now_s())
        except OSError as error:
            self._fail("canary", error)

    def _note_canary(self, finding: Finding) -> None:
        pid = finding.process.pid if finding.process is not None else None
        is_own = self._canary is not None and pid is not None and pid == self._canary.pid
        self._metrics.canary_seen(time.time(), is_own=is_own)
        if is_own and self._canary is not None:
            self._canary.remove()

    def _opened_cluster(self) -> ClusterNode | None:
        """The cluster that this node belongs to; None where it is to be left out, or is none."""
        if self._config.kubernetes.enabled is False:
            return None
        from minerwatch.kube.cluster_view import ClusterNode, is_wanted  # 10 MiB that not all need

        if not is_wanted(self._config.kubernetes):
            return None
        cluster = ClusterNode(self._config, node_name(self._config), self._cluster_failed)
        self._open.callback(cluster.close)
        return cluster

    def _cluster_failed(self, reason: str, error: Exception) -> None:
        self._once.warning("the API server", about=reason, reason=str(error))

    def _culling_failed(self, what: str, error: Exception) -> None:
        if isinstance(error, MinerwatchError):
            self._once.warning(what, about=f"{what} {type(error).__name__}", reason=str(error))
        else:
            self._fail("culling", error)

    def _exec_events(self) -> tuple[int, int]:
        return (self._execs.received, self._execs_lost) if self._execs else (0, 0)

    def _answer_failed(self, error: Exception) -> None:
        self._once.failure("answer failed", error)

    def _reading_failed(self, error: Exception) -> None:
        self._once.failure("rules could not be read; those read before stay in force", error)

    def _fail(self, where: str, error: Exception) -> None:
        reason = (where, type(error).__name__)
        self._own_failures[reason] = self._own_failures.get(reason, 0) + 1
        self._once.failure(f"{where} failed", error)

    def _failures(self) -> Iterable[tuple[str, str, int]]:
        yield from self._node.watch.failures()
        yield from (("rules", reason, n) for reason, n in self._reading.failures.items())
        if self._cluster is not None:
            yield from self._cluster.failures()
        yield from self._culling.failures()
        yield from ((where, reason, n) for (where, reason), n in [*self._own_failures.items()])
        for state in worker_states():
            yield from ((state.name, reason, n) for reason, n in state.failures.items())
        for listener in self._listeners:
            yield from (("http", reason, count) for reason, count in [*listener.failures.items()])

    # Rules.

    def _refresh_rules(self) -> None:
        """Begins to read what has changed; other rules come into force when they are read."""
        self._take_rules()
        if self._reload_asked:
            self._reload_asked = False
            self._reread_config()
            self._is_reading_due = True
        is_due = self._is_reading_due or rulebook.has_changed(self._rules.book)
        if is_due and self._reading.begin(self._rules):
            self._is_reading_due = False

    def _take_rules(self) -> None:
        """Puts the rules in force that have been read since, if any."""
        read = self._reading.answer()
        if read is None:
            return
        try:
            self._use(read)
        except Exception as error:  # noqa: BLE001 - as in a tick
            self._fail("rules", error)

    def _use(self, read: RuleSet) -> None:
        self._node.watch.use(read.matcher)
        if read.book.content_stamps != self._rules.book.content_stamps:
            self._node.watch.use_content_rules(read.book.content)
        folders, private = self._rules.book.folders, self._rules.book.private
        if (folders, private) != (read.book.folders, read.book.private):
            # others were configured meanwhile
            read = replace(read, book=replace(read.book, folders=folders, private=private))
        self._rules = read
        self._is_settled = False
        self._note_rules()
        self._log.info("rules loaded", rules=len(read.book.rules), broken=len(read.book.errors))

    def _note_rules(self) -> None:
        book, errors = self._rules.book, self._rules.errors
        for error in errors:
            reason = book.public_reason(error)
            self._once.warning("rule file cannot be used", about=str(error), reason=reason)
        self._metrics.rules_loaded(
            (
                LoadedRule(rule.id, rule.signal, rule.maturity, "" if rule.private else rule.title)
                for rule in book.rules
            ),
            len(errors),
            time.time(),
        )

    def _reread_config(self) -> None:
        if self._reread is None:
            return
        try:
            config = self._reread()
        except ConfigError as error:
            self._log.error("configuration not reloaded", reason=str(error))
            return
        before, self._config = self._config, config
        folders, private = config.rule_folders(), config.private_rule_folders()
        if (folders, private) != (before.rule_folders(), before.private_rule_folders()):
            book = replace(self._rules.book, folders=folders, private=private)
            self._rules = replace(self._rules, book=book)
        self._culling.use(config)
        for key in _NEED_RESTART:
            if getattr(config, key) != getattr(before, key):
                self._log.warning("a changed setting needs a restart", key=key)

    # What is published.

    def _listen(self) -> str:
        private: Routes = {
            **self._public_routes(),
            "/snapshot": lambda: self._snapshot(self._config.report.processes_per_container),
            "/snapshot/full": lambda: self._snapshot(ALL_PROCESSES),
            "/snapshot/unmasked": lambda: self._snapshot(ALL_PROCESSES, unmasked=True),
            "/status": lambda: Answer(encode_agent(self.status()), _JSON),
        }
        posts = self._culling.posts()
        on_socket = SocketListener(self.socket, private, self._answer_failed, posts)
        self._open.callback(on_socket.close)
        host, port = host_and_port(self._config.listen)
        on_address, address = address_listener(
            host,
            port,
            self._public_routes(),
            on_error=self._answer_failed,
            tls=_tls_endpoint(self._config.tls),
        )
        self._open.callback(on_address.close)
        self._listeners = (on_socket, on_address)
        return address

    def _public_routes(self) -> Routes:
        return {
            "/metrics": lambda: Answer(self._metrics.exposition(), _EXPOSITION),
            "/healthz": self._health,
            "/readyz": self._readiness,
        }

    def status(self) -> AgentStatus:
        """What it says of itself."""
        probes = (ProbeStatus("execs", self._execs_off), *self._node.probes)
        return AgentStatus(
            node=self._node.name,
            version=__version__,
            started=rfc3339(time.time() - now_s() + self._started_s),
            interval_s=float(self._config.interval),
            rules=dict(Counter(rule.maturity.value for rule in self._rules.book.rules)),
            broken_rules=len(self._rules.errors),
            culling=str(self._config.culling.mode),
            probes_off={probe.name: probe.off for probe in probes if probe.off},
            blind_spots=self._node.blind_spots,
            troubles=self._troubles(),
        )

    def _troubles(self) -> tuple[str, ...]:
        trouble = self._cluster.trouble if self._cluster is not None else ""
        return (trouble,) if trouble else ()

    def _snapshot(self, max_processes: int, *, unmasked: bool = False) -> Answer:
        statuses = self._node.statuses(max_processes, self._culling.status, unmasked=unmasked)
        return Answer(encode(statuses), _JSON)

    def _health(self) -> Answer:
        """Alive: the last tick is not long ago, or the first is still to be expected."""
        since_s = self._last_tick_s if self._last_tick_s is not None else self._started_s
        age_s = now_s() - since_s
        if age_s > _STALE_INTERVALS * self._config.interval + _STALE_GRACE_S:
            return _unavailable(f"the last tick ended {age_s:.0f} s ago")
        dead = [each.name for each in worker_states() if each.is_dead and _is_down(each)]
        if dead:
            return _unavailable(f"no thread can be started for: {', '.join(dead)}")
        return Answer(b"ok\n")

    def _readiness(self) -> Answer:
        """Ready: something has been judged, by some rules; pods have names, processes are seen."""
        if self._last_tick_s is None:
            return _unavailable("no tick yet")
        if not self._rules.book.rules:
            return _unavailable("no rules are loaded")
        if self._blindness:
            return _unavailable(self._blindness)
        down = [each.name for each in worker_states() if _is_down(each)]
        if down:
            return _unavailable(f"fails again and again, the log says why: {', '.join(down)}")
        if self._cluster is not None and not self._cluster.has_listed:
            return _unavailable(self._cluster.public_trouble)
        trouble = self._cluster.public_trouble if self._cluster is not None else ""
        return Answer(f"ok\n{trouble}\n".encode() if trouble else b"ok\n")

    def _blindness_at(self, brought: Tick) -> str:
        """Why most processes of the node cannot be seen; "" if they can."""
        proc = Path(self._config.node.proc)
        if hides_others(proc):
            return f"{proc} hides other users' processes (hidepid)"
        return OUTSIDE_UNSEEN if brought.foreign_count > brought.process_count else ""

    def _report(self, brought: Tick, duration_s: float) -> None:
        self._blindness = self._blindness_at(brought)
        self._report_findings(brought.changes, brought.began)
        for ended in brought.ended:
            self._log_verdict(ended, ended.verdict.level.label, "gone")
        for container, level, cpu_s in brought.flagged_cpu_s:
            identity = self._node.identity(container)
            namespace = identity.pod.namespace if identity else ""
            self._metrics.flagged_cpu(namespace, level, cpu_s)
        for probe, probe_s in brought.probe_s.items():
            self._metrics.probe_took(probe, probe_s)
        self._metrics.tick_done(
            duration_s=duration_s,
            at_s=time.time(),
            containers=dict(brought.levels),
            flagged=[
                self._flagged(observation)
                for observation in brought.flagged
                if self._cluster is None or self._cluster.may_announce(observation.container)
            ],
            processes=brought.process_count,
            unmapped=brought.unplaced_count if self._cluster is not None else 0,
            over_bound=brought.over_bound_count,
        )
        self._metrics.text_kept(brought.text_bytes, brought.shortened_texts)
        for container in brought.shortened:
            self._once.warning(
                "its processes have more text than is kept",
                about=str(hash(container.key)),  # a path may be long
                cgroup=printable(container.cgroup, 512),
            )
        if self._cluster is not None:
            self._cluster.tell(brought.flagged)
            spot = self._cluster.blind_spot(brought.unplaced_count)
            if spot:
                self._once.warning("cannot see everything", about=spot, reason=spot)
            self._metrics.pods_synced(self._cluster.synced_unix_s or 0.0)
        self._culling.consider(brought.flagged)
        self._remember(brought.flagged)

    def _remember(self, flagged: Iterable[Observation]) -> None:
        if self._node.since is None:
            return
        try:
            if self._culling.is_forgotten:  # the file lies beside the audit log
                self._node.since.forget()
                return
            self._node.since.note((each.verdict for each in flagged), now_s())
        except OSError as error:
            reason = str(error)
            self._once.warning("levels are not kept over a restart", about="since", reason=reason)

    def _report_findings(self, changes: Sequence[Change], began: Iterable[Finding]) -> None:
        for change in changes:
            self._metrics.level_changed(change.observation.verdict.level)
            level = change.observation.verdict.level.label
            self._log_verdict(change.observation, change.previous.label, level)
        for finding in began:
            self._metrics.finding_began(finding.rule, finding.signal)
            if finding.rule == canary.RULE:
                self._note_canary(finding)
        if self._cluster is not None:
            self._cluster.tell(change.observation for change in changes)

    def _log_verdict(self, observation: Observation, previous: str, level: str) -> None:
        """Log a change of verdict, with how many were left out since the line before."""
        container = observation.container
        identity = self._node.identity(container)
        namespace = identity.pod.namespace if identity else ""
        key = f"{container.cgroup} {container.cgroup_inode}"
        left_out = self._log_limit.lines_before(key, namespace, level, now_s())
        if left_out is None:
            return
        line = {**verdict_line(self._node.status(observation), previous), "level": level}
        self._log.info("verdict", **line, **({"left_out": left_out} if left_out else {}))

    def _flagged(self, observation: Observation) -> FlaggedContainer:
        status = self._node.status(observation)
        return FlaggedContainer(
            status.namespace,
            status.pod,
            status.container,
            status.score,
            status.cpu_cores,
            status.signals,
        )

    def _probe_statuses(self) -> tuple[ProbeStatus, ...]:
        return (
            ProbeStatus("execs", self._execs_off, self._config.probes.execs),
            *self._node.probes,
            ProbeStatus("canary", self._canary_off, self._config.probes.canary),
        )

    def _note_probes(self) -> None:
        for status in self._probe_statuses():
            if status.is_asked_for:
                self._metrics.probe_opened(status.name, is_on=not status.off)

    def _say_hello(self) -> None:
        self._log.info(
            "watching",
            version=__version__,
            node=self._node.name,
            cgroups=self._node.source,
            rules=len(self._rules.book.rules),
            interval=f"{self._config.interval:g}s",
            metrics=f"{'https' if self._config.tls.certificate else 'http'}://{self.address}/metrics",
            socket=str(self.socket),
            **({"cluster": self._cluster.server} if self._cluster is not None else {}),
        )
        for status in self._probe_statuses():
            if status.off:
                self._log.info("probe is off", probe=status.name, reason=status.off)
            else:
                self._log.info("probe is on", probe=status.name)
        for spot in self._node.blind_spots:
            self._once.warning("cannot see everything", about=spot, reason=spot)


def _is_down(state: WorkerState) -> bool:
    return state.down_s > _WORKER_DOWN_S


def _unavailable(reason: str) -> Answer:
    return Answer(f"{reason}\n".encode(), status=HTTPStatus.SERVICE_UNAVAILABLE)


def _since_file(config: Config) -> SinceFile:
    """Return the file beside the socket in which levels are kept."""
    socket_path = Path(config.socket) if config.socket else default_socket()
    return SinceFile(socket_path.with_name(FILE_NAME), boot_id(), now_s())


def _tls_endpoint(settings: Tls) -> TlsEndpoint | None:
    """How the address speaks TLS; None: it does not. Raises ListenError for unusable files."""
    if not settings.certificate:
        return None
    from minerwatch.report.tls import TlsEndpoint  # 4 MiB that not all need

    return TlsEndpoint(settings)


def _raise_open_file_limit() -> None:
    """Counters of every container are kept open; the soft limit is often 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run(config: Config, log: Log, reread: Callable[[], Config] | None = None) -> None:
    """Runs an agent until SIGTERM or SIGINT; SIGHUP makes it reload."""
    keep_heap_small()
    agent = Agent(config, log, reread)

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
