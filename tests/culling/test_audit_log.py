from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.config.schema import Audit
from minerwatch.culling import audit_log
from minerwatch.culling.audit_log import AuditError, AuditLog, read
from minerwatch.culling.records import AuditLine
from minerwatch.format import rfc3339
from tests.conftest import needs_root

Open = Callable[..., AuditLog]
GoOn = Callable[[], Iterable[AuditLine]]


def line(number: int, size: int = 0) -> AuditLine:
    return AuditLine("decision", "2027-01-14T00:00:00.000Z", "n1", message=f"{number}{'x' * size}")


def messages(path: Path) -> list[str]:
    return [each.message.rstrip("x") for each in read(path).lines]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "folder" / "audit.jsonl"


@pytest.fixture
def opened(path: Path) -> Iterator[Open]:
    logs: list[AuditLog] = []

    def one(go_on: GoOn = tuple, **settings: object) -> AuditLog:
        audit = Audit(**{"log": str(path), **settings})  # type: ignore[arg-type]
        logs.append(AuditLog(audit, go_on))
        return logs[-1]

    yield one
    for log in logs:
        log.close()


def test_lines_are_on_the_disk_for_their_owner_only(opened: Open, path: Path) -> None:
    log = opened()
    assert all(log.write(line(number)) for number in range(3))
    assert messages(path) == ["0", "1", "2"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert log.trouble == ""


def test_a_log_is_removed_with_all_that_belongs_to_it(opened: Open, path: Path) -> None:
    log = opened(folder=str(path.parent / "evidence"), max_mib=1)
    for number in range(3):
        assert log.write(line(number, 300_000))
    assert log.save("a.json", b"{}")
    assert len([*path.parent.iterdir()]) == 4  # with the one before, its lock and the folder
    (path.parent / "evidence" / "theirs").touch()
    log.remove()
    assert [each.name for each in path.parent.iterdir()] == ["evidence"]
    assert [each.name for each in (path.parent / "evidence").iterdir()] == ["theirs"]


def test_what_was_never_written_is_removed_too(opened: Open, path: Path) -> None:
    opened(folder=str(path.parent / "evidence")).remove()
    assert not path.parent.exists()


@needs_root
def test_a_log_that_cannot_be_removed_says_so(opened: Open, path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(AuditError, match=r"audit\.jsonl"):
        opened().remove()


def test_where_there_is_no_log_there_is_nothing(path: Path) -> None:
    assert read(path) == audit_log.Written((), 0)


def test_a_log_that_others_may_read_is_closed_to_them(opened: Open, path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("")
    path.chmod(0o644)
    assert opened().write(line(1))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_one_agent_at_a_time(opened: Open, path: Path) -> None:
    first, second = opened(), opened()
    assert first.write(line(1))
    assert not second.write(line(2))
    assert "another agent" in second.trouble
    first.close()
    assert second.retry()
    assert messages(path) == ["1", "2"]


@pytest.mark.parametrize("torn", [b'{"kind":"act', b"\xff\xfe", b"{}", b'{"kind": 1, "at": ""}'])
def test_a_torn_line_hides_no_other(opened: Open, path: Path, torn: bytes) -> None:
    first = opened()
    first.write(line(1))
    first.close()
    with path.open("ab") as file:
        file.write(torn)
    assert read(path).torn == 1
    assert read(path).damaged == ()
    assert opened().write(line(2))
    assert messages(path) == ["1", "2"]
    assert read(path) == audit_log.Written(read(path).lines), (
        "it is cut off, not left in the middle"
    )


def test_a_last_line_that_lacks_its_line_feed_only_is_kept(opened: Open, path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(msgspec.json.encode(line(1)))
    assert opened().write(line(2))
    assert messages(path) == ["1", "2"]


@pytest.mark.parametrize(
    "noise", [b"{", b"\0" * 40, b'{"kind": 1}', b"x" * (audit_log.MAX_LINE_BYTES + 9)]
)
def test_a_line_damaged_in_the_middle_is_told_of(path: Path, noise: bytes) -> None:
    path.parent.mkdir(parents=True)
    whole = [msgspec.json.encode(line(number)) for number in range(3)]
    path.write_bytes(b"\n".join([whole[0], noise, *whole[1:], b""]))
    found = read(path)
    assert [each.message for each in found.lines] == ["0", "1", "2"]
    assert found.damaged[0] == f"{path}:2"


def test_damage_in_the_file_before_matters_until_the_present_one_goes_on_from_it(
    path: Path,
) -> None:
    path.parent.mkdir(parents=True)
    path.with_name("audit.jsonl.1").write_bytes(b"{\n")
    path.write_bytes(msgspec.json.encode(line(1)) + b"\n")
    assert read(path).damaged
    goes_on = msgspec.structs.replace(line(0), kind=audit_log.GOES_ON)
    path.write_bytes(msgspec.json.encode(goes_on) + b"\n" + path.read_bytes())
    assert not read(path).damaged


# What is at the log's place is no log, or no longer the one that is written to.


def removed(path: Path) -> None:
    path.unlink()


def replaced(path: Path) -> None:
    path.rename(path.with_name("audit.jsonl.old"))
    path.write_text("")


def cut_short(path: Path) -> None:
    os.truncate(path, 10)


def without_its_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))


@pytest.mark.parametrize("harm", [removed, replaced, cut_short, without_its_folder])
def test_what_goes_into_nothing_is_not_written(
    opened: Open, path: Path, harm: Callable[[Path], None]
) -> None:
    log = opened(lambda: [msgspec.structs.replace(line(0), kind=audit_log.GOES_ON)])
    assert log.write(line(1))
    harm(path)
    assert not log.write(line(2)), "an action would have followed"
    assert str(path) in log.trouble
    assert log.retry()
    assert log.trouble == ""
    assert messages(path) == ["0", "2"]


def test_without_a_line_to_write_it_is_seen_as_well(opened: Open, path: Path) -> None:
    log = opened()
    assert log.retry()
    path.unlink()
    assert not log.retry()
    assert "removed" in log.trouble


def test_a_lock_that_was_removed_holds_nobody_off(opened: Open, path: Path) -> None:
    first, second = opened(), opened()
    assert first.write(line(1))
    path.with_name("audit.jsonl.lock").unlink()
    assert second.write(line(2))
    assert not first.write(line(3))
    assert not first.retry()
    assert "another agent" in first.trouble


@pytest.mark.parametrize("name", ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.lock"])
def test_a_pipe_at_its_place_hangs_nobody(opened: Open, path: Path, name: str) -> None:
    path.parent.mkdir(parents=True)
    os.mkfifo(path.with_name(name))
    if not name.endswith("lock"):
        with pytest.raises(AuditError, match="not a regular file"):
            read(path)
    if not name.endswith(".1"):
        assert not opened().write(line(1))


def test_a_device_at_its_place_is_not_read_for_ever(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.symlink_to("/dev/zero")
    with pytest.raises(AuditError):
        read(path)


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_whatever_stands_in_a_log_it_is_read(noise: list[bytes]) -> None:
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"minerwatch-audit-{os.getpid()}"
    path.write_bytes(b"\n".join([*noise, msgspec.json.encode(line(7)), b""]))
    try:
        assert messages(path)[-1] == "7"
    finally:
        path.unlink()


def test_a_log_that_cannot_be_read_says_so(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(AuditError, match="Is a directory"):
        read(path)


def test_a_symbolic_link_is_not_followed(opened: Open, path: Path, tmp_path: Path) -> None:
    path.parent.mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    path.symlink_to(elsewhere)
    log = opened()
    assert not log.write(line(1))
    assert str(path) in log.trouble
    assert not elsewhere.exists()


def test_what_cannot_be_written_waits(opened: Open, path: Path) -> None:
    path.mkdir(parents=True)
    log = opened()
    assert not log.write(line(1))
    assert not log.write(line(2))
    assert "Is a directory" in log.trouble
    path.rmdir()
    assert log.retry()
    assert log.trouble == ""
    assert messages(path) == ["1", "2"]


@needs_root
def test_a_full_disk_loses_no_line(opened: Open, path: Path) -> None:
    """A real one: a file system of 64 KiB."""
    path.parent.mkdir(parents=True)
    if os.system(f"mount -t tmpfs -o size=64k none {path.parent} 2>/dev/null"):
        pytest.skip("cannot mount here: run it as root outside of a container")
    try:
        log = opened()
        number = 0
        while log.write(line(number, 3000)):
            number += 1
        assert "No space left" in log.trouble
        assert not log.write(line(number + 1))
        (path.parent / "audit.jsonl.1").unlink(missing_ok=True)
        os.system(f"mount -o remount,size=512k {path.parent}")
        assert log.retry()
        assert log.write(line(number + 2))
        assert messages(path) == [str(each) for each in range(number + 3)]
        log.close()
    finally:
        os.system(f"umount -l {path.parent}")


def test_it_is_bounded_and_a_new_file_begins_with_what_matters(opened: Open, path: Path) -> None:
    begun = [0]

    def go_on() -> list[AuditLine]:
        begun[0] += 1
        return [AuditLine("record", "", message=f"what matters {begun[0]}")]

    log = opened(go_on, max_mib=1)
    for number in range(400):
        assert log.write(line(number, 8000))
    assert begun[0] >= 2
    sizes = [each.stat().st_size for each in (path, path.with_name("audit.jsonl.1"))]
    assert max(sizes) <= 1 << 19
    found = messages(path)
    assert found[-1] == "399"
    numbers = [int(each) for each in found if each.isdecimal()]
    assert numbers == [*range(numbers[0], 400)]
    assert f"what matters {begun[0]}" in found
    first = path.read_bytes().splitlines()[0]
    assert b"what matters" in first


# The folder.


def test_the_folder_keeps_the_latest_files(opened: Open, tmp_path: Path) -> None:
    folder = tmp_path / "evidence"
    log = opened(folder=str(folder), max_files=3)
    for number in range(6):
        assert log.save(f"{number}.json", b"{}")
        os.utime(folder / f"{number}.json", ns=(number, number))
    assert sorted(each.name for each in folder.iterdir()) == ["3.json", "4.json", "5.json"]
    assert stat.S_IMODE((folder / "5.json").stat().st_mode) == 0o600


def test_the_folder_is_bounded_in_bytes(opened: Open, tmp_path: Path) -> None:
    folder = tmp_path / "evidence"
    log = opened(folder=str(folder), max_mib=1)
    for number in range(5):
        assert log.save(f"{number}.json", b"x" * 400_000)
        os.utime(folder / f"{number}.json", ns=(number, number))
    assert sorted(each.name for each in folder.iterdir()) == ["3.json", "4.json"]


def test_what_others_put_into_the_folder_is_not_removed(opened: Open, tmp_path: Path) -> None:
    folder = tmp_path / "evidence"
    log = opened(folder=str(folder), max_files=1)
    assert log.save("1.json", b"{}")
    (folder / "notes.txt").write_text("mine")
    (folder / "link.json").symlink_to(folder / "notes.txt")
    assert log.save("2.json", b"{}")
    assert sorted(each.name for each in folder.iterdir()) == ["2.json", "link.json", "notes.txt"]


def test_a_file_that_is_there_is_never_written_over(opened: Open, tmp_path: Path) -> None:
    folder = tmp_path / "evidence"
    log = opened(folder=str(folder))
    assert log.save("1.json", b"first")
    assert not log.save("1.json", b"second")
    assert (folder / "1.json").read_bytes() == b"first"
    assert "File exists" in log.trouble
    assert log.retry()
    assert log.trouble == ""


def test_without_a_folder_there_is_nothing_to_save(opened: Open) -> None:
    assert opened().save("1.json", b"{}")


@pytest.mark.parametrize("unix_s", [0.0, -1.0, 1e30, float("nan"), float("inf"), 1_800_000_000.5])
def test_every_clock_has_a_time(unix_s: float) -> None:
    assert rfc3339(unix_s, milliseconds=True).endswith("Z")
    assert len(rfc3339(unix_s, milliseconds=True)) == len("2027-01-14T00:00:00.000Z")
