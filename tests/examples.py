"""How many examples hypothesis tries: more in `make nightly` than in `make test`."""

from __future__ import annotations

from hypothesis import settings

_USUAL = 100  # of hypothesis, and of the profile "minerwatch"


def examples(count: int) -> int:
    """Return ``count`` times the profile's factor: 1 in `make test`, 10 in `make nightly`."""
    return count * settings().max_examples // _USUAL
