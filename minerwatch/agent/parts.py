"""State, log, metrics and sources that the parts of an agent share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from minerwatch.agent.monitor import MonitoredNode
from minerwatch.agent.recorder import Recorder
from minerwatch.agent.rule_loader import RuleSet
from minerwatch.config.schema import Config
from minerwatch.culling.service import CullSwitch
from minerwatch.report.log import Log, Once
from minerwatch.report.metrics import Metrics
from minerwatch.report.notifier import Notifier

if TYPE_CHECKING:
    from minerwatch.kube.cluster_view import ClusterNode


@dataclass(slots=True)
class AgentState:
    """Settings and rules in force, and how the last tick went."""

    config: Config
    rules: RuleSet
    started_s: float
    last_tick_s: float | None = None
    blindness: str = ""  # why most processes cannot be seen


@dataclass(frozen=True, slots=True)
class Telemetry:
    """The log and the metrics of one agent, and counts of its own failures."""

    log: Log
    once: Once
    metrics: Metrics
    _failures: Counter[tuple[str, str]] = field(default_factory=Counter)

    def fail(self, where: str, error: Exception) -> None:
        """Count an unforeseen error; log it the first time."""
        self._failures[where, type(error).__name__] += 1
        self.once.failure(f"{where} failed", error)

    def failures(self) -> Iterator[tuple[str, str, int]]:
        """Yield the errors since the start: probe, reason, count."""
        yield from ((where, reason, n) for (where, reason), n in [*self._failures.items()])


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of an agent that the others use."""

    state: AgentState
    telemetry: Telemetry
    node: MonitoredNode
    cluster: ClusterNode | None
    culling: CullSwitch
    recorder: Recorder
    now_s: Callable[[], float]
    notifier: Notifier = field(default_factory=Notifier)
