"""When the layers of an executable are looked up, and what becomes of the answer."""

from __future__ import annotations

from collections.abc import Hashable
from typing import cast

import pytest

from minerwatch.model import ProcessId
from minerwatch.node.overlay_layers import LayerAnswer, LayerReader
from minerwatch.probes.drift import DriftProbe
from tests.probes.suspects import always

SUSPECT = ProcessId(7, 1)


class _Reader:
    """Notes what is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[ProcessId, Hashable]] = []
        self.told: dict[ProcessId, LayerAnswer] = {}
        self.failures: dict[str, int] = {}

    def ask(self, process: ProcessId, owner: Hashable) -> bool:
        self.asked.append((process, owner))
        return True

    def answers(self) -> dict[ProcessId, LayerAnswer]:
        told, self.told = self.told, {}
        return told


def begun() -> tuple[_Reader, DriftProbe]:
    reader = _Reader()
    return reader, DriftProbe(cast("LayerReader", reader), lambda process: f"pod {process.pid}")


@pytest.mark.parametrize(
    ("answer", "facts"),
    [(True, {"ExeNotInImage": False}), (False, {"ExeNotInImage": True}), (None, {})],
)
def test_it_is_asked_once_of_each_program(answer: bool | None, facts: dict[str, bool]) -> None:
    reader, probe = begun()
    probe.examine([SUSPECT], 0.0, always)
    reader.told = {SUSPECT: LayerAnswer(is_in_image=answer)}
    for at_s in range(10, 10_000, 10):
        probe.examine([SUSPECT], float(at_s), always)
    assert reader.asked == [(SUSPECT, "pod 7")]
    assert probe.facts(SUSPECT) == facts
    probe.examine([], 10_000.0, always)  # another program, or no suspect any more
    assert probe.facts(SUSPECT) == {}
    probe.examine([SUSPECT], 10_010.0, always)
    assert len(reader.asked) == 2


def test_what_is_not_answered_is_asked_again_after_a_minute() -> None:
    reader, probe = begun()
    for at_s in range(0, 130, 10):
        probe.examine([SUSPECT], float(at_s), always)
    assert len(reader.asked) == 3
