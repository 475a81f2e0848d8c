"""How many examples are tried: more in `make nightly` than in `make test`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from hypothesis import settings

T = TypeVar("T")

_WHOLE = 50  # of a profile that tries ``count`` examples


def examples(count: int) -> int:
    """Return ``count`` times the profile's factor: 1/2 in `make test`, 10 in `make nightly`."""
    return max(1, count * settings().max_examples // _WHOLE)


def one_in(count: int, items: Sequence[T], turn: int) -> Sequence[T]:
    """Return every ``count``-th item, others at each turn; all of them in `make nightly`."""
    return items[turn % count :: count] if settings().max_examples < _WHOLE else items
