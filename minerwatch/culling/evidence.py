"""Evidence of an action, written before it: enough to review the decision.

Log and audit log have the text that rules matched, but no command lines. Those are only in the
files of the evidence folder, with secrets masked. A private rule appears by its id only. Everything
is bounded, since the tenant chooses names, arguments and numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from minerwatch.culling.actions import planned
from minerwatch.culling.context import Context
from minerwatch.culling.decision import Decision, decision_line
from minerwatch.culling.recorded_history import RecordedHistory
from minerwatch.culling.records import ActionRecord, Case, Moment
from minerwatch.detection.judge import signal_scores
from minerwatch.format import rfc3339
from minerwatch.model import (
    Connection,
    FactValue,
    Finding,
    Observation,
    ProcessId,
    ProcessLoad,
    public_finding,
)
from minerwatch.node.exe_digests import ExecutableHasher
from minerwatch.node.tcp_connections import SocketReader
from minerwatch.process_order import tree_order
from minerwatch.report.log import evidence_text
from minerwatch.untrusted_text.display import masked_command_line, printable, shortened, shown_name
from minerwatch.untrusted_text.redaction import redacted

MAX_PROCESSES = 200
MAX_FINDINGS = 50
_COMMAND_CHARS = 1024
_NAME_CHARS = 256
_MAX_DEPTH = 40
_MAX_LABELS = 32
_MAX_HASHED = 16
_MAX_EVIDENCE_BYTES = 512 << 10
_MAX_LOGGED_EVIDENCE_BYTES = 32 << 10
_SIZES = (MAX_PROCESSES, 50, 20, 5, 1)


class EvidenceWriter:
    """Keeps the evidence of each action before it is tried."""

    def __init__(self, context: Context, history: RecordedHistory, proc: Path) -> None:
        self._context = context
        self._history = history
        self._hasher = ExecutableHasher(str(proc))
        self._sockets = SocketReader(str(proc))

    def write(self, record: ActionRecord, case: Case, decision: Decision) -> bool:
        """Return True once the evidence is everywhere it has to be."""
        observation = self._context.monitor.observation(case.container.key, MAX_PROCESSES)
        if observation is None:
            return False
        encoded = self._encoder(case, observation, decision)
        evidence = encoded(_MAX_EVIDENCE_BYTES)
        logged = encoded(_MAX_LOGGED_EVIDENCE_BYTES)
        request = str(planned(decision, self._context.culling.quarantine_label))
        is_written = self._history.write(
            "action",
            record=record,
            decision=decision_line(case, decision),
            request=request,
            evidence=msgspec.Raw(evidence),
        )
        if not is_written:
            return False
        self._context.log.info(
            "action",
            node=record.node,
            namespace=shown_name(record.namespace),
            pod=shown_name(record.pod),
            owner=shown_name(redacted(record.owner)),
            action=record.action.value,
            dry_run=record.dry_run,
            record=record.id,
            request=printable(request, 1024),
            evidence=msgspec.json.decode(logged),
        )
        name = file_name(record.id, record.pod, record.unix_s)
        kept = encoded(_MAX_EVIDENCE_BYTES, command_lines=True)
        return self._history.save(name, msgspec.json.format(kept))

    def encoded(self, case: Case, decision: Decision) -> bytes | None:
        """Return the evidence against a container, for the audit log; None: it is gone."""
        observation = self._context.monitor.observation(case.container.key, MAX_PROCESSES)
        if observation is None:
            return None
        return self._encoder(case, observation, decision)(_MAX_EVIDENCE_BYTES)

    def _encoder(
        self, case: Case, observation: Observation, decision: Decision
    ) -> Callable[..., bytes]:
        found = [load.process.id for load in observation.processes]
        now = self._context.clock.now()
        digests = self._hasher.digests(_to_be_hashed(observation, found, decision))
        pids = [process.pid for process in found[:_MAX_HASHED]]
        connections = self._sockets.connections(pids, now.monotonic_s)

        def encoded(limit_bytes: int, *, command_lines: bool = False) -> bytes:
            evidence = b"{}"
            for most in _SIZES:
                evidence = msgspec.json.encode(
                    bundle(
                        case,
                        observation,
                        now,
                        culprits=decision.processes,
                        digests=digests,
                        connections=connections,
                        most=most,
                        command_lines=command_lines,
                    )
                )
                if len(evidence) <= limit_bytes:
                    break
            return evidence

        return encoded


def bundle(
    case: Case,
    observation: Observation,
    now: Moment,
    *,
    culprits: Sequence[ProcessId],
    digests: Mapping[ProcessId, str],
    connections: Mapping[int, Sequence[Connection]],
    most: int = MAX_PROCESSES,
    command_lines: bool = False,
) -> dict[str, object]:
    """Return the evidence as a JSON object, with at most ``most`` processes and connections.

    ``culprits``: targets of stop and kill; ``digests``: hashes of executables; ``connections``:
    remote ends by pid; ``command_lines``: include them, masked.
    """
    verdict, boot_unix_s = observation.verdict, now.unix_s - now.monotonic_s
    signals = sorted(signal_scores(verdict.findings).items())
    return {
        "verdict": {
            "score": verdict.score,
            "level": verdict.level.label,
            "since": rfc3339(boot_unix_s + verdict.since_s, milliseconds=True),
            "at": rfc3339(boot_unix_s + verdict.at_s, milliseconds=True),
            "signals": {signal.value: score for signal, score in signals},
        },
        "findings": [
            _finding(public_finding(each), boot_unix_s)
            for each in verdict.findings[: min(most, MAX_FINDINGS)]
        ],
        "container": {
            "cgroup": _name(observation.container.cgroup),
            "container_id": _name(observation.container.container_id),
            "runtime": observation.container.runtime,
            "cpu_cores": observation.cpu_cores,
            "cpu_hours": round(observation.cpu_s / 3600, 4),
            "process_count": observation.process_count,
        },
        "pod": _pod(case, most),
        "processes": [
            {**each, **({"command_line": _command(load)} if command_lines else {})}
            for each, load in _processes(observation.processes[:most], set(culprits), digests)
        ],
        "connections": [*_connections(connections, boot_unix_s)][:most],
    }


def file_name(record_id: str, pod: str, unix_s: float) -> str:
    """Return the file name of an action's evidence; names sort by time."""
    stamp = rfc3339(unix_s, milliseconds=True).replace("-", "").replace(":", "").replace(".", "")
    safe = "".join(char if char.isalnum() and char.isascii() else "-" for char in pod)[:100]
    unique = "".join(char for char in record_id if char.isalnum() and char.isascii())[-24:]
    return f"{stamp}-{safe.strip('-') or 'pod'}-{unique}.json"


def _finding(finding: Finding, boot_unix_s: float) -> dict[str, object]:
    return {
        "rule": _name(finding.rule),
        "title": _name(finding.title),
        "signal": finding.signal.value,
        "score": finding.score,
        "status": finding.maturity.value,
        "since": rfc3339(boot_unix_s + finding.since_s, milliseconds=True),
        "pid": finding.process.pid if finding.process else None,
        "evidence": [
            {
                "field": each.field,
                "observed": _value(each.observed),
                "expected": _value(each.expected),
            }
            for each in finding.evidence
        ],
    }


def _pod(case: Case, most: int) -> dict[str, object] | None:
    pod, owner = case.pod, case.owner
    if pod is None:
        return None
    judged = case.outermost.container_id
    return {
        "namespace": pod.namespace,
        "name": pod.name,
        "uid": pod.uid,
        "node": pod.node,
        "created": rfc3339(pod.created_unix_s, milliseconds=True),
        "owner": _name(owner.name) if owner else "",
        "owner_source": _name(owner.source) if owner else "",
        "owners": [
            {
                "kind": each.kind.value,
                "name": _name(each.name),
                "source": _name(each.source),
                "claimed": each.is_claim,
            }
            for each in case.owners[:most]
        ],
        "service_account": _name(pod.service_account),
        "owner_references": [_name(f"{each.kind}/{each.name}") for each in pod.owners[:most]],
        "labels": {
            _name(key): _name(value)
            for key, value in [*pod.labels.items()][: min(most, _MAX_LABELS)]
        },
        "images": [
            {"name": each.name, "image": _name(each.image), "digest": each.image_digest}
            for each in sorted(pod.containers, key=lambda one: one.container_id != judged)[:most]
        ],
    }


def _processes(
    loads: Sequence[ProcessLoad], culprits: set[ProcessId], digests: Mapping[ProcessId, str]
) -> Iterator[tuple[dict[str, object], ProcessLoad]]:
    for load, path in tree_order(
        loads, lambda each: (each.process.id.pid, each.process.parent_pid), _MAX_DEPTH
    ):
        process = load.process
        digest = digests.get(process.id, "")
        facts: dict[str, object] = {
            "pid": process.id.pid,
            "start_ticks": process.id.start_ticks,
            "parent_pid": process.parent_pid,
            "depth": len(path),
            "culprit": process.id in culprits,
            "comm": _name(process.comm),
            "image": _name(process.image),
            "sha256": None if digest.startswith("-") or not digest else digest,
            **({"no_sha256": digest[2:]} if digest.startswith("- ") else {}),
            "exe_deleted": process.exe_deleted,
            "exe_in_memory": process.exe_in_memory,
            "command_line_hidden": process.command_line_hidden,
            "user": _name(process.user),
            "cpu_cores": load.cpu_cores,
        }
        yield facts, load


def _connections(
    connections: Mapping[int, Sequence[Connection]], boot_unix_s: float
) -> Iterator[dict[str, object]]:
    for pid, each_of in sorted(connections.items()):
        for each in each_of:
            yield {
                "pid": pid,
                "address": each.address,
                "port": each.port,
                "seen_since": rfc3339(boot_unix_s + each.since_s, milliseconds=True),
            }


def _command(load: ProcessLoad) -> str:
    line = masked_command_line(load.process.command_line)
    return printable(shortened(line, _COMMAND_CHARS))


def _name(text: str) -> str:
    return printable(shortened(redacted(text), _NAME_CHARS))


def _value(value: FactValue) -> FactValue:
    return evidence_text(value) if isinstance(value, str) else value


def _to_be_hashed(
    observation: Observation, found: list[ProcessId], decision: Decision
) -> list[ProcessId]:
    """Return the processes to act on, then those with findings."""
    suspects = {finding.process for finding in observation.verdict.findings}
    ranked = (*decision.processes, *(process for process in found if process in suspects))
    return [*dict.fromkeys(ranked)][:_MAX_HASHED]
