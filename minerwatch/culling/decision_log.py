"""Decisions as lines of the audit log and the agent's log, rate-limited."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

import msgspec

from minerwatch.culling.context import Context
from minerwatch.culling.decision import Decision
from minerwatch.culling.journal import Journal
from minerwatch.culling.records import HOUR_S, Case, DecisionLine
from minerwatch.model import ContainerKey, Observation
from minerwatch.untrusted_text.display import printable

_MIN_BETWEEN_LINES_S = 60.0
_MAX_LINES_PER_HOUR = 240


class DecisionLog:
    """Writes decisions that differ from the one before. For one thread."""

    def __init__(self, context: Context, journal: Journal) -> None:
        self._context = context
        self._journal = journal
        self._last: dict[ContainerKey, tuple[tuple[object, ...], float]] = {}  # and when
        self._lines_at_s: deque[float] = deque(maxlen=_MAX_LINES_PER_HOUR)

    def note(self, key: ContainerKey, decision: Decision, line: DecisionLine) -> None:
        """Write the decision if it differs from the last one, unless that was a moment ago."""
        content = (decision.proposed, decision.dry_run, decision.reasons)
        lines, last = self._lines_at_s, self._last.get(key)
        now_s = self._context.clock.now().monotonic_s
        if last is not None and (last[0] == content or now_s - last[1] < _MIN_BETWEEN_LINES_S):
            return
        if len(lines) == lines.maxlen and now_s - lines[0] < HOUR_S:
            return
        lines.append(now_s)
        self._last[key] = (content, now_s)
        self.write(line)

    def write(self, line: DecisionLine) -> None:
        """Write one line to both logs."""
        if not self._journal.trouble:
            self._journal.write("decision", decision=line)
        self._context.log.info(
            "decision", node=self._context.agent.node, **msgspec.structs.asdict(line)
        )

    def keep_only(self, keys: Collection[ContainerKey]) -> None:
        """Forget the decisions about all other containers."""
        self._last = {key: last for key, last in self._last.items() if key in keys}


def decision_line(
    observation: Observation, case: Case, decision: Decision, *, by_hand: bool = False
) -> DecisionLine:
    """Return the line of a decision."""
    verdict = observation.verdict
    return DecisionLine(
        namespace=printable(decision.namespace, 256),
        pod=printable(decision.pod, 256),
        container=container_name(observation, case),
        pod_uid=decision.pod_uid,
        owner=printable(decision.owner, 256),
        score=verdict.score,
        level=verdict.level.label,
        proposed=decision.proposed.value,
        acts=decision.acts,
        dry_run=decision.dry_run,
        rung=decision.rung,
        by_hand=by_hand,
        reasons=sentences(decision),
    )


def sentences(decision: Decision) -> tuple[str, ...]:
    """Return the reasons not to act."""
    return tuple(printable(str(objection), 512) for objection in decision.objections)


def container_name(observation: Observation, case: Case) -> str:
    """Return the container's name in its pod, or the start of its id."""
    container_id = (case.carrier or observation.container).container_id
    known = case.pod.containers if case.pod else ()
    names = (each.name for each in known if each.container_id == container_id)
    return printable(next(names, observation.container.container_id[:12]), 256)
