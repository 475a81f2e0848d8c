"""Circuit breaker: rules that flag too many owners at once must be wrong. Pure."""

from __future__ import annotations

from minerwatch.config.schema import Culling
from minerwatch.culling.proof import (
    matches_any,
)
from minerwatch.culling.records import Situation
from minerwatch.model import (
    Container,
    Owner,
    Pod,
)


def tripped(situation: Situation, settings: Culling) -> dict[str, str]:
    """Return the rules that flag too many owners at once, each with its counts."""
    breaker = settings.circuit_breaker
    broken = {}
    for rule, count in situation.flagged.items():
        if count >= breaker.at_least and not count <= breaker.share * situation.owners:
            broken[rule] = f"{count} of {situation.owners} owners on this node"
    for rule, count in situation.cluster_flagged.items():
        if count >= breaker.cluster_owners:
            broken[rule] = f"{count} owners in the cluster"
    return broken


def counted_as(
    container: Container, pod: Pod | None, owner: Owner | None, settings: Culling
) -> str:
    """Return the owner that the circuit breaker counts for a container."""
    if pod is None:
        return f"pod {container.pod_uid}" if container.pod_uid else container.cgroup
    return pod_counted_as(pod, owner, settings)


def pod_counted_as(pod: Pod, owner: Owner | None, settings: Culling) -> str:
    """Return the owner that the circuit breaker counts for a pod.

    It is the namespace if the owner is unknown, or if tenants could invent owners to look like
    many.
    """
    if owner is None or matches_any(pod.namespace, settings.tenant_namespaces):
        return f"namespace {pod.namespace}"
    return f"{pod.namespace}/{owner.name}"
