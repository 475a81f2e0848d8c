"""Processes of containers, from cgroup.procs and, where cgroups are left out, from /proc.

v2's cgroup.procs is kept open. v1's is opened each time: the kernel returns a stale list for a file
that stays open and is read more than once a second (kernel/cgroup/cgroup-v1.c,
``CGROUP_PIDLIST_DESTROY_DELAY``).
"""

from __future__ import annotations

import errno
import os
from itertools import islice

from minerwatch.model import ContainerKey
from minerwatch.node.cgroup_files import CgroupFiles, ProcessCgroups, read_whole
from minerwatch.node.cgroup_state import IDLE_CHECK_TICKS, Cgroup, ContainerState, KnownTree

_MAX_PID_DIGITS = 9  # PID_MAX_LIMIT is 2^22 (include/linux/threads.h)
_MAX_ATTRIBUTED_PER_TICK = 2000
"""Processes in unknown cgroups that are looked up in one tick."""
_FROM_PROC = b""
"""Key of pids that are in unknown cgroups, among pids by path."""


class MemberReader:
    """Reads which processes are in which container."""

    def __init__(self, known: KnownTree, files: CgroupFiles, processes: ProcessCgroups) -> None:
        self._known = known
        self._files = files
        self._processes = processes
        self._unlisted: dict[int, ContainerState | None] = {}  # pids in unknown cgroups
        self._with_unlisted: set[ContainerState] = set()

    def read(self) -> set[ContainerKey]:
        """Read the members of active cgroups; return the containers with other pids than before."""
        for group in self._known.active_groups():
            for cgroup in group.cgroups.values():
                if cgroup.owner is not None and cgroup.is_active:
                    self._read_cgroup(cgroup, cgroup.owner)
        self._attribute_unlisted()
        return self._collect_changes()

    def _read_cgroup(self, cgroup: Cgroup, owner: ContainerState) -> None:
        members = self._members(cgroup)
        if members is None:
            cgroup.read_again(self._known.tick)
        if members is None or members == cgroup.members:
            return
        cgroup.members = members
        # 0 stands for a process in a pid namespace that the agent cannot see into.
        words = [word for word in members.split() if word.isdigit()]
        self._known.count_foreign(cgroup, words.count(b"0"))
        pids = frozenset(int(word) for word in words if len(word) <= _MAX_PID_DIGITS) - {0}
        owner.listed[cgroup.path] = pids
        self._known.changed.add(owner)

    def _members(self, cgroup: Cgroup) -> bytes | None:
        try:
            if cgroup.members_fd >= 0:
                return read_whole(cgroup.members_fd)
            fd = os.open(cgroup.path + b"/cgroup.procs", os.O_RDONLY | os.O_CLOEXEC)
            try:
                return read_whole(fd)
            finally:
                os.close(fd)
        except OSError as error:
            # A threaded cgroup's processes are listed above it (cgroup-v2.rst, "Threads").
            if error.errno == errno.EOPNOTSUPP:
                return b""
            self._files.count(error)
            return None

    def _attribute_unlisted(self) -> None:
        """Attribute processes in unknown cgroups to the closest known cgroup above their own.

        They are found in /proc, and only while there are unknown cgroups. Each is looked up when it
        is first seen, then again in turn.
        """
        pids = self._unlisted_pids() if self._known.accounts.cut else set()
        states = self._known.states
        self._unlisted = {
            pid: owner
            for pid, owner in self._unlisted.items()
            if pid in pids and (owner is None or states.get(owner.key) is owner)
        }
        again = islice(self._unlisted, 1 + len(self._unlisted) // IDLE_CHECK_TICKS)
        in_turn = [*(pids - self._unlisted.keys()), *again]
        for pid in in_turn[:_MAX_ATTRIBUTED_PER_TICK]:
            self._unlisted.pop(pid, None)
            path = self._processes.path_of(pid)
            cgroup = self._known.nearest(path) if path is not None else None
            self._unlisted[pid] = cgroup.owner if cgroup is not None else None
        attributed: dict[ContainerState, set[int]] = {}
        for pid, owner in self._unlisted.items():
            if owner is not None:
                attributed.setdefault(owner, set()).add(pid)
        for owner in self._with_unlisted | attributed.keys():
            before, now = owner.listed.pop(_FROM_PROC, None), attributed.get(owner)
            if now is not None:
                owner.listed[_FROM_PROC] = frozenset(now)
            if now != before:
                self._known.changed.add(owner)
        self._with_unlisted = set(attributed)

    def _unlisted_pids(self) -> set[int]:
        """Return the pids that no known cgroup lists."""
        try:
            pids = {int(name) for name in os.listdir(self._files.proc) if name.isdigit()}  # noqa: PTH208
        except OSError as error:
            self._files.count(error)
            return set()
        for state in self._known.states.values():
            for path, listed in state.listed.items():
                if path != _FROM_PROC:
                    pids -= listed
        return pids

    def _collect_changes(self) -> set[ContainerKey]:
        changed, known = set(), self._known
        for state in known.changed:
            if known.states.get(state.key) is not state:
                continue
            listed = tuple(state.listed.values())
            pids = listed[0] if len(listed) == 1 else frozenset().union(*listed)
            if pids != known.pids[state.key]:
                known.pids[state.key] = pids
                changed.add(state.key)
        known.changed = set()
        return changed
