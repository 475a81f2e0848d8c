"""Types that describe a field of the facts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Source:
    """Source of a field's value."""

    name: str
    capability: str = ""  # or right, for processes of other users; "": none

    def fixed(self, name: str, unit: str, meaning: str, example: str) -> Field:
        """Return a field that keeps its value; ``example``: a condition, without the name."""
        return Field(name, unit, meaning, self, name + example)

    def dynamic(self, name: str, unit: str, meaning: str, example: str) -> Field:
        """Return a field that may change from tick to tick for the same process."""
        return Field(name, unit, meaning, self, name + example, dynamic=True)


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the facts, as documented for rule authors."""

    name: str
    unit: str
    meaning: str
    source: Source
    example: str  # a condition, as in a rule
    dynamic: bool = False  # may change from tick to tick for the same process
