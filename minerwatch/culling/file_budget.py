"""The budget of a machine that belongs to no cluster: a locked file.

As in the audit log, ages are taken on the monotonic clock; of an action before the last boot only
that is certain. A file that is new permits nothing in earnest for an hour, because what was done
before is not known; one that cannot be read or written permits nothing at all.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from minerwatch.config.schema import CullBudget
from minerwatch.culling.records import HOUR_S, ActionRecord, Moment
from minerwatch.errors import NOT_JSON, MinerwatchError

_MAX_BYTES = 1 << 20
_MODE, _FOLDER_MODE = 0o600, 0o700
_LOCK_S = 2.0
_RETRY_S = 0.01


class BudgetFileError(MinerwatchError):
    """A budget that cannot be used: where, and why."""


class _Place(msgspec.Struct, array_like=True, frozen=True):
    id: str
    dry_run: bool
    monotonic_s: float
    boot_id: str

    def age_s(self, now: Moment) -> float:
        """Return how old it is at least."""
        return now.monotonic_s - (self.monotonic_s if self.boot_id == now.boot_id else 0.0)


class State(msgspec.Struct, frozen=True):
    """Contents of the file; ``begun`` is when it was made."""

    begun: _Place
    places: tuple[_Place, ...] = ()


class FileBudget:
    """``cull.Budget`` in the file at ``path``, for any number of processes and threads."""

    def __init__(
        self,
        path: Path,
        limits: CullBudget,
        *,
        on_error: Callable[[str, Exception], None] = lambda _reason, _error: None,
    ) -> None:
        """``on_error`` is called with each failure."""
        self._path = path
        self._limits = limits
        self._on_error = on_error

    def left(self, now: Moment, *, dry_run: bool) -> int | None:
        """Return how many more actions there may be now; None: not known, so none."""
        try:
            with self._locked():
                state = self._read(now)
        except (OSError, BudgetFileError) as error:
            self._on_error("file", error)
            return None
        return self._left(state, now, dry_run=dry_run)

    def reserve(self, record: ActionRecord, now: Moment) -> bool:
        """Take a place of the hour for ``record``; whatever goes wrong: False."""
        try:
            with self._locked():
                state = self._read(now)
                if any(place.id == record.id for place in state.places):
                    return True
                if self._left(state, now, dry_run=record.dry_run) <= 0:
                    return False
                taken = _Place(record.id, record.dry_run, now.monotonic_s, now.boot_id)
                self._write(msgspec.structs.replace(state, places=(*state.places, taken)))
        except (OSError, BudgetFileError) as error:
            self._on_error("file", error)
            return False
        return True

    def give_back(self, record: ActionRecord) -> None:
        """Free the place of an action that was withdrawn; an hour does it, too."""
        try:
            with self._locked():
                state = decoded(self._content() or b"")
                places = tuple(place for place in state.places if place.id != record.id)
                self._write(msgspec.structs.replace(state, places=places))
        except (OSError, BudgetFileError) as error:
            self._on_error("file", error)

    def _left(self, state: State, now: Moment, *, dry_run: bool) -> int:
        if not dry_run and state.begun.age_s(now) < HOUR_S:
            return 0
        most = min(self._limits.per_node, self._limits.per_cluster)
        return max(0, most - sum(place.dry_run is dry_run for place in state.places))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._path.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        lock = os.open(self._path.with_name(f"{self._path.name}.lock"), flags, _MODE)
        try:
            until_s = time.monotonic() + _LOCK_S
            while not _has_locked(lock):
                if time.monotonic() > until_s:
                    raise BudgetFileError(f"{self._path}: another process holds its lock")
                time.sleep(_RETRY_S)
            yield
        finally:
            os.close(lock)

    def _read(self, now: Moment) -> State:
        """Return what holds now; a file that is missing is begun."""
        content = self._content()
        if content is None:
            begun = State(_Place("begun", dry_run=False, monotonic_s=now.monotonic_s,
                                 boot_id=now.boot_id))  # fmt: skip
            self._write(begun)
            return begun
        state = decoded(content, str(self._path))
        held = tuple(place for place in state.places if place.age_s(now) < HOUR_S)
        return msgspec.structs.replace(state, places=held)

    def _content(self) -> bytes | None:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            file = os.open(self._path, flags)
        except FileNotFoundError:
            return None
        with open(file, "rb") as opened:  # noqa: PTH123 - of a descriptor
            return opened.read(_MAX_BYTES)

    def _write(self, state: State) -> None:
        """All of it is on the disk, or an error."""
        beside = self._path.with_name(f"{self._path.name}.new")
        with suppress(FileNotFoundError):
            beside.unlink()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        with open(os.open(beside, flags, _MODE), "wb") as file:  # noqa: PTH123
            file.write(msgspec.json.encode(state))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def decoded(content: bytes, where: str = "the budget") -> State:
    """Return what a file holds. Raises BudgetFileError if it is damaged."""
    try:
        return msgspec.json.decode(content, type=State)
    except NOT_JSON as error:
        raise BudgetFileError(
            f"{where}: it is damaged, so nothing is culled: remove it once no action was done"
            " within the last hour"
        ) from error


def _has_locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
