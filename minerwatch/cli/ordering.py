"""The agent of a node as the receiver of orders: by its socket, or by ``exec`` into its pod."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from minerwatch.api.client import answer, ordered
from minerwatch.api.snapshot import decode
from minerwatch.api.types import ContainerStatus
from minerwatch.cli.fleet_source import (
    ClusterSource,
    Scope,
    found_in_cluster,
    say_missing,
    wants_cluster,
)
from minerwatch.config.schema import Config, default_socket
from minerwatch.view.selection import filtered, found


class Agents:
    """The agent of this node, or those of a cluster."""

    def __init__(self, scope: Scope, config: Config, socket_path: Path | None) -> None:
        """Raises ClusterError for a kubeconfig that cannot be used."""
        self._scope = scope
        is_cluster = wants_cluster(scope, config, local=False, socket_path=socket_path)
        self._cluster = ClusterSource(scope) if is_cluster else None
        self._socket = socket_path or Path(config.socket or default_socket())

    def found(self, target: str) -> ContainerStatus:
        """The container that ``target`` names. Raises TargetError, SnapshotError, ClusterError."""
        if self._cluster is None:
            statuses: Sequence[ContainerStatus] = decode(answer(self._socket, "/snapshot/full"))
            return found(filtered(statuses, namespace=self._scope.namespace), target)
        statuses, coverage = self._cluster.survey()
        say_missing(coverage)
        chosen = filtered(statuses, namespace=self._scope.namespace)
        return found_in_cluster(chosen, coverage, target)

    def ordered(self, node: str, path: str, order: bytes) -> bytes:
        """Return the answer of ``node``. Raises OrderError, SnapshotError, ClusterError."""
        if self._cluster is not None:
            return self._cluster.ordered(node, path, order)
        return ordered(self._socket, path, order)

    def ordered_everywhere(self, path: str, order: bytes) -> Iterator[tuple[str, bytes | str]]:
        """Each node with what its agent answers, or in text why it does not."""
        if self._cluster is not None:
            yield from self._cluster.ordered_everywhere(path, order)
        else:
            yield "", ordered(self._socket, path, order)
