"""The inputs that are kept: one folder a target, one file an input, named by what it is."""

from __future__ import annotations

import hashlib
from pathlib import Path

FOLDER = Path(__file__).parent / "corpus"
BUILD = Path(__file__).parents[2] / "build" / "fuzz"
"""Where a campaign leaves what it found; in no commit."""


def kept(name: str) -> dict[str, bytes]:
    """File name -> input, of those that are in the repository."""
    return _inputs(FOLDER / name)


def found(name: str) -> dict[str, bytes]:
    """The same of those that campaigns on this machine have found to lead somewhere new."""
    return _inputs(BUILD / "corpus" / name)


def digest(data: bytes) -> str:
    """A name for an input that nobody has named yet."""
    return hashlib.sha256(data).hexdigest()[:16]


def _inputs(folder: Path) -> dict[str, bytes]:
    if not folder.is_dir():
        return {}
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
