"""Answers of the agent over its socket, as types. Times are RFC 3339 in UTC."""

from __future__ import annotations

from msgspec import Struct, field

from minerwatch.kinds import MachineTotals


class FindingStatus(Struct, frozen=True):
    """A finding as the snapshot shows it; times are RFC 3339 in UTC."""

    rule: str
    title: str
    signal: str
    score: float
    status: str
    since: str
    pid: int | None
    evidence: dict[str, str | bool | int | float]  # field -> observed
    expected: dict[str, str]  # field -> pattern or threshold
    private: bool = False  # a private rule's
    words_only: bool = False  # its words stand in one argument or in a shell's script
    abuse: str = ""  # mining, cracking, …; "": an older agent
    filters: tuple[str, ...] = ()  # titles of the Sigma filters that narrow the rule
    counted: bool = True  # False: of another process of the host, or of a lesser kind of abuse


class ConnectionStatus(Struct, frozen=True):
    """A connection as the snapshot shows it."""

    address: str
    port: int
    since: str  # when it was first seen


class ProcessStatus(Struct, frozen=True):
    """A process in the snapshot: those with findings first, then those with most CPU usage."""

    pid: int
    parent_pid: int
    comm: str
    command_line: str
    image: str
    user: str
    cpu_cores: float | None  # None: not measured, its container is idle
    connections: tuple[ConnectionStatus, ...] = ()  # of suspects only, oldest first
    memory_bytes: int | None = None  # resident; None, as below: not read, or not permitted
    threads: int | None = None
    open_files: int | None = None
    executed: dict[str, float] = field(default_factory=dict)  # facts on its executed code
    cpu_seconds: float | None = None  # CPU time in all; None: its container is idle
    gpus: float | None = None  # GPUs kept busy; None: it uses none, or not known
    gpu_memory_bytes: int | None = None  # as above


class ProbeReport(Struct, frozen=True):
    """State of one probe."""

    name: str
    state: str  # on, off (by its setting), unavailable, failing
    reason: str = ""  # and what would mend it
    source: str = ""  # in use, of several


class TickReport(Struct, frozen=True):
    """The last tick."""

    ended: str  # RFC 3339
    duration_s: float
    containers: int
    processes: int


class ClusterReport(Struct, frozen=True):
    """Knowledge that an agent has of its cluster."""

    server: str
    pods: int  # of its node
    synced: str  # when they were last known to be so, RFC 3339; "": never
    unnamed: int  # containers of pods that the API server does not know


class AgentStatus(Struct, frozen=True):
    """An agent's version, rules, mode and troubles; older agents leave out what stands last."""

    node: str
    version: str
    started: str = ""  # RFC 3339, as all times
    interval_s: float = 0.0
    rules: dict[str, int] = field(default_factory=dict)  # status -> how many are in force
    broken_rules: int = 0
    culling: str = ""  # off, dry-run, enforce; "": not reported
    probes_off: dict[str, str] = field(default_factory=dict)  # name -> why
    blind_spots: tuple[str, ...] = ()
    troubles: tuple[str, ...] = ()  # what it cannot do now, and could
    machine: MachineTotals | None = None  # of the node; None: an older agent
    not_ready: str = ""  # why /readyz or /healthz fails; "": they do not
    kernel: str = ""
    cgroups: str = ""  # source of containers and their CPU time
    capabilities: tuple[str, ...] = ()
    metrics: str = ""  # URL
    rejected: tuple[str, ...] = ()  # errors of rule files, of the first ones
    last_tick: TickReport | None = None
    probes: tuple[ProbeReport, ...] = ()
    failing: dict[str, str] = field(default_factory=dict)  # source -> reasons and counts
    cluster: ClusterReport | None = None
    bounds: dict[str, int] = field(default_factory=dict)  # that were reached -> how often


class ActionStatus(Struct, frozen=True):
    """Something that was done about a pod, or tried, as the snapshot shows it."""

    at: str  # RFC 3339 in UTC, by the node's clock
    action: str
    outcome: str  # done, dry-run, refused, failed, unknown, withdrawn, released, pending
    dry_run: bool
    pids: tuple[int, ...]


class CullStatus(Struct, frozen=True):
    """The action that culling proposes for a container, or the reasons against it."""

    mode: str  # off, dry-run, enforce
    action: str  # "observe" where there is a reason not to act
    proposed: str  # what would be done if there were none
    dry_run: bool
    rung: int
    reasons: tuple[str, ...]  # sentences: why nothing is done
    pids: tuple[int, ...] = ()  # that stop and kill are for
    stopped: tuple[int, ...] = ()  # pids that minerwatch stopped, and that stand still
    history: tuple[ActionStatus, ...] = ()  # of the same pod, the newest first


class CullAnswer(Struct, frozen=True):
    """Result of an action that was ordered by hand."""

    node: str
    namespace: str
    pod: str
    container: str
    owner: str
    level: str
    score: float
    proposed: str  # the action that was asked for
    dry_run: bool
    acts: bool  # whether the policy permitted it
    reasons: tuple[str, ...]  # why not
    request: str  # what is, or would be, sent, word for word
    outcome: str = ""  # done, dry-run, refused, failed, unknown, withdrawn; "": nothing was tried
    message: str = ""  # from the API server or the kernel


class ReleaseAnswer(Struct, frozen=True):
    """Result of a release."""

    node: str
    namespace: str
    pod: str
    container: str
    resumed: tuple[int, ...]  # pids that go on now
    gone: tuple[int, ...]  # pids of processes that have ended
    label_removed: bool
    trouble: tuple[str, ...] = ()  # what could not be undone
    unpaused: bool = False  # a host's container, by its engine
    bans_lifted: int = 0


class BanStatus(Struct, frozen=True):
    """A ban, or a name that may be banned."""

    kind: str  # user, repository, address
    name: str
    values: dict[str, str]  # setting of hub or network -> what is added to it
    reason: str
    evidence: str  # id in the audit log of the node
    node: str
    by: str
    at: str  # RFC 3339
    until: str
    source: str = ""  # of the name
    objections: tuple[str, ...] = ()  # why it is not banned
    unflagged: int | None = None  # other pods of the name in seven days; None: not known


class BanAnswer(Struct, frozen=True):
    """Result of a ban that was ordered by hand."""

    node: str
    namespace: str
    pod: str
    dry_run: bool
    reasons: tuple[str, ...]  # why nothing of this pod is banned
    bans: tuple[BanStatus, ...]
    trouble: str = ""  # why they could not be kept


class LiftAnswer(Struct, frozen=True):
    """Result of lifting bans."""

    node: str
    lifted: tuple[BanStatus, ...]
    dry_run: bool


class ReleaseAllAnswer(Struct, frozen=True):
    """Everything that one node's agent undid of all that culling did there."""

    node: str
    released: tuple[ReleaseAnswer, ...]
    acts_no_more: bool  # until it is restarted
    forgotten: bool  # audit log, evidence and the budget's Lease are removed
    trouble: tuple[str, ...] = ()  # what concerns no single pod


class Unanswered(Struct, frozen=True):
    """A node of which nothing is known, and why."""

    node: str
    pod: str  # of its agent, as namespace/name; "": it has none
    reason: str


class OwnerStatus(Struct, frozen=True):
    """One name of the people behind a container, and where it was found."""

    source: str  # such as "annotation hub.jupyter.org/username"
    name: str
    kind: str = ""  # user, server, repository, ref, client, image, digest, controller, project, …
    claimed: bool = False  # a tenant may have chosen the name

    def __str__(self) -> str:
        """Return the name; one that a tenant may have chosen is marked."""
        return f"{self.name} (claimed)" if self.claimed else self.name


class GpuStatus(Struct, frozen=True):
    """A container's use of GPUs."""

    busy: float | None  # GPUs kept busy; None: not known
    limit: float | None  # requested by the pod; None: not known, or no pod
    requested: bool | None  # None, as above
    hours: float  # GPU time since it was first seen
    devices: int
    memory_bytes: int | None
    energy_joules: float | None  # of GPUs that it alone uses; None: not known


class ContainerStatus(Struct, frozen=True):
    """A container as the snapshot shows it."""

    node: str
    namespace: str
    pod: str
    container: str
    container_id: str
    kind: str
    runtime: str
    image: str
    cgroup: str
    pod_uid: str
    cpu_cores: float
    cpu_limit_cores: float | None
    throttled_share: float | None  # of the periods since the last tick; None: no limit
    cpu_hours: float
    score: float
    level: str
    since: str  # when this level was reached
    signals: dict[str, float]  # signal -> its highest score
    owner: str
    process_count: int
    findings: tuple[FindingStatus, ...]
    processes: tuple[ProcessStatus, ...]
    started: str = ""  # when the pod was made; "": not known, no pod, or an older agent
    culling: CullStatus | None = None  # None: not flagged and nothing was done, or an older agent
    abuse: str = ""  # the kind that its score and signals are of; "": no findings
    executed: dict[str, float] = field(default_factory=dict)  # of all its processes together
    labels: dict[str, str] = field(default_factory=dict)  # of an engine's container on a host
    abuses: dict[str, float] = field(
        default_factory=dict
    )  # kind of abuse -> its score, worst first
    owners: tuple[OwnerStatus, ...] = ()  # side by side; ``owner`` is the one that is counted
    gpu: GpuStatus | None = None  # None: it has used none, or an older agent
    uses_host_network: bool = False  # so that it has no network counters of its own


class NodeReport(Struct, frozen=True):
    """One agent's answer: its containers, and its status."""

    statuses: tuple[ContainerStatus, ...] = field(name="containers")
    agent: AgentStatus | None = None  # None: only containers were asked for


class NodeAnswer(Struct, frozen=True):
    """Result of querying one node."""

    node: str
    pod: str  # of its agent, as namespace/name; "": it has none, or is no pod
    report: NodeReport | None  # None: it did not answer
    reason: str = ""  # why it did not
