from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minerwatch.node.proc_files import living_task_path
from minerwatch.node.processes import ProcessReader
from tests.waiting import until

TARGETS = Path(__file__).parents[1] / "targets"

FIRST_THREAD_ENDS = """
import ctypes, threading, time
def rest():
    time.sleep(0.3)
    print(threading.get_native_id(), flush=True)
    time.sleep(60)
threading.Thread(target=rest).start()
ctypes.CDLL(None).pthread_exit(None)
"""


def test_a_process_is_read_through_a_thread_that_lives() -> None:
    assert living_task_path("/proc", os.getpid()) == str(os.getpid())
    command = [sys.executable, "-c", FIRST_THREAD_ENDS]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        tid = int(process.stdout.readline())
        assert living_task_path("/proc", process.pid) == f"{process.pid}/task/{tid}"
        process.kill()


def test_a_thread_that_ran_lately_is_looked_at_first(tmp_path: Path) -> None:
    """As long as it is of the process, and lives."""
    fields = ["0"] * 49
    for folder, state in {"7": "Z", "7/task/8": "Z", "7/task/9": "S", "7/task/10": "S"}.items():
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "stat").write_text(f"7 (x) {' '.join([state, *fields])}\n")
    assert living_task_path(str(tmp_path), 7, 10) == "7/task/10"
    assert living_task_path(str(tmp_path), 7, 9) == "7/task/9"
    assert living_task_path(str(tmp_path), 7, 8) in {"7/task/9", "7/task/10"}
    assert living_task_path(str(tmp_path), 7, 11) in {"7/task/9", "7/task/10"}


def test_one_that_has_ended_altogether_has_no_other_place() -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert living_task_path("/proc", process.pid) == str(process.pid)
    with pytest.raises(FileNotFoundError):
        living_task_path("/proc", 4_194_999)


def test_a_name_cannot_pass_for_a_state(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "stat").write_bytes(b"7 (x) Z 1) S 1 2")
    assert living_task_path(str(tmp_path), 7) == "7"


@pytest.mark.parametrize("count", [20, 300])
def test_threads_that_stay_as_zombies_hide_nothing(tmp_path: Path, count: int) -> None:
    """A tenant may trace itself, and never wait for threads that have ended."""
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler: apt install gcc libc6-dev")
    program, source = str(tmp_path / "ended_threads"), TARGETS / "ended_threads.c"
    subprocess.run(["cc", "-O1", "-pthread", "-o", program, source], check=True)
    reader = ProcessReader(Path("/proc"))
    with subprocess.Popen([program, str(count)], stdout=subprocess.PIPE) as tracer:
        assert tracer.stdout is not None
        try:
            pid = int(tracer.stdout.readline())
            until(lambda: _ended(pid) > count)
            task_path = living_task_path("/proc", pid)
            process = reader.read([pid])[pid]
        finally:
            tracer.kill()
            reader.close()
    assert task_path != str(pid)
    assert process.image == program
    assert process.command_line == f"{program} {count}"
    assert not process.command_line_hidden


def _ended(pid: int) -> int:
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum((each / "stat").read_text().rpartition(")")[2].split()[0] == "Z" for each in threads)


@pytest.mark.parametrize(("count", "is_hidden"), [(1, False), (20, False), (3000, True)])
def test_what_hides_its_living_thread_among_thousands_is_hidden(
    tmp_path: Path, count: int, is_hidden: bool
) -> None:
    fields = ["Z", *["0"] * 16, str(count), *["0"] * 32]
    for pid in [7, *(f"7/task/{tid}" for tid in range(7, 7 + count))]:
        folder = tmp_path / str(pid)
        folder.mkdir(parents=True)
        (folder / "stat").write_text(f"7 (x) {' '.join(fields)}\n")
    reader = ProcessReader(tmp_path)
    process = reader.read([7])[7]
    reader.close()
    assert process.command_line_hidden is is_hidden
