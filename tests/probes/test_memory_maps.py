from __future__ import annotations

from collections.abc import Hashable

import pytest

from minerwatch.model import ProcessId
from minerwatch.probes.memory_maps import MemoryMappings
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
    assert probe.facts(me()).keys() == {"JitMiB", "LargestAnonymousMiB", "LargestFileMiB"}
    probe.close()


def test_what_was_refused_is_asked_again_at_the_next_look(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = MemoryMappings("/proc", lambda process: f"pod {process.pid}")
    asked: list[tuple[ProcessId, Hashable]] = []
    answers = iter([False, True, True])

    def ask(process: ProcessId, owner: Hashable) -> bool:
        asked.append((process, owner))
        return next(answers)

    monkeypatch.setattr(probe._reader, "ask", ask)
    for at_s in (100.0, 110.0, 120.0, 169.0, 170.0):
        probe.look([me()], at_s, always)
    assert asked == [(me(), f"pod {me().pid}")] * 3
    probe.close()
