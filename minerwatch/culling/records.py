"""The lines of the audit log, as they are written and read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from minerwatch.model import (
    Action,
    Container,
    Finding,
    Outcome,
    Owner,
    Pod,
    ProcessId,
    Verdict,
)


class DecisionLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the policy said about a container; written when it says something else than before."""

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


NO_EVIDENCE = msgspec.Raw(b"null")


class AuditLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line. ``kind`` is start, record, decision, action (before it), outcome, or release."""

    kind: str
    at: str  # RFC 3339 in UTC
    node: str = ""
    record: ActionRecord | None = None
    decision: DecisionLine | None = None
    request: str = ""  # what is sent, word for word
    message: str = ""  # what came of it
    evidence: msgspec.Raw = NO_EVIDENCE


HOUR_S = 3600.0


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


PROCESS_ACTIONS = (Action.STOP, Action.KILL)
