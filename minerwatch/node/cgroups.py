"""Containers with their CPU and their processes, from the cgroup tree.

The modules beside this one do the parts: ``cgroup_files`` finds the tree, ``cgroup_walk`` its
folders, ``cgroup_names`` what they stand for, ``cgroup_counters`` CPU time, ``cgroup_members``
processes. They share what is known, within bounds (``cgroup_state``).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from minerwatch.errors import NodeError
from minerwatch.model import Container, ContainerKey, ContainerKind, CpuLimit
from minerwatch.node.cgroup_counters import CpuCounters
from minerwatch.node.cgroup_files import CgroupFiles, ProcessCgroups
from minerwatch.node.cgroup_members import MemberReader
from minerwatch.node.cgroup_state import Accounts, Cgroup, CgroupBounds, ContainerState, KnownTree
from minerwatch.node.cgroup_walk import CgroupWalk

_MAX_UNATTRIBUTED = 1000


@dataclass(frozen=True, slots=True)
class CgroupTick:
    """The containers at one tick. The mappings are views: the next tick changes them."""

    containers: Mapping[ContainerKey, Container]
    cpu_s: Mapping[ContainerKey, float]
    """CPU time without that of containers nested below; it never falls."""
    pids: Mapping[ContainerKey, frozenset[int]]
    """Processes of the container's cgroup and all below it, up to the next container."""
    read: frozenset[ContainerKey]
    """Containers with a new CPU reading; the others used no CPU since their last one."""
    changed: frozenset[ContainerKey]  # with other pids than at the tick before
    gone: frozenset[ContainerKey]
    over_bound: frozenset[ContainerKey] = frozenset()
    """Outermost containers with more cgroups, or deeper ones, than are known apart."""


class CgroupTree:
    """The containers of a node, from tick to tick; for one thread at a time.

    ``failures`` counts what went wrong since the start, by reason: ``permission`` and
    ``unreadable`` files, ``malformed`` ones, ``open_files`` for counters that could not be kept
    open, ``too_many`` for cgroups of which some children were left out.

    ``unattributed`` holds processes that have no container since the last tick because files or
    memory ran out: call ``container_of`` again.
    """

    def __init__(
        self, sys: Path, proc: Path, *, units: bool = True, bounds: CgroupBounds | None = None
    ) -> None:
        """Raises NodeError if no hierarchy can be read.

        ``units``: count systemd units, and the host itself, as containers.
        """
        bounds = bounds or CgroupBounds()
        self._files = files = CgroupFiles(sys / "fs" / "cgroup", proc, bounds.open_share)
        self._known = known = KnownTree(files.root, Accounts(bounds, files.failures))
        self._processes = ProcessCgroups(files)
        self._counters = CpuCounters(known, files)
        self._members = MemberReader(known, files, self._processes)
        self._walk = CgroupWalk(known, files, units=units)
        self.unattributed: set[int] = set()
        self.failures = files.failures
        self.source = files.source
        self.blind_spot = self._processes.blind_spot()
        """One line if the agent sees only a part of the node's cgroups; "" if it sees all."""
        if self._walk.adopt(files.root, None) is None:
            raise NodeError(f"{os.fsdecode(files.root)} cannot be read: run as root")

    def tick(self) -> CgroupTick:
        """Read the tree; a mapping's value is the same object as long as nothing changed."""
        known, counters, walk = self._known, self._counters, self._walk
        known.tick += 1
        self.unattributed.clear()
        for pod in known.pods:
            counters.read_pod(pod)
        used_s: dict[ContainerState, float] = {}
        counters.read(used_s)
        walk.refresh()
        walk.adopt_contested()
        counters.read(used_s)  # of new containers
        counters.share_out(used_s)
        changed = self._members.read()
        gone, known.gone = known.gone - known.states.keys(), set()
        return CgroupTick(
            containers=MappingProxyType(known.containers),
            cpu_s=MappingProxyType(known.cpu_s),
            pids=MappingProxyType(known.pids),
            read=frozenset(state.key for state in used_s) & known.states.keys(),
            changed=frozenset(changed),
            gone=frozenset(gone),
            over_bound=known.accounts.owners_over_bound(),
        )

    @property
    def over_bound_count(self) -> int:
        """Return how many owners have cgroups left out, Kubernetes and the node included."""
        return len(self._known.accounts.cut_accounts)

    @property
    def foreign_count(self) -> int:
        """Return the number of processes in pid namespaces that the agent cannot see into."""
        return self._known.foreign_count

    def limit(self, key: ContainerKey) -> CpuLimit | None:
        """Return the tightest CPU limit on a container; None if it is gone."""
        state = self._known.states.get(key)
        return self._counters.limit(state) if state is not None else None

    def waited_s(self, key: ContainerKey) -> float | None:
        """Return how long some thread of a container has waited for a CPU; None: not known."""
        state = self._known.states.get(key)
        return self._counters.waited_s(state) if state is not None else None

    def attribute(self, key: ContainerKey, outer: Container) -> Container | None:
        """Make an engine's container, and all in it, part of the pod that ``outer`` belongs to.

        For a runtime in a pod that makes its cgroups elsewhere. Return None if it is gone.
        """
        known = self._known
        state = known.states.get(key)
        if state is None:
            return None
        state.container = replace(state.container, outer_cgroup=outer.cgroup)
        for each in known.states.values():
            if each is state or each.path.startswith(state.path + b"/"):
                self._walk.claims.withdraw(each)
                each.container = known.containers[each.key] = replace(
                    each.container, kind=ContainerKind.POD, pod_uid=outer.pod_uid
                )
        return state.container

    def container_of(self, pid: int) -> Container | None:
        """Return the container that a process is in now (cgroups(7)); None if it is unknown."""
        self._files.is_short = False
        self.unattributed.discard(pid)
        path = self._processes.path_of(pid)
        cgroup = self._find(path) if path is not None else None
        if self._files.is_short and (cgroup is None or cgroup.path != path):
            if len(self.unattributed) < _MAX_UNATTRIBUTED:
                self.unattributed.add(pid)
            return None  # the cgroup above may be another container's
        return cgroup.owner.container if cgroup and cgroup.owner else None

    def container_with_id(self, cgroup: int) -> Container | None:
        """Return the container that a cgroup belongs to; None if it is unknown, or on v1."""
        if not self._files.has_perf_ids:
            return None
        found = self._known.with_inode(cgroup)
        return found.owner.container if found is not None and found.owner is not None else None

    def close(self) -> None:
        """Close every counter."""
        root = self._known.cgroups.get(self._known.root)
        if root is not None:
            self._walk.drop(root)

    def _find(self, path: bytes) -> Cgroup | None:
        """Return the cgroup at ``path``, adopted if it is new, or the closest known one above."""
        known = self._known
        cgroup = known.nearest(path)
        if cgroup is not None and cgroup.path != path and known.accounts.has_room(cgroup):
            self._walk.list_below(cgroup)
            cgroup = known.nearest(path)
        return cgroup
