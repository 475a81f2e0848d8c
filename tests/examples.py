"""How many examples are tried: more in `make nightly` than in `make test`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from hypothesis import settings

T = TypeVar("T")

_USUAL = 50  # of the profile "minerwatch"


def examples(count: int) -> int:
    """Return ``count`` times the profile's factor: 1 in `make test`, 10 in `make nightly`."""
    return count * settings().max_examples // _USUAL


def one_in(count: int, items: Sequence[T], turn: int) -> Sequence[T]:
    """Return every ``count``-th item, others at each turn; all of them in `make nightly`."""
    return items[turn % count :: count] if examples(1) == 1 else items
