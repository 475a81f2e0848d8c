"""State of all containers at one moment, joined from the answers of many nodes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from minerwatch.api.types import AgentStatus, ContainerStatus, NodeAnswer, NodeReport, Unanswered
from minerwatch.kinds import MachineTotals
from minerwatch.view.overview import Coverage

KEPT = timedelta(minutes=10)
"""For this long a node that no longer answers is shown as it was."""


@dataclass(frozen=True, slots=True)
class Poll:
    """Everything that is shown until the next one."""

    statuses: tuple[ContainerStatus, ...]
    at: datetime
    coverage: Coverage | None = None  # None: of one node
    agents: tuple[AgentStatus, ...] = ()
    notes: tuple[str, ...] = ()  # limits of this poll
    stale: Mapping[str, datetime] = field(default_factory=dict)  # node -> time of its last answer
    progress: tuple[int, int] | None = None  # nodes that were asked, of all; None: it is whole
    machine: MachineTotals | None = None  # of the node that this runs on, if that is read
    failure: str = ""  # why there is nothing newer


@dataclass(slots=True)
class _Known:
    """The last answer of one node."""

    report: NodeReport | None = None
    answered: datetime | None = None  # when that came
    missing: Unanswered | None = None  # why there was none, when it was asked last
    is_asked: bool = False  # in this round


class Answers:
    """The answers of a cluster's nodes, from round to round.

    A node's answer is used until the next one. A node that does not answer keeps its containers
    for ``KEPT``, marked as stale: a miner cannot hide by hanging its node's agent.
    """

    def __init__(self, context: str, namespace: str) -> None:
        self._context = context
        self._namespace = namespace
        self._nodes: dict[str, _Known] = {}
        self._blind_spot = ""
        self._total = 0
        self._statuses: tuple[ContainerStatus, ...] | None = ()  # None: to be joined again

    def begin(self, nodes: Iterable[str], blind_spot: str = "") -> None:
        """Begin a round, in which ``nodes`` will be asked; others are dropped."""
        listed = dict.fromkeys(nodes)
        if any(node not in listed for node in self._nodes):
            self._statuses = None
        self._nodes = {node: self._nodes.get(node, _Known()) for node in listed}
        for known in self._nodes.values():
            known.is_asked = False
        self._total = len(listed)
        self._blind_spot = blind_spot

    def add(self, answer: NodeAnswer, at: datetime) -> None:
        """Add the result of asking one node."""
        known = self._nodes.setdefault(answer.node, _Known())
        known.is_asked = True
        if answer.report is not None:
            known.report, known.answered, known.missing = answer.report, at, None
            self._statuses = None
            return
        known.missing = Unanswered(answer.node, answer.pod, answer.reason)
        if known.answered is not None and at - known.answered > KEPT:
            known.report, known.answered = None, None
            self._statuses = None

    def poll(self, at: datetime) -> Poll:
        """Return all that is known now."""
        names = sorted(self._nodes)
        known = [self._nodes[name] for name in names]
        reports = [each.report for each in known if each.report is not None]
        agents = tuple(report.agent for report in reports if report.agent is not None)
        asked = sum(each.is_asked for each in known)
        coverage = Coverage(
            self._context,
            self._namespace,
            sum(each.report is not None and each.missing is None for each in known),
            tuple(each.missing for each in known if each.missing is not None),
            self._blind_spot,
            agents,
        )
        if self._statuses is None:
            self._statuses = tuple(status for report in reports for status in report.statuses)
        return Poll(
            self._statuses,
            at,
            coverage,
            agents,
            stale={
                name: each.answered
                for name, each in zip(names, known, strict=True)
                if each.missing is not None and each.answered is not None
            },
            progress=(asked, self._total) if asked < self._total else None,
        )
