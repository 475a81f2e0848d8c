"""Names of docker's and podman's containers, read from the engines' files.

No engine is asked: its socket would be the power of root. A container in a user's slice is looked
up below that user's home only, every other one in the host's own folders only: so no user can name
a cgroup or a file to pass for another's container. Files of users are opened without following
links, must be regular, small and their own, and are read by a thread, since a home may be on a file
system that hangs.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from minerwatch.fair_queue import FairQueue
from minerwatch.model import Container, ContainerKey
from minerwatch.node.engine_files import (
    DOCKER,
    MAX_PODMAN_CONTAINERS,
    PODMAN,
    EngineContainer,
    docker_container,
    docker_data_root,
    is_in_cgroup,
    podman_containers,
    podman_graph_root,
)
from minerwatch.worker import Worker

_DRIVERS = ("overlay", "vfs", "btrfs", "zfs")
"""Storage drivers of containers/storage: part of the name of its folder of containers."""
_MAX_HOST_BYTES = 8 << 20
_MAX_USER_BYTES = 512 << 10
_MAX_USER_CONTAINERS = 256
_MAX_KNOWN = 4096
_MAX_PENDING_PER_USER = 64
_MAX_STORES = 16
_FOUND_S = 60.0  # a container may be renamed
_MISSING_S = 10.0
_CPU_SHARE = 0.01
"""Of one core, for users' files: they may be large, many, and change all the time."""

Store = tuple[tuple[int, int, int], dict[str, EngineContainer]]
"""A file's inode, size and time of change, and what it holds."""


@dataclass(frozen=True, slots=True)
class Home:
    """The folder below which containers are looked up."""

    path: str
    uid: int | None = None  # of the user whose home it is; None: the host's own


@dataclass(frozen=True, slots=True)
class _Known:
    found: EngineContainer | None
    read_s: float


class EngineNames:
    """Names of containers by engine; for any thread, none of which waits for a user's file.

    ``failures`` counts by reason: ``unreadable``, ``refused`` (no regular file, another user's, too
    large), ``crowded`` (a user has too many unread).
    """

    def __init__(
        self, monotonic_s: Callable[[], float] = time.monotonic, cpu_share: float = _CPU_SHARE
    ) -> None:
        self._cpu_share = cpu_share
        self.failures = {"unreadable": 0, "refused": 0, "crowded": 0}
        self._monotonic_s = monotonic_s
        self._known: OrderedDict[ContainerKey, _Known] = OrderedDict()
        self._stores: OrderedDict[str, Store] = OrderedDict()
        self._waiting: FairQueue[tuple[Container, Home]] = FairQueue()
        self._pending: dict[ContainerKey, int | None] = {}
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = Worker("engine_names", self._run)

    def of(self, container: Container, home: Home) -> EngineContainer | None:
        """Return what is known of a container; a user's is read later where that is too old."""
        with self._changed:
            known = self._known.get(container.key)
            if known is not None:
                most_s = _FOUND_S if known.found is not None else _MISSING_S
                if self._monotonic_s() - known.read_s < most_s:
                    return known.found
            if home.uid is not None:
                self._queue(container, home)
                return known.found if known is not None else None
        return self.read(container, home)

    def read(self, container: Container, home: Home) -> EngineContainer | None:
        """Read the container now, in the caller's thread; not for homes of users."""
        found = self._find(container, home)
        with self._changed:
            self._known[container.key] = _Known(found, self._monotonic_s())
            self._known.move_to_end(container.key)
            while len(self._known) > _MAX_KNOWN:
                self._known.popitem(last=False)
        return found

    def close(self) -> None:
        """End the thread once it has read its current file."""
        self._thread.close()
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _queue(self, container: Container, home: Home) -> None:
        if container.key in self._pending or self._is_closed:
            return
        if sum(uid == home.uid for uid in self._pending.values()) >= _MAX_PENDING_PER_USER:
            self.failures["crowded"] += 1
            return
        if not self._thread.is_alive():
            self._thread.start()
        self._pending[container.key] = home.uid
        self._waiting.push(home.uid, (container, home))
        self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed or len(self._waiting) > 0)
                question = None if self._is_closed else self._waiting.pop()
            if question is None:
                return
            container, home = question
            began_s = time.thread_time()
            try:
                self.read(container, home)
            finally:
                rest_s = (time.thread_time() - began_s) / self._cpu_share
                with self._changed:
                    self._pending.pop(container.key, None)
                    self._changed.wait_for(lambda: self._is_closed, rest_s)

    def _find(self, container: Container, home: Home) -> EngineContainer | None:
        container_id, runtime = container.container_id, container.runtime
        if runtime != PODMAN:
            for root in self._roots(home, DOCKER):
                body = self._body(home, f"{root}/containers/{container_id}/config.v2.json")
                if body and (found := docker_container(body, container_id)):
                    return found
        if runtime != DOCKER:
            for root in self._roots(home, PODMAN):
                for driver in _DRIVERS:
                    path = f"{root}/{driver}-containers"
                    found = self._stored(home, f"{path}/containers.json").get(container_id)
                    if found and self._is_its_own(container, home, path):
                        return found
        return None

    def _is_its_own(self, container: Container, home: Home, store: str) -> bool:
        """Return False for a cgroup that a service has named after another's container."""
        if home.uid is not None or ".service/" not in container.cgroup:
            return True
        bundle = f"{store}/{container.container_id}/userdata/config.json"
        return is_in_cgroup(self._body(home, bundle), container.cgroup)

    def _roots(self, home: Home, engine: str) -> Iterator[str]:
        """Yield the folders that an engine keeps its containers in, below ``home``."""
        if home.uid is not None:
            yield ".local/share/docker" if engine == DOCKER else ".local/share/containers/storage"
            return
        if engine == DOCKER:
            configured = docker_data_root(self._body(home, "etc/docker/daemon.json"))
            yield configured.lstrip("/") or "var/lib/docker"
        else:
            configured = podman_graph_root(self._body(home, "etc/containers/storage.conf"))
            yield configured.lstrip("/") or "var/lib/containers/storage"

    def _stored(self, home: Home, path: str) -> dict[str, EngineContainer]:
        """Return the containers of a store, parsed again only when its file has changed."""
        key = f"{home.path}\0{path}"
        with _Opened(self, home, path) as (descriptor, status):
            if status is None:
                return {}
            version = (status.st_ino, status.st_size, status.st_mtime_ns)
            with self._changed:
                before = self._stores.get(key)
            if before is not None and before[0] == version:
                return before[1]
            most = MAX_PODMAN_CONTAINERS if home.uid is None else _MAX_USER_CONTAINERS
            found = podman_containers(_read(descriptor, status.st_size), most)
        with self._changed:
            self._stores[key] = (version, found)
            self._stores.move_to_end(key)
            while len(self._stores) > _MAX_STORES:
                self._stores.popitem(last=False)
        return found

    def _body(self, home: Home, path: str) -> bytes:
        with _Opened(self, home, path) as (descriptor, status):
            return b"" if status is None else _read(descriptor, status.st_size)


class _Opened:
    """A regular file below a home, opened; (-1, None) if there is none that may be read."""

    def __init__(self, names: EngineNames, home: Home, path: str) -> None:
        self._failures = names.failures
        self._home = home
        self._parts = path.split("/")
        self._descriptor = -1

    def __enter__(self) -> tuple[int, os.stat_result | None]:
        try:
            self._descriptor = _open_below(
                self._home.path, self._parts, follow=self._home.uid is None
            )
            status = os.fstat(self._descriptor)
        except FileNotFoundError:
            return -1, None
        except (OSError, ValueError):
            self._failures["unreadable"] += 1
            return -1, None
        is_users = self._home.uid is not None
        is_allowed = (
            stat.S_ISREG(status.st_mode)
            and status.st_size <= (_MAX_USER_BYTES if is_users else _MAX_HOST_BYTES)
            and (not is_users or status.st_uid == self._home.uid)
        )
        self._failures["refused"] += not is_allowed
        return (self._descriptor, status) if is_allowed else (-1, None)

    def __exit__(self, *_error: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


def _open_below(home: str, parts: Sequence[str], *, follow: bool) -> int:
    """Open a file below ``home`` for reading; without ``follow``, no part may be a link."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    if follow:
        return os.open(Path(home, *parts), flags)
    folder = os.open(home, flags | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            below = os.open(part, flags | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = below
        return os.open(parts[-1], flags | os.O_NOFOLLOW, dir_fd=folder)
    finally:
        os.close(folder)


def _read(descriptor: int, size: int) -> bytes:
    """Return at most ``size`` bytes: a file that grows meanwhile is cut, and then damaged."""
    body = b""
    while len(body) < size and (more := os.read(descriptor, size - len(body))):
        body += more
    return body
