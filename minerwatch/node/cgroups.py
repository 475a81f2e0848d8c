"""Containers and their CPU, from the cgroup tree.

One hierarchy is read: v2 where it is mounted on /sys/fs/cgroup, otherwise v1's cpuacct, otherwise
the v2 tree that hybrid hosts mount beside v1 (its cpu.stat counts usage without the controller,
Documentation/admin-guide/cgroup-v2.rst). On hybrid hosts cpuacct comes first, for old runtimes put
their containers into v1 only.

A tick stats every known folder: a cgroup's folder has a link for each folder in it (fs/kernfs), so
that only those whose link count or inode changed are listed again. Its time stamps do not change.
CPU counters are kept open and read by one ``pread`` each, and so is v2's cgroup.procs; v1's is
opened each time, for the kernel gives a file that stays open its old list of pids as long as it is
read more than once a second (kernel/cgroup/cgroup-v1.c, ``CGROUP_PIDLIST_DESTROY_DELAY``).

A container whose counter stands still is asleep: nobody in it has run, so nobody has forked,
exec'ed or ended, and whoever was moved there asleep does nothing yet. Its folders and members are
then left alone, but for one tick in ``_TURNS``. A pod's own cgroup counts what all below it burn:
while that counter stands still, so do its containers', which are not read then.

Cgroups are made by tenants, too, so each outermost container has a bound of its own (``_Account``),
and Kubernetes' own cgroups count apart from all others. A process in a cgroup beyond a bound is
not lost: while there are such cgroups, the pids in /proc that no known cgroup lists are placed in
the closest known cgroup above their own.
"""

from __future__ import annotations

import errno
import os
import re
import resource
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from types import MappingProxyType

from minerwatch.errors import NodeError
from minerwatch.model import Container, ContainerKey, ContainerKind, CpuLimit

_MAX_DEPTH = 32
_MAX_PATH_BYTES = 2048
"""Below longer paths nothing is listed: the kernel cannot show what is longer than a page."""
_LONG_PATH_BYTES = 512
"""Beyond what runtimes make, so that each so much more counts as another cgroup."""
_MAX_FOLDERS_BELOW_POD = 1000
_MAX_FOLDERS_BELOW = 4000
"""Cgroups that are kept apart below one outermost container: of a pod; of an engine, which may hold
a whole cluster, or a unit."""
_MAX_NODE_FOLDERS = 5000
"""Cgroups in no container, and again as many of Kubernetes: those of pods and their containers."""
_MAX_TENANT_FOLDERS = 10_000
_MIN_FOLDERS = 32
"""Below all outermost containers together; beyond that each of them has still this many."""
_MAX_PLACED_PER_TICK = 2000
"""Processes in cgroups beyond a bound whose place is looked up in one tick."""
_MAX_ANCESTORS = 64

_READ_BYTES = 4096
_PLACE_BYTES = 65_536  # of /proc/PID/cgroup: on v1 a line for each hierarchy
_RECORD_BYTES = 16  # seq_file ends a read at a whole line; a pid and its newline are shorter
_MAX_READS = 4096
_MAX_PID_DIGITS = 9  # PID_MAX_LIMIT is 2^22 (include/linux/threads.h)
_MAX_NUMBER_DIGITS = 20  # of 64 bits
_MOST_US = 1 << 63
_SHARE_OF_FILES = 0.5
"""Of the files that the process may have open: the rest is for processes, clients and children."""
_LIMIT_TICKS = 6
"""Where a container's tightest limit is set is looked up again after so many ticks."""

_TURNS = 8
_LINGERS_TICKS = 2
"""After its counter has moved a pod counts as awake for so much longer: the cgroup of a container
that has ended is removed a little later."""

_UNKNOWN = -1
_NOT_LISTED = b""
"""In place of a folder: where pids come from that only /proc shows."""

_GONE = frozenset({errno.ENOENT, errno.ENODEV, errno.ENOTDIR})
_NO_FILES_LEFT = frozenset({errno.EMFILE, errno.ENFILE})
_SHORT = _NO_FILES_LEFT | {errno.ENOMEM, errno.EAGAIN}
_MAX_UNPLACED = 1000
_CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class CgroupTick:
    """What one tick found; after the next one the mappings show what that has found."""

    containers: Mapping[ContainerKey, Container]
    cpu_s: Mapping[ContainerKey, float]
    """CPU time without that of containers nested below; it never falls."""
    pids: Mapping[ContainerKey, frozenset[int]]
    """Of the container's cgroup and all below it, up to the next container."""
    read: frozenset[ContainerKey]
    """Whose CPU was looked up; that of the others stood still, also between the last two readings.
    """
    changed: frozenset[ContainerKey]  # those with other pids than at the tick before
    gone: frozenset[ContainerKey]
    over_bound: frozenset[ContainerKey] = frozenset()
    """Outermost containers with more cgroups, or deeper ones, than are kept apart."""


_FIRST_CGROUP_NAMESPACE = "cgroup:[4026531835]"  # PROC_CGROUP_INIT_INO, include/linux/proc_ns.h


@dataclass(frozen=True, slots=True)
class _Hierarchy:
    """Where one tree of cgroups is, and how its files are called."""

    source: str
    root: bytes
    limit_root: bytes  # of the tree with the CPU controller
    is_v2: bool

    @property
    def usage_file(self) -> bytes:
        return b"cpu.stat" if self.is_v2 else b"cpuacct.usage"


@dataclass(slots=True, eq=False)
class _Group:
    """Cgroups that sleep and wake together; those that are in no pod are always awake."""

    folders: dict[bytes, _Folder] = field(default_factory=dict)
    counted: dict[ContainerKey, _Counted] = field(default_factory=dict)


@dataclass(slots=True, eq=False, kw_only=True)
class _PodCgroup(_Group):
    """A pod's own cgroup, above those of its containers."""

    inode: int
    usage_fd: int
    usage: bytes | None = None  # its file, as it was last read
    moved: int = 0  # the tick at which that last changed
    is_awake: bool = True


@dataclass(slots=True, eq=False)
class _Counted:
    """A container and what was read of it."""

    container: Container
    key: ContainerKey
    folder: bytes
    outer: _Counted | None
    pod: _PodCgroup | None
    claim: int | None = None  # how deep in others it says to be a pod's; None: it does not
    usage_fd: int = -1
    inclusive_s: float = 0.0
    burnt_s: float = 0.0  # since the tick before, without nested containers
    is_awake: bool = True
    is_unread: bool = False  # something of it could not be had at the last tick
    listed: dict[bytes, frozenset[int]] = field(default_factory=dict)  # folder -> its pids
    limited_by: bytes | None = None  # the folder, of its own or above, with the tightest limit
    limit_cores: float | None = None
    limit_checked: int = -_LIMIT_TICKS


@dataclass(slots=True, eq=False)
class _Account:
    """Cgroups of one owner: how many are kept apart, and where some are left out."""

    most: int
    counted: _Counted | None = None  # the outermost container; None: of the node itself
    is_tenants: bool = False  # its processes, or whom it serves, choose how many there are
    folders: int = 0
    cut: dict[_Folder, None] = field(default_factory=dict)  # not all of their children are known

    @property
    def is_over(self) -> bool:
        """Return whether its own bound is reached, not only the one that all share."""
        return bool(self.cut) and (
            self.folders >= self.most or any(folder.is_deepest for folder in self.cut)
        )


@dataclass(slots=True, eq=False)
class _Folder:
    path: bytes
    inode: int
    links: int
    depth: int
    pod_uid: str
    is_pod: bool
    owner: _Counted | None
    parent: _Folder | None
    pod: _PodCgroup | None  # the one that it is, or is below
    charged: _Account  # that it counts for
    account: _Account  # that its children count for
    children: dict[bytes, _Folder] = field(default_factory=dict)
    members_fd: int = -1
    members: bytes = b""  # what cgroup.procs held at the last tick
    foreign: int = 0  # of these, in a pid namespace that the agent cannot see into

    @property
    def name(self) -> str:
        """The last part of its path."""
        return _text(self.path.rpartition(b"/")[2])

    @property
    def weight(self) -> int:
        """Return how many cgroups it counts as: paths are kept, and tenants choose their length."""
        return 1 + len(self.path) // _LONG_PATH_BYTES

    @property
    def is_awake(self) -> bool:
        """Whether something may have changed in it, unless its pod sleeps."""
        return self.owner is None or self.owner.is_awake

    @property
    def is_deepest(self) -> bool:
        """Return whether nothing below it is listed, however little there is."""
        return self.depth >= _MAX_DEPTH or len(self.path) > _MAX_PATH_BYTES


class CgroupTree:
    """The containers of a node, from tick to tick; for one thread at a time.

    ``failures`` counts what went wrong since the start, by reason: ``permission`` and
    ``unreadable`` files, ``malformed`` ones, ``open_files`` for counters that could not be kept
    open, ``too_many`` for cgroups of which some children were left out.

    ``unplaced`` are processes since the last tick whose container could not be told for want of
    files or memory: it is to be asked for again.
    """

    def __init__(self, sys: Path, proc: Path, *, units: bool = True) -> None:
        """Raises NodeError where there is no hierarchy that can be read.

        ``units``: whether systemd units, and the host itself, count as containers.
        """
        self.failures = dict.fromkeys(
            ("permission", "unreadable", "malformed", "open_files", "too_many"), 0
        )
        self._hierarchy = _hierarchy(sys / "fs" / "cgroup")
        self._proc = os.fsencode(proc)
        self._units = units
        self._ticks = 0
        self._folders: dict[bytes, _Folder] = {}
        self._node_account = _Account(_MAX_NODE_FOLDERS)
        self._pods_account = _Account(_MAX_NODE_FOLDERS)
        self._tenants_folders = 0
        self._cut: dict[_Folder, None] = {}
        self._unlisted: dict[int, _Counted | None] = {}  # pids in cgroups that are not known
        self._with_unlisted: set[_Counted] = set()
        self._outside = _Group()
        self._pods: dict[_PodCgroup, None] = {}
        self._counted: dict[ContainerKey, _Counted] = {}
        self._claims: dict[str, Counter[int]] = {}  # pod's uid -> how deep it is claimed
        self._contested: set[str] = set()
        self._cpu_s: dict[ContainerKey, float] = {}
        self._containers: dict[ContainerKey, Container] = {}
        self._pids: dict[ContainerKey, frozenset[int]] = {}
        self._changed: set[_Counted] = set()
        self._gone: set[ContainerKey] = set()
        self.unplaced: set[int] = set()
        self.foreign_count = 0
        """Processes of pid namespaces that the agent cannot see into."""
        self._is_short = False  # something could not be read for want of files or memory
        self._open_count = 0
        self._most_open = int(resource.getrlimit(resource.RLIMIT_NOFILE)[0] * _SHARE_OF_FILES)
        self._namespace_root: bytes | None = None  # not looked for yet
        self.source = self._hierarchy.source
        self.blind_spot = self._blind_spot()
        """One line where the agent sees only a part of the node's cgroups; "" where it sees all."""
        if self._adopt(self._hierarchy.root, None) is None:
            raise NodeError(f"{os.fsdecode(self._hierarchy.root)} cannot be read: run as root")

    def tick(self) -> CgroupTick:
        """What there is now; a mapping's value is the same object as long as nothing changed."""
        self._ticks += 1
        self.unplaced.clear()
        gone, self._gone = self._gone, set()
        for pod in self._pods:
            self._look_at_pod(pod)
        burnt_s: dict[_Counted, float] = {}
        self._read_counters(burnt_s)
        self._refresh()
        self._settle_contested()
        self._read_counters(burnt_s)  # of those that are new
        self._share_out(burnt_s)
        for group in self._awake():
            for folder in group.folders.values():
                if folder.owner is not None and folder.is_awake:
                    self._read_members(folder, folder.owner)
        self._place_unlisted()
        changed = self._take_changes()
        gone = (gone | self._gone) - self._counted.keys()
        self._gone = set()
        return CgroupTick(
            containers=MappingProxyType(self._containers),
            cpu_s=MappingProxyType(self._cpu_s),
            pids=MappingProxyType(self._pids),
            read=frozenset(counted.key for counted in burnt_s) & self._counted.keys(),
            changed=frozenset(changed),
            gone=frozenset(gone),
            over_bound=frozenset(
                account.counted.key
                for account in self._cut_accounts()
                if account.counted is not None and account.is_over
            ),
        )

    @property
    def over_bound_count(self) -> int:
        """Return how many owners have more than is kept apart, Kubernetes and the node included."""
        return len(self._cut_accounts())

    def _cut_accounts(self) -> set[_Account]:
        return {folder.account for folder in self._cut}

    def _awake(self) -> list[_Group]:
        return [self._outside, *(pod for pod in self._pods if pod.is_awake)]

    def limit(self, key: ContainerKey) -> CpuLimit | None:
        """The tightest CPU limit, of the container or of a cgroup above; None if it is gone.

        Throttling is counted where that limit is set.
        """
        counted = self._counted.get(key)
        if counted is None:
            return None
        if self._ticks - counted.limit_checked >= _LIMIT_TICKS:
            counted.limit_checked = self._ticks
            counted.limit_cores, counted.limited_by = self._tightest_limit(counted.folder)
        if counted.limited_by is None or counted.limit_cores is None:
            return CpuLimit(None, 0, 0, 0.0)
        stat = _numbers(self._content(counted.limited_by + b"/cpu.stat") or b"")
        throttled_s = stat.get(b"throttled_usec", 0) / 1e6 + stat.get(b"throttled_time", 0) / 1e9
        periods, throttled = stat.get(b"nr_periods", 0), stat.get(b"nr_throttled", 0)
        return CpuLimit(counted.limit_cores, periods, throttled, throttled_s)

    def attribute(self, key: ContainerKey, outer: Container) -> Container | None:
        """Makes an engine's container, and all in it, part of the pod that ``outer`` belongs to.

        For runtimes in a pod whose cgroups lie elsewhere. None if it is gone.
        """
        counted = self._counted.get(key)
        if counted is None:
            return None
        counted.container = replace(counted.container, outer_cgroup=outer.cgroup)
        for each in self._counted.values():
            if each is counted or each.folder.startswith(counted.folder + b"/"):
                self._withdraw_claim(each)
                each.container = self._containers[each.key] = replace(
                    each.container, kind=ContainerKind.POD, pod_uid=outer.pod_uid
                )
        return counted.container

    def container_of(self, pid: int) -> Container | None:
        """The container that a process is in now (cgroups(7)); None if that cannot be told."""
        self._is_short = False
        self.unplaced.discard(pid)
        path = self._cgroup_of(pid)
        folder = self._found(path) if path is not None else None
        if self._is_short and (folder is None or folder.path != path):
            if len(self.unplaced) < _MAX_UNPLACED:
                self.unplaced.add(pid)
            return None  # the folder above may be another container's
        return folder.owner.container if folder and folder.owner else None

    def _found(self, path: bytes) -> _Folder | None:
        """The folder that is ``path``, be it new, or the closest above it."""
        folder = self._nearest(path)
        if folder is not None and folder.path != path and self._has_room(folder):
            self._list_all_below(folder)
            folder = self._nearest(path)
        return folder

    def _nearest(self, path: bytes) -> _Folder | None:
        """The known folder that is ``path``, or the closest above it."""
        while path not in self._folders:
            if len(path) <= len(self._hierarchy.root):
                return None
            path = path.rpartition(b"/")[0]
        return self._folders[path]

    def _cgroup_of(self, pid: int) -> bytes | None:
        """The folder of a process; of an ancestor where the kernel cannot show so long a path."""
        for _ in range(_MAX_ANCESTORS):
            try:
                content = _read(self._proc + b"/%d/cgroup" % pid, _PLACE_BYTES)
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG:
                    self._count(error)
                    return None
                pid = self._parent_of(pid)
                continue
            path = next(self._paths(content), None)
            return None if path is None else self._absolute(path)
        return None

    def _parent_of(self, pid: int) -> int:
        stat = self._content(self._proc + b"/%d/stat" % pid) or b""
        fields = stat.rpartition(b") ")[2].split(None, 2)
        return int(fields[1]) if len(fields) > 1 and fields[1].isdigit() else 0

    def _absolute(self, path: bytes) -> bytes | None:
        """The folder that /proc calls ``path``: as seen from the agent's own cgroup namespace.

        Container runtimes give each container one of its own on cgroup v2 (cgroup_namespaces(7)).
        """
        if self._namespace_root is None:
            self._namespace_root = self._found_namespace_root()
        root = self._namespace_root
        return os.path.normpath(root + path) if root else None

    def _found_namespace_root(self) -> bytes:
        """The folder that is the root of the agent's cgroup namespace; b"" where it is not seen."""
        root = self._hierarchy.root
        if self._proc != b"/proc" or _is_in_first_cgroup_namespace():
            return root
        content = self._content(b"/proc/self/cgroup") or b""
        own_path = next(self._paths(content), b"/").rstrip(b"/")
        own_pid = b"%d" % os.getpid()
        for folder, _, files in os.walk(root):
            if b"cgroup.procs" not in files:
                continue
            members = self._content(folder + b"/cgroup.procs") or b""
            if own_pid in members.split() and folder.endswith(own_path):
                return folder.removesuffix(own_path)
        return b""

    def _paths(self, content: bytes) -> Iterator[bytes]:
        """Of what /proc/PID/cgroup holds, the path in the hierarchy that is read."""
        # Not splitlines(): a cgroup's name may hold a carriage return, and then say anything.
        for line in content.split(b"\n"):
            _number, _, rest = line.partition(b":")
            controllers, colon, path = rest.partition(b":")
            if not colon:
                continue
            if (not controllers) if self._hierarchy.is_v2 else (b"cpuacct" in controllers):
                yield path

    def close(self) -> None:
        """Lets go of every counter."""
        root = self._folders.get(self._hierarchy.root)
        if root is not None:
            self._drop(root)

    # The tree.

    def _refresh(self) -> None:
        """Brings the known folders up to date, reading only those that changed."""
        for folder in [each for group in self._awake() for each in group.folders.values()]:
            if not folder.is_awake:
                continue
            if self._folders.get(folder.path) is not folder:
                continue  # it went with one above it
            try:
                status = os.stat(folder.path)  # noqa: PTH116 - hot
            except OSError as error:
                self._count(error)
                if folder.parent is not None:
                    self._drop(folder)
                    # Where another took its place, the parent has as many links as before.
                    self._list_all_below(folder.parent)
                continue
            if status.st_ino != folder.inode and folder.parent is not None:
                self._drop(folder)
                self._adopt(folder.path, folder.parent)
            elif status.st_nlink != folder.links or (
                folder in self._cut and self._has_room(folder)
            ):
                folder.links = status.st_nlink
                self._list_all_below(folder)

    def _adopt(self, path: bytes, parent: _Folder | None) -> _Folder | None:
        """Takes a folder and all below it into the tree; None if it is gone."""
        first = self._adopt_one(path, parent)
        if first is not None:
            self._list_all_below(first)
        return first

    def _list_all_below(self, folder: _Folder) -> None:
        todo = [folder]
        while todo:
            todo += self._list(todo.pop())

    def _list(self, folder: _Folder) -> list[_Folder]:
        """Drops what is no longer in ``folder``, adopts what is new; the new ones' own are left.

        No more names are read than there is room for; where there are more, what is gone is
        dropped as it is found missing.
        """
        most = len(folder.children) + self._room_in(folder)
        try:
            with os.scandir(folder.path) as entries:
                folders = (entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
                names = set(islice(folders, most + 1))
        except OSError as error:
            self._count(error)
            self._look_again(folder)
            return []
        is_cut = len(names) > most
        if not is_cut:
            for name in folder.children.keys() - names:
                self._drop(folder.children[name])
        added = []
        for name in sorted(names - folder.children.keys()):
            if self._room_for(name, folder) <= 0:
                is_cut = True
                continue
            child = self._adopt_one(folder.path + b"/" + name, folder)
            if child is not None:
                added.append(child)
            else:
                self._look_again(folder)
        self._note_cut(folder, is_cut=is_cut)
        return added

    def _note_cut(self, folder: _Folder, *, is_cut: bool) -> None:
        if is_cut and folder not in self._cut:
            self.failures["too_many"] += 1
            self._cut[folder] = folder.account.cut[folder] = None
        elif not is_cut and folder in self._cut:
            del self._cut[folder], folder.account.cut[folder]

    def _has_room(self, folder: _Folder) -> bool:
        """Return whether more of what is in ``folder`` could be known than when it was listed."""
        return folder not in self._cut or (not folder.is_deepest and self._room(folder.account) > 0)

    def _room_in(self, folder: _Folder) -> int:
        """Return how many more cgroups in ``folder`` can be known."""
        if folder.is_deepest:
            return 0
        return max(self._room(account) for account in self._accounts_in(folder))

    def _room_for(self, name: bytes, folder: _Folder) -> int:
        """Return how many more cgroups like ``name`` in ``folder`` can be known."""
        return 0 if folder.is_deepest else self._room(self._charged_for(name, folder))

    def _room(self, account: _Account) -> int:
        is_crowded = account.is_tenants and self._tenants_folders >= _MAX_TENANT_FOLDERS
        most = min(account.most, _MIN_FOLDERS) if is_crowded else account.most
        return max(0, most - account.folders)

    def _accounts_in(self, folder: _Folder) -> tuple[_Account, ...]:
        if folder.account.is_tenants:
            return (folder.account,)
        return folder.account, self._pods_account

    def _charged_for(self, name: bytes, folder: _Folder) -> _Account:
        """Return the account of a cgroup in ``folder``: Kubernetes' own count apart."""
        is_pods = not folder.account.is_tenants and _is_kubernetes_own(_text(name))
        return self._pods_account if is_pods else folder.account

    def _account_below(
        self, charged: _Account, parent: _Folder | None, counted: _Counted | None
    ) -> _Account:
        """Return the account of the children of a cgroup that itself counts for ``charged``."""
        if charged.is_tenants or parent is None:
            return charged
        if counted is None:
            is_managers = parent.parent is None and charged is self._node_account
            return _Account(_MAX_NODE_FOLDERS) if is_managers else charged
        container = counted.container
        if container.kind is ContainerKind.POD:
            return _Account(_MAX_FOLDERS_BELOW_POD, counted, is_tenants=True)
        is_tenants = container.kind is ContainerKind.ENGINE or _is_run_by_a_user(container)
        return _Account(_MAX_FOLDERS_BELOW, counted, is_tenants=is_tenants)

    def _charge(self, folder: _Folder, weight: int) -> None:
        folder.charged.folders += weight
        if folder.charged.is_tenants:
            self._tenants_folders += weight

    def _look_again(self, folder: _Folder) -> None:
        """Has it listed and read at the next tick, though nobody in it may run until then."""
        folder.links = _UNKNOWN
        if folder.owner is not None:
            folder.owner.is_unread = True
        if folder.pod is not None:
            folder.pod.moved = self._ticks

    def _adopt_one(self, path: bytes, parent: _Folder | None) -> _Folder | None:
        try:
            status = os.stat(path)  # noqa: PTH116 - hot
        except OSError as error:
            self._count(error)
            return None
        name_bytes = path.rpartition(b"/")[2]
        name = _text(name_bytes)
        outer = parent.owner if parent else None
        own_uid = _pod_uid(name)
        pod_uid = _inherited_pod_uid(outer) or own_uid or (parent.pod_uid if parent else "")
        container = self._container(path, status.st_ino, name, parent, pod_uid)
        is_pod = bool(own_uid) and container is None and not _inherited_pod_uid(outer)
        outer_pod = parent.pod if parent else None
        pod = self._opened_pod(path, status.st_ino) if is_pod else outer_pod
        counted = self._count_container(container, path, outer, pod) if container else None
        charged = self._charged_for(name_bytes, parent) if parent else self._node_account
        folder = _Folder(
            path=path,
            inode=status.st_ino,
            links=status.st_nlink,
            depth=parent.depth + 1 if parent else 0,
            pod_uid="" if container else pod_uid,
            is_pod=is_pod,
            owner=counted or outer,
            parent=parent,
            pod=pod,
            charged=charged,
            account=self._account_below(charged, parent, counted),
        )
        self._charge(folder, folder.weight)
        if folder.owner is not None and self._hierarchy.is_v2:
            folder.members_fd = self._kept_open(path + b"/cgroup.procs")
        self._folders[path] = (pod or self._outside).folders[path] = folder
        if parent is not None:
            parent.children[name_bytes] = folder
        return folder

    def _container(
        self, path: bytes, inode: int, name: str, parent: _Folder | None, pod_uid: str
    ) -> Container | None:
        """The container that a folder is, if it is one."""
        if parent is None:
            if not self._units:
                return None
            return Container("/", inode, ContainerKind.HOST, "host", "kernel")
        outer = parent.owner.container if parent.owner else None
        found = _workload(name, parent.name, outer, is_in_pod=parent.is_pod)
        if found is not None:
            container_id, runtime = found
            kind = ContainerKind.POD if pod_uid else ContainerKind.ENGINE
        elif self._units and (manager := _unit_manager(name, parent, outer)):
            container_id, runtime, kind, pod_uid = name, manager, ContainerKind.UNIT, ""
        else:
            return None
        if outer is not None and _is_run_by_a_user(outer):
            # Whoever may make cgroups there could claim to be any pod.
            kind, pod_uid = (
                (ContainerKind.UNIT if kind is ContainerKind.UNIT else ContainerKind.ENGINE),
                "",
            )
        elif kind is ContainerKind.POD and self._is_refuted(pod_uid, parent.owner):
            kind, pod_uid = ContainerKind.ENGINE, ""
        around = outer if outer is not None and _holds_containers(outer) else None
        return Container(
            cgroup=_text(path.removeprefix(self._hierarchy.root)),
            cgroup_inode=inode,
            kind=kind,
            container_id=container_id,
            runtime=runtime,
            pod_uid=pod_uid,
            outer_cgroup=around.cgroup if around else "",
            outermost_cgroup=(around.outermost_cgroup or around.cgroup) if around else "",
        )

    def _opened_pod(self, path: bytes, inode: int) -> _PodCgroup | None:
        usage_fd = self._kept_open(path + b"/" + self._hierarchy.usage_file)
        if usage_fd < 0:
            return None  # so that its containers are looked at themselves
        pod = _PodCgroup(inode=inode, usage_fd=usage_fd)
        self._pods[pod] = None
        return pod

    def _count_container(
        self, container: Container, path: bytes, outer: _Counted | None, pod: _PodCgroup | None
    ) -> _Counted:
        counted = _Counted(container, container.key, path, outer, pod)
        if container.kind is ContainerKind.POD and not _inherited_pod_uid(outer):
            counted.claim = _engines_above(outer)
            claims = self._claims.setdefault(container.pod_uid, Counter())
            claims[counted.claim] += 1
            if max(claims) > counted.claim:
                self._contested.add(container.pod_uid)
        counted.usage_fd = self._kept_open(path + b"/" + self._hierarchy.usage_file)
        self._counted[counted.key] = (pod or self._outside).counted[counted.key] = counted
        self._cpu_s[counted.key] = 0.0
        self._containers[counted.key] = container
        self._pids[counted.key] = frozenset()
        self._changed.add(counted)
        return counted

    def _withdraw_claim(self, counted: _Counted) -> None:
        uid = counted.container.pod_uid
        if counted.claim is None or uid not in self._claims:
            return
        self._claims[uid] -= Counter([counted.claim])
        counted.claim = None
        if not self._claims[uid]:
            del self._claims[uid]

    def _is_refuted(self, pod_uid: str, outer: _Counted | None) -> bool:
        """Return whether the pod is claimed in fewer containers elsewhere: tenants choose names."""
        if _inherited_pod_uid(outer):
            return False
        return any(claim < _engines_above(outer) for claim in self._claims.get(pod_uid, ()))

    def _settle_contested(self) -> None:
        """Takes containers in again that claimed a pod before its own cgroup was seen."""
        contested, self._contested = self._contested, set()
        for uid in contested:
            for counted in [*self._counted.values()]:
                folder = self._folders.get(counted.folder)
                if (
                    counted.container.pod_uid == uid
                    and counted.claim is not None
                    and counted.claim > min(self._claims[uid])
                    and folder is not None
                    and folder.parent is not None
                ):
                    self._drop(folder)
                    self._adopt(folder.path, folder.parent)

    def _drop(self, folder: _Folder) -> None:
        """Forgets a folder and all below it."""
        if folder.parent is not None:
            folder.parent.children.pop(folder.path.rpartition(b"/")[2], None)
        todo = [folder]
        while todo:
            one = todo.pop()
            todo += one.children.values()
            self._folders.pop(one.path, None)
            self._charge(one, -one.weight)
            self._note_cut(one, is_cut=False)
            self._note_foreign(one, 0)
            (one.pod or self._outside).folders.pop(one.path, None)
            self._let_go(one.members_fd)
            if one.is_pod and one.pod is not None:
                self._pods.pop(one.pod, None)
                self._let_go(one.pod.usage_fd)
            owner = one.owner
            if owner is None:
                continue
            if owner.listed.pop(one.path, frozenset()):
                self._changed.add(owner)
            if owner.folder == one.path and owner.key in self._counted:
                self._let_go(owner.usage_fd)
                self._withdraw_claim(owner)
                del self._counted[owner.key], (owner.pod or self._outside).counted[owner.key]
                del self._containers[owner.key], self._pids[owner.key], self._cpu_s[owner.key]
                self._gone.add(owner.key)

    # Members.

    def _read_members(self, folder: _Folder, owner: _Counted) -> None:
        members = self._members(folder)
        if members is None:
            self._look_again(folder)
        if members is None or members == folder.members:
            return
        folder.members = members
        # 0 stands for a process of a pid namespace that the agent cannot see into.
        words = [word for word in members.split() if word.isdigit()]
        self._note_foreign(folder, words.count(b"0"))
        pids = frozenset(int(word) for word in words if len(word) <= _MAX_PID_DIGITS) - {0}
        owner.listed[folder.path] = pids
        self._changed.add(owner)

    def _note_foreign(self, folder: _Folder, count: int) -> None:
        self.foreign_count += count - folder.foreign
        folder.foreign = count

    def _members(self, folder: _Folder) -> bytes | None:
        try:
            if folder.members_fd >= 0:
                return _whole(folder.members_fd)
            fd = os.open(folder.path + b"/cgroup.procs", os.O_RDONLY | os.O_CLOEXEC)
            try:
                return _whole(fd)
            finally:
                os.close(fd)
        except OSError as error:
            # A threaded cgroup's processes are listed above it (cgroup-v2.rst, "Threads").
            if error.errno == errno.EOPNOTSUPP:
                return b""
            self._count(error)
            return None

    def _place_unlisted(self) -> None:
        """Gives processes in cgroups that are not known to the closest one above that is.

        They are found in /proc, and only while there are such cgroups. Each is looked up as it is
        first seen, and again in turn.
        """
        pids = self._unlisted_pids() if self._cut else set()
        self._unlisted = {
            pid: owner
            for pid, owner in self._unlisted.items()
            if pid in pids and (owner is None or self._counted.get(owner.key) is owner)
        }
        again = islice(self._unlisted, 1 + len(self._unlisted) // _TURNS)
        in_turn = [*(pids - self._unlisted.keys()), *again]
        for pid in in_turn[:_MAX_PLACED_PER_TICK]:
            self._unlisted.pop(pid, None)
            path = self._cgroup_of(pid)
            folder = self._nearest(path) if path is not None else None
            self._unlisted[pid] = folder.owner if folder is not None else None
        placed: dict[_Counted, set[int]] = {}
        for pid, owner in self._unlisted.items():
            if owner is not None:
                placed.setdefault(owner, set()).add(pid)
        for owner in self._with_unlisted - placed.keys():
            owner.listed.pop(_NOT_LISTED, None)
            self._changed.add(owner)
        for owner, those in placed.items():
            now = frozenset(those)
            if owner.listed.get(_NOT_LISTED) != now:
                owner.listed[_NOT_LISTED] = now
                self._changed.add(owner)
        self._with_unlisted = set(placed)

    def _unlisted_pids(self) -> set[int]:
        """Pids that no known cgroup lists."""
        try:
            pids = {int(name) for name in os.listdir(self._proc) if name.isdigit()}  # noqa: PTH208
        except OSError as error:
            self._count(error)
            return set()
        for counted in self._counted.values():
            for folder, listed in counted.listed.items():
                if folder != _NOT_LISTED:
                    pids -= listed
        return pids

    def _take_changes(self) -> set[ContainerKey]:
        changed = set()
        for counted in self._changed:
            if self._counted.get(counted.key) is not counted:
                continue
            listed = tuple(counted.listed.values())
            pids = listed[0] if len(listed) == 1 else frozenset().union(*listed)
            if pids != self._pids[counted.key]:
                self._pids[counted.key] = pids
                changed.add(counted.key)
        self._changed = set()
        return changed

    # Counters.

    def _look_at_pod(self, pod: _PodCgroup) -> None:
        """Whether anybody in it has run since it was last looked at, or it is its turn."""
        try:
            usage = os.pread(pod.usage_fd, _READ_BYTES, 0)
        except OSError:  # mostly because it is gone, which its folder tells
            usage = None
        if usage is None or usage != pod.usage:
            pod.usage, pod.moved = usage, self._ticks
        pod.is_awake = (
            self._ticks - pod.moved <= _LINGERS_TICKS or (self._ticks + pod.inode) % _TURNS == 0
        )

    def _read_counters(self, burnt_s: dict[_Counted, float]) -> None:
        """Adds to ``burnt_s`` what is not there yet, but for containers of pods that sleep."""
        for group in self._awake():
            for counted in group.counted.values():
                if counted not in burnt_s:
                    burnt_s[counted] = self._burnt_s(counted)

    def _burnt_s(self, counted: _Counted) -> float:
        """CPU seconds since the last reading, with those of nested containers."""
        usage_s = self._usage_s(counted)
        burnt_s = 0.0 if usage_s is None else max(0.0, usage_s - counted.inclusive_s)
        if usage_s is not None:
            counted.inclusive_s = usage_s
        turn = counted.pod.inode if counted.pod is not None else counted.key.cgroup_inode
        counted.is_awake = (
            burnt_s > 0
            or counted.is_unread
            or usage_s is None  # mostly because it is gone
            or counted.container.kind is ContainerKind.HOST
            or self._is_yet_to_run(counted)
            or (self._ticks + turn) % _TURNS == 0
        )
        counted.is_unread = False
        return burnt_s

    def _is_yet_to_run(self, counted: _Counted) -> bool:
        """Return whether to look at it at each tick until it runs, unless there are too many."""
        return self._cpu_s[counted.key] == 0.0 and not self._folders[counted.folder].charged.cut

    def _share_out(self, burnt_s: Mapping[_Counted, float]) -> None:
        """Gives each container what it burnt itself."""
        for counted, with_nested_s in burnt_s.items():
            counted.burnt_s = with_nested_s
        for counted, with_nested_s in burnt_s.items():
            if counted.outer is not None:
                counted.outer.burnt_s -= with_nested_s
        for counted in burnt_s:
            if counted.burnt_s > 0 and self._counted.get(counted.key) is counted:
                self._cpu_s[counted.key] += counted.burnt_s

    def _usage_s(self, counted: _Counted) -> float | None:
        """CPU seconds of the cgroup and all below it (cgroup-v2.rst, cgroup-v1/cpuacct.rst)."""
        if counted.usage_fd >= 0:
            try:
                content = os.pread(counted.usage_fd, _READ_BYTES, 0)
            except OSError as error:
                self._count(error)
                return None
        else:
            read = self._content(counted.folder + b"/" + self._hierarchy.usage_file)
            if read is None:
                is_host = counted.container.kind is ContainerKind.HOST
                return self._node_cpu_s() if is_host else None
            content = read
        try:
            if not self._hierarchy.is_v2:
                return int(content) / 1e9
            return int(content.split(None, 2)[1]) / 1e6  # usage_usec stands first
        except (ValueError, IndexError, OverflowError):
            self.failures["malformed"] += 1
            return None

    def _node_cpu_s(self) -> float | None:
        """CPU seconds of the whole node (proc_stat(5)), for kernels whose root has no counter."""
        content = self._content(self._proc + b"/stat")
        if content is None:
            return None
        try:
            user, nice, system, _idle, _iowait, irq, softirq = content.split()[1:8]
        except ValueError:
            self.failures["malformed"] += 1
            return None
        return sum(map(int, (user, nice, system, irq, softirq))) / _CLOCK_TICKS_PER_S

    def _tightest_limit(self, folder: bytes) -> tuple[float | None, bytes | None]:
        hierarchy = self._hierarchy
        place = hierarchy.limit_root + folder.removeprefix(hierarchy.root)
        tightest: float | None = None
        where: bytes | None = None
        while len(place) > len(hierarchy.limit_root):
            cores = self._own_limit(place)
            if cores is not None and (tightest is None or cores < tightest):
                tightest, where = cores, place
            place = place.rpartition(b"/")[0]
        return tightest, where

    def _own_limit(self, place: bytes) -> float | None:
        """Cores that ``place`` allows itself (cgroup-v2.rst, scheduler/sched-bwc.rst)."""
        quota: bytes | None
        if self._hierarchy.is_v2 and self._hierarchy.limit_root == self._hierarchy.root:
            quota, _, period = (self._content(place + b"/cpu.max") or b"max").partition(b" ")
        else:
            quota = self._content(place + b"/cpu.cfs_quota_us") or b"-1"
            period = self._content(place + b"/cpu.cfs_period_us") or b"0"
        with suppress(ValueError):
            if 0 < int(quota) < _MOST_US and 0 < int(period) < _MOST_US:
                return int(quota) / int(period)
        return None

    # Files.

    def _kept_open(self, path: bytes) -> int:
        """A file descriptor, or -1 where there is none: then the file is opened each time."""
        if self._open_count >= self._most_open:
            self.failures["open_files"] += 1
            return -1
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in _NO_FILES_LEFT:
                self.failures["open_files"] += 1
            else:
                self._count(error)
            return -1
        self._open_count += 1
        return fd

    def _let_go(self, fd: int) -> None:
        if fd >= 0:
            self._open_count -= 1
            with suppress(OSError):
                os.close(fd)

    def _content(self, path: bytes) -> bytes | None:
        try:
            return _read(path, _READ_BYTES)
        except OSError as error:
            self._count(error)
            return None

    def _count(self, error: OSError) -> None:
        self._is_short |= error.errno in _SHORT
        if isinstance(error, PermissionError):
            self.failures["permission"] += 1
        elif error.errno not in _GONE:
            self.failures["unreadable"] += 1

    def _blind_spot(self) -> str:
        hierarchy = self._hierarchy
        # Only cgroups that are not the real root have a type (cgroup-v2.rst).
        is_inner = hierarchy.is_v2 and _exists(hierarchy.root + b"/cgroup.type")
        own = self._content(self._proc + b"/self/cgroup") or b""
        if is_inner or b":/.." in own:
            return (
                "only the cgroups below the agent's own can be seen: mount the host's"
                " /sys/fs/cgroup, and set hostPID on the agent's pod"
            )
        return ""


# Where the hierarchy is.


def _hierarchy(mounts: Path) -> _Hierarchy:
    root = os.fsencode(mounts)
    if _exists(root + b"/cgroup.controllers"):
        return _Hierarchy("cgroup v2", root, root, is_v2=True)
    cpu = _first_with(root, (b"/cpu,cpuacct", b"/cpuacct,cpu", b"/cpu"), b"/cgroup.procs")
    places = (b"/cpuacct", b"/cpu,cpuacct", b"/cpuacct,cpu")
    accounts = _first_with(root, places, b"/cpuacct.usage")
    unified = root + b"/unified"
    has_unified = _exists(unified + b"/cgroup.controllers")
    if accounts and (not has_unified or _has_folders(accounts) or not _has_folders(unified)):
        return _Hierarchy("cgroup v1 (cpuacct)", accounts, cpu or accounts, is_v2=False)
    if has_unified:
        return _Hierarchy("cgroup v2 beside v1 (unified)", unified, cpu or unified, is_v2=True)
    raise NodeError(
        f"{mounts}: no cgroup hierarchy with CPU counters is mounted there; mount the host's"
        " /sys/fs/cgroup, or name another place with node.sys"
    )


def _is_in_first_cgroup_namespace() -> bool:
    try:
        return os.readlink("/proc/self/ns/cgroup") == _FIRST_CGROUP_NAMESPACE  # noqa: PTH115
    except OSError:  # before Linux 4.6 there is one only
        return True


def _first_with(root: bytes, folders: tuple[bytes, ...], file: bytes) -> bytes | None:
    return next((root + folder for folder in folders if _exists(root + folder + file)), None)


def _exists(path: bytes) -> bool:
    return os.path.exists(path)  # noqa: PTH110 - bytes


def _has_folders(folder: bytes) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(entry.is_dir(follow_symlinks=False) for entry in entries)
    except OSError:
        return False


# What a folder's name says. The names are those of the runtimes' own sources: kubelet
# (pkg/kubelet/cm/cgroup_manager_linux.go), runc's cgroup drivers, containerd's CRI plugin, CRI-O
# (internal/config/cgmgr), podman (libpod/container_internal_linux.go), docker
# (daemon/oci_linux.go).

_UID = r"[0-9a-f]{8}(?P<dash>[-_])(?:[0-9a-f]{4}(?P=dash)){3}[0-9a-f]{12}|[0-9a-f]{32}"
_POD = re.compile(rf"(?:[\w.-]*kubepods(?:-[a-z]+)*-)?pod(?P<uid>{_UID})(?:\.slice)?")
_CONTAINER = re.compile(
    r"(?:(?P<slice>[^:]*):(?P<by>[\w.-]+):|(?P<prefix>[a-z]+(?:-[a-z]+)*)[-_])?"
    r"(?P<id>[0-9a-f]{64})(?:\.scope|\.service)?"
)
_BUILD = re.compile(r"(?:[^:]*:buildkit:|buildkit-)?(?P<id>[0-9a-z]{25})(?:\.scope)?")
"""A step of a build, as BuildKit names it (executor/oci/spec.go): 25 digits of base 36."""
_BUILDKIT = "buildkit"
_JOB = re.compile(r"job_[0-9]+")
"""Slurm's, in uid_UID on v1 and slurmstepd.scope on v2 (src/plugins/cgroup)."""
_RUNTIMES = {
    "cri-containerd": "containerd",
    "containerd": "containerd",
    "nerdctl": "containerd",
    "crio": "cri-o",
    "docker": "docker",
    "kata": "kata",
    "libpod": "podman",
    "lxc": "lxc",
}
_PARENTS = {"docker": "docker", "libpod_parent": "podman", "podman": "podman"}
_SUPERVISORS = ("crio-conmon-", "libpod-conmon-", "conmon-")  # they watch a container from outside
_PAYLOAD = "lxc.payload."
_SYSTEMD = (".slice", ".service", ".scope")


def _is_kubernetes_own(name: str) -> bool:
    """Return whether a folder is named as only the kubelet and its runtime name theirs."""
    return "kubepods" in name or bool(_pod_uid(name))


def _pod_uid(name: str) -> str:
    """The uid of the pod whose folder this is, with dashes; "" if it is none."""
    name = name.partition(":")[0]
    match = _POD.fullmatch(name)
    return match["uid"].replace("_", "-") if match else ""


def _workload(
    name: str, parent: str, outer: Container | None, *, is_in_pod: bool
) -> tuple[str, str] | None:
    """Id and runtime of the container whose folder this is; None if it is none."""
    if name.startswith(_SUPERVISORS):
        return None
    match = _CONTAINER.fullmatch(name)
    if match:
        made_by = match["by"] or match["prefix"] or ""
        return match["id"], _RUNTIMES.get(made_by, "") or _PARENTS.get(parent, "")
    if name.startswith(_PAYLOAD) or f"{parent}." == _PAYLOAD:
        return name.removeprefix(_PAYLOAD), "lxc"
    if is_in_pod:
        return name.removesuffix(".scope"), ""
    if _BUILDKIT in (parent, *re.split("[-:]", name)) and not _is_inside(outer):
        build = _BUILD.fullmatch(name)
        return (build["id"], _BUILDKIT) if build else None
    return None


def _unit_manager(name: str, parent: _Folder, outer: Container | None) -> str:
    """The manager of the unit whose folder this is; "" if it is none.

    A unit is systemd's, of the host or of a user's own; or a job, guest or task of another manager,
    which has a folder below the root: /lxc/101, /mesos/ID, /slurm/uid_1000, /podruntime/kubelet.
    """
    if name.startswith(_SUPERVISORS):
        return ""
    if outer is not None and outer.kind is ContainerKind.UNIT and _JOB.fullmatch(name):
        return "slurm" if "slurm" in outer.cgroup else ""
    if _is_inside(outer):
        return ""
    if name.endswith((".service", ".scope")):
        return "systemd"
    is_below_manager = (
        parent.depth == 1
        and not parent.name.endswith(_SYSTEMD)
        and not name.endswith(_SYSTEMD)
        and not _is_kubernetes_own(parent.name)
        and not _is_kubernetes_own(name)
        and name not in (_BUILDKIT, *_PARENTS)
    )
    return parent.name if is_below_manager else ""


def _holds_containers(outer: Container) -> bool:
    """Return whether what is in ``outer`` is nested in it: a host or service only starts it."""
    if outer.kind is ContainerKind.UNIT and outer.runtime == "systemd":
        return _is_run_by_a_user(outer)
    return outer.kind is not ContainerKind.HOST


def _is_inside(outer: Container | None) -> bool:
    """Return whether what is in ``outer`` belongs to it, and is no unit beside others."""
    return (
        outer is not None and outer.kind is not ContainerKind.HOST and not _is_run_by_a_user(outer)
    )


def _is_run_by_a_user(outer: Container) -> bool:
    """Whether it is, or is below, a user's own systemd, which may make cgroups of any name."""
    return "/user@" in outer.cgroup and outer.kind in (ContainerKind.UNIT, ContainerKind.ENGINE)


def _inherited_pod_uid(outer: _Counted | None) -> str:
    """What is below a pod's container is that pod's, whatever it calls itself."""
    return outer.container.pod_uid if outer else ""


def _engines_above(outer: _Counted | None) -> int:
    """Return how many engines' containers ``outer`` is, and is nested in."""
    count = 0
    while outer is not None:
        count += outer.container.kind is ContainerKind.ENGINE
        outer = outer.outer
    return count


# Small things.


def _read(path: bytes, most: int) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, most)
    finally:
        os.close(fd)


def _whole(fd: int) -> bytes:
    """A list of pids, from its beginning; the kernel gives it a page at a time."""
    content = os.pread(fd, _READ_BYTES, 0)
    if len(content) < _READ_BYTES - _RECORD_BYTES:
        return content
    pieces = list(_pieces(fd, content))
    return b"".join(pieces)


def _pieces(fd: int, piece: bytes) -> Iterator[bytes]:
    offset = 0
    for _ in range(_MAX_READS):
        if not piece:
            return
        yield piece
        offset += len(piece)
        piece = os.pread(fd, _READ_BYTES, offset)


def _numbers(content: bytes) -> dict[bytes, int]:
    words = content.split()
    return {
        name: int(number)
        for name, number in zip(words[::2], words[1::2], strict=False)
        if number.isdigit() and len(number) <= _MAX_NUMBER_DIGITS
    }


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
