"""Input of the policy, records of actions, and lines of the audit log. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from minerwatch.api.journal import ActionLine, fit_name
from minerwatch.model import (
    Action,
    Attribution,
    Container,
    Finding,
    Outcome,
    Owner,
    Pod,
    ProcessId,
    Verdict,
)
from minerwatch.untrusted_text.redaction import redacted


class DecisionLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """Decision about a container; written when it differs from the one before."""

    namespace: str
    pod: str
    container: str
    pod_uid: str
    owner: str
    score: float
    level: str
    proposed: str
    acts: bool
    dry_run: bool
    rung: int
    by_hand: bool = False
    reasons: tuple[str, ...] = ()
    abuse: str = ""  # mining, scanning, …


NO_EVIDENCE = msgspec.Raw(b"null")


class AuditLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line. ``kind``: start, record, decision, action (before it), outcome or release.

    Of bans: ban and ban-lifted (before they are written to the ConfigMap), ban-failed.
    """

    kind: str
    at: str  # RFC 3339 in UTC
    node: str = ""
    record: ActionRecord | None = None
    decision: DecisionLine | None = None
    request: str = ""  # as sent
    message: str = ""  # explanation of the outcome
    evidence: msgspec.Raw = NO_EVIDENCE
    bans: tuple[dict[str, object], ...] = ()  # made or lifted


HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Moment:
    """One moment on both clocks.

    ``unix_s`` is the API server's time if known, else the node's time of day without its steps
    (``culling.context``). ``monotonic_s`` counts from the boot (clock_gettime(2)) with the id
    ``boot_id`` (random(4)).
    """

    unix_s: float
    monotonic_s: float
    boot_id: str


@dataclass(frozen=True, slots=True)
class Situation:
    """State of the node at one tick, the same for all containers."""

    node: str
    interval_s: float
    own_namespace: str  # "": unknown, and nothing is done; of a host: see own_cgroup
    own_pod_uid: str
    pods_synced: bool
    cluster_budget_left: int | None  # as last read; None: unknown, and nothing is done
    audit_trouble: str = ""  # why evidence cannot be kept; "": it can
    owners: int = 0  # with pods on the node
    flagged: Mapping[str, int] = field(default_factory=dict)  # rule -> number of owners on the node
    cluster_flagged: Mapping[str, int] = field(
        default_factory=dict
    )  # the same for the cluster, by the Lease
    is_host: bool = False  # outside Kubernetes
    own_cgroup: str = ""  # on a host: the agent's own; "": unknown, and nothing is done


@dataclass(frozen=True, slots=True)
class Held:
    """Seconds for which rules have held on a container, without a gap.

    ``by_container``: on any of its processes, so that a program that restarts again and again is
    one offence; ``by_process``: on one process (None: the container as a whole).
    """

    by_container: Mapping[str, float] = field(default_factory=dict)
    by_process: Mapping[tuple[str, ProcessId | None], float] = field(default_factory=dict)

    def of_container(self, finding: Finding) -> float:
        """Return the seconds for which the finding's rule has held on any process."""
        return self.by_container.get(finding.rule, 0.0)

    def of_process(self, finding: Finding) -> float:
        """Return the seconds for which the finding's rule has held on the finding's process."""
        return self.by_process.get((finding.rule, finding.process), 0.0)


@dataclass(frozen=True, slots=True)
class Case:
    """One container with its verdict, its pod and the node's state; the policy's input."""

    container: Container
    verdict: Verdict
    pod: Pod | None
    owner: Owner | None
    situation: Situation
    carrier: Container | None = None  # the pod's container that it is nested in
    asked: Action | None = None  # by an operator, instead of the ladder's
    asked_dry_run: bool = False  # by an operator; the mode may require it as well
    stopped: frozenset[ProcessId] = frozenset()  # stopped by minerwatch, and still stopped
    held: Held = field(default_factory=Held)
    is_controlled: bool | None = None  # by a real controller, by the API; None: unknown
    owners: tuple[Attribution, ...] = ()  # all names, side by side

    @property
    def outermost(self) -> Container:
        """The container that the pod or engine made: cgroups in it are its tenant's choice."""
        return self.carrier or self.container


class ActionRecord(msgspec.Struct, frozen=True):
    """One action, as the audit log keeps it; the last record with an id is valid."""

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
    processes: tuple[ProcessId, ...] = ()  # targets of stop and kill
    rules: tuple[str, ...] = ()  # ids of the rules that are the proof
    counted_as: str = ""  # the owner that the circuit breaker counts
    abuse: str = ""  # that was proven; "": by an earlier agent
    owner_claimed: bool = False  # a tenant may have chosen the owner's name


def action_line_of(record: ActionRecord, node: str, at: str) -> ActionLine:
    """Return the journal's line about an action that ended at ``at``; secrets are redacted."""
    return ActionLine(
        at=at,
        node=node,
        id=record.id,
        namespace=fit_name(record.namespace),
        pod=fit_name(record.pod),
        pod_uid=fit_name(record.pod_uid),
        owner=fit_name(redacted(record.owner)),
        action=record.action.value,
        outcome=record.outcome.value,
        dry_run=record.dry_run,
    )


def action_line(line: AuditLine) -> ActionLine | None:
    """Return the same from a line of the audit log; None if no action ends in it."""
    if line.record is None or line.kind not in ("outcome", "release"):
        return None
    return action_line_of(line.record, line.node, line.at)


class Budget(Protocol):
    """The hour's budget of actions, which all agents of a cluster share; a host has its own."""

    def reserve(self, record: ActionRecord, now: Moment) -> bool:
        """Take a slot of the hour for ``record.id``; return True if it has one now.

        Checks the cluster's limit and, since an agent's history can be lost, the node's. The same
        id takes one slot, however often it is reserved. Returns False on any failure.
        """

    def give_back(self, record: ActionRecord) -> None:
        """Free the slot of an action that was withdrawn; failures are ignored."""


PROCESS_ACTIONS = (Action.STOP, Action.KILL)
ENGINE_ACTIONS = (Action.PAUSE, Action.STOP_CONTAINER)
