from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.model import ProcessId
from minerwatch.node import mappings as mappings_module
from minerwatch.node.mappings import MappingReader, Mappings, parse_smaps
from tests.waiting import until

MIB = 1 << 20


@pytest.fixture
def reader() -> Iterator[MappingReader]:
    reader = MappingReader()
    yield reader
    reader.close()


def process_id(pid: int) -> ProcessId:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return ProcessId(pid, int(stat.rpartition(")")[2].split()[19]))


def me() -> ProcessId:
    return process_id(os.getpid())


def answer(reader: MappingReader, process: ProcessId) -> Mappings | None:
    reader.ask(process)
    until(lambda: not reader._answers.empty())
    return reader.answers().get(process)


def test_the_largest_anonymous_mapping_counts_as_far_as_it_is_resident(
    reader: MappingReader,
) -> None:
    # In a process of its own: this one may hold a larger mapping by now.
    holder = (
        "import mmap\n"
        f"memory = mmap.mmap(-1, {96 * MIB}, flags=mmap.MAP_PRIVATE)\n"
        f"for at in range(0, {48 * MIB}, 4096): memory[at] = 1\n"
        "print('held', flush=True)\n"
        "input()\n"
    )
    command = [sys.executable, "-c", holder]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        found = answer(reader, process_id(process.pid))
        process.kill()
    assert found is not None
    assert 47 < found.largest_anonymous_mib < 60


def test_anonymous_executable_memory_is_jit(reader: MappingReader) -> None:
    before = answer(reader, me())
    rights = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    with mmap.mmap(-1, 3 * MIB, flags=mmap.MAP_PRIVATE, prot=rights) as memory:
        ctypes.c_char.from_buffer(memory).value = b"\xc3"
        after = answer(reader, me())
    assert before is not None
    assert after is not None
    assert after.jit_mib - before.jit_mib == pytest.approx(3, abs=0.1)


def test_a_process_that_is_gone_or_another_has_no_answer(reader: MappingReader) -> None:
    assert answer(reader, ProcessId(4_194_999, 1)) is None
    assert answer(reader, ProcessId(os.getpid(), 1)) is None
    assert not reader._asked


def test_a_question_is_asked_once_and_too_many_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread hangs on a pipe that nobody writes to: what waits stays bounded."""
    monkeypatch.setattr(mappings_module, "_MAX_WAITING", 4)
    (tmp_path / "7").mkdir()
    os.mkfifo(tmp_path / "7" / "smaps")
    stuck = MappingReader(str(tmp_path))
    for _ in range(3):
        stuck.ask(ProcessId(7, 1))
    for pid in range(100, 110):
        stuck.ask(ProcessId(pid, 1))
    assert stuck.answers() == {}
    assert len(stuck._asked) == 4
    assert stuck.failures["crowded"] == 7
    stuck.close()
    with (tmp_path / "7" / "smaps").open("wb"):
        pass  # lets the thread go


def test_reads_that_hang_are_left_behind_a_few_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mappings_module, "_STALLED_S", 0.05)
    monkeypatch.setattr(mappings_module, "_MAX_LEFT", 3)
    hanging = [ProcessId(pid, 1) for pid in range(7, 12)]
    pipes = [tmp_path / str(process.pid) / "smaps" for process in hanging]
    for pipe in pipes:
        pipe.parent.mkdir()
        os.mkfifo(pipe)
    (tmp_path / "20").mkdir()
    (tmp_path / "20" / "smaps").write_bytes(RECORDED)
    (tmp_path / "20" / "stat").write_bytes(b"20 (x) S" + b" 5" * 40)
    good = ProcessId(20, 5)
    stuck = MappingReader(str(tmp_path))
    for process in (hanging[0], good):
        stuck.ask(process)
    until(lambda: good in stuck.answers())
    assert stuck.failures["timeout"] == 1
    stuck.ask(hanging[0])  # left alone for some time
    for process in (*hanging[1:], good):
        stuck.ask(process)
    until(lambda: not stuck.answers() and stuck.failures["timeout"] == 3)
    time.sleep(0.2)  # the fourth hangs for good: no more are left behind
    assert stuck.answers() == {}
    assert stuck.failures["timeout"] == 3
    with pipes[0].open("wb"):
        pass  # lets the first thread go
    until(lambda: not stuck.answers() and stuck.failures["timeout"] == 4)
    stuck.close()
    for pipe in pipes[1:]:
        with suppress(OSError):  # that nobody reads
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))


RECORDED = b"""\
55d0c0a00000-55d0c0a02000 r-xp 00000000 08:01 1048602    /usr/bin/xmrig (deleted)
Size:                  8 kB
Rss:                   8 kB
7f0000000000-7f0010000000 rw-p 00000000 00:00 0
Size:             262144 kB
Rss:              262140 kB
VmFlags: rd wr mr mw me ac sd
7f0010000000-7f0010020000 rwxp 00000000 00:00 0
Rss:                 128 kB
7f0020000000-7f00a0000000 rw-p 00000000 00:10 33 /anon_hugepage (deleted)
Rss:                   0 kB
Private_Hugetlb: 2097152 kB
7ffd0000-7ffe0000 r-xp 00000000 00:00 0 [vdso]
Rss:                   8 kB
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
Rss:                   0 kB
"""


def test_a_recorded_miner_on_huge_pages() -> None:
    assert parse_smaps(RECORDED) == Mappings(jit_mib=0.125, largest_anonymous_mib=2048.0)


@given(st.binary(max_size=400))
def test_no_bytes_stop_it(content: bytes) -> None:
    assert parse_smaps(RECORDED + content).largest_anonymous_mib >= 2048
