"""Samplers of GPUs: children and sockets, drivers that hang, answers that are wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.node import gpu_use
from minerwatch.node.gpu_use import (
    Answer,
    ChildSampler,
    GpuReader,
    GpuSample,
    SocketSampler,
    gpus_seen,
)
from tests.node.fake_gpus import Scripted, answer, make_card
from tests.waiting import until

ONE_GPU = "driver 580.1\ngpu GPU-1 NVIDIA H100\nutil 98\nproc 7 4096\nshare 7 97\n"


@pytest.fixture
def scenario(scenario: Path) -> Path:
    scenario.write_text(ONE_GPU)
    return scenario


Open = Callable[..., GpuReader]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    readers: list[GpuReader] = []

    def open_reader(*samplers: Any) -> GpuReader:
        readers.append(GpuReader(samplers))
        return readers[-1]

    yield open_reader
    for reader in readers:
        reader.close()


def child(tmp_path: Path, library: str) -> ChildSampler:
    return ChildSampler(str(tmp_path / "proc"), str(tmp_path / "sys"), library)


def sample_of(reader: GpuReader) -> GpuSample:
    """The next sample."""
    ((_, sample),) = until(lambda: reader.exchange(()))
    return sample


def pids_of_samplers() -> set[int]:
    children = psutil.Process().children()
    return {each.pid for each in children if "gpu_sampler.py" in " ".join(each.cmdline())}


def test_a_child_answers_at_a_later_tick(
    tmp_path: Path, library: str, scenario: Path, opened: Open
) -> None:
    del scenario
    reader = opened(child(tmp_path, library))
    assert reader.exchange(()) == [], "it is not waited for"
    sample = sample_of(reader)
    assert [each.id for each in sample.devices] == ["GPU-1"]
    assert [(each.pid, each.busy) for each in sample.uses] == [(7, 0.97)]
    assert sample.sources == ("nvidia 580.1",)
    assert not any(reader.failures.values())


def test_a_driver_that_hangs_holds_up_no_tick_and_is_left_alone(
    tmp_path: Path, library: str, scenario: Path, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = opened(child(tmp_path, library))
    sample_of(reader)
    scenario.write_text(f"hang nvmlDeviceGetUtilizationRates 3600000\n{ONE_GPU}")
    until(lambda: not reader.exchange(()), every_s=0.1)  # an answer may still be on its way
    (pid,) = pids_of_samplers()
    monkeypatch.setattr(gpu_use, "MAX_SILENCE_S", 0.0)
    until(lambda: reader.exchange(()) == [] and reader.failures["timeout"])
    for _ in range(9):
        assert reader.exchange(()) == []
    assert reader.silent
    assert reader.failures["timeout"] == 1, "one hang is one failure"
    assert pids_of_samplers() == {pid}, "it is neither killed nor replaced"
    reader.close()
    assert psutil.Process(pid).is_running()
    os.kill(pid, signal.SIGKILL)  # the test's own


def test_a_driver_that_answers_again_is_used_again(
    tmp_path: Path, library: str, scenario: Path, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = opened(child(tmp_path, library))
    sample_of(reader)
    monkeypatch.setattr(gpu_use, "MAX_SILENCE_S", 0.0)
    scenario.write_text(f"hang nvmlDeviceGetUtilizationRates 300\n{ONE_GPU}")
    until(lambda: reader.exchange(()) == [] and reader.failures["timeout"])
    monkeypatch.undo()
    sample_of(reader)
    assert not reader.silent


def test_a_child_exits_when_its_reader_closes(
    tmp_path: Path, library: str, scenario: Path, opened: Open
) -> None:
    del scenario
    reader = opened(child(tmp_path, library))
    sample_of(reader)
    (pid,) = pids_of_samplers()
    reader.close()
    until(lambda: not psutil.pid_exists(pid))


def test_a_child_that_was_killed_is_replaced(
    tmp_path: Path, library: str, scenario: Path, opened: Open
) -> None:
    del scenario
    reader = opened(child(tmp_path, library))
    sample_of(reader)
    (pid,) = pids_of_samplers()
    os.kill(pid, signal.SIGKILL)
    until(lambda: not reader.exchange(()) and reader.failures["sampler"])
    sample_of(reader)


@pytest.fixture
def served(tmp_path: Path, library: str, scenario: Path) -> Iterator[Path]:
    """A sampler in a container of its own, as its socket."""
    del scenario
    path = tmp_path / "gpu.sock"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "minerwatch.node.children.gpu_sampler", "--listen", path),
            *(tmp_path / "proc", tmp_path / "sys", library),
        ]
    )
    yield path
    process.kill()
    process.wait()


def test_a_sampler_behind_a_socket(served: Path, opened: Open) -> None:
    reader = opened(SocketSampler(served))
    sample = sample_of(reader)
    assert [(each.pid, each.busy) for each in sample.uses] == [(7, 0.97)]
    assert served.stat().st_mode & 0o777 == 0o600
    reader.close()
    assert sample_of(opened(SocketSampler(served))).devices, "it serves the next client"


def test_a_socket_that_is_missing_is_counted_and_tried_again(tmp_path: Path, opened: Open) -> None:
    reader = opened(SocketSampler(tmp_path / "no.sock"))
    assert reader.exchange(()) == reader.exchange(()) == []
    assert reader.failures["sampler"] == 2


def test_nonsense_ends_a_sampler_and_is_counted(opened: Open) -> None:
    sampler = Scripted(b'{"at_s": NaN}', b"[1, 2", b'{"uses": 7, "at_s": 1.0}')
    reader = opened(sampler)
    for _ in range(6):
        assert reader.exchange(()) == []
    assert sampler.discarded == reader.failures["sampler"] == 3


def test_pids_of_another_namespace_are_nobodys(opened: Open) -> None:
    reader = opened(Scripted(answer(pid_namespace="pid:[7]", uses=[[7, 0, None, 1.0, 1]])))
    reader.exchange(())
    assert reader.exchange(()) == []
    assert reader.failures["foreign_pids"] == 1


def test_failed_calls_are_counted_once_each_and_few_reasons_kept(opened: Open) -> None:
    many = {f"nvmlCall_{n}": 1 for n in range(100)}
    reader = opened(
        Scripted(
            answer(failures={"nvmlA_999": 2}),
            answer(failures={"nvmlA_999": 5}),
            answer(failures={"nvmlA_999": 5, "nvml\n\x1b[2J": 1, **many}),
        )
    )
    for _ in range(4):
        reader.exchange(())
    assert reader.failures["nvmlA_999"] == 5
    assert len(reader.failures) < 40
    assert all(name.isprintable() for name in reader.failures)


def test_what_is_out_of_range_is_left_out(opened: Open) -> None:
    device = {
        "id": "a\nb\x1b[2J",
        "name": "n" * 999,
        "busy": 7.0,
        "watts": -1.0,
        "pipes": {"sm": -1, "dram": 0.5},
    }
    uses = [[7, 0, None, 9.0, 5], [0, 0, None, 1.0, 5], [8, 1, None, 1.0, 5], [9, 0, 2, None, -1]]
    reader = opened(Scripted(answer(devices=[device], uses=uses)))
    reader.exchange(())
    ((_, sample),) = reader.exchange(())
    assert [(each.pid, each.busy, each.memory_bytes) for each in sample.uses] == [
        *((7, 1.0, 5), (0, 1.0, 5), (9, None, None)),
    ]
    (one,) = sample.devices
    assert one.id.isprintable()
    assert len(one.name) <= 64
    assert (one.busy, one.watts, one.pipes) == (1.0, None, {"dram": 0.5})


@given(st.binary(max_size=200))
def test_any_line_is_refused_or_makes_a_sample(data: bytes) -> None:
    try:
        sample = msgspec.json.decode(data, type=Answer).sample()
    except (ValueError, RecursionError):
        return
    assert all(use.device < len(sample.devices) for use in sample.uses)


def test_two_samplers_are_asked_apart(opened: Open) -> None:
    hangs, works = Scripted(), Scripted(*[answer()] * 3)
    reader = opened(hangs, works)
    found = [reader.exchange((1, 2)) for _ in range(4)]
    assert [len(each) for each in found] == [0, 1, 1, 1]
    assert len(hangs.asked) == 1
    assert works.asked == [{"pids": [1, 2]}] * 4


def test_pipes_are_asked_for_only_if_they_are_wanted() -> None:
    sampler, usual = Scripted(), Scripted()
    GpuReader([sampler], with_pipes=True).exchange((7,))
    GpuReader([usual]).exchange((7,))
    assert (sampler.asked, usual.asked) == ([{"pids": [7], "pipes": True}], [{"pids": [7]}])


def test_gpus_that_the_kernel_knows(tmp_path: Path) -> None:
    proc, sys_root = tmp_path / "proc", tmp_path / "sys"
    assert [*gpus_seen(proc, sys_root)] == []
    (proc / "driver/nvidia/gpus/0000:01:00.0").mkdir(parents=True)
    make_card(sys_root)
    make_card(sys_root, 129, driver="virtio_gpu")
    assert [*gpus_seen(proc, sys_root)] == ["nvidia", "amdgpu"]
