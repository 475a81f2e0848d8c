"""The culling thread: decide about each tick's confirmed containers, and act, one at a time.

The agent hands over the flagged containers of a tick and goes on. An agent with culling disabled
does not import this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from minerwatch.api.orders import ReleaseAllOrder
from minerwatch.api.types import ActionStatus, CullStatus
from minerwatch.config.schema import Config
from minerwatch.config.values import OFF
from minerwatch.culling.actions import Actions
from minerwatch.culling.ban_store import BanStore
from minerwatch.culling.banning import Banning
from minerwatch.culling.bans import with_claims
from minerwatch.culling.cases import Cases
from minerwatch.culling.context import AgentClock, AgentIdentity, Callbacks, Context, Monitor
from minerwatch.culling.enforcer import Enforcer, RetryPolicy
from minerwatch.culling.evidence import EvidenceWriter
from minerwatch.culling.file_budget import FileBudget
from minerwatch.culling.host_actions import HostActions
from minerwatch.culling.hub_api import HubApi
from minerwatch.culling.lease_budget import BudgetPace, LeaseBudget
from minerwatch.culling.mailbox import NOT_RUNNING, Flagged, Mailbox, PendingRequest, Result
from minerwatch.culling.operator_orders import OperatorOrders
from minerwatch.culling.proof import tripped
from minerwatch.culling.recorded_history import DecisionLog, RecordedHistory
from minerwatch.culling.records import ActionRecord, Moment
from minerwatch.culling.sightings import FILE_NAME, Sightings
from minerwatch.errors import MinerwatchError
from minerwatch.format import rfc3339
from minerwatch.kube.cluster_view import ClusterNode
from minerwatch.kube.controllers import ControllerCheck
from minerwatch.model import Level, Observation, Outcome
from minerwatch.node.host_view import HostView
from minerwatch.report.log import Log
from minerwatch.report.metrics import CullFigures
from minerwatch.worker import Worker

BUDGET_FILE = "budget.json"  # of a host, beside the audit log
_CLOSE_S = 5.0
_MAX_PAUSE_S = 5.0  # the longest pause after an error, so the longest that an order waits for it
_REQUEST_TIMEOUT_S = 90.0
_MAX_STATUS_RECORDS = 10


@dataclass(frozen=True, slots=True)
class Timing:
    """Timeouts and retries."""

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    budget: BudgetPace = field(default_factory=BudgetPace)


class Culler:
    """The culling thread; ``orders`` belongs to it (use ``call``), ``history`` to any thread."""

    def __init__(
        self,
        config: Config,
        agent: AgentIdentity,
        cluster: ClusterNode | HostView,
        monitor: Monitor,
        log: Log,
        *,
        read_clocks: Callable[[], Moment],
        callbacks: Callbacks,
        timing: Timing | None = None,
    ) -> None:
        """``cluster``: a HostView outside Kubernetes."""
        timing = timing or Timing()
        proc = Path(config.node.proc)
        is_host = isinstance(cluster, HostView)

        def on_error(reason: str, error: Exception) -> None:
            callbacks.on_error(f"budget {reason}", error)

        actions: Actions | HostActions
        if isinstance(cluster, HostView):
            self._budget: LeaseBudget | FileBudget = FileBudget(
                Path(config.culling.audit.log).with_name(BUDGET_FILE),
                lambda: self._context.culling.budget,
                read_clocks,
                on_error=on_error,
            )
            actions = HostActions(
                cluster, monitor, lambda: self._context.culling.hosts, proc, timing.retry.answer_s
            )
            controllers = None
        else:
            self._budget = LeaseBudget(
                cluster.cluster,
                agent.namespace,
                lambda: self._context.culling,
                on_error=on_error,
                pace=timing.budget,
            )
            actions = Actions(cluster.cluster, cluster.fields(config), proc, timing.retry.answer_s)
            controllers = ControllerCheck(cluster.cluster, on_error=callbacks.on_error)
        clock = AgentClock(read_clocks, self._budget.server_unix_s)
        self._context = context = Context(
            config, agent, cluster, monitor, log, clock, callbacks, Event(), is_host
        )
        self.history = RecordedHistory(context)
        self.cases = Cases(context, self.history, self._budget, actions, controllers)
        evidence = EvidenceWriter(context, self.history, proc)
        self.banning = _banning(context, self.history, evidence, cluster)
        self._enforcer = Enforcer(
            context, self.cases, self.history, self._budget, actions, evidence, timing.retry,
            HubApi(lambda: context.culling.hub, timing.retry.answer_s), self.banning.follow_up,
        )  # fmt: skip
        self._decisions = DecisionLog(context, self.history)
        self.orders = OperatorOrders(
            context, self.cases, self.history, self._budget, actions, self._enforcer,
            self._decisions, self.banning,
        )  # fmt: skip
        self.mailbox = Mailbox()
        self._thread = Worker("culling", self._run, last_pause_s=_MAX_PAUSE_S)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def use(self, config: Config) -> None:
        """Apply settings, except the audit log's; switching off releases all pods."""
        is_switched_off = config.culling.mode == OFF != self._context.culling.mode
        self._context.config = config
        if is_switched_off:
            self.mailbox.post(lambda: self.orders.release_all(ReleaseAllOrder()))

    def close(self) -> None:
        """Stop the thread; wait some seconds for an action in progress."""
        self._context.closing.set()
        self._thread.close()
        self._budget.close()
        self.mailbox.close()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_S)
        if not self._thread.is_alive():
            self.history.close()

    # For any thread.

    def consider(self, flagged: Flagged) -> None:
        """Take the containers that a tick found at suspicious or above; return at once."""
        verdicts = [each.verdict for each in confirmed(flagged)]
        now_s = self._context.clock.now().monotonic_s
        self.cases.holds.update(verdicts, now_s, float(self._context.config.interval))
        self.mailbox.put_tick(flagged)

    def call(self, work: Callable[[], Result], timeout_s: float = _REQUEST_TIMEOUT_S) -> Result:
        """Return ``work()`` from the culling thread; MinerwatchError if there is none in time."""
        if not self._thread.is_alive():
            raise MinerwatchError(NOT_RUNNING)
        return self.mailbox.call(work, timeout_s)

    def status(self, observation: Observation) -> CullStatus | None:
        """Return the decision about a container; None for a clear one without history."""
        identity = self._context.identity(observation.container)
        pod_uid = identity.pod.uid if identity else observation.container.pod_uid
        records = self.history.past.of_pod(pod_uid)
        stopped = self.cases.stopped(pod_uid)
        if observation.verdict.level is Level.CLEAR and not records and not stopped:
            return None
        decision = self.history.decide(self.cases.case(observation))
        newest = reversed(records[-_MAX_STATUS_RECORDS:])
        return CullStatus(
            mode=str(self._context.culling.mode),
            action=decision.action.value,
            proposed=decision.proposed.value,
            dry_run=decision.dry_run,
            rung=decision.rung,
            reasons=decision.sentences,
            pids=tuple(process.pid for process in decision.processes),
            stopped=tuple(sorted(process.pid for process in stopped)),
            history=tuple(_action_status(record) for record in newest),
        )

    def figures(self) -> CullFigures:
        """Return the values of the metrics."""
        return CullFigures(
            mode=str(self._context.culling.mode),
            budget_left=self._budget.left(dry_run=self._context.dry_run),
            is_circuit_open=bool(tripped(self.cases.situation(), self._context.culling)),
            stopped=self.cases.stopped_count,
        )

    def failures(self) -> Iterable[tuple[str, str, int]]:
        """Return the failures since the start: source, reason, count."""
        controllers = self.cases.controllers
        each = (
            ("budget", self._budget.failures),
            ("controllers", controllers.failures if controllers is not None else {}),
        )
        return [
            (what, reason, count) for what, counts in each for reason, count in [*counts.items()]
        ]

    # The culling thread.

    def _run(self) -> None:
        while (work := self.mailbox.pop()) is not None:
            self._handle(work)

    def _handle(self, work: PendingRequest | Flagged) -> None:
        try:
            self.history.make_ready()
            self.cases.refresh_stopped()
        except Exception as error:
            if isinstance(work, PendingRequest):
                work.answer.set_exception(error)
            raise
        if isinstance(work, PendingRequest):
            work.run()
        else:
            self._consider(work)

    def _consider(self, flagged: Flagged) -> None:
        found = confirmed(flagged)
        self.cases.refresh_flagged(flagged)
        self._update_sightings(flagged)
        if self._context.has_budget:
            now_s = self._context.clock.now().monotonic_s
            self._budget.refresh_if_due(now_s, is_needed=bool(found), dry_run=self._context.dry_run)
            if self._context.culling.mode != OFF:
                self._budget.flag(self.cases.flagged_owners(found))
        failure: Exception | None = None
        for observation in found:
            if self._context.closing.is_set():
                return
            try:
                self._decide(observation)
            except Exception as error:  # noqa: BLE001 - the other containers are decided as well
                failure = error
        self._decisions.retain({observation.container.key for observation in found})
        if failure is not None:
            raise failure

    def _update_sightings(self, flagged: Flagged) -> None:
        """Count the node's pods by repository and address, where bans are configured."""
        culling = self._context.culling
        if self._context.is_host or culling.mode == OFF or not culling.bans.config_map:
            return
        now, cluster = self._context.clock.now(), self._context.cluster
        pods = ((pod.uid, with_claims(cluster.owners(pod), pod, culling)) for pod in cluster.pods())
        uids = frozenset(each.container.pod_uid for each in flagged)
        try:
            self.banning.sightings.update(pods, uids, now.unix_s)
        except OSError as error:
            self._context.callbacks.on_error("bans", error)

    def _decide(self, observation: Observation) -> None:
        case = self.cases.checked_case(observation)
        decision = self.history.decide(case)
        self._decisions.record(case, decision)
        if decision.acts:
            self._enforcer.carry_out(case, decision)


def _banning(
    context: Context,
    history: RecordedHistory,
    evidence: EvidenceWriter,
    cluster: ClusterNode | HostView,
) -> Banning:
    store = None
    if not isinstance(cluster, HostView):
        store = BanStore(
            cluster.cluster, lambda: context.culling.bans.config_map, closing=context.closing
        )
    sightings = Sightings(Path(context.culling.audit.log).with_name(FILE_NAME))
    return Banning(context, history, evidence, store, sightings)


def confirmed(flagged: Flagged) -> Flagged:
    """Return the confirmed containers, by CPU usage: decoys must not spend the budget."""
    found = (each for each in flagged if each.verdict.level is Level.CONFIRMED)
    return tuple(sorted(found, key=lambda each: -each.cpu_s))


def _action_status(record: ActionRecord) -> ActionStatus:
    return ActionStatus(
        at=rfc3339(record.unix_s, milliseconds=True),
        action="release" if record.outcome is Outcome.RELEASED else record.action.value,
        outcome=record.outcome.value,
        dry_run=record.dry_run,
        pids=tuple(process.pid for process in record.processes),
    )
