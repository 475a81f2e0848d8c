"""Executables that did not come with the image of their container."""

from __future__ import annotations

import math

from minerwatch.model import ProcessId
from minerwatch.probes.base import NO_FACTS, ReaderProbe


class Drift(ReaderProbe[bool | None]):
    """Fact: ExeNotInImage, read once of each program."""

    name = "drift"
    every_s = 60.0  # until it is answered

    def _take(self, process: ProcessId, answer: bool | None, at_s: float) -> None:  # noqa: FBT001
        del at_s
        self._facts[process] = NO_FACTS if answer is None else {"ExeNotInImage": not answer}
        self._due_s[process] = math.inf
