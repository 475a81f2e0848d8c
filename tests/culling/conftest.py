"""The API server and the clusters of ``tests/kube``; cullers beside them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minerwatch.config.schema import Culling
from minerwatch.model import ProcessId
from tests.conftest import Programs
from tests.culling.harness import FakeWatch, Harness, Open, remembers
from tests.culling.test_process_signals import identity
from tests.kube.conftest import any_cluster, api, cluster, kubeconfig

__all__ = ["any_cluster", "api", "cluster", "kubeconfig"]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return remembers(tmp_path / "audit" / "audit.jsonl")


@pytest.fixture
def opened(kubeconfig: Path) -> Iterator[Open]:
    harnesses: list[Harness] = []

    def one(culling: Culling, watch: FakeWatch | None = None, **options: Any) -> Harness:
        harnesses.append(Harness(kubeconfig, culling, watch, **options))
        harnesses[-1].until_synced()
        return harnesses[-1]

    yield one
    for harness in harnesses:
        harness.close()


@pytest.fixture
def miner(programs: Programs) -> ProcessId:
    return identity(programs.start("xmrig", busy=True).pid)
