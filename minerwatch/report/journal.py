"""The journal's files on the disk: JSON lines, at most 16 MiB, written in a thread of their own.

Verdicts and CPU usage have four files each, the current one and three before it, so that neither
pushes the other out. A file is opened for each line: one that was removed, replaced or truncated is
begun again, one whose last line was cut goes on in a new line. What cannot be written is counted
and dropped; the agent goes on.
"""

from __future__ import annotations

import errno
import heapq
import os
import queue
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from minerwatch.api.journal import AnyLine, UsageLine, decode, encode
from minerwatch.worker import Worker

VERDICTS, USAGE = "verdicts.jsonl", "usage.jsonl"
MAX_FILE_BYTES = 2 << 20
KEPT_FILES = 4  # of each kind
MAX_LINE_BYTES = 64 << 10
_MAX_WAITING = 1000
_MODE, _FOLDER_MODE = 0o600, 0o700
_CLOSE_S = 2.0


class JournalFiles:
    """Appends lines to the files in a folder, and reads them. Not for several writers."""

    def __init__(self, folder: Path, max_file_bytes: int = MAX_FILE_BYTES) -> None:
        self.folder = folder
        self._max_file_bytes = max_file_bytes

    def append(self, line: AnyLine) -> None:
        """Write one line. Raises OSError."""
        data = encode(line)
        if len(data) > MAX_LINE_BYTES:
            raise OSError(errno.EMSGSIZE, "line too long")
        self.folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        path = self.folder / (USAGE if isinstance(line, UsageLine) else VERDICTS)
        file = _opened(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        try:
            size = os.fstat(file).st_size
            if size and size + len(data) > self._max_file_bytes:
                _rotate(path)
                os.close(file)
                file = _opened(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
                size = os.fstat(file).st_size
            if size and os.pread(file, 1, size - 1) != b"\n":
                data = b"\n" + data
            left = memoryview(data)
            while left:
                left = left[os.write(file, left) :]
        finally:
            os.close(file)

    def read(self) -> Iterator[AnyLine]:
        """Yield what can be read, in the order of time as far as the clock kept it."""
        return heapq.merge(self._lines(VERDICTS), self._lines(USAGE), key=lambda line: line.at)

    def stamps(self) -> tuple[object, ...]:
        """Return a value that changes when the files do."""
        found = []
        for name in (VERDICTS, USAGE):
            with suppress(OSError):
                stat_ = (self.folder / name).lstat()
                found.append((stat_.st_ino, stat_.st_size, stat_.st_mtime_ns))
        return tuple(found)

    def remove(self) -> None:
        """Remove the files, and the folder if it is empty then. Raises OSError."""
        for name in (VERDICTS, USAGE):
            for path in _paths(self.folder / name):
                path.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    def _lines(self, name: str) -> Iterator[AnyLine]:
        for path in reversed(_paths(self.folder / name)):
            with suppress(OSError), open(_opened(path, os.O_RDONLY), "rb") as file:
                left_bytes = 2 * self._max_file_bytes  # of a file that another program made longer
                while left_bytes > 0 and (data := file.readline(MAX_LINE_BYTES)):
                    left_bytes -= len(data)
                    line = decode(data)
                    if line is not None:
                        yield line


class Journal:
    """Queues lines for the thread that writes them; for any number of threads."""

    def __init__(self, files: JournalFiles, on_error: Callable[[OSError], None]) -> None:
        """``on_error`` is called in the journal's thread, with every error."""
        self.files = files
        self._on_error = on_error
        self._waiting: queue.Queue[AnyLine | None] = queue.Queue(_MAX_WAITING)
        self._failures: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._worker = Worker("journal", self._write_queued)
        self._worker.start()

    @property
    def failures(self) -> dict[str, int]:
        """Lines that were not written since the start, by reason."""
        return dict(self._failures)

    def write(self, line: AnyLine) -> None:
        """Queue a line and return at once."""
        try:
            self._waiting.put_nowait(line)
        except queue.Full:
            self._count("queue full")

    def close(self) -> None:
        """Write what is queued, within some seconds, and stop."""
        self._worker.close()
        with suppress(queue.Full):
            self._waiting.put(None, timeout=_CLOSE_S)
        self._worker.join(_CLOSE_S)

    def _write_queued(self) -> None:
        while (line := self._waiting.get()) is not None:
            try:
                self.files.append(line)
            except OSError as error:
                self._count(errno.errorcode.get(error.errno or 0, "OSError"))
                self._on_error(error)

    def _count(self, reason: str) -> None:
        with self._lock:
            self._failures[reason] += 1


def _paths(path: Path) -> list[Path]:
    """Return a kind's files, the current one first."""
    return [path, *(path.with_name(f"{path.name}.{n}") for n in range(1, KEPT_FILES))]


def _rotate(path: Path) -> None:
    paths = _paths(path)
    for newer, older in reversed([*pairwise(paths)]):
        with suppress(FileNotFoundError):
            newer.replace(older)


def _opened(path: Path, flags: int) -> int:
    """Open a regular file. Raises OSError for a link; a pipe could block, a device has no end."""
    file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, _MODE)
    if stat.S_ISREG(os.fstat(file).st_mode):
        return file
    os.close(file)
    raise OSError(errno.EINVAL, "is no regular file: remove it", str(path))
