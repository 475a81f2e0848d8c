"""Metrics on GPUs: of the node, and of flagged containers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from minerwatch.model import Level
from minerwatch.report.gpu_metrics import GpuFigures
from minerwatch.report.metrics import Metrics
from tests.report.test_metrics import MINER, named, ticked


def test_a_node_without_gpus_has_no_series_of_them() -> None:
    metrics = Metrics()
    metrics.gpus_seen(GpuFigures())
    for name in ("minerwatch_gpus", "minerwatch_unrequested_gpus", "minerwatch_gpu_source_info"):
        assert named(metrics, name) == {}


def test_gpus_of_the_node() -> None:
    metrics = Metrics()
    figures = {"none": 5, "alone": 2, "shared": 1}
    metrics.gpus_seen(GpuFigures(("nvidia 580.159", "amdgpu", "amdgpu"), figures, 2))
    assert {labels[0][1]: n for labels, n in named(metrics, "minerwatch_gpus").items()} == figures
    assert named(metrics, "minerwatch_unrequested_gpus") == {(): 2}
    assert set(named(metrics, "minerwatch_gpu_source_info")) == {
        (("driver", "580.159"), ("source", "nvidia")),
        (("driver", ""), ("source", "amdgpu")),
    }


def test_gpu_time_and_energy_of_flagged_containers_are_summed_by_namespace() -> None:
    metrics = Metrics()
    metrics.flagged_gpu("hub", Level.SUSPICIOUS, 10.0, 4000.0)
    metrics.flagged_gpu("hub", Level.SUSPICIOUS, 5.0, 0.0)
    labels = (("level", "suspicious"), ("namespace", "hub"))
    assert named(metrics, "minerwatch_flagged_gpu_seconds_total") == {labels: 15.0}
    assert named(metrics, "minerwatch_flagged_gpu_energy_joules_total") == {labels: 4000.0}


def test_a_namespace_that_uses_no_gpu_for_a_day_has_no_series() -> None:
    now_s = 0.0
    metrics = Metrics(now_s=lambda: now_s)
    metrics.flagged_gpu("hub", Level.SUSPICIOUS, 10.0, 1.0)
    now_s = 90_000.0
    assert named(metrics, "minerwatch_flagged_gpu_seconds_total") == {}


@pytest.mark.parametrize(("gpus", "expected"), [(None, []), (0.97, [0.97])])
def test_a_flagged_container_has_the_gpus_that_it_keeps_busy(
    gpus: float | None, expected: list[float]
) -> None:
    metrics = ticked(Metrics(), replace(MINER, gpus=gpus))
    assert [*named(metrics, "minerwatch_container_gpus").values()] == expected
