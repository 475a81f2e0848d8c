from __future__ import annotations

from minerwatch.probes.mappings import MemoryMappings
from tests.probes.suspects import always, me
from tests.waiting import until


def test_mappings_come_when_they_come() -> None:
    probe = MemoryMappings("/proc")
    at_s = 100.0
    probe.look([me()], at_s, always)

    def has_come() -> bool:
        probe.look([me()], at_s, always)
        return bool(probe.facts(me()))

    until(has_come)
    assert probe.facts(me()).keys() == {"JitMiB", "LargestAnonymousMiB"}
    probe.close()
