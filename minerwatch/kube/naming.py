"""Containers that may be announced: their names are known, or were waited for.

The kernel shows a container before the kubelet's status names it, mostly by seconds. A report
under its id would be repeated under its name: two Events, two series, two alerts.
"""

from __future__ import annotations

from collections import OrderedDict

from minerwatch.model import Container, ContainerKey, ContainerKind, Identity

MAX_WAIT_S = 30.0
"""A kubelet writes its status within seconds; without an API server there are no names at all."""

_MAX_WAITING = 4096


class NameWait:
    """Remembers since when each container without a name waits for it. For one thread."""

    def __init__(self, max_wait_s: float = MAX_WAIT_S) -> None:
        self._max_wait_s = max_wait_s
        self._since_s: OrderedDict[ContainerKey, float] = OrderedDict()

    def is_over(self, container: Container, identity: Identity | None, now_s: float) -> bool:
        """Return whether ``container`` may be announced under the name that it has now."""
        if container.kind is not ContainerKind.POD or (identity and identity.is_named):
            self._since_s.pop(container.key, None)
            return True
        since_s = self._since_s.setdefault(container.key, now_s)
        while len(self._since_s) > _MAX_WAITING:
            self._since_s.popitem(last=False)
        return now_s - since_s >= self._max_wait_s
