"""Decisions of the policy: an action, or every objection to it; their line in the logs. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from minerwatch.culling.records import Case, DecisionLine
from minerwatch.model import Action, ContainerKey, ProcessId
from minerwatch.untrusted_text.display import printable, shown_name
from minerwatch.untrusted_text.redaction import redacted

if TYPE_CHECKING:
    from minerwatch.kube.attributions import HubServer


class Reason(StrEnum):
    """Reason not to act; the value is the sentence shown to people."""

    OFF = "Culling is off."
    OUTSIDE_HOURS = "It is outside the active hours."
    CIRCUIT_BREAKER = "Its rules flag too many owners at once: the rules must be wrong."
    OWN_IDENTITY_UNKNOWN = (
        "Own namespace unknown; culling is disabled to avoid acting on minerwatch itself."
    )
    OWN_CGROUP_UNKNOWN = (
        "Own cgroup unknown; culling is disabled to avoid acting on minerwatch itself."
    )
    PODS_NOT_SYNCED = "The agent's list of the cluster's pods is not up to date."
    MEMORY_LOST = "The agent does not know what it did within the last hour."
    NO_AUDIT_LOG = "The audit log cannot be written, and nothing is done without evidence."
    NOT_CONFIRMED = "The verdict is not confirmed."
    NOT_CORROBORATED = (
        "The stable rules alone do not confirm it by two signals of one process, one of them by"
        " what it computes (of scans and floods: by the pod's own network counters)."
    )
    ABUSE_NOT_CULLED = "culling.abuses does not name this kind of abuse."
    NEVER_CULLED = "This kind of abuse is never acted on: an outsider could cause its evidence."
    NOT_HELD = "It has not been confirmed for long enough."
    STALE_VERDICT = "The verdict is older than two ticks."
    NOT_A_POD = "It is not a container of a pod."
    POD_UNKNOWN = "The pod is unknown."
    POD_MISMATCH = "The pod is not the container's pod."
    CONTAINER_MISMATCH = "The container is not, or no longer, the one with the verdict."
    NOT_A_WORKLOAD = "It is neither a unit nor a container."
    NAME_UNKNOWN = "Its engine's files do not name it."
    OWN_POD = "It is a pod of minerwatch itself."
    OWN_UNIT = "minerwatch itself runs in it."
    PROTECTED_UNIT = "It is protected."
    HOST_NOT_SELECTED = "culling.hosts names neither it nor its user."
    PROTECTED_NAMESPACE = "The namespace is protected."
    NAMESPACE_NOT_ALLOWED = "Culling is not configured for the namespace."
    NOT_SELECTED = "The pod's labels do not match the configured selector."
    STATIC_POD = "It is a static pod: the kubelet runs it from a file."
    CONTROLLER_UNKNOWN = "The API server has not confirmed its controller yet."
    DAEMON_SET_POD = "It belongs to a DaemonSet."
    CRITICAL_PRIORITY = "Its priority class marks it as critical to the cluster."
    EXEMPT = "The operator has exempted it."
    RELEASED = "An operator has released it."
    TOO_YOUNG = "It is too young."
    POD_ENDING = "The pod has ended or is terminating."
    ACTION_PENDING = "An action on it is still in progress."
    TOO_SOON = "The last action on it was too recent."
    NO_LADDER = "No action is configured for this namespace and score."
    OBSERVE_ONLY = "It is configured to be observed only."
    NOT_HERE = "The action does not exist for it."
    NO_ENGINE = "The socket of its engine is not configured."
    NO_PROCESS = "There is not enough proof against any single process."
    ALREADY_DONE = "It has been done already."
    NODE_BUDGET_SPENT = "This node's budget for the hour is spent."
    CLUSTER_BUDGET_UNKNOWN = "The rest of the cluster's budget is unknown."
    CLUSTER_BUDGET_SPENT = "The cluster's budget for the hour is spent."
    HOST_BUDGET_UNKNOWN = "The file with this host's budget cannot be used."
    DECISION_CHANGED = "The decision would be different now."


@dataclass(frozen=True, slots=True)
class Objection:
    """A reason not to act, with its figures."""

    reason: Reason
    detail: str  # found and required values, or ""

    def __str__(self) -> str:
        """Return the sentence, and the detail in brackets."""
        return f"{self.reason.value[:-1]} ({self.detail})." if self.detail else self.reason.value


@dataclass(frozen=True, slots=True)
class Decision:
    """Decision about one container: an action, or the reasons not to act."""

    action: Action  # OBSERVE if there is an objection
    proposed: Action  # the action without objections
    rung: int  # of the ladder, from 0
    dry_run: bool
    objections: tuple[Objection, ...]  # empty: it acts
    container: ContainerKey
    container_id: str  # of the pod's container; a precondition
    pod_uid: str  # a precondition
    namespace: str
    pod: str
    node: str
    owner: str
    processes: tuple[ProcessId, ...]  # for stop and kill, and no others
    grace_period_s: float | None  # None: the pod's own
    rules: tuple[str, ...] = ()  # ids of the rules that are the proof
    counted_as: str = ""  # the owner that the circuit breaker counts
    abuse: str = ""  # what is proven, else the verdict's; "": there are no findings
    server: HubServer | None = None  # for stop-server: a precondition
    owner_claimed: bool = False  # a tenant may have chosen the owner's name

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Return the reasons not to act; empty if it acts."""
        return tuple(objection.reason for objection in self.objections)

    @property
    def sentences(self) -> tuple[str, ...]:
        """Return the reasons not to act, for people."""
        return tuple(printable(str(objection), 512) for objection in self.objections)

    @property
    def acts(self) -> bool:
        """Return True if an action follows, dry run or not."""
        return not self.objections


def decision_line(case: Case, decision: Decision) -> DecisionLine:
    """Return the line of a decision."""
    return DecisionLine(
        namespace=shown_name(decision.namespace),
        pod=shown_name(decision.pod),
        container=container_name(case),
        pod_uid=decision.pod_uid,
        owner=shown_name(redacted(decision.owner)),
        score=case.verdict.score,
        level=case.verdict.level.label,
        proposed=decision.proposed.value,
        acts=decision.acts,
        dry_run=decision.dry_run,
        rung=decision.rung,
        by_hand=case.asked is not None,
        reasons=decision.sentences,
        abuse=decision.abuse,
    )


def container_name(case: Case) -> str:
    """Return the container's name in its pod, or the start of its id."""
    known = case.pod.containers if case.pod else ()
    names = (each.name for each in known if each.container_id == case.outermost.container_id)
    return shown_name(next(names, case.container.container_id[:12]))
