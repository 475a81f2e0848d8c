"""The sampler on a library of the tests: what it answers, what fails, what is missing."""

from __future__ import annotations

import ctypes
import io
import json
from pathlib import Path
from typing import Any

import pytest

from minerwatch.node.children import gpu_nvml
from minerwatch.node.children.gpu_sampler import MAX_USES, NO_NVML, GpuSampler, serve
from minerwatch.node.guarded_child import MAX_LINE_BYTES
from tests.node.fake_gpus import built, make_card, make_client

TWO_GPUS = """\
driver 580.159.03
gpu GPU-1 NVIDIA H100 80GB HBM3
util 98
power 400500
proc 7 4096
share 7 97
gpu GPU-2 NVIDIA H100 80GB HBM3
"""


@pytest.fixture
def scenario(scenario: Path) -> Path:
    scenario.write_text(TWO_GPUS)
    return scenario


@pytest.fixture
def sampler(tmp_path: Path, library: str, scenario: Path) -> GpuSampler:
    del scenario  # the library reads it
    return GpuSampler(str(tmp_path / "proc"), str(tmp_path / "sys"), library)


def test_devices_and_processes(sampler: GpuSampler) -> None:
    answer = sampler.answer({})
    first, second = answer["devices"]
    assert first == {
        "id": "GPU-1",
        "name": "NVIDIA H100 80GB HBM3",
        "busy": 0.98,
        "watts": 400.5,
        "is_split": False,
    }
    assert (second["id"], second["busy"], second["watts"]) == ("GPU-2", 0.0, 0.0)
    assert answer["uses"] == [[7, 0, None, 0.97, 4096]]
    assert answer["sources"] == ["nvidia 580.159.03"]
    assert answer["failures"] == {}


def test_power_is_the_mean_of_the_energy_used(sampler: GpuSampler, scenario: Path) -> None:
    sampler.answer({})
    scenario.write_text(TWO_GPUS.replace("power 400500", "energy 1000000000"))
    watts = sampler.answer({})["devices"][0]["watts"]
    assert watts > 0
    assert watts != 400.5


def test_an_old_driver_lacks_functions(tmp_path: Path, scenario: Path) -> None:
    del scenario
    sampler = GpuSampler(str(tmp_path), str(tmp_path), built(tmp_path, "-DOLD"))
    answer = sampler.answer({})
    assert answer["uses"] == [[7, 0, None, 0.97, 4096]]
    assert answer["devices"][0]["watts"] == 400.5
    assert answer["failures"] == {}, "a function that is missing is no failure"


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("nvmlDeviceGetUtilizationRates", {"busy": None}),
        ("nvmlDeviceGetUUID", {"id": ""}),
        ("nvmlDeviceGetMigMode", {"is_split": False}),
    ],
)
def test_a_call_that_fails_is_counted_and_its_figure_absent(
    sampler: GpuSampler, scenario: Path, function: str, expected: dict[str, Any]
) -> None:
    scenario.write_text(f"fail {function} 999\n{TWO_GPUS}")
    answer = sampler.answer({})
    assert expected.items() <= answer["devices"][0].items()
    assert answer["failures"] == {f"{function}_999": 2}


def test_a_list_that_fails_hides_no_share(sampler: GpuSampler, scenario: Path) -> None:
    scenario.write_text(f"fail nvmlDeviceGetComputeRunningProcesses_v3 999\n{TWO_GPUS}")
    assert sampler.answer({})["uses"] == [[7, 0, None, 0.97, None]]


def test_shares_that_are_not_supported_are_not_known(sampler: GpuSampler, scenario: Path) -> None:
    scenario.write_text(f"fail nvmlDeviceGetProcessUtilization 3\n{TWO_GPUS}")
    answer = sampler.answer({})
    assert answer["uses"] == [[7, 0, None, None, 4096]]
    assert answer["failures"] == {}


def test_newer_cards_tell_shares_by_a_newer_function(sampler: GpuSampler, scenario: Path) -> None:
    scenario.write_text(TWO_GPUS.replace("share 7 97", "share 7 0\nnewshare 7 88"))
    assert sampler.answer({})["uses"] == [[7, 0, None, 0.88, 4096]]


def test_instances_are_apart_and_the_card_has_no_rate(sampler: GpuSampler, scenario: Path) -> None:
    scenario.write_text(
        "gpu GPU-1 NVIDIA H100\nmig 1\nutil 50\nproc 7 100 1 0\nproc 8 200 2 0\n"
        "fail nvmlDeviceGetProcessUtilization 3\n"
    )
    answer = sampler.answer({})
    (device,) = answer["devices"]
    assert (device["is_split"], device["busy"]) == (True, None)
    assert sorted(answer["uses"]) == [[7, 0, 1, None, 100], [8, 0, 2, None, 200]]


def test_vulkan_is_listed_as_graphics(sampler: GpuSampler, scenario: Path) -> None:
    scenario.write_text("gpu GPU-1 A\nutil 90\ngraphics 9 4096\nshare 9 90\n")
    assert sampler.answer({})["uses"] == [[9, 0, None, 0.9, 4096]]


def test_ten_thousand_idle_contexts_hide_no_busy_one(sampler: GpuSampler, scenario: Path) -> None:
    scenario.write_text("gpu GPU-1 A\nutil 50\nmany 10000\nproc 7 1\nshare 7 3\n")
    answer = sampler.answer({})
    assert answer["uses"][0] == [7, 0, None, 0.03, 1]
    assert len(answer["uses"]) == MAX_USES
    assert answer["left_out"] == 10001 - MAX_USES
    assert len(json.dumps(answer)) < MAX_LINE_BYTES


def test_a_library_that_cannot_start_is_tried_again_later(
    sampler: GpuSampler, scenario: Path
) -> None:
    scenario.write_text("fail nvmlInitWithFlags 9\n")
    assert sampler.answer({})["devices"] == []
    scenario.write_text(TWO_GPUS)
    counts = [len(sampler.answer({})["devices"]) for _ in range(6)]
    assert counts == [0, 0, 0, 0, 0, 2]


def test_a_list_of_devices_that_fails_starts_the_library_again(
    sampler: GpuSampler, scenario: Path
) -> None:
    sampler.answer({})
    scenario.write_text(f"fail nvmlDeviceGetCount_v2 1\n{TWO_GPUS}")
    answer = sampler.answer({})
    assert answer["devices"] == []
    assert answer["failures"]["nvmlDeviceGetCount_v2_1"] == 1
    scenario.write_text(TWO_GPUS)
    assert [len(sampler.answer({})["devices"]) for _ in range(6)][-1] == 2


def test_a_device_that_was_added_is_seen(sampler: GpuSampler, scenario: Path) -> None:
    sampler.answer({})
    scenario.write_text(f"{TWO_GPUS}gpu GPU-3 A\n")
    assert [each["id"] for each in sampler.answer({})["devices"]] == ["GPU-1", "GPU-2", "GPU-3"]


def test_without_a_library_there_are_the_files(tmp_path: Path) -> None:
    proc, sys = tmp_path / "proc", tmp_path / "sys"
    make_card(sys, gpu_busy_percent="70\n")
    make_client(proc, 9, pdev="0000:03:00.0", client_id="4", engine_gfx="5 ns")
    for library, failures in ((NO_NVML, {}), (str(tmp_path / "no.so"), {"nvml_missing": 1})):
        answer = GpuSampler(str(proc), str(sys), library).answer({"pids": [9]})
        assert answer["uses"] == [[9, 0, None, None, None]]
        assert answer["sources"] == ["amdgpu"]
        assert answer["failures"] == failures


def test_lines_are_answered_until_the_input_ends(sampler: GpuSampler) -> None:
    answers = io.BytesIO()
    serve(sampler, io.BytesIO(b'{"pids": []}\n{"pids": ["x"]}\n'), answers)
    assert len(answers.getvalue().splitlines()) == 2


def test_structures_are_those_of_the_vendor() -> None:
    pynvml = pytest.importorskip(
        "pynvml", reason="compares with NVIDIA's own binding: pip install nvidia-ml-py"
    )
    for ours, theirs in (
        (gpu_nvml.ProcessInfo, pynvml.c_nvmlProcessInfo_v3_t),
        (gpu_nvml.Utilization, pynvml.c_nvmlProcessUtilizationSample_t),
        (gpu_nvml.NewUtilization, pynvml.c_nvmlProcessUtilizationInfo_v1_t),
        (gpu_nvml.NewUtilizations, pynvml.c_nvmlProcessesUtilizationInfo_v1_t),
    ):
        assert _layout(ours) == _layout(theirs)
    version = ctypes.sizeof(gpu_nvml.NewUtilizations) | 1 << 24
    assert version == pynvml.ProcessesUtilizationInfo_v1


def _layout(kind: Any) -> list[tuple[int, int]]:
    fields = [field for field in vars(kind).values() if type(field).__name__ == "CField"]
    return [(field.offset, field.size) for field in fields] + [(ctypes.sizeof(kind), 0)]
