"""A message of lint about one line of a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Severity(StrEnum):
    """An error makes the file unusable, a warning does not."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """A message about one line of a file."""

    path: Path
    line: int
    severity: Severity
    text: str

    def __str__(self) -> str:
        """Return ``path:line: severity: text``, which editors make clickable."""
        return f"{self.path}:{self.line}: {self.severity}: {self.text}"


Problem = tuple[int, str]
"""Line and text of a warning, in a file that is known from the context."""

Problems = Iterator[Problem]


def warning(path: Path, line: int, text: str) -> Diagnostic:
    """Return a warning: the file is in force all the same."""
    return Diagnostic(path, line, Severity.WARNING, text)
