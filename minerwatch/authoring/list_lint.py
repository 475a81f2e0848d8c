"""Lint of lists: what is wrong or doubtful in ``lists/*.txt``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from minerwatch.authoring.remark import Remark, warning
from minerwatch.detection.sigma.rulebook import RuleBook
from minerwatch.detection.sigma.yaml_document import read_text
from minerwatch.errors import RuleError

_SOURCE = re.compile(r"^#\s*Sources?:\s*\S", re.MULTILINE)
_DATE = re.compile(r"^#(?:.*\s)?Date:\s*\d{4}-\d\d-\d\d\b", re.MULTILINE)
_Entry = tuple[int, str]  # the line it stands in, and what it says


def list_remarks(book: RuleBook) -> Iterator[Remark]:
    """What is doubtful in the lists of all folders, and which no rule uses."""
    used = {name for rule in book.rules for name in rule.lists}
    for folder in dict.fromkeys(book.lists.folders):
        for name in book.lists.entries:
            path = folder / f"{name}.txt"
            if path.is_file():
                yield from _remarks_on(path)
                if name not in used:
                    yield warning(path, 1, f"no rule uses this list: %{name}% with |expand does")


def _remarks_on(path: Path) -> Iterator[Remark]:
    try:
        text = read_text(path)[0]
    except RuleError:  # the book's errors say so
        return
    entries = [
        (number, line.strip())
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.strip().startswith("#")
    ]
    for line, said in (*_header_doubts(text), *_entry_doubts(entries), *_order_doubts(entries)):
        yield warning(path, line, said)


def _header_doubts(text: str) -> Iterator[tuple[int, str]]:
    if not _SOURCE.search(text):
        yield 1, "no source: write where the entries are from, '# Source: https://…'"
    if not _DATE.search(text):
        yield 1, "no date: write when they were looked up, '# Date: 2026-11-24'"


def _entry_doubts(entries: Sequence[_Entry]) -> Iterator[tuple[int, str]]:
    first_in: dict[str, int] = {}
    for line, entry in entries:
        first = first_in.setdefault(entry.lower(), line)
        if first != line:
            yield line, f"{entry[:80]!r} is also in line {first}"
        if "*" in entry:
            yield line, "entries are literal text: * stands for itself here"
        if " #" in entry:
            yield line, "a comment has a line of its own: this one is in the entry"
        if entry != entry.lower():
            yield line, f"{entry[:80]!r}: write it in lower case, as all are compared"
        if "://" in entry:
            yield line, f"{entry[:80]!r} is an address: write the host alone"


def _order_doubts(entries: Sequence[_Entry]) -> Iterator[tuple[int, str]]:
    """The first entry that is out of order; the next ones mostly are because of it."""
    for (_, before), (line, entry) in pairwise(entries):
        if _sort_key(entry) < _sort_key(before):
            yield line, f"{entry[:80]!r} stands behind {before[:80]!r}: sort the entries"
            return


def _sort_key(entry: str) -> tuple[int, str]:
    """Numbers by their size, before all texts."""
    return (int(entry), "") if entry.isdecimal() and len(entry) <= 9 else (1 << 31, entry.lower())
