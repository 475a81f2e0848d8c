"""Capabilities of the agent, and what it cannot see without them."""

from __future__ import annotations

import os
from pathlib import Path

from minerwatch.node.confined import CAPABILITY_BITS

OUTSIDE_UNSEEN = (
    "processes outside this container's pid namespace cannot be seen: set hostPID on the agent's"
    " pod, or --pid=host for podman and docker"
)

_FIRST_NAMESPACES = {"pid": 4026531836, "cgroup": 4026531835}  # include/linux/proc_ns.h


def effective_capabilities(proc: Path = Path("/proc")) -> frozenset[str]:
    """Return which of ``CAPABILITY_BITS`` are effective in this process (capabilities(7))."""
    try:
        status = (proc / "self/status").read_bytes()
        bits = int(status.partition(b"\nCapEff:")[2].split(None, 1)[0], 16)
    except (OSError, ValueError, IndexError):
        return frozenset()
    return frozenset(name for name, bit in CAPABILITY_BITS.items() if bits >> bit & 1)


def blind_spots(proc: Path, *, opens_files: bool = False) -> tuple[str, ...]:
    """Return one line for each fact about processes that the agent cannot read, and its remedy.

    ``opens_files``: a probe that opens descriptors, executables or memory is enabled.
    """
    spots = []
    capabilities = effective_capabilities()
    if opens_files and not capabilities & {"DAC_READ_SEARCH", "DAC_OVERRIDE"}:
        # /proc/PID/fd and /proc/PID/mem are their owner's only (proc(5)), whatever ptrace permits
        spots.append(
            "connections, executables and memory of other users' processes cannot be opened: run as"
            " root, or grant the capability DAC_READ_SEARCH"
        )
    if "SYS_PTRACE" not in capabilities:
        spots.append(
            "executables and folders of other users' processes cannot be read: run as root, or"
            " grant the capability SYS_PTRACE"
        )
    if hides_others(proc):
        spots.append(
            f"{proc} hides other users' processes (hidepid): run as root with the capability"
            " SYS_PTRACE, or in the group that the mount's gid= option names"
        )
    if proc == Path("/proc") and not is_in_first_namespace("pid"):
        spots.append(OUTSIDE_UNSEEN)
    return tuple(spots)


def hides_others(proc: Path) -> bool:
    """Return True if PID 1 cannot be read: with hidepid only the agent's own can (proc(5))."""
    if not (proc / "self").is_symlink():
        return False  # a recorded /proc
    try:
        return not (proc / "1/stat").read_bytes()
    except OSError:
        return True


def is_in_first_namespace(kind: str) -> bool:
    """Return True if this process is in the host's own ``pid`` or ``cgroup`` namespace."""
    try:
        return os.readlink(f"/proc/self/ns/{kind}") == f"{kind}:[{_FIRST_NAMESPACES[kind]}]"  # noqa: PTH115
    except OSError:  # before Linux 4.6 there is only one of cgroups
        return True
