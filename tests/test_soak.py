"""The soak's short form: seconds of what ``make soak`` does for minutes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import needs_root
from tests.soak.chaos import TOLD_WITHIN_TICKS, Limits, Outcome, Soak

pytestmark = [
    needs_root,
    pytest.mark.skipif(shutil.which("prlimit") is None, reason="limits the agent: util-linux"),
]
_SECONDS = 10.0
_SURE = ("likely", "confirmed")


@pytest.mark.parametrize("in_cluster", [False, True], ids=["by itself", "in a cluster"])
def test_the_agent_outlives_whatever_happens_around_it(tmp_path: Path, in_cluster: bool) -> None:
    limits = Limits(memory_mib=128 if in_cluster else 80, cpu_cores=None)
    soak = Soak(tmp_path, seed=1, interval_s=0.5, limits=limits, in_cluster=in_cluster)
    outcome = soak.run(_SECONDS)
    assert outcome.exit_status == 0
    assert outcome.faults == []
    assert outcome.missed == []
    assert outcome.planted
    assert max(each.ticks for each in outcome.planted) <= TOLD_WITHIN_TICKS
    _says_what_happened(outcome, in_cluster=in_cluster)


def _says_what_happened(outcome: Outcome, *, in_cluster: bool) -> None:
    """In its own metrics."""
    counted = outcome.counted
    told = [counted.get(f'minerwatch_verdicts_total{{level="{each}"}}', 0) for each in _SURE]
    assert sum(told) >= len(outcome.planted)
    assert any(name.startswith('minerwatch_probe_failures_total{probe="http"') for name in counted)
    pods = [
        name for name in counted if name.startswith('minerwatch_probe_failures_total{probe="pods"')
    ]
    assert bool(pods) is in_cluster
