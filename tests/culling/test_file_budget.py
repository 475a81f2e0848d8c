from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from minerwatch.config.schema import CullBudget
from minerwatch.culling.file_budget import FileBudget
from minerwatch.culling.records import HOUR_S, Budget, Moment
from tests.culling.test_lease_budget import record

NOW = Moment(1.8e9, 100_000.0, "boot")
BEGUN = Moment(1.8e9 - HOUR_S, 100_000.0 - HOUR_S, "boot")


def later(seconds: float, boot_id: str = "boot") -> Moment:
    return Moment(NOW.unix_s + seconds, NOW.monotonic_s + seconds, boot_id)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "state" / "budget.json"
    assert opened(found).left(BEGUN, dry_run=False) == 0, "what was done before is not known"
    return found


def opened(path: Path, per_node: int = 2, errors: list[str] | None = None) -> FileBudget:
    def note(reason: str, error: Exception) -> None:
        if errors is not None:
            errors.append(f"{reason}: {error}")

    return FileBudget(path, CullBudget(per_node=per_node, per_cluster=10), on_error=note)


def test_places_are_taken_until_there_are_none_over_restarts(path: Path) -> None:
    one: Budget = opened(path)
    assert one.reserve(record("a"), NOW)
    assert opened(path).reserve(record("a"), NOW), "the same action takes one place"
    assert opened(path).reserve(record("b"), NOW)
    assert not opened(path).reserve(record("c"), later(HOUR_S - 1))
    assert opened(path).left(later(HOUR_S - 1), dry_run=True) == 2
    assert opened(path).reserve(record("c"), later(HOUR_S))
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_was_withdrawn_is_given_back(path: Path) -> None:
    budget = opened(path, per_node=1)
    assert budget.reserve(record("a"), NOW)
    budget.give_back(record("other"))
    assert budget.left(NOW, dry_run=False) == 0
    budget.give_back(record("a"))
    assert budget.left(NOW, dry_run=False) == 1


def test_a_new_file_permits_nothing_in_earnest_for_an_hour(tmp_path: Path) -> None:
    budget = opened(tmp_path / "new.json")
    assert not budget.reserve(record("a"), NOW)
    assert budget.reserve(record("dry", dry_run=True), NOW)
    assert not budget.reserve(record("a"), later(HOUR_S - 1))
    assert budget.reserve(record("a"), later(HOUR_S))


def test_clocks_free_nothing(path: Path) -> None:
    assert opened(path, per_node=1).reserve(record("a"), NOW)
    jumped = Moment(NOW.unix_s + 1e7, NOW.monotonic_s + 10, "boot")
    assert not opened(path, per_node=1).reserve(record("b"), jumped)
    booted = Moment(NOW.unix_s + 1e7, 60.0, "another")
    assert not opened(path, per_node=1).reserve(record("b"), booted)
    assert opened(path, per_node=1).reserve(record("b"), Moment(0.0, HOUR_S, "another"))


Damage = Callable[[Path], object]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-2]),
        lambda path: path.write_bytes(b"[]"),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: path.unlink() or os.mkfifo(path),  # type: ignore[func-returns-value]
        lambda path: (path.rename(path.with_name("x")), path.symlink_to("x")),
    ],
)
def test_what_cannot_be_read_permits_nothing(path: Path, damage: Damage) -> None:
    damage(path)
    errors: list[str] = []
    assert opened(path, errors=errors).left(NOW, dry_run=False) is None
    assert not opened(path, errors=errors).reserve(record("a"), NOW)
    assert not opened(path, errors=errors).reserve(record("a", dry_run=True), NOW)
    assert len(errors) == 3


def test_one_that_another_holds_permits_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minerwatch.culling.file_budget._LOCK_S", 0.05)
    errors: list[str] = []
    with path.with_name("budget.json.lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert not opened(path, errors=errors).reserve(record("a"), NOW)
    assert "another process holds its lock" in errors[0]


def _taken(path: Path, number: int) -> int:
    budget = opened(path, per_node=7)
    return sum(budget.reserve(record(f"{number}/{n}"), NOW) for n in range(5))


def test_many_processes_never_take_one_too_many(path: Path) -> None:
    with ProcessPoolExecutor(4) as pool:
        taken = list(pool.map(_taken, [path] * 4, range(4)))
    assert sum(taken) == 7
