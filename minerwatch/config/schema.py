"""The configuration as a typed tree; every key has a safe default. ``reader`` reads the file.

Durations are seconds, or texts such as ``10s``, ``2m``, ``1h``.
"""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path
from typing import Annotated

import msgspec

from minerwatch.config.hours import Hours
from minerwatch.config.hub import Bans, Hub
from minerwatch.config.selectors import Selector
from minerwatch.config.values import (
    DEFAULT_LISTEN,
    OFF,
    Duration,
    Mode,
    Network,
    PodLabel,
    host_and_port,
    is_loopback,
)
from minerwatch.errors import ConfigError
from minerwatch.kinds import Action, AnnouncedLevel, CullableAbuse, MessageFormat

BUILT_IN_RULES = next(
    folder
    for folder in (
        Path(__file__).parents[1] / "built_in_rules",  # in the wheel
        Path(__file__).parents[2] / "rules",  # in a checkout
    )
    if folder.is_dir() or folder.name == "rules"
)
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Limit = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
Line = Annotated[str, msgspec.Meta(pattern=r"\S")]
Actions = Annotated[tuple[Action, ...], msgspec.Meta(min_length=1)]
CulledAbuses = Annotated[tuple[CullableAbuse, ...], msgspec.Meta(min_length=1)]
ActionsPerHour = Annotated[int, msgspec.Meta(ge=0, le=1000)]
Price = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
Currency = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z]{0,8}$")]
_ADDRESS = r"([^\s/@?#:\[\]]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?"
ExporterUrl = Annotated[str, msgspec.Meta(pattern=rf"^(http://{_ADDRESS}(/[^\s?#]*)?)?$")]
CullScore = Annotated[float, msgspec.Meta(ge=90, le=100)]


class Node(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The kernel's files, and which cgroups count as containers."""

    name: str = ""  # "" is the host name
    proc: str = "/proc"
    sys: str = "/sys"
    units: bool = True  # also watch systemd units, other managers' jobs and the host
    cluster_networks: tuple[Network, ...] = ()  # public addresses of pods, services and partners
    gpu_library: str = ""  # path of NVIDIA's libnvidia-ml.so.1; "": in the usual folders
    gpu_exporter: ExporterUrl = ""  # http://… of dcgm-exporter on this node, instead of the driver
    gpu_socket: str = ""  # of a sampler in a container that has NVIDIA's driver; "": none


class Examination(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Thresholds for a closer look at containers and processes."""

    hot_cpu_cores: Positive = 0.1  # CPU usage above which a container's processes are read
    cpu_per_look: Duration = Duration(30)  # CPU time after which probes look at a container again
    window: Duration = Duration(60)  # for CpuFlatness
    recheck_processes: Count = 64  # idle processes checked each tick for a new program
    read_deadline: Duration = Duration(0.1)  # for all reads in one tick that a process can block


class Probes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Further sources of evidence; each is off where the kernel or a capability is missing."""

    execs: bool = True  # examine programs as they start (NET_ADMIN before Linux 6.6)
    execs_cpu_share: Share = 0.02  # share of a core at most, for programs that start between ticks
    connections: bool = True  # of suspects (BPF, PERFMON; or SYS_PTRACE, DAC_READ_SEARCH)
    pod_network: bool = True  # counts pods' connects and packets, also failed ones (SYS_PTRACE)
    first_words: bool = False  # reads payload: miners' logins, TLS server names (NET_RAW, BPF)
    mappings: bool = True  # memory mappings of suspects (SYS_PTRACE)
    tasks: bool = True  # read all processes at once (BPF, PERFMON, a kernel with BTF)
    rounding: bool = True  # rounding modes of suspects (needs tasks)
    rounding_cpu_share: Share = 0.005  # share of a core at most, for samples between ticks
    executed_code: bool = True  # what CPUs execute, sampled (PERFMON, SYS_PTRACE, DAC_READ_SEARCH)
    drift: bool = True  # executables that did not come with the image (SYS_PTRACE, DAC_READ_SEARCH)
    content: bool = True  # YARA scans of suspects' code (SYS_PTRACE, DAC_READ_SEARCH)
    budget: Duration = Duration(0.05)  # time for all probes of suspects in one tick
    gpu: bool = True  # use of GPUs (NVIDIA's driver; of AMD and Intel SYS_PTRACE)
    gpu_pipes: bool = False  # what NVIDIA's GPUs compute (Hopper and newer); not tried on a card
    canary: bool = True  # test detection with a harmless process every 10 minutes


class Judgement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Rules for a container's level."""

    ticks_below: Count = 3  # ticks below a level before a container leaves it


class Kubernetes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The source of pods' names, and the Events that are sent."""

    enabled: bool | None = None  # null: if a service account is mounted
    kubeconfig: str = ""  # "" is the service account, else ~/.kube/config
    context: str = ""  # of the kubeconfig; "" is the current one
    namespace: str = ""  # of the agent; "" is that of its service account
    events: bool = True  # on pods that become likely or confirmed, or clear again
    events_per_minute: Limit = 10  # average of one agent; bursts may be twice as large
    contact: str = ""  # last sentence of every Event: contact and appeal


class Owners(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Owners of pods: the first source that names one applies; all others are shown beside it."""

    profile: str = "jupyterhub"  # jupyterhub, binderhub, gitlab, github-arc, default
    sources: tuple[str, ...] = ()  # replaces the profile's; see below
    platform_namespaces: tuple[Line, ...] = ()  # patterns: only a CI system makes pods there
    hub_namespaces: tuple[Line, ...] = ()  # patterns: only culling's hub makes pods there

    def __post_init__(self) -> None:
        """Raises ValueError for patterns that take every tenant's names for a platform's."""
        for each in (*self.platform_namespaces, *self.hub_namespaces):
            if not each.strip("*?"):
                raise ValueError(f"{each!r} is every namespace: name those of the platform")


class MetricLabels(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Labels of metrics that name people."""

    owners: bool = False  # user and client address in minerwatch_flagged_owner_info


class Tls(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """TLS on the address of ``listen``, in addition to ``authorize_metrics``."""

    certificate: str = ""  # PEM file, reloaded when it changes
    key: str = ""  # PEM file; "": the key is in the certificate's file
    client_ca: str = ""  # PEM file: /metrics requires a client certificate signed by it

    def __post_init__(self) -> None:
        """Raises ValueError for settings that would have no effect."""
        if not self.certificate and (self.key or self.client_ca):
            raise ValueError("certificate is missing: key and client_ca have no effect without it")


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Bounds on what is published."""

    max_container_series: Count = 500  # flagged containers with their own metrics
    processes_per_container: Count = 20  # in the snapshot
    journal: str = ""  # folder for the history of verdicts and CPU usage, 16 MiB; "": none
    price_per_core_hour: Price | None = None  # for costs in `minerwatch report`
    price_per_gpu_hour: Price | None = None  # for costs of GPUs in the report
    currency: Currency = ""  # of both prices, such as EUR


class Web(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Pages for a browser, on an address of their own; off unless one is given."""

    listen: str = ""  # such as 127.0.0.1:9798; any other host speaks TLS and needs token_file
    token_file: str = ""  # required by every page; on loopback pages then show arguments

    def __post_init__(self) -> None:
        """Raises ValueError for an address that anybody could read."""
        if not self.listen:
            return
        try:
            host, _ = host_and_port(self.listen)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        if not self.token_file and not is_loopback(host):
            raise ValueError(
                f"{self.listen} is no loopback address, so it needs a token: set web.token_file,"
                " or listen on 127.0.0.1:9798"
            )


class Webhook(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A receiver of messages about likely and confirmed containers, and about actions."""

    name: Line  # for the log and metrics
    url_file: Line  # holds its address, which is a secret; read before each message
    format: MessageFormat = MessageFormat.JSON  # json, slack, teams, falco
    level: AnnouncedLevel = AnnouncedLevel.LIKELY  # lowest that is announced: likely, confirmed
    namespaces: tuple[Line, ...] = ("*",)  # patterns; outside Kubernetes there is only ""
    authorization_file: str = ""  # holds the value of the Authorization header; "": none
    ca: str = ""  # PEM file to verify the receiver by; "": the system's authorities
    group_for: Duration = Duration(30)  # messages of this time are sent as one
    per_hour: Limit = 30  # messages at most; later news are added to the next one
    command_lines: bool = False  # of flagged processes, with secrets masked


class Rungs(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Actions in some namespaces: the first one, then the next ones for repeat offenders."""

    actions: Actions  # mildest first: label, stop, kill, stop-server, evict, delete; hosts: below
    namespaces: tuple[Line, ...] = ("*",)  # patterns
    score: CullScore = 90  # least score of stable findings

    def __post_init__(self) -> None:
        """Raises ValueError unless each action is harsher than the one before it."""
        order = [list(Action).index(action) for action in self.actions]
        if order != sorted(set(order)):
            raise ValueError(f"actions: list milder ones first: {', '.join(Action)}")


class Exemption(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Pods that the operator exempts from culling, with a reason and an end date.

    All given keys must match; of several patterns, one. With ``rules`` only the findings of these
    rules do not count; without, the pod is never acted on.
    """

    reason: Line
    until: date | None = None  # last day, UTC
    namespaces: tuple[Line, ...] = ()
    pods: tuple[Line, ...] = ()
    selector: Selector = Selector()
    owners: tuple[Line, ...] = ()
    images: tuple[Line, ...] = ()
    rules: tuple[Line, ...] = ()  # ids or titles

    def __post_init__(self) -> None:
        """Raises ValueError for an exemption of everything."""
        lists = (self.namespaces, self.pods, self.owners, self.images, self.rules)
        if not any(lists) and not self.selector.strip():
            raise ValueError(
                "an exemption needs namespaces, pods, a selector, owners, images or rules"
            )


class CullBudget(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Most actions in any hour."""

    per_node: ActionsPerHour = 2  # actions in any hour, by one agent
    per_cluster: ActionsPerHour = 10  # actions in any hour, by all agents


class CircuitBreaker(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Number of owners at which a rule that flags them all is considered wrong."""

    share: Share = 0.2  # of a node's owners; a rule that flags more causes no action
    at_least: Count = 3  # owners on a node; a rule that flags fewer is never stopped
    cluster_owners: Count = 10  # owners confirmed in the cluster by one rule; stops it


class RepeatOffenders(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Number of repeats after which the next action of the ladder is taken."""

    actions: Count = 3  # successful, on one owner or pod's name in a namespace
    window: Duration = Duration(86400)  # time within which these actions count


class Audit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Evidence of every action; if it cannot be written, the action is not taken."""

    log: Line = "/var/lib/minerwatch/audit.jsonl"  # restores the history: keep it
    folder: str = ""  # for one evidence file per action; "": none
    max_files: Limit = 200  # most evidence files
    max_mib: Limit = 64  # of the log and of the folder, each


class HostCulling(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Names to act on outside Kubernetes; nothing is acted on that is not named here."""

    units: tuple[Line, ...] = ()  # patterns of systemd's units, outside users' slices
    containers: tuple[Line, ...] = ()  # patterns of names of containers of the host's engines
    users: tuple[Line, ...] = ()  # patterns of users: all that is in their slices
    protected: tuple[Line, ...] = ()  # patterns of units, containers or users: never acted on
    docker_socket: str = ""  # such as /run/docker.sock; for pause and stop-container
    podman_socket: str = ""  # such as /run/podman/podman.sock; for pause, stop-container


class Culling(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Actions on confirmed abuse; none unless switched on."""

    mode: Mode = OFF  # off, dry-run (requests with dryRun=All), enforce
    abuses: CulledAbuses = (CullableAbuse.MINING,)  # mining, cracking, scanning, flooding
    namespaces: tuple[Line, ...] = ()  # patterns of namespaces to act in; "*" is all
    selector: Selector = Selector()  # as in kubectl: component=singleuser-server,!keep
    protected_namespaces: tuple[Line, ...] = ()  # patterns, in addition to kube-system and others
    hosts: HostCulling = HostCulling()
    hub: Hub = Hub()
    bans: Bans = Bans()
    tenant_namespaces: tuple[Line, ...] = ()  # where tenants create pods; see below
    ladder: tuple[Rungs, ...] = (Rungs(actions=(Action.LABEL,)),)  # the first match applies
    minimum_age: Duration = Duration(300)  # of a pod before any action
    hold: Duration = Duration(300)  # time that a container must be confirmed without a gap
    pause: Duration = Duration(600)  # between actions on one pod
    grace_period: Duration | None = None  # for evict and delete; null: the pod's own
    active_hours: tuple[Hours, ...] = ()  # UTC, such as "mon-fri 09:00-17:00"; empty: always
    exemptions: tuple[Exemption, ...] = ()  # see below
    quarantine_label: PodLabel = PodLabel("minerwatch.io/quarantine=true")  # set by label
    budget: CullBudget = CullBudget()
    circuit_breaker: CircuitBreaker = CircuitBreaker()
    repeat_offenders: RepeatOffenders = RepeatOffenders()
    audit: Audit = Audit()


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole configuration."""

    interval: Duration = Duration(10)  # between ticks
    listen: str = DEFAULT_LISTEN  # /metrics, /healthz, /readyz
    tls: Tls = Tls()
    authorize_metrics: bool = True  # in a cluster, except on loopback: TLS; /metrics needs a token
    socket: str = ""  # "" is /run/minerwatch/agent.sock for root
    built_in_rules: bool = True  # load the rules that come with minerwatch
    rules: tuple[str, ...] = ()  # more folders; a later rule replaces one with the same id
    private_rules: tuple[str, ...] = ()  # more folders; outsiders see only ids of these rules
    node: Node = Node()
    examination: Examination = Examination()
    probes: Probes = Probes()
    judgement: Judgement = Judgement()
    kubernetes: Kubernetes = Kubernetes()
    owners: Owners = Owners()
    report: Report = Report()
    metrics: MetricLabels = MetricLabels()
    notify: tuple[Webhook, ...] = ()  # receivers of messages; see notify.md
    web: Web = Web()
    culling: Culling = Culling()

    def without_kubernetes(self) -> Config:
        """Return the same configuration without a cluster."""
        alone = msgspec.structs.replace(self.kubernetes, enabled=False)
        return msgspec.structs.replace(self, kubernetes=alone)

    def with_web(self, listen: str | None, token_file: str | None, journal: str | None) -> Config:
        """Return the same configuration with the options that were given; raises ConfigError."""
        given = {"listen": listen, "token_file": token_file}
        try:
            web = msgspec.structs.replace(
                self.web, **{key: value for key, value in given.items() if value is not None}
            )
        except ValueError as error:
            raise ConfigError(str(error)) from error
        report = self.report
        if journal is not None:
            report = msgspec.structs.replace(report, journal=journal)
        return msgspec.structs.replace(self, web=web, report=report)

    @property
    def socket_path(self) -> Path:
        """Return the Unix socket of agent and commands."""
        return Path(self.socket) if self.socket else default_socket()

    def rule_folders(self) -> tuple[Path, ...]:
        """Return the rule folders; later ones override earlier ones."""
        built_in = (BUILT_IN_RULES,) if self.built_in_rules else ()
        shown = (Path(folder) for folder in self.rules)
        return (*built_in, *shown, *self.private_rule_folders())

    def private_rule_folders(self) -> tuple[Path, ...]:
        """Return the folders of private rules."""
        return tuple(Path(folder) for folder in self.private_rules)


def default_socket() -> Path:
    """Return the Unix socket of agent and commands if none is configured."""
    if os.geteuid() == 0:
        return Path("/run/minerwatch/agent.sock")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(runtime) if runtime else Path.home() / ".local" / "state"
    return folder / "minerwatch" / "agent.sock"
