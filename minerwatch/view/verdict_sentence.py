"""A verdict as one sentence, to be pasted into a chat or a ticket: it holds no command line."""

from __future__ import annotations

from minerwatch.api.types import ContainerStatus
from minerwatch.format import one_decimal
from minerwatch.untrusted_text.display import printable, shown_name
from minerwatch.untrusted_text.redaction import redacted
from minerwatch.view.columns import reasons
from minerwatch.view.selection import abuse_of, full_name


def sentence_of(status: ContainerStatus) -> str:
    """Return name, node, level, kind of abuse, since when, reasons, cores and owner."""
    abuse = abuse_of(status)
    abuse = f" as {printable(abuse, 16)}" if abuse else ""
    name, node = shown_name(full_name(status)), shown_name(status.node)
    verdict = f"{printable(status.level, 16)}{abuse}, score {one_decimal(status.score)}"
    parts = (
        f"{name} on node {node} is {verdict}, since {printable(status.since, 32)}",
        reasons(status) or "no finding",
        f"{status.cpu_cores:.2f} cores",
        f"owner {shown_name(redacted(status.owner))}" if status.owner else "",
    )
    return "; ".join(filter(None, parts)) + "."
