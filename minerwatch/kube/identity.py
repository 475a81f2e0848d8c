"""Containers of the kernel -> pods of the cluster, and their owners. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from minerwatch.kube.owners import Source, owner
from minerwatch.kube.pod_cache import PodCache
from minerwatch.model import Container, ContainerKey, ContainerKind, Facts, Identity, Pod

_SHORT_ID = 12
MAX_WAIT_S = 30.0
"""A kubelet writes its status within seconds; without an API server there are no names at all."""

_MAX_WAITING = 4096


class Identities:
    """Pods and owners of the containers of this node."""

    def __init__(self, pods: PodCache, sources: Sequence[Source]) -> None:
        self._pods = pods
        self._sources = tuple(sources)

    def of(self, container: Container) -> Identity | None:
        """Return the identity of ``container``; None if it is unknown or in no pod.

        A container without a name in the API gets its pod by the uid: one that is nested (docker in
        docker), the pod's pause container, or one that was just created.
        """
        if container.kind is not ContainerKind.POD:
            return None
        known = self._pods.by_container_id(container.container_id)
        if known is not None and _is_of(container, known[0]):
            pod, inner = known
            return Identity(pod, inner.name, inner.image, owner(pod, self._sources))
        named = self._pods.by_uid(container.pod_uid)
        if named is None:
            return None
        name = container.container_id[:_SHORT_ID]
        is_nested = bool(container.outer_cgroup)
        return Identity(named, name, "", owner(named, self._sources), is_named=is_nested)


def identity_facts(identity: Identity | None) -> Facts:
    """Return the facts about a container's place in the cluster."""
    if identity is None:
        return {}
    facts = {"PodNamespace": identity.pod.namespace, "PodName": identity.pod.name}
    if identity.is_named:
        facts["ContainerName"] = identity.container
    return {**facts, "ContainerImage": identity.image} if identity.image else facts


def _is_of(container: Container, pod: Pod) -> bool:
    """Return True if kernel and API agree on the pod: tenants choose the names of cgroups."""
    return not container.pod_uid or container.pod_uid in (pod.uid, pod.mirror_uid)


class NameWait:
    """Time since when containers wait for a name, after which they are announced without it.

    The kernel shows a container before the kubelet's status names it, mostly by seconds. A report
    under its id would be repeated under its name. For one thread.
    """

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
