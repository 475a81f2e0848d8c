"""The pod, container or unit that a cgroup's folder stands for, by its name. Pure.

The names are those of the runtimes' own sources: kubelet (pkg/kubelet/cm/cgroup_manager_linux.go),
runc's cgroup drivers, containerd's CRI plugin, CRI-O (internal/config/cgmgr), podman
(libpod/container_internal_linux.go), docker (daemon/oci_linux.go).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from minerwatch.model import Container, ContainerKind

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
    "libpod-payload": "podman",
    "lxc": "lxc",
}
_PARENTS = {"docker": "docker", "libpod_parent": "podman", "podman": "podman"}
_SUPERVISORS = ("crio-conmon-", "libpod-conmon-", "conmon-")
"""Processes that watch a container from outside it."""
_PAYLOAD = "lxc.payload."
_SYSTEMD = (".slice", ".service", ".scope")


@dataclass(frozen=True, slots=True)
class FolderName:
    """The name of a cgroup's folder, and what is known of the folders above it."""

    name: str
    parent: str
    parent_depth: int
    is_in_pod: bool  # the parent is a pod's own cgroup
    pod_uid: str  # of the pod that it is in, or is; "" if none
    outer: Container | None  # the closest container above it


@dataclass(frozen=True, slots=True)
class Workload:
    """The container or unit that a folder is."""

    kind: ContainerKind
    container_id: str
    runtime: str
    pod_uid: str = ""


def pod_uid_of(name: str) -> str:
    """Return the uid, with dashes, of the pod that a folder's name claims; "" if none."""
    match = _POD.fullmatch(name.partition(":")[0])
    return match["uid"].replace("_", "-") if match else ""


def is_kubernetes_own(name: str) -> bool:
    """Return True if the kubelet or its runtime names its folders like this."""
    return "kubepods" in name or bool(pod_uid_of(name))


def workload_of(folder: FolderName, *, units: bool) -> Workload | None:
    """Return the container, or with ``units`` the unit, that a folder is; None if it is neither."""
    outer = folder.outer
    found = _container_of(folder)
    if found is not None:
        container_id, runtime = found
        kind = ContainerKind.POD if folder.pod_uid else ContainerKind.ENGINE
    elif units and (runtime := _unit_manager(folder)):
        container_id, kind = folder.name, ContainerKind.UNIT
    else:
        return None
    if outer is not None and is_run_by_a_user(outer) and kind is ContainerKind.POD:
        kind = ContainerKind.ENGINE  # a user's own manager could claim any pod
    pod_uid = folder.pod_uid if kind is ContainerKind.POD else ""
    return Workload(kind, container_id, runtime, pod_uid)


def holds_containers(outer: Container) -> bool:
    """Return True if a container in ``outer`` is nested in it.

    The host and a system service only start the containers below their cgroups.
    """
    if outer.kind is ContainerKind.UNIT and outer.runtime == "systemd":
        return is_run_by_a_user(outer)
    return outer.kind is not ContainerKind.HOST


def is_run_by_a_user(outer: Container) -> bool:
    """Return True if it is, or is below, a user's own systemd, which names cgroups freely."""
    return "/user@" in outer.cgroup and outer.kind in (ContainerKind.UNIT, ContainerKind.ENGINE)


def _container_of(folder: FolderName) -> tuple[str, str] | None:
    """Return the id and runtime of the container that a folder is; None if it is not one."""
    name, parent = folder.name, folder.parent
    if name.startswith(_SUPERVISORS):
        return None
    match = _CONTAINER.fullmatch(name)
    if match:
        made_by = match["by"] or match["prefix"] or ""
        return match["id"], _RUNTIMES.get(made_by, "") or _PARENTS.get(parent, "")
    if name.startswith(_PAYLOAD) or f"{parent}." == _PAYLOAD:
        return name.removeprefix(_PAYLOAD), "lxc"
    if folder.is_in_pod:
        return name.removesuffix(".scope"), ""
    if _BUILDKIT in (parent, *re.split("[-:]", name)) and not _is_inside(folder.outer):
        build = _BUILD.fullmatch(name)
        return (build["id"], _BUILDKIT) if build else None
    return None


def _unit_manager(folder: FolderName) -> str:
    """Return the manager of the unit that a folder is; "" if it is not a unit.

    A unit is systemd's, of the host or of a user's own; or a job, guest or task of another manager
    that has a folder below the root: /lxc/101, /mesos/ID, /slurm/uid_1000, /podruntime/kubelet.
    """
    name, parent, outer = folder.name, folder.parent, folder.outer
    if name.startswith(_SUPERVISORS):
        return ""
    if outer is not None and outer.kind is ContainerKind.UNIT and _JOB.fullmatch(name):
        return "slurm" if "slurm" in outer.cgroup else ""
    if _is_inside(outer):
        return ""
    if name.endswith((".service", ".scope")):
        return "systemd"
    is_below_manager = (
        folder.parent_depth == 1
        and not parent.endswith(_SYSTEMD)
        and not name.endswith(_SYSTEMD)
        and not is_kubernetes_own(parent)
        and not is_kubernetes_own(name)
        and name not in (_BUILDKIT, *_PARENTS)
    )
    return parent if is_below_manager else ""


def _is_inside(outer: Container | None) -> bool:
    """Return True if folders in ``outer`` belong to it, rather than being units of their own."""
    return (
        outer is not None and outer.kind is not ContainerKind.HOST and not is_run_by_a_user(outer)
    )
