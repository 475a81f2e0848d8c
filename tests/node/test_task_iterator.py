"""The task iterator on this machine's kernel."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree, which
from typing import Any

import pytest

from minerwatch.errors import SourceUnavailableError
from minerwatch.model import ProcessId, ProcessStat
from minerwatch.node.bpf_iterator import BPF_FOLDER, load_libbpf
from minerwatch.node.fp_rounding import RoundingSamples
from minerwatch.node.processes import ProcessReader
from minerwatch.node.task_iterator import (
    ROW,
    TaskIterator,
    TaskTable,
)
from tests.conftest import Programs, environment_of_this_python, open_files
from tests.node.task_rows import tasks_of
from tests.waiting import until

TARGET = Path(__file__).parent.parent / "targets" / "randomx_hashing.py"


@pytest.fixture
def iterator() -> Iterator[TaskIterator]:
    try:
        found = TaskIterator()
    except SourceUnavailableError as error:
        pytest.skip(f"run it as root of a host: {error}")
    yield found
    found.close()


@pytest.fixture
def reader() -> Iterator[ProcessReader]:
    found = ProcessReader(Path("/proc"), deadline_s=1.0)
    yield found
    found.close()


def test_it_says_what_proc_says(
    iterator: TaskIterator, reader: ProcessReader, programs: Programs
) -> None:
    process = programs.start("a\nname\\of its own", busy=True)
    until(lambda: (reader.stat(process.pid) or pytest.fail("gone")).cpu_s > 0.2)
    process.send_signal(signal.SIGSTOP)
    until(lambda: "T (stopped)" in Path(f"/proc/{process.pid}/status").read_text())
    table, expected = iterator.table(), reader.stat(process.pid)
    assert table is not None
    found = table.stat(process.pid)
    assert found is not None
    assert expected is not None
    assert abs(found.cpu_s - expected.cpu_s) < 0.05
    same = ("id", "parent_pid", "comm", "threads", "kernel_thread", "program")
    assert [getattr(found, name) for name in same] == [getattr(expected, name) for name in same]


def test_threads_are_counted_with_those_that_have_ended(
    iterator: TaskIterator, reader: ProcessReader
) -> None:
    def burn(ends_s: float) -> None:
        while time.thread_time() < ends_s:
            pass

    ended = threading.Thread(target=burn, args=(0.2,))
    ended.start()
    ended.join()
    # Python's thread ends a little before the kernel's.
    until(lambda: not Path(f"/proc/self/task/{ended.native_id}").exists())
    stays = threading.Event()
    waiting = threading.Thread(target=stays.wait)
    waiting.start()
    table, expected = iterator.table(), reader.stat(os.getpid())
    stays.set()
    waiting.join()
    assert table is not None
    assert expected is not None
    found = table.stat(os.getpid())
    assert found is not None
    assert found.threads == expected.threads >= 2
    assert abs(found.cpu_s - expected.cpu_s) < 0.2 + 0.02 * expected.cpu_s
    assert waiting.native_id in table.thread_cpu(os.getpid())
    assert ended.native_id not in table.thread_cpu(os.getpid())


def test_every_task_is_there_once(iterator: TaskIterator, programs: Programs) -> None:
    pids = {programs.start(f"sleeper{number}", busy=False).pid for number in range(20)}
    samples = tasks_of(iterator)
    assert pids <= {sample.pid for sample in samples}
    assert len({sample.tid for sample in samples}) == len(samples)
    threads = [sample for sample in samples if sample.flags & 0x00200000]  # PF_KTHREAD
    assert any(sample.comm.rstrip(b"\0") == b"kthreadd" for sample in threads)
    assert all(sample.cgroup_inode for sample in samples)


def test_control_words_are_the_same_read_alone_or_with_all_others(
    iterator: TaskIterator, programs: Programs
) -> None:
    process = programs.start("stopped", busy=True)
    until(lambda: Path(f"/proc/{process.pid}/stat").read_bytes().split()[13] != b"0")
    process.send_signal(signal.SIGSTOP)
    until(lambda: "T (stopped)" in Path(f"/proc/{process.pid}/status").read_text())
    leaders = [each for each in tasks_of(iterator) if each.tid == each.pid]
    everybody = [each.process for each in leaders]
    asked = next(each for each in everybody if each.pid == process.pid)
    alone = iterator.fp_samples([asked])
    assert [sample.process for sample in alone] == [asked]
    assert alone == [each for each in iterator.fp_samples(everybody) if each.process == asked]


class BeforeLinux61:
    """libbpf on a kernel that cannot iterate over one process: it refuses, or does not know."""

    def __init__(self, *, refuses: bool) -> None:
        self._library = load_libbpf()
        self._refuses = refuses
        self.asked_for_one = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def bpf_program__attach_iter(self, program: int, options: object) -> int | None:
        if options is not None:
            self.asked_for_one += 1
            if self._refuses:
                return None
        link: int | None = self._library.bpf_program__attach_iter(program, None)
        return link


@pytest.mark.parametrize("refuses", [True, False])
def test_on_an_older_kernel_all_are_read_for_one(
    iterator: TaskIterator, programs: Programs, refuses: bool
) -> None:
    process = programs.start("stopped", busy=True)
    until(lambda: Path(f"/proc/{process.pid}/stat").read_bytes().split()[13] != b"0")
    process.send_signal(signal.SIGSTOP)
    until(lambda: "T (stopped)" in Path(f"/proc/{process.pid}/status").read_text())
    leader = next(each for each in tasks_of(iterator) if each.tid == process.pid)
    asked = leader.process
    older = BeforeLinux61(refuses=refuses)
    on_older = TaskIterator(older)  # type: ignore[arg-type]
    found = on_older.fp_samples([asked])
    assert found
    assert found == iterator.fp_samples([asked])
    assert older.asked_for_one == 1  # as it was opened, to find out
    assert on_older.failures == {"unreadable": 0}
    on_older.close()


def test_of_who_is_gone_there_are_no_control_words(iterator: TaskIterator) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    own = next(each for each in tasks_of(iterator) if each.tid == os.getpid())
    assert iterator.fp_samples([ProcessId(ended.pid, 1)]) == []
    assert iterator.fp_samples([ProcessId(own.pid, own.process.start_ticks + 1)]) == []
    assert iterator.failures == {"unreadable": 0}


def test_another_program_behind_the_same_pid_is_seen(
    iterator: TaskIterator, programs: Programs
) -> None:
    same = programs.start("same", busy=False)
    process = subprocess.Popen(["/bin/sh", "-c", "read line; exec sleep 60"], stdin=subprocess.PIPE)
    try:
        before = iterator.table()
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
        until(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n")
        after = iterator.table()
        assert before is not None
        assert after is not None
        assert process.pid in after.replaced_since(before)
        assert same.pid not in after.replaced_since(before)
    finally:
        process.kill()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()


def test_what_is_gone_or_the_kernels_has_no_stat(iterator: TaskIterator) -> None:
    table = iterator.table()
    assert table is not None
    assert table.stat(2) is None  # kthreadd
    assert table.stat(1 << 30) is None
    assert table.thread_cpu(1 << 30) == {}


def test_a_pid_that_is_used_again_is_not_the_old_process(iterator: TaskIterator) -> None:
    stat = ProcessId(os.getpid(), 1)
    assert iterator.fp_samples([stat]) == []


def test_it_can_be_closed_and_opened_again() -> None:
    try:
        first = TaskIterator()
    except SourceUnavailableError as error:
        pytest.skip(f"run it as root of a host: {error}")
    before = open_files()
    for _ in range(3):
        list(first.rows())
    assert not open_files() - before
    first.close()
    second = TaskIterator()
    assert list(second.rows())
    second.close()


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize(
    "program", ["executed_code", "kernel_entries", "socket_iterator", "task_iterator"]
)
def test_the_committed_object_is_what_the_source_builds_to(
    program: str, machine: str, tmp_path: Path
) -> None:
    if which("clang") is None or which("llvm-strip") is None:
        pytest.skip("needs a compiler: apt install clang llvm libbpf-dev")
    version = subprocess.run(["clang", "--version"], capture_output=True, text=True).stdout
    if "version 14." not in version:
        pytest.skip("other compilers build other bytes: run it on Debian 12, with clang 14")
    if not Path("/usr/include/bpf/bpf_core_read.h").exists():
        pytest.skip("needs libbpf's headers: apt install libbpf-dev")
    built = tmp_path / "bpf"
    copytree(BPF_FOLDER, built)
    name = f"{program}.{machine}.bpf.o"
    (built / name).unlink()
    subprocess.run(["make", "-C", str(built), name], check=True, capture_output=True)
    assert (built / name).read_bytes() == (BPF_FOLDER / name).read_bytes()


def test_no_path_of_the_builder_is_in_the_objects() -> None:
    for built in BPF_FOLDER.glob("*.o"):
        assert str(BPF_FOLDER.parent).encode() not in built.read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        ["1"],
        pytest.param(["2"], marks=pytest.mark.nightly),
        pytest.param(["1", "nojit"], marks=pytest.mark.nightly),
    ],
    ids=" ".join,
)
def test_randomx_is_told_by_how_it_rounds(
    iterator: TaskIterator, reader: ProcessReader, options: list[str]
) -> None:
    pytest.importorskip("cyrx", reason="needs a RandomX binding: pip install cyrx")
    threads, *how = options
    command = ["python3", str(TARGET), threads, "3600", *how]
    with subprocess.Popen(
        command,
        executable=sys.executable,
        env=environment_of_this_python(),
        stdout=subprocess.PIPE,
    ) as target:
        try:
            assert target.stdout is not None
            assert target.stdout.readline() == b"hashing\n"
            stat = reader.stat(target.pid)
            assert stat is not None
            samples = RoundingSamples()

            def has_enough() -> bool:
                time.sleep(0.2)
                for sample in iterator.fp_samples([stat.id]):
                    samples.add(time.monotonic(), sample.tid, sample.fp_control, sample.switches)
                return samples.count >= 40

            until(has_enough)
        finally:
            target.kill()
    rounding = samples.rounding()
    assert rounding is not None
    assert rounding.modes == 4
    assert rounding.share >= 0.2
    assert rounding.flush_to_zero_share >= 0.9


def test_a_table_that_has_been_forgotten_can_still_be_compared_with() -> None:
    record = ROW

    def table(name: bytes) -> TaskTable:
        same = record.pack(10**9, 5, 7, 1, 2, 3, 1, 700, 700, 0, 0, 0, 0, 1, 0, b"same")
        return TaskTable(same + record.pack(9, 5, 7, 1, 2, 3, 1, 800, 800, 0, 0, 0, 0, 1, 0, name))

    before = table(b"one")
    before.forget_tasks()
    assert before.stat(700) is None
    assert table(b"two").replaced_since(before) == {800}
    assert table(b"one").replaced_since(before) == set()


def test_tens_of_thousands_of_threads_are_kept_as_they_were_read() -> None:
    """A record of each takes 104 bytes; what is told of one process is bounded."""
    count, pid = 30_000, 700
    record = ROW
    leader = record.pack(10**9, 5, 7, 1, 2, 3, 1, pid, pid, 0, 0, 0, 0, 1, 0, b"many")
    others = (
        record.pack(10**9, tid, 0, 1, 2, 3, 1, pid + tid, pid, 0, 0, 0, 0, 1, 0, b"many")
        for tid in range(1, count)
    )
    content = leader + b"".join(others)
    tracemalloc.start()
    table = TaskTable(content)
    stat, threads = table.stat(pid), table.thread_cpu(pid)
    kept_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert stat is not None
    assert stat.threads == count
    assert stat.cpu_s == pytest.approx((5 + 7 + sum(range(1, count))) / 1e9)
    assert len(threads) == 4096
    assert min(threads.values()) == pytest.approx((count - 4096) / 1e9)  # the busiest are told
    assert kept_bytes < 1 << 20


def test_of_tens_of_thousands_of_threads_a_forgotten_table_keeps_next_to_nothing() -> None:
    record = ROW
    tracemalloc.start()
    table = TaskTable(
        b"".join(
            record.pack(10**9, 5, 7, 1, 2, 3, 1, tid, 700, 0, 0, 0, 0, 1, 0, b"many")
            for tid in range(700, 30_700)
        )
    )
    table.thread_cpu(700)
    before_bytes, _ = tracemalloc.get_traced_memory()
    table.forget_tasks()
    kept_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert before_bytes > 3 << 20
    assert kept_bytes < before_bytes / 10
    assert table.thread_cpu(700) == {}


OUTLIVED = """
import ctypes, os, threading, time
def live_on():
    time.sleep(0.3)
    print(flush=True)
    while True: pass
threading.Thread(target=live_on).start()
ctypes.CDLL(None).syscall(60 if os.uname().machine == 'x86_64' else 93, 0)  # exit, not exit_group
"""


def test_a_process_whose_first_thread_has_ended_is_seen_by_its_others(
    iterator: TaskIterator,
) -> None:
    with subprocess.Popen([sys.executable, "-c", OUTLIVED], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        found = stat_of(iterator, process.pid)
        running = {each.tid for each in iterator.fp_samples([found.id])} - {process.pid}
        process.kill()
    assert found.threads == 2
    assert running or not iterator.has_fp_control


def stat_of(iterator: TaskIterator, pid: int) -> ProcessStat:
    table = iterator.table()
    found = table.stat(pid) if table is not None else None
    assert found is not None
    return found
