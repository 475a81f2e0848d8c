"""The containers whose network is read at a tick: those of pods and engines that ran."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from minerwatch.agent.tracked import WITH_NETWORK, TrackedContainer, TrackedNode
from minerwatch.model import ContainerKey
from minerwatch.probes.network_counters import NetworkUser


def network_users(
    node: TrackedNode, used_s: Mapping[ContainerKey, float], recent: Collection[ContainerKey]
) -> list[NetworkUser]:
    """Return the containers that used CPU time and the recent ones, with their pod's first process.

    A pod's first container is its sandbox, whose process no tenant chooses.
    """
    first: dict[str, TrackedContainer] = {}
    for container in node.containers.values():
        if container.processes:
            known = first.setdefault(container.owner, container)
            if container.container.cgroup_inode < known.container.cgroup_inode:
                first[container.owner] = container
    found = []
    ran = {key: cpu_s for key, cpu_s in used_s.items() if cpu_s > 0}
    for key in {**ran, **dict.fromkeys(recent, 0.0)}:
        user = node.containers.get(key)
        if user is not None and user.processes and user.container.kind in WITH_NETWORK:
            pid = next(iter(first[user.owner].processes))
            cpu_s = ran.get(key, 0.0)
            found.append(NetworkUser(key, user.owner, cpu_s, [*user.processes], pid))
    return found
