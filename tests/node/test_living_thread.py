from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from minerwatch.node.living_thread import living_place

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
    assert living_place("/proc", os.getpid()) == str(os.getpid())
    command = [sys.executable, "-c", FIRST_THREAD_ENDS]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        tid = int(process.stdout.readline())
        assert living_place("/proc", process.pid) == f"{process.pid}/task/{tid}"
        process.kill()


def test_one_that_has_ended_altogether_has_no_other_place() -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert living_place("/proc", process.pid) == str(process.pid)
    with pytest.raises(FileNotFoundError):
        living_place("/proc", 4_194_999)


def test_a_name_cannot_pass_for_a_state(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "stat").write_bytes(b"7 (x) Z 1) S 1 2")
    assert living_place(str(tmp_path), 7) == "7"
