"""Handles exec events between two ticks, within a share of one core."""

from __future__ import annotations

import time
from collections.abc import Collection

from minerwatch.agent.parts import Parts
from minerwatch.agent.publisher import Publisher
from minerwatch.agent.scheduling import CpuBudget
from minerwatch.node.exec_events import ExecEvents

_REREAD_PAUSE_S = 0.5
"""Until processes are read for which there was no time; the next tick may be far."""

_FAULT_PAUSE_S = 5.0
"""After a failed read of exec events; meanwhile only ticks find processes."""

_BATCH_S = 0.002
"""Between two reads of exec events: one large batch costs less than many small ones."""


class ExecWatcher:
    """Reads and judges programs as they start, and processes that a tick had no time for."""

    def __init__(self, events: ExecEvents | None, parts: Parts, publisher: Publisher) -> None:
        self._events = events
        self._watch = parts.node.watch
        self._publisher = publisher
        self._telemetry = parts.telemetry
        self._budget = CpuBudget(parts.state.config.probes.execs_cpu_share)
        self._now_s = parts.now_s
        self._lost = 0
        self._last_read_s = 0.0
        self._faulty_until_s: float | None = None

    def source(self, at_s: float) -> ExecEvents | None:
        """Return the events to wait for; None while they must wait."""
        return self._events if self.pause_s(at_s) == 0.0 else None

    def pause_s(self, at_s: float) -> float:
        """Return how long events must wait, for the CPU budget or after a fault."""
        fault_s = self._faulty_until_s - at_s if self._faulty_until_s is not None else 0.0
        return max(self._budget.pause_s(at_s), fault_s, 0.0)

    def next_read_s(self, at_s: float) -> float:
        """Return when deferred processes are read; infinite if there are none."""
        if not self._watch.has_deferred:
            return float("inf")
        return max(self._last_read_s + _REREAD_PAUSE_S, at_s + self._budget.pause_s(at_s))

    def read_deferred(self) -> None:
        """Read processes that there was no time for."""
        self._handle(())

    def read_events(self) -> None:
        """Read and judge the programs that have started; then let some events gather."""
        if self._events is None:
            return
        try:
            started = self._events.drain()
        except OSError as error:  # poll(2) would return at once, again and again
            self._telemetry.fail("execs", error)
            self._faulty_until_s = self._now_s() + _FAULT_PAUSE_S
            self._telemetry.metrics.probe_opened("execs", is_on=False)
            self._watch.recheck()
            return
        if self._faulty_until_s is not None:
            self._faulty_until_s = None
            self._telemetry.metrics.probe_opened("execs", is_on=True)
        self._handle(started)
        time.sleep(_BATCH_S)

    def handle_lost(self) -> None:
        """Check all processes at the next tick if the kernel dropped events."""
        lost = self._events.lost if self._events else 0
        if lost > self._lost:
            self._lost = lost
            self._watch.recheck()
            message = "exec events were lost; checking all processes"
            self._telemetry.once.warning(message, lost=lost)

    def counts(self) -> tuple[int, int]:
        """Return the numbers of received and of lost events since the start."""
        return (self._events.received, self._lost) if self._events else (0, 0)

    def _handle(self, started: Collection[int]) -> None:
        max_cpu_s = self._budget.slice_s(self._now_s())
        with self._budget.spending(self._now_s):
            try:
                found = self._watch.handle_execs(started, self._now_s(), max_cpu_s)
                self._publisher.publish_findings(found.changes, found.began)
                for probe, probe_s in found.probe_s.items():
                    self._telemetry.metrics.probe_took(probe, probe_s)
            except Exception as error:  # noqa: BLE001 - the next tick reads them
                self._telemetry.fail("execs", error)
        self._last_read_s = self._now_s()
