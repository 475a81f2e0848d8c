"""Files for parsers that only read files: written anew for each input, in one folder a process."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path


def in_memory() -> str | None:
    """Where folders are made: a campaign's own, or the machine's memory; None: as usual."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    return os.environ.get("MINERWATCH_FUZZ_FOLDER", memory)


@cache
def folder(name: str) -> Path:
    """A folder of its own, gone with this process; in memory where that is to be had."""
    place = Path(tempfile.mkdtemp(prefix=f"minerwatch-fuzz-{name}-", dir=in_memory()))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place


def put(path: Path, content: bytes) -> Path:
    """A file with that content."""
    try:
        with open(path, "wb") as file:
            file.write(content)
    except FileNotFoundError:
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    return path


def link(path: Path, to: bytes) -> Path:
    """A symbolic link, as far as there can be such a one; none where there cannot."""
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    to = to.replace(b"\0", b"")[:4000]
    if to:
        os.symlink(to, os.fsencode(path))
    return path


def file_name(wanted: bytes) -> bytes:
    """As much of ``wanted`` as one file can be called; "x" where that is nothing."""
    name = wanted.replace(b"\0", b"").replace(b"/", b"").replace(b"\n", b"")[:255]
    return b"x" if name in (b"", b".", b"..") else name
