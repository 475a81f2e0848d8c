"""Files of the cgroup tree and of /proc: read, kept open within a bound, failures counted."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import suppress

from minerwatch.node.proc_files import read_once

_READ_BYTES = 4096
_RECORD_BYTES = 16  # seq_file ends a read at a whole line; a pid and its newline are shorter
_MAX_READS = 4096
_MAX_NUMBER_DIGITS = 20  # of 64 bits

_GONE = frozenset({errno.ENOENT, errno.ENODEV, errno.ENOTDIR})
_NO_FILES_LEFT = frozenset({errno.EMFILE, errno.ENFILE})
_SHORT = _NO_FILES_LEFT | {errno.ENOMEM, errno.EAGAIN}


class CgroupFiles:
    """Reads files and counts failures by reason; keeps some of them open.

    ``open_share`` of the files that the process may open are kept open at most: the rest is for
    processes, clients and children.
    """

    def __init__(self, open_share: float) -> None:
        self.failures = dict.fromkeys(
            ("permission", "unreadable", "malformed", "open_files", "too_many"), 0
        )
        self.is_short = False
        """Set when a file could not be read because files or memory ran out."""
        self._open_count = 0
        self._max_open = int(resource.getrlimit(resource.RLIMIT_NOFILE)[0] * open_share)

    def keep_open(self, path: bytes) -> int:
        """Return a file descriptor; -1 if none is left, so that the file is opened each time."""
        if self._open_count >= self._max_open:
            self.failures["open_files"] += 1
            return -1
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in _NO_FILES_LEFT:
                self.failures["open_files"] += 1
            else:
                self.count(error)
            return -1
        self._open_count += 1
        return fd

    def close(self, fd: int) -> None:
        """Close a file that ``keep_open`` opened."""
        if fd >= 0:
            self._open_count -= 1
            with suppress(OSError):
                os.close(fd)

    def content(self, path: bytes, limit_bytes: int = _READ_BYTES) -> bytes | None:
        """Return the start of a file; None if it cannot be read."""
        try:
            return read_once(path, limit_bytes)
        except OSError as error:
            self.count(error)
            return None

    def count(self, error: OSError) -> None:
        """Count a failure; a file that is gone does not count."""
        self.is_short |= error.errno in _SHORT
        if isinstance(error, PermissionError):
            self.failures["permission"] += 1
        elif error.errno not in _GONE:
            self.failures["unreadable"] += 1


def read_kept(fd: int) -> bytes:
    """Return the start of a file that is kept open."""
    return os.pread(fd, _READ_BYTES, 0)


def read_whole(fd: int) -> bytes:
    """Return all of a file that is kept open; the kernel returns a list of pids by the page."""
    content = os.pread(fd, _READ_BYTES, 0)
    if len(content) < _READ_BYTES - _RECORD_BYTES:
        return content
    return b"".join(_pieces(fd, content))


def _pieces(fd: int, piece: bytes) -> Iterator[bytes]:
    offset = 0
    for _ in range(_MAX_READS):
        if not piece:
            return
        yield piece
        offset += len(piece)
        piece = os.pread(fd, _READ_BYTES, offset)


def numbers(content: bytes) -> dict[bytes, int]:
    """Parse lines of a name and a number."""
    words = content.split()
    return {
        name: int(number)
        for name, number in zip(words[::2], words[1::2], strict=False)
        if number.isdigit() and len(number) <= _MAX_NUMBER_DIGITS
    }
