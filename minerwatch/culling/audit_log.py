"""The audit log: what was decided, why, on which evidence, and how it ended.

One JSON object a line, appended and flushed to the disk before anything is done. It is also the
agent's memory: a new agent reads from it what the one before has done. It has at most two files,
the present one and the one before; the records that still matter go on into each new file.

A line that cannot be written (disk full, folder gone) is kept and written as soon as that is
possible again. Until then ``trouble`` says why, and nothing may be done.

A file that was removed, replaced or cut short while the agent wrote to it is no log: what was
just written counts as not written, and a new file is begun with all that still matters. A line
that breaks off at the end was never acted on, since the action follows the whole line: it is cut
off. Any other line that cannot be read is lost memory, which ``read`` reports.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import msgspec

from minerwatch.config.schema import Audit
from minerwatch.culling.records import NO_EVIDENCE, AuditLine
from minerwatch.errors import NOT_JSON, MinerwatchError

MAX_LINE_BYTES = 1 << 20
GOES_ON = "record"
"""Kind of the lines that a new file begins with: what still matters of the one before."""

_MAX_WAITING = 1000
_MODE, _FOLDER_MODE = 0o600, 0o700


class AuditError(MinerwatchError):
    """An audit log that cannot be used: where, and why."""


_decoder = msgspec.json.Decoder(AuditLine)


@dataclass(frozen=True, slots=True)
class Written:
    """What a log holds: its lines that can be read, and how many cannot."""

    lines: tuple[AuditLine, ...]
    torn: int = 0  # at a file's end: written when the agent was killed, or the disk was full
    damaged: tuple[str, ...] = ()  # "FILE:LINE" of the others, of which nobody knows what they said


def read(path: Path, wanted: Callable[[AuditLine], bool] = lambda _line: True) -> Written:
    """Return the lines of the log at ``path`` without their evidence, the oldest first.

    The file before counts as damaged only where the present one does not begin with what goes on
    from it. Raises AuditError if there is a log that cannot be read.
    """
    lines: list[AuditLine] = []
    damaged: list[str] = []
    torn = 0
    for each in (_before(path), path):
        first = True
        for number, text in _numbered_lines(each):
            line = _decoded(text)
            if first and each == path and line is not None and line.kind == GOES_ON:
                damaged.clear()
            first = False
            if line is not None:
                lines += [line] if wanted(line) else []
            elif text.endswith(b"\n") or len(text) > MAX_LINE_BYTES:
                damaged.append(f"{each}:{number}")
            else:
                torn += 1
    return Written(tuple(lines), torn, tuple(damaged))


def stamps(path: Path) -> tuple[object, ...]:
    """Return what changes when the log at ``path`` does."""
    found = []
    for each in (_before(path), path):
        with suppress(OSError):
            stat_ = each.lstat()
            found.append((stat_.st_ino, stat_.st_size, stat_.st_mtime_ns))
    return tuple(found)


class AuditLog:
    """Writes the log; one agent at a time, for many threads."""

    def __init__(self, settings: Audit) -> None:
        """Touches nothing yet: the first ``retry`` or ``write`` opens it."""
        self.path = Path(settings.log)
        self._most_bytes = (settings.max_mib << 20) // 2  # of each of the two files
        self._folder = _EvidenceFolder(settings) if settings.folder else None
        self._lock = Lock()
        self._trouble = ""
        self._waiting: deque[bytes] = deque()
        self._file: int | None = None
        self._whole_bytes = 0  # of the file, up to where its lines are whole
        self._is_lost = False  # the file that was written to is not at its place any more
        self._holds: int | None = None  # the lock

    @property
    def trouble(self) -> str:
        """Why lines cannot be written; "": they can."""
        return self._trouble

    def write(self, line: AuditLine, go_on: Callable[[], Iterable[AuditLine]] = tuple) -> bool:
        """Append ``line`` and flush; whether it, and all before it, are on the disk now.

        ``go_on`` gives the lines that a new file begins with, where one is begun.
        """
        with self._lock:
            self._waiting.append(msgspec.json.encode(line) + b"\n")
            return self._flush(go_on)

    def retry(self, go_on: Callable[[], Iterable[AuditLine]] = tuple) -> bool:
        """Write what is waiting; whether the log can be written."""
        with self._lock:
            return self._flush(go_on)

    def save(self, name: str, evidence: bytes) -> bool:
        """Put ``evidence`` into a file of its own, where that is configured; whether it is there.

        The file is new, private, and flushed to the disk.
        """
        if self._folder is None:
            return True
        try:
            self._folder.save(name, evidence)
        except OSError as error:
            self._trouble = f"{self._folder.path}: {_reason(error)}"
            return False
        return True

    def close(self) -> None:
        """Let go of the files."""
        with self._lock:
            self._close_file()
            if self._holds is not None:
                os.close(self._holds)
                self._holds = None

    def remove(self) -> None:
        """Remove the log with all that belongs to it; raises AuditError. Not to be used any more.

        A folder stays where it is a mount point or holds something else.
        """
        self.close()
        lock = _lock_path(self.path)
        try:
            for path in (self.path, _before(self.path), lock):
                path.unlink(missing_ok=True)
            if self._folder is not None:
                self._folder.remove()
        except OSError as error:
            raise AuditError(f"{error.filename or self.path}: {_reason(error)}") from error
        with suppress(OSError):
            self.path.parent.rmdir()

    def _flush(self, go_on: Callable[[], Iterable[AuditLine]]) -> bool:
        try:
            self._check_place()
            if self._holds is None:
                self._holds = _held(self.path)
            if self._is_lost:
                self._open()
                self._is_lost = False
                self._go_on_with(go_on())
            self._make_room(go_on)
            while self._waiting:
                self._append(self._waiting[0])
                self._waiting.popleft()
            if self._file is None:
                self._open()
            if self._trouble and self._folder is not None:
                self._folder.check()
        except (OSError, AuditError) as error:
            is_ours = isinstance(error, AuditError)
            self._trouble = str(error) if is_ours else f"{self.path}: {_reason(error)}"
            self._close_file()
            while len(self._waiting) > _MAX_WAITING:
                self._waiting.popleft()
            return False
        self._trouble = ""
        return True

    def _append(self, line: bytes) -> None:
        """All of it and flushed, or an error; what was torn before is cut off first."""
        file = self._file if self._file is not None else self._open()
        if os.fstat(file).st_size > self._whole_bytes:
            os.ftruncate(file, self._whole_bytes)
        left = memoryview(line)
        while left:
            left = left[os.write(file, left) :]
        os.fsync(file)
        self._whole_bytes += len(line)
        self._check_place()

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self.path.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        self._file = file = _opened_regular(self.path, flags)
        os.fchmod(file, _MODE)  # of one that somebody else has put there
        self._whole_bytes = _whole_bytes(file)
        return file

    def _check_place(self) -> None:
        """Raise AuditError if what is written goes into nothing, or has been taken away."""
        for path, file, least_bytes in (
            (self.path, self._file, self._whole_bytes),
            (_lock_path(self.path), self._holds, 0),
        ):
            if file is None or _is_at(path, file, least_bytes):
                continue
            self._is_lost = True
            self._close_file()
            if self._holds is not None:
                os.close(self._holds)
                self._holds = None
            raise AuditError(
                f"{path} was removed, replaced or cut short while the agent used it; nothing is"
                " done until a new one is begun"
            )

    def _make_room(self, go_on: Callable[[], Iterable[AuditLine]]) -> None:
        """Begins a new file where the present one is full."""
        file = self._file if self._file is not None else self._open()
        waiting = sum(len(line) for line in self._waiting)
        if os.fstat(file).st_size + waiting <= self._most_bytes or not os.fstat(file).st_size:
            return
        self._close_file()
        self.path.replace(_before(self.path))
        self._go_on_with(go_on())

    def _go_on_with(self, lines: Iterable[AuditLine]) -> None:
        self._waiting.extendleft(reversed([msgspec.json.encode(line) + b"\n" for line in lines]))

    def _close_file(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                os.close(self._file)
            self._file = None


class _EvidenceFolder:
    """One file for each action, at most so many and so large together; the oldest go."""

    def __init__(self, settings: Audit) -> None:
        self.path = Path(settings.folder)
        self._max_files = settings.max_files
        self._most_bytes = settings.max_mib << 20

    def save(self, name: str, evidence: bytes) -> None:
        self.path.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        self._remove_oldest(len(evidence))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        file = os.open(self.path / name, flags, _MODE)
        try:
            left = memoryview(evidence)
            while left:
                left = left[os.write(file, left) :]
            os.fsync(file)
        finally:
            os.close(file)

    def check(self) -> None:
        """Raises OSError if files cannot be made there."""
        self.path.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        if not os.access(self.path, os.W_OK):
            raise PermissionError(errno.EACCES, "cannot be written", str(self.path))

    def remove(self) -> None:
        """Remove every file of evidence, and the folder if it is empty then."""
        with suppress(FileNotFoundError):
            for entry in os.scandir(self.path):
                if entry.is_file(follow_symlinks=False) and entry.name.endswith(".json"):
                    (self.path / entry.name).unlink(missing_ok=True)
        with suppress(OSError):
            self.path.rmdir()

    def _remove_oldest(self, room_bytes: int) -> None:
        files = sorted(
            (entry.stat().st_mtime_ns, entry.name, entry.stat().st_size)
            for entry in os.scandir(self.path)
            if entry.is_file(follow_symlinks=False) and entry.name.endswith(".json")
        )
        used = sum(size for _, _, size in files) + room_bytes
        for number, (_, name, size) in enumerate(files):
            if len(files) - number < self._max_files and used <= self._most_bytes:
                return
            (self.path / name).unlink(missing_ok=True)
            used -= size


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or repr(error)


def _before(path: Path) -> Path:
    return path.with_name(path.name + ".1")


def _lock_path(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _held(path: Path) -> int:
    """A file descriptor that holds the lock of ``path`` for as long as it is open."""
    lock_path = _lock_path(path)
    try:
        path.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        lock = _opened_regular(lock_path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise AuditError(
            f"culling.audit.log: {lock_path}: {error.strerror}; name a folder that the agent may"
            " write and that outlives it"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise AuditError(f"culling.audit.log: another agent writes {path}") from error
    return lock


def _opened_regular(path: Path, flags: int) -> int:
    """Open a regular file. A pipe would hang its reader, a device have no end."""
    file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, _MODE)
    mode = os.fstat(file).st_mode
    if stat.S_ISREG(mode):
        return file
    os.close(file)
    what = "Is a directory" if stat.S_ISDIR(mode) else "it is no regular file: remove it"
    raise AuditError(f"{path}: {what}")


def _is_at(path: Path, file: int, least_bytes: int) -> bool:
    """Return True if ``path`` still names the open ``file``, and nothing was cut off it."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    opened = os.fstat(file)
    is_same = (found.st_dev, found.st_ino) == (opened.st_dev, opened.st_ino)
    return is_same and opened.st_size >= least_bytes


def _whole_bytes(file: int) -> int:
    """Return the size of a log up to the end of its last whole line; one may break off there.

    One that is whole but for its line feed is given that.
    """
    size = os.fstat(file).st_size
    start = max(0, size - MAX_LINE_BYTES)
    tail = os.pread(file, size - start, start)
    last = tail[tail.rfind(b"\n") + 1 :]
    if last and _decoded(last) is not None:
        os.write(file, b"\n")
        return size + 1
    return size - len(last)


def _numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file that are not empty, a long one in pieces. Raises AuditError."""
    try:
        descriptor = _opened_regular(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        raise AuditError(f"{path}: {_reason(error)}") from error
    with os.fdopen(descriptor, "rb") as file:
        number = 0
        try:
            while text := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if text.strip():
                    yield number, text
        except OSError as error:
            raise AuditError(f"{path}: {_reason(error)}") from error


def _decoded(line: bytes) -> AuditLine | None:
    if len(line) > MAX_LINE_BYTES:
        return None
    try:
        return msgspec.structs.replace(_decoder.decode(line), evidence=NO_EVIDENCE)
    except NOT_JSON:
        return None
