"""Types that describe a field of the facts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Source:
    """Place where fields are read."""

    name: str
    capability: str = ""  # or right, for processes of other users; "": none


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the facts, as documented for rule authors."""

    name: str
    unit: str
    meaning: str
    source: Source
    example: str  # a condition, as in a rule
    dynamic: bool = False  # may change from tick to tick for the same process
