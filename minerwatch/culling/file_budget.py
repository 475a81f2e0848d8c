"""A host's budget of actions: one file, locked while it is read and written.

Beside the file is a lock that is never replaced (flock(2)), so that of two agents that want the
last slot one gets it. The file itself is written aside, flushed and renamed: an agent that is
killed leaves the old file or the new one. A file that cannot be read, is damaged, or is no regular
file of the agent's own user permits nothing, until an operator has moved it away.

A slot is held for an hour by the clock since boot, which no one can set. One from before the last
boot counts as taken at the boot.

The audit log bounds only what its own agent does. This file is of all agents whose logs are in one
folder, and outlives a log that is moved away.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event

import msgspec

from minerwatch.config.schema import CullBudget
from minerwatch.culling.records import HOUR_S, ActionRecord, Moment
from minerwatch.errors import NOT_JSON, MinerwatchError

MAX_SLOTS = 1100  # no budget permits more than 1,000 an hour
_MAX_BYTES = 1 << 20
_LOCK_S = 5.0
_RETRY_S = 0.05
_KNOWN_S = 30.0
_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class BudgetError(MinerwatchError):
    """The budget's file cannot be used; the message has the path and the reason."""


class Slot(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A slot of the hour's budget, taken by one action."""

    id: str
    boot_id: str
    monotonic_s: float
    dry_run: bool


class FileBudget:
    """``records.Budget`` in a file; for many threads and processes.

    ``failures`` counts failures by reason: ``damaged``, ``unusable``, ``locked``.
    """

    def __init__(
        self,
        path: Path,
        settings: Callable[[], CullBudget],
        now: Callable[[], Moment],
        *,
        on_error: Callable[[str, Exception], None] = lambda _reason, _error: None,
        lock_s: float = _LOCK_S,
    ) -> None:
        """``settings`` returns those in force; ``now`` reads the clock since boot."""
        self.failures: dict[str, int] = {}
        self._path = path
        self._settings = settings
        self._now = now
        self._on_error = on_error
        self._lock_s = lock_s
        self._closing = Event()
        self._last: tuple[float, tuple[Slot, ...]] | None = None  # replaced, never changed

    def close(self) -> None:
        """Interrupt all waits."""
        self._closing.set()

    def refresh(self) -> bool:
        """Read the file, so that ``left`` is known; return True on success."""
        return self._update(lambda slots: slots) is not None

    def refresh_if_due(self, now_s: float, *, is_needed: bool, dry_run: bool) -> None:  # noqa: ARG002
        """Read the file if the last read is too old; called at every tick."""
        read = self._last
        if read is None or is_needed or now_s - read[0] >= _KNOWN_S:
            self.refresh()

    def left(self, *, dry_run: bool) -> int | None:
        """Return how many actions the host may still do now; None: unknown."""
        read = self._last
        if read is None:
            return None
        held = self._unexpired(read[1], dry_run=dry_run)
        return max(0, self._most - len(held))

    def server_unix_s(self) -> float | None:
        """Return None: a host has no other clock than its own."""
        return None

    def flag(self, flagged: Mapping[str, Iterable[str]]) -> None:
        """Do nothing: the circuit breaker of a host is its own."""

    def flagged(self, rules: Iterable[str]) -> dict[str, int]:  # noqa: ARG002 - the protocol
        """Return nothing, for the same reason."""
        return {}

    def reserve(self, record: ActionRecord, now: Moment) -> bool:
        """Take a slot; return True if the record has one now. Idempotent."""

        def change(slots: tuple[Slot, ...]) -> tuple[Slot, ...]:
            held = self._unexpired(slots, dry_run=record.dry_run)
            if any(slot.id == record.id for slot in held) or len(held) >= self._most:
                return slots
            return (*slots, Slot(record.id, now.boot_id, now.monotonic_s, record.dry_run))

        slots = self._update(change) or ()
        return any(slot.id == record.id for slot in slots)

    def give_back(self, record: ActionRecord) -> None:
        """Free the slot of an action that was not tried; if that fails, it expires."""
        self._update(lambda slots: tuple(each for each in slots if each.id != record.id))

    def forget(self) -> None:
        """Remove the file; the lock stays. Raises BudgetError."""
        try:
            with self._locked():
                self._path.unlink(missing_ok=True)
                self._last = None
        except OSError as error:
            raise BudgetError(f"{self._path}: {error.strerror}") from error

    @property
    def _most(self) -> int:
        settings = self._settings()
        return min(settings.per_node, settings.per_cluster)

    def _unexpired(self, slots: Iterable[Slot], *, dry_run: bool) -> list[Slot]:
        now = self._now()
        return [slot for slot in slots if slot.dry_run == dry_run and _age_s(slot, now) < HOUR_S]

    def _update(
        self, change: Callable[[tuple[Slot, ...]], tuple[Slot, ...]]
    ) -> tuple[Slot, ...] | None:
        """Write the slots that ``change`` returns and return them; None on any failure."""
        try:
            with self._locked():
                found = self._read()
                now = self._now()
                slots = change(tuple(each for each in found if _age_s(each, now) < HOUR_S))
                if slots != found:
                    self._write(slots)
        except BudgetError as error:
            self._report_failure("locked" if error.__cause__ is None else "damaged", error)
            return None
        except OSError as error:
            unusable = BudgetError(f"{self._path}: the budget cannot be used: {error.strerror}")
            self._report_failure("unusable", unusable)
            return None
        self._last = (self._now().monotonic_s, slots)
        return slots

    def _report_failure(self, reason: str, error: Exception) -> None:
        self._last = None
        self.failures[reason] = self.failures.get(reason, 0) + 1
        with suppress(Exception):  # a failing callback must not prevent the decision
            self._on_error(reason, error)

    # The files.

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock. Raises BudgetError if another agent keeps it for seconds."""
        lock = self._path.with_name(f"{self._path.name}.lock")
        lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | _FLAGS, 0o600)
        try:
            _check(descriptor, lock)
            until_s = time.monotonic() + self._lock_s
            while not _is_locked(descriptor):
                if time.monotonic() >= until_s or self._closing.wait(_RETRY_S):
                    raise BudgetError(f"{lock}: another agent holds the lock")
            yield
        finally:
            os.close(descriptor)

    def _read(self) -> tuple[Slot, ...]:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | _FLAGS)
        except FileNotFoundError:
            return ()
        try:
            _check(descriptor, self._path)
            body = os.read(descriptor, _MAX_BYTES)
        finally:
            os.close(descriptor)
        now = self._now()
        try:
            slots = msgspec.json.decode(body, type=tuple[Slot, ...])
            if len(slots) > MAX_SLOTS:
                raise ValueError("too many slots")
            if any(_age_s(each, now) < 0 for each in slots):
                raise ValueError("a slot in the future")
        except NOT_JSON as error:
            raise BudgetError(
                f"{self._path}: damaged, so nothing is culled: move the file away once no action"
                " was done within the last hour"
            ) from error
        return slots

    def _write(self, slots: tuple[Slot, ...]) -> None:
        beside = self._path.with_name(f"{self._path.name}.new")
        beside.unlink(missing_ok=True)
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600)
        try:
            body = msgspec.json.encode(slots)
            while body:
                body = body[os.write(descriptor, body) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        beside.rename(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _age_s(slot: Slot, now: Moment) -> float:
    """Return the least possible age of a slot."""
    if slot.boot_id != now.boot_id:
        return now.monotonic_s
    return now.monotonic_s - slot.monotonic_s


def _check(descriptor: int, path: Path) -> None:
    """Raise BudgetError unless the file is regular, the agent's own, and closed to others."""
    status = os.fstat(descriptor)
    is_own = status.st_uid == os.geteuid() and not status.st_mode & 0o022
    if not (stat.S_ISREG(status.st_mode) and is_own and status.st_nlink == 1):
        cause = OSError(errno.EINVAL, "not a regular file of the agent's own, closed to others")
        raise BudgetError(f"{path}: {cause.strerror}; nothing is culled") from cause


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
