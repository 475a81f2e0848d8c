"""The rules that come with minerwatch, read and compiled once a process: both never change."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

from minerwatch.config.schema import BUILT_IN_RULES
from minerwatch.detection.matching.matcher import Matcher
from minerwatch.detection.sigma import rulebook
from minerwatch.detection.sigma.rulebook import RuleBook


@cache
def book() -> RuleBook:
    """All of them, as they are read from their files."""
    return rulebook.load((BUILT_IN_RULES,))


def with_folder(folder: Path) -> RuleBook:
    """All of them, and those in a folder on top: only these are read."""
    return rulebook.reload(replace(book(), folders=(BUILT_IN_RULES, folder)))


@cache
def matcher() -> Matcher:
    """All of them, ready to match."""
    return Matcher(book().rules)
