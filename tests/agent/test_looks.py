from __future__ import annotations

from collections.abc import Mapping

from minerwatch.agent.looks import Looks, foremost
from minerwatch.agent.tracked import TrackedContainer, TrackedNode, TrackedProcess
from minerwatch.config.schema import Examination
from minerwatch.detection.cpu_history import CpuHistory
from minerwatch.model import Container, ContainerKey, ContainerKind, CpuLimit, ProcessId
from minerwatch.probes.base import Suspect
from tests.builders import make_process

TICK_S = 10.0
NO_LIMIT = CpuLimit(None, 0, 0)


def suspect(pid: int, owner: str) -> Suspect:
    return Suspect(ProcessId(pid, 1), 0, is_for_all_probes=True, owner=owner)


def test_no_pod_crowds_out_another_among_suspects() -> None:
    decoys = [(1.0, suspect(pid, "decoys")) for pid in range(9)]
    busiest = (1.5, suspect(50, "decoys"))
    miner = (0.4, suspect(99, "another"))
    found = foremost([*decoys, busiest, miner], 4)
    assert [each.process.pid for each in found] == [50, 99, 8, 7]


class World:
    """Containers whose processes use CPU as a test says, tick by tick."""

    def __init__(self, *, max_suspects: int = 1000) -> None:
        self.node = TrackedNode()
        self.limits: dict[ContainerKey, CpuLimit] = {}
        self.waited: dict[ContainerKey, float] = {}
        self.looks = Looks(self.node, self, Examination(), max_suspects)
        self.at_s = 1000.0
        self.for_all: list[list[int]] = []
        """PIDs of suspects for all probes, at each tick."""
        self.due: list[set[int]] = []
        """PIDs that a look was earned at, at each tick."""

    def limit(self, key: ContainerKey) -> CpuLimit | None:
        return self.limits.get(key, NO_LIMIT)

    def waited_s(self, key: ContainerKey) -> float | None:
        return self.waited.get(key)

    def add(self, name: str, *pids: int) -> ContainerKey:
        container = Container(f"/docker/{name}", 7, ContainerKind.ENGINE, name * 64, "docker")
        tracked = TrackedContainer.new(container, self.at_s, 0.0)
        for pid in pids:
            self.start(tracked, pid)
        self.node.containers[container.key] = tracked
        return container.key

    def start(self, container: TrackedContainer, pid: int) -> None:
        process = TrackedProcess(make_process(pid))
        process.cpu = CpuHistory(self.at_s, 0.0)
        container.processes[pid] = process

    def tick(self, used_s: Mapping[int, float]) -> None:
        self.at_s += TICK_S
        by_container: dict[ContainerKey, float] = {}
        for key, container in self.node.containers.items():
            for pid, process in container.processes.items():
                assert process.cpu is not None
                process.cpu.add(self.at_s, process.cpu.cpu_s + used_s.get(pid, 0.0), window_s=60.0)
                by_container[key] = by_container.get(key, 0.0) + used_s.get(pid, 0.0)
        self.looks.earn(by_container, TICK_S, self.at_s)
        found = self.looks.suspects(self.node.containers.values(), self.at_s)
        self.for_all.append([each.process.pid for each in found if each.is_for_all_probes])
        self.due.append({each.process.pid for each in found if each.is_due})

    def first_look_s(self, pid: int) -> float | None:
        """Seconds until the first look at a process was earned."""
        for number, pids in enumerate(self.due, 1):
            if pid in pids:
                return number * TICK_S
        return None


def test_a_busy_process_earns_a_look_every_thirty_seconds() -> None:
    world = World()
    world.add("a", 1)
    for _ in range(9):
        world.tick({1: 10.0})
    assert [bool(due) for due in world.due] == [False, False, True] * 3


def test_small_processes_earn_looks_together_and_take_turns() -> None:
    world = World()
    world.add("a", 1, 2, 3, 4, 5)
    for _ in range(30):
        world.tick(dict.fromkeys((1, 2, 3, 4, 5), 1.0))
    assert sum(len(due) for due in world.due) == 5  # 150 s of CPU time
    assert set().union(*world.due) == {1, 2, 3, 4, 5}


def test_short_lived_workers_earn_looks_together() -> None:
    world = World()
    key = world.add("a")
    container = world.node.containers[key]
    for pid in range(1, 10):
        container.processes.clear()
        world.start(container, pid)
        world.tick({pid: 10.0})
    assert [sorted(due) for due in world.due if due] == [[3], [6], [9]]


def test_a_container_at_its_limit_is_looked_at_whatever_its_cores() -> None:
    world = World()
    key = world.add("a", 1)
    world.add("b", 2)
    world.limits[key] = CpuLimit(0.1, 0, 0)
    for _ in range(12):
        world.tick({1: 0.98, 2: 0.98})
    looked_s = world.first_look_s(1)
    assert looked_s is not None
    assert looked_s <= 100
    assert world.first_look_s(2) is None


def test_a_throttled_container_is_held_back_and_one_that_rests_is_not() -> None:
    """A bursty program is throttled though its rate is below the limit."""
    world = World()
    bursty, calm = world.add("a", 1), world.add("b", 2)
    for number in range(18):
        world.limits[bursty] = CpuLimit(0.1, 100 * number, 70 * number)
        world.limits[calm] = CpuLimit(0.1, 100 * number, 2 * number)
        world.tick({1: 0.6, 2: 0.6})
    assert world.first_look_s(1) is not None
    assert world.first_look_s(2) is None


def test_a_container_that_waits_for_a_cpu_is_held_back() -> None:
    world = World()
    crowded, calm = world.add("a", 1), world.add("b", 2)
    for number in range(18):
        world.waited |= {crowded: 9.0 * number, calm: 0.5 * number}
        world.tick({1: 0.6, 2: 0.6})
    assert world.first_look_s(1) is not None
    assert world.first_look_s(2) is None


def test_idle_decoys_earn_nothing_and_hide_nothing() -> None:
    world = World()
    world.add("a", *range(1, 301))
    world.add("b", *range(301, 602))
    for _ in range(4):
        world.tick({601: 10.0})
    assert world.for_all == [[], [], [601], [601]]


def test_a_container_with_thousands_of_processes_starves_no_other() -> None:
    world = World(max_suspects=10)
    world.add("a", *range(2, 3000))
    world.add("b", 1)
    crowd = dict.fromkeys(range(2, 3000), 0.2)
    for _ in range(6):
        world.tick({**crowd, 1: 6.0})
    assert world.first_look_s(1) == 50
    assert all(len(due) <= 9 for due in world.due)
    assert 1 in world.for_all[-1]


def test_a_suspect_is_kept_for_a_while() -> None:
    world = World()
    world.add("a", 1)
    for _ in range(3):
        world.tick({1: 10.0})
    for _ in range(60):
        world.tick({})
    assert world.for_all[2:62] == [[1]] * 60
    assert world.for_all[62] == []


def test_a_small_container_is_measured_for_its_look_only() -> None:
    world = World()
    key = world.add("a", 1)
    container = world.node.containers[key]
    for _ in range(30):
        assert not world.looks.wants(container, world.at_s)
        world.looks.earn({key: 1.0}, TICK_S, world.at_s)
    assert world.looks.wants(container, world.at_s)
