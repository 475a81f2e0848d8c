"""Messages on a container to people and to other systems, in each format. Pure.

Slack and Mattermost: ``text`` of an incoming webhook, in which ``&<>`` are escaped; names stand in
code spans, where nothing in them mentions anybody. Teams: an adaptive card, as its Workflows take
it. Falco: its JSON output, one event a request, as Falcosidekick takes it.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from minerwatch.api.types import ContainerStatus, FindingStatus, OwnerStatus
from minerwatch.fair_queue import interleaved
from minerwatch.format import counted, one_decimal
from minerwatch.model import Level, MessageFormat
from minerwatch.untrusted_text.display import masked_command_line, printable, shown_command_line
from minerwatch.untrusted_text.redaction import redacted

SCHEMA_VERSION = 1
ACTION = "action"
"""The event of notices on actions, which other notices cannot displace."""

_MAX_NAME = 256
_MAX_TITLES = 3
_MAX_TITLE = 120
_MAX_LINES = 20  # of one message for people; the rest is counted
_MAX_TEXT_BYTES = 10_000  # of these lines: Teams refuses 28 KB, Zulip cuts at 10,000 characters
_MAX_NOTICES = {MessageFormat.FALCO: 1, MessageFormat.JSON: 50}  # of one request
_MAX_COMMAND_LINES = 3
_MAX_COMMAND_LINE = 300
_PRIORITIES: Mapping[str, str] = {Level.CONFIRMED.label: "Critical", Level.LIKELY.label: "Warning"}


class Notice(msgspec.Struct, frozen=True, omit_defaults=True):
    """A notice on a container; the JSON format is a list of these."""

    at: str  # RFC 3339
    event: str  # "verdict": the level rose; "cleared"; "action": something was done about it
    node: str
    namespace: str
    pod: str
    container: str
    owner: str
    owner_claimed: bool = False  # a tenant may have chosen the owner's name
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
    def full_name(self) -> str:
        """namespace/pod/container, or the container alone."""
        return "/".join(part for part in (self.namespace, self.pod, self.container) if part)

    @property
    def account(self) -> tuple[str, str]:
        """Namespace and owner: by the name alone a tenant could pass for one elsewhere."""
        return self.namespace, self.owner or self.full_name


@dataclass(frozen=True, slots=True)
class Batch:
    """Notices that are sent as one message, and those that it had no room for."""

    notices: tuple[Notice, ...]
    left_out: Mapping[
        str, int
    ]  # owner or full name -> notices dropped since; "": of further owners


def in_turn(notices: Iterable[Notice]) -> Iterator[Notice]:
    """Yield one notice of each namespace in turn, within it one of each owner; actions first."""
    actions_first = sorted(notices, key=lambda each: each.event != ACTION)
    by_owner = interleaved(actions_first, lambda each: each.account)
    return interleaved(by_owner, lambda each: each.namespace)


def notice(
    status: ContainerStatus,
    event: str,
    at: str,
    *,
    command_lines: bool,
    abuse: str = "",
    level: str = "",
) -> Notice:
    """Return the notice on ``status``, which must be public (``container_status``).

    ``abuse``, with its ``level``: one kind of several; "": that of the verdict.
    """
    abuse = abuse or status.abuse
    findings = [each for each in status.findings if each.abuse in ("", abuse)]
    flagged = {finding.pid for finding in findings}
    lines = [each.command_line for each in status.processes if each.pid in flagged]
    return Notice(
        at=at,
        event=event,
        node=_name(status.node),
        namespace=_name(status.namespace),
        pod=_name(status.pod),
        container=_name(status.container),
        container_id=_name(status.container_id),
        image=_name(redacted(status.image)),
        owner=_name(redacted(status.owner)),
        owner_claimed=is_claimed(status.owner, status.owners),
        level=level or status.level,
        abuse=abuse,
        score=status.abuses.get(abuse, status.score),
        cpu_cores=round(status.cpu_cores, 2),
        since=status.since,
        reasons=tuple(_reasons(findings)),
        command_lines=tuple(
            shown_command_line(masked_command_line(line), _MAX_COMMAND_LINE)[:_MAX_COMMAND_LINE]
            for line in lines[:_MAX_COMMAND_LINES]
        )
        if command_lines
        else (),
    )


def is_claimed(owner: str, names: Iterable[OwnerStatus]) -> bool:
    """Return True if ``owner`` is a name that a tenant may have chosen."""
    return {each.claimed for each in names if each.name == owner} == {True}


def _name(text: str) -> str:
    return _fit(text, _MAX_NAME)


def _fit(text: str, limit: int) -> str:
    """Return text fit to print, cut again where escapes made it longer."""
    return printable(text, limit)[:limit]


def bodies(message_format: MessageFormat, batch: Batch) -> Iterator[tuple[bytes, Batch]]:
    """Yield the bodies of the requests that carry ``batch``, each with its part of it."""
    for part in _parts(message_format, batch):
        yield msgspec.json.encode(_BODIES[message_format](part)), part


def _parts(message_format: MessageFormat, batch: Batch) -> Iterator[Batch]:
    """Split a batch for formats that take few notices a request."""
    most = _MAX_NOTICES.get(message_format, len(batch.notices))
    for start in range(0, len(batch.notices), most):
        yield Batch(batch.notices[start : start + most], {} if start else batch.left_out)


def _reasons(findings: Iterable[FindingStatus]) -> Iterator[str]:
    best: dict[str, str] = {}
    for finding in findings:
        if finding.status != "experimental":
            best.setdefault(finding.signal, _fit(finding.title, _MAX_TITLE))
    for signal, title in list(best.items())[:_MAX_TITLES]:
        yield f"{signal}: {title}"


def _json(batch: Batch) -> dict[str, Any]:
    return {"version": SCHEMA_VERSION, "notices": batch.notices, "left_out": dict(batch.left_out)}


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


def _falco(batch: Batch) -> dict[str, Any]:
    (item,) = batch.notices
    return {
        "output": ". ".join((_sentence(item, str), *_left_out(batch, str))),
        "priority": _PRIORITIES.get(item.level, "Notice"),
        "rule": f"minerwatch {item.event} {item.abuse or 'mining'}",
        "time": item.at,
        "source": "minerwatch",
        "hostname": item.node,
        "tags": ["minerwatch", item.abuse or "mining", item.level],
        "output_fields": {
            "k8s.ns.name": item.namespace,
            "k8s.pod.name": item.pod,
            "container.name": item.container,
            "container.id": item.container_id,
            "container.image.repository": item.image,
            "minerwatch.owner": item.owner,
            "minerwatch.owner_claimed": item.owner_claimed,
            "minerwatch.score": item.score,
            "minerwatch.cpu_cores": item.cpu_cores,
            "minerwatch.reasons": "; ".join(item.reasons),
            "minerwatch.action": item.action,
            "minerwatch.outcome": item.outcome,
            "minerwatch.left_out": sum(batch.left_out.values()),
        },
    }


_BODIES = {
    MessageFormat.JSON: _json,
    MessageFormat.SLACK: _slack,
    MessageFormat.TEAMS: _teams,
    MessageFormat.FALCO: _falco,
}


def _lines(batch: Batch, code: Callable[[str], str]) -> Iterator[str]:
    """Yield a line a notice, by owner, as far as there is room: each owner has its turn."""
    by_account: dict[tuple[str, str], list[str]] = {}
    shown, room = 0, _MAX_TEXT_BYTES
    for each in in_turn(batch.notices):
        lines = (_sentence(each, code), *(f"    {code(line)}" for line in each.command_lines))
        size = len(msgspec.json.encode(lines))
        if shown < _MAX_LINES and size <= room:
            by_account.setdefault(each.account, []).extend(lines)
            shown, room = shown + 1, room - size
    if len(batch.notices) > 1:
        owners = len({each.account for each in batch.notices})
        yield f"{counted(len(batch.notices), 'message')} about {counted(owners, 'owner')}"
    yield from (line for lines in by_account.values() for line in lines)
    more = len(batch.notices) - shown
    if more:
        yield f"and {counted(more, 'message')} more"
    yield from _left_out(batch, code)


def _left_out(batch: Batch, code: Callable[[str], str]) -> Iterator[str]:
    if batch.left_out:
        named = [code(owner) for owner in batch.left_out if owner][:_MAX_TITLES]
        others = ["others"] if len(batch.left_out) > len(named) else []
        count = counted(sum(batch.left_out.values()), "message")
        yield f"{count} left out, about {', '.join(named + others)}"


def _sentence(item: Notice, code: Callable[[str], str]) -> str:
    full_name = code(item.full_name)
    claimed = " (claimed)" if item.owner_claimed else ""
    owner = f", owner {code(item.owner)}{claimed}" if item.owner else ""
    where = f"{full_name} on node {code(item.node)}{owner}"
    if item.event == "cleared":
        return f"CLEAR again{f', no more {item.abuse}' if item.abuse else ''}: {where}"
    if item.event == ACTION:
        cause = f" because of {item.abuse}" if item.abuse else ""
        return f"{item.action.upper()} {item.outcome}{cause}: {where}"
    target = f"{item.namespace}/{item.pod}" if item.pod else item.container
    option_end = ("--",) if target.startswith("-") else ()
    command = shlex.join(("minerwatch", "explain", *option_end, target))
    reasons = "; ".join(code(reason) for reason in item.reasons)
    return (
        f"{item.level.upper()} {item.abuse or 'mining'}, score {one_decimal(item.score)}: {where},"
        f" {item.cpu_cores:.2f} cores. {reasons}."
        f" Look: {code(command)}"
    )


def _slack_code(text: str) -> str:
    text = text or "-"  # two backticks would begin another kind of code
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return f"`{escaped.replace('`', chr(0x2019))}`"


_TEAMS_ESCAPES = str.maketrans({each: f"\\{each}" for each in "\\`*_[]()<>~|#@"})


def _teams_code(text: str) -> str:
    """Escape what is markup in a text block of an adaptive card."""
    return text.translate(_TEAMS_ESCAPES)
