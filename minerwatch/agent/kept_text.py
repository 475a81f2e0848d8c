"""Bounds on the text that is kept of each process: tenants choose it, and its length."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import fields, replace

from minerwatch.agent.tracked import TrackedProcess
from minerwatch.detection.matching.matcher import Match
from minerwatch.model import Evidence, Process
from minerwatch.text_budget import both_ends, size_of, water_level

_TEXT_FIELDS = tuple(
    each.name for each in fields(Process) if each.type in ("str", "tuple[str, ...]")
)
_BOUNDED_FIELDS = tuple(name for name in _TEXT_FIELDS if name not in ("comm", "user"))
"""The kernel bounds comm to 15 bytes; user names are the node's own."""
_MAX_PARENT_BYTES = 4 << 10
_MAX_EVIDENCE_BYTES = 32 << 10
_MAX_OBSERVED_BYTES = 1024  # an excerpt of 200 characters of any width
_EVIDENCE_HEADER_BYTES = 80  # of the object, and of its pointer in a tuple
_MATCH_BYTES = 300  # of a match, its sighting, and the judge's state of it


def bound_text(process: TrackedProcess, parent: Process | None) -> None:
    """Bound what a matched process keeps of its parent and its evidence; count all its text."""
    process.parent = _shortened(parent, _MAX_PARENT_BYTES) if parent is not None else None
    process.matches = _with_less_evidence(process.matches, _MAX_EVIDENCE_BYTES)
    _count_text(process)


def shorten_texts(processes: Iterable[TrackedProcess], max_bytes: int) -> int:
    """Shorten the longest texts until all fit in ``max_bytes``; return how many were shortened."""
    known = list(processes)
    level = water_level((each.text_bytes + each.facts_bytes for each in known), max_bytes)
    count = 0
    for each in known:
        if each.text_bytes + each.facts_bytes > level:
            _shorten(each, level)
            count += 1
    return count


def _count_text(process: TrackedProcess) -> None:
    process.text_bytes = (
        _text_bytes(process.process)
        + (_text_bytes(process.parent) if process.parent is not None else 0)
        + len(process.matches) * _MATCH_BYTES
        + sum(_evidence_bytes(each) for match in process.matches for each in match.evidence)
    )


def _shorten(process: TrackedProcess, max_bytes: int) -> None:
    process.process = _shortened(process.process, max_bytes // 2)
    if process.parent is not None:
        process.parent = _shortened(process.parent, max_bytes // 4)
    matches = _deciding(process.matches, max_bytes // 4 // _MATCH_BYTES)
    process.matches = _with_less_evidence(matches, max_bytes // 4)
    process.facts, process.facts_bytes = None, 0
    process.is_shortened = True
    _count_text(process)


def _text_bytes(process: Process) -> int:
    return sum(size_of(getattr(process, name)) for name in _TEXT_FIELDS)


def _shortened(process: Process, max_bytes: int) -> Process:
    """Return the process with both ends of its texts, the longest cut first."""
    if _text_bytes(process) <= max_bytes:
        return process
    sizes = {name: size_of(getattr(process, name)) for name in _BOUNDED_FIELDS}
    level = water_level(sizes.values(), max_bytes)
    shorter = {
        name: both_ends(getattr(process, name), level)
        for name, size in sizes.items()
        if size > level
    }
    return replace(process, **shorter) if shorter else process


def _deciding(matches: tuple[Match, ...], count: int) -> tuple[Match, ...]:
    """Return at most ``count`` matches in their order, and at least those that decide.

    A score rests on the best match of each signal, an action on the best of stable rules.
    """
    if len(matches) <= count:
        return matches
    ranked = sorted(matches, key=lambda match: -match.rule.score)
    best = {(match.rule.signal, match.rule.maturity): match for match in reversed(ranked)}
    kept = {id(match) for match in [*best.values(), *ranked][: max(count, len(best))]}
    return tuple(match for match in matches if id(match) in kept)


def _with_less_evidence(matches: tuple[Match, ...], max_bytes: int) -> tuple[Match, ...]:
    """Return all matches, with the first pieces of their evidence that fit."""
    if sum(len(match.evidence) for match in matches) * _MAX_OBSERVED_BYTES <= max_bytes:
        return matches
    kept: list[Match] = []
    for match in matches:
        count = 0
        for evidence in match.evidence:
            max_bytes -= _evidence_bytes(evidence)
            if max_bytes < 0:
                break
            count += 1
        is_whole = count == len(match.evidence)
        kept.append(match if is_whole else replace(match, evidence=match.evidence[:count]))
    return tuple(kept)


def _evidence_bytes(evidence: Evidence) -> int:
    return _EVIDENCE_HEADER_BYTES + sys.getsizeof(evidence.observed)
