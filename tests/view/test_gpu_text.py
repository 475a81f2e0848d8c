"""Use of GPUs, as cells and as a sentence."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from msgspec import structs

from minerwatch.api.snapshot import decode, encode
from minerwatch.api.statuses import container_status
from minerwatch.api.types import ContainerStatus, GpuStatus
from minerwatch.model import Facts
from minerwatch.view.columns import gpus
from minerwatch.view.explanation import sections
from minerwatch.view.gpu_text import gpu_sentence, process_gpus
from minerwatch.view.screen.containers import View
from minerwatch.view.screen.process_list import encode_processes, process_table
from minerwatch.view.screen.processes import ProcessRow, process_rows
from minerwatch.view.selection import busy, sorted_by
from tests.builders import make_container, make_observation
from tests.report.samples import MINER, NOW, process

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


def test_a_container_that_has_used_a_gpu_and_uses_none_now() -> None:
    assert gpu_sentence(status({"ContainerGpuHours": 5.0, "ContainerGpuDevices": 0})) == (
        "none known to be in use now; 5.00 GPU hours since the agent first saw it"
    )


def test_a_sentence() -> None:
    assert gpu_sentence(status({})) == ""
    assert gpu_sentence(status({**MEASURED, "GpuRequested": False})) == (
        "0.97 busy, 1 device; requested none; 68 GiB of their memory; 26.50 GPU hours,"
        " 10.00 kWh since the agent first saw it"
    )
    assert gpu_sentence(
        status({"ContainerGpuHours": 0.0, "ContainerGpuDevices": 2, "ContainerGpuLimit": 2.0})
    ) == ("not known how busy, 2 devices; 2 requested; 0.00 GPU hours since the agent first saw it")


def test_the_snapshot_has_it() -> None:
    (read,) = decode(encode([status({**MEASURED, "GpuRequested": False})]))
    assert read.gpu == GpuStatus(0.97, None, False, 26.5, 1, 70_000 << 20, 36e6)
    (older,) = decode(encode([status({})]))
    assert older.gpu is None


def test_it_sorts_and_is_busy() -> None:
    idle, little, much = (
        structs.replace(status(gpu), cpu_cores=0.0, container=name)
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


IDLE = process(pid=7, cpu_cores=0.0)
ON_GPU = process(pid=8, cpu_cores=0.02, comm="srv", gpus=0.97, gpu_memory_bytes=8 << 30)
NODE = (
    structs.replace(
        MINER, processes=(IDLE, ON_GPU), gpu=GpuStatus(0.97, None, False, 2.5, 1, 8 << 30, None)
    ),
)


def rows(**changes: object) -> tuple[ProcessRow, ...]:
    return process_rows(NODE, replace(View(is_folded=False), **changes))  # type: ignore[arg-type]


def test_processes_have_columns_where_one_uses_a_gpu() -> None:
    assert [each.first.pid for each in rows(sort="gpu")] == [8]
    now = datetime(2026, 11, 20, tzinfo=UTC)
    title, line = process_table(rows(), now=now, width=200, colour=False).splitlines()
    assert re.search(r" GPU +GPU-MEM ", title)
    assert re.search(r" 0\.97 +8\.0 GiB ", line)
    without = process_rows((structs.replace(NODE[0], processes=(process(),)),), View())
    assert "GPU" not in process_table(without, now=now, width=200, colour=False)
    (listed,) = json.loads(encode_processes(rows()))
    assert (listed["gpus"], listed["gpu_memory_bytes"]) == (0.97, 8 << 30)
    (unknown,) = json.loads(encode_processes(without))
    assert unknown["gpus"] is None


def test_an_explanation_has_the_gpus_of_a_process() -> None:
    text = "\n".join(line.text for _, part in sections(NODE[0], NOW) for line in part)
    assert "keeps 0.97 GPUs busy, 8.0 GiB of their memory" in text
    assert process_gpus(IDLE) == ""
