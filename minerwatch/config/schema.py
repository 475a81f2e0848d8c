"""One YAML file -> one typed tree; every key has a safe default, every error names its key.

Durations are numbers of seconds or texts such as ``10s``, ``2m``, ``1h``; they are held in seconds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import msgspec
import yaml

from minerwatch.config.hours import Hours, hours
from minerwatch.config.selectors import Selector, selector
from minerwatch.config.values import (
    DEFAULT_LISTEN,
    OFF,
    Duration,
    Mode,
    PodLabel,
    duration_s,
    host_and_port,
    mode,
    pod_label,
)
from minerwatch.errors import ConfigError
from minerwatch.model import Action

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
ActionsPerHour = Annotated[int, msgspec.Meta(ge=0, le=1000)]
CullScore = Annotated[float, msgspec.Meta(ge=90, le=100)]


class Node(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the kernel's files are, and what counts as a container."""

    name: str = ""  # "" is the host's name
    proc: str = "/proc"
    sys: str = "/sys"
    units: bool = True  # systemd units, other managers' jobs and the host count, too


class Examination(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whom the agent looks at more closely."""

    hot_cpu_cores: Positive = 0.1  # above this a container's processes are measured one by one
    suspect_cpu_cores: Positive = 0.3  # a process that burns this much ...
    suspect_after: Duration = Duration(30)  # ... for this long is a suspect
    window: Duration = Duration(60)  # over which CpuFlatness is taken
    recheck_processes: Count = 64  # idle ones asked each tick: still the same program?
    read_deadline: Duration = Duration(0.1)  # for all reads of a tick that a process can hold up


class Probes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Further sources of evidence; each is off where the kernel or a capability is missing."""

    execs: bool = True  # look at programs as they start (NET_ADMIN before Linux 6.6)
    execs_cpu_share: Share = 0.02  # of one core, at most, for programs between two ticks
    connections: bool = True  # whom suspects are connected to (SYS_PTRACE, DAC_READ_SEARCH)
    resolve_pools: bool = False  # look up lists/pool_servers.txt: others may see that
    mappings: bool = True  # what suspects keep in memory (SYS_PTRACE)
    tasks: bool = True  # all processes in one read (BPF and PERFMON, a kernel with BTF)
    rounding: bool = True  # how suspects round floating-point numbers (tasks, or ptrace)
    ptrace: bool = False  # where there is no tasks: stop suspects for 0.1 ms to see (SYS_PTRACE)
    rounding_cpu_share: Share = 0.005  # of one core, at most, for samples between two ticks
    content: bool = True  # what executables and memory hold (SYS_PTRACE, DAC_READ_SEARCH)
    budget: Duration = Duration(0.05)  # for all looks at suspects in one tick
    canary: bool = True  # plant a harmless process every 10 minutes: is it found?


class Judgement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How findings become a level."""

    ticks_below: Count = 3  # a container leaves a level after so many ticks below it


class Kubernetes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the names of pods come from, and what is told to the cluster."""

    enabled: bool | None = None  # null: where a service account is mounted
    kubeconfig: str = ""  # "" is the service account, or where there is none ~/.kube/config
    context: str = ""  # of the kubeconfig; "" is its current one
    namespace: str = ""  # the agent's own; "" is that of its service account
    events: bool = True  # on pods whose verdict rises to likely or confirmed, or clears
    events_per_minute: Limit = 10  # of one agent, in the long run; twice as many at once
    contact: str = ""  # the last sentence of every event: whom to ask, how to appeal


class Owners(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who is told or banned: the first source that says something counts."""

    profile: str = "jupyterhub"  # jupyterhub, binderhub, default
    sources: tuple[str, ...] = ()  # in place of the profile's; see below


class Tls(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """TLS on the address of ``listen``, besides what ``authorize_metrics`` does."""

    certificate: str = ""  # a PEM file, read again when it changes
    key: str = ""  # its key; "": it stands in the same file
    client_ca: str = ""  # a PEM file: /metrics only for clients whose certificate it signed

    def __post_init__(self) -> None:
        """Raises ValueError for settings that would have no effect."""
        if not self.certificate and (self.key or self.client_ca):
            raise ValueError("certificate is missing: key and client_ca do nothing without it")


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is published, and how much of it."""

    max_container_series: Count = 500  # flagged containers with metrics of their own
    processes_per_container: Count = 20  # in the snapshot


class Rungs(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is done in some namespaces: the first action, then the next for repeat offenders."""

    actions: Actions  # label, stop, kill, evict, delete: the mildest first; or observe
    namespaces: tuple[Line, ...] = ("*",)  # patterns
    score: CullScore = 90  # from this score of stable findings on

    def __post_init__(self) -> None:
        """Raises ValueError unless each action is harsher than the one before it."""
        order = [list(Action).index(action) for action in self.actions]
        if order != sorted(set(order)):
            raise ValueError(f"actions: milder ones come first: {', '.join(Action)}")


class Exemption(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whom the operator exempts, why and until when.

    All that is given must hold; of several patterns, one must. With ``rules`` the findings of
    these rules are not counted; without, the pod is left alone altogether.
    """

    reason: Line
    until: date | None = None  # the last day, in UTC
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
                "an exemption names namespaces, pods, a selector, owners, images or rules"
            )


class CullBudget(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How many actions there may be in any hour."""

    per_node: ActionsPerHour = 2  # actions in any hour
    per_cluster: ActionsPerHour = 10  # the same, of all agents together


class CircuitBreaker(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """From how many owners that one rule flags at once on the rule is thought wrong, not they."""

    share: Share = 0.2  # of the owners on a node: more, and nothing is done on its findings
    at_least: Count = 3  # owners on a node; fewer are no reason to stop
    cluster_owners: Count = 10  # confirmed in the whole cluster at once: so many are too many


class RepeatOffenders(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When the next rung of the ladder is taken."""

    actions: Count = 3  # on the same owner or the same pod's name, in one namespace ...
    window: Duration = Duration(86400)  # ... within this time


class Audit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the evidence of every action is kept; what cannot be written there is not done."""

    log: Line = "/var/lib/minerwatch/audit.jsonl"  # also the agent's memory: it must outlive it
    folder: str = ""  # each action's evidence as a file of its own; "" is nowhere
    max_files: Limit = 200  # in that folder
    max_mib: Limit = 64  # of the log, and of the folder


class Culling(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What may be done about pods that are surely miners; nothing, unless switched on."""

    mode: Mode = OFF  # off, dry-run (requests are made with dryRun=All), enforce
    namespaces: tuple[Line, ...] = ()  # patterns; none: no pod is ever touched; "*": all
    selector: Selector = Selector()  # labels, as for kubectl: component=singleuser-server,!keep
    protected_namespaces: tuple[Line, ...] = ()  # patterns, besides kube-system and the like
    tenant_namespaces: tuple[Line, ...] = ()  # patterns: where tenants create pods; see below
    ladder: tuple[Rungs, ...] = (Rungs(actions=(Action.LABEL,)),)  # the first that fits holds
    minimum_age: Duration = Duration(300)  # of a pod
    hold: Duration = Duration(300)  # watched to be confirmed, without a gap, for this long
    pause: Duration = Duration(600)  # between two actions on the same pod
    grace_period: Duration | None = None  # for evict and delete; null is the pod's own
    active_hours: tuple[Hours, ...] = ()  # UTC, such as "mon-fri 09:00-17:00"; none is always
    exemptions: tuple[Exemption, ...] = ()  # see below
    quarantine_label: PodLabel = PodLabel("minerwatch.io/quarantine=true")  # what label sets
    budget: CullBudget = CullBudget()
    circuit_breaker: CircuitBreaker = CircuitBreaker()
    repeat_offenders: RepeatOffenders = RepeatOffenders()
    audit: Audit = Audit()


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that an operator can set."""

    interval: Duration = Duration(10)  # from one tick to the next
    listen: str = DEFAULT_LISTEN  # /metrics, /healthz, /readyz
    tls: Tls = Tls()
    authorize_metrics: bool = True  # in a cluster, except on loopback: TLS; /metrics needs a token
    socket: str = ""  # "" is /run/minerwatch/agent.sock for root
    built_in_rules: bool = True  # the rules that come with minerwatch
    rules: tuple[str, ...] = ()  # further folders; a later rule replaces one with the same id
    private_rules: tuple[str, ...] = ()  # the same; logs, events and metrics tell their ids only
    node: Node = Node()
    examination: Examination = Examination()
    probes: Probes = Probes()
    judgement: Judgement = Judgement()
    kubernetes: Kubernetes = Kubernetes()
    owners: Owners = Owners()
    report: Report = Report()
    culling: Culling = Culling()

    def without_kubernetes(self) -> Config:
        """The same for this machine alone."""
        alone = msgspec.structs.replace(self.kubernetes, enabled=False)
        return msgspec.structs.replace(self, kubernetes=alone)

    def rule_folders(self) -> tuple[Path, ...]:
        """The rule folders in the order in which they stack."""
        built_in = (BUILT_IN_RULES,) if self.built_in_rules else ()
        shown = (Path(folder) for folder in self.rules)
        return (*built_in, *shown, *self.private_rule_folders())

    def private_rule_folders(self) -> tuple[Path, ...]:
        """Those whose rules nobody but the node's operator is to read."""
        return tuple(Path(folder) for folder in self.private_rules)


def default_socket() -> Path:
    """The Unix socket that agent and commands meet at, unless told otherwise."""
    if os.geteuid() == 0:
        return Path("/run/minerwatch/agent.sock")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(runtime) if runtime else Path.home() / ".local" / "state"
    return folder / "minerwatch" / "agent.sock"


class _Loader(yaml.SafeLoader):
    """PyYAML's own, whose every error says in which line."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: FBT001, FBT002
        """A node's value; for a date that there is not, PyYAML raises a bare ValueError."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
            reason = f"not a value: {str(error).partition(';')[0] or type(error).__name__}"
            raise yaml.constructor.ConstructorError(None, None, reason, node.start_mark) from error


def load(path: Path | None) -> Config:
    """The configuration of ``path``, or all defaults where there is none.

    Raises ConfigError: file, line or key, and what is wrong with it.
    """
    if path is None:
        return Config()
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 (byte {error.start})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}{_place(error)}: {_problem(error)}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deeply") from error
    return parse({} if tree is None else tree, str(path))


def parse(tree: Any, source: str) -> Config:
    """The typed form of a parsed YAML ``tree``; raises ConfigError, its text led by ``source``."""
    try:
        config = msgspec.convert(tree, Config, dec_hook=_decode)
        host_and_port(config.listen)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {_in_words(error)}") from error
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    return config


_DECODERS: dict[type, Callable[[Any], Any]] = {
    Duration: duration_s,
    Hours: hours,
    Mode: mode,
    PodLabel: pod_label,
    Selector: selector,
}


def _decode(kind: type, value: Any) -> Any:
    if kind not in _DECODERS:
        raise NotImplementedError(kind)
    try:
        return _DECODERS[kind](value)
    except ConfigError as error:
        raise ValueError(str(error)) from error  # msgspec adds the key to these only


def _in_words(error: msgspec.ValidationError) -> str:
    """msgspec's ``… - at `$.node.proc``` turned round: the key comes first."""
    text, _, path = str(error).partition(" - at ")
    key = path.strip("`").removeprefix("$").removeprefix(".")
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", text, re.DOTALL)
    if unknown:
        where = f"below {key!r}" if key else "at the top"
        return f"there is no key {unknown[1]!r} {where}"
    return f"{key or 'the whole file'}: {text[:1].lower()}{text[1:]}"


def _place(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f":{mark.line + 1}" if mark else ""


def _problem(error: yaml.YAMLError) -> str:
    return str(getattr(error, "problem", None) or error).splitlines()[0]
