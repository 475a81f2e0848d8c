"""Decisions of the policy: an action, or every objection against it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from minerwatch.model import Action, ContainerKey, ProcessId


class Reason(StrEnum):
    """Why nothing is done; the value is the sentence that people read."""

    OFF = "Culling is off."
    OUTSIDE_HOURS = "It is outside the active hours."
    CIRCUIT_BREAKER = "Its rules flag too many owners at once: the rules must be wrong."
    OWN_IDENTITY_UNKNOWN = "The agent does not know its own namespace, and so cannot spare it."
    PODS_NOT_SYNCED = "What is known of the cluster's pods is not up to date."
    MEMORY_LOST = "The agent does not know what it did within the last hour."
    NO_AUDIT_LOG = "The audit log cannot be written, and without evidence nothing is done."
    NOT_CONFIRMED = "The verdict is not confirmed."
    NOT_CORROBORATED = (
        "The stable rules alone do not confirm it by compute and another signal of one process."
    )
    NOT_HELD = "It has not been watched to be confirmed for long enough."
    STALE_VERDICT = "The verdict is older than two ticks."
    NOT_A_POD = "It is not a container of a pod."
    POD_UNKNOWN = "The pod is not known."
    POD_MISMATCH = "The pod is another one than the container's."
    CONTAINER_MISMATCH = "The container is not, or no longer, the one that was judged."
    OWN_POD = "It is a pod of minerwatch itself."
    PROTECTED_NAMESPACE = "The namespace is protected."
    NAMESPACE_NOT_ALLOWED = "The namespace is not among those that culling is configured for."
    NOT_SELECTED = "The pod's labels do not fit the configured selector."
    STATIC_POD = "It is a static pod: the kubelet runs it from a file."
    CONTROLLER_UNKNOWN = "The API server has not confirmed its controller yet."
    DAEMON_SET_POD = "It belongs to a DaemonSet."
    CRITICAL_PRIORITY = "Its priority class says that the cluster cannot do without it."
    EXEMPT = "The operator has exempted it."
    RELEASED = "It was released by hand."
    TOO_YOUNG = "The pod is too young."
    POD_ENDING = "The pod is over, or ending already."
    ACTION_PENDING = "An action on this pod has not ended yet."
    TOO_SOON = "There has been an action on this pod a short while ago."
    NO_LADDER = "No action is configured for this namespace and score."
    OBSERVE_ONLY = "It is configured to be observed only."
    NO_PROCESS = "No single process is sure enough to be a miner."
    ALREADY_DONE = "It has been done already."
    NODE_BUDGET_SPENT = "This node's budget for the hour is spent."
    CLUSTER_BUDGET_UNKNOWN = "What is left of the cluster's budget is not known."
    CLUSTER_BUDGET_SPENT = "The cluster's budget for the hour is spent."
    DECISION_CHANGED = "What was decided is not what would be decided now."


@dataclass(frozen=True, slots=True)
class Objection:
    """A reason not to act, with its figures."""

    reason: Reason
    detail: str  # what was found and what is asked for; ""

    def __str__(self) -> str:
        """The sentence, and the detail in brackets."""
        return f"{self.reason.value[:-1]} ({self.detail})." if self.detail else self.reason.value


@dataclass(frozen=True, slots=True)
class Decision:
    """What the policy permits about one container: an action, or the reasons not to act."""

    action: Action  # OBSERVE where there is any objection
    proposed: Action  # what would be done if there were none
    rung: int  # of the ladder, from 0
    dry_run: bool
    objections: tuple[Objection, ...]  # all of them; none: it acts
    container: ContainerKey
    container_id: str  # of the pod's container; a precondition
    pod_uid: str  # a precondition
    namespace: str
    pod: str
    node: str
    owner: str
    processes: tuple[ProcessId, ...]  # that stop and kill are for, and no others
    grace_period_s: float | None  # None: the pod's own
    rules: tuple[str, ...] = ()  # ids of those whose findings are the proof
    counted_as: str = ""  # the owner that the circuit breaker counts

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Why nothing is done; empty if something is."""
        return tuple(objection.reason for objection in self.objections)

    @property
    def acts(self) -> bool:
        """Whether anything is to be done, be it in a dry run."""
        return not self.objections

    @property
    def is_enforced(self) -> bool:
        """Whether anything is to be changed in earnest."""
        return self.acts and not self.dry_run
