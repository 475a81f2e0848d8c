"""The vocabulary as frozen dataclasses; imports nothing of ours.

Text in these types is valid Unicode without surrogates, but otherwise as hostile as whoever chose
it: it may hold newlines and terminal escapes. Whoever prints it escapes it (``report.text``).
Times named ``…_s`` are seconds; ``at_s`` and ``since_s`` are on the monotonic clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import NamedTuple

FactValue = str | bool | int | float | tuple[str, ...]
Facts = Mapping[str, FactValue]
"""The flat record that rules are matched against: Sigma field name -> value.

A field that was not measured is absent. A tuple is a list of which any one may match.
"""


class Signal(StrEnum):
    """The family of evidence that a rule speaks for; signals are independent of each other."""

    IDENTITY = "identity"
    NETWORK = "network"
    COMPUTE = "compute"
    CONTENT = "content"
    EXECUTION = "execution"
    BEHAVIOUR = "behaviour"


class Level(IntEnum):
    """How sure a verdict is; the value is the lowest score that reaches it."""

    CLEAR = 0
    SUSPICIOUS = 30
    LIKELY = 70
    CONFIRMED = 90

    @classmethod
    def of(cls, score: float) -> Level:
        """The level that ``score`` (0 to 100) reaches."""
        return next(level for level in reversed(cls) if score >= level.value)

    @property
    def label(self) -> str:
        """The level's word, as metrics, logs and tables spell it."""
        return self.name.lower()

    @property
    def highest_score(self) -> float:
        """The highest score, to two decimals, that is still of this level."""
        above = [level.value for level in Level if level > self]
        return min(above) - 0.01 if above else 100.0


class Maturity(StrEnum):
    """A rule's ``status``: what its findings may be used for."""

    EXPERIMENTAL = "experimental"  # metrics and log only
    TEST = "test"  # and Kubernetes Events
    STABLE = "stable"  # and may count towards culling


class ContainerKind(StrEnum):
    """What holds the workload."""

    POD = "pod"  # a container of a Kubernetes pod, or one nested below it
    ENGINE = "engine"  # a container of docker, podman or containerd, outside Kubernetes
    UNIT = "unit"  # a systemd service or scope
    HOST = "host"  # everything that is in none of the others


@dataclass(frozen=True, slots=True)
class Container:
    """One cgroup that holds a workload.

    It owns its processes and those of every cgroup below it, up to the next container.
    """

    cgroup: str  # path below the hierarchy's root, "/" for the host
    cgroup_inode: int  # of the cgroup's folder: tells a path that is used again from the old one
    kind: ContainerKind
    container_id: str  # the runtime's id; a unit's name; "host"
    runtime: str  # containerd, cri-o, docker, podman, systemd, kernel; "" if not to be told
    pod_uid: str = ""  # with dashes where it is a UUID; 32 hex digits for a static pod
    outer_cgroup: str = ""  # of the container that this one is nested in
    outermost_cgroup: str = ""  # of the one that all of these are nested in; "": in none

    @property
    def owner(self) -> str:
        """Return what takes turns and shares bounds: the pod, or else the outermost container."""
        return self.pod_uid or self.outermost_cgroup or self.cgroup

    @property
    def key(self) -> ContainerKey:
        """What tells this container from all others, also from later ones at the same path."""
        return ContainerKey(self.cgroup, self.cgroup_inode)


class ContainerKey(NamedTuple):
    """A container's identity for as long as the node is up."""

    cgroup: str
    cgroup_inode: int


@dataclass(frozen=True, slots=True)
class CpuLimit:
    """A container's CPU bandwidth settings and what they cost it (counted since it started)."""

    cores: float | None  # None: no limit
    periods: int  # enforcement periods that have passed
    throttled_periods: int  # those in which the container was stopped
    throttled_s: float


class ProcessId(NamedTuple):
    """A process for as long as the node is up: pids are used again, this pair is not.

    ``start_ticks`` is field 22 of /proc/PID/stat (proc_pid_stat(5)): clock ticks since boot.
    """

    pid: int
    start_ticks: int


class FpSample(NamedTuple):
    """A thread's floating-point control word (MXCSR on x86-64, FPCR on arm64).

    With ``switches`` it is that of the thread's last switch-out, without that of the moment at
    which it was read.
    """

    process: ProcessId
    tid: int
    switches: int | None  # so far, modulo 2^32; without a new one the word is the old one, too
    fp_control: int


@dataclass(frozen=True, slots=True)
class Process:
    """What is read once of a process: who it is, not what it does."""

    id: ProcessId
    parent_pid: int  # 0: none that the agent's pid namespace shows
    comm: str  # the kernel's name, 15 bytes at most
    command_line: str  # as ``arguments`` writes it; "" where hidden
    image: str  # path of the executable in its own mount namespace, without " (deleted)"
    current_directory: str
    uid: int
    user: str  # name of the uid on the node, or its number
    exe_deleted: bool
    exe_in_memory: bool  # memfd_create(2)
    command_line_hidden: bool  # empty, or not to be read within the deadline
    kernel_thread: bool  # a real one (PF_KTHREAD), not one that calls itself so
    program: tuple[int, int, int]  # as in ProcessStat, when this was read


class ProcessStat(NamedTuple):
    """One reading of /proc/PID/stat."""

    id: ProcessId
    parent_pid: int
    comm: str
    cpu_s: float  # user and system time of all its threads since it started
    threads: int
    kernel_thread: bool
    program: tuple[int, int, int]  # addresses of code, stack, arguments: each execve(2) lays anew


@dataclass(frozen=True, slots=True)
class Evidence:
    """Why a rule held: one field, what it was, and what the rule asked for."""

    field: str
    observed: str | bool | int | float
    expected: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that holds on a container or on one of its processes."""

    rule: str  # the rule's id
    title: str
    signal: Signal
    score: float
    maturity: Maturity
    since_s: float  # when it began to hold (its ``for:`` included)
    process: ProcessId | None  # None: it speaks of the container
    evidence: tuple[Evidence, ...]
    private: bool = False  # a private rule's: outside the socket only its id is told
    words_only: bool = False  # held by one argument alone, or by words in a shell's script

    @property
    def public_title(self) -> str:
        """What may be told to anybody."""
        return f"private rule {self.rule}" if self.private else self.title


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is thought of a container at one moment, and why."""

    container: ContainerKey
    at_s: float
    score: float
    level: Level  # held up for some ticks when the score falls
    since_s: float  # when this level was reached
    findings: tuple[Finding, ...]  # highest score first


@dataclass(frozen=True, slots=True)
class Connection:
    """One established TCP connection."""

    address: str  # remote; IPv4 also where the socket is IPv6
    port: int  # remote
    since_s: float  # when it was first seen


@dataclass(frozen=True, slots=True)
class ProcessLoad:
    """A process, what it burns, and whom it is connected to."""

    process: Process
    cpu_cores: float | None  # None: not measured, its container is idle
    connections: tuple[Connection, ...] = ()  # of suspects only, oldest first


@dataclass(frozen=True, slots=True)
class Observation:
    """A container as it was found at the last tick."""

    container: Container
    at_s: float
    cpu_cores: float | None  # None before the second reading
    cpu_s: float  # CPU time in all, without that of containers nested in it
    limit: CpuLimit | None  # None: not measured
    throttled_share: float | None  # of the periods since the tick before
    verdict: Verdict
    process_count: int
    processes: tuple[ProcessLoad, ...]  # those with findings, then those that burn most


@dataclass(frozen=True, slots=True)
class Change:
    """A verdict whose level is another than at the tick before."""

    observation: Observation
    previous: Level


# What the cluster says.


class PodContainerKind(StrEnum):
    """How a container belongs to its pod."""

    MAIN = "main"
    INIT = "init"
    SIDECAR = "sidecar"  # an init container that is restarted always
    EPHEMERAL = "ephemeral"  # kubectl debug


@dataclass(frozen=True, slots=True)
class PodContainer:
    """One container of a pod, as the API server knows it."""

    container_id: str  # without the runtime's prefix, "" while it has none
    name: str
    image: str
    image_digest: str  # "sha256:…", "" where it is not told
    kind: PodContainerKind
    cpu_request_cores: float | None
    cpu_limit_cores: float | None


@dataclass(frozen=True, slots=True)
class OwnerReference:
    """What made a pod, and would make it again."""

    kind: str
    name: str
    uid: str
    is_controller: bool


@dataclass(frozen=True, slots=True)
class Pod:
    """The part of a pod that minerwatch uses."""

    uid: str
    namespace: str
    name: str
    node: str
    created_unix_s: float
    phase: str  # Pending, Running, Succeeded, Failed, Unknown
    qos: str  # Guaranteed, Burstable, BestEffort
    priority_class: str
    service_account: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]  # only those that the configuration names
    environment: Mapping[str, str]  # plain values of the variables that the configuration names
    owners: tuple[OwnerReference, ...]
    containers: tuple[PodContainer, ...]
    mirror_uid: str  # of a static pod: the uid that its cgroup bears; "" for all others
    is_ending: bool  # its deletion has been asked for
    ends_unix_s: float | None = None  # when its grace period is over; None: not known


@dataclass(frozen=True, slots=True)
class Owner:
    """Who can be told, or banned."""

    name: str
    source: str  # what it was taken from: "label hub.jupyter.org/username"


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose a container is, as the cluster says."""

    pod: Pod
    container: str  # its name in the pod; of one that the API does not know, its short id
    image: str  # "" where the API does not know the container
    owner: Owner | None
    is_named: bool = True  # by the API, or it never will be: it is nested in one that is


# What may be done, and why not.


class Action(StrEnum):
    """What is done about a container or its pod, the mildest first."""

    OBSERVE = "observe"
    LABEL = "label"  # the pod, for a NetworkPolicy to quarantine it
    STOP = "stop"  # the processes that are sure to be miners: SIGSTOP, reversible
    KILL = "kill"  # only these processes
    EVICT = "evict"  # the pod, through the Eviction API: PodDisruptionBudgets are honoured
    DELETE = "delete"  # the pod


# What is published: the snapshot, one ContainerStatus a container. Field names are the JSON's.


class Outcome(StrEnum):
    """How an action ended."""

    PENDING = "pending"
    DONE = "done"
    DRY_RUN = "dry-run"  # it would have been done
    REFUSED = "refused"  # by the API server: a PodDisruptionBudget, a precondition, RBAC
    FAILED = "failed"
    UNKNOWN = "unknown"  # the agent ended before it knew
    WITHDRAWN = "withdrawn"  # nothing was tried: no budget, or the second look objected
    RELEASED = "released"  # a person undid what had been done
    STARTED = "started"  # no action: the log begins here, and tells nothing of what was before
