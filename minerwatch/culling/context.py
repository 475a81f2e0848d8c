"""State that all parts of culling share: settings in force, identity, time, log, shutdown."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Event, Lock
from typing import Protocol

from minerwatch.config.schema import Config, Culling
from minerwatch.config.values import ENFORCE
from minerwatch.culling.records import ActionRecord, Moment
from minerwatch.kube.cluster_view import ClusterNode
from minerwatch.model import Container, ContainerKey, Identity, Observation
from minerwatch.node.host_view import HostView
from minerwatch.report.log import Log

_MAX_SLEW_S = 5.0
_TRUSTED_AFTER_S = 3600.0
_MAX_SERVER_OFFSET_S = 5.0


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

    def carrier(self, container: Container, *, of_pod: bool = True) -> Container:
        """Return the pod's (or else: the host's) own container that it is nested in, or itself."""

    def container_of(self, pid: int) -> Container | None:
        """Return the container that a process is in; None: it is gone or not seen."""


@dataclass(frozen=True, slots=True)
class Callbacks:
    """Functions that count what happens."""

    on_outcome: Callable[[ActionRecord], None] = lambda _record: None
    on_error: Callable[[str, Exception], None] = lambda _where, _error: None


class AgentClock:
    """The present moment, by a time of day that advances with the monotonic clock.

    A node's clock that is slewed is followed. One that steps is followed once it has kept the new
    time for an hour: by then the step was intended. The API server's time, which dates the pods, is
    used if the node's differs from it.
    """

    def __init__(
        self, read_clocks: Callable[[], Moment], server_unix_s: Callable[[], float | None]
    ) -> None:
        self._read_clocks = read_clocks
        self._server_unix_s = server_unix_s
        self._lock = Lock()
        self._offset_s: float | None = None
        self._other_s = 0.0  # offset after the clock has stepped
        self._since_s: float | None = None

    def now(self) -> Moment:
        """Return the present moment."""
        now = self._read_clocks()
        with self._lock:
            unix_s = now.monotonic_s + self._offset(now.unix_s - now.monotonic_s, now.monotonic_s)
        server_s = self._server_unix_s()
        if server_s is not None and abs(server_s - unix_s) > _MAX_SERVER_OFFSET_S:
            unix_s = server_s
        return replace(now, unix_s=unix_s)

    def _offset(self, offset_s: float, monotonic_s: float) -> float:
        if self._offset_s is None or abs(offset_s - self._offset_s) <= _MAX_SLEW_S:
            self._offset_s, self._since_s = offset_s, None
        elif self._since_s is None or abs(offset_s - self._other_s) > _MAX_SLEW_S:
            self._other_s, self._since_s = offset_s, monotonic_s
        elif monotonic_s - self._since_s >= _TRUSTED_AFTER_S:
            self._offset_s, self._since_s = offset_s, None
        return self._offset_s


@dataclass(slots=True)
class Context:
    """Collaborators of every part of culling; ``closing`` interrupts every wait.

    ``config`` is in force; it is re-read before every step, so that switching off works at once.
    """

    config: Config
    agent: AgentIdentity
    cluster: ClusterNode | HostView  # names and owners of containers
    monitor: Monitor
    log: Log
    clock: AgentClock
    callbacks: Callbacks
    closing: Event
    is_host: bool = False  # outside Kubernetes

    @property
    def own_cgroup(self) -> str:
        """Return the agent's own cgroup; "": unknown."""
        own = self.monitor.container_of(os.getpid())
        return own.cgroup if own is not None else ""

    def carrier(self, container: Container) -> Container:
        """Return the pod's or the host's own container that it is nested in, or itself."""
        return self.monitor.carrier(container, of_pod=not self.is_host)

    def identity(self, container: Container) -> Identity | None:
        """Return name and owner of a container; on a host, of the one that it is nested in."""
        return self.cluster.identity(self.carrier(container) if self.is_host else container)

    @property
    def has_budget(self) -> bool:
        """Return True if there is a budget to read: in a cluster, in the agent's namespace."""
        return self.is_host or bool(self.agent.namespace)

    @property
    def culling(self) -> Culling:
        """Return the culling settings."""
        return self.config.culling

    @property
    def dry_run(self) -> bool:
        """Return True unless actions are enforced."""
        return self.culling.mode != ENFORCE
