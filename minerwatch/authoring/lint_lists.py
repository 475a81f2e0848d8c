"""Lint of lists, ``lists/*.txt``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from minerwatch.authoring.diagnostic import Diagnostic, Problems, warning
from minerwatch.detection.sigma.rulebook import RuleBook
from minerwatch.detection.sigma.yaml_document import read_text
from minerwatch.errors import RuleError

_SOURCE = re.compile(r"^#\s*Sources?:\s*\S", re.MULTILINE)
_DATE = re.compile(r"^#(?:.*\s)?Date:\s*\d{4}-\d\d-\d\d\b", re.MULTILINE)
_Entry = tuple[int, str]  # with its line


def list_diagnostics(book: RuleBook) -> Iterator[Diagnostic]:
    """Warn of errors in lists, and of lists that no rule uses."""
    used = {name for rule in book.rules for name in rule.lists}
    used.update(name for each in book.filters for name in each.lists)
    for folder in dict.fromkeys(book.lists.folders):
        for name in book.lists.entries:
            path = folder / f"{name}.txt"
            if path.is_file():
                yield from _diagnostics_of(path)
                if name not in used:
                    yield warning(path, 1, f"no rule uses %{name}% with |expand")


def _diagnostics_of(path: Path) -> Iterator[Diagnostic]:
    try:
        text = read_text(path)[0]
    except RuleError:  # reported when the list was loaded
        return
    entries = [
        (number, line.strip())
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.strip().startswith("#")
    ]
    for line, problem in (*_check_header(text), *_check_entries(entries), *_check_order(entries)):
        yield warning(path, line, problem)


def _check_header(text: str) -> Problems:
    if not _SOURCE.search(text):
        yield 1, "no source: add '# Source: https://…'"
    if not _DATE.search(text):
        yield 1, "no date: add the day when the source was read, '# Date: 2026-11-24'"


def _check_entries(entries: Sequence[_Entry]) -> Problems:
    first_in: dict[str, int] = {}
    for line, entry in entries:
        first = first_in.setdefault(entry.lower(), line)
        if first != line:
            yield line, f"{entry[:80]!r} is also in line {first}"
        if "*" in entry:
            yield line, "* is literal in a list: write the text itself"
        if " #" in entry:
            yield line, "the comment is part of the entry: give it its own line"
        if entry != entry.lower():
            yield line, f"{entry[:80]!r} has capital letters: write lower case"
        if "://" in entry:
            yield line, f"{entry[:80]!r} is a URL: write the host only"


def _check_order(entries: Sequence[_Entry]) -> Problems:
    """Warn of the first entry that is out of order: it mostly causes the others."""
    for (_, before), (line, entry) in pairwise(entries):
        if _sort_key(entry) < _sort_key(before):
            yield line, f"{entry[:80]!r} follows {before[:80]!r}: sort the entries"
            return


def _sort_key(entry: str) -> tuple[int, str]:
    """Sort numbers by value, before texts."""
    return (int(entry), "") if entry.isdecimal() and len(entry) <= 9 else (1 << 31, entry.lower())
