"""State kept of the cgroup tree between ticks: cgroups, containers, pods, and their members.

Tenants can make cgroups without end, so there are bounds on how many are known. Each outermost
container has an account of its own, and Kubernetes' own cgroups count apart from all others, so
that no tenant's cgroups keep a new pod from being seen.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from minerwatch.model import Container, ContainerKey, ContainerKind
from minerwatch.node.cgroup_names import is_kubernetes_own, is_run_by_a_user
from minerwatch.node.proc_files import decoded

IDLE_CHECK_TICKS = 8
"""Ticks after which an idle container is read again."""

_UNKNOWN_LINKS = -1
_MAX_PATH_BYTES = 2048
"""Below longer paths nothing is listed: the kernel cannot show what is longer than a page."""
_LONG_PATH_BYTES = 512
"""Runtimes make no longer paths. A longer one counts as another cgroup for each so many bytes."""


@dataclass(frozen=True, slots=True)
class CgroupBounds:
    """The most cgroups that are known apart, by owner."""

    below_pod: int = 1000  # below one outermost container of a pod
    below_other: int = 4000  # of an engine, which may hold a whole cluster, or of a unit
    node: int = 5000  # in no container; and again as many of Kubernetes
    tenants: int = 10_000  # below all outermost containers together
    guaranteed: int = 32  # below each outermost container, even once ``tenants`` is reached
    depth: int = 32
    open_share: float = 0.5  # of the files that the process may have open


@dataclass(slots=True, eq=False)
class Group:
    """Cgroups that become idle together. Those that are in no pod are read at every tick."""

    cgroups: dict[bytes, Cgroup] = field(default_factory=dict)
    containers: dict[ContainerKey, ContainerState] = field(default_factory=dict)


@dataclass(slots=True, eq=False, kw_only=True)
class PodCgroup(Group):
    """A pod's own cgroup, above those of its containers."""

    turn: int  # decides at which ticks it is read though idle
    usage_fd: int
    usage: bytes | None = None  # content of its counter, when last read
    moved_tick: int = 0  # at which that last changed
    is_active: bool = True


@dataclass(slots=True, eq=False)
class ContainerState:
    """A container, and what was read of it."""

    container: Container
    key: ContainerKey
    path: bytes
    outer: ContainerState | None
    pod: PodCgroup | None
    claim: int | None = None  # engines' containers around it if it claims to be a pod's
    usage_fd: int = -1
    inclusive_s: float = 0.0  # CPU time, with that of nested containers
    used_s: float = 0.0  # since the tick before, without nested containers
    is_active: bool = True
    is_unread: bool = False  # a file of it could not be read at the last tick
    listed: dict[bytes, frozenset[int]] = field(default_factory=dict)  # path -> pids
    limited_by: bytes | None = None  # the folder, its own or above, with the tightest limit
    limit_cores: float | None = None
    limit_tick: int | None = None  # at which these were last looked up

    @property
    def turn(self) -> int:
        """Return the number that decides at which ticks it is read though idle: its pod's."""
        return self.pod.turn if self.pod is not None else self.key.cgroup_inode

    @property
    def engines(self) -> int:
        """Return how many engines' containers it is, and is nested in."""
        count = 0
        state: ContainerState | None = self
        while state is not None:
            count += state.container.kind is ContainerKind.ENGINE
            state = state.outer
        return count


@dataclass(slots=True, eq=False)
class Account:
    """Cgroups of one owner: how many are known apart, and where some are left out."""

    max_cgroups: int
    owner: ContainerState | None = None  # the outermost container; None: the node itself
    is_tenants: bool = False  # the tenant's processes decide how many there are
    count: int = 0
    cut: dict[Cgroup, None] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Cgroup:
    """One folder of the tree."""

    path: bytes
    inode: int
    links: int  # of its folder: one for each folder in it
    depth: int
    pod_uid: str
    is_pod: bool
    owner: ContainerState | None
    parent: Cgroup | None
    pod: PodCgroup | None  # the one that it is, or is below
    charged: Account  # it counts towards this
    account: Account  # its children count towards this
    children: dict[bytes, Cgroup] = field(default_factory=dict)
    members_fd: int = -1
    members: bytes = b""  # content of cgroup.procs at the last tick
    foreign: int = 0  # of these, in a pid namespace that the agent cannot see into

    @property
    def name(self) -> str:
        """Return the last part of its path."""
        return decoded(self.path.rpartition(b"/")[2])

    @property
    def weight(self) -> int:
        """Return how many cgroups it counts as: tenants choose the length of the paths kept."""
        return 1 + len(self.path) // _LONG_PATH_BYTES

    @property
    def is_active(self) -> bool:
        """Return True if something may have changed in it, given that its pod is active."""
        return self.owner is None or self.owner.is_active

    def read_again(self, tick: int) -> None:
        """Have it listed and read at the next tick, even if it is idle until then."""
        self.links = _UNKNOWN_LINKS
        if self.owner is not None:
            self.owner.is_unread = True
        if self.pod is not None:
            self.pod.moved_tick = tick


class Accounts:
    """Counts the known cgroups by owner, and remembers which have unknown children."""

    def __init__(self, bounds: CgroupBounds, failures: dict[str, int]) -> None:
        self._bounds = bounds
        self._failures = failures
        self.node = Account(bounds.node)
        self._pods = Account(bounds.node)
        self._tenants_count = 0
        self.cut: dict[Cgroup, None] = {}
        """Cgroups of which some children are left out."""

    @property
    def cut_accounts(self) -> set[Account]:
        """Return the accounts with cgroups that are left out."""
        return {cgroup.account for cgroup in self.cut}

    def owners_over_bound(self) -> frozenset[ContainerKey]:
        """Return the outermost containers that exceed their own bound, not only the shared one."""
        return frozenset(
            account.owner.key
            for account in self.cut_accounts
            if account.owner is not None
            and (
                account.count >= account.max_cgroups
                or any(self._is_deepest(cgroup) for cgroup in account.cut)
            )
        )

    def charge(self, cgroup: Cgroup, weight: int) -> None:
        """Add ``weight`` to the account that a cgroup counts towards."""
        cgroup.charged.count += weight
        if cgroup.charged.is_tenants:
            self._tenants_count += weight

    def mark_cut(self, cgroup: Cgroup, *, is_cut: bool) -> None:
        """Set whether children of a cgroup are left out."""
        if is_cut and cgroup not in self.cut:
            self._failures["too_many"] += 1
            self.cut[cgroup] = cgroup.account.cut[cgroup] = None
        elif not is_cut and cgroup in self.cut:
            del self.cut[cgroup], cgroup.account.cut[cgroup]

    def has_room(self, cgroup: Cgroup) -> bool:
        """Return True if more children could be known than when the cgroup was listed."""
        if cgroup not in self.cut:
            return True
        return not self._is_deepest(cgroup) and self._room(cgroup.account) > 0

    def room_in(self, cgroup: Cgroup) -> int:
        """Return how many more children of any name can be known."""
        if self._is_deepest(cgroup):
            return 0
        room = self._room(cgroup.account)
        return room if cgroup.account.is_tenants else max(room, self._room(self._pods))

    def room_for(self, name: bytes, cgroup: Cgroup) -> int:
        """Return how many more children that are named like ``name`` can be known."""
        return 0 if self._is_deepest(cgroup) else self._room(self.account_for(name, cgroup))

    def account_for(self, name: bytes, parent: Cgroup | None) -> Account:
        """Return the account that a child of ``parent`` counts towards."""
        if parent is None:
            return self.node
        is_pods = not parent.account.is_tenants and is_kubernetes_own(decoded(name))
        return self._pods if is_pods else parent.account

    def account_below(
        self, charged: Account, parent: Cgroup | None, state: ContainerState | None
    ) -> Account:
        """Return the account of the children of a cgroup that counts towards ``charged``."""
        bounds = self._bounds
        if charged.is_tenants or parent is None:
            return charged
        if state is None:
            is_managers = parent.parent is None and charged is self.node
            return Account(bounds.node) if is_managers else charged
        container = state.container
        if container.kind is ContainerKind.POD:
            return Account(bounds.below_pod, state, is_tenants=True)
        is_tenants = container.kind is ContainerKind.ENGINE or is_run_by_a_user(container)
        return Account(bounds.below_other, state, is_tenants=is_tenants)

    def _is_deepest(self, cgroup: Cgroup) -> bool:
        """Return True if children of the cgroup are never listed."""
        return cgroup.depth >= self._bounds.depth or len(cgroup.path) > _MAX_PATH_BYTES

    def _room(self, account: Account) -> int:
        is_crowded = account.is_tenants and self._tenants_count >= self._bounds.tenants
        limit = account.max_cgroups
        if is_crowded:
            limit = min(limit, self._bounds.guaranteed)
        return max(0, limit - account.count)


class PodClaims:
    """Claims of containers, by their names, to be a pod's.

    Tenants choose names inside their containers, so the claim inside the fewest engines' containers
    holds, and those nested deeper are refuted.
    """

    def __init__(self) -> None:
        self._claims: dict[str, Counter[int]] = {}  # pod's uid -> claims by depth
        self._contested: set[str] = set()

    def add(self, state: ContainerState, depth: int) -> None:
        """Add a container's claim of its pod, ``depth`` engines' containers deep."""
        uid = state.container.pod_uid
        state.claim = depth
        claims = self._claims.setdefault(uid, Counter())
        claims[depth] += 1
        if max(claims) > depth:
            self._contested.add(uid)

    def withdraw(self, state: ContainerState) -> None:
        """Remove a container's claim, if it has one."""
        uid = state.container.pod_uid
        if state.claim is None or uid not in self._claims:
            return
        self._claims[uid] -= Counter([state.claim])
        state.claim = None
        if not self._claims[uid]:
            del self._claims[uid]

    def is_refuted(self, pod_uid: str, depth: int) -> bool:
        """Return True if the pod is claimed inside fewer engines' containers elsewhere."""
        return any(claim < depth for claim in self._claims.get(pod_uid, ()))

    def pop_contested(self) -> set[str]:
        """Return, once, the pods that were claimed at several depths."""
        contested, self._contested = self._contested, set()
        return contested


@dataclass(slots=True)
class KnownTree:
    """All cgroups and containers that are known."""

    root: bytes
    accounts: Accounts
    tick: int = 0
    cgroups: dict[bytes, Cgroup] = field(default_factory=dict)
    outside: Group = field(default_factory=Group)
    pods: dict[PodCgroup, None] = field(default_factory=dict)
    states: dict[ContainerKey, ContainerState] = field(default_factory=dict)
    containers: dict[ContainerKey, Container] = field(default_factory=dict)
    cpu_s: dict[ContainerKey, float] = field(default_factory=dict)
    pids: dict[ContainerKey, frozenset[int]] = field(default_factory=dict)
    changed: set[ContainerState] = field(default_factory=set)  # their members
    gone: set[ContainerKey] = field(default_factory=set)
    foreign_count: int = 0
    _by_inode: dict[int, Cgroup] = field(default_factory=dict)
    _inodes_tick: int = -1

    def active_groups(self) -> list[Group]:
        """Return the groups that may have changed since the tick before."""
        return [self.outside, *(pod for pod in self.pods if pod.is_active)]

    def nearest(self, path: bytes) -> Cgroup | None:
        """Return the known cgroup at ``path``, or the closest one above it."""
        while path not in self.cgroups:
            if len(path) <= len(self.root):
                return None
            path = path.rpartition(b"/")[0]
        return self.cgroups[path]

    def with_inode(self, inode: int) -> Cgroup | None:
        """Return the cgroup with this inode, as of the last tick."""
        if self._inodes_tick != self.tick:
            self._inodes_tick = self.tick
            self._by_inode = {each.inode: each for each in self.cgroups.values()}
        return self._by_inode.get(inode)

    def count_foreign(self, cgroup: Cgroup, count: int) -> None:
        """Set how many members of a cgroup are in a pid namespace that cannot be seen."""
        self.foreign_count += count - cgroup.foreign
        cgroup.foreign = count
