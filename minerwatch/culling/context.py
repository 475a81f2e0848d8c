"""State that all parts of culling share: settings in force, identity, time, log, shutdown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Event
from typing import Protocol

from minerwatch.config.schema import Config, Culling
from minerwatch.config.values import ENFORCE
from minerwatch.culling.clock import AgentClock
from minerwatch.kube.cluster_view import ClusterNode
from minerwatch.model import Action, Container, ContainerKey, Observation, Outcome
from minerwatch.report.log import Log


@dataclass(frozen=True, slots=True)
class AgentIdentity:
    """The agent's own node and pod, which culling must spare."""

    node: str
    namespace: str  # "": unknown, and culling is disabled
    pod_uid: str


class Monitor(Protocol):
    """The part of the agent that observes containers."""

    def observation(self, key: ContainerKey, max_processes: int) -> Observation | None:
        """Return a container as of the last tick."""

    def observations(self, max_processes: int) -> tuple[Observation, ...]:
        """Return all containers as of the last tick."""

    def carrier(self, container: Container) -> Container:
        """Return the pod's own container that this one is nested in, or the container itself."""


@dataclass(frozen=True, slots=True)
class Callbacks:
    """Functions that count what happens."""

    on_outcome: Callable[[Action, Outcome], None] = lambda _action, _outcome: None
    on_error: Callable[[str, Exception], None] = lambda _where, _error: None


@dataclass(slots=True)
class Context:
    """Collaborators of every part of culling; ``closing`` interrupts every wait.

    ``config`` is in force; it is re-read before every step, so that switching off works at once.
    """

    config: Config
    agent: AgentIdentity
    cluster: ClusterNode
    monitor: Monitor
    log: Log
    clock: AgentClock
    callbacks: Callbacks
    closing: Event

    @property
    def culling(self) -> Culling:
        """Return the culling settings."""
        return self.config.culling

    @property
    def dry_run(self) -> bool:
        """Return True unless actions are enforced."""
        return self.culling.mode != ENFORCE
