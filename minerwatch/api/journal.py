"""Lines of a node's journal: verdicts, actions, the agent's starts and stops, CPU usage over time.

One JSON object a line, with the version ``v`` and a ``kind``. Within a version keys are only added.
Arguments, connections and users of processes are never in it; of a private rule, only the id.
"""

from __future__ import annotations

import hashlib

import msgspec

from minerwatch.errors import NOT_JSON
from minerwatch.untrusted_text.display import printable

VERSION = 1
_MAX_NAME_BYTES = 160


def container_key(cgroup: str) -> str:
    """Return 16 digits that name a container on its node: those of its cgroup's path."""
    return hashlib.sha256(cgroup.encode("utf-8", "backslashreplace")).hexdigest()[:16]


def fit_name(text: str) -> str:
    """Return text fit for a line, bounded in bytes: escapes and letters have several."""
    return printable(text, _MAX_NAME_BYTES).encode()[:_MAX_NAME_BYTES].decode(errors="ignore")


class Line(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """Keys of every line."""

    v: int = VERSION
    at: str  # RFC 3339 in UTC, by the node's clock
    node: str


class AgentLine(Line, frozen=True, kw_only=True, tag="agent"):
    """The agent starts or stops; a stop that is missing was a crash."""

    event: str  # start, stop
    version: str


class RuleScore(msgspec.Struct, frozen=True):
    """A rule behind a verdict."""

    rule: str
    title: str
    signal: str
    score: float


class VerdictLine(Line, frozen=True, kw_only=True, tag="verdict"):
    """A container's level changes, or the container is gone (``level``: gone)."""

    key: str  # ``container_key``
    namespace: str
    pod: str
    pod_uid: str
    container: str
    container_id: str
    image: str
    owner: str
    level: str
    previous: str
    score: float
    abuse: str
    since: str  # when the level was reached
    started: str  # when the pod was made; "": unknown
    cpu_cores: float
    cpu_hours: float
    rules: tuple[RuleScore, ...]  # strongest first
    left_out: int = 0  # lines about this container that were dropped before this one
    delay_s: float | None = None  # from the start of its process to likely or above, when reached
    gpu_hours: float | None = None  # so far; None: it has used no GPU, or that is not known
    gpu_joules: float | None = None  # of GPUs that only it used; None: as above


class ActionLine(Line, frozen=True, kw_only=True, tag="action"):
    """An action on a pod was carried out, tried or undone."""

    id: str  # of the audit log's record
    namespace: str
    pod: str
    pod_uid: str
    owner: str
    action: str
    outcome: str
    dry_run: bool


class Usage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """CPU and GPU usage of one container in one period."""

    key: str  # ``container_key``
    namespace: str = ""
    pod: str = ""
    container: str
    owner: str = ""
    level: str = "clear"  # the highest in the period
    cpu_cores: float  # mean
    gpus: float | None = None  # kept busy while flagged, mean; None: none, or not known
    gpu_watts: float | None = None  # of GPUs that only it used, while flagged; None: as above


class UsageLine(Line, frozen=True, kw_only=True, tag="usage"):
    """CPU usage in the ``seconds`` before ``at``; time that no such line covers is a gap."""

    seconds: float  # by the monotonic clock
    cores: int  # of the machine
    cpu_cores: float  # mean of all containers together
    flagged_cpu_cores: float  # of those that were at suspicious or above
    containers: tuple[Usage, ...]  # the busiest, and flagged ones
    left_out: int = 0  # flagged containers that are not among them


AnyLine = AgentLine | VerdictLine | ActionLine | UsageLine

_decoder = msgspec.json.Decoder(AnyLine)


def encode(line: AnyLine) -> bytes:
    """Return the line with its line feed."""
    return msgspec.json.encode(line) + b"\n"


def decode(line: bytes) -> AnyLine | None:
    """Return a line; None if it is damaged, of a later version or of an unknown kind."""
    try:
        decoded: AnyLine = _decoder.decode(line)
    except NOT_JSON:
        return None
    return decoded if decoded.v <= VERSION else None
