"""Which metrics there are, so that no alert and no panel waits for one that never comes."""

from __future__ import annotations

import re

from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import GOLDEN

AWAITED: dict[str, str] = {}
"""Metrics that rules and dashboard use already; what is missing until they are exported."""

OTHERS = {
    "up",
    "ALERTS",
    "kube_pod_labels",
    "kube_pod_owner",
    "container_cpu_usage_seconds_total",
} | {f"kube_daemonset_status_{what}" for what in ("desired_number_scheduled", "number_ready")}
"""Those of Prometheus, kube-state-metrics and the kubelet."""

ON_GPU_NODES = frozenset(
    ("minerwatch_gpus", "minerwatch_unrequested_gpus", "minerwatch_flagged_gpu_seconds_total")
)
"""Those of agents that see a GPU."""

_NAME = re.compile(
    r"(?<![\w:])(?:minerwatch[_:][\w:]+|kube_\w+|container_cpu_usage_seconds_total|up(?=\{)|ALERTS)(?![\w:])"
)
_TEXT = re.compile(r'"[^"]*"')


def metric_names(expression: str) -> list[str]:
    """The metrics that ``expression`` names, but for those within quotes."""
    return list(dict.fromkeys(_NAME.findall(_TEXT.sub('""', expression))))


def exported() -> set[str]:
    """What the agent exports, by the golden file of its metrics."""
    families = text_string_to_metric_families((GOLDEN / "metrics.prom").read_text())
    return {sample.name for family in families for sample in family.samples}
