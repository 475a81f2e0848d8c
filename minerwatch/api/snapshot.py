"""The JSON that the agent's socket serves: a snapshot, and the agent's status.

The snapshot is a list with one object per container; its keys are ContainerStatus's fields.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import msgspec

from minerwatch.api.types import AgentStatus, ContainerStatus, NodeReport
from minerwatch.errors import NOT_JSON, SnapshotError

_Kind = TypeVar("_Kind")


def encode(statuses: Iterable[ContainerStatus]) -> bytes:
    """Return the snapshot's JSON, in the order given."""
    return msgspec.json.encode(list(statuses))


def decode(snapshot: bytes) -> tuple[ContainerStatus, ...]:
    """Return a snapshot's containers; keys that this version does not know are ignored.

    Raises SnapshotError if it is no snapshot.
    """
    return _decoded(tuple[ContainerStatus, ...], snapshot, "answer is not a snapshot")


def encode_agent(status: AgentStatus) -> bytes:
    """Return the JSON of the socket's ``/status``."""
    return msgspec.json.encode(status)


def decode_agent(status: bytes) -> AgentStatus:
    """Return an agent's status; raises SnapshotError if it is invalid."""
    return _decoded(AgentStatus, status, "status is invalid")


def decode_report(printed: bytes) -> NodeReport:
    """Return the output of ``minerwatch snapshot``, with or without ``--with-status``.

    Raises SnapshotError if it is neither.
    """
    if printed.lstrip()[:1] != b"{":
        return NodeReport(decode(printed))
    return _decoded(NodeReport, printed, "answer is not a snapshot")


def _decoded(kind: type[_Kind], data: bytes, what_is_wrong: str) -> _Kind:
    try:
        return msgspec.json.decode(data, type=kind)
    except NOT_JSON as error:
        raise SnapshotError(f"the agent's {what_is_wrong}: {error}") from error
