"""GPU use, attributed to processes and containers."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.model import ContainerKey, ProcessId
from minerwatch.node.gpu_use import GpuReader
from minerwatch.probes.gpu import Gpus, GpuUser
from tests.node.fake_gpus import Scripted, answer

A, B = ContainerKey("/a", 1), ContainerKey("/b", 2)
H100: dict[str, Any] = {"id": "GPU-1", "name": "NVIDIA H100", "busy": 0.9, "watts": 500.0}
TICK_S = 10.0
Use = list[Any]  # pid, device, instance, busy, memory


class World:
    """Processes on GPUs, as a sampler sees them tick by tick."""

    def __init__(self) -> None:
        self.sampler = Scripted()
        self.gpus = Gpus(GpuReader([self.sampler]))
        self.users: dict[int, GpuUser] = {}
        self.at_s = 1000.0
        self.named: dict[tuple[str, ...], ContainerKey] = {}
        self.gpus.tick(self.at_s, (), self.users.get)

    def add(self, pid: int, container: ContainerKey, born_s: float = 0.0) -> ProcessId:
        process = ProcessId(pid, int(born_s * 100))
        self.users[pid] = GpuUser(process, born_s, container)
        return process

    def tick(self, *uses: Use, devices: list[dict[str, Any]] | None = None, **more: Any) -> None:
        """Take an answer made now; without uses, the driver says that nothing uses a GPU."""
        self.at_s += TICK_S
        told = {"at_s": self.at_s, "devices": devices or [H100], "uses": list(uses), **more}
        self.sampler.answers.append(answer(**told))
        self.gpus.tick(self.at_s, (), self.users.get, lambda *names: self.named.get(names))

    def silence(self, seconds: float) -> None:
        self.at_s += seconds
        self.gpus.tick(self.at_s, (), self.users.get)


@pytest.fixture
def world() -> World:
    return World()


def test_a_busy_process(world: World) -> None:
    process = world.add(7, A)
    for _ in range(6):
        world.tick([7, 0, None, 0.9, 4 << 20])
    assert world.gpus.facts(process) == {
        "GpuDevices": 1,
        "GpuBusy": 0.9,
        "GpuBusyFor": 50.0,
        "GpuHours": pytest.approx(45 / 3600),
        "GpuFlatness": pytest.approx(1.0),
        "GpuMemoryMiB": 4.0,
    }
    assert world.gpus.container_facts(A) == {
        "ContainerGpuBusy": 0.9,
        "ContainerGpuHours": pytest.approx(45 / 3600),
        "ContainerGpuDevices": 1,
        "ContainerGpuMemoryMiB": 4.0,
        "ContainerGpuJoules": pytest.approx(50 * 500),
    }
    assert world.gpus.used_s == {A: pytest.approx(9.0)}
    assert world.gpus.process_possible_s == {process: pytest.approx(9.0)}
    assert world.gpus.is_notable(A)


def test_busy_for_begins_again_after_a_pause(world: World) -> None:
    process = world.add(7, A)
    for busy in (0.9, 0.9, 0.1, 0.9):
        world.tick([7, 0, None, busy, 1])
    assert world.gpus.facts(process)["GpuBusyFor"] == TICK_S


def test_use_of_several_devices_adds_up(world: World) -> None:
    process = world.add(7, A)
    world.tick([7, 0, None, 0.9, 1 << 20], [7, 1, None, 0.8, 1 << 20], devices=[H100, H100])
    facts = world.gpus.facts(process)
    assert (facts["GpuDevices"], facts["GpuMemoryMiB"]) == (2, 2.0)
    assert facts["GpuBusy"] == pytest.approx(1.7)


def test_a_pid_that_was_used_again_after_the_reading_is_another_process(world: World) -> None:
    young = world.add(7, A, born_s=1010.5)
    world.tick([7, 0, None, 0.9, 1])  # read at 1010
    assert world.gpus.facts(young) == {}
    assert world.gpus.container_facts(A) == {}
    assert ("unplaced", 1) in list(world.gpus.failures())


def test_two_containers_on_one_device_have_their_own_shares_and_no_figure_of_the_device(
    world: World,
) -> None:
    world.add(7, A)
    world.add(8, B)
    for _ in range(2):
        world.tick([7, 0, None, 0.6, 1], [8, 0, None, 0.3, 1])
    of_a, of_b = world.gpus.container_facts(A), world.gpus.container_facts(B)
    assert (of_a["ContainerGpuBusy"], of_b["ContainerGpuBusy"]) == (0.6, 0.3)
    assert "ContainerGpuJoules" not in {**of_a, **of_b}
    assert world.gpus.attributions() == {"none": 0, "alone": 0, "shared": 1}


def test_the_rate_of_a_device_is_that_of_the_only_container_on_it(world: World) -> None:
    process = world.add(7, A)
    world.tick([7, 0, None, None, 1])
    assert world.gpus.facts(process)["GpuBusy"] == 0.9
    assert world.gpus.container_facts(A)["ContainerGpuBusy"] == 0.9
    second = world.add(9, A)
    world.tick([7, 0, None, None, 1], [9, 0, None, None, 1])
    assert world.gpus.container_facts(A)["ContainerGpuBusy"] == 0.9
    assert "GpuBusy" not in {**world.gpus.facts(process), **world.gpus.facts(second)}


@pytest.mark.parametrize(
    ("other", "device", "more"),
    [
        ([8, 0, None, None, 1], H100, {}),  # of another container
        ([99, 0, None, None, 1], H100, {}),  # of a process that is not known
        (None, {**H100, "is_split": True}, {}),
        (None, {**H100, "left_out": 1}, {}),
        ([0, 0, None, None, 1], H100, {}),  # of a PID namespace that is not seen from here
    ],
)
def test_the_rate_of_a_device_is_never_divided(
    world: World, other: Use | None, device: dict[str, Any], more: dict[str, int]
) -> None:
    process = world.add(7, A)
    world.add(8, B)
    uses = [[7, 0, None, None, 1], *([other] if other else [])]
    world.tick(*uses, devices=[device], **more)
    assert "GpuBusy" not in world.gpus.facts(process)
    assert "ContainerGpuBusy" not in world.gpus.container_facts(A)
    assert world.gpus.facts(process)["GpuDevices"] == 1
    assert world.gpus.is_notable(A), "that nothing is known saves no look"
    world.tick(*uses, devices=[device], **more)
    assert world.gpus.used_s[A] == 0.0
    assert world.gpus.possible_s[A] == pytest.approx(0.9 * TICK_S)
    assert world.gpus.process_possible_s[process] == world.gpus.possible_s[A]


def test_what_is_left_out_of_one_device_hides_nothing_of_another(world: World) -> None:
    process = world.add(7, A)
    world.tick([7, 1, None, None, 1], devices=[{**H100, "left_out": 9}, H100])
    assert world.gpus.facts(process)["GpuBusy"] == 0.9
    assert ("crowded", 9) in list(world.gpus.failures())


def test_a_process_of_a_namespace_that_is_not_seen_is_counted(world: World) -> None:
    world.tick([0, 0, None, 1.0, 1])
    assert ("unplaced", 1) in list(world.gpus.failures())
    assert world.gpus.attributions() == {"none": 0, "alone": 1, "shared": 0}


def test_a_process_that_shares_a_context_earns_looks_as_its_container_does(world: World) -> None:
    holder, sharer = world.add(7, A), world.add(8, A)
    for _ in range(2):
        world.tick([7, 0, None, 0.9, 1], [8, 0, None, None, None])
    assert world.gpus.used_s == {A: pytest.approx(9.0)}
    assert world.gpus.process_possible_s == dict.fromkeys((holder, sharer), pytest.approx(9.0))
    assert "GpuBusy" not in world.gpus.facts(sharer)


EVE, BOB = ("hub", "jupyter-eve", "notebook"), ("hub", "jupyter-bob", "notebook")


def test_a_device_that_was_given_to_one_container_is_its_use(world: World) -> None:
    world.named = {EVE: A}
    for _ in range(2):
        world.tick(pods=[[0, *EVE, 8 << 20]])
    assert world.gpus.container_facts(A) == {
        "ContainerGpuBusy": 0.9,
        "ContainerGpuHours": pytest.approx(9 / 3600),
        "ContainerGpuDevices": 1,
        "ContainerGpuMemoryMiB": 8.0,
        "ContainerGpuJoules": pytest.approx(5000),
    }
    assert world.gpus.used_s == {A: pytest.approx(9.0)}
    assert world.gpus.is_notable(A)
    assert [*world.gpus.busy_devices()] == [{A: 0.9}]


@pytest.mark.parametrize("other", [BOB, ("elsewhere", "p", "c")], ids=["shared", "not here"])
def test_a_device_that_was_given_to_two_is_divided_among_none(
    world: World, other: tuple[str, ...]
) -> None:
    world.named = {EVE: A, BOB: B}
    world.tick(pods=[[0, *EVE, None], [0, *other, None]])
    assert "ContainerGpuBusy" not in world.gpus.container_facts(A)
    assert world.gpus.is_notable(A), "that nothing is known saves no look"


def test_instances_of_a_card_are_devices_of_their_own(world: World) -> None:
    process = world.add(7, A)
    split = {**H100, "is_split": True, "busy": None}
    world.tick([7, 0, 1, None, 1], [7, 0, 2, None, 1], devices=[split])
    assert world.gpus.facts(process)["GpuDevices"] == 2


def test_instances_of_two_containers_are_apart_and_earn_some_looks(world: World) -> None:
    of_a, of_b = world.add(7, A), world.add(8, B)
    split = {**H100, "is_split": True, "busy": None}
    for _ in range(2):
        world.tick([7, 0, 1, None, 1 << 20], [8, 0, 2, None, 2 << 20], devices=[split])
    assert world.gpus.facts(of_a)["GpuMemoryMiB"] == 1.0
    assert world.gpus.facts(of_b)["GpuMemoryMiB"] == 2.0
    for key in (A, B):
        facts = world.gpus.container_facts(key)
        assert not {"ContainerGpuBusy", "ContainerGpuJoules"} & set(facts)
        assert facts["ContainerGpuHours"] == 0.0
        assert 0 < world.gpus.possible_s[key] < TICK_S
        assert world.gpus.is_notable(key)


def test_an_agent_that_seldom_ticks_knows_what_was_answered_at_the_last_tick(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    sampler = Scripted()
    gpus = Gpus(GpuReader([sampler], interval_s=120.0), interval_s=120.0)
    user = GpuUser(ProcessId(7, 0), 0.0, A)
    for _ in range(3):
        gpus.tick(now_s, (), lambda _pid: user)
        sampler.answers.append(answer(at_s=now_s, devices=[H100], uses=[[7, 0, None, 1.0, 1]]))
        now_s += 120.0
    gpus.tick(now_s, (), lambda _pid: user)
    assert gpus.container_facts(A)["ContainerGpuHours"] == pytest.approx(240 / 3600)
    assert gpus.facts(user.process)["GpuBusyFor"] == 240.0


def test_what_a_driver_no_longer_says_is_no_longer_known(world: World) -> None:
    process = world.add(7, A)
    world.tick([7, 0, None, 0.9, 1])
    world.silence(20.0)
    assert world.gpus.facts(process)["GpuBusy"] == 0.9
    world.silence(20.0)
    assert world.gpus.facts(process) == {}
    assert world.gpus.container_facts(A) == {"ContainerGpuHours": 0.0, "ContainerGpuDevices": 0}
    assert not world.gpus.is_notable(A)
    assert world.gpus.attributions() == {"none": 0, "alone": 0, "shared": 0}


def test_a_container_keeps_the_hours_of_processes_that_ended(world: World) -> None:
    world.add(7, A)
    for pid in (7, 7, 8, 8):
        world.add(pid, A)
        world.tick([pid, 0, None, 1.0, 1])
    assert world.gpus.container_facts(A)["ContainerGpuHours"] == pytest.approx(30 / 3600)
    world.gpus.end_tick({A})
    assert world.gpus.container_facts(A)
    world.gpus.end_tick({B})
    assert world.gpus.container_facts(A) == {}


def test_a_gap_between_two_readings_counts_for_half_a_minute_at_most(world: World) -> None:
    world.add(7, A)
    world.tick([7, 0, None, 1.0, 1])
    world.silence(30.0)
    world.tick([7, 0, None, 1.0, 1])
    assert world.gpus.used_s[A] <= 35.0


@given(
    rounds=st.lists(
        st.lists(
            st.tuples(
                st.integers(1, 9),
                st.integers(0, 2),
                st.none() | st.integers(0, 3),
                st.none() | st.floats(-1, 2, allow_nan=False),
                st.none() | st.integers(0, 1 << 40),
            ),
            max_size=8,
        ),
        max_size=5,
    )
)
def test_whatever_is_listed_times_do_not_run_back_and_no_container_gets_more_than_all(
    rounds: list[list[tuple[Any, ...]]],
) -> None:
    world = World()
    for pid in range(1, 7):
        world.add(pid, A if pid % 2 else B)
    for uses in rounds:
        world.tick(*map(list, uses), devices=[H100, {**H100, "busy": None}])
        for key, used_s in world.gpus.used_s.items():
            assert 0 <= used_s <= world.gpus.possible_s[key]
        assert sum(world.gpus.used_s.values()) <= TICK_S * max(2, len(uses)) + 1e-6
        for process in (user.process for user in world.users.values()):
            assert all(
                not isinstance(value, float) or value >= 0
                for value in world.gpus.facts(process).values()
            )
