"""Messages to people and to other systems: what is said of a container, in each format. Pure.

Slack and Mattermost: ``text`` of an incoming webhook, in which ``&<>`` are escaped; names stand in
code spans, where nothing in them mentions anybody. Teams: an adaptive card, as its Workflows take
it. Falco: its JSON output, one event a request, as Falcosidekick takes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from minerwatch.api.types import ContainerStatus
from minerwatch.format import counted, one_decimal
from minerwatch.model import Level, MessageFormat
from minerwatch.untrusted_text.display import masked_command_line, printable
from minerwatch.untrusted_text.redaction import redacted

SCHEMA_VERSION = 1
_MAX_NAME = 256
_MAX_TITLES = 3
_MAX_TITLE = 120
_MAX_LINES = 20  # of one message for people; the rest is counted
_MAX_COMMAND_LINES = 3
_MAX_COMMAND_LINE = 300
_PRIORITIES: Mapping[str, str] = {
    Level.CONFIRMED.label: "Critical",
    Level.LIKELY.label: "Warning",
}


class Notice(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing to say of a container; the JSON format is a list of these."""

    at: str  # RFC 3339
    event: str  # "verdict": the level rose; "cleared"; "action": something was done about it
    node: str
    namespace: str
    pod: str
    container: str
    owner: str
    container_id: str = ""
    image: str = ""
    level: str = ""
    abuse: str = ""
    score: float = 0.0
    cpu_cores: float = 0.0
    since: str = ""
    reasons: tuple[str, ...] = ()  # "signal: title", strongest first
    command_lines: tuple[str, ...] = ()
    action: str = ""  # stop, evict, …
    outcome: str = ""  # done, failed, …

    @property
    def place(self) -> str:
        """namespace/pod/container, or the container alone."""
        return "/".join(part for part in (self.namespace, self.pod, self.container) if part)


@dataclass(frozen=True, slots=True)
class Batch:
    """Notices that are sent as one message, and those that it had no room for."""

    notices: tuple[Notice, ...]
    left_out: Mapping[str, int]  # owner or place -> notices dropped since the last message


def notice(status: ContainerStatus, event: str, at: str, *, command_lines: bool) -> Notice:
    """Return what is said of ``status``, which must be public (``api.snapshot``)."""
    flagged = {finding.pid for finding in status.findings}
    lines = [each.command_line for each in status.processes if each.pid in flagged]
    return Notice(
        at=at,
        event=event,
        node=printable(status.node, _MAX_NAME),
        namespace=printable(status.namespace, _MAX_NAME),
        pod=printable(status.pod, _MAX_NAME),
        container=printable(status.container, _MAX_NAME),
        container_id=printable(status.container_id, _MAX_NAME),
        image=printable(redacted(status.image), _MAX_NAME),
        owner=printable(redacted(status.owner), _MAX_NAME),
        level=status.level,
        abuse=status.abuse,
        score=status.score,
        cpu_cores=round(status.cpu_cores, 2),
        since=status.since,
        reasons=tuple(_reasons(status)),
        command_lines=tuple(
            printable(masked_command_line(line), _MAX_COMMAND_LINE)
            for line in lines[:_MAX_COMMAND_LINES]
        )
        if command_lines
        else (),
    )


def bodies(
    message_format: MessageFormat, batch: Batch
) -> Iterator[tuple[bytes, tuple[Notice, ...]]]:
    """Yield the bodies of the requests that say ``batch``, each with its notices."""
    if message_format is MessageFormat.FALCO:
        yield from ((msgspec.json.encode(_falco(each)), (each,)) for each in batch.notices)
    else:
        yield msgspec.json.encode(_BODIES[message_format](batch)), batch.notices


def _reasons(status: ContainerStatus) -> Iterator[str]:
    best: dict[str, str] = {}
    for finding in status.findings:
        if finding.status != "experimental":
            best.setdefault(finding.signal, printable(finding.title, _MAX_TITLE))
    for signal, title in list(best.items())[:_MAX_TITLES]:
        yield f"{signal}: {title}"


def _json(batch: Batch) -> dict[str, Any]:
    return {
        "version": SCHEMA_VERSION,
        "notices": batch.notices,
        "left_out": dict(batch.left_out),
    }


def _slack(batch: Batch) -> dict[str, Any]:
    return {"text": "\n".join(_lines(batch, _slack_code))}


def _teams(batch: Batch) -> dict[str, Any]:
    text = [
        {"type": "TextBlock", "wrap": True, "text": line} for line in _lines(batch, _teams_code)
    ]
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": text,
    }
    content_type = "application/vnd.microsoft.card.adaptive"
    return {
        "type": "message",
        "attachments": [{"contentType": content_type, "contentUrl": None, "content": card}],
    }


_BODIES = {MessageFormat.JSON: _json, MessageFormat.SLACK: _slack, MessageFormat.TEAMS: _teams}


def _falco(said: Notice) -> dict[str, Any]:
    return {
        "output": _sentence(said, str),
        "priority": _PRIORITIES.get(said.level, "Notice"),
        "rule": f"minerwatch {said.event} {said.abuse or 'mining'}",
        "time": said.at,
        "source": "minerwatch",
        "hostname": said.node,
        "tags": ["minerwatch", said.abuse or "mining", said.level],
        "output_fields": {
            "k8s.ns.name": said.namespace,
            "k8s.pod.name": said.pod,
            "container.name": said.container,
            "container.id": said.container_id,
            "container.image.repository": said.image,
            "minerwatch.owner": said.owner,
            "minerwatch.score": said.score,
            "minerwatch.cpu_cores": said.cpu_cores,
            "minerwatch.reasons": "; ".join(said.reasons),
            "minerwatch.action": said.action,
            "minerwatch.outcome": said.outcome,
        },
    }


def _lines(batch: Batch, code: Callable[[str], str]) -> Iterator[str]:
    """Yield a line a notice, by owner: those of one owner stand together."""
    by_owner: dict[str, list[Notice]] = {}
    for each in batch.notices:
        by_owner.setdefault(each.owner or each.place, []).append(each)
    if len(batch.notices) > 1:
        yield f"{counted(len(batch.notices), 'message')} about {counted(len(by_owner), 'owner')}"
    ordered = [each for group in by_owner.values() for each in group]
    for each in ordered[:_MAX_LINES]:
        yield _sentence(each, code)
        yield from (f"    {code(line)}" for line in each.command_lines)
    more = len(ordered) - _MAX_LINES
    if more > 0:
        yield f"and {counted(more, 'message')} more"
    if batch.left_out:
        owners = ", ".join(code(owner) for owner in list(batch.left_out)[:_MAX_TITLES])
        yield f"{counted(sum(batch.left_out.values()), 'message')} left out, about {owners}"


def _sentence(said: Notice, code: Callable[[str], str]) -> str:
    place = code(said.place)
    owner = f", owner {code(said.owner)}" if said.owner else ""
    where = f"{place} on node {code(said.node)}{owner}"
    if said.event == "cleared":
        return f"CLEAR again: {where}"
    if said.event == "action":
        return f"{said.action.upper()} {said.outcome}: {where}"
    target = f"{said.namespace}/{said.pod}" if said.pod else said.container
    reasons = "; ".join(code(reason) for reason in said.reasons)
    return (
        f"{said.level.upper()} {said.abuse or 'mining'}, score {one_decimal(said.score)}: {where},"
        f" {said.cpu_cores:.2f} cores. {reasons}."
        f" Look: {code(f'minerwatch explain {target}')}"
    )


def _slack_code(text: str) -> str:
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return f"`{escaped.replace('`', chr(0x2019))}`"


_TEAMS_ESCAPES = str.maketrans({each: f"\\{each}" for each in "\\`*_[]()<>~|#@"})


def _teams_code(text: str) -> str:
    """Escape what is markup in a text block of an adaptive card."""
    return text.translate(_TEAMS_ESCAPES)
