"""Mask a container for pages without the token: they show programs, shares and scores.

Hidden are command lines, users, connections, texts in evidence that a tenant wrote, and what
private rules look for; names of owners are redacted.
"""

from __future__ import annotations

from msgspec import structs

from minerwatch.api.types import ContainerStatus, FindingStatus, ProcessStatus
from minerwatch.kinds import OwnerKind
from minerwatch.untrusted_text.redaction import redacted

HIDDEN = "(hidden)"

_SHOWN_TEXT = frozenset(
    (
        *("Comm", "Image", "ParentImage", "ContentMatches", "ContentInHotCode", "CodeFingerprints"),
        *("ContainerImage", "ContainerName", "PodName", "PodNamespace"),
    )
)
"""Fields whose text is shown; numbers always are."""


def masked(status: ContainerStatus) -> ContainerStatus:
    """Return the container without arguments, and without what private rules look for."""
    return structs.replace(
        status,
        owner=redacted(status.owner),
        owners=tuple(
            structs.replace(each, name=redacted(each.name))
            for each in status.owners
            if each.kind != OwnerKind.CLIENT.value
        ),
        findings=tuple(map(_finding, status.findings)),
        processes=tuple(map(_process, status.processes)),
    )


def _finding(finding: FindingStatus) -> FindingStatus:
    if finding.private:
        title = f"private rule {finding.rule}"
        return structs.replace(finding, title=title, evidence={}, expected={}, filters=())
    evidence = {
        name: HIDDEN if isinstance(value, str) and name not in _SHOWN_TEXT else value
        for name, value in finding.evidence.items()
    }
    return structs.replace(finding, evidence=evidence)


def _process(process: ProcessStatus) -> ProcessStatus:
    return structs.replace(process, command_line=HIDDEN, user="", connections=())
