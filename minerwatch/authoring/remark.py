"""What lint has to say of a place in a file."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Severity(StrEnum):
    """How bad a remark is: an error keeps the file out of force."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Remark:
    """What lint has to say of one place in one file."""

    path: Path
    line: int
    severity: Severity
    text: str

    def __str__(self) -> str:
        """``path:line: severity: text``, the form that editors make clickable."""
        return f"{self.path}:{self.line}: {self.severity}: {self.text}"


def warning(path: Path, line: int, text: str) -> Remark:
    """A doubt: the file is in force all the same."""
    return Remark(path, line, Severity.WARNING, text)
