"""The agent's report on itself: sources and probes, the last tick, failures, bounds reached."""

from __future__ import annotations

import os
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from minerwatch import __version__
from minerwatch.agent.parts import Parts
from minerwatch.agent.self_test import SelfTest
from minerwatch.agent.tick import TickSummary
from minerwatch.api.types import AgentStatus, ClusterReport, ProbeReport, TickReport
from minerwatch.format import counted, rfc3339
from minerwatch.model import MachineTotals
from minerwatch.node.capabilities import effective_capabilities
from minerwatch.probes.registry import ProbeStatus

HEALTHY = re.compile(r"deferred|mixed|(hot )?crowded|gone|left|unplaced|unread")
"""Reasons that healthy nodes have; as in the alert MinerwatchProbeFailing."""

MAX_RATE = 0.05
"""Failures a second above which a source fails; as in that alert."""

_MIN_FAILURES = 3
_WINDOW_S = 900.0
_EVERY_S = 60.0
_MAX_REJECTED = 20
_AT_BOUND = re.compile(r"deferred|(hot )?crowded|too_many|too_large|open_files|dropped|costly|lost")

Failures = Iterable[tuple[str, str, int]]
Counts = Counter[tuple[str, str]]


def counts(failures: Failures) -> Counts:
    """Return failures summed by source and reason."""
    summed: Counts = Counter()
    for source, reason, count in failures:
        summed[source, reason] += count
    return summed


class RecentFailures:
    """Failures of the last quarter of an hour, from counters that only grow."""

    def __init__(self, at_s: float) -> None:
        self._kept: deque[tuple[float, Counts]] = deque([(at_s, Counter())])

    def add(self, at_s: float, failures: Callable[[], Failures]) -> None:
        """Keep the counters, once a minute."""
        if at_s - self._kept[-1][0] >= _EVERY_S:
            self._kept.append((at_s, counts(failures())))
            while len(self._kept) > 1 and self._kept[1][0] <= at_s - _WINDOW_S:
                self._kept.popleft()

    def failing(self, at_s: float, now: Counts) -> Iterator[tuple[str, str, int, float]]:
        """Yield what fails too often: source, reason, count and its period in seconds."""
        since_s, before = self._kept[0]
        for_s = max(at_s - since_s, _EVERY_S)
        for (source, reason), count in sorted((now - before).items()):
            is_often = count >= _MIN_FAILURES and count / for_s > MAX_RATE
            if is_often and source != "http" and not HEALTHY.fullmatch(reason):
                yield source, reason, count, for_s


class SelfReport:
    """State of one agent, for ``minerwatch status`` and ``top``."""

    def __init__(
        self,
        parts: Parts,
        probes: Sequence[ProbeStatus],
        self_test: SelfTest,
        failures: Callable[[], Failures],
        at_bound: Callable[[], Mapping[str, int]],
    ) -> None:
        """``at_bound`` returns how often each other limit was reached, by its description."""
        self._parts = parts
        self._probes = probes
        self._self_test = self_test
        self._failures = failures
        self._at_bound = at_bound
        self._recent = RecentFailures(parts.now_s())
        self._last: TickReport | None = None
        self._unnamed = 0
        self._over_bound = 0
        self._host_network_users = 0
        self._shortened = 0
        self._without_series = 0

    def report_tick(self, summary: TickSummary, duration_s: float) -> None:
        """Keep the figures of a tick."""
        containers = sum(summary.levels.values())
        self._last = TickReport(
            rfc3339(time.time()), round(duration_s, 4), containers, summary.process_count
        )
        self._unnamed = summary.unmapped_count
        self._over_bound = summary.over_bound_count
        self._host_network_users = summary.host_network_users
        self._shortened += summary.shortened_texts
        most = self._parts.state.config.report.max_container_series
        self._without_series = max(0, len(summary.flagged) - most)
        self._recent.add(self._parts.now_s(), self._failures)

    def status(self, *, not_ready: str, metrics: str) -> AgentStatus:
        """Return the agent's own state; ``not_ready`` is why /readyz or /healthz fails."""
        state, node, cluster = self._parts.state, self._parts.node, self._parts.cluster
        trouble = cluster.trouble if cluster is not None else ""
        now = counts(self._failures())
        failing = self._failing(now)
        return AgentStatus(
            node=node.name,
            version=__version__,
            started=rfc3339(time.time() - self._parts.now_s() + state.started_s),
            interval_s=float(state.config.interval),
            rules=dict(Counter(rule.maturity.value for rule in state.rules.book.rules)),
            broken_rules=len(state.rules.errors),
            culling=str(state.config.culling.mode),
            probes_off={
                probe.name: probe.off
                for probe in self._probes
                if probe.off and probe.name != "canary"
            },
            blind_spots=node.blind_spots,
            troubles=(trouble,) if trouble else (),
            machine=_machine(),
            not_ready=not_ready,
            kernel=os.uname().release,
            cgroups=node.source,
            capabilities=tuple(sorted(effective_capabilities())),
            metrics=metrics,
            rejected=tuple(map(str, state.rules.errors[:_MAX_REJECTED])),
            last_tick=self._last,
            probes=tuple(self._probe(probe, failing) for probe in self._probes),
            failing=failing,
            cluster=self._cluster(),
            bounds={what: count for what, count in self._bounds(now) if count},
        )

    def _failing(self, now: Counts) -> dict[str, str]:
        reasons: dict[str, list[str]] = {}
        for source, reason, count, for_s in self._recent.failing(self._parts.now_s(), now):
            reasons.setdefault(source, []).append(f"{reason} ({count:,} times in {for_s:.0f} s)")
        if self._self_test.has_failed:
            reasons["canary"] = [self._self_test.result]
        return {source: ", ".join(each) for source, each in reasons.items()}

    def _probe(self, probe: ProbeStatus, failing: Mapping[str, str]) -> ProbeReport:
        if probe.off:
            state = "unavailable" if probe.is_asked_for else "off"
            return ProbeReport(probe.name, state, probe.off)
        state = "failing" if probe.name in failing else "on"
        return ProbeReport(
            probe.name, state, failing.get(probe.name, self._remark(probe.name)), probe.source
        )

    def _remark(self, probe: str) -> str:
        """Return what there is to say of a probe that works."""
        if probe == "canary":
            return self._self_test.result
        if probe == "pod_network" and self._host_network_users:
            blind_to = counted(self._host_network_users, "container")
            return f"blind to {blind_to} on the host's network"
        return ""

    def _cluster(self) -> ClusterReport | None:
        cluster = self._parts.cluster
        if cluster is None:
            return None
        synced_s = cluster.synced_unix_s
        return ClusterReport(
            server=cluster.cluster.server,
            pods=len(cluster.pods()),
            synced=rfc3339(synced_s) if synced_s is not None else "",
            unnamed=self._unnamed,
        )

    def _bounds(self, now: Counts) -> Iterator[tuple[str, int]]:
        """Yield bounds and how often each was reached, by tenants most likely."""
        yield "owners with more cgroups than are kept apart, now", self._over_bound
        yield "flagged containers without metrics of their own, now", self._without_series
        yield "texts of processes shortened", self._shortened
        yield from self._at_bound().items()
        for (source, reason), count in sorted(now.items()):
            if source == "http":
                yield f"HTTP requests refused: {reason}", count
            elif _AT_BOUND.fullmatch(reason):
                yield f"{source}: {reason.replace('_', ' ')}", count


def _machine() -> MachineTotals:
    from minerwatch.node.process_details import machine_totals  # psutil, only once it is asked for

    return machine_totals()
