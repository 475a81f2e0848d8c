from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.api.journal import AgentLine, AnyLine, UsageLine, encode
from minerwatch.report.journal import KEPT_FILES, USAGE, VERDICTS, Journal, JournalFiles
from tests.conftest import needs_root
from tests.waiting import until

AT = "2026-11-23T02:30:00Z"


def started(number: int, size: int = 1) -> AgentLine:
    return AgentLine(at=AT, node=f"{number:06d}" + "x" * size, event="start", version="1")


def usage(number: int) -> UsageLine:
    return UsageLine(
        at=AT, node=f"{number:06d}", seconds=300, cores=2, cpu_cores=1.0, flagged_cpu_cores=0.0,
        containers=(),
    )  # fmt: skip


def numbers(lines: Iterator[AnyLine]) -> list[int]:
    return [int(line.node[:6]) for line in lines]


@given(sizes=st.lists(st.integers(1, 900), max_size=40))
def test_the_newest_lines_are_kept_in_order_and_within_the_bound(
    sizes: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    files = JournalFiles(tmp_path_factory.mktemp("journal"), max_file_bytes=2000)
    for number, size in enumerate(sizes):
        files.append(started(number, size))
    kept = numbers(files.read())
    assert kept == [*range(len(sizes))][len(sizes) - len(kept) :]
    assert len(kept) >= min(len(sizes), KEPT_FILES), "earlier files are still read"
    stored = [each.stat().st_size for each in files.folder.iterdir()]
    assert len(stored) <= KEPT_FILES
    assert all(size <= 2000 for size in stored)


def test_usage_and_verdicts_do_not_push_each_other_out(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path, max_file_bytes=2000)
    files.append(usage(1))
    for number in range(100, 400):
        files.append(started(number))
    kept = numbers(files.read())
    assert 1 in kept
    assert max(kept) == 399


@given(cut=st.integers(0, 200), garbage=st.binary(max_size=40))
def test_a_line_that_was_cut_or_damaged_costs_no_other(
    cut: int, garbage: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    files = JournalFiles(tmp_path_factory.mktemp("journal"))
    for number in range(3):
        files.append(started(number))
    path = files.folder / VERDICTS
    data = path.read_bytes()
    size = len(data) // 3
    path.write_bytes(data[: len(data) - cut % size] + garbage.replace(b"\n", b""))
    files.append(started(3))
    kept = numbers(files.read())
    assert kept[:2] == [0, 1]
    assert kept[-1] == 3


def test_lines_are_private_and_a_new_folder_is_made(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path / "state" / "journal")
    files.append(started(1))
    assert files.folder.stat().st_mode & 0o777 == 0o700
    assert (files.folder / VERDICTS).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_no_file_is_neither_followed_nor_waited_for(kind: str, tmp_path: Path) -> None:
    path, elsewhere = tmp_path / VERDICTS, tmp_path / "elsewhere"
    elsewhere.write_bytes(encode(started(9)))
    if kind == "link":
        path.symlink_to(elsewhere)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    files = JournalFiles(tmp_path)
    with pytest.raises(OSError):
        files.append(started(1))
    assert numbers(files.read()) == []
    assert elsewhere.read_bytes() == encode(started(9))


def test_a_file_that_was_removed_is_begun_again(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    files.append(started(1))
    (tmp_path / VERDICTS).unlink()
    files.append(started(2))
    assert numbers(files.read()) == [2]


def test_lines_of_a_later_version_or_an_unknown_kind_are_passed_over(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path)
    files.append(started(1))
    later = encode(started(2)).replace(b'"v":1', b'"v":2')
    other = encode(started(3)).replace(b'"agent"', b'"weather"')
    more = encode(started(4)).replace(b'"v":1', b'"v":1,"added":[1]')
    with (tmp_path / VERDICTS).open("ab") as file:
        file.write(later + other + more)
    assert numbers(files.read()) == [1, 4]


def test_what_cannot_be_written_is_counted_and_later_lines_are_written(tmp_path: Path) -> None:
    in_the_way = tmp_path / "journal"
    in_the_way.write_text("a file")
    errors: list[OSError] = []
    journal = Journal(JournalFiles(in_the_way), errors.append)
    journal.write(started(1))
    until(lambda: errors)
    assert sum(journal.failures.values()) == 1
    in_the_way.unlink()
    journal.write(started(2))
    journal.close()
    assert numbers(journal.files.read()) == [2]


@needs_root
def test_a_full_disk_costs_lines_and_nothing_else(tmp_path: Path) -> None:
    """A real one: a file system of 64 KiB."""
    if os.system(f"mount -t tmpfs -o size=64k none {tmp_path} 2>/dev/null"):
        pytest.skip("cannot mount here: run it as root outside of a container")
    try:
        journal = Journal(JournalFiles(tmp_path / "journal"), lambda _error: None)
        for number in range(50):
            journal.write(started(number, 4000))
        journal.close()
        assert journal.failures.get("ENOSPC", 0) > 10
        kept = numbers(journal.files.read())
        assert kept == [*range(len(kept))]
        assert len(kept) > 5
    finally:
        os.system(f"umount -l {tmp_path}")


def test_closing_writes_what_is_queued(tmp_path: Path) -> None:
    journal = Journal(JournalFiles(tmp_path), lambda _error: None)
    for number in range(100):
        journal.write(started(number))
    journal.write(usage(100))
    journal.close()
    assert sorted(numbers(journal.files.read())) == [*range(101)]
    journal.files.remove()
    assert not tmp_path.exists() or not [*tmp_path.iterdir()]
    assert (tmp_path / USAGE).exists() is False
