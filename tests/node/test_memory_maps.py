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
from minerwatch.node.memory_maps import MappingReader, Mappings, parse_smaps
from tests.waiting import PATIENCE_S, threads, threads_since, until

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
    found: dict[ProcessId, Mappings] = {}
    until(lambda: found.update(reader.answers()) or process not in reader.questions)
    return found.get(process)


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
    assert not len(reader.questions)


STAT = b"7 (x) S" + b" 0" * 18 + b" 5" + b" 0" * 30


def recorded_process(proc: Path, pid: int, *, hangs: bool = False) -> ProcessId:
    folder = proc / str(pid)
    folder.mkdir()
    (folder / "stat").write_bytes(STAT)
    if hangs:
        os.mkfifo(folder / "smaps")
    else:
        (folder / "smaps").write_bytes(RECORDED)
    return ProcessId(pid, 5)


def let_go(proc: Path, process: ProcessId) -> None:
    with suppress(OSError):  # that nobody reads
        os.close(os.open(proc / str(process.pid) / "smaps", os.O_WRONLY | os.O_NONBLOCK))


def test_a_question_is_asked_once_and_no_container_has_too_many_open(tmp_path: Path) -> None:
    """The thread hangs on a pipe that nobody writes to: what waits stays bounded."""
    hanging = recorded_process(tmp_path, 7, hangs=True)
    stuck = MappingReader(str(tmp_path))
    for _ in range(3):
        assert stuck.ask(hanging, "one")
    is_open = [stuck.ask(ProcessId(pid, 1), "one") for pid in range(100, 200)]
    assert stuck.ask(ProcessId(200, 1), "another")
    assert stuck.answers() == {}
    assert len(stuck.questions) == is_open.count(True) + 2
    assert stuck.failures["crowded"] == is_open.count(False) > 0
    stuck.close()
    let_go(tmp_path, hanging)


def test_one_container_holds_up_another_by_one_read_at_a_time(tmp_path: Path) -> None:
    hanging = recorded_process(tmp_path, 7, hangs=True)
    decoys = [recorded_process(tmp_path, pid) for pid in range(10, 30)]
    other = recorded_process(tmp_path, 40)
    reader = MappingReader(str(tmp_path))
    reader.ask(hanging, "decoys")
    for decoy in decoys:
        reader.ask(decoy, "decoys")
    reader.ask(other, "another")
    let_go_when_read(tmp_path, hanging)
    order: list[ProcessId] = []
    until(lambda: order.extend(reader.answers()) or other in order)  # type: ignore[func-returns-value]
    assert order.index(other) <= 2
    reader.close()


def let_go_when_read(proc: Path, process: ProcessId) -> None:
    with (proc / str(process.pid) / "smaps").open("wb"):
        pass


def test_a_container_that_hangs_reads_blinds_only_itself(tmp_path: Path) -> None:
    before = threads()
    hanging = [recorded_process(tmp_path, pid, hangs=True) for pid in range(10, 40)]
    other = recorded_process(tmp_path, 40)
    reader = MappingReader(str(tmp_path), stall_s=0.05)
    for process in hanging:
        reader.ask(process, "hostile")
    reader.ask(other, "another")
    answers: dict[ProcessId, Mappings] = {}
    until(lambda: answers.update(reader.answers()) or other in answers)
    until(lambda: not (reader.answers() or len(reader.questions)))
    assert len(threads_since(before, "mappings")) == 3  # one reads, two are left behind
    assert reader.failures["timeout"] == len(hanging)  # those that were left out are counted, too
    for process in hanging:
        let_go(tmp_path, process)
    until(lambda: not reader.answers() and len(threads_since(before, "mappings")) == 1)
    reader.close()


def test_a_process_whose_first_thread_has_ended(reader: MappingReader) -> None:
    script = """
import ctypes, mmap, threading, time
memory = mmap.mmap(-1, 32 << 20, flags=mmap.MAP_PRIVATE)
for at in range(0, 32 << 20, 4096): memory[at] = 1
def rest():
    time.sleep(0.3)
    print("ready", flush=True)
    time.sleep(60)
threading.Thread(target=rest).start()
ctypes.CDLL(None).pthread_exit(None)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert Path(f"/proc/{process.pid}/smaps").read_bytes() == b""
        found = answer(reader, process_id(process.pid))
        process.kill()
    assert found is not None
    assert found.largest_anonymous_mib >= 32


def test_reads_that_hang_are_left_behind_a_few_at_most(tmp_path: Path) -> None:
    hanging = [recorded_process(tmp_path, pid, hangs=True) for pid in range(7, 12)]
    good = recorded_process(tmp_path, 20)
    stuck = MappingReader(str(tmp_path), stall_s=0.05, max_left=3)
    for process in (hanging[0], good):
        stuck.ask(process, process)
    until(lambda: good in stuck.answers())
    assert stuck.failures["timeout"] == 1
    assert stuck.ask(hanging[0])  # left alone for some time
    for process in (*hanging[1:], good):
        stuck.ask(process, process)
    until(lambda: not stuck.answers() and stuck.failures["timeout"] == 3)
    time.sleep(0.2)  # the fourth hangs for good: no more are left behind
    assert stuck.answers() == {}
    assert stuck.failures["timeout"] == 3
    let_go_when_read(tmp_path, hanging[0])
    until(lambda: not stuck.answers() and stuck.failures["timeout"] == 4)
    stuck.close()
    for process in hanging[1:]:
        let_go(tmp_path, process)


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
    found = parse_smaps(RECORDED)
    assert (found.jit_mib, found.largest_anonymous_mib) == (0.125, 2048.0)


def test_the_largest_file_counts_as_mapped(reader: MappingReader, tmp_path: Path) -> None:
    file = tmp_path / "database"
    file.touch()
    os.truncate(file, 700 * MIB)  # sparse: it takes no room
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ):
        found = answer(reader, me())
    assert found is not None
    assert 700 <= found.largest_file_mib < 2048


MANY_MAPPINGS = """
import ctypes, mmap
MIB, PAGE = 1 << 20, 4096
memory = mmap.mmap(-1, 48 * MIB, flags=mmap.MAP_PRIVATE)
for at in range(0, len(memory), PAGE): memory[at] = 1
code = mmap.mmap(-1, MIB, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC)
count = 60_000
small = mmap.mmap(-1, count * PAGE, flags=mmap.MAP_PRIVATE)
first = ctypes.addressof(ctypes.c_char.from_buffer(small))
protect = ctypes.CDLL(None).mprotect
protect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
for at in range(0, count, 2): protect(first + at * PAGE, PAGE, 0)
print("held", flush=True)
input()
"""


def test_tens_of_thousands_of_mappings_hide_none() -> None:
    reader = MappingReader(stall_s=PATIENCE_S)  # a busy machine is slow, and stalls nothing
    command = [sys.executable, "-c", MANY_MAPPINGS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = answer(reader, process_id(process.pid))
        process.kill()
    assert found is not None
    assert 48 <= found.largest_anonymous_mib < 60
    assert 1 <= found.jit_mib < 2
    assert not any(reader.failures.values())


def test_of_more_mappings_than_are_read_the_first_count() -> None:
    reader = MappingReader(max_smaps_bytes=1000)
    assert answer(reader, me()) is not None
    assert reader.failures["too_large"] == 1
    reader.close()


@given(st.binary(max_size=400))
def test_no_bytes_stop_it(content: bytes) -> None:
    assert parse_smaps(RECORDED + content).largest_anonymous_mib >= 2048


def libraries(*paths: str) -> frozenset[str]:
    lines = (f"7f000000-7f100000 r-xp 0 08:01 77 {path}\nRss: 4 kB\n" for path in paths)
    return parse_smaps("".join(lines).encode()).gpu_libraries


def test_libraries_for_gpus_are_known_by_their_files() -> None:
    wheel = "/opt/venv/lib/python3.11/site-packages/nvidia"
    assert libraries(
        "/usr/lib/x86_64-linux-gnu/libcuda.so.580.159.03",
        "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1",
        f"{wheel}/cublas/lib/libcublasLt.so.12 (deleted)",
        f"{wheel}/torch.libs/libcudart-d0da41ae.so.11.0",
        "/opt/rocm/lib/libhsa-runtime64.so.1.13",
    ) == {"cuda", "nvml", "cublas", "hip"}
    assert not libraries("/lib/libc.so.6", "/lib/libcudahelper.so", "/home/u/cuda", "/x-", "[heap]")


def test_no_library_counts_that_no_file_is_mapped_of() -> None:
    line = b"7f000000-7f100000 rw-p 0 00:01 77 /memfd:libcublas.so.12 (deleted)\nRss: 4 kB\n"
    assert not parse_smaps(line).gpu_libraries
