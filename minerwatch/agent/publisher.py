"""Publishes what ticks find: metrics, log lines, Events on pods, the since-file, culling."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

from minerwatch.agent.detection_delay import DetectionDelays
from minerwatch.agent.parts import Parts
from minerwatch.agent.tick import TickSummary
from minerwatch.api.types import ContainerStatus
from minerwatch.culling.records import ActionRecord
from minerwatch.format import rfc3339
from minerwatch.model import Change, Finding, Observation
from minerwatch.report.gpu_metrics import GpuFigures
from minerwatch.report.log import LogLimit, verdict_line
from minerwatch.report.messages import ACTION, Notice
from minerwatch.report.metrics import OWNER_LABELS, FlaggedContainer
from minerwatch.untrusted_text.display import printable, shown_name
from minerwatch.untrusted_text.redaction import redacted
from minerwatch.worker import revive_all

_MAX_PROCESSES = 10  # of which a message has command lines; those with findings come first


class Publisher:
    """Publishes ticks and what is found between them."""

    def __init__(
        self, parts: Parts, log_limit: LogLimit, on_finding: Callable[[Finding], None]
    ) -> None:
        self._parts = parts
        self._telemetry = parts.telemetry
        self._log_limit = log_limit
        self._on_finding = on_finding
        self._delays = DetectionDelays(
            parts.node.identity,
            parts.state.started_s,
            parts.now_s,
            parts.telemetry.metrics.detected,
        )

    def publish_tick(self, summary: TickSummary, duration_s: float) -> None:
        """Publish the findings and figures of one tick."""
        self.publish_findings(summary.changes, summary.began)
        for ended in summary.ended:
            self._publish_verdict(ended, ended.verdict.level.label, "gone")
            self._parts.notifier.forget(ended.container.key)
            self._delays.forget(ended.container.key)
        self._parts.recorder.record_tick(summary)
        self._publish_figures(summary, duration_s)
        self._publish_text_bounds(summary)
        if self._parts.cluster is not None:
            self._parts.cluster.announce(summary.flagged)
            spot = self._parts.cluster.blind_spot(summary.unmapped_count)
            if spot:
                self._telemetry.once.warning("cannot see everything", about=spot, reason=spot)
            self._telemetry.metrics.pods_synced(self._parts.cluster.synced_unix_s or 0.0)
        self._notify(summary.flagged)
        self._parts.culling.consider(summary.flagged)
        self._update_since_file(summary.flagged)

    def publish_findings(self, changes: Sequence[Change], began: Iterable[Finding]) -> None:
        """Publish changed verdicts and new findings."""
        metrics = self._telemetry.metrics
        for change in changes:
            level = change.observation.verdict.level
            metrics.level_changed(level)
            delay_s = self._delays.of(change)
            self._publish_verdict(change.observation, change.previous.label, level.label, delay_s)
        for finding in began:
            metrics.finding_began(finding.rule, finding.signal)
            self._on_finding(finding)
        if self._parts.cluster is not None:
            self._parts.cluster.announce(change.observation for change in changes)
        self._notify(change.observation for change in changes)

    def publish_workers(self) -> None:
        """Publish the state of the agent's threads; dead ones are started again."""
        metrics, once = self._telemetry.metrics, self._telemetry.once
        for state in revive_all():
            is_up = state.down_s == 0.0
            metrics.worker_is(state.name, is_up=is_up)
            if any(each.name == state.name and not each.off for each in self._parts.node.probes):
                metrics.probe_opened(state.name, is_on=is_up)
            if state.last_error is not None:
                once.failure(f"{state.name} failed", state.last_error)

    def _publish_figures(self, summary: TickSummary, duration_s: float) -> None:
        metrics, cluster = self._telemetry.metrics, self._parts.cluster
        for container, level, cpu_s in summary.flagged_cpu_s:
            metrics.flagged_cpu(self._parts.node.namespace_of(container), level, cpu_s)
        gpus = summary.gpus
        for container, level, gpu_s, joules in gpus.flagged:
            metrics.flagged_gpu(self._parts.node.namespace_of(container), level, gpu_s, joules)
        metrics.gpus_seen(GpuFigures(gpus.sources, gpus.attributions, gpus.unrequested))
        for probe, probe_s in summary.probe_s.items():
            metrics.probe_took(probe, probe_s)
        metrics.tick_done(
            duration_s=duration_s,
            at_s=time.time(),
            containers=dict(summary.levels),
            flagged=[
                self._flagged(each)
                for each in summary.flagged
                if cluster is None or cluster.may_announce(each.container)
            ],
            processes=summary.process_count,
            unmapped=summary.unmapped_count if cluster is not None else 0,
            over_bound=summary.over_bound_count,
        )

    def _publish_text_bounds(self, summary: TickSummary) -> None:
        self._telemetry.metrics.text_kept(summary.text_bytes, summary.shortened_texts)
        for container in summary.shortened:
            self._telemetry.once.warning(
                "its processes have more text than is kept",
                about=str(hash(container.key)),  # a path may be long
                cgroup=printable(container.cgroup, 512),
            )

    def _update_since_file(self, flagged: Iterable[Observation]) -> None:
        if self._parts.node.since is None:
            return
        try:
            if self._parts.culling.is_forgotten:  # the file lies beside the audit log
                self._parts.node.since.forget()
                self._parts.recorder.forget()
                return
            self._parts.node.since.record((each.verdict for each in flagged), self._parts.now_s())
        except OSError as error:
            self._telemetry.once.warning(
                "levels cannot be saved: a restart forgets since when they hold",
                about="since",
                reason=str(error),
            )

    def _publish_verdict(
        self, observation: Observation, previous: str, level: str, delay_s: float | None = None
    ) -> None:
        """Journal and log a change of verdict, with the number of lines dropped before it."""
        self._parts.recorder.record_verdict(observation, previous, level, delay_s)
        container = observation.container
        namespace = self._parts.node.namespace_of(container)
        key = f"{container.cgroup} {container.cgroup_inode}"
        left_out = self._log_limit.lines_before(key, namespace, level, self._parts.now_s())
        if left_out is None:
            return
        line = {
            **verdict_line(self._parts.node.status(observation, public=True), previous),
            "level": level,
        }
        self._telemetry.log.info("verdict", **line, **({"left_out": left_out} if left_out else {}))

    def _notify(self, observations: Iterable[Observation]) -> None:
        """Queue messages about containers whose names are known, or were waited for."""
        node, cluster = self._parts.node, self._parts.cluster
        for each in observations if self._parts.notifier.receivers else ():
            if cluster is None or cluster.may_announce(each.container):
                namespace = node.namespace_of(each.container)
                status = partial(self._status_for_people, each)
                self._parts.notifier.announce(each.verdict, namespace, status)

    def _status_for_people(self, observation: Observation) -> ContainerStatus:
        node = self._parts.node
        if self._parts.notifier.shows_command_lines:
            key = observation.container.key
            if (found := node.watch.observation(key, _MAX_PROCESSES)) is not None:
                observation = replace(observation, processes=found.processes)
        return node.status(observation, public=True)

    def _flagged(self, observation: Observation) -> FlaggedContainer:
        status = self._parts.node.status(observation)
        shown = OWNER_LABELS if self._parts.state.config.metrics.owners else OWNER_LABELS[:3]
        return FlaggedContainer(
            status.namespace,
            status.pod,
            status.container,
            status.score,
            status.cpu_cores,
            _signals(status),
            status.abuses,
            round(time.time() - self._parts.now_s() + observation.verdict.since_s),
            owner_labels(status, shown),
            status.gpu.busy if status.gpu else None,
        )


def _signals(status: ContainerStatus) -> dict[tuple[str, str], float]:
    """Return the score of each signal, by kind of abuse."""
    signals = {(status.abuse, signal): score for signal, score in status.signals.items()}
    for each in status.findings:
        if each.abuse != status.abuse:
            key = each.abuse, each.signal
            signals[key] = max(each.score, signals.get(key, 0.0))
    return signals


def owner_labels(status: ContainerStatus, shown: Iterable[str]) -> dict[str, str]:
    """Return one name of each kind in ``shown``, without secrets; a claim if there is no other.

    A repository that is not named is the one that an image is built from.
    """
    ranked = sorted(status.owners, key=lambda each: each.claimed, reverse=True)
    names = {each.kind: redacted(str(each)) for each in ranked}
    if "build" in names:
        names.setdefault("repository", names["build"])
    return {kind: names[kind] for kind in shown if kind in names}


def action_notice(record: ActionRecord) -> Notice:
    """Return the message about an action that has ended."""
    return Notice(
        at=rfc3339(record.unix_s),
        event=ACTION,
        node=shown_name(record.node),
        namespace=shown_name(record.namespace),
        pod=shown_name(record.pod),
        container="",
        owner=shown_name(redacted(record.owner)),
        owner_claimed=record.owner_claimed,
        abuse=record.abuse,
        action=str(record.action),
        outcome="dry run" if record.dry_run else str(record.outcome),
    )
