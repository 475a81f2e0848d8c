"""Orders to an agent over its socket, and its answers. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, TypeVar

import msgspec

from minerwatch.api.history import NodeHistory
from minerwatch.api.types import (
    ContainerStatus,
)
from minerwatch.errors import NOT_JSON, OrderError
from minerwatch.kinds import Action, BanKind, OwnerKind

CULL, PREVIEW, RELEASE, AUDIT_LINES = "/cull", "/cull/preview", "/release", "/culled"
RELEASE_ALL = "/release/all"
BAN, LIFT, BANS, SEEN = "/ban", "/ban/lift", "/bans", "/ban/seen"
HISTORY = "/history"
"""Paths of the socket that are for POST; a preview decides, but tries nothing."""

MAX_HOURS = 24 * 90

_Name = Annotated[str, msgspec.Meta(max_length=4096)]
_Count = Annotated[int, msgspec.Meta(ge=0)]
_Kind = TypeVar("_Kind")


class ReleaseOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A container whose pod is to be released; all three fields must match."""

    cgroup: _Name
    container_id: _Name
    pod_uid: _Name


class CullOrder(ReleaseOrder, frozen=True, forbid_unknown_fields=True):
    """An action on a container, to be taken under the policy."""

    action: Action
    dry_run: bool = False


class ReleaseAllOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Undo everything that culling did on the node."""

    namespace: _Name = ""  # only pods of this one; "": all
    retire: bool = False  # and act no more until the agent is restarted
    forget: bool = False  # and remove audit log, evidence and the budget's Lease; retires, too


class HoursOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request for the last hours: of the audit log, or of the incidents."""

    hours: Annotated[float, msgspec.Meta(gt=0, le=MAX_HOURS)]


class BanOrder(ReleaseOrder, frozen=True, forbid_unknown_fields=True):
    """Ban the names behind a container's pod, under the policy."""

    kinds: tuple[BanKind, ...]
    by: _Name  # the person that asks, as the client says
    dry_run: bool = True
    reason: Annotated[str, msgspec.Meta(max_length=300)] = ""
    duration_s: Annotated[float, msgspec.Meta(gt=0, le=366 * 86400)] | None = None
    unflagged: dict[str, _Count | None] = {}  # name -> other nodes' pods, not flagged


class LiftOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Lift the bans of a name."""

    name: _Name
    by: _Name


class SeenName(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A name that pods have."""

    kind: OwnerKind
    name: _Name


class SeenOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Count the unflagged pods with these names, without the pod ``pod_uid``."""

    names: Annotated[tuple[SeenName, ...], msgspec.Meta(max_length=64)]
    pod_uid: _Name


class SeenAnswer(msgspec.Struct, frozen=True):
    """Unflagged pods by name; None: not known."""

    unflagged: dict[str, _Count | None]


class BansOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """List the bans in force."""


def ban_order(
    status: ContainerStatus, kinds: Iterable[BanKind], by: str, **options: Any
) -> BanOrder:
    """Return the order to ban the names behind the container that ``status`` shows."""
    return BanOrder(status.cgroup, status.container_id, status.pod_uid, tuple(kinds), by, **options)


def cull_order(status: ContainerStatus, action: Action, *, dry_run: bool) -> CullOrder:
    """Return the order to do ``action`` about the container that ``status`` shows."""
    return CullOrder(status.cgroup, status.container_id, status.pod_uid, action, dry_run)


def release_order(status: ContainerStatus) -> ReleaseOrder:
    """Return the order to release the pod of the container that ``status`` shows."""
    return ReleaseOrder(status.cgroup, status.container_id, status.pod_uid)


def encode(order: object) -> bytes:
    """Return an order, or an answer, as it is sent."""
    return msgspec.json.encode(order)


def decode(body: bytes, kind: type[_Kind], problem: str = "invalid order") -> _Kind:
    """Return an order of ``kind``. Raises OrderError if it is invalid."""
    try:
        return msgspec.json.decode(body, type=kind)
    except NOT_JSON as error:
        raise OrderError(f"{problem}: {error}") from error


def history_answer(body: bytes) -> NodeHistory:
    """Return the incidents of a node. Raises OrderError if the answer is invalid."""
    return decode(body, NodeHistory, "the agent's answer cannot be parsed")


def answer_of(body: bytes, kind: type[_Kind]) -> _Kind:
    """Return the answer of ``kind`` to an order. Raises OrderError if it is invalid."""
    try:
        return msgspec.json.decode(body, type=kind)
    except NOT_JSON as error:
        raise OrderError(
            f"the agent's answer cannot be parsed: {error}; the order may be done: check the pod"
        ) from error
