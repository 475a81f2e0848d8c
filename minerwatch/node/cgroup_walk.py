"""The walk of the cgroup tree: it adopts folders that are new, and drops those that are gone.

A tick stats every active folder. A cgroup's folder has a link for each folder in it (fs/kernfs), so
it is listed again only if its link count or inode changed. Its time stamps do not change.
"""

from __future__ import annotations

import os
from itertools import islice

from minerwatch.model import Container, ContainerKind
from minerwatch.node.cgroup_files import CgroupFiles
from minerwatch.node.cgroup_names import FolderName, holds_containers, pod_uid_of, workload_of
from minerwatch.node.cgroup_state import Cgroup, ContainerState, KnownTree, PodCgroup, PodClaims
from minerwatch.node.proc_files import decoded


class CgroupWalk:
    """Keeps the known tree up to date with the folders."""

    def __init__(self, known: KnownTree, files: CgroupFiles, *, units: bool) -> None:
        self._known = known
        self._accounts = known.accounts
        self._files = files
        self._units = units
        self.claims = PodClaims()

    def refresh(self) -> None:
        """Bring active cgroups up to date, listing only those that changed."""
        known, accounts = self._known, self._accounts
        for cgroup in [each for group in known.active_groups() for each in group.cgroups.values()]:
            if not cgroup.is_active:
                continue
            if known.cgroups.get(cgroup.path) is not cgroup:
                continue  # dropped with one above it
            try:
                status = os.stat(cgroup.path)  # noqa: PTH116 - hot
            except OSError as error:
                self._files.count(error)
                if cgroup.parent is not None:
                    self.drop(cgroup)
                    # If another took its place, the parent has as many links as before.
                    self.list_below(cgroup.parent)
                continue
            if status.st_ino != cgroup.inode and cgroup.parent is not None:
                self.drop(cgroup)
                self.adopt(cgroup.path, cgroup.parent)
            elif status.st_nlink != cgroup.links or (
                cgroup in accounts.cut and accounts.has_room(cgroup)
            ):
                cgroup.links = status.st_nlink
                self.list_below(cgroup)

    def adopt(self, path: bytes, parent: Cgroup | None) -> Cgroup | None:
        """Add a folder and all below it to the tree; return None if it is gone."""
        first = self._adopt_one(path, parent)
        if first is not None:
            self.list_below(first)
        return first

    def list_below(self, cgroup: Cgroup) -> None:
        """List a cgroup, and all that is new below it."""
        todo = [cgroup]
        while todo:
            todo += self._list(todo.pop())

    def adopt_contested(self) -> None:
        """Adopt again the containers that claimed a pod before its own cgroup was seen."""
        known = self._known
        for uid in self.claims.pop_contested():
            for state in [*known.states.values()]:
                cgroup = known.cgroups.get(state.path)
                if (
                    state.container.pod_uid == uid
                    and state.claim is not None
                    and self.claims.is_refuted(uid, state.claim)
                    and cgroup is not None
                    and cgroup.parent is not None
                ):
                    self.drop(cgroup)
                    self.adopt(cgroup.path, cgroup.parent)

    def drop(self, cgroup: Cgroup) -> None:
        """Remove a cgroup and all below it from the tree."""
        if cgroup.parent is not None:
            cgroup.parent.children.pop(cgroup.path.rpartition(b"/")[2], None)
        todo = [cgroup]
        while todo:
            one = todo.pop()
            todo += one.children.values()
            self._drop_one(one)

    def _drop_one(self, cgroup: Cgroup) -> None:
        known, group = self._known, cgroup.pod or self._known.outside
        known.cgroups.pop(cgroup.path, None)
        self._accounts.charge(cgroup, -cgroup.weight)
        self._accounts.mark_cut(cgroup, is_cut=False)
        known.count_foreign(cgroup, 0)
        group.cgroups.pop(cgroup.path, None)
        self._files.close(cgroup.members_fd)
        if cgroup.is_pod and cgroup.pod is not None:
            known.pods.pop(cgroup.pod, None)
            self._files.close(cgroup.pod.usage_fd)
        owner = cgroup.owner
        if owner is None:
            return
        if owner.listed.pop(cgroup.path, frozenset()):
            known.changed.add(owner)
        key = owner.key
        if owner.path == cgroup.path and key in known.states:
            self._files.close(owner.usage_fd)
            self.claims.withdraw(owner)
            del known.states[key], (owner.pod or known.outside).containers[key]
            del known.containers[key], known.pids[key], known.cpu_s[key]
            known.gone.add(key)

    def _list(self, cgroup: Cgroup) -> list[Cgroup]:
        """Drop the children that are gone, adopt and return the new ones without theirs.

        Only as many names are read as there is room for. If there are more, a child that is gone is
        dropped when it is found missing.
        """
        max_names = len(cgroup.children) + self._accounts.room_in(cgroup)
        try:
            with os.scandir(cgroup.path) as entries:
                folders = (entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
                names = set(islice(folders, max_names + 1))
        except OSError as error:
            self._files.count(error)
            cgroup.read_again(self._known.tick)
            return []
        is_cut = len(names) > max_names
        if not is_cut:
            for name in cgroup.children.keys() - names:
                self.drop(cgroup.children[name])
        added = []
        for name in sorted(names - cgroup.children.keys()):
            if self._accounts.room_for(name, cgroup) <= 0:
                is_cut = True
                continue
            child = self._adopt_one(cgroup.path + b"/" + name, cgroup)
            if child is not None:
                added.append(child)
            else:
                cgroup.read_again(self._known.tick)
        self._accounts.mark_cut(cgroup, is_cut=is_cut)
        return added

    def _adopt_one(self, path: bytes, parent: Cgroup | None) -> Cgroup | None:
        try:
            status = os.stat(path)  # noqa: PTH116 - hot
        except OSError as error:
            self._files.count(error)
            return None
        name_bytes = path.rpartition(b"/")[2]
        name = decoded(name_bytes)
        outer = parent.owner if parent else None
        # Below a pod's container all is that pod's, whatever its name claims.
        inherited_uid = outer.container.pod_uid if outer else ""
        own_uid = pod_uid_of(name)
        pod_uid = inherited_uid or own_uid or (parent.pod_uid if parent else "")
        container = self._container(path, status.st_ino, name, parent, pod_uid)
        is_pod = bool(own_uid) and container is None and not inherited_uid
        pod = parent.pod if parent else None
        if is_pod:
            # In a container (a node of kind) it is read when that is, or its members never are.
            pod = self._open_pod(path, outer.turn if outer else status.st_ino)
        state = self._add_container(container, path, outer, pod) if container else None
        charged = self._accounts.account_for(name_bytes, parent)
        cgroup = Cgroup(
            path=path,
            inode=status.st_ino,
            links=status.st_nlink,
            depth=parent.depth + 1 if parent else 0,
            pod_uid="" if container else pod_uid,
            is_pod=is_pod,
            owner=state or outer,
            parent=parent,
            pod=pod,
            charged=charged,
            account=self._accounts.account_below(charged, parent, state),
        )
        self._accounts.charge(cgroup, cgroup.weight)
        if cgroup.owner is not None and self._files.is_v2:
            cgroup.members_fd = self._files.keep_open(path + b"/cgroup.procs")
        self._known.cgroups[path] = (pod or self._known.outside).cgroups[path] = cgroup
        if parent is not None:
            parent.children[name_bytes] = cgroup
        return cgroup

    def _container(
        self, path: bytes, inode: int, name: str, parent: Cgroup | None, pod_uid: str
    ) -> Container | None:
        """Return the container that a folder is; None if it is not one."""
        if parent is None:
            if not self._units:
                return None
            return Container("/", inode, ContainerKind.HOST, "host", "kernel")
        outer = parent.owner.container if parent.owner else None
        workload = workload_of(
            FolderName(name, parent.name, parent.depth, parent.is_pod, pod_uid, outer),
            units=self._units,
        )
        if workload is None:
            return None
        kind, pod_uid = workload.kind, workload.pod_uid
        if kind is ContainerKind.POD and self._is_refuted(pod_uid, parent.owner):
            kind, pod_uid = ContainerKind.ENGINE, ""
        around = outer if outer is not None and holds_containers(outer) else None
        return Container(
            cgroup=decoded(path.removeprefix(self._files.root)),
            cgroup_inode=inode,
            kind=kind,
            container_id=workload.container_id,
            runtime=workload.runtime,
            pod_uid=pod_uid,
            outer_cgroup=around.cgroup if around else "",
            outermost_cgroup=(around.outermost_cgroup or around.cgroup) if around else "",
        )

    def _is_refuted(self, pod_uid: str, outer: ContainerState | None) -> bool:
        if outer is None:
            return False
        return not outer.container.pod_uid and self.claims.is_refuted(pod_uid, outer.engines)

    def _open_pod(self, path: bytes, turn: int) -> PodCgroup | None:
        usage_fd = self._files.keep_open(path + b"/" + self._files.usage_file)
        if usage_fd < 0:
            return None  # so that its containers' own counters are read
        pod = PodCgroup(turn=turn, usage_fd=usage_fd)
        self._known.pods[pod] = None
        return pod

    def _add_container(
        self, container: Container, path: bytes, outer: ContainerState | None, pod: PodCgroup | None
    ) -> ContainerState:
        known = self._known
        state = ContainerState(container, container.key, path, outer, pod)
        if container.kind is ContainerKind.POD and not (outer and outer.container.pod_uid):
            self.claims.add(state, outer.engines if outer else 0)
        state.usage_fd = self._files.keep_open(path + b"/" + self._files.usage_file)
        known.states[state.key] = (pod or known.outside).containers[state.key] = state
        known.cpu_s[state.key] = 0.0
        known.containers[state.key] = container
        known.pids[state.key] = frozenset()
        known.changed.add(state)
        return state
