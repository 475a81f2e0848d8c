"""What may be done about a verdict, or every reason why not. Pure: clock and history are passed in.

An action goes through these steps, of which only the first, the fourth and the records of the
others are here::

    decide(case)                 a Decision; with any objection it ends here
    history.begin(decision)      an ActionRecord that is pending: counted from now on
      → the evidence, with the record, is in the audit log and flushed
    Budget.reserve(record, now)  one place of the hour, or nothing is done
    rechecked(decision, record,  the same questions again, about a pod that has just been
              fresh case)        fetched; with any objection nothing is done
      → the action, with pod UID, container id, pid and start time as preconditions
    history.settle(record.id)    DONE, DRY_RUN, REFUSED, FAILED, UNKNOWN or, if it came to
                                 nothing before the action, WITHDRAWN
      → the record, with its outcome, is in the audit log
    Budget.give_back(record)     of what was withdrawn

Whoever is killed in between finds a pending record in the audit log: ``History.restored`` takes
it for an action that may have happened. It counts in the budget, it is not done twice. A log that
does not reach back for an hour, or is not there, permits nothing until it does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Protocol

import msgspec

from minerwatch.config import ENFORCE, OFF, Culling, Exemption, Rungs
from minerwatch.detection.judge import is_cullable, score_of, signal_scores
from minerwatch.model import (
    Action,
    Container,
    ContainerKind,
    Decision,
    Finding,
    Level,
    Maturity,
    Objection,
    Owner,
    Pod,
    ProcessId,
    Reason,
    Signal,
    Verdict,
)

ALWAYS_PROTECTED = ("kube-system", "kube-public", "kube-node-lease")
"""Namespaces that no configuration opens; the agent's own is another."""

HOUR_S = 3600.0
MAX_RECORDS = 4096
KEPT_S = 30 * 86400.0
"""Longer than this no action is remembered."""

_MAX_TICKS = 2
_DAY_S = 86400
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
_PROCESS_ACTIONS = (Action.STOP, Action.KILL)

_WILDCARDS = frozenset("*?[")

_LATE_END_S = 300.0
"""A pod whose deletion was asked for, but that may run for longer than this, is not treated as
ending: its tenant chooses the grace period, and could run for a year in it."""

_SHORTENED_GRACE_S = 30.0
"""Grace period sent for such a pod, where none is configured."""


# What a decision is made of.


@dataclass(frozen=True, slots=True)
class Moment:
    """One moment on both clocks.

    ``unix_s`` is the API server's time where it is known, else a wall clock whose steps are not
    followed (``culling.clock``): the node's own may jump. The monotonic one counts the seconds
    since the node has been up (clock_gettime(2)), and ``boot_id`` (random(4)) tells one such life
    from another.
    """

    unix_s: float
    monotonic_s: float
    boot_id: str


@dataclass(frozen=True, slots=True)
class Situation:
    """What holds for all containers of the node at one tick."""

    node: str
    interval_s: float
    own_namespace: str  # "": not known, and nothing is done
    own_pod_uid: str
    pods_synced: bool
    cluster_budget_left: int | None  # as last heard; None: not known, and nothing is done
    audit_trouble: str = ""  # why evidence cannot be kept; then nothing is done
    owners: int = 0  # that have pods on the node
    flagged: Mapping[str, int] = field(default_factory=dict)  # rule -> owners that it flags here
    cluster_flagged: Mapping[str, int] = field(default_factory=dict)  # the same, by the Lease


@dataclass(frozen=True, slots=True)
class Held:
    """Seconds for which rules have been seen to hold on a container, without a gap.

    ``by_container``: on whichever of its processes, so that a program that is started again and
    again is one offence; ``by_process``: on one process (None: the container as a whole).
    """

    by_container: Mapping[str, float] = field(default_factory=dict)
    by_process: Mapping[tuple[str, ProcessId | None], float] = field(default_factory=dict)

    def of_container(self, finding: Finding) -> float:
        """Return for how long the finding's rule has held on any process."""
        return self.by_container.get(finding.rule, 0.0)

    def of_process(self, finding: Finding) -> float:
        """Return for how long the finding's rule has held on the finding's own process."""
        return self.by_process.get((finding.rule, finding.process), 0.0)


@dataclass(frozen=True, slots=True)
class Case:
    """One container, everything that is known of it, and what is asked for."""

    container: Container
    verdict: Verdict
    pod: Pod | None
    owner: Owner | None
    situation: Situation
    carrier: Container | None = None  # the pod's container that this one is nested in
    asked: Action | None = None  # by hand, in place of the ladder's
    asked_dry_run: bool = False  # by hand; the mode may ask for it as well
    stopped: frozenset[ProcessId] = frozenset()  # that minerwatch has stopped, and that stand still
    held: Held = field(default_factory=Held)
    is_controlled: bool | None = None  # by a real controller, says the API; None: not known


# What has been done.


class Outcome(StrEnum):
    """How an action ended."""

    PENDING = "pending"
    DONE = "done"
    DRY_RUN = "dry-run"  # it would have been done
    REFUSED = "refused"  # by the API server: a PodDisruptionBudget, a precondition, RBAC
    FAILED = "failed"
    UNKNOWN = "unknown"  # the agent ended before it knew
    WITHDRAWN = "withdrawn"  # nothing was tried: no budget, or the second look objected
    RELEASED = "released"  # a person undid what had been done
    STARTED = "started"  # no action: the log begins here, and tells nothing of what was before


_NO_ACTIONS = (Outcome.RELEASED, Outcome.STARTED)
_OFFENCES = (Outcome.DONE, Outcome.DRY_RUN)


class ActionRecord(msgspec.Struct, frozen=True):
    """One action, as the audit log keeps it; the last record with an id is the one that holds."""

    id: str
    unix_s: float
    monotonic_s: float
    boot_id: str
    node: str
    namespace: str
    pod: str
    pod_uid: str
    owner: str
    action: Action
    rung: int
    dry_run: bool
    outcome: Outcome
    processes: tuple[ProcessId, ...] = ()  # that stop and kill were for
    rules: tuple[str, ...] = ()  # ids of those whose findings are the proof
    counted_as: str = ""  # the owner that the circuit breaker counts


class Budget(Protocol):
    """The budget that all agents of a cluster share."""

    def reserve(self, record: ActionRecord, now: Moment) -> bool:
        """Whether the action may be done: one place of the hour is now taken by ``record.id``.

        The cluster's limit and, since an agent's memory can be lost, the node's are kept here.
        The same id takes one place however often it is asked for. Whatever goes wrong: False.
        """

    def give_back(self, record: ActionRecord) -> None:
        """Free the place of an action that was withdrawn; what goes wrong is passed over."""


class History:
    """The actions of this node, as far as they matter to the next; bounded in number and age.

    Ages are taken on the monotonic clock: a wall clock that jumps frees no budget. Of what was
    done before the node was last booted only that is certain: it is older than the boot.
    """

    def __init__(self, known_since_s: float) -> None:
        """An empty history; before ``known_since_s`` (monotonic) there may have been actions."""
        self._entries: dict[str, _Entry] = {}
        self._known_since_s = known_since_s

    @classmethod
    def started(cls, node: str, now: Moment) -> History:
        """The history of an agent that has no audit log, or has lost it.

        Its only record is the first line of the new log: it tells the next agent how far back the
        log reaches.
        """
        history = cls(now.monotonic_s)
        history._added(_start(node, now), now)
        return history

    @classmethod
    def restored(cls, records: Iterable[ActionRecord], now: Moment) -> History:
        """The history of this node that an audit log holds, in the order of its lines."""
        history = cls(now.monotonic_s)
        for record in records:
            entry = _restored(_no_longer_pending(record), now)
            history._entries[record.id] = entry
            history._known_since_s = min(history._known_since_s, entry.latest_s)
            if len(history._entries) > 2 * MAX_RECORDS:
                history._forget(now)
        history._forget(now)
        return history

    def records(self) -> tuple[ActionRecord, ...]:
        """All that is remembered."""
        return tuple(entry.record for entry in self._entries.values())

    def begin(self, decision: Decision, now: Moment) -> ActionRecord:
        """The record of an action that is about to be tried; raises ValueError if it may not be."""
        if not decision.acts or self.is_pending(decision.pod_uid):
            raise ValueError("there is nothing to be done, or something is being done already")
        return self._added(_record(decision, Outcome.PENDING, now), now)

    def settle(self, record_id: str, outcome: Outcome) -> ActionRecord | None:
        """The record with its outcome; None if it is not pending."""
        entry = self._entries.get(record_id)
        if entry is None or entry.record.outcome is not Outcome.PENDING:
            return None
        record = msgspec.structs.replace(entry.record, outcome=outcome)
        self._entries[record_id] = replace(entry, record=record)
        return record

    def release(self, decision: Decision, now: Moment) -> ActionRecord:
        """The record of a person's word that the pod of ``decision`` is to be left alone."""
        return self._added(_record(decision, Outcome.RELEASED, now), now)

    def release_again(self, record: ActionRecord, now: Moment) -> ActionRecord:
        """Record that the pod of an earlier ``record`` is to be left alone."""
        released = msgspec.structs.replace(
            record,
            id=f"{record.pod_uid}/release/{now.boot_id}/{now.monotonic_s:.6f}",
            unix_s=now.unix_s,
            monotonic_s=now.monotonic_s,
            boot_id=now.boot_id,
            outcome=Outcome.RELEASED,
            processes=(),
        )
        return self._added(released, now)

    def anchor(self, node: str, now: Moment) -> ActionRecord:
        """What the first line of a log says that goes on where another one ended."""
        ago_s = now.monotonic_s - self._known_since_s
        begun = Moment(now.unix_s - ago_s, self._known_since_s, now.boot_id)
        return _start(node, begun)

    def of_pod(self, pod_uid: str) -> tuple[ActionRecord, ...]:
        """What was done about a pod, in the order in which it was begun."""
        records = (entry.record for entry in self._entries.values())
        return tuple(record for record in records if record.pod_uid == pod_uid)

    def stopped(self, boot_id: str) -> tuple[tuple[str, ProcessId], ...]:
        """Processes that may stand still since minerwatch stopped them, with their pods' uids.

        Also those of pods that were released: whether that let them go is to be looked at.
        """
        return tuple(
            (record.pod_uid, process)
            for record in self.records()
            if record.boot_id == boot_id and _may_have_stopped(record)
            for process in record.processes
        )

    def held(self, boot_id: str) -> tuple[ActionRecord, ...]:
        """Return the actions whose effect may last: labels, processes stopped since the boot."""
        return tuple(
            record
            for record in self.records()
            if (record.action is Action.LABEL and _may_have_happened(record))
            or (record.boot_id == boot_id and _may_have_stopped(record))
        )

    def has_labelled(self, pod_uid: str) -> bool:
        """Whether the pod was given the quarantine label."""
        return any(
            record.action is Action.LABEL and record.outcome is Outcome.DONE
            for record in self.of_pod(pod_uid)
        )

    def has_dry_run(
        self, pod_uid: str, action: Action, processes: Iterable[ProcessId], *, without: str = ""
    ) -> bool:
        """Whether a dry run has shown just that action on the pod already."""
        shown = [
            entry.record
            for entry in self._others(without)
            if (entry.record.pod_uid, entry.record.action) == (pod_uid, action)
            and entry.record.outcome is Outcome.DRY_RUN
        ]
        if action not in _PROCESS_ACTIONS:
            return bool(shown)
        seen = {process for record in shown for process in record.processes}
        return bool(shown) and seen.issuperset(processes)

    def knows_last_hour(self, now: Moment) -> bool:
        """Whether no action of the last hour can have been forgotten."""
        return now.monotonic_s - self._known_since_s >= HOUR_S

    def has_pending(self, record_id: str) -> bool:
        """Whether the action of that record may still be done."""
        entry = self._entries.get(record_id)
        return entry is not None and entry.record.outcome is Outcome.PENDING

    def is_pending(self, pod_uid: str, *, without: str = "") -> bool:
        """Whether any action on the pod, but ``without``, has not ended yet."""
        return any(
            entry.record.pod_uid == pod_uid and entry.record.outcome is Outcome.PENDING
            for entry in self._others(without)
        )

    def is_released(self, pod_uid: str) -> bool:
        """Whether a person has said that the pod is to be left alone."""
        return any(
            entry.record.pod_uid == pod_uid and entry.record.outcome is Outcome.RELEASED
            for entry in self._entries.values()
        )

    def last_try_s(
        self, pod_uid: str, now: Moment, *, dry_run: bool, without: str = ""
    ) -> float | None:
        """Seconds since the pod's last action, but ``without``; None if there was none."""
        ages_s = [
            now.monotonic_s - entry.latest_s
            for entry in self._others(without)
            if entry.record.pod_uid == pod_uid and _matters(entry.record, dry_run=dry_run)
        ]
        return min(ages_s, default=None)

    def spent(self, now: Moment, *, dry_run: bool, without: str = "") -> int:
        """Actions of the last hour, but ``without``: all that were tried, whatever their end."""
        return sum(
            _matters(entry.record, dry_run=dry_run)
            and entry.record.outcome is not Outcome.WITHDRAWN
            and now.monotonic_s - entry.latest_s < HOUR_S
            for entry in self._others(without)
        )

    def has_touched(self, pod: Pod, *, dry_run: bool) -> bool:
        """Return whether anything has been done about this pod, or one of its name."""
        return any(
            _matters(entry.record, dry_run=dry_run)
            and entry.record.outcome in _OFFENCES
            and (
                entry.record.pod_uid == pod.uid
                or (entry.record.namespace, entry.record.pod) == (pod.namespace, pod.name)
            )
            for entry in self._entries.values()
        )

    def offences(self, pod: Pod, owner: str, window_s: float, now: Moment, *, dry_run: bool) -> int:
        """Actions that were done within the window on pods of that name or owner."""
        return sum(
            _matters(entry.record, dry_run=dry_run)
            and entry.record.outcome in _OFFENCES
            and entry.record.namespace == pod.namespace
            and (entry.record.pod == pod.name or (owner != "" and entry.record.owner == owner))
            and now.monotonic_s - entry.probable_s < window_s
            for entry in self._entries.values()
        )

    def _others(self, without: str) -> Iterator[_Entry]:
        return (entry for name, entry in self._entries.items() if name != without)

    def _added(self, record: ActionRecord, now: Moment) -> ActionRecord:
        self._entries[record.id] = _Entry(record, now.monotonic_s, now.monotonic_s)
        self._forget(now)
        return record

    def _forget(self, now: Moment) -> None:
        """Drops the old, then those that no budget counts, then the oldest."""
        self._entries = {
            name: entry
            for name, entry in self._entries.items()
            if now.monotonic_s - entry.latest_s < KEPT_S
        }
        surplus = len(self._entries) - MAX_RECORDS
        if surplus > 0:
            for name in sorted(self._entries, key=self._worth)[:surplus]:
                del self._entries[name]

    def _worth(self, name: str) -> tuple[bool, float]:
        entry = self._entries[name]
        is_released = entry.record.outcome is Outcome.RELEASED
        is_idle = entry.record.outcome is Outcome.WITHDRAWN or entry.record.dry_run
        return is_released or not is_idle, entry.probable_s


@dataclass(frozen=True, slots=True)
class _Entry:
    """A record, and when it was made by this boot's monotonic clock; less than 0: before it."""

    record: ActionRecord
    probable_s: float
    latest_s: float  # it was made then or before


def _matters(record: ActionRecord, *, dry_run: bool) -> bool:
    """Dry runs see what was done in earnest, but not the other way round."""
    return record.outcome not in _NO_ACTIONS and (dry_run or not record.dry_run)


_NEVER_HAPPENED = (Outcome.WITHDRAWN, Outcome.DRY_RUN, Outcome.REFUSED, *_NO_ACTIONS)


def _may_have_stopped(record: ActionRecord) -> bool:
    return record.action is Action.STOP and _may_have_happened(record)


def _may_have_happened(record: ActionRecord) -> bool:
    return not record.dry_run and record.outcome not in _NEVER_HAPPENED


def _no_longer_pending(record: ActionRecord) -> ActionRecord:
    """Whoever tried it is gone; it may have happened."""
    if record.outcome is not Outcome.PENDING:
        return record
    return msgspec.structs.replace(record, outcome=Outcome.UNKNOWN)


def _restored(record: ActionRecord, now: Moment) -> _Entry:
    if record.boot_id == now.boot_id:
        made_s = min(record.monotonic_s, now.monotonic_s)
        return _Entry(record, made_s, made_s)
    age_s = max(now.monotonic_s, now.unix_s - record.unix_s)
    return _Entry(record, now.monotonic_s - age_s, 0.0)


def _start(node: str, now: Moment) -> ActionRecord:
    return ActionRecord(
        id=f"{node}/start/{now.boot_id}/{now.monotonic_s:.6f}",
        unix_s=now.unix_s,
        monotonic_s=now.monotonic_s,
        boot_id=now.boot_id,
        node=node,
        namespace="",
        pod="",
        pod_uid="",
        owner="",
        action=Action.OBSERVE,
        rung=0,
        dry_run=False,
        outcome=Outcome.STARTED,
    )


def _record(decision: Decision, outcome: Outcome, now: Moment) -> ActionRecord:
    what = "release" if outcome is Outcome.RELEASED else decision.action.value
    return ActionRecord(
        id=f"{decision.pod_uid}/{what}/{now.boot_id}/{now.monotonic_s:.6f}",
        unix_s=now.unix_s,
        monotonic_s=now.monotonic_s,
        boot_id=now.boot_id,
        node=decision.node,
        namespace=decision.namespace,
        pod=decision.pod,
        pod_uid=decision.pod_uid,
        owner=decision.owner,
        action=decision.action,
        rung=decision.rung,
        dry_run=decision.dry_run,
        outcome=outcome,
        processes=decision.processes if decision.proposed in _PROCESS_ACTIONS else (),
        rules=decision.rules,
        counted_as=decision.counted_as,
    )


# The decision.


def decide(case: Case, settings: Culling, history: History, now: Moment) -> Decision:
    """What may be done about ``case`` at ``now``; every objection is listed, not only the first."""
    return _question(case, settings, history, now).decision()


def rechecked(
    decision: Decision,
    record: ActionRecord,
    fresh: Case,
    settings: Culling,
    history: History,
    now: Moment,
) -> Decision:
    """``decision`` by what is known now, once its place in the budget has been reserved.

    It still acts only if nothing speaks against it and it would be decided the same way again.
    """
    current = _question(fresh, settings, history, now, reserved=record.id).decision()
    is_same = (
        decision.acts
        and history.has_pending(record.id)
        and (record.pod_uid, record.action) == (decision.pod_uid, decision.action)
        and set(decision.processes) <= set(current.processes)
        and _target(decision) == _target(current)
    )
    if is_same and current.acts:
        return decision
    changed = () if is_same else (Objection(Reason.DECISION_CHANGED, ""),)
    return replace(decision, action=Action.OBSERVE, objections=(*current.objections, *changed))


def _target(decision: Decision) -> tuple[object, ...]:
    return (
        decision.proposed,
        decision.dry_run,
        decision.container,
        decision.container_id,
        decision.pod_uid,
        decision.namespace,
        decision.pod,
        decision.node,
    )


@dataclass(frozen=True, slots=True)
class _Question:
    """All that a decision is made of, and what follows from it."""

    case: Case
    settings: Culling
    history: History
    now: Moment
    proof: _Proof
    reserved: str  # id of the record that has its place in the budgets already; ""

    @property
    def dry_run(self) -> bool:
        return self.settings.mode != ENFORCE or self.case.asked_dry_run

    def decision(self) -> Decision:
        case, pod = self.case, self.case.pod
        rung, proposed = self._rung_and_action()
        objections = tuple(
            sorted(
                (
                    *self._of_settings(),
                    *self._of_verdict(),
                    *self._of_identity(),
                    *self._of_choice(),
                    *self._of_pod(),
                    *self._of_history(),
                    *self._of_ladder(proposed),
                    *self._of_budgets(),
                ),
                key=lambda objection: list(Reason).index(objection.reason),
            )
        )
        return Decision(
            action=Action.OBSERVE if objections else proposed or Action.OBSERVE,
            proposed=proposed or Action.OBSERVE,
            rung=rung,
            dry_run=self.dry_run,
            objections=objections,
            container=case.container.key,
            container_id=self._carrier.container_id,
            pod_uid=pod.uid if pod else case.container.pod_uid,
            namespace=pod.namespace if pod else "",
            pod=pod.name if pod else "",
            node=case.situation.node,
            owner=case.owner.name if case.owner else "",
            processes=self.proof.processes,
            grace_period_s=self._grace_period_s,
            rules=self.proof.rules,
            counted_as=counted_as(case.container, pod, case.owner, self.settings),
        )

    @property
    def _grace_period_s(self) -> float | None:
        if self.settings.grace_period is None and self._ends_late:
            return _SHORTENED_GRACE_S
        return self.settings.grace_period

    @property
    def _ends_late(self) -> bool:
        """Return whether the pod is to end, but may run on for long."""
        pod = self.case.pod
        return (
            pod is not None
            and pod.is_ending
            and pod.ends_unix_s is not None
            and pod.ends_unix_s - self.now.unix_s > _LATE_END_S
        )

    @property
    def _is_tenants_own(self) -> bool:
        """Return whether the pod's tenant chooses its labels, priority and owner references."""
        pod = self.case.pod
        return pod is not None and _matches_any(pod.namespace, self.settings.tenant_namespaces)

    @property
    def _carrier(self) -> Container:
        return self.case.carrier or self.case.container

    # What speaks against it.

    def _of_settings(self) -> Iterator[Objection]:
        situation = self.case.situation
        if self.settings.mode == OFF:
            yield Objection(Reason.OFF, "culling.mode")
        hours = self.settings.active_hours
        if hours and not any(span.include(self.now.unix_s) for span in hours):
            yield Objection(Reason.OUTSIDE_HOURS, f"{', '.join(hours)} UTC")
        if self.proof.is_cut_off:
            broken = tripped(situation, self.settings)
            counts = (f"{rule}: {count}" for rule, count in sorted(broken.items()))
            yield Objection(Reason.CIRCUIT_BREAKER, "; ".join(counts))
        if not situation.own_namespace:
            yield Objection(Reason.OWN_IDENTITY_UNKNOWN, "")
        if not situation.pods_synced:
            yield Objection(Reason.PODS_NOT_SYNCED, "")
        if not self.dry_run and not self.history.knows_last_hour(self.now):
            yield Objection(Reason.MEMORY_LOST, "")
        if situation.audit_trouble:
            yield Objection(Reason.NO_AUDIT_LOG, situation.audit_trouble)

    def _of_verdict(self) -> Iterator[Objection]:
        verdict, proof = self.case.verdict, self.proof
        age_s = self.now.monotonic_s - verdict.at_s
        if not 0 <= age_s <= _MAX_TICKS * self.case.situation.interval_s:
            yield Objection(Reason.STALE_VERDICT, f"{age_s:.0f} s old")
        if verdict.level is not Level.CONFIRMED:
            yield Objection(Reason.NOT_CONFIRMED, f"{verdict.level.label}, {verdict.score:g}")
        elif proof.is_cut_off:
            return
        elif not proof.is_cullable:
            yield Objection(
                Reason.NOT_CORROBORATED, f"{proof.score:g} by {proof.signals or 'none'}"
            )
        elif not proof.is_held:
            yield Objection(Reason.NOT_HELD, f"{self.settings.hold:g} s without a gap are required")

    def _of_identity(self) -> Iterator[Objection]:
        container, carrier, pod = self.case.container, self._carrier, self.case.pod
        if container.kind is not ContainerKind.POD:
            yield Objection(Reason.NOT_A_POD, container.kind.value)
        if self.case.verdict.container != container.key:
            yield Objection(Reason.CONTAINER_MISMATCH, "another cgroup")
        elif not _carries(carrier, container):
            yield Objection(Reason.CONTAINER_MISMATCH, "not nested in the pod's container")
        if pod is None:
            yield Objection(Reason.POD_UNKNOWN, container.pod_uid)
            return
        if not container.pod_uid or container.pod_uid not in (pod.uid, pod.mirror_uid):
            yield Objection(Reason.POD_MISMATCH, f"{container.pod_uid or 'none'}, not {pod.uid}")
        elif pod.node != self.case.situation.node:
            yield Objection(Reason.POD_MISMATCH, f"on node {pod.node}")
        if not _image_names(pod, carrier):
            yield Objection(Reason.CONTAINER_MISMATCH, "not among the pod's containers")

    def _of_choice(self) -> Iterator[Objection]:
        """Whom the operator means."""
        pod, settings = self.case.pod, self.settings
        if pod is None:
            return
        if pod.uid == self.case.situation.own_pod_uid:
            yield Objection(Reason.OWN_POD, "")
        protected = protected_namespaces(settings, self.case.situation.own_namespace)
        if _matches_any(pod.namespace, protected):
            yield Objection(Reason.PROTECTED_NAMESPACE, pod.namespace)
        if not _matches_any(pod.namespace, settings.namespaces):
            yield Objection(Reason.NAMESPACE_NOT_ALLOWED, pod.namespace)
        if not self._is_tenants_own and not settings.selector.matches(pod.labels):
            yield Objection(Reason.NOT_SELECTED, settings.selector)
        if self.proof.exemption is not None:
            yield Objection(Reason.EXEMPT, _in_words(self.proof.exemption))

    def _of_pod(self) -> Iterator[Objection]:
        pod, settings = self.case.pod, self.settings
        if pod is None:
            return
        if pod.mirror_uid and pod.mirror_uid == self.case.container.pod_uid:
            # By the kernel: the kubelet names a static pod's cgroup after the file's uid, any
            # other pod's after the uid that the API server gave it.
            yield Objection(Reason.STATIC_POD, "")
        if not self._is_tenants_own:
            yield from self._of_controller(pod)
        age_s = self.now.unix_s - pod.created_unix_s
        if not age_s >= settings.minimum_age:
            yield Objection(Reason.TOO_YOUNG, f"{age_s:.0f} s, {settings.minimum_age:g} s at least")
        if pod.phase in ("Succeeded", "Failed") or (pod.is_ending and not self._ends_late):
            yield Objection(Reason.POD_ENDING, pod.phase)

    def _of_controller(self, pod: Pod) -> Iterator[Objection]:
        """References and priorities that anybody may set count only if the API confirms them."""
        if not claims_protection(pod):
            return
        if self.case.is_controlled is None:
            yield Objection(Reason.CONTROLLER_UNKNOWN, "")
        elif self.case.is_controlled:
            if _controller_kind(pod) == "DaemonSet":
                yield Objection(Reason.DAEMON_SET_POD, "")
            if _has_critical_priority(pod):
                yield Objection(Reason.CRITICAL_PRIORITY, pod.priority_class)

    def _of_history(self) -> Iterator[Objection]:
        pod = self.case.pod
        if pod is None:
            return
        if self.history.is_released(pod.uid):
            yield Objection(Reason.RELEASED, "")
        if self.history.is_pending(pod.uid, without=self.reserved):
            yield Objection(Reason.ACTION_PENDING, "")
        last_s = self.history.last_try_s(
            pod.uid, self.now, dry_run=self.dry_run, without=self.reserved
        )
        if last_s is not None and not last_s >= self.settings.pause:
            pause = f"{last_s:.0f} s ago, {self.settings.pause:g} s at least"
            yield Objection(Reason.TOO_SOON, pause)

    def _of_ladder(self, proposed: Action | None) -> Iterator[Objection]:
        if proposed is None:
            if self.case.pod is not None:
                yield Objection(Reason.NO_LADDER, "")
        elif proposed is Action.OBSERVE:
            yield Objection(Reason.OBSERVE_ONLY, "")
        elif proposed in _PROCESS_ACTIONS and not self.proof.processes:
            yield Objection(Reason.NO_PROCESS, proposed.value)
        elif self._is_in_effect(proposed):
            yield Objection(Reason.ALREADY_DONE, proposed.value)
        elif self._is_shown(proposed):
            yield Objection(Reason.ALREADY_DONE, f"{proposed.value}, in a dry run")

    def _is_shown(self, proposed: Action) -> bool:
        """Whether this dry run has been made; in earnest the pod would be gone, or held."""
        pod, processes = self.case.pod, self.proof.processes
        return (
            self.dry_run
            and pod is not None
            and self.history.has_dry_run(pod.uid, proposed, processes, without=self.reserved)
        )

    def _is_in_effect(self, proposed: Action) -> bool:
        """Whether doing it again would change nothing; a tenant's own doing never counts."""
        pod, processes = self.case.pod, self.proof.processes
        if pod is None:
            return False
        if proposed is Action.LABEL:
            label = self.settings.quarantine_label
            return self.history.has_labelled(pod.uid) and pod.labels.get(label.key) == label.value
        return proposed is Action.STOP and self.case.stopped.issuperset(processes)

    def _of_budgets(self) -> Iterator[Objection]:
        budget, left = self.settings.budget, self.case.situation.cluster_budget_left
        spent = self.history.spent(self.now, dry_run=self.dry_run, without=self.reserved)
        if spent >= budget.per_node:
            yield Objection(Reason.NODE_BUDGET_SPENT, f"{spent} of {budget.per_node}")
        if self.reserved:
            return
        if left is None:
            yield Objection(Reason.CLUSTER_BUDGET_UNKNOWN, "")
        elif left <= 0 or budget.per_cluster <= 0:
            yield Objection(Reason.CLUSTER_BUDGET_SPENT, f"{budget.per_cluster} an hour")

    # What follows.

    def _rung_and_action(self) -> tuple[int, Action | None]:
        pod, settings = self.case.pod, self.settings
        if pod is None:
            return 0, self.case.asked
        owner = self.case.owner.name if self.case.owner else ""
        repeat = settings.repeat_offenders
        offences = self.history.offences(pod, owner, repeat.window, self.now, dry_run=self.dry_run)
        rungs = next(self._ladders(pod), None)
        if rungs is None:
            return 0, self.case.asked
        rung = min(offences // repeat.actions, len(rungs.actions) - 1)
        is_first = rungs.actions[rung] is Action.DELETE and rung > 0
        if is_first and not self.history.has_touched(pod, dry_run=self.dry_run):
            rung -= 1  # others of the owner were warned, this pod was not; delete comes last
        return rung, self.case.asked or rungs.actions[rung]

    def _ladders(self, pod: Pod) -> Iterator[Rungs]:
        # Exempted findings count here: an exemption must never lead to another action.
        score = max(self.proof.full_score, Level.CONFIRMED.value)
        return (
            rungs
            for rungs in self.settings.ladder
            if _matches_any(pod.namespace, rungs.namespaces) and score >= rungs.score
        )


def tripped(situation: Situation, settings: Culling) -> dict[str, str]:
    """Return the rules that flag so many owners at once that they must be wrong, and how many."""
    breaker = settings.circuit_breaker
    broken = {}
    for rule, count in situation.flagged.items():
        if count >= breaker.at_least and not count <= breaker.share * situation.owners:
            broken[rule] = f"{count} of {situation.owners} owners on this node"
    for rule, count in situation.cluster_flagged.items():
        if count >= breaker.cluster_owners:
            broken[rule] = f"{count} owners in the cluster"
    return broken


def counting_findings(verdict: Verdict) -> tuple[Finding, ...]:
    """Return the findings that may count towards culling: of stable rules, but not behaviour."""
    return tuple(
        finding
        for finding in verdict.findings
        if finding.maturity is Maturity.STABLE and finding.signal is not Signal.BEHAVIOUR
    )


def rules_that_flag(
    verdict: Verdict,
    container: Container,
    pod: Pod | None,
    owner: Owner | None,
    settings: Culling,
    now: Moment,
) -> frozenset[str]:
    """Return the rules that the circuit breaker counts for a container.

    What the operator has exempted is no sign that a rule is wrong.
    """
    exemptions = tuple(_exemptions(pod, owner, container, settings, now))
    if any(not exemption.rules for exemption in exemptions):
        return frozenset()
    return frozenset(
        finding.rule
        for finding in counting_findings(verdict)
        if not any(_speaks_of(exemption, finding) for exemption in exemptions)
    )


def counted_as(
    container: Container, pod: Pod | None, owner: Owner | None, settings: Culling
) -> str:
    """Return the owner that the circuit breaker counts for a container."""
    if pod is None:
        return f"pod {container.pod_uid}" if container.pod_uid else container.cgroup
    return pod_counted_as(pod, owner, settings)


def pod_counted_as(pod: Pod, owner: Owner | None, settings: Culling) -> str:
    """Return the owner that the circuit breaker counts for a pod.

    It is the namespace where no owner is known, and where tenants could make up owners in order
    to look like many.
    """
    if owner is None or _matches_any(pod.namespace, settings.tenant_namespaces):
        return f"namespace {pod.namespace}"
    return f"{pod.namespace}/{owner.name}"


def claims_protection(pod: Pod) -> bool:
    """Return whether the pod says of itself that it must not be touched."""
    return _controller_kind(pod) == "DaemonSet" or _has_critical_priority(pod)


def _controller_kind(pod: Pod) -> str:
    return next((owner.kind for owner in pod.owners if owner.is_controller), "")


def _has_critical_priority(pod: Pod) -> bool:
    return fnmatchcase(pod.priority_class, "system-*-critical")


def _question(
    case: Case, settings: Culling, history: History, now: Moment, reserved: str = ""
) -> _Question:
    carrier = case.carrier or case.container
    exemptions = tuple(_exemptions(case.pod, case.owner, carrier, settings, now))
    proof = _proof(case, exemptions, frozenset(tripped(case.situation, settings)), settings.hold)
    return _Question(case, settings, history, now, proof, reserved)


# What counts as proof.


@dataclass(frozen=True, slots=True)
class _Proof:
    """Findings of stable rules, without those of exempted rules and of rules that tripped."""

    score: float
    full_score: float  # those of exempted rules counted
    signals: str
    is_cullable: bool
    is_held: bool  # by findings that have all held for the time that is asked for
    is_cut_off: bool  # it would be proof enough without the circuit breaker
    processes: tuple[ProcessId, ...]  # that are cullable each by itself, and have been as long
    exemption: Exemption | None  # but for which there would be proof enough, or a pod to act on
    rules: tuple[str, ...]  # whose findings count


def _proof(
    case: Case, exemptions: tuple[Exemption, ...], broken: frozenset[str], hold_s: float
) -> _Proof:
    verdict, held = case.verdict, case.held
    stable = sorted(
        (finding for finding in verdict.findings if finding.maturity is Maturity.STABLE), key=_order
    )
    meant = [
        finding
        for finding in stable
        if not any(_speaks_of(exemption, finding) for exemption in exemptions)
    ]
    counted = [finding for finding in meant if finding.rule not in broken]
    scores = signal_scores(counted)
    exemption = next((each for each in exemptions if not each.rules), None)
    if exemption is None and _is_cullable(verdict, stable) and not _is_cullable(verdict, meant):
        exemption = next(
            each for each in exemptions if any(_speaks_of(each, finding) for finding in stable)
        )
    is_cullable = _is_cullable(verdict, counted)
    return _Proof(
        score=score_of(counted),
        full_score=score_of(stable),
        signals=", ".join(scores),
        is_cullable=is_cullable,
        is_held=_is_cullable(verdict, [f for f in counted if held.of_container(f) >= hold_s]),
        is_cut_off=not is_cullable and _is_cullable(verdict, meant),
        processes=tuple(_culprits(verdict, [f for f in counted if held.of_process(f) >= hold_s])),
        exemption=exemption,
        rules=tuple(sorted({finding.rule for finding in counted})),
    )


def _culprits(verdict: Verdict, findings: list[Finding]) -> Iterator[ProcessId]:
    """Processes that would be cullable were they alone in their container, by pid."""
    processes = {finding.process for finding in findings if finding.process is not None}
    for process in sorted(processes):
        own = [finding for finding in findings if finding.process in (process, None)]
        if _is_cullable(verdict, own):
            yield process


def _is_cullable(verdict: Verdict, findings: list[Finding]) -> bool:
    return is_cullable(replace(verdict, findings=tuple(findings)))


def _order(finding: Finding) -> tuple[object, ...]:
    """The order in which scores are joined: rounding must not depend on that of the findings."""
    return (finding.signal, -finding.score, finding.rule, finding.process or (-1, 0))


def _exemptions(
    pod: Pod | None, owner: Owner | None, carrier: Container, settings: Culling, now: Moment
) -> Iterator[Exemption]:
    """Those that are in force today and mean this pod."""
    today = now.unix_s // _DAY_S + _EPOCH_ORDINAL
    for exemption in settings.exemptions:
        is_over = exemption.until is not None and today > exemption.until.toordinal()
        if pod is not None and not is_over and _is_meant(exemption, pod, owner, carrier, settings):
            yield exemption


def _is_meant(
    exemption: Exemption, pod: Pod, owner: Owner | None, carrier: Container, settings: Culling
) -> bool:
    """By all that the exemption says of pods; what it says of rules is for ``_proof``."""
    pods = exemption.pods
    if _matches_any(pod.namespace, settings.tenant_namespaces):
        # What a tenant can give to any number of pods exempts none: labels, owners, images, and
        # names by pattern. A whole name is one pod at a time.
        if exemption.selector.strip() or exemption.owners or exemption.images:
            return False
        pods = tuple(name for name in pods if not _WILDCARDS & set(name))
        if exemption.pods and not pods:
            return False
    asked: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
        (exemption.namespaces, (pod.namespace,)),
        (pods, (pod.name,)),
        (exemption.owners, (owner.name,) if owner else ()),
        (exemption.images, _image_names(pod, carrier)),
    )
    return exemption.selector.matches(pod.labels) and all(
        not patterns or any(_matches_any(name, patterns) for name in names)
        for patterns, names in asked
    )


def _speaks_of(exemption: Exemption, finding: Finding) -> bool:
    return any(_matches_any(name, exemption.rules) for name in (finding.rule, finding.title))


def _in_words(exemption: Exemption) -> str:
    until = f", until {exemption.until.isoformat()}" if exemption.until else ""
    return f"{exemption.reason}{until}"


# What is what.


def protected_namespaces(settings: Culling, own_namespace: str) -> tuple[str, ...]:
    """Patterns of the namespaces in which nothing is ever done."""
    own = (own_namespace,) if own_namespace else ()
    return (*ALWAYS_PROTECTED, *own, *settings.protected_namespaces)


def _carries(carrier: Container, container: Container) -> bool:
    return carrier == container or (
        carrier.kind is ContainerKind.POD
        and carrier.pod_uid == container.pod_uid
        and container.cgroup.startswith(f"{carrier.cgroup}/")
    )


def _image_names(pod: Pod, carrier: Container) -> tuple[str, ...]:
    """What the pod's container may be called by; empty if the pod has no such container."""
    for container in pod.containers:
        if container.container_id and container.container_id == carrier.container_id:
            return container.image, container.image_digest
    return ()


def _matches_any(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
