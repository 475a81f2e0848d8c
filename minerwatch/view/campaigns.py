"""Verdicts that belong together: fifty pods of one repository are one campaign. Pure.

Containers are joined by what they share: their owner, their image, a wallet, a pool, a page of the
code that runs. Of all that is shared, that is named first which explains most of them, then what
explains most of the rest: the fewest sentences that say what is going on.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from minerwatch.api.types import ContainerStatus
from minerwatch.kinds import Abuse, Level, OwnerKind, Signal
from minerwatch.untrusted_text.display import printable
from minerwatch.view.selection import pod_key

MIN_PODS = 2
_MAX_CAMPAIGNS = 100
_MAX_SEARCHED = 16_384  # characters of one text
_MAX_TEXTS = 64  # of one container
_MAX_VALUES = 8  # of one kind, of one container
_SHOWN_LENGTH = 64
_FINGERPRINT = re.compile(r"[0-9a-f]{32}")
_WALLET_ENDS = 8  # characters of a wallet that distinguish it


class Kind(StrEnum):
    """Traits that containers can share; the owner, as a person to inform, comes first."""

    OWNER = "owner"
    IMAGE = "image"
    USER = "user"
    REPOSITORY = "repository"
    REF = "ref"
    PROJECT = "project"
    CLIENT = "client address"
    CONTROLLER = "controller"
    DIGEST = "image digest"
    WALLET = "wallet"
    POOL = "pool"
    CODE = "code page"


_LEVELS = frozenset({Level.LIKELY.label, Level.CONFIRMED.label})
_WEIGHTS: Mapping[Kind, float] = {
    Kind.OWNER: 1,
    Kind.WALLET: 1,
    Kind.CODE: 0.8,
    Kind.POOL: 0.7,
    Kind.IMAGE: 0.6,
    Kind.USER: 0.95,
    Kind.REPOSITORY: 0.95,
    Kind.REF: 0.9,
    Kind.PROJECT: 0.75,
    Kind.CLIENT: 0.75,  # an address is shared by an institute
    Kind.CONTROLLER: 0.65,
    Kind.DIGEST: 0.59,
}
"""Strangers share a public pool or a popular image, but never a wallet."""

_SENTENCES: Mapping[Kind, str] = {
    Kind.WALLET: "that mine for wallet {}",
    Kind.OWNER: "of owner {}",
    Kind.POOL: "that mine at pool {}",
    Kind.IMAGE: "of image {}",
    Kind.CODE: "that run code page {}",
    Kind.USER: "of user {}",
    Kind.REPOSITORY: "of repository {}",
    Kind.REF: "of ref {}",
    Kind.PROJECT: "of project {}",
    Kind.CLIENT: "asked for from {}",
    Kind.CONTROLLER: "of {}",
    Kind.DIGEST: "of image digest {}",
}


class Trait(NamedTuple):
    """One thing that a container has, and may share."""

    kind: Kind
    value: str


@dataclass(frozen=True, slots=True)
class Campaign:
    """Containers in several pods that are alike in something."""

    trait: Trait  # what they all share
    members: tuple[ContainerStatus, ...]
    pods: int
    others: Mapping[Kind, int]  # how many different values they have of the other kinds

    def __str__(self) -> str:
        """Return ``50 pods of owner X (one image, one wallet)``, escaped for a terminal."""
        sentence = _SENTENCES[self.trait.kind].format(_shown(self.trait))
        shared = ", ".join(_counted(count, kind) for kind, count in self.others.items())
        what = "pods" if any(status.pod for status in self.members) else "containers"
        return f"{self.pods:,} {what} {sentence}" + (f" ({shared})" if shared else "")


def campaigns(statuses: Iterable[ContainerStatus]) -> tuple[Campaign, ...]:
    """Return groups of ``statuses`` that are likely or worse and share a trait, largest first.

    Each container is in one campaign at most; a campaign has at least two pods. Suspicious ones
    are left out, for a deployment that unpacks itself would be a campaign for ever; but those that
    are suspicious by what they compute are joined by its code.
    """
    every = [*statuses]
    left = {index: has for index, has in enumerate(_traits_that_join(every)) if has[1]}
    found: list[Campaign] = []
    while (shared := _shared(left)) and len(found) < _MAX_CAMPAIGNS:
        best = max(shared, key=lambda trait: _rank(trait, shared[trait]))
        members = [index for index, (_, has) in left.items() if best in has]
        found.append(_campaign(best, [left.pop(index) for index in members]))
    return tuple(sorted(found, key=lambda campaign: -campaign.pods))


def campaign_of(status: ContainerStatus, among: Iterable[Campaign]) -> Campaign | None:
    """Return the campaign that ``status`` is part of."""
    return next((campaign for campaign in among if status in campaign.members), None)


def traits(status: ContainerStatus) -> frozenset[Trait]:
    """Return what ``status`` may share with others; wallets and pools from its findings' evidence.

    The command lines of processes with findings are searched, too: a finding's evidence is the
    part around what matched.
    """
    from minerwatch.view.mining_names import pools, wallets  # only where something is flagged

    is_mining = status.abuse in ("", Abuse.MINING)  # the target of a scan is no pool
    searched = _texts(status) if is_mining else ()
    texts = [text[:_MAX_SEARCHED] for text in searched][:_MAX_TEXTS]
    hosts = _pool_hosts(status) if is_mining else ()
    own_wallets = dict.fromkeys(wallet for text in texts for wallet in wallets(text))
    own_pools = dict.fromkeys([*hosts, *(pool for text in texts for pool in pools(text))])
    values: dict[Kind, list[str]] = {
        **_owner_values(status),
        Kind.OWNER: [status.owner],
        Kind.IMAGE: [status.image],
        Kind.WALLET: list(own_wallets)[:_MAX_VALUES],
        Kind.POOL: list(own_pools)[:_MAX_VALUES],
        Kind.CODE: _code_pages(status),
    }
    return frozenset(Trait(kind, value) for kind, each in values.items() for value in each if value)


_OWNER_KINDS: Mapping[str, Kind] = {
    OwnerKind.USER.value: Kind.USER,
    OwnerKind.REPOSITORY.value: Kind.REPOSITORY,
    OwnerKind.BUILD.value: Kind.REPOSITORY,
    OwnerKind.REF.value: Kind.REF,
    OwnerKind.PROJECT.value: Kind.PROJECT,
    OwnerKind.CLIENT.value: Kind.CLIENT,
    OwnerKind.CONTROLLER.value: Kind.CONTROLLER,
    OwnerKind.DIGEST.value: Kind.DIGEST,
}
"""A server and a job are one pod's; a launch host is everybody's."""


def _owner_values(status: ContainerStatus) -> dict[Kind, list[str]]:
    """Return the names other than the owner's, by kind; a claimed one is marked."""
    from minerwatch.untrusted_text.redaction import redacted

    found: dict[Kind, list[str]] = {}
    for each in status.owners:
        kind = _OWNER_KINDS.get(each.kind)
        if kind and each.name != status.owner and len(found.setdefault(kind, [])) < _MAX_VALUES:
            found[kind].append(redacted(str(each)))
    return found


_Traits = tuple[ContainerStatus, frozenset[Trait]]


def _traits_that_join(statuses: Sequence[ContainerStatus]) -> Iterator[_Traits]:
    """Yield each container's traits by which it may be in a campaign.

    A page of code joins nothing if a container that is clear runs it as well.
    """
    clear = [each for each in statuses if each.level == Level.CLEAR.label]
    common = {Trait(Kind.CODE, value) for each in clear for value in _code_pages(each)}
    for status in statuses:
        has = frozenset[Trait]()
        if status.level in _LEVELS:
            has = traits(status)
        elif status.signals.get(Signal.COMPUTE.value, 0.0) >= Level.SUSPICIOUS:
            has = frozenset(Trait(Kind.CODE, value) for value in _code_pages(status))
        yield status, has - common


def _shared(left: Mapping[int, _Traits]) -> dict[Trait, int]:
    """Return the number of pods with each trait that several have."""
    pods: dict[Trait, set[tuple[str, ...]]] = defaultdict(set)
    for status, has in left.values():
        for trait in has:
            pods[trait].add(pod_key(status))
    return {trait: len(where) for trait, where in pods.items() if len(where) >= MIN_PODS}


def _rank(trait: Trait, pods: int) -> tuple[float, int, str]:
    return pods * _WEIGHTS[trait.kind], -list(Kind).index(trait.kind), trait.value


def _campaign(trait: Trait, members: Sequence[_Traits]) -> Campaign:
    others = {}
    for kind in Kind:
        values = [{has.value for has in each if has.kind is kind} for _, each in members]
        if kind is not trait.kind and all(values):
            others[kind] = 1 if set.intersection(*values) else len(set().union(*values))
    pods = len({pod_key(status) for status, _ in members})
    return Campaign(trait, tuple(status for status, _ in members), pods, others)


def _code_pages(status: ContainerStatus) -> list[str]:
    """Return the fingerprints of pages that run and came after the container was made."""
    texts = (each.evidence.get("ForeignCodeFingerprints") for each in status.findings)
    pages = (page for text in texts if isinstance(text, str) for page in text.split())
    return [*dict.fromkeys(page for page in pages if _FINGERPRINT.fullmatch(page))][:_MAX_VALUES]


def _texts(status: ContainerStatus) -> Iterator[str]:
    flagged = {finding.pid for finding in status.findings}
    for finding in status.findings:
        yield from (value for value in finding.evidence.values() if isinstance(value, str))
    for process in status.processes:
        if process.pid in flagged:
            yield process.command_line


def _pool_hosts(status: ContainerStatus) -> Iterator[str]:
    from minerwatch.view.mining_names import host

    for finding in status.findings:
        if finding.signal == Signal.NETWORK.value:
            for field in ("DestinationHostname", "DestinationIp"):
                if field in finding.evidence:
                    yield from host(str(finding.evidence[field]))
                    break


def _shown(trait: Trait) -> str:
    if (
        trait.kind in (Kind.WALLET, Kind.CODE, Kind.DIGEST)
        and len(trait.value) > 2 * _WALLET_ENDS + 1
    ):
        return f"{trait.value[:_WALLET_ENDS]}…{trait.value[-_WALLET_ENDS:]}"
    return printable(trait.value, _SHOWN_LENGTH)


def _counted(count: int, kind: Kind) -> str:
    plural = {Kind.REPOSITORY: "repositories", Kind.CLIENT: "client addresses"}
    return f"one {kind}" if count == 1 else f"{count:,} {plural.get(kind, f'{kind}s')}"
