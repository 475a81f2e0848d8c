"""Culling: what the ticks find is put to the policy, and what it permits is carried out.

All of it happens in one thread of its own, one action at a time: the agent's loop hands over what a
tick found and goes on. An agent whose culling is off does not import this module.
"""

from __future__ import annotations

import queue
import random
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from minerwatch.api.types import (
    ActionStatus,
    CullAnswer,
    CullStatus,
    ReleaseAllAnswer,
    ReleaseAnswer,
)
from minerwatch.config.schema import Culling
from minerwatch.config.values import ENFORCE, OFF
from minerwatch.culling.clock import SteadyClock
from minerwatch.culling.decision import Decision
from minerwatch.culling.enforcer import End, Enforcer, Pace
from minerwatch.culling.evidence import MAX_PROCESSES
from minerwatch.culling.holds import Holds
from minerwatch.culling.journal import Journal
from minerwatch.culling.lease_budget import BudgetPace, LeaseBudget
from minerwatch.culling.pod_actions import Actions, SeenPod, planned
from minerwatch.culling.policy import claims_protection, counted_as, pod_counted_as, tripped
from minerwatch.culling.proof import rules_that_flag
from minerwatch.culling.records import (
    ActionRecord,
    AuditLine,
    Case,
    DecisionLine,
    Moment,
    Situation,
)
from minerwatch.errors import MinerwatchError, TargetError
from minerwatch.format import rfc3339
from minerwatch.kube.client import ApiError
from minerwatch.kube.cluster_view import ClusterNode
from minerwatch.kube.controllers import ControllerCheck
from minerwatch.kube.events import ACTION_REASONS, EventReason
from minerwatch.kube.pod_parsing import PodFields
from minerwatch.model import Action, Container, ContainerKey, Level, Observation, Outcome, ProcessId
from minerwatch.report.log import Log
from minerwatch.untrusted_text.display import printable
from minerwatch.worker import Worker

_CLOSE_S = 5.0
_LAST_PAUSE_S = 5.0
"""After errors; an order that is given by hand waits for no longer than that."""
_ASK_S = 90.0
_MAX_ASKED = 16
_MAX_STATUS_RECORDS = 10
_LEAST_BETWEEN_LINES_S = 60.0
_MAX_DECISION_LINES_PER_HOUR = 240
_HOUR_S = 3600.0
_APART_S = 5.0
_NOT_ANSWERED = "the agent starts or stops just now: ask again"

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Own:
    """What the agent knows of itself."""

    node: str
    namespace: str  # "": not known, and nothing is done
    pod_uid: str
    interval_s: float


@dataclass(frozen=True, slots=True)
class Round:
    """What one tick found, as far as it matters here."""

    flagged: tuple[Observation, ...]  # at suspicious or above

    @property
    def confirmed(self) -> tuple[Observation, ...]:
        """Return those that something may be done about; those that used most CPU come first.

        So the budget is not spent on decoys that were merely found earlier.
        """
        found = (each for each in self.flagged if each.verdict.level is Level.CONFIRMED)
        return tuple(sorted(found, key=lambda each: -each.cpu_s))


@dataclass(frozen=True, slots=True)
class Target:
    """A container that is named by hand: by all three, so that no other is meant by mistake."""

    cgroup: str
    container_id: str
    pod_uid: str


class Watching(Protocol):
    """What is asked of the watch."""

    def observation(self, key: ContainerKey, max_processes: int) -> Observation | None:
        """One container as it was found at the last tick."""

    def observations(self, max_processes: int) -> tuple[Observation, ...]:
        """All of them."""

    def carrier(self, container: Container) -> Container:
        """The pod's own container that this one is nested in, or itself."""


@dataclass(frozen=True, slots=True)
class _Told:
    """What was last written about a container's decision."""

    what: tuple[object, ...]
    at_s: float


@dataclass(slots=True, eq=False)
class _Asked:
    """A question that is put to the thread from another one."""

    work: Callable[[], object]
    answer: queue.SimpleQueue[object] = field(default_factory=queue.SimpleQueue)


class Culler:
    """Decides about what the ticks find, and acts; answers those who ask by hand."""

    def __init__(
        self,
        settings: Culling,
        own: Own,
        cluster: ClusterNode,
        keep: PodFields,
        watch: Watching,
        log: Log,
        *,
        moment: Callable[[], Moment],
        on_outcome: Callable[[Action, Outcome], None] = lambda _action, _outcome: None,
        on_error: Callable[[str, Exception], None] = lambda _what, _error: None,
        proc: Path = Path("/proc"),
        pace: Pace | None = None,
        budget_pace: BudgetPace | None = None,
        chance: random.Random | None = None,
    ) -> None:
        """``keep`` names what is kept of pods; ``on_error`` hears of what goes wrong."""
        self._settings = settings
        self._own = own
        self._cluster = cluster
        self._watch = watch
        self._log = log
        self._read_clocks = moment
        self._clock = SteadyClock()
        self._on_outcome = on_outcome
        self._on_error = on_error
        self._chance = chance or random.Random()  # noqa: S311 - it spreads requests
        self._closing = threading.Event()
        self._actions = Actions(cluster.cluster, keep, proc)
        self._budget = LeaseBudget(
            cluster.cluster,
            own.namespace,
            settings.budget,
            cluster_owners=settings.circuit_breaker.cluster_owners,
            on_error=self._budget_failed,
            chance=self._chance,
            pace=budget_pace,
        )
        self._controllers = ControllerCheck(cluster.cluster, on_error=on_error)
        self._holds = Holds()
        self._journal = Journal(
            settings.audit, own.node, log, moment=self._moment, on_outcome=on_outcome
        )
        self._enforcer = Enforcer(
            cluster.cluster,
            self._actions,
            self._budget,
            self._journal,
            log,
            settings=lambda: self._settings,
            fresh=self._fresh_case,
            whole=lambda case: watch.observation(case.container.key, MAX_PROCESSES),
            moment=self._moment,
            on_error=on_error,
            closing=self._closing,
            proc=proc,
            pace=pace,
            chance=self._chance,
        )
        self._stopped: Mapping[str, frozenset[ProcessId]] = {}  # that stand still, by pod uid
        self._flagged: Mapping[str, frozenset[str]] = {}  # rule -> owners, at the last tick
        self._owners = 0  # that have pods on the node
        self._told: dict[ContainerKey, _Told] = {}
        self._lines_at_s: deque[float] = deque(maxlen=_MAX_DECISION_LINES_PER_HOUR)
        self._has_news = threading.Condition()
        self._news: Round | None = None
        self._asked: deque[_Asked] = deque()
        self._thread = Worker("culling", self._run, last_pause_s=_LAST_PAUSE_S)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def use(self, settings: Culling, interval_s: float) -> None:
        """Put other settings in force at once, also for what is under way; but the audit log's.

        Switched off, what was stopped or labelled is released: nobody would answer for it.
        """
        self._own = replace(self._own, interval_s=interval_s)
        is_switched_off = settings.mode == OFF != self._settings.mode
        self._settings = settings
        self._budget.use(settings.budget, settings.circuit_breaker.cluster_owners)
        if is_switched_off:
            with self._has_news:
                self._asked.append(_Asked(self._release_all))
                self._has_news.notify_all()

    def close(self) -> None:
        """End; an action that is under way is waited for, but for some seconds only."""
        self._closing.set()
        self._thread.close()
        self._budget.close()
        with self._has_news:
            while self._asked:
                self._asked.popleft().answer.put(MinerwatchError(_NOT_ANSWERED))
            self._has_news.notify_all()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_S)
        if not self._thread.is_alive():
            self._journal.close()

    # What others ask, from any thread.

    def consider(self, found: Round) -> None:
        """Takes what a tick found; returns at once. The latest counts."""
        verdicts = [each.verdict for each in found.confirmed]
        self._holds.note(verdicts, self._moment().monotonic_s, self._own.interval_s)
        with self._has_news:
            self._news = found
            self._has_news.notify_all()

    def status(self, observation: Observation) -> CullStatus | None:
        """What would be done about a container, or why not; None where there is nothing to say."""
        identity = self._cluster.identity(observation.container)
        pod_uid = identity.pod.uid if identity else observation.container.pod_uid
        records = self._journal.of_pod(pod_uid)
        stopped = self._stopped.get(pod_uid, frozenset())
        if observation.verdict.level is Level.CLEAR and not records and not stopped:
            return None
        decision = self._journal.decide(self._case(observation), self._settings)
        newest = reversed(records[-_MAX_STATUS_RECORDS:])
        return CullStatus(
            mode=str(self._settings.mode),
            action=decision.action.value,
            proposed=decision.proposed.value,
            dry_run=decision.dry_run,
            rung=decision.rung,
            reasons=_sentences(decision),
            pids=tuple(process.pid for process in decision.processes),
            stopped=tuple(sorted(process.pid for process in stopped)),
            history=tuple(_action_status(record) for record in newest),
        )

    @property
    def mode(self) -> str:
        """As configured."""
        return str(self._settings.mode)

    @property
    def is_forgotten(self) -> bool:
        """Return True once the audit log was removed."""
        return self._journal.is_forgotten

    @property
    def budget_left(self) -> int | None:
        """Actions that the cluster may still do in this hour; None: not known."""
        return self._budget.left(dry_run=self._settings.mode != ENFORCE)

    @property
    def is_circuit_open(self) -> bool:
        """Return whether a rule flags so many owners that nothing is done on its findings."""
        return bool(tripped(self._situation(), self._settings))

    @property
    def stopped_count(self) -> int:
        """Processes that minerwatch has stopped and that stand still."""
        return sum(len(processes) for processes in self._stopped.values())

    def failures(self) -> Iterable[tuple[str, str, int]]:
        """What went wrong since the start: probe, reason, count."""
        each = (("budget", self._budget.failures), ("controllers", self._controllers.failures))
        return [
            (what, reason, count) for what, counts in each for reason, count in [*counts.items()]
        ]

    def cull(self, target: Target, action: Action, *, dry_run: bool) -> CullAnswer:
        """Do ``action`` by hand, under the same policy. Raises TargetError, MinerwatchError."""
        return self._answered(lambda: self._cull_by_hand(target, action, dry_run=dry_run))

    def preview(self, target: Target, action: Action, *, dry_run: bool) -> CullAnswer:
        """What ``cull`` would decide and send now; nothing is tried. Raises as ``cull`` does."""
        return self._answered(lambda: self._decided_by_hand(target, action, dry_run=dry_run)[0])

    def release(self, target: Target) -> ReleaseAnswer:
        """Undo what can be undone, and leave the pod alone. Raises TargetError, MinerwatchError."""
        return self._answered(lambda: self._release(target))

    def release_all(
        self, namespace: str = "", *, retire: bool = False, forget: bool = False
    ) -> ReleaseAllAnswer:
        """Undo all that can be undone on this node, in one namespace or ("") in all.

        ``retire``: act no more until settings are read again. ``forget``: nor remember anything.
        Raises MinerwatchError.
        """
        return self._answered(lambda: self._release_all(namespace, retire=retire, forget=forget))

    def told_since(self, hours: float) -> tuple[AuditLine, ...]:
        """What the audit log says of the last ``hours``, without evidence. Raises AuditError."""
        return self._journal.told_since(hours)

    def _moment(self) -> Moment:
        """Return now. Where the node's time of day is not the API server's, that is taken.

        It has dated the pods; its answers tell it in whole seconds.
        """
        now = self._read_clocks()
        steady_s = self._clock.unix_s(now.unix_s, now.monotonic_s)
        server_s = self._budget.server_unix_s()
        is_apart = server_s is not None and abs(server_s - steady_s) > _APART_S
        return replace(now, unix_s=server_s if server_s is not None and is_apart else steady_s)

    def _answered(self, work: Callable[[], Answer]) -> Answer:
        asked = _Asked(work)
        with self._has_news:
            if self._closing.is_set() or not self._thread.is_alive():
                raise MinerwatchError(_NOT_ANSWERED)
            if len(self._asked) >= _MAX_ASKED:
                raise MinerwatchError("too many are asking already")
            self._asked.append(asked)
            self._has_news.notify_all()
        try:
            answer = asked.answer.get(timeout=_ASK_S)
        except queue.Empty as error:
            with self._has_news:
                if asked in self._asked:  # nobody waits for it any more, so it is not begun
                    self._asked.remove(asked)
                    raise MinerwatchError("the agent was too busy; nothing was done") from error
            late = "it is still going on; the audit log will say how it ended"
            raise MinerwatchError(late) from error
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[return-value]  # it is what ``work`` returned

    # The thread.

    def _run(self) -> None:
        while not self._closing.is_set():
            self._next()

    def _next(self) -> None:
        """The next thing that there is to do, waited for."""
        with self._has_news:
            self._has_news.wait_for(
                lambda: self._asked or self._news is not None or self._closing.is_set()
            )
            if self._closing.is_set():
                return
            asked = self._asked.popleft() if self._asked else None
            found = None if asked else self._news
            if asked is None:
                self._news = None
        try:
            self._journal.make_ready()
            self._look_who_stands_still()
        except Exception as error:
            if asked is not None:
                asked.answer.put(error)
            raise
        if asked is not None:
            asked.answer.put(_result_of(asked.work))
        elif found is not None:
            self._consider(found)

    def _consider(self, found: Round) -> None:
        confirmed = found.confirmed
        self._flagged = self._flagged_owners(found.flagged)
        self._owners = self._owner_count()
        if self._own.namespace:
            is_needed, dry_run = bool(confirmed), self._settings.mode != ENFORCE
            now_s = self._moment().monotonic_s
            self._budget.keep_known(now_s, is_needed=is_needed, dry_run=dry_run)
            if self._settings.mode != OFF:
                self._budget.flag(self._flagged_owners(confirmed))
        failure: Exception | None = None
        for observation in confirmed:
            if self._closing.is_set():
                return
            try:
                self._decide(observation)
            except Exception as error:  # noqa: BLE001 - the next container is looked at all the same
                failure = error
        keys = {observation.container.key for observation in confirmed}
        self._told = {key: told for key, told in self._told.items() if key in keys}
        if failure is not None:
            raise failure

    def _decide(self, observation: Observation) -> None:
        """Decide about one container, and act where that is decided."""
        case = self._checked(self._case(observation))
        decision = self._journal.decide(case, self._settings)
        line = _decision_line(observation, case, decision)
        self._note(observation.container.key, decision, line)
        if decision.acts:
            self._carry_out(case, decision, line)

    def _flagged_owners(self, observations: Iterable[Observation]) -> dict[str, frozenset[str]]:
        """Return the owners that each rule flags; only findings count that may lead to actions."""
        owners: dict[str, set[str]] = {}
        settings, now = self._settings, self._moment()
        for observation in observations:
            container, verdict = observation.container, observation.verdict
            identity = self._cluster.identity(container)
            pod, owner = (identity.pod, identity.owner) if identity else (None, None)
            counted = counted_as(container, pod, owner, settings)
            for rule in rules_that_flag(verdict, container, pod, owner, settings, now):
                owners.setdefault(rule, set()).add(counted)
        return {rule: frozenset(those) for rule, those in owners.items()}

    def _owner_count(self) -> int:
        """Return how many owners have pods here; counted only where that may matter."""
        most = max((len(owners) for owners in self._flagged.values()), default=0)
        if most < self._settings.circuit_breaker.at_least:
            return 0
        pods = {
            pod_counted_as(pod, self._cluster.owner(pod), self._settings)
            for pod in self._cluster.pods()
        }
        return len(pods.union(*self._flagged.values()))

    def _carry_out(self, case: Case, decision: Decision, line: DecisionLine) -> End:
        end = self._enforcer.carry_out(case, decision, line)
        if end.outcome is Outcome.DONE and case.pod is not None:
            reason = ACTION_REASONS[decision.action]
            self._cluster.tell_action(case.pod, case.container, reason, case.verdict.findings)
        return end

    def _budget_failed(self, reason: str, error: Exception) -> None:
        self._on_error(f"budget {reason}", error)

    def _look_who_stands_still(self) -> None:
        found: dict[str, set[ProcessId]] = {}
        for pod_uid, process in dict.fromkeys(self._journal.stopped()):
            if self._actions.is_stopped(process):
                found.setdefault(pod_uid, set()).add(process)
        self._stopped = {pod_uid: frozenset(those) for pod_uid, those in found.items()}

    def _note(self, key: ContainerKey, decision: Decision, line: DecisionLine) -> None:
        """Writes what was decided, where it is something else than before; not too often."""
        what = (decision.proposed, decision.dry_run, decision.reasons)
        now_s, told, lines = self._moment().monotonic_s, self._told.get(key), self._lines_at_s
        if told is not None and (told.what == what or now_s - told.at_s < _LEAST_BETWEEN_LINES_S):
            return
        if len(lines) == lines.maxlen and now_s - lines[0] < _HOUR_S:
            return
        lines.append(now_s)
        self._told[key] = _Told(what, now_s)
        self._write_decision(line)

    def _write_decision(self, line: DecisionLine) -> None:
        if not self._journal.trouble:
            self._journal.write("decision", decision=line)
        self._log.info("decision", node=self._own.node, **msgspec.structs.asdict(line))

    # One case.

    def _situation(self, *, dry_run: bool = False) -> Situation:
        own = self._own
        return Situation(
            node=own.node,
            interval_s=own.interval_s,
            own_namespace=own.namespace,
            own_pod_uid=own.pod_uid,
            pods_synced=self._cluster.is_synced,
            cluster_budget_left=self._budget.left(
                dry_run=dry_run or self._settings.mode != ENFORCE
            ),
            audit_trouble=self._journal.trouble,
            owners=self._owners,
            flagged={rule: len(owners) for rule, owners in self._flagged.items()},
            cluster_flagged=self._budget.flagged(self._flagged),
        )

    def _case(
        self, observation: Observation, asked: Action | None = None, *, dry_run: bool = False
    ) -> Case:
        container = observation.container
        identity = self._cluster.identity(container)
        carrier = self._watch.carrier(container)
        return Case(
            container=container,
            verdict=observation.verdict,
            pod=identity.pod if identity else None,
            owner=identity.owner if identity else None,
            situation=self._situation(dry_run=dry_run),
            carrier=carrier,
            asked=asked,
            asked_dry_run=dry_run,
            stopped=self._stopped.get(identity.pod.uid if identity else "", frozenset()),
            held=self._holds.of(container.key),
            is_controlled=(
                self._controllers.known(identity.pod, carrier.container_id) if identity else None
            ),
        )

    def _checked(self, case: Case) -> Case:
        """The case with what the API server says of the pod's controller, where it matters."""
        if case.pod is None or not claims_protection(case.pod):
            return case
        carrier = case.carrier or case.container
        return replace(
            case, is_controlled=self._controllers.checked(case.pod, carrier.container_id)
        )

    def _fresh_case(self, case: Case, seen: SeenPod | None) -> Case:
        """The same case with its pod just fetched, and the latest verdict."""
        observation = self._watch.observation(case.container.key, 0)
        if observation is None:  # the container is gone, and with it all that was found in it
            verdict = replace(case.verdict, level=Level.CLEAR, findings=())
        else:
            verdict = observation.verdict
        fresh = replace(
            case,
            verdict=verdict,
            pod=seen.pod if seen else None,
            owner=self._cluster.owner(seen.pod) if seen else None,
            situation=self._situation(dry_run=case.asked_dry_run),
            held=self._holds.of(case.container.key),
        )
        return self._checked(fresh)

    # By hand.

    def _found(self, target: Target) -> Observation:
        for observation in self._watch.observations(0):
            container = observation.container
            named = Target(container.cgroup, container.container_id, container.pod_uid)
            if named == target:
                return observation
        raise TargetError("that container is no longer there")

    def _cull_by_hand(self, target: Target, action: Action, *, dry_run: bool) -> CullAnswer:
        answer, case, decision, line = self._decided_by_hand(target, action, dry_run=dry_run)
        self._write_decision(line)
        if not decision.acts:
            return answer
        end = self._carry_out(case, decision, line)
        return replace(answer, outcome=end.outcome.value, message=printable(end.message, 1024))

    def _decided_by_hand(
        self, target: Target, action: Action, *, dry_run: bool
    ) -> tuple[CullAnswer, Case, Decision, DecisionLine]:
        """What is decided about an action that is asked for, before anything is tried."""
        observation = self._found(target)
        if self._own.namespace:
            self._budget.refresh()
        case = self._checked(self._case(observation, action, dry_run=dry_run))
        decision = self._journal.decide(case, self._settings)
        line = _decision_line(observation, case, decision, by_hand=True)
        answer = CullAnswer(
            node=self._own.node,
            namespace=decision.namespace,
            pod=decision.pod,
            container=line.container,
            owner=decision.owner,
            level=line.level,
            score=line.score,
            proposed=decision.proposed.value,
            dry_run=decision.dry_run,
            acts=decision.acts,
            reasons=_sentences(decision),
            request=str(planned(decision, self._settings.quarantine_label) or ""),
        )
        return answer, case, decision, line

    def _release(self, target: Target) -> ReleaseAnswer:
        """First the word, so that nothing is done again; then the undoing."""
        observation = self._found(target)
        record = self._journal.release(
            self._journal.decide(self._case(observation), self._settings)
        )
        answer, _ = self._undone(record, observation)
        self._look_who_stands_still()
        return answer

    def _release_all(
        self, namespace: str = "", *, retire: bool = False, forget: bool = False
    ) -> ReleaseAllAnswer:
        if retire or forget:
            self._settings = msgspec.structs.replace(self._settings, mode=OFF)
        was_forgotten = self._journal.is_forgotten
        trouble = [self._journal.trouble] if self._journal.trouble and not was_forgotten else []
        observed = {each.container.pod_uid: each for each in self._watch.observations(0)}
        held: dict[str, list[ActionRecord]] = {}
        for record in self._journal.held():
            if namespace in ("", record.namespace):
                held.setdefault(record.pod_uid, []).append(record)
        released: list[ReleaseAnswer] = []
        lost = ""  # why the API server is not asked: it gave no answer before
        for pod_uid, records in held.items():
            record = self._journal.release_again(records[-1])
            is_labelled = any(each.action is Action.LABEL for each in records)
            answer, lost = self._undone(
                record, observed.get(pod_uid), lost=lost, may_be_labelled=is_labelled
            )
            released.append(answer)
        self._look_who_stands_still()
        is_undone = not trouble and not any(each.trouble for each in released)
        if forget and is_undone:
            try:
                if not was_forgotten:
                    self._journal.forget()
                self._budget.forget()
            except MinerwatchError as error:
                trouble.append(str(error))
        elif forget:
            trouble.append("not all was undone, so the audit log and the Lease are kept")
        everything = ReleaseAllAnswer(
            node=self._own.node,
            released=tuple(each for each in released if _says_something(each)),
            acts_no_more=retire or forget,
            forgotten=forget and not trouble,
            trouble=tuple(trouble),
        )
        self._log.info(
            "released all",
            node=self._own.node,
            pods=len(everything.released),
            acts_no_more=everything.acts_no_more,
            forgotten=everything.forgotten,
            trouble=[*trouble, *(each for pod in released for each in pod.trouble)],
        )
        return everything

    def _undone(
        self,
        record: ActionRecord,
        observation: Observation | None,
        *,
        lost: str = "",
        may_be_labelled: bool = True,
    ) -> tuple[ReleaseAnswer, str]:
        """Let the pod's processes go on, and take its label off; ``record`` is the release.

        Also returns why the API server gives no answer; where ``lost`` says so, it is not asked:
        to wait for it with each of hundreds of pods would take hours.
        """
        case = self._case(observation) if observation is not None else None
        hits = self._actions.resume(tuple(sorted(self._stopped.get(record.pod_uid, ()))))
        trouble = [f"process {process.pid}: {why}" for process, why in hits.failed]
        is_unlabelled = False
        if record.pod and may_be_labelled:
            try:
                if not lost:
                    is_unlabelled = self._enforcer.unlabel(record)
            except ApiError as error:
                if error.reason in ("connection", "timeout"):
                    lost = str(error)
                else:
                    trouble.append(f"the label: {error}")
            if lost:
                trouble.append(f"the label: {lost}")
        self._tell_release(record, case, resumed=bool(hits.hit), is_unlabelled=is_unlabelled)
        answer = ReleaseAnswer(
            node=self._own.node,
            namespace=record.namespace,
            pod=record.pod,
            container=_container_name(observation, case) if observation and case else "",
            resumed=tuple(process.pid for process in hits.hit),
            gone=tuple(process.pid for process in hits.gone),
            label_removed=is_unlabelled,
            trouble=tuple(trouble),
        )
        return answer, lost

    def _tell_release(
        self, record: ActionRecord, case: Case | None, *, resumed: bool, is_unlabelled: bool
    ) -> None:
        for was, action in ((resumed, Action.STOP), (is_unlabelled, Action.LABEL)):
            if was:
                self._on_outcome(action, Outcome.RELEASED)
        self._log.info(
            "released",
            node=record.node,
            namespace=printable(record.namespace, 256),
            pod=printable(record.pod, 256),
            record=record.id,
        )
        if case is not None and case.pod is not None and (resumed or is_unlabelled):
            self._cluster.tell_action(case.pod, case.container, EventReason.RELEASED)


def _result_of(work: Callable[[], object]) -> object:
    """What ``work`` returns, or the error that it raises."""
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - it is raised where the question came from
        return error


def _sentences(decision: Decision) -> tuple[str, ...]:
    return tuple(printable(str(objection), 512) for objection in decision.objections)


def _action_status(record: ActionRecord) -> ActionStatus:
    return ActionStatus(
        at=rfc3339(record.unix_s, milliseconds=True),
        action="release" if record.outcome is Outcome.RELEASED else record.action.value,
        outcome=record.outcome.value,
        dry_run=record.dry_run,
        pids=tuple(process.pid for process in record.processes),
    )


def _says_something(answer: ReleaseAnswer) -> bool:
    return bool(answer.resumed or answer.gone or answer.label_removed or answer.trouble)


def _container_name(observation: Observation, case: Case) -> str:
    container_id = (case.carrier or observation.container).container_id
    known = case.pod.containers if case.pod else ()
    names = (each.name for each in known if each.container_id == container_id)
    return printable(next(names, observation.container.container_id[:12]), 256)


def _decision_line(
    observation: Observation, case: Case, decision: Decision, *, by_hand: bool = False
) -> DecisionLine:
    verdict = observation.verdict
    return DecisionLine(
        namespace=printable(decision.namespace, 256),
        pod=printable(decision.pod, 256),
        container=_container_name(observation, case),
        pod_uid=decision.pod_uid,
        owner=printable(decision.owner, 256),
        score=verdict.score,
        level=verdict.level.label,
        proposed=decision.proposed.value,
        acts=decision.acts,
        dry_run=decision.dry_run,
        rung=decision.rung,
        by_hand=by_hand,
        reasons=_sentences(decision),
    )
