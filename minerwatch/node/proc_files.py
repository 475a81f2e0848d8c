"""Small files of /proc and of the cgroup tree: read by one read(2), shown as text."""

from __future__ import annotations

import os

STAT_BYTES = 4096
"""Enough for /proc/PID/stat, whose line is below 1 KiB."""


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
