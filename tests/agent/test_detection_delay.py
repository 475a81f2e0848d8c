from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from minerwatch.agent.detection_delay import DetectionDelays
from minerwatch.model import (
    Abuse,
    Change,
    Container,
    ContainerKind,
    Identity,
    Level,
    ProcessId,
    Signal,
)
from minerwatch.node.proc_files import CLOCK_TICKS_PER_S
from tests.builders import make_container, make_finding, make_observation, make_pod, make_verdict

NOW_S = 1000.0


class Delays:
    """The delays of an agent that started 500 s after the boot, and what it reported."""

    def __init__(self, created_unix_s: float = 0.0, began_s: float = 500.0) -> None:
        self.reported: list[tuple[Abuse, float]] = []
        self._created_unix_s = created_unix_s
        self.measured = DetectionDelays(
            self._identity,
            began_s,
            lambda: NOW_S,
            lambda abuse, delay_s: self.reported.append((abuse, delay_s)),
        )

    def _identity(self, _container: Container) -> Identity | None:
        pod = replace(make_pod("p", "u"), created_unix_s=self._created_unix_s)
        return Identity(pod, "c", "", None)

    def of(
        self,
        *starts_s: float | None,
        previous: Level = Level.CLEAR,
        level: Level = Level.LIKELY,
        container: Container | None = None,
        **finding: Any,
    ) -> float | None:
        container = container or make_container("a", "u")
        findings = [
            make_finding(
                process=None if each is None else ProcessId(7, int(each * CLOCK_TICKS_PER_S)),
                score=88.0,
                **finding,
            )
            for each in starts_s
        ]
        verdict = make_verdict(container, *findings, level=level, at_s=NOW_S)
        return self.measured.of(Change(make_observation(container, verdict), previous))


def test_it_counts_from_the_earliest_process_with_findings() -> None:
    delays = Delays()
    assert delays.of(970.0, 940.0) == 60.0
    assert delays.reported == [(Abuse.MINING, 60.0)]


def test_only_the_step_to_likely_counts() -> None:
    delays = Delays()
    assert delays.of(940.0, level=Level.SUSPICIOUS) is None
    assert delays.of(940.0, previous=Level.LIKELY, level=Level.CONFIRMED) is None
    assert delays.of(940.0, previous=Level.CONFIRMED, level=Level.LIKELY) is None
    assert delays.of(940.0, previous=Level.SUSPICIOUS, level=Level.CONFIRMED) == 60.0


def test_a_container_is_reported_once_until_it_is_gone() -> None:
    delays = Delays()
    container = make_container("a", "u")
    for _ in range(2):
        assert delays.of(940.0, container=container) == 60.0
    assert len(delays.reported) == 1
    delays.measured.forget(container.key)
    delays.of(940.0, container=container)
    assert len(delays.reported) == 2


def test_a_process_from_before_the_agent_is_measured_but_not_reported() -> None:
    delays = Delays()
    assert delays.of(400.0) == 600.0
    assert delays.reported == []


def test_behaviour_alone_has_no_start() -> None:
    assert Delays().of(940.0, signal=Signal.BEHAVIOUR) is None


def test_without_a_process_the_pod_counts_if_its_start_is_known() -> None:
    delays = Delays(created_unix_s=time.time() - 90.0)
    found = delays.of(None)
    assert found is not None
    assert 89 <= found <= 120
    assert Delays().of(None) is None


def test_on_the_host_the_foremost_process_counts() -> None:
    container = replace(make_container("h", ""), kind=ContainerKind.HOST)
    assert Delays().of(940.0, 990.0, container=container) in (60.0, 10.0)


def test_the_memory_of_reported_containers_is_bounded() -> None:
    delays = Delays()
    for number in range(10_050):
        delays.of(940.0, container=make_container(f"c{number}", f"u{number}"))
    assert len(delays.reported) == 10_050
    delays.of(940.0, container=make_container("c0", "u0"))
    assert len(delays.reported) == 10_051, "the oldest was forgotten"
