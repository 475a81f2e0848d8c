"""Engines for tests: where one cannot be had, a run that is about it fails."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.engines import Engine, docker, podman


@pytest.mark.parametrize("start", [docker, podman])
@pytest.mark.parametrize(
    ("runtime", "outcome"), [(None, pytest.skip.Exception), ("crun", pytest.fail.Exception)]
)
def test_a_missing_engine_fails_only_a_run_that_names_a_runtime(
    start: Callable[[Path], AbstractContextManager[Engine]],
    runtime: str | None,
    outcome: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("MINERWATCH_TEST_RUNTIME", raising=False)
    if runtime is not None:
        monkeypatch.setenv("MINERWATCH_TEST_RUNTIME", runtime)
    with pytest.raises(outcome, match=r"^needs "), start(tmp_path):
        pass
