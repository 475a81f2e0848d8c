"""Containers of a snapshot: filtered, sorted, found by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from minerwatch.api.types import ContainerStatus
from minerwatch.arguments import quoted
from minerwatch.errors import TargetError
from minerwatch.kinds import Level
from minerwatch.untrusted_text.display import printable, shown_name

_RANKS: dict[str, Callable[[ContainerStatus], float | str | tuple[bool, float]]] = {
    # A level falls some ticks after its score: until then it is not below what is clear.
    "score": lambda status: (status.level == Level.CLEAR.label, -status.score),
    "cpu": lambda status: -status.cpu_cores,
    "hours": lambda status: -status.cpu_hours,
    "gpu": lambda status: -((status.gpu and status.gpu.busy) or 0.0),
    "gpu-hours": lambda status: -(status.gpu.hours if status.gpu else 0.0),
    "limit": lambda status: -(limit_share(status) or 0.0),
    "throttled": lambda status: -(status.throttled_share or 0.0),
    "age": lambda status: status.started or status.since,
    "name": lambda status: full_name(status).lower(),
    "owner": lambda status: status.owner.lower(),
    "image": lambda status: status.image.lower(),
    "node": lambda status: status.node.lower(),
}
SORT_KEYS = tuple(_RANKS)
PROCESS_SORTS = ("cpu", "time", "memory", "threads", "gpu", "pid", "name", "owner", "node")
"""Keys that order processes (``screen.processes``); the first by default."""
_MAY_LACK = {"age": "started", "owner": "owner", "image": "image", "node": "node"}
"""Sort keys, and the fields that are empty in containers without such a value."""

IDLE_CORES = 0.005
"""Containers with no more than this and without findings are hidden by default."""

_MAX_CANDIDATES = 8
_SHORT_UID = 8
_MIN_ID_DIGITS = 6
_MAX_PID_DIGITS = 10
_MAX_NAMESPACES = 20
_MAX_NAME_CHARS = 64


def limit_share(status: ContainerStatus) -> float | None:
    """Share of its CPU limit that the container uses; None where it has no limit."""
    limit = status.cpu_limit_cores
    return status.cpu_cores / limit if limit else None


def sorted_by(
    statuses: Iterable[ContainerStatus], key: str, *, is_reversed: bool = False
) -> Sequence[ContainerStatus]:
    """Highest first, or by the alphabet; those that have none of it come last either way.

    ``age``: the oldest pods first, then those whose level is the oldest.
    """
    rank = _RANKS[key]
    ordered = sorted(
        statuses,
        key=lambda status: (rank(status), -status.score, -status.cpu_cores, status.cgroup),
        reverse=is_reversed,
    )
    if key in _MAY_LACK:
        ordered.sort(key=lambda status: not getattr(status, _MAY_LACK[key]))
    return ordered


def unknown_namespace(statuses: Sequence[ContainerStatus], wanted: str) -> str:
    """Return a sentence if a node has no pod of the namespace ``wanted``, else ""."""
    there = {status.namespace for status in statuses}
    if not wanted or not statuses or wanted in there:
        return ""
    names = sorted({printable(each, _MAX_NAME_CHARS) for each in there} - {""})
    others = f"; here are: {', '.join(names[:_MAX_NAMESPACES])}" if names else ""
    return f"no pod of namespace {printable(wanted, _MAX_NAME_CHARS)} runs on this node{others}"


def busy(statuses: Iterable[ContainerStatus]) -> Sequence[ContainerStatus]:
    """Return containers with findings, CPU or GPU usage, and those whose level has yet to fall."""
    clear = Level.CLEAR.label
    return [each for each in statuses if each.findings or each.level != clear or is_busy(each)]


def is_busy(status: ContainerStatus) -> bool:
    """Return True if the container uses CPUs or GPUs."""
    return status.cpu_cores > IDLE_CORES or bool(status.gpu and status.gpu.busy)


def filtered(
    statuses: Iterable[ContainerStatus], text: str = "", namespace: str = ""
) -> Sequence[ContainerStatus]:
    """Return the containers in ``namespace`` ("": any) that hold every word of ``text``.

    Looked for in names, ids, image, owner, node, level, abuse, reasons and processes, in any case.
    """
    wanted = text.lower().split()
    return [
        status
        for status in statuses
        if (not namespace or status.namespace == namespace) and _holds_all(status, wanted)
    ]


def found(statuses: Sequence[ContainerStatus], target: str) -> ContainerStatus:
    """Return the one container that ``target`` names.

    A target is a pid, a container id (or its first six digits and more), a name, a cgroup path,
    or in Kubernetes pod or namespace/pod: of a pod's containers, that with the highest score, then
    that with the highest CPU usage. Raises TargetError if it names none, or several.
    """
    is_pid = target.isdecimal() and len(target) <= _MAX_PID_DIGITS
    pid = int(target) if is_pid else None
    running = [status for status in statuses if pid in {each.pid for each in status.processes}]
    if running:
        return _one(running, f"process {target}")
    named = [status for status in statuses if target in _names(status)]
    if not named and len(target) >= _MIN_ID_DIGITS:
        named = [status for status in statuses if status.container_id.startswith(target)]
    return _one(named, shown_name(target))


def beside(
    statuses: Iterable[ContainerStatus], chosen: ContainerStatus
) -> Sequence[ContainerStatus]:
    """Return the other containers in the pod of ``chosen``."""
    if not chosen.pod:
        return []
    pod = pod_key(chosen)
    return [each for each in statuses if pod_key(each) == pod and each is not chosen]


def pod_key(status: ContainerStatus) -> tuple[str, ...]:
    """Return the identity of the pod, or of the container itself where it is in none."""
    if status.pod_uid or status.pod:
        return (status.node, status.namespace, status.pod, status.pod_uid)
    return (status.node, status.cgroup)


def abuse_of(status: ContainerStatus) -> str:
    """Return the kind of abuse that the container is flagged for; "": it is clear."""
    return "" if status.level == Level.CLEAR.label else status.abuse


def full_name(status: ContainerStatus) -> str:
    """Return the name of a container for people: namespace/pod/container, or its own name."""
    if status.pod:
        return "/".join((status.namespace, status.pod, status.container))
    if status.kind == "engine" and status.runtime:
        return f"{status.runtime}/{status.container}"
    if status.kind == "pod":
        return f"pod:{status.pod_uid[:_SHORT_UID]}/{status.container}"
    return status.container


def _holds_all(status: ContainerStatus, words: Sequence[str]) -> bool:
    searched = "\n".join(_searched(status)).lower() if words else ""
    return all(word in searched for word in words)


def _searched(status: ContainerStatus) -> Iterable[str]:
    yield from (full_name(status), status.container_id, status.image, status.owner, status.level)
    yield from (status.cgroup, status.node, status.pod_uid, abuse_of(status))
    for finding in status.findings:
        yield from (finding.title, finding.signal, finding.rule)
    for process in status.processes:
        yield from (process.comm, quoted(process.command_line), process.user)


def _names(status: ContainerStatus) -> tuple[str, ...]:
    pod = (status.pod, f"{status.namespace}/{status.pod}") if status.pod else ()
    return (status.container_id, status.container, status.cgroup, full_name(status), *pod)


def _one(candidates: Sequence[ContainerStatus], wanted: str) -> ContainerStatus:
    if len(candidates) == 1:
        return candidates[0]
    if candidates and candidates[0].pod and len({pod_key(status) for status in candidates}) == 1:
        return max(candidates, key=lambda status: (status.score, status.cpu_cores))
    if not candidates:
        raise TargetError(
            f"nothing here is named {wanted}; `minerwatch top --once` lists what there is"
        )
    is_one_node = len({status.node for status in candidates}) == 1
    names = ", ".join(
        shown_name(status.cgroup if is_one_node else f"{status.node}:{full_name(status)}")
        for status in candidates[:_MAX_CANDIDATES]
    )
    more = ", …" if len(candidates) > _MAX_CANDIDATES else ""
    raise TargetError(f"{wanted} is not one container but {len(candidates)}: {names}{more}")
