"""Content of the code of suspects: their programs, libraries, generated code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from minerwatch.model import Facts, ProcessId
from minerwatch.node.yara_scan import ContentReader
from minerwatch.probes.base import NO_FACTS, IsTimeLeft, OwnerOf, kept, no_owner

_FIRST_CONTENT_PAUSE_S = 600.0
_LAST_CONTENT_PAUSE_S = 4 * 3600.0
"""The longer a process is known, the rarer it is scanned again."""
_RETRY_PAUSE_S = 60.0


class Content:
    """Finds what the code of suspects holds."""

    name = "content"
    looks_early = False

    def __init__(self, reader: ContentReader, owner_of: OwnerOf = no_owner) -> None:
        self._reader = reader
        self._owner_of = owner_of
        self._pause_s: dict[ProcessId, float] = {}
        self._due_s: dict[ProcessId, float] = {}
        self._facts: dict[ProcessId, Facts] = {}

    @property
    def failures(self) -> Mapping[str, int]:
        """As ContentReader counts them."""
        return self._reader.failures

    def use(self, rules: Sequence[Path]) -> None:
        """Scans again, by other rules."""
        self._reader.use(rules)
        self._due_s.clear()

    def look(self, suspects: Sequence[ProcessId], at_s: float, is_time_left: IsTimeLeft) -> None:
        """Takes the answers that have come, and asks again where the last one is old."""
        del is_time_left  # nothing is read here
        answers = self._reader.answers()
        first_s = _FIRST_CONTENT_PAUSE_S
        self._due_s = kept(self._due_s, suspects, at_s)
        self._pause_s = kept(self._pause_s, suspects, first_s)
        self._facts = kept(self._facts, suspects, NO_FACTS)
        for process in suspects:
            if process in answers:
                self._take_note(process, answers[process], at_s)
            elif at_s >= self._due_s[process]:
                self._reader.ask(process, self._owner_of(process))  # until it is answered

    def facts(self, process: ProcessId) -> Facts:
        """ContentMatches."""
        return self._facts.get(process, NO_FACTS)

    def close(self) -> None:
        """Ends the scanner."""
        self._reader.close()

    def _take_note(self, process: ProcessId, names: tuple[str, ...] | None, at_s: float) -> None:
        if names is None:
            self._due_s[process] = at_s + _RETRY_PAUSE_S
            return
        self._facts[process] = {"ContentMatches": names} if names else NO_FACTS
        self._due_s[process] = at_s + self._pause_s[process]
        self._pause_s[process] = min(2 * self._pause_s[process], _LAST_CONTENT_PAUSE_S)
