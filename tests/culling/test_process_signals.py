"""Real processes: exactly those that are meant are hit."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minerwatch.culling import process_signals
from minerwatch.culling.process_signals import STOPPED, Hits, is_own_proc, send_all, state
from minerwatch.model import ProcessId
from tests.conftest import Programs, needs_root
from tests.waiting import PATIENCE_S, until

_TICKS = os.sysconf("SC_CLK_TCK")


def identity(pid: int) -> ProcessId:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return ProcessId(pid, int(fields[19]))


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return int(fields[11]) + int(fields[12])


def test_stop_holds_and_continue_lets_go(programs: Programs) -> None:
    miner, other = (programs.start(name, busy=True) for name in ("xmrig", "other"))
    process = identity(miner.pid)
    assert send_all((process,), signal.SIGSTOP) == Hits(hit=(process,))
    until(lambda: state(process) == STOPPED)
    assert state(identity(other.pid)) != STOPPED
    held = cpu_ticks(miner.pid)
    time.sleep(5 / _TICKS)
    assert cpu_ticks(miner.pid) == held
    assert send_all((process,), signal.SIGCONT) == Hits(hit=(process,))
    until(lambda: cpu_ticks(miner.pid) > held)


def test_kill_hits_the_one_that_is_meant(programs: Programs) -> None:
    miner, other = (programs.start("xmrig", busy=True) for _ in range(2))
    process = identity(miner.pid)
    assert send_all((process,), signal.SIGKILL) == Hits(hit=(process,))
    assert miner.wait(PATIENCE_S) == -signal.SIGKILL
    assert other.poll() is None
    assert state(process) == ""


def test_a_pid_that_was_used_again_is_left_alone(programs: Programs) -> None:
    """The process that has the pid now started at another time than the one that was judged."""
    later = programs.start("innocent", busy=False)
    before = ProcessId(later.pid, identity(later.pid).start_ticks - 1)
    for number in (signal.SIGSTOP, signal.SIGKILL, None):
        assert send_all((before,), number) == Hits(gone=(before,))
    time.sleep(0.05)
    assert later.poll() is None
    assert state(identity(later.pid)) not in ("", STOPPED)


@needs_root
def test_a_pid_that_is_really_used_again_is_left_alone(programs: Programs) -> None:
    """The kernel is told to give the same pid to the next process (proc_sys_kernel(5))."""
    last_pid = Path("/proc/sys/kernel/ns_last_pid")
    if not last_pid.exists():
        pytest.skip("run it on a kernel with CONFIG_CHECKPOINT_RESTORE")
    miner = programs.start("xmrig", busy=False)
    meant = identity(miner.pid)
    miner.kill()
    miner.wait()
    time.sleep(2 / _TICKS)
    for _ in range(200):  # others start processes, too
        try:
            last_pid.write_text(str(meant.pid - 1))
        except OSError as error:
            pytest.skip(f"pids cannot be chosen here, run it as root: {error}")
        innocent = programs.start("innocent", busy=False)
        if innocent.pid == meant.pid:
            break
        innocent.kill()
        innocent.wait()
    else:
        pytest.skip("the pid was not given again: run it where fewer processes start")
    assert send_all((meant,), signal.SIGKILL) == Hits(gone=(meant,))
    time.sleep(0.05)
    assert innocent.poll() is None


def test_a_process_that_ends_between_the_look_and_the_signal_is_gone(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And whoever gets its pid then cannot be hit: the signal goes to the pidfd."""
    miner = programs.start("xmrig", busy=False)
    process = identity(miner.pid)
    looked = process_signals.state

    def ends_after_the_look(asked: ProcessId) -> str:
        seen = looked(asked)
        miner.kill()
        miner.wait()
        return seen

    monkeypatch.setattr(process_signals, "state", ends_after_the_look)
    assert send_all((process,), signal.SIGKILL) == Hits(gone=(process,))


def test_one_that_cannot_be_signalled_does_not_spare_the_others(programs: Programs) -> None:
    miner = programs.start("xmrig", busy=True)
    process, own, init = identity(miner.pid), identity(os.getpid()), identity(1)
    hits = send_all((own, init, process), signal.SIGKILL)
    assert hits.hit == (process,)
    assert [failed for failed, _ in hits.failed] == [own, init]
    assert miner.wait(PATIENCE_S) == -signal.SIGKILL


@needs_root
def test_a_dry_run_asks_the_kernel_and_changes_nothing(programs: Programs) -> None:
    miner = programs.start("xmrig", busy=True)
    process = identity(miner.pid)
    assert send_all((process,), None) == Hits(hit=(process,))
    asked = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", sys.executable, "-c", _ASK,
         str(process.pid), str(process.start_ticks)],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert "the agent lacks CAP_KILL" in asked.stdout
    assert miner.poll() is None


_ASK = """
import sys
from minerwatch.culling.process_signals import send_all
from minerwatch.model import ProcessId
print(send_all((ProcessId(int(sys.argv[1]), int(sys.argv[2])),), None))
"""


@needs_root
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare: apt install util-linux")
def test_the_init_of_a_pid_namespace_is_stopped_continued_and_killed(programs: Programs) -> None:
    """It is seen by its pid out here; in there, as pid 1, it ignores what it has no handler for."""
    outer = programs.run(
        [
            "unshare",
            "--pid",
            "--fork",
            "--mount-proc",
            "sh",
            "-c",
            "trap '' CONT; while :; do :; done",
        ]
    )
    children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
    until(lambda: children.read_text().split())
    init = identity(int(children.read_text().split()[0]))
    until(lambda: cpu_ticks(init.pid) > 0)
    assert send_all((init,), signal.SIGSTOP) == Hits(hit=(init,))
    until(lambda: state(init) == STOPPED)
    held = cpu_ticks(init.pid)
    assert send_all((init,), signal.SIGCONT) == Hits(hit=(init,))
    until(lambda: cpu_ticks(init.pid) > held)
    assert send_all((init,), signal.SIGKILL) == Hits(hit=(init,))
    until(lambda: state(init) in ("", "Z"))
    outer.wait(PATIENCE_S)


def test_only_the_kernels_own_proc_has_pids_to_signal(tmp_path: Path) -> None:
    assert is_own_proc(Path("/proc"))
    assert not is_own_proc(tmp_path)
    (tmp_path / "self").symlink_to("1")
    assert not is_own_proc(tmp_path)
    assert state(ProcessId(1, 1), tmp_path) == ""


@pytest.mark.parametrize("line", [b"", b"7 (x", b"7 (x) S 1", b"7 () ) ) T " + b"x " * 30])
def test_a_stat_that_is_none_is_no_process(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "stat").write_bytes(line)
    assert state(ProcessId(7, 1), tmp_path) == ""


def test_a_hostile_name_does_not_hide_the_state(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    line = b"7 (a) R 1 2) T " + b" ".join(b"%d" % number for number in range(4, 53))
    (tmp_path / "7" / "stat").write_bytes(line)
    assert state(ProcessId(7, 22), tmp_path) == STOPPED
