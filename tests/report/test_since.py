from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.model import ContainerKey, Level, Verdict
from minerwatch.report.since import MAX_GAP_S, SinceFile, decoded

KEY = ContainerKey("/kubepods/pod1/c1", 7)


def verdict(
    level: Level = Level.CONFIRMED, since_s: float = 100.0, key: ContainerKey = KEY
) -> Verdict:
    return Verdict(key, since_s, 95.0, level, since_s, ())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "since.json"


def restarted(
    path: Path, at_s: float = 1000.0, *verdicts: Verdict, boot_id: str = "b"
) -> SinceFile:
    """The next agent, a minute after one that saw ``verdicts``."""
    SinceFile(path, boot_id, at_s - 10).record(verdicts or (verdict(),), at_s)
    return SinceFile(path, "b", at_s + 60)


def test_a_level_that_returns_after_a_restart_has_been_there_all_along(path: Path) -> None:
    since = restarted(path)
    assert since.since_s(verdict(Level.CONFIRMED, 1061)) == 100
    assert since.since_s(verdict(Level.LIKELY, 1061)) == 100, "it was at least that"
    assert since.since_s(verdict(Level.CLEAR, 1061)) == 1061
    other = verdict(Level.CONFIRMED, 1061, ContainerKey(KEY.cgroup, 8))
    assert since.since_s(other) == 1061, "the same path, another container"


def test_a_higher_level_is_a_new_one(path: Path) -> None:
    since = restarted(path, 1000.0, verdict(Level.LIKELY))
    assert since.since_s(verdict(Level.CONFIRMED, 1061)) == 1061


def test_a_level_that_falls_after_it_has_returned_is_a_new_one(path: Path) -> None:
    since = restarted(path)
    since.record([verdict(Level.CONFIRMED, 1061)], 1061)
    assert since.since_s(verdict(Level.CONFIRMED, 1061)) == 100
    since.record([verdict(Level.LIKELY, 1100)], 1100)
    assert since.since_s(verdict(Level.LIKELY, 1100)) == 1100


def test_proof_that_takes_minutes_is_waited_for_but_not_for_ever(path: Path) -> None:
    since = restarted(path)
    since.record([verdict(Level.LIKELY, 1061)], 1061)
    since.record([verdict(Level.CONFIRMED, 1700)], 1700)
    assert since.since_s(verdict(Level.CONFIRMED, 1700)) == 100
    late = restarted(path, 5000.0)
    late.record([], 6500)
    assert late.since_s(verdict(Level.CONFIRMED, 6501)) == 6501


def test_it_outlives_several_restarts(path: Path) -> None:
    for number in range(5):
        since = (
            restarted(path, 1000.0) if not number else SinceFile(path, "b", 1000.0 + 100 * number)
        )
        since.record([], 1000.0 + 100 * number)  # nothing is found yet
    since.record([verdict(Level.CONFIRMED, 1450)], 1450)
    assert since.since_s(verdict(Level.CONFIRMED, 1450)) == 100


@pytest.mark.parametrize("boot_id", ["other", ""])
def test_another_boot_says_nothing(path: Path, boot_id: str) -> None:
    assert restarted(path, boot_id=boot_id).since_s(verdict(since_s=1061)) == 1061


def test_what_was_not_watched_for_long_says_nothing(path: Path) -> None:
    SinceFile(path, "b", 100.0).record([verdict()], 100.0)
    assert SinceFile(path, "b", 101.0 + MAX_GAP_S).since_s(verdict(since_s=900)) == 900
    assert SinceFile(path, "b", 50.0).since_s(verdict(since_s=900)) == 900, "a clock that went back"


def test_it_is_written_when_it_changes_and_now_and_then(path: Path) -> None:
    since = SinceFile(path, "b", 0.0)
    since.record([verdict()], 200.0)
    before = path.stat().st_ino
    since.record([verdict()], 210.0)
    assert path.stat().st_ino == before
    since.record([verdict()], 270.0)
    assert path.stat().st_ino != before
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_no_use_is_passed_over(path: Path, tmp_path: Path) -> None:
    for content in (b"", b"{}", b"\xff", b'{"boot_id": "b", "at_s": 1, "containers": [[1]]}'):
        path.write_bytes(content)
        assert SinceFile(path, "b", 2.0).since_s(verdict()) == 100
    path.unlink()
    os.mkfifo(path)
    assert SinceFile(path, "b", 2.0).since_s(verdict()) == 100
    path.unlink()
    (tmp_path / "elsewhere").write_bytes(b'{"boot_id": "b", "at_s": 1, "containers": []}')
    path.symlink_to(tmp_path / "elsewhere")
    assert SinceFile(path, "b", 2.0).since_s(verdict()) == 100


def test_a_folder_that_cannot_be_written_raises(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        SinceFile(tmp_path / "none" / "since.json", "b", 0.0).record([verdict()], 0.0)


@given(st.binary(max_size=200))
def test_whatever_it_holds_is_read_or_not(data: bytes) -> None:
    decoded(data)


def test_it_goes_with_its_folder_if_nothing_else_is_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "since.json"
    path.parent.mkdir()
    since = SinceFile(path, "b", 100.0)
    since.forget()  # before it was written
    path.parent.mkdir(exist_ok=True)
    since.record((verdict(),), 110.0)
    (path.parent / "theirs").touch()
    since.forget()
    assert [each.name for each in path.parent.iterdir()] == ["theirs"]
