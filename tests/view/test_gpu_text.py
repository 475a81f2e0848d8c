"""Use of GPUs, as cells and as a sentence."""

from __future__ import annotations

from dataclasses import replace

import pytest

from minerwatch.api.snapshot import container_status, decode, encode
from minerwatch.api.types import ContainerStatus, GpuStatus
from minerwatch.model import Facts
from minerwatch.view.columns import gpus
from minerwatch.view.gpu_text import gpu_sentence
from minerwatch.view.selection import busy, sorted_by
from tests.builders import make_container, make_observation

MEASURED: Facts = {
    "ContainerGpuBusy": 0.97,
    "ContainerGpuHours": 26.5,
    "ContainerGpuDevices": 1,
    "ContainerGpuMemoryMiB": 70_000.0,
    "ContainerGpuJoules": 36e6,
}


def status(gpu: Facts) -> ContainerStatus:
    observation = replace(make_observation(make_container()), gpu=gpu)
    return container_status(observation, node="n", boot_unix_s=0.0)


@pytest.mark.parametrize(
    ("gpu", "cell"),
    [
        ({}, "-"),
        (MEASURED, "0.97"),
        ({**MEASURED, "GpuRequested": False}, "!0.97"),
        ({**MEASURED, "GpuRequested": True, "ContainerGpuLimit": 2.0}, "0.97/2"),
        ({"ContainerGpuHours": 0.0, "ContainerGpuDevices": 1}, "?"),
    ],
)
def test_a_cell(gpu: Facts, cell: str) -> None:
    assert gpus(status(gpu)) == cell


def test_a_sentence() -> None:
    assert gpu_sentence(status({})) == ""
    assert gpu_sentence(status({**MEASURED, "GpuRequested": False})) == (
        "0.97 busy, 1 device; requested none; 68 GiB of their memory; 26.50 GPU hours; 10.00 kWh"
    )
    assert gpu_sentence(
        status({"ContainerGpuHours": 0.0, "ContainerGpuDevices": 2, "ContainerGpuLimit": 2.0})
    ) == ("not known how busy, 2 devices; 2 requested; 0.00 GPU hours")


def test_the_snapshot_has_it() -> None:
    (read,) = decode(encode([status({**MEASURED, "GpuRequested": False})]))
    assert read.gpu == GpuStatus(0.97, None, False, 26.5, 1, 70_000 << 20, 36e6)
    (older,) = decode(encode([status({})]))
    assert older.gpu is None


def test_it_sorts_and_is_busy() -> None:
    idle, little, much = (
        replace(status(gpu), cpu_cores=0.0, container=name)
        for name, gpu in (
            ("idle", {}),
            ("little", {**MEASURED, "ContainerGpuBusy": 0.1, "ContainerGpuHours": 99.0}),
            ("much", MEASURED),
        )
    )
    every = [idle, little, much]
    assert [each.container for each in sorted_by(every, "gpu")] == ["much", "little", "idle"]
    assert [each.container for each in sorted_by(every, "gpu-hours")] == ["little", "much", "idle"]
    assert busy(every) == [little, much]
