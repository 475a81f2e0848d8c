"""Use of a GPU proves no abuse but its own: it is never `likely`, and never acted on."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.abuse_text import text_of
from minerwatch.authoring.recordings import Recording, counted_matches, replayed
from minerwatch.detection.gpu_fields import GPU_FIELDS, PIPE_FIELDS
from minerwatch.model import Abuse, Facts, Maturity, Signal
from tests import shipped

DAY_S = 86400.0
UNREQUESTED: dict[str, Any] = {
    "GpuRequested": False,
    "ContainerGpuLimit": 0.0,
    "PodNamespace": "hub",
}
BUSY: dict[str, Any] = {
    "GpuDevices": 1, "GpuBusy": 0.98, "GpuBusyFor": 1e6, "GpuHours": 300.0, "GpuFlatness": 1.0,
    "GpuMemoryMiB": 70000.0, "ContainerGpuBusy": 0.98, "ContainerGpuHours": 300.0,
    "ContainerGpuDevices": 1,
}  # fmt: skip


def verdict(facts: Facts) -> tuple[float, str, bool]:
    outcome = replayed(recording(facts), shipped.matcher())
    return outcome.score, outcome.level, outcome.cullable


def recording(facts: Facts) -> Recording:
    return Recording(1, "", DAY_S, facts)


def abuses(facts: Facts) -> set[Abuse]:
    matches = counted_matches(recording(facts), shipped.matcher())
    return {each.rule.abuse for each in matches if each.rule.signal is not Signal.BEHAVIOUR}


_NUMBERS = [each.name for each in GPU_FIELDS if each.unit != "bool"]


PIPES = st.fixed_dictionaries(
    {}, optional={name: st.sampled_from((0.0, 0.3, 0.6, 1.0)) for name in PIPE_FIELDS}
)


@given(
    numbers=st.dictionaries(st.sampled_from(_NUMBERS), st.floats(0, 1e6), max_size=12),
    pipes=PIPES,
    requested=st.none() | st.booleans(),
    cores=st.none() | st.floats(0, 64),
    libraries=st.lists(st.sampled_from(("cuda", "hip", "opencl", "nvml", "torch")), unique=True),
)
def test_whatever_a_gpu_does_alone_is_not_likely_and_not_acted_on(
    numbers: dict[str, float],
    pipes: dict[str, float],
    requested: bool | None,
    cores: float | None,
    libraries: list[str],
) -> None:
    facts: dict[str, Any] = {
        **numbers,
        **pipes,
        "Image": "/opt/conda/bin/python3.11",
        "Comm": "python3.11",
    }
    facts |= {"GpuLibraries": (*libraries,)} if libraries else {}
    facts |= {} if requested is None else {"GpuRequested": requested}
    facts |= {} if cores is None else {"CpuCores": cores, "ContainerCpuCores": cores}
    _, level, is_cullable = verdict(facts)
    assert level in ("clear", "suspicious")
    assert not is_cullable
    assert abuses(facts) <= {Abuse.UNREQUESTED_GPU}


def test_a_program_in_plain_cuda_is_clear_whatever_it_adds_up_to() -> None:
    requested: Facts = {"GpuRequested": True, "PodNamespace": "hub", "GpuLibraries": ("cuda",)}
    recording = Recording(1, "", DAY_S, {**BUSY, **requested})
    titles = {each.rule.title for each in counted_matches(recording, shipped.matcher())}
    assert "GPU kept busy without a library for science, learning or video" in titles
    assert verdict({**BUSY, **requested}) == (20.0, "clear", False), "the highest alone"


def test_a_gpu_that_was_requested_may_be_busy_for_ever() -> None:
    assert verdict({**BUSY, "GpuRequested": True, "PodNamespace": "hub"})[1] == "clear"


HASH = {"GpuInteger": 0.97, "GpuIntegerShare": 1.0, "GpuTensor": 0.0, "GpuFp64": 0.0}
MATRICES = {"GpuTensorInt8": 0.9, "GpuTensorFloat": 0.0, "GpuDram": 0.1, "GpuHostTraffic": 0.5}
READS = {"GpuDram": 0.9, "GpuTensor": 0.0, "GpuFp64": 0.0, "GpuHostTraffic": 0.5}


@pytest.mark.parametrize("pipes", [HASH, MATRICES, READS, {**READS, **HASH}])
def test_what_a_gpu_computes_is_behaviour_and_never_enough(pipes: dict[str, float]) -> None:
    facts = {**BUSY, **pipes}
    score, level, is_cullable = verdict(facts)
    assert (score <= 29, level, is_cullable) == (True, "clear", False)
    assert len(counted_matches(recording(facts), shipped.matcher())) > len(
        counted_matches(recording(BUSY), shipped.matcher())
    )


def test_rules_on_pipes_are_behaviour_and_experimental() -> None:
    rules = [each for each in shipped.book().rules if each.fields & set(PIPE_FIELDS)]
    assert len(rules) == 3
    assert {(each.signal, each.maturity) for each in rules} == {
        (Signal.BEHAVIOUR, Maturity.EXPERIMENTAL)
    }
    assert max(each.score for each in rules) <= 29


def test_a_gpu_that_was_not_requested_is_suspicious_and_of_its_own_kind() -> None:
    facts = {**BUSY, **UNREQUESTED}
    assert verdict(facts) == (45.0, "suspicious", False)
    assert abuses(facts) == {Abuse.UNREQUESTED_GPU}
    assert text_of(Abuse.UNREQUESTED_GPU).does == "uses a GPU that it did not request"


def test_more_gpus_than_were_requested_are_suspicious_and_of_the_same_kind() -> None:
    requested = {"GpuRequested": True, "ContainerGpuLimit": 1.0, "PodNamespace": "hub"}
    facts = {**BUSY, **requested, "ContainerGpusOverRequest": 7}
    assert verdict(facts) == (45.0, "suspicious", False)
    assert abuses(facts) == {Abuse.UNREQUESTED_GPU}
    assert verdict({**facts, "ContainerGpusOverRequest": 0})[1] == "clear"


def test_many_small_processes_use_a_gpu_that_was_not_requested_together() -> None:
    assert verdict({**UNREQUESTED, "GpuBusy": 0.01, "ContainerGpuBusy": 0.9})[1] == "suspicious"


@pytest.mark.parametrize(
    "facts",
    [
        {"Image": "/tmp/a", "CommandLineHidden": False},
        {"Image": "/home/u/a", "CommandLineHidden": True},
        {"DestinationPort": ("3333",), "LongestConnection": 7200.0, "Image": "/home/u/a"},
    ],
)
def test_a_busy_gpu_is_as_good_as_a_busy_core_beside_other_signs(facts: Facts) -> None:
    idle = {**facts, "CpuCores": 0.02}
    assert verdict(idle)[1] == "clear"
    on_cpu, on_gpu = {**facts, "CpuCores": 1.0}, {**idle, "GpuBusy": 0.98}
    assert verdict(on_gpu)[1] == verdict(on_cpu)[1] == "suspicious"
