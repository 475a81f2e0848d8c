"""The history of actions, recorded in the audit log and restored from it.

Any thread may read; only the culling thread changes the history. A written line is on the disk
before the call returns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence

import msgspec

from minerwatch.api.orders import HoursOrder
from minerwatch.culling import audit_log
from minerwatch.culling.audit_log import AuditError, AuditLog
from minerwatch.culling.context import Context
from minerwatch.culling.decision import Decision, decision_line
from minerwatch.culling.history import History
from minerwatch.culling.policy import decide
from minerwatch.culling.records import (
    HOUR_S,
    NO_EVIDENCE,
    ActionRecord,
    AuditLine,
    Case,
    DecisionLine,
)
from minerwatch.format import rfc3339
from minerwatch.model import ContainerKey, Outcome
from minerwatch.untrusted_text.display import printable, shown_name

MAX_LINES = 5000  # returned at once, the newest
_NOT_READ = "the audit log has not been read yet"
_FORGOTTEN = "the audit log was removed by `release --all --forget`: restart the agent"
_DAMAGED = (
    "{}: this line is damaged, {} in all, so earlier actions are unknown; move the file away: then"
    " nothing is done for an hour"
)
_SHOWN_KINDS = ("decision", "action", "outcome", "release")
_MIN_BETWEEN_DECISIONS_S = 60.0
_MAX_DECISIONS_PER_HOUR = 240
_EXPECTED = (Outcome.DONE, Outcome.DRY_RUN, Outcome.WITHDRAWN)


class RecordedHistory:
    """The history of the node's actions, and the audit log that it is restored from."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._node = context.agent.node
        self._audit = AuditLog(context.culling.audit, self._go_on)
        self._read_error = _NOT_READ  # why the previous log could not be read; "": it was read
        self.is_forgotten = False
        """True once the log was removed."""
        self._unread_stamps: object = None  # of the log that could not be read
        self._logged = ""  # the trouble that was logged last
        self.past = History.started(self._node, context.clock.now())

    @property
    def trouble(self) -> str:
        """Return the reason why the log cannot be read or written; "": it can."""
        return self._read_error or self._audit.trouble

    def make_ready(self) -> None:
        """Read the log if that has not succeeded yet; else write the queued lines."""
        if self.is_forgotten:
            return
        if self._read_error:
            stamps = audit_log.stamps(self._audit.path)
            if stamps != self._unread_stamps:  # else it would fail for the same reason
                self._unread_stamps = stamps
                self._load()
        if not self._read_error:
            self._audit.retry()
        if self.trouble and self.trouble != self._logged:
            self._logged = self.trouble
            done = "read" if self._read_error else "written"
            self._context.log.error(f"the audit log cannot be {done}", reason=self._logged)

    def forget(self) -> None:
        """Remove the log and its evidence, and write nothing from then on. Raises AuditError."""
        self.is_forgotten = True
        self._read_error = _FORGOTTEN
        self._audit.remove()

    def close(self) -> None:
        """Close the files."""
        self._audit.close()

    def decide(self, case: Case) -> Decision:
        """Return the policy's decision now."""
        return decide(case, self._context.culling, self.past, self._context.clock.now())

    # Writes.

    def begin(self, decision: Decision) -> ActionRecord:
        """Add and return the pending record of an action; it is not written yet."""
        return self.past.begin(decision, self._context.clock.now())

    def finish(self, record: ActionRecord, outcome: Outcome, message: str) -> ActionRecord:
        """Add, write and log the outcome; return the record with it."""
        finished = self.past.finish(record.id, outcome)
        ended = finished or msgspec.structs.replace(record, outcome=outcome)
        self._end(ended, message)
        return ended

    def release(self, decision: Decision) -> ActionRecord:
        """Record that the pod of ``decision`` is released."""
        record = self.past.release(decision, self._context.clock.now())
        self.write("release", record=record)
        return record

    def release_again(self, earlier: ActionRecord) -> ActionRecord:
        """Record that the pod of an ``earlier`` action is released."""
        if self.past.is_released(earlier.pod_uid):
            return earlier
        record = self.past.release_again(earlier, self._context.clock.now())
        self.write("release", record=record)
        return record

    def write(
        self,
        kind: str,
        *,
        record: ActionRecord | None = None,
        decision: DecisionLine | None = None,
        request: str = "",
        message: str = "",
        evidence: msgspec.Raw = NO_EVIDENCE,
        bans: Sequence[dict[str, object]] = (),
    ) -> bool:
        """Append a line; return True if it is on the disk now."""
        if self.is_forgotten:
            return False
        line = AuditLine(
            kind=kind,
            at=rfc3339(self._context.clock.now().unix_s, milliseconds=True),
            node=self._node,
            record=record,
            decision=decision,
            request=request,
            message=printable(message, 1024),
            evidence=evidence,
            bans=tuple(bans),
        )
        return self._audit.write(line)

    def save(self, name: str, evidence: bytes) -> bool:
        """Write ``evidence`` to a file, if configured; return False if that fails."""
        return self._audit.save(name, evidence)

    def lines_since(self, order: HoursOrder) -> tuple[AuditLine, ...]:
        """Return the log's lines of the last hours, without evidence. Raises AuditError."""
        since = rfc3339(self._context.clock.now().unix_s - order.hours * HOUR_S, milliseconds=True)
        written = audit_log.read(
            self._audit.path, lambda line: line.kind in _SHOWN_KINDS and line.at >= since
        )
        return written.lines[-MAX_LINES:]

    def _load(self) -> None:
        """Restore the history; a pending action of an earlier agent may have happened."""
        now = self._context.clock.now()
        try:
            written = audit_log.read(self._audit.path, lambda line: line.record is not None)
        except AuditError as error:
            self._read_error = str(error)
            return
        if written.damaged:
            self._read_error = _DAMAGED.format(written.damaged[0], len(written.damaged))
            return
        records = [line.record for line in written.lines if line.record is not None]
        is_new = not records
        restored = History.restored(records, now)
        self.past = History.started(self._node, now) if is_new else restored
        remembered = {record.id: record for record in self.past.records()}
        self._read_error = ""
        if is_new:
            self.write("start", record=next(iter(remembered.values())))
        if written.torn:
            self._context.log.warning("the audit log's last line was incomplete and is cut off")
        last = {record.id: record for record in records}
        for record in last.values():
            if record.outcome is Outcome.PENDING and record.id in remembered:
                self._end(remembered[record.id], "the agent stopped before the outcome was known")

    def _end(self, record: ActionRecord, message: str) -> None:
        self.write("outcome", record=record, message=message)
        self._context.callbacks.on_outcome(record)
        log = self._context.log
        write = log.info if record.outcome in _EXPECTED else log.warning
        write(
            "action ended",
            node=record.node,
            namespace=shown_name(record.namespace),
            pod=shown_name(record.pod),
            action=record.action.value,
            outcome=record.outcome.value,
            record=record.id,
            **({"message": printable(message, 512)} if message else {}),
        )

    def _go_on(self) -> list[AuditLine]:
        """Return the first lines of a new file: how far back it reaches, and all records."""
        now = self._context.clock.now()
        records = (self.past.anchor(self._node, now), *self.past.records())
        at = rfc3339(now.unix_s, milliseconds=True)
        return [AuditLine(audit_log.GOES_ON, at, self._node, record=record) for record in records]


class DecisionLog:
    """Writes decisions that differ from the one before to both logs. For one thread."""

    def __init__(self, context: Context, history: RecordedHistory) -> None:
        self._context = context
        self._history = history
        self._last: dict[ContainerKey, tuple[tuple[object, ...], float]] = {}  # and when
        self._lines_at_s: deque[float] = deque(maxlen=_MAX_DECISIONS_PER_HOUR)

    def record(self, case: Case, decision: Decision) -> None:
        """Write the decision if it differs from the last one, unless that was a moment ago."""
        key, content = decision.container, (decision.proposed, decision.dry_run, decision.reasons)
        lines, last = self._lines_at_s, self._last.get(key)
        now_s = self._context.clock.now().monotonic_s
        if last is not None and (last[0] == content or now_s - last[1] < _MIN_BETWEEN_DECISIONS_S):
            return
        if len(lines) == lines.maxlen and now_s - lines[0] < HOUR_S:
            return
        lines.append(now_s)
        self._last[key] = (content, now_s)
        self.write(case, decision)

    def write(self, case: Case, decision: Decision) -> None:
        """Write the decision to both logs."""
        line = decision_line(case, decision)
        if not self._history.trouble:
            self._history.write("decision", decision=line)
        self._context.log.info(
            "decision", node=self._context.agent.node, **msgspec.structs.asdict(line)
        )

    def retain(self, keys: Collection[ContainerKey]) -> None:
        """Forget the decisions about all other containers."""
        self._last = {key: last for key, last in self._last.items() if key in keys}
