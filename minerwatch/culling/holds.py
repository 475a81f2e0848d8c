"""Time for which findings have held on a container, without a gap. Thread-safe.

Time comes with the verdicts. Unobserved time does not count: after a gap in the observation the
time starts again. A pause of the finding is subtracted from the time. If it reset the time, a miner
that pauses one minute in five would never have held for long enough.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from threading import Lock

from minerwatch.culling.proof import counting_findings
from minerwatch.culling.records import Held
from minerwatch.detection.judge import MAX_GAP_TICKS
from minerwatch.model import ContainerKey, ProcessId, Verdict

_MAX_PAUSE_S = 3600.0  # a finding that has paused for so long is forgotten, however long it held


@dataclass(slots=True)
class _Span:
    last_s: float
    seconds: float = 0.0

    def extend(self, at_s: float, gap_s: float) -> None:
        passed_s = max(0.0, at_s - self.last_s)
        self.seconds = max(0.0, self.seconds + (passed_s if passed_s <= gap_s else -passed_s))
        self.last_s = max(self.last_s, at_s)

    def is_over(self, now_s: float, gap_s: float) -> bool:
        passed_s = now_s - self.last_s
        return passed_s > max(gap_s, min(self.seconds, _MAX_PAUSE_S))


@dataclass(slots=True)
class _Spans:
    by_rule: dict[str, _Span] = field(default_factory=dict)
    by_process: dict[tuple[str, ProcessId | None], _Span] = field(default_factory=dict)


class Holds:
    """Spans of time of confirmed containers, also during a short pause."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._containers: dict[ContainerKey, _Spans] = {}
        self._noted_s = 0.0

    def note(self, verdicts: Iterable[Verdict], now_s: float, interval_s: float) -> None:
        """Add the verdicts of all containers that are confirmed at a tick."""
        gap_s = MAX_GAP_TICKS * interval_s
        with self._lock:
            if now_s - self._noted_s > gap_s:
                self._containers.clear()
            self._noted_s = now_s
            for verdict in verdicts:
                _extend(self._containers.setdefault(verdict.container, _Spans()), verdict, gap_s)
            for key, spans in [*self._containers.items()]:
                _forget(spans, now_s, gap_s)
                if not spans.by_rule:
                    del self._containers[key]

    def of(self, container: ContainerKey) -> Held:
        """Return how long each rule has held on ``container``, up to its last verdict."""
        with self._lock:
            spans = self._containers.get(container)
            if spans is None:
                return Held()
            return Held(
                {rule: span.seconds for rule, span in spans.by_rule.items()},
                {key: span.seconds for key, span in spans.by_process.items()},
            )


def _extend(spans: _Spans, verdict: Verdict, gap_s: float) -> None:
    at_s = verdict.at_s
    for finding in counting_findings(verdict):
        on_process = (finding.rule, finding.process)
        spans.by_rule.setdefault(finding.rule, _Span(at_s)).extend(at_s, gap_s)
        spans.by_process.setdefault(on_process, _Span(at_s)).extend(at_s, gap_s)


def _forget(spans: _Spans, now_s: float, gap_s: float) -> None:
    spans.by_rule = {
        key: span for key, span in spans.by_rule.items() if not span.is_over(now_s, gap_s)
    }
    spans.by_process = {
        key: span for key, span in spans.by_process.items() if not span.is_over(now_s, gap_s)
    }
