from __future__ import annotations

from collections.abc import Hashable
from typing import cast

from minerwatch.model import ProcessId
from minerwatch.node.yara_scan import ContentReader
from minerwatch.probes.content import ContentProbe
from tests.probes.suspects import always

MINER, DECOY = ProcessId(1, 1), ProcessId(2, 1)


class _Reader:
    """Notes what is asked; refuses while it is full."""

    def __init__(self) -> None:
        self.asked: list[tuple[ProcessId, Hashable]] = []
        self.told: dict[ProcessId, tuple[str, ...] | None] = {}
        self.is_full = False
        self.failures: dict[str, int] = {}

    def ask(self, process: ProcessId, owner: Hashable) -> bool:
        self.asked.append((process, owner))
        return not self.is_full

    def answers(self) -> dict[ProcessId, tuple[str, ...] | None]:
        told, self.told = self.told, {}
        return told

    def asked_at(self, probe: ContentProbe, at_s: float) -> list[ProcessId]:
        self.asked.clear()
        probe.examine([MINER], at_s, always)
        return [process for process, _ in self.asked]


def begun() -> tuple[_Reader, ContentProbe]:
    reader = _Reader()
    return reader, ContentProbe(cast("ContentReader", reader), lambda process: f"pod {process.pid}")


def test_each_is_asked_for_its_owner() -> None:
    reader, probe = begun()
    probe.examine([DECOY, MINER], 0.0, always)
    assert reader.asked == [(DECOY, "pod 2"), (MINER, "pod 1")]


def test_what_was_refused_is_asked_again_at_the_next_look() -> None:
    reader, probe = begun()
    reader.is_full = True
    assert reader.asked_at(probe, 0.0) == [MINER]
    assert reader.asked_at(probe, 10.0) == [MINER]


def test_what_could_not_be_scanned_is_asked_again_soon() -> None:
    reader, probe = begun()
    reader.asked_at(probe, 0.0)
    reader.told = {MINER: None}
    assert reader.asked_at(probe, 10.0) == []
    assert reader.asked_at(probe, 60.0) == []
    assert reader.asked_at(probe, 80.0) == [MINER]
    assert probe.facts(MINER) == {}


def test_what_was_scanned_is_scanned_again_ever_more_rarely() -> None:
    reader, probe = begun()
    at_s, pauses = 0.0, []
    for _ in range(8):
        assert reader.asked_at(probe, at_s) == [MINER]
        reader.told = {MINER: ("RandomX_Code",)}
        assert reader.asked_at(probe, at_s) == []
        assert probe.facts(MINER) == {"ContentMatches": ("RandomX_Code",)}
        pause_s = 0.0
        while not reader.asked_at(probe, at_s + pause_s):
            pause_s += 100.0
        pauses.append(pause_s)
        at_s += pause_s
    assert pauses == [600, 1200, 2400, 4800, 9600, 14400, 14400, 14400]


def test_others_are_forgotten() -> None:
    reader, probe = begun()
    probe.examine([MINER], 0.0, always)
    reader.told = {MINER: ("RandomX_Code",)}
    probe.examine([MINER], 10.0, always)
    probe.examine([], 20.0, always)
    assert probe.facts(MINER) == {}
    assert reader.asked_at(probe, 30.0) == [MINER]
