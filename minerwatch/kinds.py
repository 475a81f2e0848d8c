"""Words that rules, settings and answers share, as enums, and a node's totals.

Commands that only show an agent's answers import these and not ``model``. Imports no other module
of minerwatch.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum


class Signal(StrEnum):
    """The kind of evidence that a rule stands for. Signals are independent of each other."""

    IDENTITY = "identity"
    NETWORK = "network"
    COMPUTE = "compute"
    CONTENT = "content"
    EXECUTION = "execution"
    BEHAVIOUR = "behaviour"


class Abuse(StrEnum):
    """The kind of abuse that a rule is evidence of: findings of different kinds do not add up."""

    MINING = "mining"
    SCANNING = "scanning"
    FLOODING = "flooding"
    BRUTE_FORCE = "brute-force"
    PROXYWARE = "proxyware"
    CRACKING = "cracking"
    UNREQUESTED_GPU = "unrequested-gpu"


class CullableAbuse(StrEnum):
    """Kinds of abuse for which there is evidence that no outsider can plant on a process."""

    MINING = Abuse.MINING.value
    CRACKING = Abuse.CRACKING.value
    SCANNING = Abuse.SCANNING.value
    FLOODING = Abuse.FLOODING.value


class Level(IntEnum):
    """The certainty of a verdict; the value is the lowest score that reaches it."""

    CLEAR = 0
    SUSPICIOUS = 30
    LIKELY = 70
    CONFIRMED = 90

    @classmethod
    def of(cls, score: float) -> Level:
        """Return the level that ``score`` (0 to 100) reaches."""
        return next(level for level in reversed(cls) if score >= level.value)

    @classmethod
    def of_label(cls, label: str) -> Level:
        """Return the level with this label; CLEAR if there is none."""
        return next((level for level in cls if level.label == label), cls.CLEAR)

    @property
    def label(self) -> str:
        """Return the word for it in metrics, logs and tables."""
        return self.name.lower()

    @property
    def highest_score(self) -> float:
        """Return the highest score, to two decimals, of this level."""
        above = [level.value for level in Level if level > self]
        return min(above) - 0.01 if above else 100.0


class Maturity(StrEnum):
    """A rule's ``status``: it bounds the use of its findings."""

    EXPERIMENTAL = "experimental"  # only metrics and log
    TEST = "test"  # also Kubernetes Events
    STABLE = "stable"  # also culling


class ContainerKind(StrEnum):
    """The kind of thing that holds a workload."""

    POD = "pod"  # a container of a Kubernetes pod, or one nested below it
    ENGINE = "engine"  # a container of docker, podman or containerd, outside Kubernetes
    UNIT = "unit"  # a systemd service or scope
    HOST = "host"  # all processes in none of the others


@dataclass(frozen=True, slots=True)
class MachineTotals:
    """Cores, load and memory of a node."""

    cores: int
    load_1m: float
    memory_bytes: int
    memory_used_bytes: int

    def __add__(self, other: MachineTotals) -> MachineTotals:
        """Return the totals of both."""
        return MachineTotals(
            self.cores + other.cores,
            self.load_1m + other.load_1m,
            self.memory_bytes + other.memory_bytes,
            self.memory_used_bytes + other.memory_used_bytes,
        )


class PodContainerKind(StrEnum):
    """A container's role in its pod."""

    MAIN = "main"
    INIT = "init"
    SIDECAR = "sidecar"  # an init container that is restarted always
    EPHEMERAL = "ephemeral"  # kubectl debug


class OwnerKind(StrEnum):
    """Kinds of names by which the people behind a pod are found."""

    USER = "user"
    SERVER = "server"  # of a hub's user
    REPOSITORY = "repository"
    REF = "ref"  # of the repository
    CLIENT = "client"  # the address that asked for the pod
    LAUNCH_HOST = "launch-host"  # the site that it was asked on
    PROJECT = "project"  # of a CI system
    JOB = "job"  # of a CI system
    BUILD = "build"  # the repository that an image is built from, by the builds on the node
    IMAGE = "image"
    DIGEST = "digest"
    CONTROLLER = "controller"
    CONFIGURED = "configured"  # by a source of owners.sources


class AnnouncedLevel(StrEnum):
    """Levels from which people are sent messages."""

    LIKELY = "likely"
    CONFIRMED = "confirmed"


class MessageFormat(StrEnum):
    """Formats of messages to people and to other systems."""

    JSON = "json"
    SLACK = "slack"  # also of Mattermost, and of Zulip's Slack-compatible webhook
    TEAMS = "teams"  # an adaptive card
    FALCO = "falco"  # Falco's JSON output, as Falcosidekick takes it


# Actions.


class Action(StrEnum):
    """An action on a container or its pod, the mildest first."""

    OBSERVE = "observe"
    LABEL = "label"  # the pod, for a NetworkPolicy to quarantine it
    STOP = "stop"  # SIGSTOP to the processes that are proven miners: reversible
    PAUSE = "pause"  # a host's container, by its engine: reversible
    KILL = "kill"  # SIGKILL to these processes
    STOP_CONTAINER = "stop-container"  # a host's container, by its engine
    STOP_SERVER = "stop-server"  # of a hub's user, by the hub, which then knows
    EVICT = "evict"  # the pod, through the Eviction API: PodDisruptionBudgets are honoured
    DELETE = "delete"  # the pod


class BanKind(StrEnum):
    """Kinds of names that are banned."""

    USER = "user"  # of a JupyterHub
    REPOSITORY = "repository"  # on a BinderHub
    ADDRESS = "address"  # of the client; its /32 or /64


class Outcome(StrEnum):
    """The result of an action."""

    PENDING = "pending"
    DONE = "done"
    DRY_RUN = "dry-run"  # would have been done
    REFUSED = "refused"  # by the API server: a PodDisruptionBudget, a precondition, RBAC
    FAILED = "failed"
    UNKNOWN = "unknown"  # the agent exited first
    WITHDRAWN = "withdrawn"  # not tried: no budget, or the final check objected
    RELEASED = "released"  # an operator undid it
    STARTED = "started"  # no action: the log begins here
