"""Bans: names that may not come back, why, and until when; notices for stopped users. Pure.

A ban rests on the proof of an action (``culling.proof``), so one sign that an outsider can plant is
never enough, and on a name that the pod's creator cannot have chosen. An address is an institute's
as often as a person's: it is never banned while others used it without being flagged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import msgspec

from minerwatch.config.hub import Bans
from minerwatch.config.schema import Culling
from minerwatch.culling.ban_patterns import banned_specs
from minerwatch.culling.decision import Decision, Objection, Reason
from minerwatch.culling.proof import is_tenants_own
from minerwatch.kube.attributions import HUB_USER
from minerwatch.model import Attribution, BanKind, OwnerKind, Pod
from minerwatch.untrusted_text.display import printable
from minerwatch.untrusted_text.redaction import redacted

DAY_S = 86400.0
MAX_BANS = 500
MAX_NOTICES = 500
NOTICE_S = 30 * DAY_S
SEEN_S = 7 * DAY_S
"""Unflagged users of an address in this time protect it."""

BLOCKED_USERS, BAN_NETWORKS = "blocked_users", "ban_networks"
_GLOBAL_UNICAST = ip_network("2000::/3")
_MAX_NAME_CHARS = 512
_KINDS = {
    OwnerKind.USER: BanKind.USER,
    OwnerKind.REPOSITORY: BanKind.REPOSITORY,
    OwnerKind.CLIENT: BanKind.ADDRESS,
}
_NOT_AGAINST_A_BAN = frozenset(
    (
        *(Reason.OUTSIDE_HOURS, Reason.TOO_YOUNG, Reason.POD_ENDING, Reason.ACTION_PENDING),
        *(Reason.TOO_SOON, Reason.NO_LADDER, Reason.OBSERVE_ONLY, Reason.NOT_HERE),
        *(Reason.NO_PROCESS, Reason.ALREADY_DONE, Reason.NODE_BUDGET_SPENT),
        Reason.CLUSTER_BUDGET_SPENT,
    )
)
"""They concern the pod, or the budget of actions: bans have one of their own.

Where the budget is unknown, so is the API server's time, and with it which bans have expired.
"""


def with_claims(
    owners: Iterable[Attribution], pod: Pod | None, settings: Culling
) -> tuple[Attribution, ...]:
    """Return ``owners``; those of a tenant's own pod are claims, whatever their source."""
    if pod is None or not is_tenants_own(pod, settings):
        return tuple(owners)
    return tuple(replace(each, is_claim=True) for each in owners)


class Ban(msgspec.Struct, frozen=True, omit_defaults=True):
    """One entry; ``values`` has a setting of hub or network, and what is added to it."""

    kind: BanKind
    name: str
    values: dict[str, str]  # such as blocked_users: a name; ban_networks: a network
    reason: str
    evidence: str  # id in the audit log of the node
    node: str
    by: str  # the person or agent that asked for it
    at_unix_s: int
    until_unix_s: int
    source: str = ""  # of the name
    namespace: str = ""
    pod: str = ""
    pod_uid: str = ""


class Notice(msgspec.Struct, frozen=True):
    """A message for a hub's user, about a server that was stopped."""

    user: str
    server: str
    at_unix_s: int
    text: str
    pod_uid: str = ""  # of the server


class HubBans(msgspec.Struct, frozen=True):
    """All bans and notices, as the ConfigMap holds them."""

    bans: tuple[Ban, ...] = ()
    notices: tuple[Notice, ...] = ()

    def current(self, unix_s: float) -> HubBans:
        """Return what has not expired."""
        return HubBans(
            tuple(each for each in self.bans if each.until_unix_s > unix_s),
            tuple(each for each in self.notices if each.at_unix_s > unix_s - NOTICE_S),
        )

    def kept(self, unix_s: float) -> HubBans:
        """Return what is in force, and the bans of the last day, which the budget counts."""
        bans = (
            each for each in self.bans if max(each.until_unix_s, each.at_unix_s + DAY_S) > unix_s
        )
        return HubBans(tuple(bans), self.current(unix_s).notices)

    def with_notice(self, notice: Notice) -> HubBans:
        """Return these with ``notice`` instead of an earlier one about the same server."""
        others = [
            each
            for each in self.notices
            if (each.user, each.server) != (notice.user, notice.server)
        ]
        return HubBans(self.bans, (*others, notice)[-MAX_NOTICES:])

    def with_bans(self, added: Iterable[Ban]) -> HubBans:
        """Return these with ``added``; of two of a name the one that ends later stays."""
        found: dict[tuple[BanKind, str], Ban] = {}
        for each in (*self.bans, *added):
            before = found.get((each.kind, each.name))
            if before is None or each.until_unix_s >= before.until_unix_s:
                found[each.kind, each.name] = each
        return HubBans(tuple(found.values()), self.notices)

    def without(self, *, pod_uid: str = "", name: str = "") -> HubBans:
        """Return these without the bans and notices of a pod, or without a name's bans."""
        kept = tuple(
            each
            for each in self.bans
            if not (pod_uid and each.pod_uid == pod_uid) and not (name and each.name == name)
        )
        notices = tuple(each for each in self.notices if not (pod_uid and each.pod_uid == pod_uid))
        return HubBans(kept, notices)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A name that a ban may be for, and every reason against it."""

    kind: BanKind
    attribution: Attribution
    values: dict[str, str]
    unflagged: int | None  # other pods of the name, within seven days; None: not known
    objections: tuple[str, ...]


def proof_objections(decision: Decision) -> tuple[Objection, ...]:
    """Return the reasons of a decision that speak against a ban, too."""
    return tuple(each for each in decision.objections if each.reason not in _NOT_AGAINST_A_BAN)


def candidates(
    owners: Sequence[Attribution],
    seen: Mapping[Attribution, int | None],
    kinds: Iterable[BanKind],
    *,
    by_hand: bool,
) -> Iterator[Candidate]:
    """Yield the names of ``kinds`` among ``owners``; ``seen``: ``unflagged`` of each."""
    wanted = frozenset(kinds)
    for each in owners:
        kind = _KINDS.get(each.kind)
        if kind in wanted and kind is not None:
            values, problem = _values(kind, each.name)
            unflagged = seen.get(each)
            reasons = [*([problem] if problem else [])]
            reasons += _objections(kind, each, unflagged, by_hand=by_hand)
            yield Candidate(kind, each, values, unflagged, tuple(reasons))


def budget_objection(hub_bans: HubBans, added: Sequence[Ban], settings: Bans, unix_s: float) -> str:
    """Return why ``added`` are too many; "": they are not."""
    names = {(each.kind, each.name) for each in hub_bans.bans}
    new = [each for each in added if (each.kind, each.name) not in names]
    today = sum(each.at_unix_s > unix_s - DAY_S for each in hub_bans.bans)
    if today + len(new) > settings.per_day:
        return f"{today} bans were made within a day, {settings.per_day} are allowed (per_day)"
    if len(hub_bans.bans) + len(new) > MAX_BANS:
        return f"there are {len(hub_bans.bans)} bans, {MAX_BANS} are allowed: release some"
    return ""


def network(text: str) -> IPv4Network | IPv6Network | None:
    """Return the narrowest network to ban for an address: /32, or /64; None: no public address."""
    try:
        address = ip_address(text.strip())
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    address = mapped or address
    if not address.is_global or address.is_multicast or _is_translated(address):
        return None
    return ip_network((address, 32 if address.version == 4 else 64), strict=False)


def _is_translated(address: IPv4Address | IPv6Address) -> bool:
    """Return True for an address of IPv4 in one of IPv6: a /64 of those is all of IPv4."""
    return isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST


def sighting_name(kind: OwnerKind, name: str) -> str:
    """Return the name that pods are counted by.

    Addresses of one network have one name, and so have all spellings of a repository.
    """
    if kind is OwnerKind.REPOSITORY:
        return banned_specs(name).get("GitRepoProvider.banned_specs", name).lower()
    found = network(name) if kind is OwnerKind.CLIENT else None
    return str(found) if found else name


def _values(kind: BanKind, name: str) -> tuple[dict[str, str], str]:
    """Return the values to configure, or why there are none."""
    if len(name) > _MAX_NAME_CHARS or not name.isprintable():
        return {}, "the name is too long, or has characters that cannot be shown"
    if kind is BanKind.USER:
        return {BLOCKED_USERS: name}, ""
    if kind is BanKind.ADDRESS:
        found = network(name)
        return ({BAN_NETWORKS: str(found)}, "") if found else ({}, "it is no public address")
    specs = banned_specs(name)
    return specs, "" if specs else "it is no address of a repository"


def _objections(
    kind: BanKind, each: Attribution, unflagged: int | None, *, by_hand: bool
) -> Iterator[str]:
    if each.is_claim:
        yield f"a tenant may have chosen it ({each.source}): see owners.hub_namespaces"
    if each.source == f"label {HUB_USER}":
        yield "a label has an escaped form of the name"
    if kind is BanKind.USER or (kind is BanKind.REPOSITORY and by_hand):
        return
    if not by_hand:
        yield "it is only banned by hand (minerwatch ban)"
    if unflagged is None:
        yield "its other users of the last seven days are not known on every node"
    elif unflagged:
        yield f"{unflagged} others used it in the last seven days and were not flagged"


def ban_text(ban: Ban) -> str:
    """Return what is banned, for a log."""
    return printable(f"{ban.kind} {redacted(ban.name)}", 600)
