"""Small files of /proc and of the cgroup tree: read by one read(2), shown as text."""

from __future__ import annotations

import errno
import os

STAT_BYTES = 4096
"""Enough for /proc/PID/stat, whose line is below 1 KiB."""
GONE = frozenset({errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.ENOTDIR})
"""ESRCH, ENODEV: a process has exited, a cgroup was removed, while its file was open."""
NO_FILES_LEFT = frozenset({errno.EMFILE, errno.ENFILE})
_SHORT = NO_FILES_LEFT | {errno.ENOMEM, errno.EAGAIN}


class CountedFiles:
    """Reads files, and counts failures by reason."""

    def __init__(self, failures: dict[str, int]) -> None:
        self.failures = failures
        self.is_short = False
        """Set when a file could not be read because files or memory ran out."""

    def content(self, path: str | bytes, limit_bytes: int = 4096) -> bytes | None:
        """Return the start of a file; None if it cannot be read."""
        try:
            return read_once(path, limit_bytes)
        except OSError as error:
            self.count(error)
            return None

    def count(self, error: OSError | ValueError) -> None:
        """Count a failure; a file that is gone does not count."""
        if isinstance(error, PermissionError):
            self.failures["permission"] += 1
        elif not isinstance(error, OSError):
            self.failures["malformed"] += 1
        elif error.errno not in GONE:
            self.failures["unreadable"] += 1
            self.is_short = self.is_short or error.errno in _SHORT


def read_once(path: str | bytes, limit_bytes: int) -> bytes:
    """Read the start of a file; the kernel returns a small one whole (fs/seq_file.c)."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, limit_bytes)
    finally:
        os.close(fd)


def decoded(raw: bytes) -> str:
    """Return bytes that a tenant may have chosen as text."""
    return raw.decode("utf-8", "backslashreplace")
