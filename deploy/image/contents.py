"""Reads contents.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

_FILE = Path(__file__).with_name("contents.toml")


@dataclass(frozen=True, slots=True)
class Contents:
    """What the image has. Names and patterns, each with the reason."""

    largest_mb: int
    debian_packages: Mapping[str, str]
    debian_files: Mapping[str, str]  # absolute globs: of no package
    debian_without: Mapping[str, str]  # absolute patterns
    distributions_without: Mapping[str, str]  # of the lock, and not of the image
    python_without: Mapping[str, str]  # patterns below site-packages
    python_kept: Mapping[str, str]  # all the same
    programs: Mapping[str, str]  # patterns in the environment's bin


def contents() -> Contents:
    """What contents.toml says."""
    read: dict[str, Any] = tomllib.loads(_FILE.read_text())
    debian, python = read["debian"], read["python"]
    return Contents(
        largest_mb=read["largest_mb"],
        debian_packages=debian["packages"],
        debian_files=debian["files"],
        debian_without=debian["without"],
        distributions_without=python["distributions"],
        python_without=python["without"],
        python_kept=python["kept"],
        programs=python["programs"],
    )


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Return True if one of ``patterns`` is of ``path``; a * matches slashes, too."""
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def unused(patterns: Iterable[str], paths: list[str]) -> list[str]:
    """Those of ``patterns`` that match none of ``paths``: nobody needs them any more."""
    return [each for each in patterns if not any(fnmatchcase(path, each) for path in paths)]
