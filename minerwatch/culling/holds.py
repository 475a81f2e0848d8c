"""Time for which findings were watched to hold on a container, without a gap. Thread-safe.

Time comes with the verdicts. What the agent did not watch does not count: after a gap, of the
agent or of the finding, the time starts again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from threading import Lock

from minerwatch.cull import Held, counting_findings
from minerwatch.detection.judge import MAX_GAP_TICKS
from minerwatch.model import ContainerKey, ProcessId, Verdict


@dataclass(slots=True)
class _Span:
    first_s: float
    last_s: float

    def extend(self, at_s: float, gap_s: float) -> None:
        if at_s - self.last_s > gap_s:
            self.first_s = at_s
        self.last_s = max(self.last_s, at_s)

    @property
    def seconds(self) -> float:
        return self.last_s - self.first_s


@dataclass(slots=True)
class _Spans:
    last_s: float = 0.0
    by_rule: dict[str, _Span] = field(default_factory=dict)
    by_process: dict[tuple[str, ProcessId | None], _Span] = field(default_factory=dict)


class Holds:
    """Spans of time, kept for the containers that were confirmed within the last ticks."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._containers: dict[ContainerKey, _Spans] = {}

    def note(self, verdicts: Iterable[Verdict], now_s: float, interval_s: float) -> None:
        """Add what one tick found: the verdicts of all containers that are confirmed."""
        gap_s = MAX_GAP_TICKS * interval_s
        with self._lock:
            for verdict in verdicts:
                spans = self._containers.setdefault(verdict.container, _Spans())
                _extend(spans, verdict, gap_s)
            self._containers = {
                key: spans
                for key, spans in self._containers.items()
                if now_s - spans.last_s <= gap_s
            }

    def of(self, container: ContainerKey) -> Held:
        """Return for how long each rule has held on ``container``, up to its last verdict."""
        with self._lock:
            spans = self._containers.get(container)
            if spans is None:
                return Held()
            return Held(
                {rule: span.seconds for rule, span in spans.by_rule.items()},
                {key: span.seconds for key, span in spans.by_process.items()},
            )


def _extend(spans: _Spans, verdict: Verdict, gap_s: float) -> None:
    at_s = spans.last_s = verdict.at_s
    for finding in counting_findings(verdict):
        on_process = (finding.rule, finding.process)
        spans.by_rule.setdefault(finding.rule, _Span(at_s, at_s)).extend(at_s, gap_s)
        spans.by_process.setdefault(on_process, _Span(at_s, at_s)).extend(at_s, gap_s)
    spans.by_rule = {
        key: span for key, span in spans.by_rule.items() if at_s - span.last_s <= gap_s
    }
    spans.by_process = {
        key: span for key, span in spans.by_process.items() if at_s - span.last_s <= gap_s
    }
