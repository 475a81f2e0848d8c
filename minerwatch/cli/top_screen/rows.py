"""Which rows are shown, in which order, alone or in groups. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from minerwatch.api.types import ContainerStatus
from minerwatch.cli.top_screen.history import Key, key_of
from minerwatch.format import counted
from minerwatch.model import Level
from minerwatch.untrusted_text.display import printable
from minerwatch.view.campaigns import Campaign
from minerwatch.view.selection import busy, filtered, sorted_by

_NAME_LENGTH = 256


class Tree(Enum):
    """By what rows are grouped; the value is how people call it."""

    NONE = ""
    OWNER = "owner"
    CAMPAIGN = "campaign"

    @property
    def next(self) -> Tree:
        """The one that comes when asked for another."""
        ways = list(Tree)
        return ways[(ways.index(self) + 1) % len(ways)]


@dataclass(frozen=True, slots=True)
class View:
    """What a person has chosen to see."""

    sort: str = "score"
    is_reversed: bool = False
    text: str = ""  # only what holds each of its words
    namespace: str = ""  # only this one; "": all
    show_all: bool = False  # idle containers too
    tree: Tree = Tree.NONE
    closed: frozenset[Key] = frozenset()  # groups whose members are not shown


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


@dataclass(frozen=True, slots=True)
class Arrangement:
    """The rows, and what they were chosen from."""

    rows: tuple[Row, ...]
    every: Sequence[ContainerStatus]  # of the namespace, idle ones too
    shown: int  # containers


def arranged(
    statuses: Iterable[ContainerStatus], view: View, found: Sequence[Campaign]
) -> Arrangement:
    """What ``view`` shows of ``statuses``; ``found`` are their campaigns."""
    every = filtered(statuses, namespace=view.namespace)
    chosen = filtered(every, view.text)
    if not (view.show_all or view.text or view.namespace):
        chosen = busy(chosen)
    ordered = sorted_by(chosen, view.sort, is_reversed=view.is_reversed)
    if view.tree is Tree.NONE:
        rows = tuple(Row(key_of(status), status) for status in ordered)
    else:
        rows = _grouped(ordered, view, found)
    return Arrangement(rows, every, len(ordered))


def as_one(members: Sequence[ContainerStatus]) -> ContainerStatus:
    """The members as if they were one container: the worst verdict, the sum of what they burn."""
    worst = max(members, key=lambda each: (each.score, _rank(each.level)))
    level = max((each.level for each in members), key=_rank)
    limits = [each.cpu_limit_cores for each in members]
    known = [limit for limit in limits if limit is not None]
    signals: dict[str, float] = {}
    for each in members:
        for signal, score in each.signals.items():
            signals[signal] = max(score, signals.get(signal, 0.0))
    return replace(
        worst,
        level=level,
        cpu_cores=sum(each.cpu_cores for each in members),
        cpu_limit_cores=sum(known) if len(known) == len(limits) else None,
        throttled_share=max((each.throttled_share or 0.0 for each in members), default=None),
        cpu_hours=sum(each.cpu_hours for each in members),
        signals=signals,
        since=min(each.since for each in members if each.level == level),
        process_count=sum(each.process_count for each in members),
        started=min((each.started for each in members if each.started), default=""),
        owner=_shared(each.owner for each in members),
        image=_shared(each.image for each in members),
        node=_shared(each.node for each in members),
    )


def _grouped(
    ordered: Sequence[ContainerStatus], view: View, found: Sequence[Campaign]
) -> tuple[Row, ...]:
    """Groups in the order of what they are as one; who is alone stands for himself."""
    by_title = _by_campaign(ordered, found) if view.tree is Tree.CAMPAIGN else _by_owner(ordered)
    heads: dict[Key, ContainerStatus] = {}
    groups: dict[Key, Group | None] = {}
    for (key, title), members in by_title.items():
        is_group = bool(title) and len(members) > 1
        head = as_one(members) if is_group else members[0]
        heads[key] = head
        counted_title = f"{counted(len(members), 'container')} {title}"
        groups[key] = (
            Group(counted_title, tuple(members), key not in view.closed) if is_group else None
        )
    keys = {id(head): key for key, head in heads.items()}
    rows: list[Row] = []
    for head in sorted_by(heads.values(), view.sort, is_reversed=view.is_reversed):
        key = keys[id(head)]
        group = groups[key]
        rows.append(Row(key, head, group))
        if group is not None and group.is_open:
            rows += (Row(key_of(member), member, depth=1) for member in group.members)
    return tuple(rows)


_Titled = tuple[Key, str]


def _by_owner(ordered: Iterable[ContainerStatus]) -> dict[_Titled, list[ContainerStatus]]:
    groups: dict[_Titled, list[ContainerStatus]] = {}
    for status in ordered:
        owner = status.owner
        if owner:
            titled: _Titled = (("owner", owner), f"of owner {printable(owner, _NAME_LENGTH)}")
        else:
            titled = (key_of(status), "")
        groups.setdefault(titled, []).append(status)
    return groups


def _by_campaign(
    ordered: Iterable[ContainerStatus], found: Sequence[Campaign]
) -> dict[_Titled, list[ContainerStatus]]:
    campaign_of = {key_of(each): campaign for campaign in found for each in campaign.members}
    groups: dict[_Titled, list[ContainerStatus]] = {}
    for status in ordered:
        campaign = campaign_of.get(key_of(status))
        if campaign is not None:
            titled: _Titled = (("campaign", *campaign.trait, ""), f"in {campaign}")
        else:
            titled = (key_of(status), "")
        groups.setdefault(titled, []).append(status)
    return groups


def _rank(level: str) -> int:
    return next((each.value for each in Level if each.label == level), 0)


def _shared(values: Iterable[str]) -> str:
    """What all have; "" if they differ."""
    different = set(values)
    return different.pop() if len(different) == 1 else ""
