"""Culling as the agent uses it: off or on.

The code that acts is imported when culling is switched on, not before: an agent that only observes
has no code that could do anything else.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from minerwatch.api import orders
from minerwatch.api.types import CullStatus
from minerwatch.config.schema import Config
from minerwatch.config.values import OFF
from minerwatch.culling.decision import Reason
from minerwatch.culling.records import ActionRecord, AuditLine, Moment
from minerwatch.errors import MinerwatchError, OrderError, TargetError
from minerwatch.model import Action, Level, Observation
from minerwatch.node.host_view import HostView
from minerwatch.report.http_server import Answer, Posts
from minerwatch.report.log import Log
from minerwatch.report.metrics import CullFigures

if TYPE_CHECKING:
    from minerwatch.culling.context import Monitor
    from minerwatch.culling.culler import Culler
    from minerwatch.kube.cluster_view import ClusterNode

_Order = TypeVar("_Order")
_JSON = "application/json"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_IS_OFF = "culling is off on this node (culling.mode): nothing is done"
_NO_CLUSTER = "culling is configured, but there is no cluster: nothing is culled"
_NAMES_NOTHING = (
    "culling is configured, but this is no cluster and culling.hosts names no units, containers or"
    " users: nothing is culled"
)
_KNOWS_NOTHING = (
    "culling is off on this node (culling.mode), so its earlier actions are unknown: to release"
    " them, set it to dry-run with the same ladder"
)
_NO_UNDO = (
    "; continue a process with kill -CONT PID, remove a label with kubectl label pod NAME KEY-"
)


def moment(now_s: Callable[[], float]) -> Moment:
    """Return the present moment; ``now_s`` reads the clock since boot."""
    return Moment(time.time(), now_s(), boot_id())


class CullSwitch:
    """Owns the culler while culling is on, and answers for it while it is off."""

    def __init__(
        self,
        config: Config,
        node: str,
        cluster: ClusterNode | HostView | None,
        monitor: Monitor,
        log: Log,
        *,
        now_s: Callable[[], float],
        on_outcome: Callable[[ActionRecord], None],
        on_error: Callable[[str, Exception], None],
    ) -> None:
        """``on_error`` is called with every error."""
        self._config = config
        self._node = node
        self._cluster = cluster
        self._monitor = monitor
        self._log = log
        self._now_s = now_s
        self._on_outcome = on_outcome
        self._on_error = on_error
        self._culler: Culler | None = None
        self._start_culler()

    def use(self, config: Config) -> None:
        """Apply other settings; switching culling off releases all pods."""
        before, self._config = self._config, config
        if self._culler is None:
            self._start_culler()
            return
        self._culler.use(config)
        if config.culling.audit != before.culling.audit:
            self._log.warning("a changed setting needs a restart", key="culling.audit")

    def close(self) -> None:
        """Stop, within some seconds."""
        if self._culler is not None:
            self._culler.close()

    def consider(self, flagged: tuple[Observation, ...]) -> None:
        """Take the containers that a tick found at suspicious or above; return at once."""
        if self._culler is not None:
            self._culler.consider(flagged)

    def status(self, observation: Observation) -> CullStatus | None:
        """Return the decision about a container; None if there is nothing to report."""
        if self._culler is not None:
            return self._culler.status(observation)
        if observation.verdict.level is Level.CLEAR:
            return None
        observe = Action.OBSERVE.value
        return CullStatus(str(OFF), observe, observe, True, 0, (Reason.OFF.value,))  # noqa: FBT003

    def figures(self) -> CullFigures:
        """Return the values of the metrics."""
        return CullFigures(mode=str(OFF)) if self._culler is None else self._culler.figures()

    @property
    def is_forgotten(self) -> bool:
        """Return True once the audit log was removed, before an uninstallation."""
        return self._culler is not None and self._culler.history.is_forgotten

    def failures(self) -> Iterable[tuple[str, str, int]]:
        """Return the failures since the start: source, reason, count."""
        return self._culler.failures() if self._culler is not None else ()

    def audit_lines(self, hours: float) -> tuple[AuditLine, ...]:
        """Return the audit log's lines of the last hours; none while off. Raises AuditError."""
        order = orders.HoursOrder(hours)
        return self._culler.history.lines_since(order) if self._culler is not None else ()

    def posts(self) -> Posts:
        """Return the handlers of the socket's orders."""
        return {
            orders.CULL: self._handler(orders.CullOrder, lambda by: by.orders.cull),
            orders.PREVIEW: self._handler(orders.CullOrder, lambda by: by.orders.preview),
            orders.RELEASE: self._handler(
                orders.ReleaseOrder, lambda by: by.orders.release, when_off=_IS_OFF + _NO_UNDO
            ),
            orders.BAN: self._handler(orders.BanOrder, lambda by: by.orders.ban),
            orders.LIFT: self._handler(orders.LiftOrder, lambda by: by.banning.lift),
            orders.SEEN: self._handler(orders.SeenOrder, lambda by: by.banning.seen),
            orders.BANS: self._handler(
                orders.BansOrder, lambda by: lambda _order: by.banning.listed()
            ),
            orders.RELEASE_ALL: self._handler(
                orders.ReleaseAllOrder, lambda by: by.orders.release_all, when_off=_KNOWS_NOTHING
            ),
            orders.AUDIT_LINES: self._handler(
                orders.HoursOrder, lambda by: by.history.lines_since, in_culling_thread=False
            ),
        }

    def _handler(
        self,
        kind: type[_Order],
        executor: Callable[[Culler], Callable[[_Order], object]],
        *,
        when_off: str = _IS_OFF,
        in_culling_thread: bool = True,
    ) -> Callable[[bytes], Answer]:
        def handle(body: bytes) -> Answer:
            try:
                order = orders.decode(body, kind)
                if self._culler is None:
                    raise OrderError(when_off)
                execute, call = executor(self._culler), self._culler.call
                done = call(lambda: execute(order)) if in_culling_thread else execute(order)
                return Answer(orders.encode(done), _JSON)
            except TargetError as error:
                return _refusal(error, HTTPStatus.NOT_FOUND)
            except MinerwatchError as error:
                return _refusal(error, HTTPStatus.CONFLICT)

        return handle

    def _start_culler(self) -> None:
        if self._config.culling.mode == OFF:
            return
        if self._cluster is None:
            self._log.warning(_NO_CLUSTER)
            return
        hosts = self._config.culling.hosts
        is_host = isinstance(self._cluster, HostView)
        if is_host and not (hosts.units or hosts.containers or hosts.users):
            self._log.warning(_NAMES_NOTHING)
            return
        from minerwatch.culling.context import AgentIdentity, Callbacks
        from minerwatch.culling.culler import Culler

        known = os.environ.get("MINERWATCH_POD_NAMESPACE", "")
        if not known and not isinstance(self._cluster, HostView) and self._cluster.is_in_cluster:
            known = self._cluster.cluster.namespace
        agent = AgentIdentity(
            node=self._node,
            namespace="" if is_host else self._config.kubernetes.namespace or known,
            pod_uid=os.environ.get("MINERWATCH_POD_UID", ""),
        )
        self._culler = Culler(
            self._config,
            agent,
            self._cluster,
            self._monitor,
            self._log,
            read_clocks=lambda: moment(self._now_s),
            callbacks=Callbacks(self._on_outcome, self._on_error),
        )
        self._culler.start()
        self._log.info(
            "culling is on",
            mode=str(self._config.culling.mode),
            namespaces=list(self._config.culling.namespaces),
            **({"hosts": msgspec.to_builtins(hosts)} if is_host else {}),
            own_namespace=agent.namespace,
            audit_log=self._config.culling.audit.log,
        )


def boot_id() -> str:
    """Return the id of the node's boot; "": unknown."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _refusal(error: MinerwatchError, status: HTTPStatus) -> Answer:
    return Answer(f"{error}\n".encode(), status=status)
