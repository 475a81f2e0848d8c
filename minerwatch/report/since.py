"""Since when containers have had their level, kept in a file from one agent to the next.

Only for what people are shown: each agent watches for itself what culling requires. The file lies
beside the socket and outlives the agent as far as that folder does: in a pod it outlives the
container, but not the pod. What is older than ten minutes, or of another boot, is not used.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from minerwatch.errors import NOT_JSON
from minerwatch.model import ContainerKey, Level, Verdict

FILE_NAME = "since.json"
MAX_GAP_S = 600.0
_GRACE_S = 900.0
"""A level that was reached before is waited for so long: some rules need minutes of proof."""

_REWRITE_S = 60.0
_MAX_ENTRIES = 1000
_MAX_BYTES = 1 << 20
_MODE = 0o600


class _Entry(msgspec.Struct, array_like=True, frozen=True):
    container: str
    level: int
    since_s: float


class State(msgspec.Struct, frozen=True):
    """Contents of the file; times are seconds since boot."""

    boot_id: str
    at_s: float
    containers: tuple[_Entry, ...]


@dataclass(frozen=True, slots=True)
class _Before:
    """Level of a container as an earlier agent left it."""

    level: int
    since_s: float
    has_returned: bool = False  # to that level, under this agent


class SinceFile:
    """Keeps levels over restarts. ``record`` is for the thread that ticks, ``since_s`` for many."""

    def __init__(self, path: Path, boot_id: str, now_s: float) -> None:
        """Read what the previous agent wrote, if it is recent and of this boot."""
        self._path = path
        self._boot_id = boot_id
        self._until_s = now_s + _GRACE_S
        self._before = _left_behind(path, boot_id, now_s)
        self._written: frozenset[_Entry] | None = None
        self._written_s = now_s

    def since_s(self, verdict: Verdict) -> float:
        """Return since when the container has had its level, as far as agents have watched."""
        before = self._before.get(_name(verdict.container))
        if before is None or not Level.CLEAR < verdict.level <= before.level:
            return verdict.since_s
        return min(before.since_s, verdict.since_s)

    def record(self, flagged: Iterable[Verdict], now_s: float) -> None:
        """Take the verdicts of a tick; write them to the file if they changed. Raises OSError."""
        now = {_name(verdict.container): verdict for verdict in flagged}
        kept = {}
        for name, before in self._before.items():
            level = now[name].level if name in now else Level.CLEAR
            has_returned = before.has_returned or level >= before.level
            is_waited_for = not has_returned and now_s < self._until_s
            if is_waited_for or (has_returned and level >= before.level):
                kept[name] = replace(before, has_returned=has_returned)
        self._before = kept
        entries = {
            name: _Entry(name, int(verdict.level), self.since_s(verdict))
            for name, verdict in now.items()
        }
        for name, before in kept.items():
            if not before.has_returned:
                entries[name] = _Entry(name, before.level, before.since_s)
        self._write(frozenset([*entries.values()][:_MAX_ENTRIES]), now_s)

    def forget(self) -> None:
        """Remove the file, and its folder if it is empty then. Raises OSError."""
        self._path.unlink(missing_ok=True)
        with suppress(OSError):
            self._path.parent.rmdir()

    def _write(self, entries: frozenset[_Entry], now_s: float) -> None:
        is_old = bool(entries) and now_s - self._written_s >= _REWRITE_S
        if entries == self._written and not is_old:
            return
        state = State(self._boot_id, now_s, tuple(entries))
        beside = self._path.with_name(self._path.name + ".new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        with open(os.open(beside, flags, _MODE), "wb") as file:  # noqa: PTH123 - of a descriptor
            file.write(msgspec.json.encode(state))
        beside.replace(self._path)
        self._written, self._written_s = entries, now_s


def decoded(data: bytes) -> State | None:
    """Return what the file holds; None if it is damaged."""
    with suppress(*NOT_JSON):
        return msgspec.json.decode(data, type=State)
    return None


def _left_behind(path: Path, boot_id: str, now_s: float) -> dict[str, _Before]:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:  # noqa: PTH123
            state = decoded(file.read(_MAX_BYTES))
    except OSError:
        return {}
    if state is None or not boot_id or state.boot_id != boot_id:
        return {}
    if not 0 <= now_s - state.at_s <= MAX_GAP_S:
        return {}
    return {
        entry.container: _Before(entry.level, entry.since_s)
        for entry in state.containers[:_MAX_ENTRIES]
        if entry.since_s <= state.at_s
    }


def _name(container: ContainerKey) -> str:
    text = f"{container.cgroup}\n{container.cgroup_inode}"
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:24]
