"""One node in its cluster: its containers' pods and owners, and how fresh that knowledge is."""

from __future__ import annotations

import random
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from minerwatch.config.schema import Config, Kubernetes
from minerwatch.kube import attributions, client, owners
from minerwatch.kube.events import EventPace, EventReason, EventSender
from minerwatch.kube.pod_cache import PodCache
from minerwatch.kube.pod_parsing import PodFields
from minerwatch.kube.pods import PodWatch
from minerwatch.model import (
    Abuse,
    Attribution,
    Container,
    ContainerKey,
    ContainerKind,
    Facts,
    FactValue,
    Finding,
    Identity,
    Observation,
    Owner,
    OwnerKind,
    Pod,
)

MAX_WAIT_S = 30.0
"""A kubelet writes its status within seconds; without an API server there are no names at all."""

_MAX_WAITING = 4096
_MAX_SILENCE_S = 180.0
"""Of a watch: servers speak up about once a minute, also where nothing happens."""


def is_wanted(settings: Kubernetes) -> bool:
    """Return True if configured so, or if a service account is mounted."""
    return client.is_in_cluster() if settings.enabled is None else settings.enabled


def opened_cluster(settings: Kubernetes) -> client.Cluster:
    """Return the cluster that is configured, or that this pod runs in. Raises ClusterError."""
    if not settings.kubeconfig and not settings.context and client.is_in_cluster():
        return client.in_cluster()
    path = Path(settings.kubeconfig).expanduser() if settings.kubeconfig else None
    return client.from_kubeconfig(path, settings.context or None)


class ClusterNode:
    """Follow the pods of the agent's node and send Events about them."""

    def __init__(
        self, config: Config, node: str, on_error: Callable[[str, Exception], None]
    ) -> None:
        """Connects and begins to follow. Raises ClusterError, or ConfigError for ``owners``."""
        self._asked = owners.sources(config.owners.profile, config.owners.sources)
        self._trust = attributions.Trust(
            config.owners.platform_namespaces,
            config.owners.hub_namespaces,
            binder=config.owners.profile == "binderhub",
        )
        self._node = node
        self.cluster = opened_cluster(config.kubernetes)
        self.is_in_cluster = not config.kubernetes.kubeconfig and client.is_in_cluster()
        """True if the agent uses a pod's service account, whose namespace is then its own."""
        self._pods = PodWatch(
            self.cluster,
            node,
            keep=self.fields(config),
            on_error=on_error,
            rng=random.Random(),  # noqa: S311 - it spreads requests, it guards nothing
        )
        self._names = NameWait()
        self._events: EventSender | None = None
        if config.kubernetes.events:
            self._events = EventSender(
                self.cluster,
                node=node,
                contact=config.kubernetes.contact,
                on_error=lambda reason, error: on_error(f"events {reason}", error),
                pace=event_pace(config.kubernetes),
            )
        self._pods.start()

    @property
    def is_synced(self) -> bool:
        """Return True if a watch is open and answered lately."""
        if self._pods.synced_unix_s is None or not self._pods.is_following:
            return False
        return time.monotonic() - self._pods.synced_s <= _MAX_SILENCE_S

    @property
    def has_listed(self) -> bool:
        """Return True if the node's pods were ever known."""
        return self._pods.synced_unix_s is not None

    @property
    def trouble(self) -> str:
        """Reason why containers have no names, or not the latest; "": there is none."""
        return self._trouble(self._pods.trouble)

    @property
    def public_trouble(self) -> str:
        """Return the trouble without the API server's message."""
        return self._trouble(self._pods.trouble_reason if self._pods.trouble else "")

    def _trouble(self, why: str) -> str:
        if self.has_listed and (self.is_synced or not why):
            return ""
        is_old = "are not up to date" if self.has_listed else "cannot be listed"
        return f"the pods of this node {is_old}: {why}"

    def fields(self, config: Config) -> PodFields:
        """Return which fields of each pod are kept under ``config``."""
        asked, known = owners.pod_fields(self._asked), attributions.pod_fields()
        culling = config.culling
        selectors = (culling.selector, *(each.selector for each in culling.exemptions))
        named = {key for selector in selectors for key in selector.keys}
        return PodFields(
            labels=asked.labels | known.labels | named | {culling.quarantine_label.key},
            annotations=asked.annotations | known.annotations,
            environment=asked.environment | known.environment,
        )

    def pods(self) -> tuple[Pod, ...]:
        """Return the pods of the node, as they are known."""
        return self._pods.cache.pods()

    def owner(self, pod: Pod) -> Owner | None:
        """Return the owner of ``pod``: the person or account to inform."""
        return owners.owner(pod, self._asked)

    def owners(self, pod: Pod) -> tuple[Attribution, ...]:
        """Return all names of the people behind ``pod``, each with its source."""
        return attributions.of_pod(pod, self._asked, self._trust)

    @property
    def synced_unix_s(self) -> float | None:
        """Time at which the pods were last known to be up to date; None: not yet."""
        return self._pods.synced_unix_s

    def blind_spot(self, unmapped: int) -> str:
        """Return why none of the ``unmapped`` containers of pods has a name; "" if some have."""
        if not unmapped or self._pods.synced_unix_s is None or self._pods.cache.pods():
            return ""
        return (
            f"no pod of node {self._node!r} is known, though pods run here: if the cluster calls"
            " this node otherwise, set node.name or MINERWATCH_NODE"
        )

    def identity(self, container: Container) -> Identity | None:
        """Return pod and owner of ``container``; None while they are unknown."""
        return identity_of(container, self._pods.cache, self._asked, self._trust)

    def may_announce(self, container: Container) -> bool:
        """Return True if its name is known, or was waited for; for the thread that ticks."""
        return self._names.is_over(container, self.identity(container), time.monotonic())

    def facts(self, container: Container) -> Facts:
        """Return what the cluster knows of the container, as facts."""
        return identity_facts(self.identity(container))

    def announce(self, observations: Iterable[Observation]) -> None:
        """Queue Events on pods whose verdict changed, worst first; called at every tick."""
        if self._events is None:
            return
        for observation in sorted(observations, key=lambda each: -each.verdict.score):
            identity = self.identity(observation.container)
            if identity is not None and self.may_announce(observation.container):
                names = attributions.public_text(identity.owners)
                self._events.announce(identity.pod, identity.container, observation.verdict, names)

    def announce_action(
        self,
        pod: Pod,
        container: Container,
        reason: EventReason,
        findings: Iterable[Finding] = (),
        abuse: str = Abuse.MINING,
    ) -> None:
        """Queue an Event on ``pod`` about an action and its reason, if configured."""
        if self._events is not None:
            identity = self.identity(container)
            name = identity.container if identity else short_id(container)
            names = attributions.public_text(identity.owners if identity else ())
            self._events.announce_action(pod, name, reason, container.key, findings, abuse, names)

    def failures(self) -> Iterator[tuple[str, str, int]]:
        """Yield failures since the start: probe, reason, count."""
        for name, probe in (("pods", self._pods), ("events", self._events)):
            counts = [*probe.failures.items()] if probe is not None else ()
            yield from ((name, reason, count) for reason, count in counts)

    def close(self) -> None:
        """Close the connections to the cluster, within 4 s."""
        if self._events is not None:
            self._events.close()
        self._pods.close()
        with suppress(OSError):
            self.cluster.close()


def event_pace(settings: Kubernetes) -> EventPace:
    """Return the configured rate limit of Events."""
    most = settings.events_per_minute
    return EventPace(per_minute=most, burst=2 * most)


def short_id(container: Container) -> str:
    """Return the name of a container that the API does not know."""
    return container.container_id[:12]


def identity_of(
    container: Container,
    pods: PodCache,
    sources: Sequence[owners.Source],
    trust: attributions.Trust = attributions.NO_TRUST,
) -> Identity | None:
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
        names = (*attributions.of_pod(pod, sources, trust), *attributions.of_container(inner))
        return Identity(pod, inner.name, inner.image, owners.owner(pod, sources), owners=names)
    named = pods.by_uid(container.pod_uid)
    if named is None:
        return None
    is_nested = bool(container.outer_cgroup)
    names = attributions.of_pod(named, sources, trust)
    if is_nested:
        names += tuple(attributions.of_build(named, pods.pods, trust))
    return Identity(
        named,
        short_id(container),
        "",
        owners.owner(named, sources),
        is_named=is_nested,
        owners=names,
    )


_OWNER_FACTS: Mapping[OwnerKind, str] = {
    OwnerKind.USER: "OwnerUser",
    OwnerKind.SERVER: "OwnerServer",
    OwnerKind.REPOSITORY: "OwnerRepository",
    OwnerKind.REF: "OwnerRef",
    OwnerKind.CLIENT: "OwnerClient",
    OwnerKind.LAUNCH_HOST: "OwnerLaunchHost",
    OwnerKind.PROJECT: "OwnerProject",
    OwnerKind.JOB: "OwnerJob",
    OwnerKind.BUILD: "OwnerBuild",
    OwnerKind.CONTROLLER: "OwnerController",
    OwnerKind.DIGEST: "ContainerImageDigest",
}


def identity_facts(identity: Identity | None) -> Facts:
    """Return what the cluster knows of a container, as facts."""
    if identity is None:
        return {}
    facts: dict[str, FactValue] = {
        "PodNamespace": identity.pod.namespace,
        "PodName": identity.pod.name,
    }
    for kind, field in _OWNER_FACTS.items():
        names = tuple(each.name for each in identity.owners if each.kind is kind)
        if names:
            facts[field] = names if kind is not OwnerKind.DIGEST else names[0]
    gpus = [each.gpus for each in identity.pod.containers]
    count = sum(each or 0.0 for each in gpus)
    if count or None not in gpus:
        facts["GpuRequested"] = count > 0
    if count and None not in gpus:
        facts["ContainerGpuLimit"] = count
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
        """Return True if ``container`` may be announced under the name that it has now."""
        if container.kind is not ContainerKind.POD or (identity and identity.is_named):
            self._since_s.pop(container.key, None)
            return True
        since_s = self._since_s.setdefault(container.key, now_s)
        while len(self._since_s) > _MAX_WAITING:
            self._since_s.popitem(last=False)
        return now_s - since_s >= MAX_WAIT_S
