"""Reasons not to act on a host: what is not selected, protected, or not possible. Pure.

Only what the operator names is acted on: units of the system and containers of the host's engines
by their names, and all that is in a user's slice by the user, since that user chooses the names in
it. The host itself, parts of the system and the agent's own unit are never acted on.
"""

from __future__ import annotations

from collections.abc import Iterator

from minerwatch.config.schema import HostCulling
from minerwatch.culling.decision import Objection, Reason
from minerwatch.culling.proof import matches_any
from minerwatch.culling.records import ENGINE_ACTIONS, PROCESS_ACTIONS, Case
from minerwatch.model import Action, Container, ContainerKind, Pod

ALWAYS_PROTECTED = (
    *("init.scope", "systemd-*.service", "dbus*.service", "polkit.service", "minerwatch*"),
    *("ssh.service", "sshd.service", "sshd@*.service", "sshd-*", "ssh@*.service"),
    *("docker.service", "containerd.service", "podman*.service", "crio.service"),
    *("kubelet.service", "NetworkManager.service", "cron.service", "crond.service"),
)
"""Units that no configuration opens."""


def host_identity_objections(case: Case) -> Iterator[Objection]:
    """Yield the reasons that lie in what the container is."""
    container, carrier, pod = case.container, case.outermost, case.pod
    if carrier.kind not in (ContainerKind.ENGINE, ContainerKind.UNIT):
        yield Objection(Reason.NOT_A_WORKLOAD, carrier.kind.value)
    if case.verdict.container != container.key:
        yield Objection(Reason.CONTAINER_MISMATCH, "another cgroup")
    if pod is None:
        yield Objection(Reason.NAME_UNKNOWN, container.container_id[:12])
    elif not any(each.container_id == carrier.container_id for each in pod.containers):
        yield Objection(Reason.CONTAINER_MISMATCH, pod.name)


def host_selection_objections(case: Case, pod: Pod, settings: HostCulling) -> Iterator[Objection]:
    """Yield the reasons that lie in the operator's configuration."""
    container, own = case.outermost, case.situation.own_cgroup
    if own == container.cgroup or own.startswith(f"{container.cgroup}/"):
        yield Objection(Reason.OWN_UNIT, "")
    if _is_protected(container, pod, settings):
        yield Objection(Reason.PROTECTED_UNIT, pod.name)
    if not _is_named(container, pod, settings):
        yield Objection(Reason.HOST_NOT_SELECTED, pod.name)


def host_action_objections(
    case: Case, proposed: Action | None, settings: HostCulling
) -> Iterator[Objection]:
    """Yield the reasons that lie in the action."""
    pod = case.pod
    if proposed in (None, Action.OBSERVE) or proposed in PROCESS_ACTIONS or pod is None:
        return
    if proposed not in ENGINE_ACTIONS:
        yield Objection(Reason.NOT_HERE, f"{proposed}: only in a cluster")
    elif not _is_of_hosts_engine(case, pod):
        yield Objection(Reason.NOT_HERE, f"{proposed}: only for containers of the host's engine")
    elif not engine_socket(engine_of(pod.name), settings):
        yield Objection(Reason.NO_ENGINE, f"culling.hosts.{engine_of(pod.name)}_socket")
    elif proposed is Action.PAUSE and pod.phase == "Paused":
        yield Objection(Reason.ALREADY_DONE, proposed.value)


def engine_of(name: str) -> str:
    """Return the engine of a container, which the name of its pod begins with."""
    return name.partition("/")[0]


def engine_socket(engine: str, settings: HostCulling) -> str:
    """Return the socket of an engine; "": none is configured."""
    sockets = {"docker": settings.docker_socket, "podman": settings.podman_socket}
    return sockets.get(engine, "")


def _is_protected(container: Container, pod: Pod, settings: HostCulling) -> bool:
    """Return True if the name is protected; a user's names only where written in full."""
    names = (pod.name, pod.containers[0].name)
    if _user_of(pod):
        is_named = not set(names).isdisjoint(settings.protected)
        return is_named or matches_any(pod.service_account, settings.protected)
    units = ALWAYS_PROTECTED if container.kind is ContainerKind.UNIT else ()
    return any(matches_any(name, (*settings.protected, *units)) for name in names)


def _is_of_hosts_engine(case: Case, pod: Pod) -> bool:
    """Return True if the engine can act on just this container: it is not nested in another."""
    is_engine = case.container.kind is ContainerKind.ENGINE and not _user_of(pod)
    return is_engine and case.outermost == case.container


def _is_named(container: Container, pod: Pod, settings: HostCulling) -> bool:
    if _user_of(pod):
        return matches_any(pod.service_account, settings.users)
    is_engine = container.kind is ContainerKind.ENGINE
    return matches_any(pod.containers[0].name, settings.containers if is_engine else settings.units)


def _user_of(pod: Pod) -> tuple[str, ...]:
    """Return the user whose slice it is in; empty for what is the host's."""
    return (pod.service_account,) if pod.service_account else ()
