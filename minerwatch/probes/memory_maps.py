"""What suspects keep in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from minerwatch.detection.facts import measured
from minerwatch.model import Facts, ProcessId
from minerwatch.node.memory_maps import MappingReader
from minerwatch.probes.base import NO_FACTS, IsTimeLeft, OwnerOf, kept, no_owner

_MAPPINGS_EVERY_S = 60.0


class MemoryMappings:
    """What suspects keep in memory."""

    name = "mappings"
    looks_early = False

    def __init__(self, proc: str, owner_of: OwnerOf = no_owner) -> None:
        self._reader = MappingReader(proc)
        self._owner_of = owner_of
        self._asked_s: dict[ProcessId, float] = {}
        self._facts: dict[ProcessId, Facts] = {}

    @property
    def failures(self) -> Mapping[str, int]:
        """As MappingReader counts them."""
        return self._reader.failures

    def look(self, suspects: Sequence[ProcessId], at_s: float, is_time_left: IsTimeLeft) -> None:
        """Takes the answers that have come, and asks again where the last one is old."""
        answers = self._reader.answers()
        self._asked_s = kept(self._asked_s, suspects, float("-inf"))
        self._facts = kept(self._facts, suspects, NO_FACTS)
        for process in suspects:
            if process in answers:
                mappings = answers[process]
                self._facts[process] = measured(
                    JitMiB=mappings.jit_mib,
                    LargestAnonymousMiB=mappings.largest_anonymous_mib,
                    LargestFileMiB=mappings.largest_file_mib,
                )
            is_due = at_s - self._asked_s[process] >= _MAPPINGS_EVERY_S
            if is_due and is_time_left() and self._reader.ask(process, self._owner_of(process)):
                self._asked_s[process] = at_s

    def facts(self, process: ProcessId) -> Facts:
        """JitMiB, LargestAnonymousMiB, LargestFileMiB."""
        return self._facts.get(process, NO_FACTS)

    def close(self) -> None:
        """Ends the reader's thread."""
        self._reader.close()
