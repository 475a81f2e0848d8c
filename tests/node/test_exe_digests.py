from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minerwatch.model import ProcessId
from minerwatch.node.exe_digests import ExecutableHasher
from minerwatch.node.guarded_child import CHILDREN, GuardedProgram
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


def test_what_is_too_large_is_not_read(programs: Programs) -> None:
    here = identity(programs.start("a", busy=False).pid)
    assert ExecutableHasher(max_file_bytes=1000).digests([here]) == {here: "- too large"}


def test_nothing_is_asked_for_nothing() -> None:
    assert ExecutableHasher().digests([]) == {}


def hasher(folder: Path, script: str) -> GuardedProgram:
    """A hasher of the tests."""
    path = folder / "hasher.py"
    path.write_text(script)
    return GuardedProgram(path)


def test_a_child_that_hangs_is_killed(programs: Programs, tmp_path: Path) -> None:
    here = identity(programs.start("a", busy=False).pid)
    program = hasher(tmp_path, "import time; time.sleep(60)")
    assert ExecutableHasher(deadline_s=0.3, program=program).digests([here]) == {}
    assert program.dying() == 0


def test_a_program_that_hangs_its_reader_does_not_hide_the_next(
    programs: Programs, tmp_path: Path
) -> None:
    first, second = (identity(programs.start(name, busy=False).pid) for name in ("a", "b"))
    program = hasher(
        tmp_path,
        "import json, sys, time\n"
        "for line in sys.stdin:\n"
        f"    if json.loads(line)['pid'] == {first.pid}: time.sleep(600)\n"
        "    print('{\"digest\": \"' + 'a' * 64 + '\"}', flush=True)\n",
    )
    found = ExecutableHasher(deadline_s=6.0, program=program).digests([first, second])
    assert found == {second: "a" * 64}


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
    "printed",
    [
        "",
        "x",
        '{"digest": "zz"}',
        '{"digest": "%s"}' % ("a" * 63),
        '{"digest": 7}',
        "{}",
        "9" * 5000,
    ],
)
def test_nonsense_is_no_digest(programs: Programs, tmp_path: Path, printed: str) -> None:
    here = identity(programs.start("a", busy=False).pid)
    program = hasher(tmp_path, f"print({printed!r}, flush=True)")
    assert ExecutableHasher(program=program).digests([here]) == {}


def test_it_starts_without_the_agents_modules() -> None:
    own = identity(os.getpid())
    answer = subprocess.run(
        [sys.executable, "-I", CHILDREN / "exe_hasher.py", "/proc", "1000000000"],
        input=json.dumps({"pid": own.pid, "start_ticks": own.start_ticks}) + "\n",
        capture_output=True, check=True, text=True, cwd="/",
    )  # fmt: skip
    assert json.loads(answer.stdout) == {"digest": sha256(os.readlink("/proc/self/exe"))}
