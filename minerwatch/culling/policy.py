"""Decide about a verdict: an action, or every reason not to act. Pure.

The clock and the history are parameters. An action goes through these steps; ``decide`` and
``rechecked`` are here::

    decide(case)                 a Decision; any objection ends it here
    history.begin(decision)      a pending ActionRecord, which counts from now on
      → the record with the evidence is in the audit log and flushed
    Budget.reserve(record, now)  a slot of the hour, or nothing is done
    rechecked(decision, record,  the same checks on a pod that has just been fetched; on any
              fresh case)        objection nothing is done
      → the action, with pod UID, container id, pid and start time as preconditions
    history.finish(record.id)    DONE, DRY_RUN, REFUSED, FAILED, UNKNOWN; WITHDRAWN if it
                                 ended before the action
      → the record with its outcome is in the audit log
    Budget.give_back(record)     if it was withdrawn

If the agent is killed in between, ``History.restored`` treats the pending record as an action that
may have happened. A log that does not reach back for an hour permits nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from minerwatch.config.schema import Culling, Rungs
from minerwatch.config.values import ENFORCE, OFF
from minerwatch.culling.decision import Decision, Objection, Reason
from minerwatch.culling.history import History
from minerwatch.culling.host_policy import (
    host_action_objections,
    host_identity_objections,
    host_selection_objections,
)
from minerwatch.culling.proof import (
    Proof,
    carries,
    counted_as,
    exemption_text,
    exemptions_of,
    image_names,
    is_tenants_own,
    matches_any,
    proof_for,
    tripped,
)
from minerwatch.culling.records import ENGINE_ACTIONS, PROCESS_ACTIONS, ActionRecord, Case, Moment
from minerwatch.detection.judge import CULLABLE
from minerwatch.kube.attributions import HubServer, hub_server
from minerwatch.model import Action, ContainerKind, Level, Outcome, Pod

ALWAYS_PROTECTED = ("kube-system", "kube-public", "kube-node-lease")
"""Namespaces that no configuration opens; the agent's own is added."""

_MAX_TICKS = 2
_LATE_END_S = 300.0
"""A terminating pod with more grace time than this is not treated as ending: its tenant chooses the
grace period, and could run for a year in it."""

_SHORTENED_GRACE_S = 30.0  # grace period sent for a pod like that if none is configured


def decide(case: Case, settings: Culling, history: History, now: Moment) -> Decision:
    """Return the decision about ``case`` at ``now``, with all objections."""
    return _evaluation(case, settings, history, now).decision()


def rechecked(
    decision: Decision,
    record: ActionRecord,
    fresh: Case,
    settings: Culling,
    history: History,
    now: Moment,
) -> Decision:
    """Return ``decision``, if the fresh case leads to the same one; else with objections."""
    current = _evaluation(fresh, settings, history, now, reserved=record.id).decision()
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
        decision.server,
        decision.dry_run,
        decision.container,
        decision.container_id,
        decision.pod_uid,
        decision.namespace,
        decision.pod,
        decision.node,
    )


@dataclass(frozen=True, slots=True)
class _Evaluation:
    case: Case
    settings: Culling
    history: History
    now: Moment
    proof: Proof
    reserved: str  # id of the record with a reserved slot in the budget, or ""

    @property
    def dry_run(self) -> bool:
        return self.settings.mode != ENFORCE or self.case.asked_dry_run

    def decision(self) -> Decision:
        case, pod = self.case, self.case.pod
        rung, proposed = self._rung_and_action()
        objections = tuple(
            sorted(
                (
                    *self._settings_objections(),
                    *self._verdict_objections(),
                    *self._identity_objections(),
                    *self._selection_objections(),
                    *self._pod_objections(),
                    *self._history_objections(),
                    *self._ladder_objections(proposed),
                    *self._budget_objections(),
                ),
                key=lambda objection: list(Reason).index(objection.reason),
            )
        )
        proposed = proposed or Action.OBSERVE
        return Decision(
            action=Action.OBSERVE if objections else proposed,
            proposed=proposed,
            rung=rung,
            dry_run=self.dry_run,
            objections=objections,
            container=case.container.key,
            container_id=case.outermost.container_id,
            pod_uid=pod.uid if pod else case.container.pod_uid,
            namespace=pod.namespace if pod else "",
            pod=pod.name if pod else "",
            node=case.situation.node,
            owner=case.owner.name if case.owner else "",
            processes=self.proof.processes,
            grace_period_s=self._grace_period_s,
            rules=self.proof.rules,
            counted_as=counted_as(case.container, pod, case.owner, self.settings),
            abuse=self.proof.abuse.value if self.proof.abuse else "",
            server=self._server,
            owner_claimed=_is_owner_claimed(case),
        )

    @property
    def _server(self) -> HubServer | None:
        """Return the hub's server that the pod is; None: it is none, or there is no hub."""
        pod = self.case.pod
        if not self.settings.hub.url or self._is_tenants_own or pod is None:
            return None
        if self.history.has_record(pod.uid, Action.STOP_SERVER, Outcome.FAILED):
            return None  # the hub said that it runs no server in the pod
        return hub_server(self.case.owners)

    @property
    def _grace_period_s(self) -> float | None:
        if self.settings.grace_period is None and self._ends_late:
            return _SHORTENED_GRACE_S
        return self.settings.grace_period

    @property
    def _ends_late(self) -> bool:
        """Return True if the pod is terminating, but may run on for long."""
        pod = self.case.pod
        return (
            pod is not None
            and pod.is_ending
            and pod.ends_unix_s is not None
            and pod.ends_unix_s - self.now.unix_s > _LATE_END_S
        )

    @property
    def _is_tenants_own(self) -> bool:
        """Return True if the tenant chooses the pod's labels, priority and owner references."""
        pod = self.case.pod
        return pod is not None and is_tenants_own(pod, self.settings)

    # Objections.

    def _settings_objections(self) -> Iterator[Objection]:
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
        if situation.is_host:
            if not situation.own_cgroup:
                yield Objection(Reason.OWN_CGROUP_UNKNOWN, "")
        elif not situation.own_namespace:
            yield Objection(Reason.OWN_IDENTITY_UNKNOWN, "")
        if not situation.pods_synced:
            yield Objection(Reason.PODS_NOT_SYNCED, "")
        if not self.dry_run and not self.history.knows_last_hour(self.now):
            yield Objection(Reason.MEMORY_LOST, "")
        if situation.audit_trouble:
            yield Objection(Reason.NO_AUDIT_LOG, situation.audit_trouble)

    def _verdict_objections(self) -> Iterator[Objection]:
        verdict, proof = self.case.verdict, self.proof
        age_s = self.now.monotonic_s - verdict.at_s
        if not 0 <= age_s <= _MAX_TICKS * self.case.situation.interval_s:
            yield Objection(Reason.STALE_VERDICT, f"{age_s:.0f} s old")
        if verdict.level is not Level.CONFIRMED:
            yield Objection(Reason.NOT_CONFIRMED, f"{verdict.level.label}, {verdict.score:g}")
        elif proof.is_cut_off:
            return
        elif not proof.is_cullable:
            yield _proof_objection(proof, self.settings)
        elif not proof.is_held:
            yield Objection(Reason.NOT_HELD, f"{self.settings.hold:g} s without a gap are required")

    def _identity_objections(self) -> Iterator[Objection]:
        if self.case.situation.is_host:
            yield from host_identity_objections(self.case)
            return
        container, carrier, pod = self.case.container, self.case.outermost, self.case.pod
        if container.kind is not ContainerKind.POD:
            yield Objection(Reason.NOT_A_POD, container.kind.value)
        if self.case.verdict.container != container.key:
            yield Objection(Reason.CONTAINER_MISMATCH, "another cgroup")
        elif not carries(carrier, container):
            yield Objection(Reason.CONTAINER_MISMATCH, "not nested in the pod's container")
        if pod is None:
            yield Objection(Reason.POD_UNKNOWN, container.pod_uid)
            return
        if not container.pod_uid or container.pod_uid not in (pod.uid, pod.mirror_uid):
            yield Objection(Reason.POD_MISMATCH, f"{container.pod_uid or 'none'}, not {pod.uid}")
        elif pod.node != self.case.situation.node:
            yield Objection(Reason.POD_MISMATCH, f"on node {pod.node}")
        if not image_names(pod, carrier):
            yield Objection(Reason.CONTAINER_MISMATCH, "not among the pod's containers")

    def _selection_objections(self) -> Iterator[Objection]:
        pod, settings = self.case.pod, self.settings
        if pod is None:
            return
        if self.case.situation.is_host:
            yield from host_selection_objections(self.case, pod, settings.hosts)
        else:
            yield from self._namespace_objections(pod)
        if not self._is_tenants_own and not settings.selector.matches(pod.labels):
            yield Objection(Reason.NOT_SELECTED, settings.selector)
        if self.proof.exemption is not None:
            yield Objection(Reason.EXEMPT, exemption_text(self.proof.exemption))

    def _namespace_objections(self, pod: Pod) -> Iterator[Objection]:
        settings, situation = self.settings, self.case.situation
        if pod.uid == situation.own_pod_uid:
            yield Objection(Reason.OWN_POD, "")
        if matches_any(pod.namespace, protected_namespaces(settings, situation.own_namespace)):
            yield Objection(Reason.PROTECTED_NAMESPACE, pod.namespace)
        if not matches_any(pod.namespace, settings.namespaces):
            yield Objection(Reason.NAMESPACE_NOT_ALLOWED, pod.namespace)

    def _pod_objections(self) -> Iterator[Objection]:
        pod, settings = self.case.pod, self.settings
        if pod is None:
            return
        if pod.mirror_uid and pod.mirror_uid == self.case.container.pod_uid:
            # The kubelet names a static pod's cgroup after the uid of its file, any other pod's
            # after the uid that the API server gave it.
            yield Objection(Reason.STATIC_POD, "")
        if not self._is_tenants_own:
            yield from self._controller_objections(pod)
        age_s = self.now.unix_s - pod.created_unix_s
        if not age_s >= settings.minimum_age:
            yield Objection(Reason.TOO_YOUNG, f"{age_s:.0f} s, {settings.minimum_age:g} s at least")
        if pod.phase in ("Succeeded", "Failed") or (pod.is_ending and not self._ends_late):
            yield Objection(Reason.POD_ENDING, pod.phase)

    def _controller_objections(self, pod: Pod) -> Iterator[Objection]:
        """Yield objections by owner references and priorities, if the API server confirms them."""
        if not claims_protection(pod):
            return
        if self.case.is_controlled is None:
            yield Objection(Reason.CONTROLLER_UNKNOWN, "")
        elif self.case.is_controlled:
            if pod.is_of_daemon_set:
                yield Objection(Reason.DAEMON_SET_POD, "")
            if _has_critical_priority(pod):
                yield Objection(Reason.CRITICAL_PRIORITY, pod.priority_class)

    def _history_objections(self) -> Iterator[Objection]:
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

    def _ladder_objections(self, proposed: Action | None) -> Iterator[Objection]:
        if self.case.situation.is_host:
            yield from host_action_objections(self.case, proposed, self.settings.hosts)
        elif proposed in ENGINE_ACTIONS:
            yield Objection(Reason.NOT_HERE, f"{proposed}: only on a host outside Kubernetes")
        elif proposed is Action.STOP_SERVER and self._server is None:
            yield Objection(Reason.NOT_HERE, f"{proposed}: no server of a hub, see hubs.md")
        if proposed is None:
            if self.case.pod is not None:
                yield Objection(Reason.NO_LADDER, "")
        elif proposed is Action.OBSERVE:
            yield Objection(Reason.OBSERVE_ONLY, "")
        elif proposed in PROCESS_ACTIONS and not self.proof.processes:
            yield Objection(Reason.NO_PROCESS, proposed.value)
        elif self._is_in_effect(proposed):
            yield Objection(Reason.ALREADY_DONE, proposed.value)
        elif self._is_dry_run_done(proposed):
            yield Objection(Reason.ALREADY_DONE, f"{proposed.value}, in a dry run")

    def _is_dry_run_done(self, proposed: Action) -> bool:
        """Return True if this dry run was done; enforced, the pod would be gone or stopped."""
        pod, processes = self.case.pod, self.proof.processes
        return (
            self.dry_run
            and pod is not None
            and self.history.has_dry_run(pod.uid, proposed, processes)
        )

    def _is_in_effect(self, proposed: Action) -> bool:
        """Return True if a repetition would change nothing; a tenant's own changes never count."""
        pod, processes = self.case.pod, self.proof.processes
        if pod is None:
            return False
        if proposed is Action.LABEL:
            label = self.settings.quarantine_label
            is_ours = self.history.has_record(pod.uid, Action.LABEL, Outcome.DONE)
            return is_ours and pod.labels.get(label.key) == label.value
        return proposed is Action.STOP and self.case.stopped.issuperset(processes)

    def _budget_objections(self) -> Iterator[Objection]:
        budget, left = self.settings.budget, self.case.situation.cluster_budget_left
        spent = self.history.spent(self.now, dry_run=self.dry_run, without=self.reserved)
        if spent >= budget.per_node:
            yield Objection(Reason.NODE_BUDGET_SPENT, f"{spent} of {budget.per_node}")
        if self.reserved:
            return
        if left is None and self.case.situation.is_host:
            yield Objection(Reason.HOST_BUDGET_UNKNOWN, "")
        elif left is None:
            yield Objection(Reason.CLUSTER_BUDGET_UNKNOWN, "")
        elif left <= 0 or budget.per_cluster <= 0:
            yield Objection(Reason.CLUSTER_BUDGET_SPENT, f"{budget.per_cluster} an hour")

    # Action.

    def _rung_and_action(self) -> tuple[int, Action | None]:
        pod, settings = self.case.pod, self.settings
        if pod is None:
            return 0, self.case.asked
        owner = self.case.owner.name if self.case.owner else ""
        repeat = settings.repeat_offenders
        offences = self.history.offences(pod, owner, repeat.window, self.now, dry_run=self.dry_run)
        rungs = next(self._ladders(pod), None)
        actions = [
            each
            for each in (rungs.actions if rungs else ())
            if each is not Action.STOP_SERVER or self._server is not None
        ]
        if not actions:
            return 0, self.case.asked
        rung = min(offences // repeat.actions, len(actions) - 1)
        is_first = actions[rung] is Action.DELETE and rung > 0
        if is_first and not self.history.has_touched(pod, dry_run=self.dry_run):
            rung -= 1  # only other pods of the owner had an action; delete comes last
        return rung, self.case.asked or actions[rung]

    def _ladders(self, pod: Pod) -> Iterator[Rungs]:
        # Exempted findings count: an exemption must never lead to another action.
        score = max(self.proof.full_score, Level.CONFIRMED.value)
        return (
            rungs
            for rungs in self.settings.ladder
            if matches_any(pod.namespace, rungs.namespaces) and score >= rungs.score
        )


def claims_protection(pod: Pod) -> bool:
    """Return True if the pod claims a protected controller or priority."""
    return pod.is_of_daemon_set or _has_critical_priority(pod)


def _is_owner_claimed(case: Case) -> bool:
    name = case.owner.name if case.owner else ""
    return {each.is_claim for each in case.owners if each.name == name} == {True}


def _has_critical_priority(pod: Pod) -> bool:
    return fnmatchcase(pod.priority_class, "system-*-critical")


def _proof_objection(proof: Proof, settings: Culling) -> Objection:
    """Return why the findings permit no action."""
    if proof.switched_off is not None:
        on = ", ".join(each.value for each in settings.abuses)
        return Objection(Reason.ABUSE_NOT_CULLED, f"{proof.switched_off}; on for {on}")
    if proof.abuse is not None and proof.abuse not in CULLABLE:
        return Objection(Reason.NEVER_CULLED, proof.abuse.value)
    return Objection(Reason.NOT_CORROBORATED, f"{proof.score:g} by {proof.signals or 'none'}")


def _evaluation(
    case: Case, settings: Culling, history: History, now: Moment, reserved: str = ""
) -> _Evaluation:
    exemptions = tuple(exemptions_of(case.pod, case.owner, case.outermost, settings, now))
    proof = proof_for(case, exemptions, frozenset(tripped(case.situation, settings)), settings)
    return _Evaluation(case, settings, history, now, proof, reserved)


def protected_namespaces(settings: Culling, own_namespace: str) -> tuple[str, ...]:
    """Return patterns of the namespaces in which nothing is ever done."""
    own = (own_namespace,) if own_namespace else ()
    return (*ALWAYS_PROTECTED, *own, *settings.protected_namespaces)
