"""Observations -> the containers of a snapshot, as the agent publishes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import itemgetter

import msgspec

from minerwatch.api.types import (
    ConnectionStatus,
    ContainerStatus,
    FindingStatus,
    GpuStatus,
    OwnerStatus,
    ProcessStatus,
)
from minerwatch.detection.judge import (
    of_foremost_process,
    of_worst_abuse,
    scores_by_abuse,
    signal_scores,
)
from minerwatch.format import rfc3339
from minerwatch.kinds import ContainerKind
from minerwatch.model import Facts, Finding, Identity, Observation, Pod, ProcessLoad, public_finding
from minerwatch.untrusted_text.display import masked_command_line, shortened
from minerwatch.untrusted_text.redaction import redacted

MAX_COMMAND_LINE_LENGTH = 4096


def container_status(
    observation: Observation,
    *,
    node: str,
    boot_unix_s: float,
    identity: Identity | None = None,
    unmasked: bool = False,
    public: bool = False,
) -> ContainerStatus:
    """Return ``observation`` as it is published; ``boot_unix_s`` is the Unix time of the boot.

    ``identity`` has pod and owner, where a cluster knows them. With ``unmasked``, secrets in
    command lines are kept; with ``public``, private rules are hidden.
    """
    container, verdict = observation.container, observation.verdict
    counted = {id(each) for each in _counted(observation)}
    findings = (
        _finding_status(
            public_finding(each) if public else each, boot_unix_s, is_counted=id(each) in counted
        )
        for each in verdict.findings
    )
    pod = identity.pod if identity and identity.pod.namespace else None  # None on a host, too
    return ContainerStatus(
        node=node,
        namespace=pod.namespace if pod else "",
        pod=pod.name if pod else "",
        container=identity.container if identity else _name(observation),
        container_id=container.container_id,
        kind=container.kind.value,
        runtime=container.runtime,
        image=identity.image if identity else "",
        cgroup=container.cgroup,
        pod_uid=container.pod_uid,
        cpu_cores=round(observation.cpu_cores or 0.0, 3),
        cpu_limit_cores=observation.limit.cores if observation.limit else None,
        throttled_share=observation.throttled_share,
        cpu_hours=round(observation.cpu_s / 3600, 4),
        score=verdict.score,
        level=verdict.level.label,
        since=rfc3339(boot_unix_s + verdict.since_s),
        signals=_signals(observation),
        owner=identity.owner.name if identity and identity.owner else "",
        process_count=observation.process_count,
        findings=tuple(findings),
        processes=tuple(
            _process_status(load, boot_unix_s, unmasked=unmasked) for load in observation.processes
        ),
        started=rfc3339(pod.created_unix_s) if pod and pod.created_unix_s else "",
        abuse=next((each.abuse.value for each in _counted(observation)), ""),
        executed=_numbers(observation.executed),
        labels=_labels(identity.pod) if identity and not pod else {},
        abuses=_abuses(observation),
        owners=tuple(
            OwnerStatus(each.source, each.name, each.kind.value, each.is_claim)
            for each in (identity.owners if identity else ())
        ),
        gpu=_gpu(observation.gpu) if observation.gpu else None,
        uses_host_network=observation.uses_host_network,
    )


def worst_first(statuses: Iterable[ContainerStatus]) -> Sequence[ContainerStatus]:
    """Sort by score, then by CPU usage."""
    return sorted(statuses, key=_rank)


def encoded_worst_first(statuses: Iterable[ContainerStatus]) -> bytes:
    """Return the JSON of all, sorted as by ``worst_first``; encode one status at a time.

    The statuses of a full node together take some MiB, which would stay in the interpreter's heap;
    one large buffer goes back to the kernel.
    """
    encoder, buffer, ranked = msgspec.json.Encoder(), bytearray(), []
    for each in statuses:
        start = len(buffer)
        encoder.encode_into(each, buffer, start)
        ranked.append((_rank(each), slice(start, len(buffer))))
    ranked.sort(key=itemgetter(0))
    with memoryview(buffer) as encoded:
        return b"[%b]" % b",".join(encoded[span] for _, span in ranked)


def _rank(status: ContainerStatus) -> tuple[float, float, str]:
    return -status.score, -status.cpu_cores, status.cgroup


def _signals(observation: Observation) -> dict[str, float]:
    scores = signal_scores(_counted(observation))
    return {signal.value: score for signal, score in sorted(scores.items())}


def _abuses(observation: Observation) -> dict[str, float]:
    is_host = observation.container.kind is ContainerKind.HOST
    scores = scores_by_abuse(observation.verdict.findings, apart=is_host)
    return {abuse.value: score for abuse, score in scores.items()}


def _counted(observation: Observation) -> list[Finding]:
    """Return the findings that the score is of."""
    findings: Iterable[Finding] = observation.verdict.findings
    if observation.container.kind is ContainerKind.HOST:
        findings = of_foremost_process(findings)
    return of_worst_abuse(findings)


def _name(observation: Observation) -> str:
    container = observation.container
    if container.kind in (ContainerKind.UNIT, ContainerKind.HOST):
        return container.container_id
    return container.container_id[:12]


def _labels(pod: Pod) -> dict[str, str]:
    """Return the labels of an engine's container; values under a telling key are masked."""
    return {key: redacted(f"{key}={value}").partition("=")[2] for key, value in pod.labels.items()}


def _finding_status(finding: Finding, boot_unix_s: float, *, is_counted: bool) -> FindingStatus:
    return FindingStatus(
        rule=finding.rule,
        title=finding.title,
        signal=finding.signal.value,
        score=finding.score,
        status=finding.maturity.value,
        since=rfc3339(boot_unix_s + finding.since_s),
        pid=finding.process.pid if finding.process else None,
        evidence=_observed(finding),
        expected=_expected(finding),
        private=finding.private,
        words_only=finding.words_only,
        abuse=finding.abuse.value,
        filters=finding.filters,
        counted=is_counted,
    )


def _observed(finding: Finding) -> dict[str, str | bool | int | float]:
    """Map each field to the values that matched; of a text, to its matching words."""
    observed: dict[str, str | bool | int | float] = {}
    for each in finding.evidence:
        before = observed.get(each.field)
        is_more = isinstance(before, str) and isinstance(each.observed, str)
        if is_more and str(each.observed) in str(before):
            continue
        observed[each.field] = f"{before} … {each.observed}" if is_more else each.observed
    return observed


def _expected(finding: Finding) -> dict[str, str]:
    """Map each field to all that rules expected of it and found."""
    expected: dict[str, str] = {}
    for evidence in finding.evidence:
        before = expected.get(evidence.field)
        expected[evidence.field] = f"{before}; {evidence.expected}" if before else evidence.expected
    return expected


def _process_status(load: ProcessLoad, boot_unix_s: float, *, unmasked: bool) -> ProcessStatus:
    process = load.process
    line = process.command_line if unmasked else masked_command_line(process.command_line)
    gpu = _numbers(load.gpu)
    return ProcessStatus(
        pid=process.id.pid,
        parent_pid=process.parent_pid,
        comm=process.comm,
        command_line=shortened(line, MAX_COMMAND_LINE_LENGTH),
        image=process.image,
        user=process.user,
        cpu_cores=None if load.cpu_cores is None else round(load.cpu_cores, 3),
        connections=tuple(
            ConnectionStatus(each.address, each.port, rfc3339(boot_unix_s + each.since_s))
            for each in load.connections
        ),
        executed=_numbers(load.executed),
        cpu_seconds=None if load.cpu_s is None else round(load.cpu_s, 2),
        memory_bytes=load.memory_bytes,
        threads=load.threads,
        gpus=gpu.get("GpuBusy"),
        gpu_memory_bytes=_bytes(gpu.get("GpuMemoryMiB")),
    )


def _gpu(facts: Facts) -> GpuStatus:
    numbers = _numbers(facts)
    requested = facts.get("GpuRequested")
    return GpuStatus(
        busy=numbers.get("ContainerGpuBusy"),
        limit=numbers.get("ContainerGpuLimit"),
        requested=requested if isinstance(requested, bool) else None,
        hours=numbers.get("ContainerGpuHours", 0.0),
        devices=int(numbers.get("ContainerGpuDevices", 0)),
        memory_bytes=_bytes(numbers.get("ContainerGpuMemoryMiB")),
        energy_joules=numbers.get("ContainerGpuJoules"),
    )


def _bytes(mib: float | None) -> int | None:
    return None if mib is None else int(mib * (1 << 20))


def _numbers(facts: Facts) -> dict[str, float]:
    return {
        name: round(value, 4) for name, value in facts.items() if isinstance(value, int | float)
    }
