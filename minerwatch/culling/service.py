"""Culling as the agent sees it: off, or on.

What acts (``minerwatch.culling`` and what it needs) is imported when culling is switched on, not
before: an agent that only observes has no code in it that could do anything else.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from minerwatch.api import orders
from minerwatch.api.types import CullStatus
from minerwatch.config.schema import Config
from minerwatch.config.values import OFF
from minerwatch.culling.decision import Reason
from minerwatch.culling.records import Moment
from minerwatch.errors import MinerwatchError, OrderError, TargetError
from minerwatch.model import Action, Level, Observation, Outcome
from minerwatch.report.http_server import Answer, Posts
from minerwatch.report.log import Log
from minerwatch.report.metrics import CullFigures

if TYPE_CHECKING:
    from minerwatch.culling.culler import Culler, Target, Watching
    from minerwatch.kube.cluster_view import ClusterNode

_JSON = "application/json"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_IS_OFF = "culling is off on this node (culling.mode): nothing is done"
_NO_CLUSTER = "culling is configured, but there is no cluster: nothing is culled"
_KNOWS_NOTHING = (
    "culling is off on this node (culling.mode), so nothing is known of what it did before: to"
    " release that, switch it to dry-run with the ladder as it was"
)
_NO_UNDO = "; a process goes on with kill -CONT PID, a label goes with kubectl label pod NAME KEY-"


def moment(now_s: Callable[[], float]) -> Moment:
    """Now; ``now_s`` is the clock that runs since boot."""
    return Moment(time.time(), now_s(), boot_id())


class CullSwitch:
    """Hands what ticks find to a culler, and what a culler says to others, where there is one."""

    def __init__(
        self,
        config: Config,
        node: str,
        cluster: ClusterNode | None,
        watch: Watching,
        log: Log,
        *,
        now_s: Callable[[], float],
        on_outcome: Callable[[Action, Outcome], None],
        on_error: Callable[[str, Exception], None],
    ) -> None:
        """``on_error`` hears of what goes wrong within, each time."""
        self._config = config
        self._node = node
        self._cluster = cluster
        self._watch = watch
        self._log = log
        self._now_s = now_s
        self._on_outcome = on_outcome
        self._on_error = on_error
        self._culler: Culler | None = None
        self._open()

    def use(self, config: Config) -> None:
        """Put other settings in force; switched off, all is released and nothing more is done."""
        before, self._config = self._config, config
        if self._culler is None:
            self._open()
            return
        self._culler.use(config.culling, float(config.interval))
        if config.culling.audit != before.culling.audit:
            self._log.warning("a changed setting needs a restart", key="culling.audit")

    def close(self) -> None:
        """Ends what is under way, within some seconds."""
        if self._culler is not None:
            self._culler.close()

    def consider(self, flagged: tuple[Observation, ...]) -> None:
        """Takes what a tick found; returns at once."""
        if self._culler is None:
            return
        from minerwatch.culling.culler import Round

        self._culler.consider(Round(flagged))

    def status(self, observation: Observation) -> CullStatus | None:
        """What would be done about a container, or why not; None where there is nothing to say."""
        if self._culler is not None:
            return self._culler.status(observation)
        if observation.verdict.level is Level.CLEAR:
            return None
        observe = Action.OBSERVE.value
        return CullStatus(str(OFF), observe, observe, True, 0, (Reason.OFF.value,))  # noqa: FBT003

    def figures(self) -> CullFigures:
        """What metrics say of it."""
        culler = self._culler
        if culler is None:
            return CullFigures(mode=str(OFF))
        return CullFigures(
            mode=culler.mode,
            budget_left=culler.budget_left,
            is_circuit_open=culler.is_circuit_open,
            stopped=culler.stopped_count,
        )

    @property
    def is_forgotten(self) -> bool:
        """Return True once the audit log was removed, before an uninstallation."""
        return self._culler is not None and self._culler.is_forgotten

    def failures(self) -> Iterable[tuple[str, str, int]]:
        """What went wrong since the start: probe, reason, count."""
        return self._culler.failures() if self._culler is not None else ()

    def posts(self) -> Posts:
        """What the agent's socket takes orders by."""
        return {
            orders.CULL: lambda body: _answered(lambda: self._cull(body)),
            orders.PREVIEW: lambda body: _answered(lambda: self._preview(body)),
            orders.RELEASE: lambda body: _answered(lambda: self._release(body)),
            orders.RELEASE_ALL: lambda body: _answered(lambda: self._release_all(body)),
            orders.TOLD: lambda body: _answered(lambda: self._told(body)),
        }

    def _cull(self, body: bytes) -> object:
        order = orders.decode(body, orders.CullOrder)
        culler = self._required(_IS_OFF)
        return culler.cull(_target(order), order.action, dry_run=order.dry_run)

    def _preview(self, body: bytes) -> object:
        order = orders.decode(body, orders.CullOrder)
        culler = self._required(_IS_OFF)
        return culler.preview(_target(order), order.action, dry_run=order.dry_run)

    def _release(self, body: bytes) -> object:
        order = orders.decode(body, orders.ReleaseOrder)
        return self._required(_IS_OFF + _NO_UNDO).release(_target(order))

    def _release_all(self, body: bytes) -> object:
        order = orders.decode(body, orders.ReleaseAllOrder)
        culler = self._required(_KNOWS_NOTHING)
        return culler.release_all(order.namespace, retire=order.retire, forget=order.forget)

    def _told(self, body: bytes) -> object:
        order = orders.decode(body, orders.ToldOrder)
        return self._required(_IS_OFF).told_since(order.hours)

    def _required(self, otherwise: str) -> Culler:
        if self._culler is None:
            raise OrderError(otherwise)
        return self._culler

    def _open(self) -> None:
        if self._config.culling.mode == OFF:
            return
        if self._cluster is None:
            self._log.warning(_NO_CLUSTER)
            return
        from minerwatch.culling.culler import Culler, Own

        settings = self._config.kubernetes
        own = Own(
            node=self._node,
            namespace=_own_namespace(settings.namespace, self._cluster),
            pod_uid=os.environ.get("MINERWATCH_POD_UID", ""),
            interval_s=float(self._config.interval),
        )
        self._culler = Culler(
            self._config.culling,
            own,
            self._cluster,
            self._cluster.keep(self._config),
            self._watch,
            self._log,
            moment=lambda: moment(self._now_s),
            on_outcome=self._on_outcome,
            on_error=self._on_error,
            proc=Path(self._config.node.proc),
        )
        self._culler.start()
        self._log.info(
            "culling is on",
            mode=str(self._config.culling.mode),
            namespaces=list(self._config.culling.namespaces),
            own_namespace=own.namespace,
            audit_log=self._config.culling.audit.log,
        )


def _own_namespace(configured: str, cluster: ClusterNode) -> str:
    """As configured, or as the pod was told, or its service account's; "": it is in no pod."""
    told = configured or os.environ.get("MINERWATCH_POD_NAMESPACE", "")
    return told or (cluster.cluster.namespace if cluster.is_in_cluster else "")


def boot_id() -> str:
    """Return what tells one life of the node from another; "": it is not known."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _target(order: orders.ReleaseOrder) -> Target:
    from minerwatch.culling.culler import Target

    return Target(order.cgroup, order.container_id, order.pod_uid)


def _answered(work: Callable[[], object]) -> Answer:
    """What ``work`` returns as JSON, or its error in one line of text."""
    try:
        return Answer(orders.encode(work()), _JSON)
    except TargetError as error:
        return _refusal(error, HTTPStatus.NOT_FOUND)
    except MinerwatchError as error:
        return _refusal(error, HTTPStatus.CONFLICT)


def _refusal(error: MinerwatchError, status: HTTPStatus) -> Answer:
    return Answer(f"{error}\n".encode(), status=status)
