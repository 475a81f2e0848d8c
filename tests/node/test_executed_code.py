"""The kernel's samples of what CPUs execute: real ones, and rings as they may be."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.errors import SourceUnavailableError
from minerwatch.model import PlainSample
from minerwatch.node import executed_code
from minerwatch.node.capabilities import effective_capabilities
from minerwatch.node.executed_code import (
    COPY,
    UNREADABLE,
    CodeSampler,
    Copies,
    copied,
    copying_sampler,
    online_cpus,
    samples_in,
)
from tests.conftest import needs_root
from tests.waiting import cpu_s, until

SAMPLE = executed_code.SAMPLE

needs_perf = pytest.mark.skipif(
    not {"PERFMON", "SYS_ADMIN"} & effective_capabilities(),
    reason="samples the whole node: run as root, with the capability PERFMON",
)


@contextmanager
def sampler(hz: float = 199.0, opens: Opens = CodeSampler) -> Iterator[CodeSampler]:
    try:
        opened = opens(hz, redraw_s=0.0)
    except SourceUnavailableError as error:
        if opens is CodeSampler:
            raise
        pytest.skip(f"run it as root of a host, with libbpf1: {error}")
    try:
        yield opened
    finally:
        opened.close()


class Opens(Protocol):
    """Opens a sampler."""

    def __call__(self, hz: float, *, redraw_s: float) -> CodeSampler: ...


each_sampler = pytest.mark.parametrize("opens", [CodeSampler, copying_sampler])


@contextmanager
def started(code: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@needs_perf
@each_sampler
def test_samples_stand_for_the_cpu_time_of_a_process(opens: Opens) -> None:
    with started("while True: pass") as busy, sampler(opens=opens) as opened:
        until(lambda: cpu_s(busy.pid) >= 0.2)
        opened.read()
        before_s, sampled_s, addresses = cpu_s(busy.pid), 0.0, Counter[int]()

        def is_enough() -> bool:
            nonlocal sampled_s
            period_s, samples = opened.read()
            own = [each for each in samples if each[0] == busy.pid]
            sampled_s += period_s * len(own)
            addresses.update(each[1] for each in own)
            return cpu_s(busy.pid) - before_s >= 1.5

        until(is_enough, every_s=0.1)
        assert sampled_s == pytest.approx(cpu_s(busy.pid) - before_s, rel=0.4)
        assert 0 not in addresses


@needs_perf
def test_a_process_that_sleeps_just_before_it_is_sampled_is_seen() -> None:
    """It knows the mean period and when sampling began; each read draws another period."""
    code = """
import time
began = time.monotonic()
while True:
    phase = (time.monotonic() - began) % (1 / 199)
    if phase > 0.8 / 199 or phase < 0.2 / 199:
        time.sleep(0.4 / 199)
"""
    with sampler() as opened, started(code) as evading:
        until(lambda: cpu_s(evading.pid) >= 0.3)
        opened.read()
        before_s, sampled_s = cpu_s(evading.pid), 0.0

        def is_enough() -> bool:
            nonlocal sampled_s
            period_s, samples = opened.read()
            sampled_s += period_s * sum(each[0] == evading.pid for each in samples)
            return cpu_s(evading.pid) - before_s >= 1.5

        until(is_enough, every_s=0.1)
        assert sampled_s >= 0.3 * (cpu_s(evading.pid) - before_s)


@given(
    st.lists(
        st.tuples(
            *(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
            *(st.binary(min_size=1, max_size=128), st.integers(0, 2**22)),
        ),
        max_size=5,
    )
)
def test_copies_are_samples_and_know_their_processes(samples: list[PlainSample]) -> None:
    content = b"".join(
        COPY.pack(address, cgroup, pid, copied(len(code), tid), code)
        for pid, address, cgroup, code, tid in samples
    )
    copies = Copies(content)
    assert list(copies) == samples
    assert copies.pids == [pid for pid, *_ in samples]
    assert [*copies.cgroups] == [each[2] for each in samples]
    assert [copies.tid(at) for at in range(len(samples))] == [each[4] for each in samples]
    assert len(copies) == len(samples)


@needs_perf
@each_sampler
def test_a_sample_knows_its_thread(opens: Opens) -> None:
    code = """
import threading
def spin():
    print(threading.get_native_id(), flush=True)
    while True: pass
threading.Thread(target=spin).start()
"""
    command = [sys.executable, "-c", code]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as busy,
        sampler(opens=opens) as opened,
    ):
        assert busy.stdout is not None
        ran = busy.pid, int(busy.stdout.readline())
        until(lambda: any((each[0], each[4]) == ran for each in opened.read().samples))
        busy.kill()


@needs_perf
def test_code_is_copied_as_far_as_its_page_if_the_next_one_is_missing() -> None:
    code = """
import ctypes, mmap
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
at = libc.mmap(None, 8192, 7, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
libc.munmap(ctypes.c_void_p(at + 4096), 4096)
loop = bytes.fromhex("ebfe") if __import__("os").uname().machine == "x86_64" else bytes(3) + b"\x14"
ctypes.memmove(at + 4096 - len(loop), loop, len(loop))
ctypes.CFUNCTYPE(None)(at + 4096 - len(loop))()
"""
    with started(code) as loop, sampler(opens=copying_sampler) as opened:
        until(
            lambda: any(
                pid == loop.pid and code in (b"\xeb\xfe", bytes(3) + b"\x14")
                for pid, _, _, code, _ in opened.read().samples
            ),
            every_s=0.1,
        )


def test_code_that_could_not_be_copied_is_not_read_later() -> None:
    """Something else may be there then: a copy that is no instruction is in its place."""
    record = COPY.pack(64, 7, 1234, copied(0, 1235), b"what another record left")
    assert [*Copies(record)] == [(1234, 64, 7, UNREADABLE, 1235)]


def test_each_read_draws_a_period_for_each_cpu_unless_it_follows_at_once() -> None:
    machine = Machine(4)
    opened = CodeSampler(199.0, redraw_s=0.0, cpus=lambda: machine.online, open_ring=machine.open)
    for _ in range(8):
        opened.read()
    periods = [each for ring in machine.rings for each in ring.periods_s]
    assert len(set(periods)) == 4 * (1 + 8)
    assert all(0.6 / 199 < each < 1.4 / 199 for each in periods)
    opened.close()
    machine = Machine(4)
    opened = CodeSampler(
        199.0, redraw_s=3600.0, cpus=lambda: machine.online, open_ring=machine.open
    )
    opened.read()
    assert [len(ring.periods_s) for ring in machine.rings] == [1] * 4
    opened.close()


@needs_perf
@each_sampler
def test_a_ring_that_is_read_late_counts_what_is_lost(opens: Opens) -> None:
    with started("while True: pass") as busy, sampler(5000.0, opens) as opened:
        until(lambda: cpu_s(busy.pid) >= 3.0)

        def has_lost() -> bool:
            opened.read()
            return opened.failures["lost"] > 0

        until(has_lost, every_s=0.5)


@needs_perf
def test_a_kernel_that_knows_no_cgroups(monkeypatch: pytest.MonkeyPatch) -> None:
    opened_by = executed_code.perf_event_open

    def before_5_7(attributes: executed_code.Attributes, cpu: int) -> int:
        if attributes.sample_type & 1 << 21:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return opened_by(attributes, cpu)

    monkeypatch.setattr(executed_code, "perf_event_open", before_5_7)
    with started("while True: pass") as busy, sampler() as opened:
        assert not opened.has_cgroups
        until(lambda: any(each[0] == busy.pid for each in opened.read().samples))


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EACCES, "PERFMON|seccomp"),
        (errno.EPERM, "PERFMON|seccomp"),
        (errno.ENOSYS, "CONFIG_PERF_EVENTS"),
        (errno.EMFILE, "Too many open files"),
    ],
)
def test_a_refusal_is_one_line(number: int, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_attributes: executed_code.Attributes, _cpu: int) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(executed_code, "perf_event_open", refuse)
    with pytest.raises(SourceUnavailableError, match=reason) as error:
        CodeSampler()
    assert "\n" not in str(error.value)


@needs_perf
@pytest.mark.parametrize(
    ("number", "paranoid", "reason"),
    [
        (errno.EACCES, "4\n", "perf_event_paranoid = 4, .* set it to 2 on the node"),
        (errno.EACCES, "3\n", "perf_event_paranoid = 3, .* set it to 2 on the node"),
        (errno.EACCES, "2\n", "seccomp/minerwatch.json"),  # by a security module
        (errno.EPERM, "4\n", "seccomp/minerwatch.json"),  # a filter comes before that check
        (errno.EPERM, "-1\n", "seccomp/minerwatch.json"),
    ],
)
def test_why_it_is_refused_though_the_capability_is_there(
    number: int, paranoid: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels of Ubuntu, and older ones of Debian, ask for SYS_ADMIN from 3 on, with EACCES."""

    def refuse(_attributes: executed_code.Attributes, _cpu: int) -> int:
        raise OSError(number, os.strerror(number))

    (tmp_path / "paranoid").write_text(paranoid)
    monkeypatch.setattr(executed_code, "perf_event_open", refuse)
    monkeypatch.setattr(executed_code, "PARANOID", tmp_path / "paranoid")
    with pytest.raises(SourceUnavailableError, match=reason):
        CodeSampler()


def test_cpus_that_run(tmp_path: Path) -> None:
    online = tmp_path / "online"
    online.write_text("0-2,5,8-9\n")
    assert [*online_cpus(online)] == [0, 1, 2, 5, 8, 9]


class FakeRing:
    """What a CPU writes, as the test says: a sample at each read while it is busy."""

    def __init__(self, machine: Machine, cpu: int, period_s: float) -> None:
        self._machine, self.cpu, self.periods_s = machine, cpu, [period_s]
        self.is_dropped = self.is_closed = self._is_heard = False

    def take(self, period: bytes | None) -> bytes:
        if period is not None:
            self.periods_s.append(int.from_bytes(period, "little") / 1e9)
        if self.is_dropped or self.cpu in self._machine.idle:
            return b""
        self._is_heard = True
        return sample(1000 + self.cpu, 4096)

    def is_silent(self) -> bool:
        heard, self._is_heard = self._is_heard, False
        return not heard

    def close(self) -> None:
        assert not self.is_closed
        self.is_closed = True


class Machine:
    """CPUs that come and go. The kernel drops the event of one that goes (kernel/events/core.c,
    perf_event_exit_cpu), without any error."""

    def __init__(self, cpus: int) -> None:
        self.online = set(range(cpus))
        self.idle: set[int] = set()
        self.refuses: set[int] = set()
        self.rings: list[FakeRing] = []

    def sampler(self) -> CodeSampler:
        return CodeSampler(cpus=lambda: self.online, open_ring=self.open)

    def open(self, cpu: int, period_s: float, _has_cgroups: bool) -> FakeRing:
        if cpu not in self.online or cpu in self.refuses:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        self.rings.append(FakeRing(self, cpu, period_s))
        return self.rings[-1]

    def remove(self, cpu: int) -> None:
        self.online.discard(cpu)
        for ring in self.rings:
            ring.is_dropped = ring.is_dropped or ring.cpu == cpu


def seen_by(opened: CodeSampler, reads: int = 1) -> set[int]:
    return {pid - 1000 for _ in range(reads) for pid, *_ in opened.read().samples}


def test_256_cpus() -> None:
    machine = Machine(256)
    opened = machine.sampler()
    assert len(opened.read().samples) == 256
    assert seen_by(opened, 70) == set(range(256))
    assert len(machine.rings) == 256
    opened.close()
    assert all(ring.is_closed for ring in machine.rings)
    assert opened.failures == {"lost": 0, "cpu": 0}


def test_a_cpu_that_goes_and_comes_back() -> None:
    machine = Machine(4)
    opened = machine.sampler()
    machine.remove(2)
    assert seen_by(opened, 10) == {0, 1, 3}
    assert [ring.cpu for ring in machine.rings if ring.is_closed] == [2]
    assert opened.failures["cpu"] == 1
    machine.online.add(2)
    seen_by(opened, 10)
    assert seen_by(opened) == {0, 1, 2, 3}


ONLINE = Path("/sys/devices/system/cpu/cpu1/online")


@needs_root
@pytest.mark.nightly  # takes a CPU from all that runs here, for some seconds
@pytest.mark.skipif(not os.access(ONLINE, os.W_OK), reason="run it as root, where CPUs can be off")
def test_a_real_cpu_that_goes_and_comes_back() -> None:
    try:
        opened = CodeSampler(199.0)
    except SourceUnavailableError as error:
        pytest.skip(f"run it as root of a host: {error}")
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as loop:
        try:
            ONLINE.write_text("0")
            try:
                until(lambda: opened.read().samples and opened.failures["cpu"], every_s=0.1)
            finally:
                ONLINE.write_text("1")
            os.sched_setaffinity(loop.pid, {1})
            until(lambda: any(pid == loop.pid for pid, *_ in opened.read().samples), every_s=0.1)
        finally:
            loop.kill()
            opened.close()


def test_a_cpu_that_was_gone_for_a_moment_is_seen_again_within_two_minutes() -> None:
    machine = Machine(4)
    opened = machine.sampler()
    seen_by(opened, 30)
    machine.remove(2)
    machine.online.add(2)
    assert seen_by(opened, 20) == {0, 1, 3}
    seen_by(opened, 100)
    assert seen_by(opened) == {0, 1, 2, 3}
    assert len(machine.rings) == 5


def test_an_idle_cpu_is_sampled_once_it_works() -> None:
    machine = Machine(2)
    machine.idle.add(1)
    opened = machine.sampler()
    assert seen_by(opened, 150) == {0}
    machine.idle.clear()
    assert seen_by(opened) == {0, 1}
    assert sum(not ring.is_closed for ring in machine.rings) == 2


def test_a_cpu_that_cannot_be_sampled_is_counted_and_the_others_are_sampled() -> None:
    machine = Machine(3)
    machine.refuses.add(1)
    opened = machine.sampler()
    assert seen_by(opened, 9) == {0, 2}
    assert opened.failures["cpu"] == 1
    machine.refuses = {0, 1, 2}
    machine.idle = {0, 1, 2}
    assert seen_by(opened, 150) == set()
    machine.refuses.clear()
    machine.idle.clear()
    seen_by(opened, 10)
    assert seen_by(opened) == {0, 1, 2}


def sample(pid: int, address: int) -> bytes:
    return SAMPLE.pack(9, 0x2, SAMPLE.size, address, pid, pid + 1, 7)


LOST = b"\x02\x00\x00\x00\x00\x00\x18\x00" + (1).to_bytes(8, "little") + (5).to_bytes(8, "little")


def test_samples_among_other_records() -> None:
    throttled = b"\x05\x00\x00\x00\x00\x00\x20\x00" + bytes(24)
    samples, lost = samples_in([sample(1, 16) + LOST + throttled + sample(2, 32)], SAMPLE)
    assert samples == [(1, 16, 7, b"", 2), (2, 32, 7, b"", 3)]
    assert lost == 5


@given(st.lists(st.one_of(st.just(sample(1, 16)), st.just(LOST), st.binary(max_size=48))))
def test_any_content_of_a_ring(pieces: list[bytes]) -> None:
    samples, lost = samples_in(pieces, SAMPLE)
    assert len(samples) * SAMPLE.size <= sum(map(len, pieces))
    assert lost >= 0
