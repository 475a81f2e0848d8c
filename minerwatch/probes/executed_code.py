"""Samples of what all CPUs execute, classified in a child, by process and container.

A thread reads the samples every second or two, and ten times a second for a while where processes
exit before that. Samples of processes that are not known yet are classified at once, because
short-lived ones are soon gone; of known ones those of some seconds, from time to time, together,
and when most are in other pages than before.
Containers take turns. Where the code was not copied while it was executed, it is read from the
process, or if that has exited, from another one of its container, which may have the same code.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec

from minerwatch.detection.executed_code import CLASSES, INSTRUCTIONS, CodeTally
from minerwatch.model import CodeSamples, ContainerKey, Facts, ProcessId
from minerwatch.node.guarded_child import CHILDREN, GuardedProgram
from minerwatch.probes.base import NO_FACTS
from minerwatch.probes.code_places import Locator, Placing
from minerwatch.probes.code_schedule import (
    Avoided,
    Bounds,
    HotPages,
    Pace,
    Place,
    Rounds,
    Spot,
    Spots,
)
from minerwatch.probes.hot_code import HotCode
from minerwatch.worker import Worker

_IDLE_S = 10.0
"""The child's life without questions: it starts in 0.03 s of CPU time, and keeps 25 MiB."""
_KNOWN_SAMPLES = 200
"""With so many, a process is classified again only in rounds."""
_MAX_PROCESSES_OF_ONE = 64
_MAX_PROCESSES = 4096
_START_S = 10.0  # on a starved node
_ANSWER_S = 2.0
_STALL_S = 1.0
_MAX_TAKE_S = 4.0
"""For the questions about one read: several owners may each make the child hang."""
_MAX_COUNT = 1 << 20
_MAX_PAGE_NAME = 64
_NO_PROCESS = ProcessId(0, 0)
"""In place of a process that is not read for a while: only its copies are classified."""

_FAILURES = ("unplaced", "gone", "unread", "left", "costly", "too_large", "timeout", "child")

PROGRAM = CHILDREN / "code_classifier.py"


class Sampler(Protocol):
    """A source of samples."""

    failures: dict[str, int]
    copies_code: bool
    read_every_s: float

    @property
    def read_calmly_every_s(self) -> float:
        """The pause while no process starts or exits."""

    def read(self) -> CodeSamples:
        """Return the samples since the last call."""

    def close(self) -> None:
        """End sampling."""


class CodeAnswer(msgspec.Struct):
    """One line of the child, not trusted."""

    samples: int = 0
    unread: int = 0
    of_unknown_origin: int = 0
    hidden: int = 0
    hashing: int = 0
    anonymous: int = 0
    pairs: int = 0
    classes: list[int] = []
    pages: dict[str, int] = {}
    io_bytes: int | None = None
    cpu_s: float = 0.0
    kernel_s: float = 0.0
    file_mib: float = 0.0
    is_cut: int = 0
    took_s: float = 0.0

    def checked(self, sent: int) -> CodeAnswer:
        """Return itself if the counts can be those of ``sent`` samples, or raise ValueError."""
        parts = (self.hashing, self.anonymous)
        others = (self.unread, self.of_unknown_origin, self.hidden, self.pairs)
        counts = (self.samples, *others, *parts, *self.classes)
        most = max(*parts, sum(self.classes) / INSTRUCTIONS)
        decoded = self.samples + self.of_unknown_origin
        is_sound = (
            decoded + self.unread == sent
            and self.pairs <= decoded
            and self.hidden <= self.unread
            and len(self.classes) in ({len(CLASSES)} if decoded else {0, len(CLASSES)})
            and all(0 <= each <= _MAX_COUNT for each in (*counts, *self.pages.values()))
            and most <= self.samples
            and sum(self.pages.values()) <= self.samples
            and all(len(each) <= _MAX_PAGE_NAME for each in self.pages)
        )
        if not is_sound:
            raise ValueError("impossible counts")
        return self

    def add_to(self, tally: CodeTally) -> None:
        """Add the counts to those of a process or container."""
        parts = (self.hashing, self.anonymous, self.pairs)
        tally.add_hidden(self.hidden)
        if self.samples or self.of_unknown_origin:
            unknown = self.of_unknown_origin
            tally.add(self.samples, *parts, self.classes, self.pages, of_unknown_origin=unknown)
            tally.add_file(self.samples, self.file_mib)


class _Question(msgspec.Struct, array_like=True):
    pid: int
    start_ticks: int
    is_relative: int
    tid: int
    spots: list[tuple[int, int, bytes]]
    """Address, samples, code if it was copied."""


@dataclass(slots=True)
class _Known:
    """The tally of one process or container."""

    tally: CodeTally = field(default_factory=CodeTally)
    pages: HotPages = field(default_factory=HotPages)  # of a process
    io_bytes: int = 0  # of the process, at the last answer
    cpu_s: float = 0.0
    kernel_s: float = 0.0


class ExecutedCode:
    """Facts: HashCodeShare, FloatCodeShare and others, of processes and of whole containers.

    ``failures`` returns counts since the start: those of the sampler, ``unplaced`` (samples of no
    known container), ``gone`` (samples of processes that have exited, whose code no other process
    of the container can show), ``unread`` (code that could not be read), ``left`` (samples beyond
    the bounds of a second), ``costly`` (owners left alone for a while, because their code takes
    too long to read), ``too_large`` (lists of mappings that were not read to their end),
    ``timeout`` and ``child``.
    """

    def __init__(
        self,
        sampler: Sampler,
        locator: Locator,
        *,
        program: GuardedProgram | None = None,
        hot: HotCode | None = None,
        pace: Pace | None = None,
    ) -> None:
        """``locator`` is called in the thread."""
        self._failures = dict.fromkeys(_FAILURES, 0)
        self._sampler = sampler
        self._placing = Placing(locator, self._failures)
        self._pace = pace or Pace()
        self._program = program or GuardedProgram(PROGRAM, "/proc", needs_packages=True)
        self._hot = hot
        self._lock = threading.Lock()
        self._processes: OrderedDict[ProcessId, tuple[Place, _Known]] = OrderedDict()
        self._containers: dict[ContainerKey, _Known] = {}
        self._news: set[ContainerKey] = set()
        self._avoided = Avoided()
        self._bounds, self._rounds, self._of_changed = Bounds(), Rounds(), Rounds((0.0, 0.0))
        self._asked_s = 0.0
        self._closing = threading.Event()
        self._thread = Worker("executed_code", self._serve).start()

    def facts(self, of: ProcessId | ContainerKey) -> Facts:
        """Return the facts about a process, or about all that ran in a container."""
        with self._lock:
            known = self._known(of)
            facts = known.tally.facts() if known is not None else NO_FACTS
            if facts and known is not None and isinstance(of, ContainerKey):
                facts = {**facts, "LargestFileMiB": known.tally.file_mib}
        return {**facts, **self._hot.facts(of)} if facts and self._hot else facts

    def use_content_rules(self, rules: Sequence[Path]) -> None:
        """Put other YARA rules in force."""
        if self._hot is not None:
            self._hot.use(rules)

    def samples_of(self, of: ProcessId | ContainerKey) -> float:
        """Return the number of samples that the facts rest on."""
        with self._lock:
            known = self._known(of)
            return known.tally.samples if known is not None else 0.0

    def _known(self, of: ProcessId | ContainerKey) -> _Known | None:
        if isinstance(of, ContainerKey):
            return self._containers.get(of)
        found = self._processes.get(of)
        return found[1] if found is not None else None

    def take_news(self, container: ContainerKey) -> bool:
        """Return True, once, if facts about the container or its processes have changed."""
        with self._lock:
            has_news = container in self._news
            self._news.discard(container)
            return has_news

    def end_tick(self, containers: Collection[ContainerKey]) -> None:
        """Forget all but these containers, and where processes run."""
        with self._lock:
            for key in self._containers.keys() - containers:
                del self._containers[key]
            self._news.intersection_update(containers)
            of = self._processes
            gone = [each for each, (at, _) in of.items() if at.container not in containers]
            for process in gone:
                del self._processes[process]
        self._placing.end_tick()
        if self._hot is not None:
            self._hot.end_tick(containers)

    def failures(self) -> Iterator[tuple[str, int]]:
        """Yield the failures of the sampler and of the classification: reason, count."""
        yield from self._sampler.failures.items()
        yield from self._failures.items()
        if self._hot is not None:
            yield from ((f"hot {reason}", count) for reason, count in self._hot.failures.items())

    def close(self) -> None:
        """End thread and child; do not wait for either if it hangs."""
        self._closing.set()
        self._thread.close()
        self._program.kill()
        self._thread.join(_ANSWER_S)
        if self._hot is not None:
            self._hot.close()
        self._sampler.close()

    # In the thread.

    def _serve(self) -> None:
        pause_s = self._sampler.read_every_s
        while not self._closing.wait(pause_s):
            began_s = time.thread_time()
            self.take(self._sampler.read(), time.monotonic())
            cost_s = time.thread_time() - began_s
            usual_s, calm_s = self._sampler.read_every_s, self._sampler.read_calmly_every_s
            pause_s = self._pace.pause_s(usual_s, calm_s, cost_s, time.monotonic())
        self._program.close()

    def take(self, samples: CodeSamples, now_s: float) -> None:
        """Classify what is due of these samples; in the thread, and in tests."""
        by_place, gone = self._placing.by_place(samples.samples)
        self._pace.note(len(samples.samples), gone, now_s)
        if self._hot is not None:
            named = self._hot.take(by_place, samples.period_s, now_s, self._placing.tids)
            with self._lock:
                self._news |= named
        due = self._due(by_place, now_s)
        if due:
            self._pace.note_new(now_s)
        asked: dict[Place, Counter[Spot]] = {}
        chosen = self._bounds.chosen(due, now_s)
        self._failures["left"] += len(due) - len(chosen)
        for place, spot in chosen:
            asked.setdefault(place, Counter())[spot] += 1
        until_s = time.monotonic() + _MAX_TAKE_S
        for place, counts in (*asked.items(), *self._of_round(now_s)):
            if self._closing.is_set():
                return
            if time.monotonic() > until_s:
                self._failures["left"] += counts.total()
            elif place.process == _NO_PROCESS or not self._avoided.of(place.owner, now_s)[0]:
                self._asked_s = now_s
                self._classify(place, counts, now_s)
        if now_s - self._asked_s >= _IDLE_S:
            self._program.discard()

    def _due(self, by_place: Mapping[Place, Spots], now_s: float) -> list[tuple[Place, Spot]]:
        """Return what is to be classified at once, and gather what a round needs."""
        due: list[tuple[Place, Spot]] = []
        is_round = self._rounds.is_on(now_s)
        for at, spots in by_place.items():
            is_avoided, copies_only = self._avoided.of(at.owner, now_s)
            if is_avoided and not copies_only:
                continue
            place = at._replace(process=_NO_PROCESS, is_relative=True) if is_avoided else at
            if not self._is_known(place) or (place.is_relative and is_round):
                due += [(place, spot) for spot in spots]  # relatives may exit soon
            elif not place.is_relative:
                has_changed = self._has_changed(place.process, spots, now_s)
                if is_round:
                    self._failures["left"] += self._rounds.add(place, spots, now_s)
                elif has_changed:
                    of_change = place._replace(is_of_change=True)
                    self._failures["left"] += self._of_changed.add(of_change, spots, now_s)
        return due

    def _is_known(self, place: Place) -> bool:
        known = self._known(place.container if place.is_relative else place.process)
        return known is not None and known.tally.seen >= _KNOWN_SAMPLES

    def _has_changed(self, process: ProcessId, spots: Spots, now_s: float) -> bool:
        known = self._known(process)
        return known is not None and known.pages.have_changed(spots, now_s)

    def _of_round(self, now_s: float) -> Iterator[tuple[Place, Counter[Spot]]]:
        """Yield known processes within the bounds of a second: at least one, after new ones."""
        while (found := self._rounds.next(now_s) or self._of_changed.next(now_s)) is not None:
            self._bounds.count(found[0].owner, len(found[1]))
            yield found
            if self._bounds.is_reached:
                return

    def _classify(self, place: Place, counts: Counter[Spot], now_s: float) -> None:
        try:
            child = self._program.child(None if place.process == _NO_PROCESS else place.owner)
            if child is None or not child.has_started(time.monotonic() + _START_S):
                self._failures["child"] += 1
                return
            until_s = time.monotonic() + _ANSWER_S
            spots = [(address, count, code) for (address, code), count in counts.items()]
            tid = self._placing.tids.get(place.process.pid, 0)
            child.send(_Question(*place.process, int(place.is_relative), tid, spots), until_s)
            answer = child.receive(CodeAnswer, until_s, _STALL_S).checked(counts.total())
        except TimeoutError:
            self._failures["timeout"] += 1
            self._program.discard(place.owner)
            self._avoid(place.owner, now_s, copies_only=place.process != _NO_PROCESS)
        except (OSError, ValueError):
            self._failures["child"] += not self._closing.is_set()
            self._program.discard(has_failed=True)
            self._avoid(place.owner, now_s)
        else:
            self._charge(place, answer.took_s, now_s)
            self._failures["unread"] += answer.unread
            self._failures["too_large"] += answer.is_cut > 0
            if not self._sampler.copies_code:
                answer.hidden = 0
            if answer.samples or answer.of_unknown_origin or answer.hidden:
                self._keep(place, answer, counts)

    def _charge(self, place: Place, took_s: float, now_s: float) -> None:
        is_read = place.process != _NO_PROCESS
        if self._avoided.is_costly(place.owner, took_s, now_s, is_read=is_read):
            self._failures["costly"] += 1
            self._avoid(place.owner, now_s, copies_only=is_read)

    def _avoid(self, owner: Hashable, now_s: float, *, copies_only: bool = False) -> None:
        self._avoided.add(owner, now_s, copies_only=copies_only and self._sampler.copies_code)

    def _keep(self, place: Place, answer: CodeAnswer, counts: Counter[Spot]) -> None:
        if place.is_relative:
            self._keep_of_container(place, answer)
            return
        with self._lock:
            self._news.add(place.container)
            is_new = place.process not in self._processes
            known = self._processes.pop(place.process, (place, _Known()))
            self._processes[place.process] = known
            known[1].pages.add(address for address, _ in counts)
            known[1].tally.make_room(answer.samples)
            container = self._containers.setdefault(place.container, _Known())
            for tally in (known[1].tally, *[container.tally] * (not place.is_of_change)):
                answer.add_to(tally)
                if answer.io_bytes is not None:
                    tally.add_io(
                        max(0, answer.io_bytes - known[1].io_bytes),
                        max(0.0, answer.cpu_s - known[1].cpu_s),
                        max(0.0, answer.kernel_s - known[1].kernel_s),
                    )
            if answer.io_bytes is not None:
                known[1].io_bytes, known[1].cpu_s = answer.io_bytes, answer.cpu_s
                known[1].kernel_s = answer.kernel_s
            self._consider(place.process, place.container, known[1].tally)
            self._consider(place.container, place.container, container.tally)
            if is_new:
                self._bound(place.container)

    def _keep_of_container(self, place: Place, answer: CodeAnswer) -> None:
        with self._lock:
            self._news.add(place.container)
            tally = self._containers.setdefault(place.container, _Known()).tally
            answer.add_to(tally)
            self._consider(place.container, place.container, tally)

    def _consider(
        self, subject: ProcessId | ContainerKey, container: ContainerKey, tally: CodeTally
    ) -> None:
        if self._hot is not None:
            converts = tally.converts_pairs
            self._hot.consider(subject, container, tally.facts(), converts_pairs=converts)

    def _bound(self, container: ContainerKey) -> None:
        """Drop the process that was classified longest ago, of a container with too many."""
        own = [each for each, (place, _) in self._processes.items() if place.container == container]
        if len(own) > _MAX_PROCESSES_OF_ONE:
            del self._processes[own[0]]
        elif len(self._processes) > _MAX_PROCESSES:
            self._processes.popitem(last=False)
