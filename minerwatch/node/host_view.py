"""One host outside Kubernetes: names and owners of engines' containers and of systemd's units."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from minerwatch.model import (
    Attribution,
    Container,
    ContainerKey,
    ContainerKind,
    Facts,
    FactValue,
    Identity,
    Owner,
    OwnerKind,
    Pod,
    PodContainer,
    PodContainerKind,
)
from minerwatch.node.engine_files import COMPOSE_PROJECT, DOCKER, PODMAN, EngineContainer, user_of
from minerwatch.node.engine_names import EngineNames, Home
from minerwatch.node.processes import Account, accounts

_MAX_SEEN = 1 << 15  # more than CgroupBounds permits: no user's cgroups push out another's
_ID_CHARS = 12  # shown of an id
_SEEN_S = 600.0  # a container that nothing asked about for so long is gone
_ACCOUNTS_S = 300.0
_ENGINES = (DOCKER, PODMAN, "")  # runtimes whose containers have names here; "": not known which


@dataclass(slots=True)
class _Seen:
    container: Container
    first_unix_s: float
    last_s: float


def host_root(proc: Path) -> Path:
    """Return the host's root folder: that of process 1, also from inside a container."""
    root = proc / "1" / "root"
    is_hidden = proc == Path("/proc") and not os.access(root / "etc", os.R_OK)
    return Path("/") if is_hidden else root


class HostView:
    """Names and owners of what runs outside Kubernetes; for any thread.

    A unit or container is a ``Pod`` without a namespace: the same code publishes and culls it.
    In a user's slice its name begins with the user's number, since the rest is that user's choice,
    as image and labels are; ``service_account`` is the user.
    """

    def __init__(
        self,
        root: Path,
        node: str,
        *,
        monotonic_s: Callable[[], float] = time.monotonic,
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        """``root`` is the host's root folder."""
        self._root = root
        self._node = node
        self._monotonic_s = monotonic_s
        self._unix_s = unix_s
        self._names = EngineNames(monotonic_s)
        self._lock = threading.Lock()
        self._seen: OrderedDict[ContainerKey, _Seen] = OrderedDict()
        self._accounts: dict[int, Account] = {}
        self._accounts_s = -_ACCOUNTS_S

    def identity(self, container: Container) -> Identity | None:
        """Return name, image, labels and owner of a container or unit; None while unknown."""
        if container.kind not in (ContainerKind.ENGINE, ContainerKind.UNIT):
            return None
        found = self._found(container) if container.kind is ContainerKind.ENGINE else None
        return self._identity(container, found)

    def fresh_identity(self, container: Container) -> Identity | None:
        """Return the same, the host's own files just read; not for a thread that ticks."""
        if container.kind is ContainerKind.ENGINE and user_of(container) is None:
            self._names.read(container, self._home(None))
        return self.identity(container)

    def seen(self, uid: str) -> Container | None:
        """Return the container or unit of the pod with ``uid`` that was looked up last."""
        with self._lock:
            recent = reversed([each.container for each in self._seen.values()])
        return next((each for each in recent if _uid(each) == uid), None)

    @property
    def is_synced(self) -> bool:
        """Return True: files are read again before each action."""
        return True

    def owners(self, pod: Pod, image: str = "") -> tuple[Attribution, ...]:
        """Return the names of the people behind a container or unit, each with its source."""
        found = []
        if pod.service_account:
            found.append(Attribution(OwnerKind.USER, pod.service_account, "user slice"))
        if project := pod.labels.get(COMPOSE_PROJECT, ""):
            source = f"label {COMPOSE_PROJECT}"
            found.append(Attribution(OwnerKind.PROJECT, project, source, is_claim=True))
        if image:
            found.append(Attribution(OwnerKind.IMAGE, image, "container"))
        return tuple(found)

    def owner(self, pod: Pod) -> Owner | None:
        """Return the user whose slice it is in, or else the compose project of the engine."""
        if pod.service_account:
            return Owner(pod.service_account, "user slice")
        project = pod.labels.get(COMPOSE_PROJECT, "")
        return Owner(project, f"label {COMPOSE_PROJECT}") if project else None

    def announce_action(self, *_about: object, **_more: object) -> None:
        """Do nothing: a host has no Events."""

    def facts(self, container: Container) -> Facts:
        """Return the facts about the container's name and image."""
        if container.kind is not ContainerKind.ENGINE:
            return {}
        self._first_unix_s(container)
        found = self._found(container)
        if found is None:
            return {}
        facts: dict[str, FactValue] = {"ContainerName": found.name}
        return {**facts, "ContainerImage": found.image} if found.image else facts

    def pods(self) -> tuple[Pod, ...]:
        """Return what was looked up lately, as pods."""
        now_s = self._monotonic_s()
        with self._lock:
            recent = [each for each in self._seen.values() if now_s - each.last_s < _SEEN_S]
        found = (self.identity(each.container) for each in recent)
        return tuple(each.pod for each in found if each is not None)

    def failures(self) -> Iterator[tuple[str, str, int]]:
        """Yield failures since the start: probe, reason, count."""
        yield from (("names", reason, count) for reason, count in self._names.failures.items())

    def close(self) -> None:
        """End the thread that reads."""
        self._names.close()

    def _found(self, container: Container) -> EngineContainer | None:
        """Return the container as its engine knows it; None also if it may be another's."""
        uid = user_of(container)
        if container.runtime not in _ENGINES or (uid is None and _may_be_claimed(container)):
            return None
        home = self._home(uid)
        if not home.path:
            return None
        return self._names.of(container, home)

    def _home(self, uid: int | None) -> Home:
        if uid is None:
            return Home(str(self._root))
        path = self._account(uid).home
        return Home(f"{self._root}{path}" if path.startswith("/") else "", uid)

    def _account(self, uid: int) -> Account:
        now_s = self._monotonic_s()
        with self._lock:
            if now_s - self._accounts_s >= _ACCOUNTS_S:
                self._accounts = accounts(self._root / "etc" / "passwd")
                self._accounts_s = now_s
            return self._accounts.get(uid) or Account(str(uid), "")

    def _identity(self, container: Container, found: EngineContainer | None) -> Identity | None:
        uid = user_of(container)
        is_engine = container.kind is ContainerKind.ENGINE
        if is_engine and found is None and uid is None:
            return None  # in a user's slice a name that is hidden must not hide the user
        user = self._account(uid).name if uid is not None else ""
        below_user = f"{uid}/" if uid is not None else ""
        unnamed = container.container_id[:_ID_CHARS] if is_engine else container.container_id
        name = f"{below_user}{found.name if found else unnamed}"
        labels = found.labels if found else {}
        pod = Pod(
            uid=_uid(container),
            namespace="",
            name=f"{found.engine}/{name}" if found else name,
            node=self._node,
            created_unix_s=self._first_unix_s(container),
            phase="Paused" if found and found.is_paused else "Running",
            priority_class="",
            service_account=user,
            labels=labels,
            annotations={},
            environment={},
            owners=(),
            containers=(_pod_container(container, name, found),),
            mirror_uid="",
            is_ending=False,
        )
        image = found.image if found else ""
        return Identity(
            pod, name if found else unnamed, image, self.owner(pod), owners=self.owners(pod, image)
        )

    def _first_unix_s(self, container: Container) -> float:
        """Return when the container was first looked up: no tenant can choose that."""
        now_s = self._monotonic_s()
        with self._lock:
            seen = self._seen.get(container.key)
            if seen is None:
                seen = self._seen[container.key] = _Seen(container, self._unix_s(), now_s)
            seen.last_s = now_s
            self._seen.move_to_end(container.key)
            while len(self._seen) > _MAX_SEEN:
                self._seen.popitem(last=False)
            return seen.first_unix_s


def _may_be_claimed(container: Container) -> bool:
    """Return True if what runs in a container or service around it may have named the cgroup.

    Only podman puts containers below a service, its own unit (``--cgroups=split``, quadlets); its
    bundle says which (``EngineNames``).
    """
    return bool(container.outer_cgroup) or (
        ".service/" in container.cgroup and container.runtime != PODMAN
    )


def _uid(container: Container) -> str:
    """Return an id for as long as the container exists, or the unit runs.

    A user, or a service with cgroups of its own, may give one the id of another's container.
    """
    is_engines = user_of(container) is None and ".service/" not in container.cgroup
    if container.kind is ContainerKind.ENGINE and is_engines:
        return container.container_id
    return f"{container.cgroup_inode}:{container.cgroup}"


def _pod_container(container: Container, name: str, found: EngineContainer | None) -> PodContainer:
    return PodContainer(
        container_id=container.container_id,
        name=name,
        image=found.image if found else "",
        image_digest="",
        kind=PodContainerKind.MAIN,
    )
