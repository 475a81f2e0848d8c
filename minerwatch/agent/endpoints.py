"""Answers of the agent: /metrics and health on the address, snapshots and orders on the socket.

In a cluster every pod can reach an agent's address, and metrics name all tenants' flagged pods. So
except on loopback the address speaks TLS there, and serves metrics only to clients that the cluster
authorizes. There it also serves reports, for `top` and `explain`: command lines with secrets
masked, for tokens that were made for this node's agent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType
from typing import TYPE_CHECKING

import msgspec

from minerwatch.agent.monitor import MAX_PROCESSES
from minerwatch.agent.parts import Parts
from minerwatch.agent.past import PastIncidents
from minerwatch.agent.self_report import SelfReport
from minerwatch.api.orders import HISTORY
from minerwatch.api.port import FULL_REPORT_PATH, REPORT_PATH, audience
from minerwatch.api.snapshot import encode_agent
from minerwatch.api.types import AgentStatus, ContainerStatus
from minerwatch.config.schema import Config
from minerwatch.config.values import host_and_port, is_loopback
from minerwatch.errors import MinerwatchError
from minerwatch.report.http_server import (
    Answer,
    Authorize,
    Listener,
    Posts,
    Private,
    Route,
    Routes,
    address_listener,
)
from minerwatch.report.socket_listener import SocketListener
from minerwatch.report.tls import TlsEndpoint, self_signed_tls
from minerwatch.worker import WorkerState, revive_all

if TYPE_CHECKING:
    from minerwatch.agent.web_endpoint import WebEndpoint
    from minerwatch.kube.client import Cluster

_MAX_TICKS_MISSED = 3
_TICK_GRACE_S = 15.0
"""An agent without a tick for so many intervals and this grace is unhealthy."""

DEFAULT_MAX_DOWN_S = 120.0
"""A thread that fails for longer makes the agent not ready, and unhealthy if none can be started
for it."""

_JSON = "application/json"
_EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


class Endpoints:
    """Listens on the address and on the socket, and answers from the agent's state."""

    def __init__(
        self, parts: Parts, report: SelfReport, max_down_s: float = DEFAULT_MAX_DOWN_S
    ) -> None:
        """Raises ListenError."""
        self._parts = parts
        self._state = parts.state
        self._telemetry = parts.telemetry
        self._report = report
        self._max_down_s = max_down_s
        config = parts.state.config
        self.socket = config.socket_path
        posts: Posts = {**parts.culling.posts(), HISTORY: PastIncidents(parts)}
        self._on_socket = SocketListener(
            self.socket, self._private_routes(), self._log_error, posts
        )
        self._web: WebEndpoint | None = None
        try:
            cluster = parts.cluster.cluster if parts.cluster is not None else None
            self._on_address = open_metrics_address(
                config,
                cluster,
                self._public_routes(),
                self._log_error,
                node=parts.node.name,
                reports=self._reports(),
            )
        except MinerwatchError:
            self._on_socket.close()
            raise
        try:
            self._web = self._open_web() if config.web.listen else None
        except MinerwatchError:
            self.close()
            raise

    @property
    def metrics_url(self) -> str:
        """Address at which metrics are served."""
        return f"{self._on_address.scheme}://{self._on_address.address}/metrics"

    @property
    def web_url(self) -> str | None:
        """Address at which pages are served; None: nowhere."""
        return self._web.url if self._web is not None else None

    def close(self) -> None:
        """Close the listeners."""
        if self._web is not None:
            self._web.close()
        self._on_address.listener.close()
        self._on_socket.close()

    def renew_socket(self) -> None:
        """Listen again if the socket was removed, for example by a cleaner of temporary files."""
        try:
            if self._on_socket.renew():
                message = "socket removed: listening again"
                self._telemetry.log.warning(message, socket=str(self.socket))
        except MinerwatchError as error:
            self._telemetry.fail("socket", error)

    def failures(self) -> Iterator[tuple[str, str, int]]:
        """Yield refused requests since the start: probe, reason, count."""
        for listener in (self._on_socket, self._on_address.listener):
            yield from (("http", reason, count) for reason, count in listener.failures.items())
        if self._web is not None:
            yield from (("http", reason, count) for reason, count in self._web.failures.items())

    def status(self) -> AgentStatus:
        """Return the agent's own state."""
        not_ready = self._unhealthy() or self._not_ready()
        return self._report.status(not_ready=not_ready, metrics=self.metrics_url)

    def _open_web(self) -> WebEndpoint:
        from minerwatch.agent.web_endpoint import NodeView, WebEndpoint  # imports Rich

        view = NodeView(self._statuses, self.status, self._tick_age_s, self._parts.recorder)
        return WebEndpoint(self._state.config, view, self._log_error)

    def _statuses(self, max_processes: int) -> list[ContainerStatus]:
        return self._parts.node.statuses(max_processes, self._parts.culling.status)

    def _tick_age_s(self) -> float | None:
        last_s = self._state.last_tick_s
        return None if last_s is None else self._parts.now_s() - last_s

    def _public_routes(self) -> Routes:
        return {
            "/metrics": lambda: Answer(self._telemetry.metrics.exposition(), _EXPOSITION),
            "/healthz": self._health,
            "/readyz": self._readiness,
        }

    def _reports(self) -> Mapping[str, Route]:
        usual = self._state.config.report.processes_per_container
        return {
            REPORT_PATH: lambda: self._node_report(usual),
            FULL_REPORT_PATH: lambda: self._node_report(MAX_PROCESSES),
        }

    def _node_report(self, max_processes: int) -> Answer:
        containers = self._parts.node.encoded_statuses(max_processes, self._parts.culling.status)
        report = {"containers": msgspec.Raw(containers), "agent": self.status()}  # a NodeReport
        return Answer(msgspec.json.encode(report), _JSON)

    def _private_routes(self) -> Routes:
        return {
            **self._public_routes(),
            "/snapshot": lambda: self._snapshot(self._state.config.report.processes_per_container),
            "/snapshot/full": lambda: self._snapshot(MAX_PROCESSES),
            "/snapshot/unmasked": lambda: self._snapshot(MAX_PROCESSES, unmasked=True),
            "/status": lambda: Answer(encode_agent(self.status()), _JSON),
        }

    def _snapshot(self, max_processes: int, *, unmasked: bool = False) -> Answer:
        culling = self._parts.culling.status
        containers = self._parts.node.encoded_statuses(max_processes, culling, unmasked=unmasked)
        return Answer(containers, _JSON)

    def _health(self) -> Answer:
        """Answer 200 while ticks come."""
        reason = self._unhealthy()
        return _unavailable(reason) if reason else Answer(b"ok\n")

    def _unhealthy(self) -> str:
        """Return why the agent should be restarted: no tick for long, or a thread is gone for good.

        Empty if it is healthy.
        """
        age_s = self._tick_age_s()
        if age_s is None:
            age_s = self._parts.now_s() - self._state.started_s
        if age_s > _MAX_TICKS_MISSED * self._state.config.interval + _TICK_GRACE_S:
            return f"the last tick ended {age_s:.0f} s ago"
        dead = [each.name for each in revive_all() if each.is_dead and self._is_down(each)]
        return f"no thread can be started for: {', '.join(dead)}" if dead else ""

    def _readiness(self) -> Answer:
        """Answer 200 while rules are loaded, pods and processes are seen, and all threads work."""
        reason = self._not_ready()
        if reason:
            return _unavailable(reason)
        cluster = self._parts.cluster
        trouble = cluster.public_trouble if cluster is not None else ""
        return Answer(f"ok\n{trouble}\n".encode() if trouble else b"ok\n")

    def _not_ready(self) -> str:
        state, cluster = self._state, self._parts.cluster
        if state.last_tick_s is None:
            return "no tick yet"
        if not state.rules.book.rules:
            return "no rules are loaded"
        if state.blindness:
            return state.blindness
        down = [each.name for each in revive_all() if self._is_down(each)]
        if down:
            return f"threads that keep failing (see the log): {', '.join(down)}"
        return cluster.public_trouble if cluster is not None and not cluster.has_listed else ""

    def _is_down(self, state: WorkerState) -> bool:
        return state.down_s > self._max_down_s

    def _log_error(self, error: Exception) -> None:
        self._telemetry.once.failure("answer failed", error)


@dataclass(frozen=True, slots=True)
class MetricsAddress:
    """A listener, and how it is reached."""

    listener: Listener
    address: str
    scheme: str  # http, https


def open_metrics_address(
    config: Config,
    cluster: Cluster | None,
    routes: Routes,
    on_error: Callable[[Exception], None],
    *,
    node: str = "",
    reports: Mapping[str, Route] = MappingProxyType({}),
) -> MetricsAddress:
    """Listen as configured; serve ``reports`` where tokens are reviewed. Raises ListenError."""
    host, port = host_and_port(config.listen)
    settings, authorize = config.tls, None
    if cluster is not None and config.authorize_metrics and not is_loopback(host):
        authorize = _reviewer(cluster, on_error)
        of_node = _reviewer(cluster, on_error, path=REPORT_PATH, audience=audience(node))
        routes = {**routes, **{path: Private(each, of_node) for path, each in reports.items()}}
        if not settings.certificate:
            settings = self_signed_tls()
    tls = TlsEndpoint(settings) if settings.certificate else None
    listener, address = address_listener(
        host, port, routes, on_error=on_error, tls=tls, authorize=authorize
    )
    return MetricsAddress(listener, address, "https" if tls is not None else "http")


def _reviewer(
    cluster: Cluster,
    on_error: Callable[[Exception], None],
    path: str = "/metrics",
    audience: str | None = None,
) -> Authorize:
    from minerwatch.kube.token_review import TokenReviewer

    return TokenReviewer(cluster, on_error, path=path, audience=audience)


def _unavailable(reason: str) -> Answer:
    return Answer(f"{reason}\n".encode(), status=HTTPStatus.SERVICE_UNAVAILABLE)
