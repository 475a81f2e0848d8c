"""Pipes of a GPU are facts only on a container that alone used it from one reading to the next."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.detection.gpu_fields import PIPE_FIELDS
from minerwatch.model import ProcessId
from minerwatch.probes.gpu_pipes import pipe_facts
from tests.probes.test_gpu import A, B, Use, World

KECCAK: dict[str, float] = {
    "sm": 0.99, "integer": 0.9, "tensor": 0.0, "tensor_float": 0.0, "tensor_int8": 0.0,
    "dram": 0.01, "fp64": 0.0, "fp32": 0.1, "fp16": 0.0, "host_sent": 0.5, "host_received": 1.0,
}  # fmt: skip
H100: dict[str, Any] = {"id": "GPU-1", "name": "NVIDIA H100", "pipes": KECCAK}
OTHER: dict[str, Any] = {"id": "GPU-2", "name": "NVIDIA H100", "pipes": {**KECCAK, "sm": 0.1}}


def pipes(world: World, process: ProcessId) -> dict[str, Any]:
    facts = world.gpus.facts(process)
    return {name: value for name, value in facts.items() if name in PIPE_FIELDS}


def test_pipes_are_facts_from_the_second_reading_on() -> None:
    world = World()
    process = world.add(7, A)
    world.tick([7, 0, None, 0.9, 1], devices=[H100])
    assert pipes(world, process) == {}
    world.tick([7, 0, None, 0.9, 1], devices=[H100])
    assert pipes(world, process) == {
        "GpuInteger": 0.9,
        "GpuIntegerShare": pytest.approx(0.9),
        **dict.fromkeys(("GpuFp16", "GpuFp64"), 0.0),
        **dict.fromkeys(("GpuTensor", "GpuTensorFloat", "GpuTensorInt8"), 0.0),
        "GpuFp32": 0.1,
        "GpuDram": 0.01,
        "GpuHostTraffic": 1.5,
    }
    assert set(pipes(world, process)) == set(PIPE_FIELDS)


def test_two_processes_of_one_container_use_a_gpu_alone() -> None:
    world = World()
    first, second = world.add(7, A), world.add(8, A)
    for _ in range(2):
        world.tick([7, 0, None, 0.9, 1], [8, 0, None, 0.0, 1], devices=[H100])
    assert pipes(world, first) == pipes(world, second) != {}


SHARED = [8, 0, None, 0.1, 1]
HIDDEN = [0, 0, None, None, None]


@pytest.mark.parametrize(
    ("before", "now", "device"),
    [
        ([], [SHARED], {}),
        ([SHARED], [], {}),
        ([], [HIDDEN], {}),
        ([[99, 0, None, 0.1, 1]], [], {}),  # a process that is not known
        ([], [], {"is_split": True}),
        ([], [], {"left_out": 1}),
        ([], [], {"pipes": {}}),
        ([], [], {"id": ""}),
    ],
)
def test_pipes_of_a_shared_device_are_nobodys(
    before: list[Use], now: list[Use], device: dict[str, Any]
) -> None:
    world = World()
    process = world.add(7, A)
    world.add(8, B)
    for others in (before, now):
        world.tick([7, 0, None, 0.9, 1], *others, devices=[{**H100, **device}])
    assert pipes(world, process) == {}
    assert world.gpus.facts(process)["GpuBusy"] == 0.9


def test_a_container_that_follows_another_one_is_not_taken_for_it() -> None:
    world = World()
    world.add(7, A)
    second = world.add(8, B)
    world.tick([7, 0, None, 0.9, 1], devices=[H100])
    world.tick([8, 0, None, 0.9, 1], devices=[H100])
    assert pipes(world, second) == {}
    world.tick([8, 0, None, 0.9, 1], devices=[H100])
    assert pipes(world, second)


def test_a_device_is_known_by_its_name_when_indices_shift() -> None:
    world = World()
    of_a, of_b = world.add(7, A), world.add(8, B)
    world.tick([7, 0, None, 0.9, 1], [8, 1, None, 0.9, 1], devices=[H100, OTHER])
    world.tick([7, 1, None, 0.9, 1], [8, 0, None, 0.9, 1], devices=[OTHER, H100])
    assert pipes(world, of_a)
    assert pipes(world, of_b)
    world.tick([7, 0, None, 0.9, 1], [8, 1, None, 0.9, 1], devices=[OTHER, H100])
    assert pipes(world, of_a) == pipes(world, of_b) == {}, "they changed devices"


def test_idle_devices_dilute_nothing() -> None:
    world = World()
    process = world.add(7, A)
    idle = {**OTHER, "pipes": {**KECCAK, "sm": 0.01, "integer": 0.01, "tensor": 0.5}}
    for _ in range(2):
        world.tick([7, 0, None, 0.9, 1], [7, 1, None, 0.0, 1], devices=[H100, idle])
    assert pipes(world, process)["GpuInteger"] == 0.9


@given(st.dictionaries(st.sampled_from((*KECCAK, "x")), st.floats(0, 1)))
def test_a_share_is_of_all_that_is_known(found: dict[str, float]) -> None:
    facts = pipe_facts([found])
    assert set(facts) <= set(PIPE_FIELDS)
    share = facts.get("GpuIntegerShare")
    assert share is None or (isinstance(share, float) and 0 <= share <= 1)
