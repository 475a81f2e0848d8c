"""Where threads entered this machine's kernel, and what becomes of it."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from minerwatch.errors import SourceUnavailableError
from minerwatch.model import CodeSample
from minerwatch.node import kernel_entries
from minerwatch.node.kernel_entries import ROW, EntrySampler
from tests.conftest import Programs
from tests.waiting import cpu_s, until

LOOP = """
import ctypes, mmap
memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
memory.write(bytes.fromhex("{code}"))
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
print(address, flush=True)
ctypes.CFUNCTYPE(None)(address)()
"""
ENDLESS = {
    "x86_64": "31c0" * 16 + "ebde",  # xor eax, eax; …; jmp to the first
    "aarch64": "0000004a" * 16 + "f0ffff17",  # eor w0, w0, w0; …; b to the first
}


@pytest.fixture
def sampler() -> Iterator[EntrySampler]:
    try:
        opened = EntrySampler()
    except SourceUnavailableError as error:
        pytest.skip(f"run it as root of a host: {error}")
    yield opened
    opened.close()


@contextmanager
def looping() -> Iterator[tuple[int, int]]:
    """Pid and address of a process that executes nothing but a loop of 17 instructions."""
    source = LOOP.format(code=ENDLESS[platform.machine()])
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield process.pid, int(process.stdout.readline())
        finally:
            process.kill()


def test_samples_stand_for_the_cpu_time_of_a_process_and_lie_in_what_it_executes(
    sampler: EntrySampler,
) -> None:
    with looping() as (pid, address):
        until(lambda: cpu_s(pid) >= 0.2)
        sampler.read()
        before_s, sampled_s, found = cpu_s(pid), 0.0, Counter[bool]()

        def is_enough() -> bool:
            nonlocal sampled_s
            period_s, samples = sampler.read()
            own = [each for each in samples if each[0] == pid]
            assert len(own) <= 1
            sampled_s += period_s * len(own)
            found.update(address <= each[1] < address + 64 for each in own)
            return cpu_s(pid) - before_s >= 2.0

        until(is_enough, every_s=0.05)
        assert sampled_s == pytest.approx(cpu_s(pid) - before_s, rel=0.5)
        assert found[True] >= 0.8 * found.total()


WAITS = """
import signal, time
def begin(*_):
    raise InterruptedError
signal.signal(signal.SIGUSR1, begin)
try:
    time.sleep(3600)
except InterruptedError:
    pass
while True:
    sum(range(500_000))
    time.sleep(1e-6)
"""


def test_a_thread_that_waits_after_each_step_does_not_choose_what_is_seen(
    sampler: EntrySampler,
) -> None:
    with subprocess.Popen([sys.executable, "-c", WAITS]) as process:
        try:
            *_, call = until(lambda: sleeping(process.pid))
            process.send_signal(signal.SIGUSR1)
            until(lambda: cpu_s(process.pid) > 0.3)
            found: list[int] = []

            def is_enough() -> bool:
                samples = sampler.read().samples
                found.extend(each[1] for each in samples if each[0] == process.pid)
                return len(found) >= 10

            until(is_enough)
        finally:
            process.kill()
    assert found.count(int(call, 16)) <= 0.2 * len(found)  # interrupted just as a call returned


def sleeping(pid: int) -> list[str]:
    """The fields of proc_pid_syscall(5) once the process sleeps in clock_nanosleep(2)."""
    number = {"x86_64": "230", "aarch64": "115"}[platform.machine()]
    fields = Path(f"/proc/{pid}/syscall").read_text().split()
    return fields if fields[0] == number else []


def test_who_does_not_run_is_not_sampled(sampler: EntrySampler, programs: Programs) -> None:
    idle = programs.start("idle", busy=False)
    until(lambda: Path(f"/proc/{idle.pid}/stat").read_text().split()[2] == "S")
    sampler.read()
    assert all(each[0] != idle.pid for _ in range(5) for each in sampler.read().samples)


class Tasks:
    """The kernel's answers: CPU time in ns and thread, of process 7 unless it is this one."""

    def __init__(self) -> None:
        self.failures = {"unreadable": 0}
        self.now = [(10**12, 70)]
        self.in_call: set[int] = set()
        self.fails = False

    def pieces(self) -> Iterator[bytes]:
        if self.fails:
            self.failures["unreadable"] += 1
            return
        yield ROW.pack(1, 0, os.getpid(), os.getpid())
        for cpu_ns, tid in self.now:
            yield ROW.pack(cpu_ns, 4096 + tid if tid not in self.in_call else 0, tid, 7)

    def close(self) -> None:
        pass


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> tuple[EntrySampler, Tasks]:
    tasks = Tasks()
    monkeypatch.setattr(kernel_entries, "BpfIterator", lambda *_, **_needs: tasks)
    return EntrySampler(), tasks


def test_threads_are_chosen_by_the_cpu_time_since_the_last_read(
    told: tuple[EntrySampler, Tasks], monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler, tasks = told
    clock_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: clock_s)
    chosen = Counter[int]()
    for number in range(1, 1001):
        clock_s += 0.5
        tasks.now = [
            (10**12, 70),  # has not run since
            (number * 500_000_000, 71),
            (number * 50_000_000, 72),
            (500_000_000, 1000 + number),  # new
        ]
        period_s, samples = sampler.read()
        assert period_s == pytest.approx(0.5, abs=0.1)
        chosen.update(each[1] - 4096 for each in samples)
    assert chosen[70] == 0
    assert chosen[71] >= 995
    assert 60 <= chosen[72] <= 140
    assert sum(chosen[1000 + number] for number in range(1, 1001)) >= 995


def test_a_thread_id_that_is_used_again(told: tuple[EntrySampler, Tasks]) -> None:
    sampler, tasks = told
    tasks.now = [(10**9, 70)]  # less than before
    assert CodeSample(7, 4166, 0, b"", 70) in sampler.read().samples


def test_a_thread_that_called_the_kernel_is_left_out_and_its_time_is_not_saved_up(
    told: tuple[EntrySampler, Tasks],
) -> None:
    sampler, tasks = told
    tasks.now, tasks.in_call = [(2 * 10**12, 70)], {70}
    assert sampler.read().samples == []
    tasks.in_call = set()
    assert sampler.read().samples == []


def test_a_read_that_fails_adds_nothing(told: tuple[EntrySampler, Tasks]) -> None:
    sampler, tasks = told
    tasks.fails = True
    assert sampler.read().samples == []
    tasks.fails = False
    assert all(each[0] != 7 for each in sampler.read().samples)
    assert sampler.failures == {"unreadable": 1}


def test_it_reads_as_often_as_its_share_of_the_cpu_permits(
    told: tuple[EntrySampler, Tasks], monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler, _ = told
    pauses: dict[float, set[float]] = {0.0: set(), 0.004: set(), 9.0: set()}
    used_s = 0.0
    for cost_s, found in pauses.items():
        for _ in range(50):
            times = iter((used_s, used_s + cost_s))
            monkeypatch.setattr(time, "thread_time", lambda times=times: next(times))
            sampler.read()
            found.add(sampler.read_every_s)
    for cost_s, mean_s in ((0.0, 0.25), (0.004, 2.0), (9.0, 10.0)):
        assert 0.7 * mean_s <= min(pauses[cost_s]) < max(pauses[cost_s]) <= 1.3 * mean_s
