"""The audit log: decisions, their reasons and evidence, and the outcome of each action.

One JSON object a line, appended and flushed to the disk before an action. It also restores the
culling history after a restart. It has at most two files, the current and the previous one; each
new file begins with the records that are still needed.

A line that cannot be written (disk full, folder gone) is queued and written as soon as possible.
Until then ``trouble`` has the reason, and nothing may be done.

If the file is removed, replaced or truncated while the agent writes to it, the last line counts as
not written, and a new file is started with the records that are still needed. An incomplete last
line was never acted on, since the action follows the complete line: it is cut off. Any other line
that cannot be read is lost history, which ``read`` reports.
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
GOES_ON = "record"  # kind of the lines that a new file begins with: records of the previous file
_MAX_WAITING = 1000
_MODE, _FOLDER_MODE = 0o600, 0o700


class AuditError(MinerwatchError):
    """The audit log cannot be used; the message has the path and the reason."""


_decoder = msgspec.json.Decoder(AuditLine)


@dataclass(frozen=True, slots=True)
class Written:
    """Content of a log: the lines that can be read, and how many cannot."""

    lines: tuple[AuditLine, ...]
    torn: int = 0  # incomplete last lines
    damaged: tuple[str, ...] = ()  # "FILE:LINE" of the others


def read(path: Path, wanted: Callable[[AuditLine], bool] = lambda _line: True) -> Written:
    """Return the lines of the log at ``path`` without their evidence, the oldest first.

    Damage in the previous file counts only if the current one does not begin with its records.
    Raises AuditError if a file cannot be read.
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
    """Return a value that changes when the log at ``path`` does."""
    found = []
    for each in (_before(path), path):
        with suppress(OSError):
            stat_ = each.lstat()
            found.append((stat_.st_ino, stat_.st_size, stat_.st_mtime_ns))
    return tuple(found)


class AuditLog:
    """Writes the log; for one agent at a time and any number of threads."""

    def __init__(self, settings: Audit, go_on: Callable[[], Iterable[AuditLine]] = tuple) -> None:
        """Open nothing yet: the first ``retry`` or ``write`` does. ``go_on`` begins a new file."""
        self.path = Path(settings.log)
        self._go_on = go_on
        self._most_bytes = (settings.max_mib << 20) // 2  # of each of the two files
        self._folder = _EvidenceFolder(settings) if settings.folder else None
        self._lock = Lock()
        self.trouble = ""  # why lines cannot be written; "": they can
        self._waiting: deque[bytes] = deque()
        self._file: int | None = None
        self._whole_bytes = 0  # size of the file's complete lines
        self._is_lost = False  # the file is no longer at its path
        self._holds: int | None = None  # the lock

    def write(self, line: AuditLine) -> bool:
        """Append ``line`` and flush; return True if all is on the disk."""
        with self._lock:
            self._waiting.append(_encoded(line))
            return self._flush()

    def retry(self) -> bool:
        """Write the queued lines; return True if the log can be written."""
        with self._lock:
            return self._flush()

    def save(self, name: str, evidence: bytes) -> bool:
        """Write ``evidence`` to a new private file, if configured; return False if that fails."""
        if self._folder is None:
            return True
        try:
            self._folder.save(name, evidence)
        except OSError as error:
            self.trouble = f"{self._folder.path}: {_reason(error)}"
            return False
        return True

    def close(self) -> None:
        """Close the files."""
        with self._lock:
            self._close_files()

    def _close_files(self) -> None:
        self._close_file()
        if self._holds is not None:
            os.close(self._holds)
            self._holds = None

    def remove(self) -> None:
        """Remove the log and its evidence for good; raises AuditError.

        A folder stays if it is a mount point or has other files.
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

    def _flush(self) -> bool:
        try:
            self._check_paths()
            if self._holds is None:
                self._holds = _held(self.path)
            if self._is_lost:
                self._opened()
                self._is_lost = False
                self._begin_file()
            self._make_room()
            while self._waiting:
                self._append(self._waiting[0])
                self._waiting.popleft()
            self._opened()
            if self.trouble and self._folder is not None:
                self._folder.check()
        except (OSError, AuditError) as error:
            is_ours = isinstance(error, AuditError)
            self.trouble = str(error) if is_ours else f"{self.path}: {_reason(error)}"
            self._close_file()
            while len(self._waiting) > _MAX_WAITING:
                self._waiting.popleft()
            return False
        self.trouble = ""
        return True

    def _append(self, line: bytes) -> None:
        """Write and flush the line; an incomplete line before it is cut off first."""
        file = self._opened()
        if os.fstat(file).st_size > self._whole_bytes:
            os.ftruncate(file, self._whole_bytes)
        _write_all(file, line)
        self._whole_bytes += len(line)
        self._check_paths()

    def _opened(self) -> int:
        if self._file is not None:
            return self._file
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self.path.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        self._file = file = _opened_regular(self.path, flags)
        os.fchmod(file, _MODE)  # an existing file may have another mode
        self._whole_bytes = _whole_bytes(file)
        return file

    def _check_paths(self) -> None:
        """Raise AuditError if the file or its lock is no longer at its path."""
        for path, file, least_bytes in (
            (self.path, self._file, self._whole_bytes),
            (_lock_path(self.path), self._holds, 0),
        ):
            if file is None or _is_at(path, file, least_bytes):
                continue
            self._is_lost = True
            self._close_files()
            raise AuditError(
                f"{path} was removed, replaced or truncated while the agent used it; nothing is"
                " done until a new one is started"
            )

    def _make_room(self) -> None:
        file = self._opened()
        waiting = sum(len(line) for line in self._waiting)
        if os.fstat(file).st_size + waiting <= self._most_bytes or not os.fstat(file).st_size:
            return
        self._close_file()
        self.path.replace(_before(self.path))
        self._begin_file()

    def _begin_file(self) -> None:
        self._waiting.extendleft(reversed([_encoded(line) for line in self._go_on()]))

    def _close_file(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                os.close(self._file)
            self._file = None


class _EvidenceFolder:
    """One file an action, bounded in number and total size; the oldest are removed."""

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
            _write_all(file, evidence)
        finally:
            os.close(file)

    def check(self) -> None:
        """Raise OSError if files cannot be created there."""
        self.path.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        if not os.access(self.path, os.W_OK):
            raise PermissionError(errno.EACCES, "cannot be written", str(self.path))

    def remove(self) -> None:
        """Remove all evidence, and the folder if it is empty."""
        with suppress(FileNotFoundError):
            for _, name, _ in self._files():
                (self.path / name).unlink(missing_ok=True)
        with suppress(OSError):
            self.path.rmdir()

    def _files(self) -> list[tuple[int, str, int]]:
        """Return time, name and size of each file, the oldest first."""
        return sorted(
            (entry.stat().st_mtime_ns, entry.name, entry.stat().st_size)
            for entry in os.scandir(self.path)
            if entry.is_file(follow_symlinks=False) and entry.name.endswith(".json")
        )

    def _remove_oldest(self, room_bytes: int) -> None:
        files = self._files()
        used = sum(size for _, _, size in files) + room_bytes
        for number, (_, name, size) in enumerate(files):
            if len(files) - number < self._max_files and used <= self._most_bytes:
                return
            (self.path / name).unlink(missing_ok=True)
            used -= size


def _write_all(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]
    os.fsync(file)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or repr(error)


def _before(path: Path) -> Path:
    return path.with_name(path.name + ".1")


def _lock_path(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _held(path: Path) -> int:
    """Lock ``path``; return the descriptor that holds the lock while it is open."""
    lock_path = _lock_path(path)
    try:
        path.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        lock = _opened_regular(lock_path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise AuditError(
            f"culling.audit.log: {lock_path}: {error.strerror}; use a persistent folder that the"
            " agent may write"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise AuditError(f"culling.audit.log: another agent writes {path}") from error
    return lock


def _opened_regular(path: Path, flags: int) -> int:
    """Open a regular file. Reading a pipe could block for ever, a device has no end."""
    file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, _MODE)
    mode = os.fstat(file).st_mode
    if stat.S_ISREG(mode):
        return file
    os.close(file)
    what = "Is a directory" if stat.S_ISDIR(mode) else "it is not a regular file: remove it"
    raise AuditError(f"{path}: {what}")


def _is_at(path: Path, file: int, least_bytes: int) -> bool:
    """Return True if ``path`` is still the open ``file``, and not truncated."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    opened = os.fstat(file)
    is_same = (found.st_dev, found.st_ino) == (opened.st_dev, opened.st_ino)
    return is_same and opened.st_size >= least_bytes


def _whole_bytes(file: int) -> int:
    """Return the size of the complete lines; add a line feed that alone is missing."""
    size = os.fstat(file).st_size
    start = max(0, size - MAX_LINE_BYTES)
    tail = os.pread(file, size - start, start)
    last = tail[tail.rfind(b"\n") + 1 :]
    if last and _decoded(last) is not None:
        os.write(file, b"\n")
        return size + 1
    return size - len(last)


def _numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the non-empty lines of a file, a long one in pieces. Raises AuditError."""
    try:
        with os.fdopen(_opened_regular(path, os.O_RDONLY | os.O_CLOEXEC), "rb") as file:
            pieces = iter(lambda: file.readline(MAX_LINE_BYTES + 1), b"")
            yield from ((number, text) for number, text in enumerate(pieces, 1) if text.strip())
    except FileNotFoundError:
        return
    except OSError as error:
        raise AuditError(f"{path}: {_reason(error)}") from error


def _encoded(line: AuditLine) -> bytes:
    return msgspec.json.encode(line) + b"\n"


def _decoded(line: bytes) -> AuditLine | None:
    if len(line) > MAX_LINE_BYTES:
        return None
    try:
        return msgspec.structs.replace(_decoder.decode(line), evidence=NO_EVIDENCE)
    except NOT_JSON:
        return None
