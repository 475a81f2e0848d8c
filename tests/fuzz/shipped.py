"""The rules that come with minerwatch, read once a process."""

from __future__ import annotations

from functools import cache

from minerwatch.config.schema import BUILT_IN_RULES
from minerwatch.detection.matching.matcher import Matcher
from minerwatch.detection.sigma import rulebook


@cache
def matcher() -> Matcher:
    """All of them, ready to match."""
    return Matcher(rulebook.bare(rulebook.load((BUILT_IN_RULES,))).rules)
