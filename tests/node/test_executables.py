from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minerwatch.model import ProcessId
from minerwatch.node import executables
from minerwatch.node.executables import ExecutableHasher
from tests.conftest import Programs
from tests.kube.test_process_signals import identity
from tests.waiting import until


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
    monkeypatch.setattr(executables, "MAX_FILE_BYTES", 1000)
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
    monkeypatch.setattr(executables, "_HASHER", hangs)
    hasher = ExecutableHasher(deadline_s=0.3)
    assert hasher.digests([here]) == {}
    (child,) = hasher._dying
    until(lambda: child.poll() is not None)
    assert hasher.digests([]) == {}
    assert hasher._dying == []


@pytest.mark.parametrize(
    "printed", ["", "x", "7 zz", "{pid} " + "a" * 63, "{pid}", "{pid} -", "9" * 5000 + " - x"]
)
def test_nonsense_is_no_digest(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, printed: str
) -> None:
    here = identity(programs.start("a", busy=False).pid)
    talks = tmp_path / "talks.py"
    talks.write_text(f"print({printed.format(pid=here.pid)!r})")
    monkeypatch.setattr(executables, "_HASHER", talks)
    assert ExecutableHasher().digests([here]) == {}


def test_it_starts_without_the_agents_modules() -> None:
    hasher = Path(executables.__file__).with_name("executable_hasher.py")
    own = identity(os.getpid())
    answer = subprocess.run(
        [sys.executable, "-I", hasher, "/proc", "1000000000", f"{own.pid}:{own.start_ticks}"],
        capture_output=True, check=True, text=True, cwd="/",
    )  # fmt: skip
    assert answer.stdout.split() == [str(os.getpid()), sha256(os.readlink("/proc/self/exe"))]
