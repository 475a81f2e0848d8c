"""The soak's short form: seconds of what ``make soak`` does for minutes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import needs_root
from tests.soak.chaos import Limits, Soak

pytestmark = [
    needs_root,
    pytest.mark.skipif(shutil.which("prlimit") is None, reason="limits the agent: util-linux"),
]
_SECONDS = 10.0
_SEED = 1


@pytest.mark.parametrize("in_cluster", [False, True], ids=["by itself", "in a cluster"])
def test_the_agent_outlives_whatever_happens_around_it(tmp_path: Path, in_cluster: bool) -> None:
    limits = Limits(memory_mib=128 if in_cluster else 80, cpu_cores=None)
    soak = Soak(tmp_path, seed=_SEED, interval_s=0.5, limits=limits, in_cluster=in_cluster)
    outcome = soak.run(_SECONDS)
    assert outcome.broken_promises(in_cluster=in_cluster) == [], f"seed {_SEED}: {outcome}"
