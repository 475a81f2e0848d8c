"""Time for which findings have held on a container, without a gap. Thread-safe.

Time comes with the verdicts. Unobserved time does not count: after a gap in the observation the
time starts again. A pause of the finding is subtracted from the time. If it reset the time, a miner
that pauses one minute in five would never have held for long enough.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from threading import Lock

from minerwatch.culling.records import Held
from minerwatch.detection.judge import MAX_GAP_TICKS, counting_findings
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


_SpanKey = str | tuple[str, ProcessId | None]  # a rule, on any process or on one


class Holds:
    """Spans of time of confirmed containers, also during a short pause."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._containers: dict[ContainerKey, dict[_SpanKey, _Span]] = {}
        self._updated_s = 0.0

    def update(self, verdicts: Iterable[Verdict], now_s: float, interval_s: float) -> None:
        """Add the verdicts of all containers that are confirmed at a tick."""
        gap_s = MAX_GAP_TICKS * interval_s
        with self._lock:
            if now_s - self._updated_s > gap_s:
                self._containers.clear()
            self._updated_s = now_s
            for verdict in verdicts:
                spans = self._containers.setdefault(verdict.container, {})
                for finding in counting_findings(verdict.findings):
                    for key in (finding.rule, (finding.rule, finding.process)):
                        spans.setdefault(key, _Span(verdict.at_s)).extend(verdict.at_s, gap_s)
            for container, spans in [*self._containers.items()]:
                for key in [key for key, span in spans.items() if span.is_over(now_s, gap_s)]:
                    del spans[key]
                if not spans:
                    del self._containers[container]

    def of(self, container: ContainerKey) -> Held:
        """Return how long each rule has held on ``container``, up to its last verdict."""
        with self._lock:
            spans = self._containers.get(container, {})
            return Held(
                {key: span.seconds for key, span in spans.items() if isinstance(key, str)},
                {key: span.seconds for key, span in spans.items() if isinstance(key, tuple)},
            )
