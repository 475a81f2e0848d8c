"""Children that hang, exit, flood or answer nonsense are bounded, killed and replaced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minerwatch.node.capabilities import effective_capabilities
from minerwatch.node.guarded_child import (
    MAX_LINE_BYTES,
    GuardedChild,
    GuardedProgram,
    StalledError,
)
from tests.conftest import needs_root
from tests.node.test_confined import bits, held
from tests.waiting import PATIENCE_S, until

TARGETS = Path(__file__).parents[1] / "targets"
ECHO = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"
DEAF = "import time\nwhile True: time.sleep(60)"
Start = Callable[..., GuardedProgram]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Make the program of a script; all children are killed at the end."""
    programs: list[GuardedProgram] = []

    def make(script: str, *arguments: str) -> GuardedProgram:
        path = tmp_path / f"child{len(programs)}.py"
        path.write_text(script)
        programs.append(GuardedProgram(path, *arguments))
        return programs[-1]

    yield make
    for program in programs:
        program.close()


def soon(seconds: float = PATIENCE_S) -> float:
    return time.monotonic() + seconds


def child_of(program: GuardedProgram) -> GuardedChild:
    child = program.child()
    assert child is not None
    assert child.has_started(soon())
    return child


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def test_questions_are_answered_one_after_another(start: Start) -> None:
    child = child_of(start(ECHO))
    for question in ({"a": 1}, "text", [1, "ä"]):
        child.send(question, soon())
        assert child.receive(type(question), soon()) == question


def test_a_question_that_is_larger_than_a_pipe_arrives(start: Start) -> None:
    child = child_of(start("import sys\nprint(len(sys.stdin.readline()), flush=True)"))
    child.send("x" * (1 << 20), soon())
    assert child.receive(int, soon()) == (1 << 20) + 3


def test_arguments_reach_the_script(start: Start) -> None:
    script = "import json, sys\nprint(json.dumps(sys.argv[1:]), flush=True)"
    assert child_of(start(script, "a", "b c")).receive(list[str], soon()) == ["a", "b c"]


def test_a_child_that_does_not_read_does_not_block_its_sender(start: Start) -> None:
    child = child_of(start(DEAF))
    with pytest.raises(TimeoutError):
        child.send("x" * (1 << 20), soon(0.2))


def test_a_child_that_hangs_is_stalled(start: Start) -> None:
    child = child_of(start(DEAF))
    child.send("?", soon())
    began_s = time.monotonic()
    with pytest.raises(StalledError):
        child.receive(str, soon(), stall_s=0.2)
    assert time.monotonic() - began_s < PATIENCE_S / 4


def test_a_child_that_was_stopped_is_stalled(start: Start) -> None:
    child = child_of(start(ECHO))
    os.kill(child.pid, signal.SIGSTOP)
    child.send("?", soon())
    with pytest.raises(StalledError):
        child.receive(str, soon(), stall_s=0.2)


def test_a_child_that_works_is_late_and_not_stalled(start: Start) -> None:
    child = child_of(start("while True: pass"))
    with pytest.raises(TimeoutError) as raised:
        child.receive(str, soon(1.0), stall_s=0.1)
    assert not isinstance(raised.value, StalledError)


NONSENSE = {
    "exits": "",
    "raises": "raise ValueError",
    "is killed": "import os; os.kill(os.getpid(), 9)",
    "not JSON": "print('garbage', flush=True); input()",
    "not text": "import sys; sys.stdout.buffer.write(b'\\xff\\n'); sys.stdout.flush(); input()",
    "of another type": "print('{\"a\": 1}', flush=True); input()",
    "no end of line": "import sys\nwhile True: sys.stdout.write('x' * 65536)",
    "nested without end": "print('[' * 60000, flush=True); input()",
}


@pytest.mark.parametrize("script", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_is_an_error_of_a_known_kind(start: Start, script: str) -> None:
    child = child_of(start(script))
    with pytest.raises((OSError, ValueError)) as raised:
        child.receive(int, soon())
    assert not isinstance(raised.value, TimeoutError)


def test_a_flood_takes_no_memory_here(start: Start) -> None:
    child = child_of(start("import sys\nwhile True: sys.stdout.write('1\\n' * 32768)"))
    before_kib = resident_kib()
    for _ in range(1000):
        assert child.receive(int, soon()) == 1
    assert resident_kib() - before_kib < 8 * MAX_LINE_BYTES / 1024


def resident_kib() -> int:
    text = Path("/proc/self/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0])


def test_a_child_that_ignores_sigterm_is_killed(start: Start) -> None:
    program = start("import signal\nsignal.signal(15, signal.SIG_IGN)\n" + DEAF)
    child = child_of(program)
    until(lambda: ignores_sigterm(child.pid))
    program.close()
    assert state(child.pid) == ""
    assert program.dying() == 0
    assert not program.is_running


def ignores_sigterm(pid: int) -> bool:
    mask = int(status_of(pid).partition("SigIgn:")[2].split()[0], 16)
    return bool(mask >> (signal.SIGTERM - 1) & 1)


def status_of(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


def test_one_that_was_discarded_is_replaced_at_once(start: Start) -> None:
    program = start(ECHO)
    first = child_of(program)
    assert program.child() is first
    program.discard()
    second = child_of(program)
    assert second.pid != first.pid
    second.send(1, soon())
    assert second.receive(int, soon()) == 1


def test_one_that_fails_again_and_again_is_started_ever_more_rarely(start: Start) -> None:
    program = start("")
    pauses = []
    for _ in range(3):
        until(lambda: program.backoff_s == 0)
        with pytest.raises(OSError):
            child_of(program).receive(int, soon())
        program.discard(has_failed=True)
        pauses.append(program.backoff_s)
        assert program.child() is None
    assert pauses[0] <= 0.1 < pauses[1] <= 0.2 < pauses[2] <= 0.4
    until(lambda: program.backoff_s == 0)
    child_of(program)
    program.discard()  # it did what it was asked for
    program.discard(has_failed=True)
    assert program.backoff_s <= 0.1


def test_a_script_that_is_missing_fails_like_one_that_exits(tmp_path: Path) -> None:
    program = GuardedProgram(tmp_path / "none.py")
    child = program.child()
    assert child is not None
    with pytest.raises(OSError):
        child.receive(int, soon())
    program.close()


def test_a_child_is_killed_with_its_parent(tmp_path: Path) -> None:
    deaf = tmp_path / "deaf.py"
    deaf.write_text(DEAF)
    script = (
        "import sys, time\nfrom pathlib import Path\n"
        "from minerwatch.node.guarded_child import GuardedChild\n"
        "child = GuardedChild(Path(sys.argv[1]))\n"
        "assert child.has_started(time.monotonic() + 60)\n"
        "print(child.pid, flush=True)\ntime.sleep(600)\n"
    )
    command = [sys.executable, "-c", script, str(deaf)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, signal.SIGSTOP)
        parent.kill()
    until(lambda: state(pid) in ("", "Z"))


@needs_root
def test_a_child_can_read_other_processes_and_no_more(start: Start) -> None:
    child = child_of(start(ECHO))
    allowed = effective_capabilities() & {"SYS_PTRACE", "DAC_READ_SEARCH"}
    found = held(status_of(child.pid))
    assert found["CapEff"] == found["CapPrm"] == bits(*allowed)
    assert found["NoNewPrivs"] == 1


@needs_root
def test_a_child_that_cannot_be_killed_is_left_behind(start: Start, tmp_path: Path) -> None:
    """Its read waits for a file system whose server does not answer: state D."""
    mount, served = tmp_path / "fuse", tmp_path / "served"
    mount.mkdir()
    served.write_bytes(bytes(4 << 20))
    server = subprocess.Popen(
        [sys.executable, "-I", str(TARGETS / "dead_fuse.py"), str(mount), str(served)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    with server:
        if server.stdout.readline() != b"mounted\n":
            pytest.skip("no FUSE here: run it as root where /dev/fuse is")
        server.stdin.write(b"\n")
        server.stdin.flush()
        assert server.stdout.readline() == b"dead\n"
        program = start(
            "import sys\nfor line in sys.stdin: open(sys.argv[1], 'rb').read()",
            str(mount / "program"),
        )
        try:
            child = child_of(program)
            child.send("read it", soon())
            with pytest.raises(StalledError):
                child.receive(str, soon(), stall_s=0.3)
            program.discard("container")
            if not program.dying(0.5):
                pytest.skip("this kernel kills what waits for FUSE: run it on another")
            assert state(child.pid) == "D"
            assert program.child("container") is None  # nothing more hangs in it
            other = program.child("another")
            assert other is not None
            assert other.has_started(soon())
            program.discard("another")
        finally:
            server.kill()
            server.wait()
            subprocess.run(["umount", "--lazy", mount], check=False)
        until(lambda: program.dying() == 0)
        assert program.child("container") is not None


def test_a_released_child_ends_by_its_input_and_is_not_killed(start: Start, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    program = start(
        f"import sys, pathlib\nfor line in sys.stdin: pass\npathlib.Path({str(mark)!r}).touch()"
    )
    child_of(program)
    program.release()
    until(mark.exists)
    assert not program.is_running
