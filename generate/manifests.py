"""Plain manifests, for use without helm: the chart rendered with its default values."""

from __future__ import annotations

import subprocess
from pathlib import Path

_DEPLOY = Path(__file__).parent.parent / "deploy"
CHART = _DEPLOY / "helm" / "minerwatch"
MANIFESTS = _DEPLOY / "manifests"

_NAMESPACE = """\
apiVersion: v1
kind: Namespace
metadata:
  name: minerwatch
  labels:
    # The agents use hostPID, hostNetwork and hostPath; the other two levels forbid these.
    pod-security.kubernetes.io/enforce: privileged
"""
_HEADER = "# Written by `make generate` from deploy/helm/minerwatch: {}\n"

_SETS = {
    "minerwatch.yaml": ("its own values", ()),
    "minerwatch-pod-network.yaml": (
        "no exec events; the agents stay in the pod network, behind a NetworkPolicy",
        ("config.probes.execs=false",),
    ),
}
_MONITORING = ("podMonitor", "prometheusRule", "dashboard")


def manifests(helm: str) -> dict[Path, str]:
    """Return each file's content. Raises CalledProcessError if helm refuses the chart."""
    found = {
        MANIFESTS / name: _NAMESPACE + rendered(helm, *(f"--set={value}" for value in values))
        for name, (_, values) in _SETS.items()
    }
    switched_on = [f"--set={part}.enabled=true" for part in _MONITORING]
    shown = [f"--show-only=templates/{part.lower()}.yaml" for part in _MONITORING]
    found[MANIFESTS / "monitoring.yaml"] = rendered(helm, *switched_on, *shown)
    told = {MANIFESTS / name: what for name, (what, _) in _SETS.items()}
    told[MANIFESTS / "monitoring.yaml"] = "for clusters with the Prometheus operator"
    return {path: _HEADER.format(told[path]) + text for path, text in found.items()}


def rendered(helm: str, *options: str) -> str:
    """Return the chart as ``helm template`` renders it, without tests and hooks."""
    done = subprocess.run(
        [
            *(helm, "template", "minerwatch", str(CHART), "--namespace=minerwatch"),
            *("--skip-tests", "--no-hooks", "--kube-version=1.37.0"),
            *options,
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout
