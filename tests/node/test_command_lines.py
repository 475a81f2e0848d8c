from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from minerwatch.model import Process
from minerwatch.node.processes import ProcessReader
from tests.node.recorded_proc import RecordedProc, read_one, stat_line
from tests.waiting import threads, threads_since
from tests.waiting import until as eventually

PROC = Path("/proc")


def children() -> set[int]:
    return {int(pid) for pid in Path("/proc/thread-self/children").read_text().split()}


def test_a_command_line_that_hangs_once_is_not_measured_and_the_others_are_read(
    recorded: RecordedProc, recorded_reader: ProcessReader
) -> None:
    for pid in (10, 12, 13):
        recorded.add(pid)
    recorded.add(11, None)
    found = recorded_reader.read([10, 11, 12, 13])
    assert found.keys() == {10, 11, 12, 13}
    assert (found[11].command_line, found[11].command_line_hidden) == ("", False)
    assert found[11].image == "/opt/worker"
    assert found[10].command_line == "worker -v"
    assert recorded_reader.failures["deadline"] == 1
    while recorded_reader.deferred:  # a slow node may not start a helper within the deadline
        found |= recorded_reader.read(recorded_reader.deferred)
    assert [found[pid].command_line for pid in (12, 13)] == ["worker -v"] * 2
    assert not found[12].command_line_hidden


def test_many_hanging_command_lines_leave_one_thread_and_no_processes(
    recorded: RecordedProc, recorded_reader: ProcessReader
) -> None:
    recorded.add(1)
    recorded_reader.read([1])
    before_them = threads()
    before = children()
    victims = range(100, 120)
    for pid in victims:
        recorded.add(pid, None)
    for pid in range(200, 205):
        recorded.add(pid)
    todo = {*victims, *range(200, 205)}
    found: dict[int, Process] = {}
    calls = 0
    while todo:
        found |= recorded_reader.read(todo)
        todo = set(recorded_reader.deferred)
        assert not threads_since(before_them)
        assert len(children() - before) <= 2  # one reads, one may not be reaped yet
        calls += 1
        assert calls < 200
    assert not any(found[pid].command_line_hidden for pid in victims)  # once may be by chance
    assert all(found[pid].command_line == "worker -v" for pid in range(200, 205))
    assert recorded_reader.failures["deadline"] == 20
    assert recorded_reader.failures["helper"] == 0
    recorded_reader.read(victims)
    assert recorded_reader.failures["deadline"] == 20  # left alone for some time


def test_whoever_hangs_the_reader_three_times_in_a_row_is_hidden(recorded: RecordedProc) -> None:
    reader = ProcessReader(recorded.root, retry_s=0.01)
    recorded.add(10, None)
    recorded.add(11, None)
    hidden_after: dict[int, int] = {}
    try:
        for pid in (10, 11):  # by the thread, then by a helper
            before = reader.failures["deadline"]
            found = read_one(reader, pid)
            while not found.command_line_hidden:
                assert found.command_line == ""
                found = reader.read([pid]).get(pid, found)
            hidden_after[pid] = reader.failures["deadline"] - before
        assert hidden_after == {10: 3, 11: 3}
        recorded.release(11)
        eventually(lambda: not read_one(reader, 11).command_line_hidden)
    finally:
        recorded.release(10)
        reader.close()


def test_whoever_hangs_the_reader_holds_up_its_own_only(
    recorded: RecordedProc, recorded_reader: ProcessReader
) -> None:
    """Fifty decoys of one pod before one process of another."""
    decoys = range(100, 150)
    for pid in decoys:
        recorded.add(pid, None)
    recorded.add(200)
    recorded_reader.read([decoys[0]])  # the thread hangs
    found: dict[int, Process] = {}
    asked = (*decoys[1:], 200)
    while not found.get(200) or not found[200].command_line:  # a helper may be slow to start
        for batch in recorded_reader.batches(asked, lambda: True, lambda pid: pid // 100):
            found |= batch
        asked = tuple(recorded_reader.deferred)
    calls_that_hung = recorded_reader.failures["deadline"] - 1
    assert calls_that_hung <= 5  # one decoy a call, not all of them


def test_the_thread_serves_again_when_its_read_returns(
    recorded: RecordedProc, recorded_reader: ProcessReader
) -> None:
    recorded.add(10, None)
    recorded.add(11)
    before = children()
    recorded_reader.read([10])
    recorded_reader.read([11])
    assert len(children() - before) == 1
    recorded.release(10)
    eventually(
        lambda: recorded_reader.read([11])[11].command_line == "worker -v" and children() == before
    )


def test_a_process_that_hung_once_is_asked_again(recorded: RecordedProc) -> None:
    reader = ProcessReader(recorded.root, retry_s=0.05)
    recorded.add(10, None)
    try:
        assert not read_one(reader, 10).command_line
        recorded.release(10)
        eventually(lambda: reader.read(()) == {} and reader.deferred == {10})
        eventually(lambda: reader.read(reader.deferred or [10])[10].command_line)
        assert read_one(reader, 10).command_line == "worker released"
        reader.read(())
        assert reader.deferred == frozenset()
    finally:
        reader.close()


def test_a_new_program_is_asked_although_the_old_one_hung(
    recorded: RecordedProc, recorded_reader: ProcessReader
) -> None:
    folder = recorded.add(10, None)
    assert not read_one(recorded_reader, 10).command_line
    recorded.release(10)
    assert not read_one(recorded_reader, 10).command_line
    (folder / "stat").write_bytes(stat_line(10, code=8192))
    eventually(lambda: read_one(recorded_reader, 10).command_line == "worker released")


def test_a_reader_that_is_killed_is_replaced(
    recorded: RecordedProc, recorded_reader: ProcessReader
) -> None:
    recorded.add(10, None)
    recorded.add(11, b"x\0" * 200_000)
    before = children()
    recorded_reader.read([10])
    eventually(lambda: "…" in recorded_reader.read([11])[11].command_line)
    (helper,) = children() - before
    os.kill(helper, signal.SIGKILL)
    eventually(lambda: "…" in recorded_reader.read([11])[11].command_line)
    assert recorded_reader.failures["helper"] >= 1


def test_closing_ends_the_reading_process(recorded: RecordedProc) -> None:
    before_it = threads()
    reader = ProcessReader(recorded.root)
    recorded.add(10, None)
    recorded.add(11)
    before = children()
    reader.read([10])
    reader.read([11])
    reader.close()
    eventually(lambda: not any((PROC / str(pid) / "exe").exists() for pid in children() - before))
    recorded.release(10)
    eventually(lambda: not threads_since(before_it, "arguments"))
    reader.close()


def wait_for_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make it look as if a reading task did not wait in the kernel (/proc/PID/syscall)."""
    monkeypatch.setattr("minerwatch.node.command_lines.read_once", lambda *_: b"running\n")


def test_a_reader_that_waits_for_a_cpu_is_no_hidden_process(
    recorded: RecordedProc, recorded_reader: ProcessReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded.add(10, None)
    with monkeypatch.context() as patched:
        wait_for_a_cpu(patched)
        process = read_one(recorded_reader, 10)
    assert not process.command_line_hidden
    assert process.command_line == ""
    assert recorded_reader.deferred == {10}
    assert recorded_reader.failures["deferred"] == 1


def test_a_reader_that_waits_for_a_cpu_is_waited_for(
    recorded: RecordedProc, recorded_reader: ProcessReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a CPU quota a deadline may pass without a single instruction."""
    recorded.add(10, None)
    wait_for_a_cpu(monkeypatch)
    later = threading.Timer(0.3, recorded.release, [10])  # three times the deadline
    later.start()
    read_one(recorded_reader, 10)
    later.join()
    assert not recorded_reader.deferred
    assert recorded_reader.failures["deferred"] == 0


def test_who_was_left_for_the_next_time_goes_first_if_it_is_asked_for_first(
    recorded: RecordedProc, recorded_reader: ProcessReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded.add(10, None)
    recorded.add(11)
    with monkeypatch.context() as patched:
        wait_for_a_cpu(patched)
        recorded_reader.read([11, 10])
    assert recorded_reader.deferred == {10}
    recorded.release(10)
    assert list(recorded_reader.read((*recorded_reader.deferred, 11, 10))) == [10, 11]


def test_waiting_for_a_cpu_is_not_taken_for_hanging(
    recorded: RecordedProc, recorded_reader: ProcessReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two batches, each of which waits for longer than a call may wait for those that hang."""
    for pid in range(10, 160):
        recorded.add(pid)
    really_open = os.open

    def late(path: str, *arguments: int) -> int:
        if str(path).endswith(("/10/cmdline", "/150/cmdline")):
            time.sleep(0.15)
        return really_open(path, *arguments)

    monkeypatch.setattr(os, "open", late)
    wait_for_a_cpu(monkeypatch)
    found = recorded_reader.read(range(10, 160))
    assert all(process.command_line == "worker -v" for process in found.values())
    assert recorded_reader.deferred == frozenset()
    assert not any(recorded_reader.failures.values())
