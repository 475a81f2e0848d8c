"""Content of the budget's Lease: slots that are taken and owners that are flagged, as JSON. Pure.

Slots are in two annotations, one for enforced actions and one for dry runs:
``[[id, node, unix_s], …]``. A third has the owners that each rule confirms, both as hashes:
``[[rule, owner, unix_s], …]``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import msgspec

from minerwatch.culling.records import HOUR_S
from minerwatch.errors import NOT_JSON
from minerwatch.format import micro_time
from minerwatch.kube.client import ApiError, decoded
from minerwatch.kube.objects import Metadata

LEASE = "minerwatch-cull-budget"
IN_EARNEST = "minerwatch.io/actions"
DRY_RUNS = "minerwatch.io/dry-runs"
FLAGGED = "minerwatch.io/flagged"
FLAGGED_S = 900.0  # an owner counts as flagged for so long after the last agent that wrote it
MAX_SLOTS = 1100  # no budget permits more than 1,000 an hour
MAX_FLAGS = 400
_ID_DIGITS = 24
_FLAG_DIGITS = 12
_MAX_ANNOTATION_BYTES = 120 << 10  # all annotations of an object may have 256 KiB together
_SUMMARY = "Actions of minerwatch within the last hour; deleting this frees the whole budget."

_Entry = TypeVar("_Entry")


class Slot(msgspec.Struct, array_like=True, frozen=True):
    """A slot of the hour's budget, taken by one action."""

    id: str
    node: str
    unix_s: float


class Flag(msgspec.Struct, array_like=True, frozen=True):
    """An owner that a rule confirms on some node; both as digests."""

    rule: str
    owner: str
    unix_s: float


class _Lease(msgspec.Struct):
    metadata: Metadata
    spec: dict[str, object] | None = None


@dataclass(frozen=True, slots=True)
class LeaseState:
    """The Lease as read, or before it is written."""

    lease: dict[str, Any] | None  # None: it does not exist
    in_earnest: tuple[Slot, ...]
    dry_runs: tuple[Slot, ...]
    server_unix_s: float
    at_s: float  # monotonic
    flags: tuple[Flag, ...] = ()

    def slots(self, *, dry_run: bool) -> tuple[Slot, ...]:
        """Return the slots of one of the two lists."""
        return self.dry_runs if dry_run else self.in_earnest

    def with_slots(self, slots: tuple[Slot, ...], *, dry_run: bool) -> LeaseState:
        """Replace one of the two lists."""
        return replace(self, dry_runs=slots) if dry_run else replace(self, in_earnest=slots)

    @property
    def current_flags(self) -> list[Flag]:
        """Return the flags that have not expired."""
        return [flag for flag in self.flags if self.server_unix_s - flag.unix_s < FLAGGED_S]

    def missing_flags(
        self, wanted: Iterable[tuple[str, str]], most_owners: int
    ) -> list[tuple[str, str]]:
        """Return the (rule, owner) pairs to write; none for a rule with ``most_owners``."""
        fresh = {
            (flag.rule, flag.owner)
            for flag in self.flags
            if self.server_unix_s - flag.unix_s < FLAGGED_S / 2
        }
        return [
            (rule, owner)
            for rule, owner in wanted
            if (digest(rule), digest(owner)) not in fresh
            and sum(each == digest(rule) for each, _ in fresh) < most_owners
        ]

    def flags_with(self, added: Iterable[tuple[str, str]]) -> tuple[Flag, ...]:
        """Return the current flags and ``added``; the oldest are dropped if there are too many."""
        flags = {(flag.rule, flag.owner): flag for flag in self.current_flags}
        for rule, owner in added:
            key = (digest(rule), digest(owner))
            flags[key] = Flag(*key, self.server_unix_s)
        return tuple(sorted(flags.values(), key=lambda flag: flag.unix_s)[-MAX_FLAGS:])


def short_id(record_id: str) -> str:
    """Return the id of an action's slot."""
    return hashlib.sha256(record_id.encode()).hexdigest()[:_ID_DIGITS]


def digest(name: str) -> str:
    """Return a rule or an owner as written to the Lease."""
    return hashlib.sha256(name.encode("utf-8", "backslashreplace")).hexdigest()[:_FLAG_DIGITS]


def owner_count(flags: Iterable[Flag], rule: str) -> int:
    """Return how many owners a rule flags."""
    return len({flag.owner for flag in flags if flag.rule == digest(rule)})


def decoded_lease(body: bytes) -> dict[str, Any]:
    """Parse a Lease. Raises ApiError if it is none."""
    if not decoded(body, _Lease, f"the Lease {LEASE}").metadata.resource_version:
        raise ApiError("garbage", f"{LEASE}: the Lease has no resource version")
    return decoded(body, dict[str, Any], f"the Lease {LEASE}")


def lease_state(lease: dict[str, Any] | None, server_unix_s: float, at_s: float) -> LeaseState:
    """Parse the annotations of a Lease. Raises ApiError if one of them is damaged."""
    return LeaseState(
        lease,
        entries(lease, IN_EARNEST, Slot, MAX_SLOTS),
        entries(lease, DRY_RUNS, Slot, MAX_SLOTS),
        server_unix_s,
        at_s,
        entries(lease, FLAGGED, Flag, MAX_FLAGS),
    )


def entries(
    lease: dict[str, Any] | None, name: str, kind: type[_Entry], most: int
) -> tuple[_Entry, ...]:
    """Parse one annotation. Raises ApiError if it is damaged: then no action is permitted."""
    if lease is None:
        return ()
    text = (lease["metadata"].get("annotations") or {}).get(name, "[]")
    try:
        found: list[_Entry] = msgspec.json.decode(text, type=list[kind])  # type: ignore[valid-type]
    except NOT_JSON as error:
        raise ApiError(
            "garbage",
            f"Lease {LEASE}: its annotation {name} is damaged, so nothing is culled: delete the"
            " Lease once no action was done within the last hour",
        ) from error
    if len(found) > most:
        raise ApiError("garbage", f"Lease {LEASE}: more than {most} entries in {name}")
    return tuple(found)


def lease_body(state: LeaseState, namespace: str, node: str) -> dict[str, Any]:
    """Return the Lease to write; fields of other writers are kept."""
    lease: dict[str, Any] = dict(state.lease or {})
    metadata = dict(lease.get("metadata") or {"name": LEASE, "namespace": namespace})
    annotations = {
        "kubernetes.io/description": _SUMMARY,
        **(metadata.get("annotations") or {}),
        IN_EARNEST: _encoded(state.in_earnest),
        DRY_RUNS: _encoded(state.dry_runs),
        FLAGGED: _encoded(state.flags),
    }
    before = lease.get("spec") or {}
    spec = {
        **before,
        "holderIdentity": node or before.get("holderIdentity") or "unknown",
        "leaseDurationSeconds": int(HOUR_S),
        "renewTime": micro_time(state.server_unix_s),
    }
    return {
        **lease,
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {**metadata, "annotations": annotations},
        "spec": spec,
    }


def _encoded(listed: tuple[Slot, ...] | tuple[Flag, ...]) -> str:
    text = msgspec.json.encode(listed).decode()
    if len(text) > _MAX_ANNOTATION_BYTES:
        raise ApiError("garbage", f"Lease {LEASE}: it has no room for another action")
    return text
