"""The soak's short form: seconds of what ``make soak`` does for minutes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import needs_root
from tests.soak.chaos import TOLD_WITHIN_TICKS, Limits, Outcome, Planted, Soak

_SECONDS = 10.0
_SEED = 1


@needs_root
@pytest.mark.skipif(
    shutil.which("prlimit") is None, reason="limits the agent: apt install util-linux"
)
@pytest.mark.quiet  # ticks are late where CPU time is short
@pytest.mark.parametrize(
    "in_cluster",
    [
        pytest.param(False, marks=pytest.mark.nightly, id="by itself"),
        pytest.param(True, marks=pytest.mark.nightly, id="in a cluster"),
    ],
)
def test_the_agent_outlives_whatever_happens_around_it(tmp_path: Path, in_cluster: bool) -> None:
    limits = Limits(memory_mib=128 if in_cluster else 80, cpu_cores=None)
    soak = Soak(tmp_path, seed=_SEED, interval_s=0.5, limits=limits, in_cluster=in_cluster)
    outcome = soak.run(_SECONDS)
    assert outcome.broken_promises(in_cluster=in_cluster) == [], f"seed {_SEED}: {outcome}"


def _kept() -> Outcome:
    counted = {
        'minerwatch_verdicts_total{level="likely"}': 1.0,
        "minerwatch_rules_reload_failures_total": 1.0,
        'minerwatch_probe_failures_total{probe="http",reason="too long"}': 1.0,
        'minerwatch_probe_failures_total{probe="pods",reason="http_503"}': 1.0,
    }
    planted = [Planted("a", TOLD_WITHIN_TICKS, 1.0)]
    return Outcome(planted=planted, counted=counted, exit_status=0)


BROKEN = {
    "nothing": Outcome(planted=[], counted=_kept().counted, exit_status=0),
    "late": replace(_kept(), planted=[Planted("a", TOLD_WITHIN_TICKS + 1, 1.0)]),
    "missed": replace(_kept(), missed=["a"]),
    "a fault": replace(_kept(), faults=["tick failed"]),
    "killed": replace(_kept(), exit_status=-9),
    "unhealthy": replace(_kept(), kubelet_failures=3),
    "silent on a child": replace(_kept(), out_of_memory_kills=1),
    "silent on miners": replace(_kept(), planted=2 * _kept().planted),
}


@pytest.mark.parametrize("outcome", BROKEN.values(), ids=BROKEN)
def test_each_promise_that_is_broken_is_said(outcome: Outcome) -> None:
    assert _kept().broken_promises(in_cluster=True) == []
    assert len(outcome.broken_promises(in_cluster=True)) == 1
