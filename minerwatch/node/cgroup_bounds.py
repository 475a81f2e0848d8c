"""Bounds on how many cgroups are known, because tenants can make cgroups without end.

Each outermost container has an account of its own, and Kubernetes' own cgroups count apart from all
others, so that no tenant's cgroups keep a new pod from being seen.
"""

from __future__ import annotations

from dataclasses import dataclass

from minerwatch.model import ContainerKey, ContainerKind
from minerwatch.node.cgroup_names import is_kubernetes_own, is_run_by_a_user
from minerwatch.node.cgroup_state import Account, Cgroup, ContainerState
from minerwatch.node.proc_files import decoded

_MAX_PATH_BYTES = 2048
"""Below longer paths nothing is listed: the kernel cannot show what is longer than a page."""


@dataclass(frozen=True, slots=True)
class CgroupBounds:
    """The most cgroups that are known apart, by owner."""

    below_pod: int = 1000  # below one outermost container of a pod
    below_other: int = 4000  # of an engine, which may hold a whole cluster, or of a unit
    node: int = 5000  # in no container; and again as many of Kubernetes
    tenants: int = 10_000  # below all outermost containers together
    guaranteed: int = 32  # still below each of them, once those are reached
    depth: int = 32
    open_share: float = 0.5  # of the files that the process may have open


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
        """Record whether children of a cgroup are left out."""
        if is_cut and cgroup not in self.cut:
            self._failures["too_many"] += 1
            self.cut[cgroup] = cgroup.account.cut[cgroup] = None
        elif not is_cut and cgroup in self.cut:
            del self.cut[cgroup], cgroup.account.cut[cgroup]

    def has_room(self, cgroup: Cgroup) -> bool:
        """Return whether more children could be known than when the cgroup was listed."""
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
        """Return whether children of the cgroup are never listed."""
        return cgroup.depth >= self._bounds.depth or len(cgroup.path) > _MAX_PATH_BYTES

    def _room(self, account: Account) -> int:
        is_crowded = account.is_tenants and self._tenants_count >= self._bounds.tenants
        limit = account.max_cgroups
        if is_crowded:
            limit = min(limit, self._bounds.guaranteed)
        return max(0, limit - account.count)
