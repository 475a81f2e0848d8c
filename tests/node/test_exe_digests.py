from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minerwatch.model import ProcessId
from minerwatch.node import exe_digests
from minerwatch.node.exe_digests import ExecutableHasher
from tests.conftest import Programs
from tests.culling.test_process_signals import identity


def sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_the_digest_is_that_of_the_program_also_when_its_file_is_gone(
    programs: Programs, tmp_path: Path
) -> None:
    kept, deleted = (identity(programs.start(name, busy=False).pid) for name in ("a", "b"))
    (tmp_path / "bin" / "b").unlink()
    shell = sha256(shutil.which("dash") or "/bin/sh")
    assert ExecutableHasher().digests([kept, deleted]) == {kept: shell, deleted: shell}


def test_a_pid_that_was_used_again_has_no_digest(programs: Programs) -> None:
    here = identity(programs.start("a", busy=False).pid)
    before = ProcessId(here.pid, here.start_ticks - 1)
    gone = ProcessId(2**22 + 1, 1)
    assert ExecutableHasher().digests([before, gone]) == {
        before: "- gone",
        gone: "- No such file or directory",
    }


def test_what_is_too_large_is_not_read(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exe_digests, "MAX_FILE_BYTES", 1000)
    here = identity(programs.start("a", busy=False).pid)
    assert ExecutableHasher().digests([here]) == {here: "- too large"}


def test_nothing_is_asked_for_nothing() -> None:
    assert ExecutableHasher().digests([]) == {}


def test_a_child_that_hangs_is_left_behind(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here = identity(programs.start("a", busy=False).pid)
    hangs = tmp_path / "hangs.py"
    hangs.write_text("import time; print('1 -', flush=True); time.sleep(60)")
    monkeypatch.setattr(exe_digests, "_HASHER", hangs)
    hasher = ExecutableHasher(deadline_s=0.3)
    assert hasher.digests([here]) == {}
    assert hasher.digests([]) == {}
    assert hasher._dying == []  # it could be killed


def test_a_program_that_hangs_its_reader_does_not_hide_the_next(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, second = (identity(programs.start(name, busy=False).pid) for name in ("a", "b"))
    hangs = tmp_path / "hangs.py"
    hangs.write_text(
        f"import sys, time\nif sys.argv[3].startswith('{first.pid}:'): time.sleep(600)\n"
        f"print({second.pid}, 'a' * 64, flush=True)\n"
    )
    monkeypatch.setattr(exe_digests, "_HASHER", hangs)
    assert ExecutableHasher(deadline_s=6.0).digests([first, second]) == {second: "a" * 64}


def test_a_program_whose_first_thread_has_ended_is_read_through_another() -> None:
    with subprocess.Popen([sys.executable, "-c", OUTLIVED], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        here = identity(process.pid)
        found = ExecutableHasher().digests([here])
        process.kill()
    assert found == {here: sha256(os.path.realpath(sys.executable))}


OUTLIVED = """
import ctypes, os, threading, time
def live_on():
    time.sleep(0.3)
    print(flush=True)
    time.sleep(1000)
threading.Thread(target=live_on).start()
ctypes.CDLL(None).syscall(60 if os.uname().machine == 'x86_64' else 93, 0)  # exit, not exit_group
"""


@pytest.mark.parametrize(
    "printed", ["", "x", "7 zz", "{pid} " + "a" * 63, "{pid}", "{pid} -", "9" * 5000 + " - x"]
)
def test_nonsense_is_no_digest(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, printed: str
) -> None:
    here = identity(programs.start("a", busy=False).pid)
    talks = tmp_path / "talks.py"
    talks.write_text(f"print({printed.format(pid=here.pid)!r})")
    monkeypatch.setattr(exe_digests, "_HASHER", talks)
    assert ExecutableHasher().digests([here]) == {}


def test_it_starts_without_the_agents_modules() -> None:
    hasher = Path(exe_digests.__file__).parent / "children" / "exe_hasher.py"
    own = identity(os.getpid())
    answer = subprocess.run(
        [sys.executable, "-I", hasher, "/proc", "1000000000", f"{own.pid}:{own.start_ticks}"],
        capture_output=True, check=True, text=True, cwd="/",
    )  # fmt: skip
    assert answer.stdout.split() == [str(os.getpid()), sha256(os.readlink("/proc/self/exe"))]
