"""Time from the start of a flagged process to its container's first verdict of likely or above."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from minerwatch.detection.judge import of_foremost_process, of_worst_abuse
from minerwatch.model import (
    Abuse,
    Change,
    Container,
    ContainerKey,
    ContainerKind,
    Finding,
    Identity,
    Level,
    Observation,
    Signal,
)
from minerwatch.node.proc_files import CLOCK_TICKS_PER_S

_MAX_REMEMBERED = 10_000


class DetectionDelays:
    """Measures delays; each container is reported to ``on_first`` once. For one thread.

    A process that started before the agent is not reported: the agent could not see it begin.
    """

    def __init__(
        self,
        identity: Callable[[Container], Identity | None],
        began_s: float,
        now_s: Callable[[], float],
        on_first: Callable[[Abuse, float], None],
    ) -> None:
        """``began_s``: start of the agent, on the clock ``now_s``, which counts from the boot."""
        self._identity = identity
        self._began_s = began_s
        self._now_s = now_s
        self._on_first = on_first
        self._reported: OrderedDict[ContainerKey, None] = OrderedDict()

    def of(self, change: Change) -> float | None:
        """Return the delay in seconds; None if nothing was detected now, or no start is known."""
        verdict = change.observation.verdict
        if not change.previous < Level.LIKELY <= verdict.level:
            return None
        findings = _counted(change.observation)
        started_s = self._started_s(change.observation, findings)
        if started_s is None:
            return None
        delay_s = max(0.0, verdict.at_s - started_s)
        if verdict.container not in self._reported and started_s >= self._began_s:
            self._reported[verdict.container] = None
            if len(self._reported) > _MAX_REMEMBERED:
                self._reported.popitem(last=False)
            self._on_first(findings[0].abuse, delay_s)
        return round(delay_s, 1)

    def forget(self, container: ContainerKey) -> None:
        """Forget a container that is gone."""
        self._reported.pop(container, None)

    def _started_s(self, observation: Observation, findings: list[Finding]) -> float | None:
        """Return the earliest start of a process with findings; without one that of the pod."""
        ticks = [each.process.start_ticks for each in findings if each.process is not None]
        if ticks:
            return min(ticks) / CLOCK_TICKS_PER_S
        identity = self._identity(observation.container)
        if not findings or identity is None or not identity.pod.created_unix_s:
            return None
        return identity.pod.created_unix_s - (time.time() - self._now_s())


def _counted(observation: Observation) -> list[Finding]:
    """Return the findings that make the level."""
    findings = [f for f in observation.verdict.findings if f.signal is not Signal.BEHAVIOUR]
    if findings and observation.container.kind is ContainerKind.HOST:
        findings = of_foremost_process(findings)
    return of_worst_abuse(findings)
