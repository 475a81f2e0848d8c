"""Write the evidence of an action to the audit log, the log and the evidence folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from minerwatch.culling.context import Context
from minerwatch.culling.decision import Decision
from minerwatch.culling.evidence import MAX_PROCESSES, bundle, file_name
from minerwatch.culling.journal import Journal
from minerwatch.culling.pod_actions import planned
from minerwatch.culling.records import ActionRecord, Case, DecisionLine
from minerwatch.model import Observation, ProcessId
from minerwatch.node.exe_digests import ExecutableHasher
from minerwatch.node.tcp_connections import SocketReader
from minerwatch.untrusted_text.display import printable

_MAX_HASHED = 16
_MAX_EVIDENCE_BYTES = 512 << 10
_MAX_LOGGED_EVIDENCE_BYTES = 32 << 10
_SIZES = (MAX_PROCESSES, 50, 20, 5, 1)


class EvidenceWriter:
    """Keeps the evidence of each action before it is tried."""

    def __init__(self, context: Context, journal: Journal, proc: Path) -> None:
        self._context = context
        self._journal = journal
        self._hasher = ExecutableHasher(str(proc))
        self._sockets = SocketReader(str(proc))

    def write(
        self, record: ActionRecord, case: Case, decision: Decision, line: DecisionLine
    ) -> bool:
        """Return True once the evidence is everywhere it has to be."""
        observation = self._context.monitor.observation(case.container.key, MAX_PROCESSES)
        if observation is None:
            return False
        encoded = self._encoder(case, observation, decision)
        evidence = encoded(_MAX_EVIDENCE_BYTES)
        logged = encoded(_MAX_LOGGED_EVIDENCE_BYTES)
        request = str(planned(decision, self._context.live.culling.quarantine_label))
        raw = msgspec.Raw(evidence)
        if not self._journal.write(
            "action", record=record, decision=line, request=request, evidence=raw
        ):
            return False
        self._context.log.info(
            "action",
            node=record.node,
            namespace=printable(record.namespace, 256),
            pod=printable(record.pod, 256),
            owner=printable(record.owner, 256),
            action=record.action.value,
            dry_run=record.dry_run,
            record=record.id,
            request=printable(request, 1024),
            evidence=msgspec.json.decode(logged),
        )
        name = file_name(record.id, record.pod, record.unix_s)
        kept = encoded(_MAX_EVIDENCE_BYTES, command_lines=True)
        return self._journal.save(name, msgspec.json.format(kept))

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


def _to_be_hashed(
    observation: Observation, found: list[ProcessId], decision: Decision
) -> list[ProcessId]:
    """Return the processes to act on, then those with findings."""
    suspects = {finding.process for finding in observation.verdict.findings}
    ranked = (*decision.processes, *(process for process in found if process in suspects))
    return [*dict.fromkeys(ranked)][:_MAX_HASHED]
