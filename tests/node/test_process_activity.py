"""Idle processes are not read at every tick, and hide nothing by idling."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.model import ProcessId, ProcessStat
from minerwatch.node.process_activity import ProcessActivity

TICK_S = 10.0
LIMIT_S = 0.15 * TICK_S


class Container:
    """Processes with CPU counters, and how often each was read."""

    def __init__(self, count: int) -> None:
        self.ticks = dict.fromkeys(range(1, count + 1), 0)  # as in /proc/PID/stat
        self.reads: Counter[int] = Counter()
        self.known_s: dict[int, float] = {}
        self.activity = ProcessActivity()
        self.used_s = 0.0

    def run(self, pid: int, used_s: float) -> None:
        self.ticks[pid] += round(used_s * 100)
        self.used_s += used_s

    def read(self, *, always: tuple[int, ...] = (), exact: bool = False) -> set[int]:
        """Return the pids that are read at one tick."""
        self.reads.clear()
        cpu_ns = {pid: ticks * 10**7 for pid, ticks in self.ticks.items()} if exact else None
        found = self.activity.read(
            self.ticks.keys(), self._stat, self.used_s, LIMIT_S, always=always, cpu_ns=cpu_ns
        )
        self.used_s = 0.0
        assert found.keys() == self.reads.keys()
        assert max(self.reads.values(), default=1) == 1
        self.known_s |= {pid: stat.cpu_s for pid, stat in found.items() if stat is not None}
        return set(found)

    def settle(self) -> None:
        """All were read when they were new, and have become idle."""
        for _ in range(4):
            self.read()

    def _stat(self, pid: int) -> ProcessStat:
        self.reads[pid] += 1
        return stat(pid, self.ticks[pid] / 100)


def stat(pid: int, cpu_s: float) -> ProcessStat:
    return ProcessStat(ProcessId(pid, 1), 1, "x", cpu_s, 1, kernel_thread=False, program=(1, 2, 3))


def test_new_processes_are_read_and_then_those_that_idle_in_turn() -> None:
    container = Container(800)
    assert len(container.read()) == 800
    container.settle()
    turns = [container.read() for _ in range(8)]
    assert {len(turn) for turn in turns} == {100}
    assert set().union(*turns) == container.ticks.keys()


def test_a_process_that_runs_is_read_until_its_rate_is_zero() -> None:
    container = Container(800)
    container.settle()
    container.run(7, 2.0)
    assert 7 in container.read()
    for _ in range(5):
        container.run(7, 0.1)
        assert 7 in container.read()
    assert [7 in container.read() for _ in range(3)] == [True, True, True]
    assert sum(7 in container.read() for _ in range(8)) == 1


def test_a_process_that_wakes_up_is_seen_at_once() -> None:
    """Its container's counter says that a process that was not read ran."""
    container = Container(800)
    container.settle()
    for pid in Random(1).sample(range(1, 801), 20):
        container.run(pid, LIMIT_S + 0.2)
        container.read()
        assert container.known_s[pid] == container.ticks[pid] / 100


def test_what_exited_processes_used_costs_no_reading_of_all_at_each_tick() -> None:
    container = Container(800)
    container.settle()
    counts = []
    for _ in range(16):
        container.used_s += 40.0  # of compilers that are gone
        counts.append(len(container.read()))
    assert sum(count > 400 for count in counts) <= 2
    assert sum(counts) < 16 * 800 / 3


def test_what_wakes_up_among_processes_that_come_and_go_is_seen_within_eight_ticks() -> None:
    container = Container(800)
    container.settle()
    for pid in (3, 333, 799):
        waited = 0
        is_read = False
        while not is_read:
            container.used_s += 40.0
            container.run(pid, 10.0)
            is_read = pid in container.read()
            waited += 1
        assert waited <= 8


def test_many_that_run_a_little_are_read_in_turn() -> None:
    """Two thousand daemons that wake up now and then use 0.2 cores together."""
    container = Container(2000)
    container.settle()
    chance = Random(3)
    counts = []
    for _ in range(24):
        for pid in chance.sample(range(1, 2001), 200):
            container.run(pid, 0.01)
        counts.append(len(container.read()))
    assert sum(counts) / len(counts) < 2000 / 2


def test_what_is_asked_for_is_read_always() -> None:
    container = Container(100)
    container.settle()
    assert all({5, 6} <= container.read(always=(5, 6, 9999)) for _ in range(9))


def test_one_read_of_all_tasks_says_which_ran() -> None:
    container = Container(800)
    container.settle()
    for _ in range(4):
        container.read(exact=True)
    assert container.read(exact=True) == set()
    container.run(7, 0.01)
    container.run(8, 3.0)
    container.used_s += 100.0
    assert container.read(exact=True) == {7, 8}


def test_a_process_that_is_gone_is_none_until_its_container_loses_it() -> None:
    activity = ProcessActivity()
    stats: dict[int, ProcessStat] = {7: stat(7, 5.0)}
    assert activity.read({7}, stats.get, 0.0, LIMIT_S) == stats
    assert activity.read({7}, lambda _: None, 0.0, LIMIT_S) == {7: None}
    assert activity.read(set(), stats.get, 0.0, LIMIT_S) == {}
    assert activity.read({7}, stats.get, 0.0, LIMIT_S) == stats


@given(
    st.integers(1, 60),
    st.lists(st.lists(st.tuples(st.integers(1, 60), st.floats(0.01, 20)), max_size=4), max_size=30),
    st.lists(st.floats(0, 50), min_size=30, max_size=30),
)
@pytest.mark.parametrize("exact", [True, False])
def test_no_cpu_time_is_unread_for_longer_than_eight_ticks(
    exact: bool,
    count: int,
    bursts: list[list[tuple[int, float]]],
    gone_s: list[float],
) -> None:
    container = Container(count)
    container.read()
    ran_at: dict[int, int] = {}
    for tick, (burst, exited_s) in enumerate(zip(bursts, gone_s, strict=False)):
        for pid, used_s in burst:
            if pid in container.ticks:
                container.run(pid, round(used_s, 2))
                ran_at.setdefault(pid, tick)
        container.used_s += exited_s
        for pid in container.read(exact=exact):
            ran_at.pop(pid, None)
        assert all(tick - since < 8 for since in ran_at.values())
