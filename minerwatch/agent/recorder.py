"""Write the node's history to the journal: verdicts, actions, usage each five minutes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import msgspec

from minerwatch import __version__
from minerwatch.agent.monitor import MonitoredNode
from minerwatch.agent.tick import TickSummary
from minerwatch.api.history import weight
from minerwatch.api.journal import (
    AgentLine,
    RuleScore,
    Usage,
    UsageLine,
    VerdictLine,
    container_key,
    fit_name,
)
from minerwatch.config.schema import Config
from minerwatch.culling.records import ActionRecord, action_line_of
from minerwatch.fair_queue import interleaved
from minerwatch.format import rfc3339
from minerwatch.model import Container, ContainerKey, Level, Observation
from minerwatch.report.journal import Journal, JournalFiles
from minerwatch.report.log import LogLimit, Once, Rate
from minerwatch.untrusted_text.redaction import redacted

PERIOD_S = 300.0
PER_OWNER = Rate(burst=8, per_hour=2)
PER_NAMESPACE = Rate(burst=120, per_hour=12)
"""A week of a namespace that uses all of it fits into the files, with the longest names."""

_MAX_BUSIEST = 10
_MAX_FLAGGED = 20
_MAX_TRACKED = 1000  # containers that were flagged in one period
_MAX_RULES = 8
_CLEAR = Level.CLEAR.label
_MAX_GAP_S = 60.0
_MAX_GAP_TICKS = 3
_MAX_USAGE_BYTES = 3000  # of the containers in one line: a week of such lines is kept


@dataclass(slots=True)
class _Flagged:
    """A container that was flagged in this period."""

    observation: Observation
    level: Level
    cpu_s: float = 0.0  # while flagged, as below
    gpu_s: float = 0.0
    gpu_joules: float = 0.0  # of GPUs that only it used


class Recorder:
    """Writes the lines of one agent; without a journal it does nothing.

    ``record_action`` is for any thread, all else for the one that ticks.
    """

    def __init__(
        self,
        node: MonitoredNode,
        journal: Journal | None,
        interval_s: float,
        now_s: Callable[[], float],
    ) -> None:
        self.journal = journal
        self._node = node
        self._now_s = now_s
        self._period_s = max(PERIOD_S, interval_s)
        self._max_gap_s = max(_MAX_GAP_S, _MAX_GAP_TICKS * interval_s)
        self._limit = LogLimit(PER_OWNER, PER_NAMESPACE)
        self._tick_s: float | None = None
        self._began_s = 0.0
        self._cpu_s: dict[ContainerKey, float] = {}  # at the beginning of the period
        self._flagged: dict[ContainerKey, _Flagged] = {}
        self._record_agent("start")

    def record_tick(self, summary: TickSummary) -> None:
        """Add up CPU and GPU usage; write it at the end of a period.

        After a pause in which nothing was watched, a new period begins: the time between is a gap.
        """
        if self.journal is None:
            return
        before_s, self._tick_s = self._tick_s, summary.at_s
        begins = before_s is None or summary.at_s - before_s > self._max_gap_s
        if begins:
            self._begin(summary.at_s, self._node.watch.observations(0))
        for observation in summary.flagged[: _MAX_TRACKED - len(self._flagged)]:
            self._flagged.setdefault(
                observation.container.key, _Flagged(observation, observation.verdict.level)
            )
        if begins:
            return  # what was used up to now is not of this period
        for container, level, cpu_s in summary.flagged_cpu_s:
            flagged = self._flagged.get(container.key)
            if flagged is not None:
                flagged.level = max(flagged.level, level)
                flagged.cpu_s += cpu_s
        for container, _, gpu_s, joules in summary.gpus.flagged:
            if (flagged := self._flagged.get(container.key)) is not None:
                flagged.gpu_s += gpu_s
                flagged.gpu_joules += joules
        if summary.at_s - self._began_s >= self._period_s:
            self._write_usage(summary.at_s)

    def record_verdict(
        self, observation: Observation, previous: str, level: str, delay_s: float | None = None
    ) -> None:
        """Write a change of level, unless its owner has written too many."""
        if self.journal is None:
            return
        container = observation.container
        owner, namespace = self._owner(container)
        left_out = self._limit.lines_before(owner, namespace, level, self._now_s())
        if left_out is None:
            return
        status = self._node.status(observation, public=True)
        gpu = status.gpu
        self.journal.write(
            VerdictLine(
                at=rfc3339(time.time()),
                node=self._node.name,
                key=container_key(container.cgroup),
                namespace=fit_name(status.namespace),
                pod=fit_name(status.pod),
                pod_uid=fit_name(status.pod_uid),
                container=fit_name(status.container),
                container_id=fit_name(status.container_id),
                image=fit_name(redacted(status.image)),
                owner=fit_name(redacted(status.owner)),
                level=level,
                previous=previous,
                score=status.score,
                abuse=status.abuse,
                since=status.since,
                started=status.started,
                cpu_cores=status.cpu_cores,
                cpu_hours=status.cpu_hours,
                rules=tuple(
                    RuleScore(each.rule, each.title, each.signal, each.score)
                    for each in islice({f.rule: f for f in status.findings}.values(), _MAX_RULES)
                ),
                left_out=left_out,
                delay_s=delay_s,
                gpu_hours=(gpu.hours or None) if gpu else None,
                gpu_joules=gpu.energy_joules if gpu else None,
            )
        )

    def record_action(self, record: ActionRecord) -> None:
        """Write the outcome of an action."""
        if (journal := self.journal) is not None:
            journal.write(action_line_of(record, self._node.name, rfc3339(time.time())))

    def failures(self) -> Iterator[tuple[str, str, int]]:
        """Yield lines that were not written since the start: probe, reason, count."""
        if self.journal is not None:
            yield from (("journal", reason, n) for reason, n in self.journal.failures.items())
            yield "journal", "left", self._limit.left_out

    def close(self) -> None:
        """Write what the period has so far, and that the agent stops."""
        if self.journal is None:
            return
        if self._tick_s is not None and self._tick_s > self._began_s:
            self._write_usage(self._tick_s)
        self._record_agent("stop")
        self.journal.close()

    def forget(self) -> None:
        """Remove the journal for good, and write no more. Raises OSError."""
        if self.journal is not None:
            journal, self.journal = self.journal, None
            journal.close()
            journal.files.remove()

    def _record_agent(self, event: str) -> None:
        if self.journal is not None:
            self.journal.write(
                AgentLine(
                    at=rfc3339(time.time()), node=self._node.name, event=event, version=__version__
                )
            )

    def _begin(self, at_s: float, observations: Iterable[Observation]) -> None:
        self._began_s = at_s
        self._cpu_s = {each.container.key: each.cpu_s for each in observations}
        self._flagged = {}

    def _write_usage(self, at_s: float) -> None:
        seconds = at_s - self._began_s
        observations = self._node.watch.observations(0)
        used_s = {
            each.container.key: max(0.0, each.cpu_s - self._cpu_s.get(each.container.key, 0.0))
            for each in observations
        }
        flagged = sorted(
            self._flagged.values(), key=lambda each: (-each.level, -weight(each.cpu_s, each.gpu_s))
        )
        for each in flagged:  # one that is gone by now has used that at least
            used_s.setdefault(each.observation.container.key, each.cpu_s)
        listed = {
            each.observation.container.key: self._usage(
                each.observation,
                each.level,
                used_s[each.observation.container.key] / seconds,
                gpus=each.gpu_s / seconds,
                gpu_watts=each.gpu_joules / seconds,
            )
            for each in islice(interleaved(flagged, self._owner_of_flagged), _MAX_FLAGGED)
        }
        busiest = sorted(observations, key=lambda each: -used_s[each.container.key])
        for observation in islice(
            interleaved(busiest[: 10 * _MAX_BUSIEST], lambda each: each.container.owner),
            _MAX_BUSIEST,
        ):
            key = observation.container.key
            if key not in listed and used_s[key] > 0:
                listed[key] = self._usage(observation, Level.CLEAR, used_s[key] / seconds)
        containers = _within(listed.values(), _MAX_USAGE_BYTES)
        if self.journal is not None:
            self.journal.write(
                UsageLine(
                    at=rfc3339(time.time()),
                    node=self._node.name,
                    seconds=round(seconds, 1),
                    cores=os.cpu_count() or 1,
                    cpu_cores=round(sum(used_s.values()) / seconds, 3),
                    flagged_cpu_cores=round(sum(each.cpu_s for each in flagged) / seconds, 3),
                    containers=containers,
                    left_out=len(flagged) - sum(each.level != _CLEAR for each in containers),
                )
            )
        self._begin(at_s, observations)

    def _usage(
        self, observation: Observation, level: Level, cpu_cores: float,
        *, gpus: float = 0.0, gpu_watts: float = 0.0,
    ) -> Usage:  # fmt: skip
        status = self._node.status(observation, public=True)
        return Usage(
            key=container_key(observation.container.cgroup),
            namespace=fit_name(status.namespace),
            pod=fit_name(status.pod),
            container=fit_name(status.container),
            owner=fit_name(redacted(status.owner)),
            level=level.label,
            cpu_cores=round(cpu_cores, 3),
            gpus=round(gpus, 3) or None,
            gpu_watts=round(gpu_watts, 1) or None,
        )

    def _owner_of_flagged(self, flagged: _Flagged) -> str:
        return self._owner(flagged.observation.container)[0]

    def _owner(self, container: Container) -> tuple[str, str]:
        """Return the owner that a container counts for, and its namespace; on a host its user."""
        identity = self._node.identity(container)
        if identity is None:
            return container.owner, ""
        namespace = identity.pod.namespace or identity.pod.service_account
        return (
            f"{namespace}\n{identity.owner.name}" if identity.owner else container.owner,
            namespace,
        )


def _within(usages: Iterable[Usage], max_bytes: int) -> tuple[Usage, ...]:
    """Return as many as have room."""
    kept: list[Usage] = []
    for usage in usages:
        max_bytes -= len(msgspec.json.encode(usage))
        if max_bytes < 0:
            break
        kept.append(usage)
    return tuple(kept)


def open_recorder(
    config: Config, node: MonitoredNode, once: Once, now_s: Callable[[], float]
) -> Recorder:
    """Return a recorder that writes the journal, if one is configured."""
    folder = config.report.journal

    def log_error(error: OSError) -> None:
        once.warning(
            "the journal cannot be written: its lines are dropped until it can",
            about=str(error.errno),
            folder=folder,
            reason=error.strerror or str(error),
        )

    journal = Journal(JournalFiles(Path(folder)), log_error) if folder else None
    return Recorder(node, journal, config.interval, now_s)
