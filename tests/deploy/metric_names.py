"""Which metrics there are, so that no alert and no panel waits for one that never comes."""

from __future__ import annotations

import re

from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import GOLDEN

_CLUSTER = "it comes with the agent's cluster mode"

AWAITED = {
    "minerwatch_pods_synced_timestamp_seconds": _CLUSTER,
    "minerwatch_unmapped_containers": _CLUSTER,
    "minerwatch_canary_last_seen_timestamp_seconds": "it comes with the canary of helm test",
    "minerwatch_container_signal_score": "the score of each kind of evidence, while flagged",
    "minerwatch_rule_info": "the title of each rule, to be joined with its id",
    "minerwatch_rules_broken": "rule files that cannot be used now",
}
"""Metrics that rules and dashboard use already; what is missing until they are exported."""

OTHERS = {"up", "ALERTS", "kube_pod_labels", "kube_pod_owner"} | {
    f"kube_daemonset_status_{what}" for what in ("desired_number_scheduled", "number_ready")
}
"""Those of Prometheus and kube-state-metrics."""

_NAME = re.compile(r"(?<![\w:])(?:minerwatch[_:][\w:]+|kube_\w+|up(?=\{)|ALERTS)(?![\w:])")
_TEXT = re.compile(r'"[^"]*"')


def metric_names(expression: str) -> list[str]:
    """The metrics that ``expression`` names, but for those within quotes."""
    return list(dict.fromkeys(_NAME.findall(_TEXT.sub('""', expression))))


def exported() -> set[str]:
    """What the agent exports, by the golden file of its metrics."""
    families = text_string_to_metric_families((GOLDEN / "metrics.prom").read_text())
    return {sample.name for family in families for sample in family.samples}
