"""Content of the code of suspects: their programs, libraries, generated code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from minerwatch.model import ProcessId
from minerwatch.node.yara_scan import ContentReader
from minerwatch.probes.base import NO_FACTS, IsTimeLeft, OwnerOf, ReaderProbe, kept, no_owner

_FIRST_PAUSE_S = 600.0
_MAX_PAUSE_S = 4 * 3600.0
"""The pause doubles with each scan of a process."""
_RETRY_PAUSE_S = 60.0


class ContentProbe(ReaderProbe[tuple[str, ...] | None]):
    """Fact: ContentMatches."""

    name = "content"
    every_s = 0.0  # ask until it is answered

    def __init__(self, reader: ContentReader, owner_of: OwnerOf = no_owner) -> None:
        super().__init__(reader, owner_of)
        self._reader: ContentReader
        self._pause_s: dict[ProcessId, float] = {}

    def use(self, rules: Sequence[Path]) -> None:
        """Scan again by other rules."""
        self._reader.use(rules)
        self._due_s.clear()

    def _examine_due(
        self, suspects: Sequence[ProcessId], at_s: float, is_time_left: IsTimeLeft
    ) -> None:
        self._pause_s = kept(self._pause_s, suspects, _FIRST_PAUSE_S)
        super()._examine_due(suspects, at_s, is_time_left)

    def _receive(self, process: ProcessId, answer: tuple[str, ...] | None, at_s: float) -> None:
        if answer is None:
            self._due_s[process] = at_s + _RETRY_PAUSE_S
            self._earned.add(process)
            return
        self._facts[process] = {"ContentMatches": answer} if answer else NO_FACTS
        self._due_s[process] = at_s + self._pause_s[process]
        self._pause_s[process] = min(2 * self._pause_s[process], _MAX_PAUSE_S)
