"""A verdict as one sentence, to be pasted into a chat or a ticket: it holds no command line."""

from __future__ import annotations

from minerwatch.api.types import ContainerStatus
from minerwatch.format import one_decimal
from minerwatch.untrusted_text.display import printable
from minerwatch.untrusted_text.redaction import redacted
from minerwatch.view.columns import reasons
from minerwatch.view.selection import abuse_of, full_name

_NAME_LENGTH = 256


def sentence_of(status: ContainerStatus) -> str:
    """Return name, node, level, kind of abuse, since when, reasons, cores and owner."""
    abuse = abuse_of(status)
    abuse = f" as {printable(abuse, 16)}" if abuse else ""
    name, node = printable(full_name(status), _NAME_LENGTH), printable(status.node, _NAME_LENGTH)
    verdict = f"{printable(status.level, 16)}{abuse}, score {one_decimal(status.score)}"
    parts = (
        f"{name} on node {node} is {verdict}, since {printable(status.since, 32)}",
        reasons(status) or "no finding",
        f"{status.cpu_cores:.2f} cores",
        f"owner {printable(redacted(status.owner), _NAME_LENGTH)}" if status.owner else "",
    )
    return "; ".join(filter(None, parts)) + "."
