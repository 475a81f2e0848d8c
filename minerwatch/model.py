"""Immutable types of what the agent knows; the enums among them are those of ``kinds``.

Text in these types is valid Unicode without surrogates, but otherwise as a tenant chose it: it may
hold newlines and terminal escapes, and is escaped where it is printed (``untrusted_text``).
Names that end in ``_s`` are seconds; ``at_s`` and ``since_s`` count from the boot, suspension
included (CLOCK_BOOTTIME), as do the start times of processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from minerwatch.kinds import (
    Abuse as Abuse,
)
from minerwatch.kinds import (
    Action as Action,
)
from minerwatch.kinds import (
    AnnouncedLevel as AnnouncedLevel,
)
from minerwatch.kinds import (
    BanKind as BanKind,
)
from minerwatch.kinds import (
    ContainerKind as ContainerKind,
)
from minerwatch.kinds import (
    CullableAbuse as CullableAbuse,
)
from minerwatch.kinds import (
    Level as Level,
)
from minerwatch.kinds import (
    MachineTotals as MachineTotals,
)
from minerwatch.kinds import (
    Maturity as Maturity,
)
from minerwatch.kinds import (
    MessageFormat as MessageFormat,
)
from minerwatch.kinds import (
    Outcome as Outcome,
)
from minerwatch.kinds import (
    OwnerKind as OwnerKind,
)
from minerwatch.kinds import (
    PodContainerKind as PodContainerKind,
)
from minerwatch.kinds import (
    Signal as Signal,
)

FactValue = str | bool | int | float | tuple[str, ...]
Facts = Mapping[str, FactValue]
"""What rules are matched against: Sigma field name -> value.

A field that was not measured is absent. A tuple matches if any of its elements does.
"""


@dataclass(frozen=True, slots=True)
class Container:
    """One cgroup that holds a workload.

    It owns its processes and those of every cgroup below it, up to the next container.
    """

    cgroup: str  # path below the hierarchy's root, "/" for the host
    cgroup_inode: int  # of its folder: differs if a path is used again
    kind: ContainerKind
    container_id: str  # the runtime's id; a unit's name; "host"
    runtime: str  # containerd, cri-o, docker, podman, systemd, kernel; "" if unknown
    pod_uid: str = ""  # with dashes where it is a UUID; 32 hex digits for a static pod
    outer_cgroup: str = ""  # of the container that this one is nested in
    outermost_cgroup: str = ""  # of the outermost of these

    @property
    def owner(self) -> str:
        """Return the unit of fairness and of bounds: the pod, the user, or the outermost container.

        A user may have any number of sessions, each a unit.
        """
        if not self.pod_uid and self.cgroup.startswith("/user.slice/"):
            return "/".join(self.cgroup.split("/", 3)[:3])
        return self.pod_uid or self.outermost_cgroup or self.cgroup

    @property
    def key(self) -> ContainerKey:
        """Return its identity, which a later container at the same path does not share."""
        return ContainerKey(self.cgroup, self.cgroup_inode)


class ContainerKey(NamedTuple):
    """A container's identity for as long as the node is up."""

    cgroup: str
    cgroup_inode: int


@dataclass(frozen=True, slots=True)
class CpuLimit:
    """A container's CPU limit, and its throttling since it started."""

    cores: float | None  # None: no limit
    periods: int  # enforcement periods that have passed
    throttled_periods: int


class ProcessId(NamedTuple):
    """A process's identity for as long as the node is up: pids are reused, this pair is not.

    ``start_ticks`` is field 22 of /proc/PID/stat (proc_pid_stat(5)): clock ticks since boot.
    """

    pid: int
    start_ticks: int


class FpSample(NamedTuple):
    """A thread's floating-point control word (MXCSR on x86-64, FPCR on arm64).

    With ``switches`` it is the word at the thread's last context switch, otherwise the word when it
    was read.
    """

    process: ProcessId
    tid: int
    switches: int | None  # so far, modulo 2^32; if it is unchanged, so is the word
    fp_control: int


CODE_OF_32_BITS = 1 << 63
"""Added to the address of code that ran in x86-64's mode of 32 bits, where the same bytes are other
instructions."""


class CodeSample(NamedTuple):
    """An address of code that a process executed.

    ``cgroup``: the id of its cgroup; 0: unknown. ``code``: the instructions there, if they were
    copied while they were executed. ``address``: CODE_OF_32_BITS is added to that of such code.
    ``tid``: of the thread; 0: unknown.
    """

    pid: int
    address: int
    cgroup: int
    code: bytes = b""
    tid: int = 0


PlainSample = tuple[int, int, int, bytes, int]
"""The fields of a CodeSample, without its class, because there are thousands."""


class CodeSamples(NamedTuple):
    """The samples since the last read. Each stands for ``period_s`` of CPU time, on average."""

    period_s: float
    samples: Sequence[PlainSample]


@dataclass(frozen=True, slots=True)
class Process:
    """The identity of a process, read once for each program that it runs."""

    id: ProcessId
    parent_pid: int  # 0: none in the agent's pid namespace
    comm: str  # the kernel's name, 15 bytes at most
    command_line: str  # as ``arguments`` writes it; "" if hidden
    image: str  # path of the executable in its own mount namespace, without " (deleted)"
    current_directory: str
    uid: int
    user: str  # name of the uid on the node, or its number
    exe_deleted: bool
    exe_in_memory: bool  # memfd_create(2)
    command_line_hidden: bool  # empty, a title, or not readable within the deadline
    kernel_thread: bool  # by PF_KTHREAD, not by its name
    program: int  # as in ProcessStat


class ProcessStat(NamedTuple):
    """One reading of /proc/PID/stat."""

    id: ProcessId
    parent_pid: int
    comm: str
    cpu_s: float  # user and system time of all its threads since it started
    threads: int
    kernel_thread: bool
    program: int  # hash of the addresses of code, stack and arguments: new at each execve(2)


@dataclass(frozen=True, slots=True)
class Evidence:
    """One field that made a rule match: the value found, and the value that the rule names."""

    field: str
    observed: str | bool | int | float
    expected: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that matches a container or one of its processes."""

    rule: str  # the rule's id
    title: str
    signal: Signal
    score: float
    maturity: Maturity
    since_s: float  # when it began to match (its ``for:`` included)
    process: ProcessId | None  # None: the container itself
    evidence: tuple[Evidence, ...]
    private: bool = False  # by a private rule: only its id is shown, except beside command lines
    words_only: bool = False  # by one argument alone, or by words in a shell's script
    abuse: Abuse = Abuse.MINING
    filters: tuple[str, ...] = ()  # titles of the Sigma filters that narrow the rule


def public_finding(finding: Finding) -> Finding:
    """Return the finding as outsiders may see it: of a private rule only the id."""
    if not finding.private:
        return finding
    return replace(finding, title=f"private rule {finding.rule}", evidence=(), filters=())


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of a container at one moment, with its reasons."""

    container: ContainerKey
    at_s: float
    score: float
    level: Level  # kept for some ticks when the score falls
    since_s: float  # when this level was reached
    findings: tuple[Finding, ...]  # highest score first


@dataclass(frozen=True, slots=True)
class Connection:
    """One established TCP connection."""

    address: str  # remote; IPv4 also where the socket is IPv6
    port: int  # remote
    since_s: float  # when it was first seen
    bytes_per_hour: float | None = None  # of data, both ways, since then; None: not counted
    segments_per_hour: float | None = None  # with data


@dataclass(frozen=True, slots=True)
class OpenSockets:
    """The TCP sockets that a process has open."""

    connections: tuple[Connection, ...] = ()  # that it opened itself, oldest first
    accepts: bool = False  # it listens, or has a connection that it accepted


@dataclass(frozen=True, slots=True)
class ProcessLoad:
    """A process with its CPU usage and its connections."""

    process: Process
    cpu_cores: float | None  # None: not measured, its container is idle
    connections: tuple[Connection, ...] = ()  # of suspects only, oldest first
    executed: Facts = field(default_factory=dict)  # of its executed code, if enough is known
    cpu_s: float | None = None  # CPU time in all; None, as below: its container is idle
    threads: int | None = None
    memory_bytes: int | None = None  # resident; None: it is idle
    gpu: Facts = field(default_factory=dict)  # of its use of GPUs; empty: it uses none


@dataclass(frozen=True, slots=True)
class Observation:
    """A container as of the last tick."""

    container: Container
    at_s: float
    cpu_cores: float | None  # None before the second reading
    cpu_s: float  # CPU time in all, without that of containers nested in it
    limit: CpuLimit | None  # None: not measured
    throttled_share: float | None  # of periods since the tick before
    verdict: Verdict
    process_count: int
    processes: tuple[ProcessLoad, ...]  # with findings first, then by CPU usage
    executed: Facts = field(default_factory=dict)  # of the code of all its processes together
    gpu: Facts = field(default_factory=dict)  # of its use of GPUs; empty: it has used none
    uses_host_network: bool = False  # so that it has no network counters of its own


@dataclass(frozen=True, slots=True)
class Change:
    """A verdict with another level than the one before."""

    observation: Observation
    previous: Level


@dataclass(frozen=True, slots=True)
class PodContainer:
    """One container of a pod, as the API server knows it."""

    container_id: str  # without the runtime's prefix; "" if it has none yet
    name: str
    image: str
    image_digest: str  # "sha256:…"; "" if unknown
    kind: PodContainerKind
    gpus: float | None = 0.0  # requested, or a share of one; None: it claims devices by name


@dataclass(frozen=True, slots=True)
class OwnerReference:
    """The object that created a pod, and would create it again."""

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
    priority_class: str
    service_account: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]  # only those that the configuration names
    environment: Mapping[str, str]  # plain values of the variables that the configuration names
    owners: tuple[OwnerReference, ...]
    containers: tuple[PodContainer, ...]
    mirror_uid: str  # of a static pod: the uid that its cgroup bears; "" for all others
    is_ending: bool  # its deletion was requested
    ends_unix_s: float | None = None  # when its grace period is over; None: not known

    @property
    def is_of_daemon_set(self) -> bool:
        """Return True if it names a DaemonSet as its controller."""
        return next((each.kind for each in self.owners if each.is_controller), "") == "DaemonSet"


@dataclass(frozen=True, slots=True)
class Owner:
    """The tenant behind a pod: the one to notify, or to ban."""

    name: str
    source: str  # where it was found: "label hub.jupyter.org/username"


@dataclass(frozen=True, slots=True)
class Attribution:
    """One name of the people behind a pod, and where it was found."""

    kind: OwnerKind
    name: str
    source: str  # "label hub.jupyter.org/username"
    is_claim: bool = False  # the pod's creator, a tenant, may have chosen the name

    def __str__(self) -> str:
        """Return the name; one that a tenant may have chosen is marked."""
        return f"{self.name} (claimed)" if self.is_claim else self.name


@dataclass(frozen=True, slots=True)
class Identity:
    """The pod and the tenant that a container belongs to, according to the cluster."""

    pod: Pod
    container: str  # its name in the pod; its short id if the API does not know it
    image: str  # "" if the API does not know it
    owner: Owner | None
    is_named: bool = True  # by the API; or never will be, being nested in one that is
    owners: tuple[Attribution, ...] = ()  # all that is known, side by side
