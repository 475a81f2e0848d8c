"""Whether something may keep the agent itself from running: a CPU quota on a cgroup above it.

A process under a quota stands still for the rest of each period once it has used it up
(cgroup-v2.rst "cpu.max", scheduler/sched-bwc.rst); for the agent that would mean that whoever it
has stopped stands still as long.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_V1_FOLDERS = ("cpu,cpuacct", "cpuacct,cpu", "cpu")
_MOST_FOLDERS = 50_000
_UNKNOWN = "it cannot be told whether the agent has a CPU quota"


@dataclass(frozen=True, slots=True)
class _Hierarchy:
    root: Path
    is_v2: bool

    @property
    def quota_file(self) -> str:
        return "cpu.max" if self.is_v2 else "cpu.cfs_quota_us"

    @property
    def is_whole(self) -> bool:
        """Whether its root is the real one; from a container only a part may be seen."""
        if self.is_v2:
            return not (self.root / "cgroup.type").exists()  # all but the root have one
        return (self.root / "release_agent").exists()  # the root alone has one

    def holds(self, line: str) -> bool:
        """Whether ``line`` of /proc/PID/cgroup (cgroups(7)) speaks of it."""
        controllers = line.split(":", 2)[1]
        return not controllers if self.is_v2 else "cpu" in controllers.split(",")


class OwnQuota:
    """The CPU quotas that this process is under."""

    def __init__(self, sys: str = "/sys") -> None:
        self._mounts = Path(sys) / "fs/cgroup"
        self._places = b""
        self._folders: tuple[tuple[_Hierarchy, Path | None], ...] = ()

    def reason(self) -> str:
        """Why this process may be kept from running, and how to mend it; "" where it is not."""
        try:
            places = Path("/proc/self/cgroup").read_bytes()
        except OSError as error:
            return f"/proc/self/cgroup: {error.strerror}"
        if places != self._places or not self._folders:
            self._places = places
            lines = _lines(places)
            self._folders = tuple(
                (each, _own_folder(each, lines)) for each in _hierarchies(self._mounts)
            )
        if not self._folders:
            return (
                f"it cannot be told whether the agent has a CPU quota: no cgroups in {self._mounts}"
            )
        for hierarchy, folder in self._folders:
            if folder is None or not hierarchy.is_whole:
                return (
                    f"{_UNKNOWN}: mount the host's /sys/fs/cgroup, and set hostPID on its pod"
                    f" (looked in {hierarchy.root})"
                )
            for place in (folder, *folder.parents):
                if place == hierarchy.root:
                    break
                if _has_quota(place / hierarchy.quota_file):
                    return (
                        "the agent has a CPU quota, and whoever it stops would stand still with"
                        f" it: take away its limit (limits.cpu; {place / hierarchy.quota_file})"
                    )
        return ""


def _hierarchies(mounts: Path) -> Iterator[_Hierarchy]:
    """Those that may hold the CPU controller."""
    if (mounts / "cgroup.controllers").exists():
        yield _Hierarchy(mounts, is_v2=True)
        return
    for name in _V1_FOLDERS:
        if (mounts / name / "cgroup.procs").exists():
            yield _Hierarchy(mounts / name, is_v2=False)
            break
    if (mounts / "unified/cgroup.controllers").exists():
        yield _Hierarchy(mounts / "unified", is_v2=True)


def _lines(places: bytes) -> list[str]:
    """Lines of /proc/PID/cgroup: a cgroup's name may hold any other character that ends a line."""
    return [
        line
        for line in places.decode("utf-8", "surrogateescape").split("\n")
        if line.count(":") >= 2
    ]


def _own_folder(hierarchy: _Hierarchy, lines: list[str]) -> Path | None:
    """Where this process is; in a cgroup namespace its own path does not tell (cgroups(7))."""
    told = next((line.split(":", 2)[2] for line in lines if hierarchy.holds(line)), "/")
    folder = hierarchy.root / told.strip("/")
    if ".." not in folder.parts and _is_in(folder):
        return folder
    for number, (name, _, _) in enumerate(os.walk(hierarchy.root)):
        if number >= _MOST_FOLDERS:
            break
        if _is_in(Path(name)):
            return Path(name)
    return None


def _is_in(folder: Path) -> bool:
    try:
        return str(os.getpid()) in (folder / "cgroup.procs").read_text().split()
    except (OSError, ValueError):  # ValueError: no path can have such a name
        return False


def _has_quota(file: Path) -> bool:
    """A file that is not there sets none: the controller is not on, or on another hierarchy."""
    try:
        return int(file.read_text().split()[0].replace("max", "-1")) > 0
    except FileNotFoundError:
        return False
    except (OSError, ValueError, IndexError):
        return True
