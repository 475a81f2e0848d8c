"""The sampler on a library of the tests: what it answers, what fails, what is missing."""

from __future__ import annotations

import ctypes
import io
import json
import time
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from minerwatch.node.children import gpu_nvml, gpu_pipes
from minerwatch.node.children.gpu_files import owner_of
from minerwatch.node.children.gpu_sampler import MAX_USES, NO_NVML, GpuSampler, serve
from minerwatch.node.guarded_child import MAX_LINE_BYTES
from tests.node.fake_gpus import built, make_card, make_client
from tests.waiting import until

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
        "left_out": 0,
        "pipes": {},
    }
    assert (second["id"], second["busy"], second["watts"]) == ("GPU-2", 0.0, 0.0)
    assert answer["uses"] == [(7, 0, None, 0.97, 4096)]
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
    assert answer["uses"] == [(7, 0, None, 0.97, 4096)]
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
    assert sampler.answer({})["uses"] == [(7, 0, None, 0.97, None)]


def test_shares_that_are_not_supported_are_not_known(sampler: GpuSampler, scenario: Path) -> None:
    scenario.write_text(f"fail nvmlDeviceGetProcessUtilization 3\n{TWO_GPUS}")
    answer = sampler.answer({})
    assert answer["uses"] == [(7, 0, None, None, 4096)]
    assert answer["failures"] == {}


def test_newer_cards_tell_shares_by_a_newer_function(sampler: GpuSampler, scenario: Path) -> None:
    scenario.write_text(TWO_GPUS.replace("share 7 97", "share 7 0\nnewshare 7 88"))
    assert sampler.answer({})["uses"] == [(7, 0, None, 0.88, 4096)]


def test_instances_are_apart_and_the_card_has_no_rate(sampler: GpuSampler, scenario: Path) -> None:
    scenario.write_text(
        "gpu GPU-1 NVIDIA H100\nmig 1\nutil 50\nproc 7 100 1 0\nproc 8 200 2 0\n"
        "fail nvmlDeviceGetProcessUtilization 3\n"
    )
    answer = sampler.answer({})
    (device,) = answer["devices"]
    assert (device["is_split"], device["busy"]) == (True, None)
    assert sorted(answer["uses"]) == [(7, 0, 1, None, 100), (8, 0, 2, None, 200)]


def test_vulkan_is_listed_as_graphics(sampler: GpuSampler, scenario: Path) -> None:
    scenario.write_text("gpu GPU-1 A\nutil 90\ngraphics 9 4096\nshare 9 90\n")
    assert sampler.answer({})["uses"] == [(9, 0, None, 0.9, 4096)]


def test_ten_thousand_idle_contexts_hide_no_busy_one(sampler: GpuSampler, scenario: Path) -> None:
    scenario.write_text("gpu GPU-1 A\nutil 50\nmany 10000\nproc 7 1\nshare 7 3\n")
    answer = sampler.answer({})
    assert answer["uses"][0] == (7, 0, None, 0.03, 1)
    assert len(answer["uses"]) == MAX_USES
    assert answer["devices"][0]["left_out"] == 10001 - MAX_USES
    assert len(json.dumps(answer)) < MAX_LINE_BYTES


def test_contexts_of_one_container_hide_none_of_another(
    sampler: GpuSampler, scenario: Path, tmp_path: Path
) -> None:
    cgroups = {
        7: "/kubepods/pod1/a",
        8: "/kubepods/pod1/b/made/by:itself",
        9: "/../../../besteffort/pod1/b",
    }
    for pid, cgroup in cgroups.items():
        (tmp_path / "proc" / str(pid)).mkdir(parents=True)
        (tmp_path / "proc" / str(pid) / "cgroup").write_text(f"0::{cgroup}\n1:cpu:/\n")
    scenario.write_text(
        "gpu GPU-1 A\nmany 10000\nfail nvmlDeviceGetProcessUtilization 3\n"
        "gpu GPU-2 A\nproc 7 1\nproc 8 1\nproc 9 1\n"
    )
    answer = sampler.answer({})
    assert {7, 8, 9} <= {pid for pid, *_ in answer["uses"]}
    assert [each["left_out"] for each in answer["devices"]] == [10003 - MAX_USES, 0]
    assert [owner_of(str(tmp_path / "proc"), pid) for pid in (7, 8, 9, 10)] == [
        *("kubepods/pod1/a", "kubepods/pod1/b/made", "besteffort/pod1/b", ""),
    ]


def test_a_list_over_the_bound_is_counted_and_hides_no_share(
    sampler: GpuSampler, scenario: Path
) -> None:
    scenario.write_text(f"gpu GPU-1 A\nutil 50\nmany {gpu_nvml.MAX_ENTRIES}\nproc 7 1\nshare 7 3\n")
    answer = sampler.answer({})
    assert answer["uses"] == [(7, 0, None, 0.03, None)]
    assert answer["failures"] == {"nvmlDeviceGetComputeRunningProcesses_v3_7": 1}


def test_a_share_of_a_process_that_has_exited_is_nobodys(
    sampler: GpuSampler, scenario: Path
) -> None:
    scenario.write_text(f"{TWO_GPUS.partition('proc')[0]}share 7 97\n")
    assert sampler.answer({})["uses"] == []


def test_clients_of_mps_are_listed_beside_its_server(sampler: GpuSampler, scenario: Path) -> None:
    scenario.write_text("gpu GPU-1 A\nutil 90\nproc 5 1\nmps 7 4096\nshare 7 60\nshare 5 2\n")
    assert sampler.answer({})["uses"] == [(7, 0, None, 0.6, 4096), (5, 0, None, 0.02, 1)]


def test_shares_go_on_after_the_clock_was_set_back(
    sampler: GpuSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler.answer({})
    monkeypatch.setattr(time, "time", lambda: 1e9)
    assert sampler.answer({})["uses"] == [(7, 0, None, 0.97, 4096)]


LOST = TWO_GPUS.replace("util 98", "util 98\nlost 1")


def test_a_lost_device_is_missing_until_it_is_back_and_the_others_go_on(
    sampler: GpuSampler, scenario: Path, library: str
) -> None:
    starts = ctypes.CDLL(library).fakeStarts
    scenario.write_text(TWO_GPUS + "util 50\nenergy 1000\nproc 8 1\nshare 8 40\n")
    sampler.answer({})
    before = starts()
    scenario.write_text(LOST + "util 50\nenergy 900001000\nproc 8 1\nshare 8 40\n")
    answers = [sampler.answer({}) for _ in range(9)]
    lost = answers[0]["devices"][0]
    assert (lost["id"], lost["busy"], lost["watts"]) == ("GPU-1", None, None)
    assert all([8, "GPU-2", 0.4] in busy(each) for each in answers)
    assert [len(each["devices"]) for each in answers] == [2, *[1] * 8]
    assert answers[0]["devices"][1]["watts"] > 0, "its counters are kept"
    assert all(each["devices"][0]["watts"] is not None for each in answers[1:])
    assert starts() - before == 2 * 2, "the library is not started again at each question"
    assert answers[-1]["failures"]["nvmlDeviceGetHandleByIndex_v2_15"] == 2
    scenario.write_text(TWO_GPUS)
    assert until(lambda: busy(sampler.answer({}))) == [[7, "GPU-1", 0.97]]


def busy(answer: dict[str, Any]) -> list[list[Any]]:
    """PID, UUID and share of each process."""
    return [
        [pid, answer["devices"][number]["id"], share] for pid, number, _, share, _ in answer["uses"]
    ]


def test_devices_that_change_places_keep_their_names(sampler: GpuSampler, scenario: Path) -> None:
    first = "gpu GPU-1 A\nutil 98\nproc 7 1\nshare 7 97\n"
    second = "gpu GPU-2 B\nutil 50\nproc 8 1\nshare 8 50\n"
    for text in (first + second, second + first, second, f"gpu GPU-0 C\n{second}{first}"):
        scenario.write_text(text)
        answer = sampler.answer({})
        assert [8, "GPU-2", 0.5] in busy(answer)
        assert ([7, "GPU-1", 0.97] in busy(answer)) is (first in text)
    assert answer["failures"] == {}


def test_a_device_in_place_of_another_is_found_at_the_next_question(
    sampler: GpuSampler, scenario: Path
) -> None:
    sampler.answer({})
    scenario.write_text("gpu GPU-2 A\ngpu GPU-9 A\nutil 98\nproc 7 1\nshare 7 50\n")
    assert busy(sampler.answer({})) == []
    assert busy(sampler.answer({})) == [[7, "GPU-9", 0.5]]


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
        assert answer["uses"] == [(9, 0, None, None, None)]
        assert answer["sources"] == ["amdgpu"]
        assert answer["failures"] == failures


def test_lines_are_answered_until_the_input_ends(sampler: GpuSampler) -> None:
    answers = io.BytesIO()
    serve(sampler, io.BytesIO(b'{"pids": []}\n{"pids": ["x"]}\n'), answers)
    assert len(answers.getvalue().splitlines()) == 2


PIPES = """\
gpm 2 99.5
gpm 4 97
gpm 5 0
gpm 10 250
gpm 12 nan
gpm 13 -1
gpm 20 3.5
"""
PIPES_ON = {"pipes": True}


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readings are a second apart."""
    times_s = count(1.0)
    monkeypatch.setattr(time, "monotonic", lambda: next(times_s))


def pipes(sampler: GpuSampler, **question: Any) -> list[dict[str, float]]:
    return [each["pipes"] for each in sampler.answer(question)["devices"]]


@pytest.mark.usefixtures("apart")
def test_pipes_are_means_between_two_readings(sampler: GpuSampler, scenario: Path) -> None:
    scenario.write_text(TWO_GPUS.replace("util 98\n", f"util 98\n{PIPES}"))
    assert pipes(sampler, pipes=True) == [{}, {}]
    found = {"sm": 0.995, "integer": 0.97, "tensor": 0.0, "dram": 1.0, "host_sent": 3.5}
    assert pipes(sampler, pipes=True) == [found, {}], "the second one has none: before Hopper"
    assert sampler.answer(PIPES_ON)["failures"] == {}
    assert pipes(sampler) == [{}, {}]


@pytest.mark.parametrize(
    "function", [f"nvmlGpm{each}" for each in ("QueryDeviceSupport", "SampleAlloc", "SampleGet")]
)
def test_nothing_of_gpm_is_called_unless_pipes_are_asked_for(
    sampler: GpuSampler, scenario: Path, function: str
) -> None:
    scenario.write_text(f"fail {function} 999\n{TWO_GPUS}{PIPES}")
    assert sampler.answer({})["failures"] == {}
    assert sampler.answer({"pipes": "yes"})["failures"] == {}
    assert [each["pipes"] for each in sampler.answer(PIPES_ON)["devices"]] == [{}, {}]
    assert sampler.answer({})["failures"][f"{function}_999"]


def test_two_readings_at_once_make_no_figure(
    sampler: GpuSampler, scenario: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario.write_text(f"gpu GPU-1 H100\n{PIPES}")
    found = []
    for at_s in (1.0, 1.05, 1.2):
        monkeypatch.setattr(time, "monotonic", lambda at_s=at_s: at_s)
        found.append(bool(pipes(sampler, pipes=True)[0]))
    assert found == [False, False, True]


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("why", ["mig 1", "mps 9 4096"])
def test_pipes_of_a_card_in_instances_or_under_mps_are_not_read(
    sampler: GpuSampler, scenario: Path, why: str
) -> None:
    alone = f"gpu GPU-1 H100\n{PIPES}"
    found = []
    for text in (alone, alone, alone + why, alone, alone):
        scenario.write_text(text)
        found.append(bool(pipes(sampler, pipes=True)[0]))
    assert found == [False, True, False, False, True], "a window in which it was shared is none"


@pytest.mark.usefixtures("apart")
def test_samples_are_freed(sampler: GpuSampler, scenario: Path, library: str) -> None:
    allocated = ctypes.CDLL(library).fakeSamples
    before = allocated()
    scenario.write_text(f"gpu GPU-1 H100\n{PIPES}gpu GPU-2 H100\n{PIPES}")
    pipes(sampler, pipes=True)
    assert allocated() - before == 4
    scenario.write_text(f"gpu GPU-1 H100\nlost 1\n{PIPES}gpu GPU-2 H100\n{PIPES}")
    for _ in range(9):
        pipes(sampler, pipes=True)
    assert allocated() - before == 2
    assert pipes(sampler, pipes=True)[0]
    scenario.write_text("fail nvmlDeviceGetCount_v2 9\n")
    sampler.answer(PIPES_ON)
    assert allocated() == before


def test_a_driver_without_gpm_has_no_pipes(tmp_path: Path, scenario: Path) -> None:
    scenario.write_text(f"gpu GPU-1 A100\n{PIPES}")
    sampler = GpuSampler(str(tmp_path), str(tmp_path), built(tmp_path, "-DOLD"))
    assert sampler.answer(PIPES_ON)["failures"] == {}
    assert pipes(sampler, pipes=True) == [{}]


METRICS = {
    "sm": "SM_UTIL",
    "integer": "INTEGER_UTIL",
    "tensor": "ANY_TENSOR_UTIL",
    "tensor_float": "HMMA_TENSOR_UTIL",
    "tensor_int8": "IMMA_TENSOR_UTIL",
    "dram": "DRAM_BW_UTIL",
    "fp64": "FP64_UTIL",
    "fp32": "FP32_UTIL",
    "fp16": "FP16_UTIL",
    "host_sent": "PCIE_TX_PER_SEC",
    "host_received": "PCIE_RX_PER_SEC",
}


def test_structures_are_those_of_the_vendor() -> None:
    pynvml = pytest.importorskip(
        "pynvml", reason="compares with NVIDIA's own binding: pip install nvidia-ml-py"
    )
    for ours, theirs in (
        (gpu_nvml.ProcessInfo, pynvml.c_nvmlProcessInfo_v3_t),
        (gpu_nvml.Utilization, pynvml.c_nvmlProcessUtilizationSample_t),
        (gpu_nvml.NewUtilization, pynvml.c_nvmlProcessUtilizationInfo_v1_t),
        (gpu_nvml.NewUtilizations, pynvml.c_nvmlProcessesUtilizationInfo_v1_t),
        (gpu_pipes.Support, pynvml.c_nvmlGpmSupport_t),
        (gpu_pipes.Metric, pynvml.c_nvmlGpmMetric_t),
    ):
        assert _layout(ours) == _layout(theirs)
    of_all, vendors = gpu_pipes.Metrics, pynvml.c_nvmlGpmMetricsGet_t
    assert _layout(of_all)[:4] == _layout(vendors)[:4]
    assert of_all.metrics.offset == vendors.metrics.offset
    assert of_all.metrics.size >= vendors.metrics.size
    assert pynvml.NVML_GPM_METRICS_GET_VERSION == pynvml.NVML_GPM_SUPPORT_VERSION == 1
    ids = {name: getattr(pynvml, f"NVML_GPM_METRIC_{each}") for name, each in METRICS.items()}
    assert ids == gpu_pipes.METRICS
    version = ctypes.sizeof(gpu_nvml.NewUtilizations) | 1 << 24
    assert version == pynvml.ProcessesUtilizationInfo_v1


def _layout(kind: Any) -> list[tuple[int, int]]:
    fields = [field for field in vars(kind).values() if type(field).__name__ == "CField"]
    return [(field.offset, field.size) for field in fields] + [(ctypes.sizeof(kind), 0)]
