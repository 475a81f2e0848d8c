"""Metrics on GPUs: how many are used and by how many, from which source, what flagged ones cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Metric
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

from minerwatch.model import Level
from minerwatch.report.flagged_use import FlaggedUse


@dataclass(frozen=True, slots=True)
class GpuFigures:
    """GPUs of the node."""

    sources: Sequence[str] = ()  # "nvidia 580.1": the driver, and its version if it has one
    attributions: Mapping[str, int] = field(default_factory=dict)  # none, alone, shared -> GPUs
    unrequested: int = 0  # in use by pods that requested none, or fewer


class GpuMetrics(Collector):
    """Series on GPUs; those of the node exist only where there is a GPU."""

    def __init__(self, registry: CollectorRegistry, now_s: Callable[[], float]) -> None:
        self.figures = GpuFigures()
        self._time, self._energy = (
            FlaggedUse(
                Counter(f"minerwatch_{name}", text, ("namespace", "level"), registry=registry),
                now_s,
            )
            for name, text in (
                ("flagged_gpu_seconds", "GPU time used by containers while they were flagged."),
                (
                    "flagged_gpu_energy_joules",
                    "Energy of GPUs that only one container used, while it was flagged.",
                ),
            )
        )
        registry.register(self)

    def flagged(self, namespace: str, level: Level, gpu_s: float, joules: float) -> None:
        """Add what a flagged container used since the last tick."""
        self._time.add(namespace, level, gpu_s)
        self._energy.add(namespace, level, joules)

    def expire(self) -> None:
        """Remove namespaces that have used nothing for a day."""
        self._time.expire()
        self._energy.expire()

    def collect(self) -> Iterator[Metric]:
        """Yield the series of the node."""
        gpus = GaugeMetricFamily(
            "minerwatch_gpus",
            "GPUs by the containers that use each: none, one alone, or shared.",
            labels=["attribution"],
        )
        for attribution, count in self.figures.attributions.items():
            gpus.add_metric([attribution], count)
        yield gpus
        unrequested = GaugeMetricFamily(
            "minerwatch_unrequested_gpus", "GPUs in use beyond those that pods requested."
        )
        if self.figures.attributions:
            unrequested.add_metric([], self.figures.unrequested)
        yield unrequested
        source = GaugeMetricFamily(
            "minerwatch_gpu_source_info",
            "1 for each driver that answers, with its version.",
            labels=["source", "driver"],
        )
        for each in sorted(set(self.figures.sources)):
            name, _, version = each.partition(" ")
            source.add_metric([name, version], 1.0)
        yield source
