"""Containers as rows: chosen, ordered, alone or in groups. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from msgspec import structs

from minerwatch.api.types import ContainerStatus, GpuStatus
from minerwatch.format import counted
from minerwatch.kinds import Level
from minerwatch.untrusted_text.display import shown_name
from minerwatch.view.campaigns import Campaign
from minerwatch.view.screen.history import Key, key_of
from minerwatch.view.selection import busy, filtered, sorted_by


class Kind(Enum):
    """The three tables; the value is the title of its tab."""

    CONTAINERS = "Containers"
    PROCESSES = "Processes"
    NODES = "Nodes"


class Tree(Enum):
    """Ways to group containers; the value is their name."""

    NONE = ""
    OWNER = "owner"
    CAMPAIGN = "campaign"

    @property
    def next(self) -> Tree:
        """The way that follows."""
        ways = list(Tree)
        return ways[(ways.index(self) + 1) % len(ways)]


@dataclass(frozen=True, slots=True)
class View:
    """A choice of what to see."""

    sort: str = "score"
    is_reversed: bool = False
    text: str = ""  # only rows with each of its words
    namespace: str = ""  # only this one; "": all
    show_all: bool = False  # idle ones too
    tree: Tree = Tree.NONE
    closed: frozenset[Key] = frozenset()  # groups whose members are not shown
    kind: Kind = Kind.CONTAINERS
    is_folded: bool = True  # processes that are alike are one row

    @property
    def is_narrowed(self) -> bool:
        """Return True if rows were asked for that may be idle."""
        return bool(self.show_all or self.text or self.namespace)


@dataclass(frozen=True, slots=True)
class Group:
    """Containers under one heading."""

    title: str  # escaped
    members: tuple[ContainerStatus, ...]  # in order
    is_open: bool


@dataclass(frozen=True, slots=True)
class Row:
    """A container, or a group of them."""

    key: Key
    status: ContainerStatus  # of a group: its members as if they were one
    group: Group | None = None
    depth: int = 0


def container_rows(
    every: Iterable[ContainerStatus], view: View, found: Sequence[Campaign]
) -> tuple[tuple[Row, ...], int]:
    """Return what ``view`` shows of ``every``, and how many containers; ``found``: campaigns."""
    chosen = filtered(every, view.text)
    ordered = sorted_by(
        chosen if view.is_narrowed else busy(chosen), view.sort, is_reversed=view.is_reversed
    )
    if view.tree is Tree.NONE:
        return tuple(Row(key_of(status), status) for status in ordered), len(ordered)
    return _grouped(ordered, view, found), len(ordered)


def as_one(members: Sequence[ContainerStatus]) -> ContainerStatus:
    """Return the members as if they were one: the worst verdict, the sum of their CPU usage."""
    worst = max(members, key=lambda each: (each.score, Level.of_label(each.level)))
    level = max((each.level for each in members), key=Level.of_label)
    limits = [each.cpu_limit_cores for each in members]
    known = [limit for limit in limits if limit is not None]
    signals: dict[str, float] = {}
    for each in members:
        for signal, score in each.signals.items():
            signals[signal] = max(score, signals.get(signal, 0.0))
    return structs.replace(
        worst,
        level=level,
        cpu_cores=sum(each.cpu_cores for each in members),
        cpu_limit_cores=sum(known) if len(known) == len(limits) else None,
        throttled_share=max((each.throttled_share or 0.0 for each in members), default=None),
        cpu_hours=sum(each.cpu_hours for each in members),
        signals=signals,
        gpu=_gpus(each.gpu for each in members),
        since=min(each.since for each in members if each.level == level),
        process_count=sum(each.process_count for each in members),
        started=min((each.started for each in members if each.started), default=""),
        owner=_shared(each.owner for each in members),
        image=_shared(each.image for each in members),
        node=_shared(each.node for each in members),
    )


def _gpus(every: Iterable[GpuStatus | None]) -> GpuStatus | None:
    """Return the sum of what the members use of GPUs; the pods' requests are not known of all."""
    used = [each for each in every if each is not None]
    if not used:
        return None
    known = [each.busy for each in used if each.busy is not None]
    return GpuStatus(
        busy=sum(known) if known else None,
        limit=None,
        requested=False if any(each.requested is False for each in used) else None,
        hours=sum(each.hours for each in used),
        devices=sum(each.devices for each in used),
        memory_bytes=sum(each.memory_bytes or 0 for each in used),
        energy_joules=sum(each.energy_joules or 0.0 for each in used) or None,
    )


_Titled = tuple[Key, str]


def _grouped(
    ordered: Sequence[ContainerStatus], view: View, found: Sequence[Campaign]
) -> tuple[Row, ...]:
    """Order groups by what they are as one; one without a group stands alone."""
    titled = _by_campaign(found) if view.tree is Tree.CAMPAIGN else _by_owner
    by_title: dict[_Titled, list[ContainerStatus]] = {}
    for status in ordered:
        by_title.setdefault(titled(status), []).append(status)
    heads: dict[int, tuple[Key, Group | None]] = {}
    merged: list[ContainerStatus] = []
    for (key, title), members in by_title.items():
        is_group = bool(title) and len(members) > 1
        merged.append(as_one(members) if is_group else members[0])
        counted_title = f"{counted(len(members), 'container')} {title}"
        group = Group(counted_title, tuple(members), key not in view.closed) if is_group else None
        heads[id(merged[-1])] = key, group
    rows: list[Row] = []
    for head in sorted_by(merged, view.sort, is_reversed=view.is_reversed):
        key, group = heads[id(head)]
        rows.append(Row(key, head, group))
        if group is not None and group.is_open:
            rows += (Row(key_of(member), member, depth=1) for member in group.members)
    return tuple(rows)


def _by_owner(status: ContainerStatus) -> _Titled:
    if not status.owner:
        return key_of(status), ""
    return ("owner", status.owner), f"of owner {shown_name(status.owner)}"


def _by_campaign(found: Sequence[Campaign]) -> Callable[[ContainerStatus], _Titled]:
    campaign_of = {key_of(each): campaign for campaign in found for each in campaign.members}

    def titled(status: ContainerStatus) -> _Titled:
        campaign = campaign_of.get(key_of(status))
        if campaign is None:
            return key_of(status), ""
        return ("campaign", *campaign.trait, ""), f"in {campaign}"

    return titled


def _shared(values: Iterable[str]) -> str:
    """Return the value that all have; "" if they differ."""
    different = set(values)
    return different.pop() if len(different) == 1 else ""
