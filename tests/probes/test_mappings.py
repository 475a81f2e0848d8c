from __future__ import annotations

from collections.abc import Hashable

from minerwatch.model import ProcessId
from minerwatch.node.memory_maps import MappingReader
from minerwatch.probes.base import no_owner
from minerwatch.probes.mappings import MappingsProbe
from tests.probes.suspects import always, me
from tests.waiting import until


def test_mappings_come_when_they_come() -> None:
    probe = MappingsProbe(MappingReader(), no_owner)
    at_s = 100.0
    probe.examine([me()], at_s, always)

    def has_come() -> bool:
        probe.examine([me()], at_s, always)
        return bool(probe.facts(me()))

    until(has_come)
    found = probe.facts(me()).keys() - {"GpuLibraries"}  # other tests here load a library of GPUs
    assert found == {"JitMiB", "LargestAnonymousMiB", "LargestFileMiB"}
    probe.close()


class _Refusing(MappingReader):
    """Refuse the first question, then accept."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[ProcessId, Hashable]] = []

    def ask(self, process: ProcessId, owner: Hashable = None) -> bool:
        self.asked.append((process, owner))
        return len(self.asked) > 1


def test_what_was_refused_is_asked_again_at_the_next_look() -> None:
    reader = _Refusing()
    probe = MappingsProbe(reader, lambda process: f"pod {process.pid}")
    for at_s in (100.0, 110.0, 120.0, 169.0, 170.0):
        probe.examine([me()], at_s, always)
    assert reader.asked == [(me(), f"pod {me().pid}")] * 3
    probe.close()
