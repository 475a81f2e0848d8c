"""Executables that did not come with the image of their container."""

from __future__ import annotations

import math

from minerwatch.model import ProcessId
from minerwatch.node.overlay_layers import LayerAnswer
from minerwatch.probes.base import NO_FACTS, ReaderProbe


class DriftProbe(ReaderProbe[LayerAnswer]):
    """Fact: ExeNotInImage, read once of each program."""

    name = "drift"
    every_s = 60.0  # until it is answered

    def _receive(self, process: ProcessId, answer: LayerAnswer, at_s: float) -> None:
        del at_s
        is_known = answer.is_in_image is not None
        self._facts[process] = {"ExeNotInImage": not answer.is_in_image} if is_known else NO_FACTS
        self._due_s[process] = math.inf
