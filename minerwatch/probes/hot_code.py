"""Looks at the code that runs hot, in containers and processes that hash, mix or convert pairs.

Other programs cost nothing. The addresses of a look are gathered for some seconds, then one process
is looked at; again after a minute of CPU time. The names found belong to it and to its container.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from minerwatch.model import ContainerKey, Facts, FactValue, ProcessId
from minerwatch.node.hot_code import MAX_ADDRESSES, HotCodeFindings
from minerwatch.probes.base import NO_FACTS
from minerwatch.probes.code_schedule import Place, Spots

MIN_SHARE = 0.06
"""Share of samples that hash, or of instructions that mix, from which on code is looked at."""
MIN_SAMPLES = 40
_FEW_SAMPLES = 12
"""Samples that suffice once _MAX_GATHERING_S have passed."""
_MAX_GATHERING_S = 20.0
_CPU_S_BETWEEN = 60.0
_PAUSE_S = 60.0
_MAX_PAUSE_S = 600.0
"""The pause doubles with each look: many threads use a minute of CPU time in a second."""
_KEPT_LOOKS = 3
_MAX_SUBJECTS = 256
_MAX_KNOWN = 512
_MAX_PROCESSES = 16
"""Of one container, whose addresses are gathered."""

Subject = ContainerKey | ProcessId
NO_TIDS: Mapping[int, int] = MappingProxyType({})

FIELDS = ("ContentInHotCode", "CodeFingerprints", "ForeignCodeFingerprints")
"""The facts, in the order of HotCodeFindings."""


class Reader(Protocol):
    """A source that looks at processes in a thread of its own."""

    failures: dict[str, int]

    def ask(
        self, process: ProcessId, owner: Hashable, addresses: Mapping[int, int], tid: int
    ) -> bool:
        """Queue a look; False: refused, ask again later. ``tid``: a thread that ran, or 0."""

    def answers(self) -> Mapping[ProcessId, HotCodeFindings | None]:
        """Return the answers since the last call; never wait."""

    def use(self, rule_files: Sequence[Path]) -> None:
        """Put other rules in force."""

    def close(self) -> None:
        """End the thread."""


@dataclass(slots=True)
class _Gathering:
    """Addresses of a container or process, until it is looked at."""

    container: ContainerKey
    cpu_s: float = _CPU_S_BETWEEN  # since the last look
    not_before_s: float = 0.0
    pause_s: float = _PAUSE_S
    began_s: float | None = None
    addresses: dict[ProcessId, Counter[int]] = field(default_factory=dict)
    owner: Hashable = None

    def add(self, place: Place, spots: Spots, now_s: float) -> None:
        if not spots or self.cpu_s < _CPU_S_BETWEEN or now_s < self.not_before_s:
            return
        process, self.owner = place.process, place.owner
        self.began_s = now_s if self.began_s is None else self.began_s
        if process not in self.addresses and len(self.addresses) >= _MAX_PROCESSES:
            return
        counts = self.addresses.setdefault(process, Counter())
        for address, _ in spots:
            if address in counts or len(counts) < 2 * MAX_ADDRESSES:
                counts[address] += 1

    def chosen(self, now_s: float) -> tuple[ProcessId, Counter[int]] | None:
        """Return the process to look at now: the one with most samples; None: not enough yet."""
        if self.began_s is None or not self.addresses:
            return None
        process, counts = max(self.addresses.items(), key=lambda each: each[1].total())
        is_late = now_s - self.began_s >= _MAX_GATHERING_S
        if counts.total() >= (_FEW_SAMPLES if is_late else MIN_SAMPLES):
            return process, counts
        if is_late:  # short-lived processes: begin with those that run now
            self.began_s, self.addresses = None, {}
        return None

    def restart(self, now_s: float) -> None:
        """Wait for as long as it takes until the next look."""
        self.cpu_s, self.began_s, self.addresses = 0.0, None, {}
        self.not_before_s = now_s + self.pause_s
        self.pause_s = min(2 * self.pause_s, _MAX_PAUSE_S)


@dataclass(slots=True)
class _Known:
    """Findings of the last looks at a container or process."""

    container: ContainerKey
    looks: int = 0
    found: dict[tuple[str, str], int] = field(default_factory=dict)
    """Field and value -> the number of the last look that found it."""

    def add(self, findings: HotCodeFindings) -> None:
        self.looks += 1
        for name, values in zip(FIELDS, findings, strict=True):
            self.found |= {(name, value): self.looks for value in values}
        self.found = {
            each: look for each, look in self.found.items() if look > self.looks - _KEPT_LOOKS
        }

    def facts(self) -> Facts:
        values: dict[str, list[str]] = {}
        for name, value in sorted(self.found):
            values.setdefault(name, []).append(value)
        facts: dict[str, FactValue] = {name: tuple(each) for name, each in values.items()}
        return facts


class HotCode:
    """Facts: ContentInHotCode, CodeFingerprints, ForeignCodeFingerprints."""

    def __init__(self, reader: Reader) -> None:
        self.failures = reader.failures
        self._reader = reader
        self._lock = threading.Lock()
        self._gathering: OrderedDict[Subject, _Gathering] = OrderedDict()
        self._known: OrderedDict[Subject, _Known] = OrderedDict()
        self._asked: dict[ProcessId, ContainerKey] = {}

    def facts(self, subject: Subject) -> Facts:
        """Return the facts about a container or process."""
        with self._lock:
            known = self._known.get(subject)
            return known.facts() if known is not None else NO_FACTS

    def use(self, rules: Sequence[Path]) -> None:
        """Look again, by other rules."""
        self._reader.use(rules)
        with self._lock:
            for gathering in self._gathering.values():
                gathering.cpu_s, gathering.not_before_s = _CPU_S_BETWEEN, 0.0

    def consider(
        self,
        subject: Subject,
        container: ContainerKey,
        facts: Facts,
        *,
        converts_pairs: bool = False,
    ) -> None:
        """Look at a container or process for as long as it hashes, mixes or converts pairs.

        RandomX without generated code may do too little of the first two (gcc -O2: 0 and 4 %).
        """
        shares = (facts.get("HashCodeShare"), facts.get("MixingCodeShare"))
        is_wanted = converts_pairs or any(
            isinstance(each, float) and each >= MIN_SHARE for each in shares
        )
        with self._lock:
            before = self._gathering.pop(subject, None)
            if is_wanted:
                self._gathering[subject] = before or _Gathering(container)
                if len(self._gathering) > _MAX_SUBJECTS:
                    self._gathering.popitem(last=False)

    def take(
        self,
        by_place: Mapping[Place, Spots],
        period_s: float,
        now_s: float,
        tids: Mapping[int, int] = NO_TIDS,
    ) -> set[ContainerKey]:
        """Gather addresses, each for ``period_s`` of CPU time, and ask.

        Return the containers with a new answer. ``tids``: by PID, a thread that ran lately.
        """
        with self._lock:
            answered = self._receive_answers()
            if not self._gathering:
                return answered
            for place, spots in by_place.items():
                gathering = self._gathering.get(place.container) or self._gathering.get(
                    place.process
                )
                if gathering is not None:
                    gathering.cpu_s += period_s * len(spots)
                    gathering.add(place, spots, now_s)
            for gathering in self._gathering.values():
                self._ask(gathering, now_s, tids)
        return answered

    def end_tick(self, containers: Collection[ContainerKey]) -> None:
        """Forget all but these containers."""
        with self._lock:
            for states in (self._gathering, self._known):
                gone = [key for key, each in states.items() if each.container not in containers]
                for key in gone:
                    del states[key]

    def close(self) -> None:
        """End the reader's thread."""
        self._reader.close()

    def _ask(self, gathering: _Gathering, now_s: float, tids: Mapping[int, int]) -> None:
        chosen = gathering.chosen(now_s)
        if chosen is None:
            return
        process, addresses = chosen
        tid = tids.get(process.pid, 0)
        if self._reader.ask(process, gathering.owner, addresses, tid):
            self._asked[process] = gathering.container
            gathering.restart(now_s)

    def _receive_answers(self) -> set[ContainerKey]:
        answered = set()
        for process, findings in self._reader.answers().items():
            container = self._asked.pop(process, None)
            if container is None or findings is None:
                continue
            answered.add(container)
            for subject in (process, container):
                known = self._known.pop(subject, None) or _Known(container)
                known.add(findings)
                self._known[subject] = known
                if len(self._known) > _MAX_KNOWN:
                    self._known.popitem(last=False)
        return answered
