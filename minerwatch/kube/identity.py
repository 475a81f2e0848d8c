"""Containers of the kernel -> pods of the cluster, and their owners. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from minerwatch.kube.owners import Source, owner
from minerwatch.kube.pod_cache import PodCache
from minerwatch.model import Container, ContainerKey, ContainerKind, Facts, Identity

MAX_WAIT_S = 30.0
"""A kubelet writes its status within seconds; without an API server there are no names at all."""

_MAX_WAITING = 4096


def short_id(container: Container) -> str:
    """Return the name of a container that the API does not know."""
    return container.container_id[:12]


def identity_of(container: Container, pods: PodCache, sources: Sequence[Source]) -> Identity | None:
    """Return pod and owner of ``container``; None if it is unknown or in no pod.

    A container without a name in the API gets its pod by the uid: one that is nested (docker in
    docker), the pod's pause container, or one that was just created.
    """
    if container.kind is not ContainerKind.POD:
        return None
    known = pods.by_container_id(container.container_id)
    if known is not None and container.pod_uid in ("", known[0].uid, known[0].mirror_uid):
        # Kernel and API agree on the pod: tenants choose the names of cgroups.
        pod, inner = known
        return Identity(pod, inner.name, inner.image, owner(pod, sources))
    named = pods.by_uid(container.pod_uid)
    if named is None:
        return None
    is_nested = bool(container.outer_cgroup)
    return Identity(named, short_id(container), "", owner(named, sources), is_named=is_nested)


def identity_facts(identity: Identity | None) -> Facts:
    """Return the facts about a container's place in the cluster."""
    if identity is None:
        return {}
    facts = {"PodNamespace": identity.pod.namespace, "PodName": identity.pod.name}
    if identity.is_named:
        facts["ContainerName"] = identity.container
    return {**facts, "ContainerImage": identity.image} if identity.image else facts


class NameWait:
    """Time since when containers wait for a name, after which they are announced without it.

    The kernel shows a container before the kubelet's status names it, mostly by seconds. A report
    under its id would be repeated under its name. For one thread.
    """

    def __init__(self) -> None:
        self._since_s: OrderedDict[ContainerKey, float] = OrderedDict()

    def is_over(self, container: Container, identity: Identity | None, now_s: float) -> bool:
        """Return whether ``container`` may be announced under the name that it has now."""
        if container.kind is not ContainerKind.POD or (identity and identity.is_named):
            self._since_s.pop(container.key, None)
            return True
        since_s = self._since_s.setdefault(container.key, now_s)
        while len(self._since_s) > _MAX_WAITING:
            self._since_s.popitem(last=False)
        return now_s - since_s >= MAX_WAIT_S
