"""Matches rules on facts that do not change while a program runs: once per program."""

from __future__ import annotations

import time

from minerwatch.agent.kept_text import bound_text, shorten_texts
from minerwatch.agent.scheduling import PhaseTimer
from minerwatch.agent.tracked import (
    TrackedContainer,
    TrackedNode,
    TrackedProcess,
    collect_static_sightings,
    static_facts_of,
)
from minerwatch.detection.matching.matcher import Matcher
from minerwatch.fair_queue import FairQueue
from minerwatch.model import Container, ContainerKey
from minerwatch.text_budget import fattest_over


class StaticMatching:
    """Queue of processes to match, and the bound on the text that matched processes keep."""

    def __init__(self, node: TrackedNode, matcher: Matcher, timer: PhaseTimer) -> None:
        self.deferred = 0
        """Processes that had to wait for another call, since the start."""
        self._node = node
        self._matcher = matcher
        self._timer = timer
        self._queue: FairQueue[tuple[TrackedContainer, TrackedProcess]] = FairQueue()
        self._to_read_again: set[int] = set()
        self._shortened: dict[ContainerKey, Container] = {}
        self._shortened_count = 0

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def wants_reading(self) -> bool:
        """True if processes must be read again to be matched: their text was shortened."""
        return bool(self._to_read_again)

    def use(self, matcher: Matcher) -> None:
        """Put other rules in force; every process is matched again."""
        self._matcher = matcher
        for container in self._node.containers.values():
            self.queue_all(container)

    def queue_all(self, container: TrackedContainer) -> None:
        """Queue all processes of a container; until matched they keep their matches."""
        for process in container.processes.values():
            process.forget_measured()
            if process.is_shortened:
                self._to_read_again.add(process.process.id.pid)
            elif not process.process.kernel_thread:
                self.queue(container, process)

    def queue(self, container: TrackedContainer, process: TrackedProcess) -> None:
        """Queue a process, once."""
        if not process.is_queued:
            process.is_queued = True
            self._queue.push(container.owner, (container, process))

    def pop_to_read_again(self) -> set[int]:
        """Return the PIDs to read again before they can be matched, once."""
        found, self._to_read_again = self._to_read_again, set()
        return {pid for pid in found if pid in self._node.container_of}

    def match_queued(self, cpu_s: float) -> list[TrackedContainer]:
        """Match queued processes for ``cpu_s`` of CPU time; return their containers.

        One hostile command line takes milliseconds, and there may be thousands.
        """
        touched: dict[int, TrackedContainer] = {}
        with self._timer.phase("rules"):
            until_s = time.thread_time() + cpu_s
            while (queued := self._queue.pop()) is not None:
                container, process = queued
                if container.processes.get(process.process.id.pid) is process:
                    self._match(container, process)
                    touched[id(container)] = container
                if time.thread_time() >= until_s:
                    break
        return list(touched.values())

    def bound_all_text(self) -> None:
        """Shorten the longest texts of the owners that keep most, until all fit."""
        while over := fattest_over(self._text_bytes_by_owner()):
            owner, max_bytes = over
            own = [each for each in self._node.containers.values() if each.owner == owner]
            before_bytes = sum(each.text_bytes for each in own)
            self._shortened_count += shorten_texts(
                (process for each in own for process in each.processes.values()), max_bytes
            )
            for container in own:
                collect_static_sightings(container)
                self._shortened[container.container.key] = container.container
            if sum(each.text_bytes for each in own) >= before_bytes:
                return  # nothing is left to shorten

    def pop_shortened(self) -> tuple[tuple[Container, ...], int]:
        """Return the containers and the number of processes whose text was shortened, once."""
        found = tuple(self._shortened.values()), self._shortened_count
        self._shortened, self._shortened_count = {}, 0
        return found

    def _match(self, container: TrackedContainer, process: TrackedProcess) -> None:
        parent = self._node.process(process.process.parent_pid)
        process.parent = parent.process if parent else process.parent  # it may have exited
        process.facts, process.facts_bytes = None, 0
        process.is_queued = False
        process.forget_measured()
        process.matches = self._matcher.static_matches(static_facts_of(container, process))
        process.facts, process.facts_bytes = None, 0  # they hold all of the parent's text
        container.text_bytes -= process.text_bytes
        bound_text(process, process.parent)
        container.text_bytes += process.text_bytes

    def _text_bytes_by_owner(self) -> dict[str, int]:
        kept: dict[str, int] = {}
        for container in self._node.containers.values():
            if container.text_bytes:
                kept[container.owner] = kept.get(container.owner, 0) + container.text_bytes
        return kept
