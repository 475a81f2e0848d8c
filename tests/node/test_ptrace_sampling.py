"""Short stops of running threads: what they tell, and that nobody is harmed by them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from shutil import which

import pytest

from benchmarks.orphan import Orphan, children, identity
from minerwatch.model import FpSample, ProcessId
from minerwatch.node import ptrace_sampling
from minerwatch.node.children import ptrace_sampler
from minerwatch.node.fp_rounding import RoundingSamples, rounding_mode
from minerwatch.node.ptrace_sampling import PtraceSampler, PtraceUnavailableError
from tests.conftest import environment_of_this_python, needs_root
from tests.waiting import PATIENCE_S, until

pytestmark = needs_root

TARGETS = Path(__file__).parent.parent / "targets"
SAMPLER = Path(ptrace_sampler.__file__)
BUSY = "while True: pass"


def nothing() -> str:
    return ""


def field(pid: int, tid: int, name: str) -> str:
    """A line of /proc/PID/task/TID/status."""
    status = Path(f"/proc/{pid}/task/{tid}/status").read_text()
    return status.partition(f"\n{name}:")[2].partition("\n")[0].strip()


def cpu_ns(pid: int) -> int:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


def goes_on(pid: int) -> bool:
    """Whether a busy program is traced by nobody and burns CPU."""
    before = cpu_ns(pid)
    until(lambda: cpu_ns(pid) > before + 20_000_000)
    return field(pid, pid, "TracerPid") == "0"


@pytest.fixture
def sampler(monkeypatch: pytest.MonkeyPatch) -> Iterator[PtraceSampler]:
    """Twenty times as eager as the agent's."""
    monkeypatch.setattr(ptrace_sampling, "_ASK_EVERY_S", 0.05)
    try:
        found = PtraceSampler(nothing)
    except PtraceUnavailableError as error:
        pytest.skip(f"{error} (this test traces processes)")
    yield found
    found.close()


class Started:
    """Programs that are not the test's children; all are killed at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._orphans: list[Orphan] = []

    def run(self, *command: str) -> Orphan:
        output = self._folder / f"output-{len(self._orphans)}"
        orphan = Orphan(command, output, environment_of_this_python())
        self._orphans.append(orphan)
        return orphan

    def python(self, script: str, *arguments: str) -> Orphan:
        return self.run(sys.executable, "-c", textwrap.dedent(script), *arguments)

    def compiled(self, name: str, *arguments: str) -> Orphan:
        if which("cc") is None:
            pytest.skip("needs a C compiler: apt install gcc libc6-dev")
        program = self._folder / name
        source = TARGETS / f"{name}.c"
        subprocess.run(["cc", "-O1", "-pthread", "-o", program, source], check=True)
        return self.run(str(program), *arguments)

    def close(self) -> None:
        for orphan in self._orphans:
            orphan.close()


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    found = Started(tmp_path)
    yield found
    found.close()


def samples_of(
    sampler: PtraceSampler, processes: list[ProcessId], count: int, limit_s: float = PATIENCE_S
) -> list[FpSample]:
    found: list[FpSample] = []
    ends_s = time.monotonic() + limit_s
    while len(found) < count and time.monotonic() < ends_s:
        found += sampler.fp_samples(processes)
        time.sleep(0.01)
    return found


def failures_of(sampler: PtraceSampler, process: ProcessId, reason: str) -> None:
    """Until there is one for this reason; there must not be a sample."""

    def has_failed() -> bool:
        assert sampler.fp_samples([process]) == []
        return sampler.failures[reason] > 0

    until(has_failed)


# What it tells.


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_the_mode_that_a_thread_rounds_in_is_told(
    sampler: PtraceSampler, started: Started, mode: int
) -> None:
    shift = 10 if os.uname().machine == "x86_64" else 22  # fenv.h
    script = f"""
        import ctypes
        assert ctypes.CDLL("libm.so.6").fesetround({mode} << {shift}) == 0
        while True: pass
    """
    target = started.python(script)
    time.sleep(0.3)
    found = samples_of(sampler, [target.process], 3)
    assert {rounding_mode(sample.fp_control) for sample in found} == {mode}
    assert {(sample.process, sample.tid) for sample in found} == {(target.process, target.pid)}
    assert goes_on(target.pid)


@pytest.mark.parametrize("options", [["1"], ["2"], ["1", "nojit"], ["2", "nojit"]], ids=" ".join)
def test_randomx_is_told_by_how_it_rounds(
    sampler: PtraceSampler, started: Started, options: list[str]
) -> None:
    pytest.importorskip("cyrx", reason="needs a RandomX binding: pip install cyrx")
    threads, *how = options
    target = started.run("python3", str(TARGETS / "randomx_hashing.py"), threads, "3600", *how)
    until(lambda: target.said == "hashing\n")
    samples = RoundingSamples()
    for sample in samples_of(sampler, [target.process], 40):
        samples.add(samples.count, sample.tid, sample.fp_control)
    rounding = samples.rounding()
    assert rounding is not None
    assert rounding.modes == 4
    assert rounding.share >= 0.2
    assert rounding.flush_to_zero_share >= 0.9


def test_a_few_a_second_each_process_once(
    monkeypatch: pytest.MonkeyPatch, started: Started
) -> None:
    sampler = PtraceSampler(nothing)
    targets = [started.python(BUSY).process for _ in range(6)]
    began_s = time.monotonic()
    found: list[FpSample] = []
    while (lasted_s := time.monotonic() - began_s) < 4.5 or len(found) < 4:
        found += sampler.fp_samples(targets)
        time.sleep(0.01)
    sampler.close()
    assert len(found) <= 4 * (lasted_s + 1)
    assert all(sum(each.process == one for each in found) <= lasted_s + 1 for one in targets)


def test_of_more_processes_than_it_may_stop_each_has_its_turn(
    sampler: PtraceSampler, started: Started
) -> None:
    targets = [started.python(BUSY).process for _ in range(sampler.most_at_once)]
    found = samples_of(sampler, targets, 60)
    assert {sample.process for sample in found} == set(targets)


def test_only_busy_threads_of_a_process_are_sampled(
    sampler: PtraceSampler, started: Started
) -> None:
    script = """
        import threading, time
        for _ in range(100):
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        while True: pass
    """
    target = started.python(script)
    until(lambda: len(os.listdir(f"/proc/{target.pid}/task")) == 101)
    found = samples_of(sampler, [target.process], 10)
    assert {sample.tid for sample in found} == {target.pid}


def test_others_users_and_those_that_shut_themselves_in_are_sampled(
    sampler: PtraceSampler, started: Started
) -> None:
    script = """
        import ctypes, os
        os.setresuid(65534, 65534, 65534)
        libc = ctypes.CDLL(None)
        assert libc.prctl(4, 0, 0, 0, 0) == 0  # PR_SET_DUMPABLE: as if it were set-user-id
        assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
        libc.prctl(0x59616D61, 0, 0, 0, 0)  # PR_SET_PTRACER: by nobody
        assert libc.prctl(22, 1, 0, 0, 0) == 0  # PR_SET_SECCOMP: no system call but read and write
        while True: pass
    """
    target = started.python(script)
    until(lambda: field(target.pid, target.pid, "Seccomp") == "1")
    assert len(samples_of(sampler, [target.process], 3)) == 3
    assert goes_on(target.pid)


def test_nobody_shuts_the_sampler_out_by_a_long_status(
    sampler: PtraceSampler, started: Started
) -> None:
    target = started.python("import os; os.setgroups(range(100000, 165536)) \nwhile True: pass")
    until(lambda: len(field(target.pid, target.pid, "Groups")) > 400_000)
    assert len(samples_of(sampler, [target.process], 3)) == 3
    assert sampler.failures["child"] == sampler.failures["unreadable"] == 0


# Whom it leaves alone.


def test_threads_that_wait_are_not_touched(sampler: PtraceSampler, started: Started) -> None:
    """Beside a thread that is stopped again and again, twelve wait, and none of them wakes."""
    target = started.compiled("waits", "6")
    until(lambda: len(os.listdir(f"/proc/{target.pid}/task")) == 13)
    waiting = [int(tid) for tid in os.listdir(f"/proc/{target.pid}/task")]
    waiting.remove(target.pid)
    until(lambda: all(field(target.pid, tid, "State").startswith("S") for tid in waiting))
    before = {tid: switches(target.pid, tid) for tid in waiting}
    found = samples_of(sampler, [target.process], 40)
    assert {sample.tid for sample in found} == {target.pid}
    assert {tid: switches(target.pid, tid) for tid in waiting} == before
    target.wait(20)
    assert target.said == "done\n"


def switches(pid: int, tid: int) -> tuple[str, str]:
    names = ("voluntary_ctxt_switches", "nonvoluntary_ctxt_switches")
    return field(pid, tid, names[0]), field(pid, tid, names[1])


def test_the_test_before_would_notice(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the look at what a thread does, waits end with EINTR, and that is told."""
    target = started.compiled("waits", "4")
    until(lambda: len(os.listdir(f"/proc/{target.pid}/task")) == 13)
    waiting = [int(tid) for tid in os.listdir(f"/proc/{target.pid}/task") if int(tid) != target.pid]
    until(lambda: all(field(target.pid, tid, "State").startswith("S") for tid in waiting))
    monkeypatch.setattr(ptrace_sampler._Stop, "_is_as_noted", lambda *_: True)
    missed: list[str] = []
    with here(target.pid) as folder:
        for tid in waiting:
            try:
                ptrace_sampler._in_a_thread(ptrace_sampler._Stop(folder, tid))
            except ptrace_sampler._Miss as miss:
                missed.append(str(miss))
    target.wait(20)
    ended = {line.partition(":")[0] for line in target.said.splitlines()} - {"done"}
    assert {"epoll", "semaphore", "signal", "receive"} <= ended
    assert "Interrupted system call" in target.said
    if os.uname().machine == "x86_64":
        assert missed.count("interrupted") == len(ended)


class here:  # noqa: N801
    """A process's folder, opened; with SIGCHLD blocked, as in the sampler."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def __enter__(self) -> int:
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        self._folder = os.open(f"/proc/{self._pid}", os.O_RDONLY | os.O_DIRECTORY)
        return self._folder

    def __exit__(self, *_: object) -> None:
        os.close(self._folder)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)


def test_whoever_waits_now_and_then_is_not_stopped(
    sampler: PtraceSampler, started: Started
) -> None:
    target = started.compiled("works_and_waits", "4")
    time.sleep(0.2)
    process = target.process
    while target.is_running:
        assert sampler.fp_samples([process]) == []
        time.sleep(0.01)
    assert sampler.failures["waits"] > 10
    assert target.said == "0 interrupted\n"


def test_exempt_are_the_first_process_the_kernel_the_agent_and_what_it_started(
    sampler: PtraceSampler, started: Started
) -> None:
    child = subprocess.Popen(["sh", "-c", "sh -c 'while :; do :; done' & wait"])
    try:
        until(lambda: bool(children(child.pid)))
        for pid in (1, 2, os.getpid(), child.pid, *children(child.pid)):
            process = identity(pid)
            before = sampler.failures["exempt"]
            until(lambda: not sampler.fp_samples([process]) and sampler.failures["exempt"] > before)  # noqa: B023
    finally:
        for pid in (*children(child.pid), child.pid):
            os.kill(pid, signal.SIGKILL)
        child.wait()


def test_one_that_is_stopped_stays_so(sampler: PtraceSampler, started: Started) -> None:
    target = started.python(BUSY)
    time.sleep(0.2)
    os.kill(target.pid, signal.SIGSTOP)
    until(lambda: field(target.pid, target.pid, "State").startswith("T"))
    process = target.process
    for _ in range(50):
        assert sampler.fp_samples([process]) == []
        time.sleep(0.01)
    assert field(target.pid, target.pid, "State").startswith("T (stopped)")
    os.kill(target.pid, signal.SIGCONT)
    assert goes_on(target.pid)


def test_a_zombie_is_left_alone(sampler: PtraceSampler, started: Started) -> None:
    parent = started.python(
        """
        import os, time
        child = os.fork()
        if child == 0:
            os._exit(5)
        print(child, flush=True)
        time.sleep(1.5)
        print(os.waitpid(child, 0)[1] >> 8, flush=True)
        """
    )
    until(lambda: parent.said.endswith("\n"))
    zombie = int(parent.said)
    process = identity(zombie)
    while parent.is_running:
        assert sampler.fp_samples([process]) == []
        time.sleep(0.01)
    assert parent.said == f"{zombie}\n5\n"


TRACER = """
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
assert libc.ptrace(0x4206, int(sys.argv[1]), None, None) == 0  # PTRACE_SEIZE
print("traces", flush=True)
time.sleep(60)
"""


def test_whoever_is_traced_by_somebody_else_is_left_to_them(
    sampler: PtraceSampler, started: Started
) -> None:
    target = started.python(BUSY)
    tracer = started.python(TRACER, str(target.pid))
    until(lambda: tracer.said == "traces\n")
    failures_of(sampler, target.process, "traced")
    assert field(target.pid, target.pid, "TracerPid") == str(tracer.pid)
    with here(target.pid) as folder, pytest.raises(ptrace_sampler._Miss, match="refused"):
        ptrace_sampler._in_a_thread(ptrace_sampler._Stop(folder, target.pid))
    tracer.close()
    assert len(samples_of(sampler, [target.process], 1)) == 1


def test_a_program_that_debugs_its_child_goes_on_with_it(
    sampler: PtraceSampler, started: Started
) -> None:
    """It steps its child through some thousand instructions, while both are asked for."""
    parent = started.python(
        """
        import ctypes, os, signal, time
        libc = ctypes.CDLL(None)
        libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
        child = os.fork()
        if child == 0:
            libc.ptrace(0, 0, None, None)  # PTRACE_TRACEME
            os.kill(os.getpid(), signal.SIGSTOP)
            while True: pass
        print(child, flush=True)
        stops = [os.WSTOPSIG(os.waitpid(child, 0)[1])]
        for _ in range(20000):
            libc.ptrace(9, child, None, None)  # PTRACE_SINGLESTEP
            stops.append(os.WSTOPSIG(os.waitpid(child, 0)[1]))
        os.kill(child, signal.SIGKILL)
        print(len(stops), set(stops[1:]), os.waitpid(child, 0)[1], flush=True)
        """
    )
    until(lambda: parent.said.endswith("\n"))
    child = int(parent.said)
    both = [parent.process, identity(child)]
    while parent.is_running:
        assert all(sample.process != both[1] for sample in sampler.fp_samples(both))
        time.sleep(0.01)
    assert parent.said == f"{child}\n20001 {{5}} 9\n"


def test_another_process_under_the_same_pid_is_not_taken_for_it(
    sampler: PtraceSampler, started: Started
) -> None:
    target = started.python(BUSY)
    failures_of(sampler, target.process._replace(start_ticks=1), "gone")
    assert goes_on(target.pid)


def test_a_thread_that_takes_the_id_between_look_and_stop_is_not_stopped(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files were opened of one that has ended; what is seized by its number is another."""
    looked_at, other = started.python(BUSY), started.python(BUSY)
    time.sleep(0.2)
    stopped: list[int] = []
    call = ptrace_sampler._Stop._ptrace

    def noted(stop: ptrace_sampler._Stop, request: int, address: int = 0, data: int = 0) -> int:
        if request == ptrace_sampler._SEIZE:
            os.kill(looked_at.pid, signal.SIGKILL)
            until(lambda: not os.path.exists(f"/proc/{looked_at.pid}"))
            stop._tid = other.pid
        elif request == ptrace_sampler._INTERRUPT:
            stopped.append(stop._tid)
        return call(stop, request, address, data)

    monkeypatch.setattr(ptrace_sampler._Stop, "_ptrace", noted)
    monkeypatch.setattr(ptrace_sampler, "_HUNG_S", 30.0)
    with here(looked_at.pid) as folder, pytest.raises(ProcessLookupError):
        ptrace_sampler._in_a_thread(ptrace_sampler._Stop(folder, looked_at.pid))
    assert stopped == []
    assert goes_on(other.pid)


# That whoever is stopped goes on.


@pytest.fixture
def stays(tmp_path: Path) -> Path:
    """A sampler that keeps standing in the middle of a stop."""
    script = tmp_path / "stays.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys, time
            sys.path.insert(0, {str(SAMPLER.parent)!r})
            import ptrace_sampler
            trial, read = ptrace_sampler._trial, ptrace_sampler._Stop._set_of

            def stay(stop, kind):
                time.sleep(60)

            def tried():
                reason = trial()
                ptrace_sampler._Stop._set_of = stay
                ptrace_sampler._HUNG_S = 60
                return reason

            ptrace_sampler._trial = tried
            ptrace_sampler.main()
            """
        )
    )
    return script


def is_held(pid: int) -> bool:
    return field(pid, pid, "State").startswith("t")


def test_when_the_sampler_is_killed_in_the_middle_its_target_goes_on(
    sampler: PtraceSampler, started: Started, stays: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ptrace_sampling, "_SAMPLER", stays)
    sampler.rest()
    target = started.python(BUSY)
    until(lambda: not sampler.fp_samples([target.process]) and is_held(target.pid))
    assert sampler._child is not None
    sampler._child.kill()
    assert goes_on(target.pid)
    until(lambda: not sampler.fp_samples([target.process]) and sampler.failures["child"] == 1)


def test_when_the_sampler_does_not_answer_it_is_ended_and_its_target_goes_on(
    sampler: PtraceSampler, started: Started, stays: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ptrace_sampling, "_SAMPLER", stays)
    monkeypatch.setattr(ptrace_sampling, "_ANSWER_S", 0.5)
    sampler.rest()
    target = started.python(BUSY)
    until(lambda: not sampler.fp_samples([target.process]) and is_held(target.pid))
    until(lambda: not sampler.fp_samples([target.process]) and sampler.failures["timeout"] == 1)
    assert goes_on(target.pid)


def test_when_the_agent_is_killed_in_the_middle_its_target_goes_on(
    started: Started, stays: Path
) -> None:
    target = started.python(BUSY)
    agent = f"""
        import sys, time
        from pathlib import Path
        from minerwatch.model import ProcessId
        from minerwatch.node import ptrace
        sampler = ptrace.PtraceSampler(lambda: "")
        sampler.rest()
        ptrace._SAMPLER = Path({str(stays)!r})
        while True:
            sampler.fp_samples([ProcessId({target.pid}, {target.process.start_ticks})])
            time.sleep(0.05)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(agent)]) as process:
        try:
            until(lambda: is_held(target.pid))
            tracer = int(field(target.pid, target.pid, "TracerPid"))
        finally:
            process.kill()
    assert goes_on(target.pid)
    until(lambda: not os.path.exists(f"/proc/{tracer}"))


def test_a_stop_that_does_not_come_is_given_up(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vfork(2) parent cannot be stopped before its child has become another program."""
    target = started.compiled("vforks", "2")
    until(lambda: field(target.pid, target.pid, "State").startswith("D"))
    monkeypatch.setattr(ptrace_sampler._Stop, "_is_as_noted", lambda *_: True)
    with here(target.pid) as folder, pytest.raises(ptrace_sampler._Miss, match="not_stopped"):
        ptrace_sampler._in_a_thread(ptrace_sampler._Stop(folder, target.pid))
    assert field(target.pid, target.pid, "State").startswith("D")
    until(lambda: target.said == "3\n")
    assert goes_on(target.pid)


def test_one_that_hangs_its_sampler_is_avoided_and_others_are_sampled(
    sampler: PtraceSampler, started: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a thread does whose process has been in execve(2) for long: seizing it waits for that."""
    bad, good = started.python(BUSY), started.python(BUSY)
    script = tmp_path / "hangs.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys, time
            sys.path.insert(0, {str(SAMPLER.parent)!r})
            import ptrace_sampler
            call = ptrace_sampler._Stop._ptrace
            def hang(stop, request, address=0, data=0):
                if stop._tid == {bad.pid}:
                    time.sleep(60)
                return call(stop, request, address, data)
            ptrace_sampler._Stop._ptrace = hang
            ptrace_sampler.main()
            """
        )
    )
    monkeypatch.setattr(ptrace_sampling, "_SAMPLER", script)
    sampler.rest()
    found = samples_of(sampler, [bad.process, good.process], 5)
    assert {sample.process for sample in found} == {good.process}
    assert sampler.failures["hung"] == 1


def test_no_signal_is_lost(sampler: PtraceSampler, started: Started) -> None:
    """Real-time signals are queued: as many arrive as are sent, stops or not."""
    target = started.compiled("counts_signals")
    until(lambda: target.said == "ready\n")
    process = target.process
    found = 0
    for _ in range(3000):
        os.kill(target.pid, signal.SIGRTMIN)
        found += len(sampler.fp_samples([process]))
        time.sleep(0.0005)
    assert found > 5
    os.kill(target.pid, signal.SIGUSR1)
    target.wait(10)
    assert target.said == "ready\n3000\n"


FORKS = """
import os, sys, time
def burn(seconds):
    ends = time.monotonic() + seconds
    while time.monotonic() < ends: pass
statuses = []
for number in range(40):
    child = os.fork()
    if child == 0:
        burn(0.06)
        os._exit(number)
    statuses.append(os.waitpid(child, 0)[1] >> 8)
print(statuses == list(range(40)), flush=True)
sys.exit(9)
"""


def test_children_that_end_meanwhile_are_their_parents_to_wait_for(
    sampler: PtraceSampler, started: Started
) -> None:
    target = started.run("sh", "-c", '"$0" -c "$1"; echo $?', sys.executable, FORKS)
    while target.is_running:
        family = target.family()
        sampler.fp_samples(random.sample(family, len(family)))
        time.sleep(0.01)
    assert target.said == "True\n9\n"


NO_HARM = {
    "computes": f"{sys.executable} -c 'print(sum(n * n for n in range(20000000))); exit(6)'",
    "computes in threads": f"""{sys.executable} -c '
import hashlib, threading
def work(n): sums[n] = hashlib.pbkdf2_hmac("sha256", b"a", b"b" * n, 2000000).hex()
sums = {{}}
threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(sorted(sums.items()))'""",
    "a pipeline": "head -c 300000000 /dev/zero | tr '\\0' 'x' | gzip -1 | gunzip | cksum",
    "sleeps": "i=0; while [ $i -lt 60 ]; do i=$((i+1)); sleep 0.03; done; echo $i",
    "forks": "i=0; while [ $i -lt 600 ]; do (exit $((i % 7))) || n=$((n + $?)); i=$((i+1)); done;"
    " echo $n; exit 4",
    "threads": f"""{sys.executable} -c '
import queue, threading
there, back, total = queue.Queue(), queue.Queue(), 0
def work():
    while (n := there.get()) is not None: back.put(sum(range(n)))
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for n in range(3000): there.put(n)
for _ in range(3000): total += back.get()
for _ in threads: there.put(None)
print(total)'""",
    "a timer": f"""{sys.executable} -c '
import signal, sys
ticks = []
signal.signal(signal.SIGALRM, lambda *_: ticks.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
while len(ticks) < 300: sum(range(1000))
signal.setitimer(signal.ITIMER_REAL, 0)
print(len(ticks) >= 300)'; exit 2""",
    "under strace": f"strace -f -o /dev/null {sys.executable} -c 'print(sum(range(20000000)))'",
    "under gdb": f"gdb -batch -q -ex run --args {sys.executable} -c 'print(sum(range(20000000)))'"
    " 2>/dev/null | grep -oE '^[0-9]+$|exited.*'",
}


def test_programs_end_as_they_would_without(sampler: PtraceSampler, started: Started) -> None:
    """The same output, the same exit status, with everything that they start being sampled."""

    def run_all() -> dict[str, Orphan]:
        return {
            name: started.run("sh", "-c", f"{script}\necho status $?")
            for name, script in NO_HARM.items()
            if not name.startswith("under ") or which(name.removeprefix("under "))
        }

    alone, watched = run_all(), {}
    for target in alone.values():
        target.wait(60)
    watched = run_all()
    samples: list[FpSample] = []
    asked: list[ProcessId] = []
    while any(target.is_running for target in watched.values()):
        family = [each for target in watched.values() for each in target.family()]
        random.shuffle(family)  # those that were asked for last time are still asked for
        asked = sorted(family, key=lambda each: each not in asked)[: sampler.most_at_once]
        samples += sampler.fp_samples(asked)
        if random.random() < 0.05:
            asked = []
        time.sleep(0.005)
    assert len({sample.process for sample in samples}) >= 3
    assert len(samples) > 20
    assert {name: target.said for name, target in watched.items()} == {
        name: target.said for name, target in alone.items()
    }


# The agent's side.


def test_under_a_quota_nobody_is_stopped(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PtraceUnavailableError, match="a quota"):
        PtraceSampler(lambda: "a quota")
    monkeypatch.setattr(ptrace_sampling, "_ASK_EVERY_S", 0.05)
    reason = [""]
    sampler = PtraceSampler(lambda: reason[0])
    target = started.python(BUSY)
    assert samples_of(sampler, [target.process], 1)
    reason[0] = "a quota that came later"
    failures_after_quota = sampler.failures["cpu_quota"]
    until(
        lambda: (
            sampler.fp_samples([target.process]) is not None
            and sampler.failures["cpu_quota"] > failures_after_quota
        )
    )
    assert sampler._child is None
    reason[0] = ""
    assert samples_of(sampler, [target.process], 1)
    sampler.close()


HOSTILE = {
    "it ends at once": "",
    "nonsense": 'print("ready"); sys.stdin.readline(); print("\\0sample 1 2", flush=True); input()',
    "a line without an end": 'print("ready"); sys.stdin.readline(); print("x" * 99999); input()',
    "numbers that are none": 'print("ready"); input(); print("sample a b c d"); input()',
    "an unknown reason": 'print("ready"); input(); print("failure no 1 2", flush=True); input()',
    "it does not listen": 'print("ready", flush=True); sys.stdin.close(); time.sleep(60)',
}


@pytest.mark.parametrize("script", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_sampler_is_ended_and_counted(
    sampler: PtraceSampler, script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "hostile.py"
    path.write_text(f"import sys, time\n{script}\n")
    monkeypatch.setattr(ptrace_sampling, "_SAMPLER", path)
    monkeypatch.setattr(ptrace_sampling, "_ANSWER_S", 1.0)
    sampler.rest()

    def is_counted() -> bool:
        assert sampler.fp_samples([ProcessId(os.getpid(), 1)]) == []
        return sampler.failures["child"] + sampler.failures["timeout"] == 1

    until(is_counted)
    assert sampler._child is None


def test_when_a_target_stood_still_for_long_it_pauses_and_longer_each_time(
    sampler: PtraceSampler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "slow.py"
    path.write_text(
        "print('ready', flush=True)\nwhile input(): print('failure slow 7 7\\ndone', flush=True)\n"
    )
    monkeypatch.setattr(ptrace_sampling, "_SAMPLER", path)
    sampler.rest()
    pauses_s = []
    for number in range(1, 9):
        sampler._not_before_s = 0.0
        while sampler.failures["slow"] < number:
            assert sampler.fp_samples([ProcessId(7, 7)]) == []
            time.sleep(0.01)
        pauses_s.append(round(sampler._not_before_s - time.monotonic()))
    assert pauses_s == [60, 120, 240, 480, 960, 1920, 3600, 3600]


def test_a_trial_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "refuses.py"
    monkeypatch.setattr(ptrace_sampling, "_SAMPLER", path)
    for said, reason in (
        ("refused refused", "yama"),
        ("refused machine", "on this machine"),
        ("refused Operation not permitted", "the kernel said: Operation not permitted"),
        ("", "its sampler ended"),
    ):
        path.write_text(f"print({said!r})\n" if said else "")
        with pytest.raises(PtraceUnavailableError, match=reason):
            PtraceSampler(nothing)


def test_the_sampler_ends_with_the_agent_and_when_it_rests(sampler: PtraceSampler) -> None:
    assert sampler._child is not None
    pid = sampler._child.pid
    status = Path(f"/proc/{pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    kept = int(status.partition("CapEff:")[2].split()[0], 16)
    assert kept & ~(1 << 19 | 1 << 23) == 0  # SYS_PTRACE, SYS_NICE
    sampler.rest()
    assert not os.path.exists(f"/proc/{pid}")


def test_the_agent_does_not_load_it() -> None:
    loaded = (
        "import sys, minerwatch.agent.daemon;"
        "print('minerwatch.node.children.ptrace_sampler' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True)
    assert said.stdout == "False\n"


def test_what_the_trial_stops_ends_also_where_the_sampler_is_killed_before_it_runs() -> None:
    """It would keep a core busy for good: its output stays open for as long as it lives."""
    script = textwrap.dedent(
        """
        import os, signal, time
        from minerwatch.node import ptrace_sampler

        class Late:
            def prctl(self, *arguments):
                os.kill(sampler, signal.SIGKILL)
                while os.getppid() == sampler:
                    time.sleep(0.01)
                return prctl(*arguments)

        prctl, sampler = ptrace_sampler._libc.prctl, os.getpid()
        ptrace_sampler._libc = Late()
        if os.fork() == 0:
            ptrace_sampler._spin(sampler)
        time.sleep(60)
        """
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=50, check=False)
    assert done.returncode == -signal.SIGKILL
