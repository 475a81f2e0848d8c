"""The lines of the audit log, as they are written and read."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from minerwatch.cull import ActionRecord


class DecisionLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the policy said about a container; written when it says something else than before."""

    namespace: str
    pod: str
    container: str
    pod_uid: str
    owner: str
    score: float
    level: str
    proposed: str
    acts: bool
    dry_run: bool
    rung: int
    by_hand: bool = False
    reasons: tuple[str, ...] = ()


NO_EVIDENCE = msgspec.Raw(b"null")


class AuditLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line. ``kind`` is start, record, decision, action (before it), outcome, or release."""

    kind: str
    at: str  # RFC 3339 in UTC
    node: str = ""
    record: ActionRecord | None = None
    decision: DecisionLine | None = None
    request: str = ""  # what is sent, word for word
    message: str = ""  # what came of it
    evidence: msgspec.Raw = NO_EVIDENCE


def rfc3339(unix_s: float) -> str:
    """``unix_s`` as the log spells it; a clock that is out of all bounds is no reason to fail."""
    try:
        moment = datetime.fromtimestamp(unix_s, UTC)
    except (ValueError, OverflowError, OSError):
        moment = datetime.fromtimestamp(0, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
