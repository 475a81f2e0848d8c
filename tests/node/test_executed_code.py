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

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.node import executed_code
from minerwatch.node.capabilities import effective_capabilities
from minerwatch.node.executed_code import (
    CodeSampler,
    SamplerUnavailableError,
    online_cpus,
    samples_in,
)
from tests.waiting import cpu_s, until

SAMPLE = executed_code.SAMPLE

needs_perf = pytest.mark.skipif(
    not {"PERFMON", "SYS_ADMIN"} & effective_capabilities(),
    reason="samples the whole node: run as root, with the capability PERFMON",
)


@contextmanager
def sampler(hz: float = 199.0) -> Iterator[CodeSampler]:
    opened = CodeSampler(hz, redraw_s=0.0)
    try:
        yield opened
    finally:
        opened.close()


@contextmanager
def started(code: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@needs_perf
def test_samples_stand_for_the_cpu_time_of_a_process() -> None:
    with started("while True: pass") as busy, sampler() as opened:
        until(lambda: cpu_s(busy.pid) >= 0.2)
        opened.read()
        before_s, sampled_s, addresses = cpu_s(busy.pid), 0.0, Counter[int]()

        def is_enough() -> bool:
            nonlocal sampled_s
            period_s, samples = opened.read()
            own = [each for each in samples if each.pid == busy.pid]
            sampled_s += period_s * len(own)
            addresses.update(each.address for each in own)
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
            sampled_s += period_s * sum(each.pid == evading.pid for each in samples)
            return cpu_s(evading.pid) - before_s >= 1.5

        until(is_enough, every_s=0.1)
        assert sampled_s >= 0.3 * (cpu_s(evading.pid) - before_s)


@needs_perf
def test_each_read_has_another_period_unless_it_follows_at_once() -> None:
    with sampler() as opened:
        periods = {opened.read().period_s for _ in range(8)}
        assert len(periods) == 8
        assert all(0.6 / 199 < each < 1.4 / 199 for each in periods)
    opened = CodeSampler(199.0, redraw_s=3600.0)
    periods = {opened.read().period_s for _ in range(8)}
    opened.close()
    assert len(periods) == 1


@needs_perf
def test_a_ring_that_is_read_late_counts_what_is_lost() -> None:
    with started("while True: pass") as busy, sampler(5000.0) as opened:
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
        until(lambda: any(each.pid == busy.pid for each in opened.read().samples))


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EACCES, "PERFMON|perf_event_paranoid"),
        (errno.EPERM, "PERFMON|perf_event_paranoid"),
        (errno.ENOSYS, "CONFIG_PERF_EVENTS"),
        (errno.EMFILE, "Too many open files"),
    ],
)
def test_a_refusal_is_one_line(number: int, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_attributes: executed_code.Attributes, _cpu: int) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(executed_code, "perf_event_open", refuse)
    with pytest.raises(SamplerUnavailableError, match=reason) as error:
        CodeSampler()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("paranoid", ["3", "4"])
def test_paranoid_kernels_of_distributions_are_named(paranoid: str, tmp_path: Path) -> None:
    """As Debian's 6.1 refuses PERFMON alone: seen by `make kernels`."""
    if not {"PERFMON", "SYS_ADMIN"} & effective_capabilities():
        pytest.skip("needs PERFMON: run it as root")
    value = tmp_path / "perf_event_paranoid"
    value.write_text(f"{paranoid}\n")
    assert executed_code.refusal(OSError(errno.EACCES, "refused"), value) == (
        f"kernel.perf_event_paranoid = {paranoid} forbids perf_event_open(2) without SYS_ADMIN:"
        " set it to 2 on the node"
    )
    by_seccomp = executed_code.refusal(OSError(errno.EPERM, "refused"), value)
    assert by_seccomp.startswith("perf_event_open(2) is forbidden though the capability is there")


def test_cpus_that_run(tmp_path: Path) -> None:
    online = tmp_path / "online"
    online.write_text("0-2,5,8-9\n")
    assert [*online_cpus(online)] == [0, 1, 2, 5, 8, 9]


def sample(pid: int, address: int) -> bytes:
    return SAMPLE.pack(9, 0x2, SAMPLE.size, address, pid, pid, 7)


LOST = b"\x02\x00\x00\x00\x00\x00\x18\x00" + (1).to_bytes(8, "little") + (5).to_bytes(8, "little")


def test_samples_among_other_records() -> None:
    throttled = b"\x05\x00\x00\x00\x00\x00\x20\x00" + bytes(24)
    samples, lost = samples_in(sample(1, 16) + LOST + throttled + sample(2, 32), SAMPLE)
    assert [(each.pid, each.address, each.cgroup) for each in samples] == [(1, 16, 7), (2, 32, 7)]
    assert lost == 5


@given(st.lists(st.one_of(st.just(sample(1, 16)), st.just(LOST), st.binary(max_size=48))))
def test_any_content_of_a_ring(pieces: list[bytes]) -> None:
    samples, lost = samples_in(b"".join(pieces), SAMPLE)
    assert len(samples) * SAMPLE.size <= sum(map(len, pieces))
    assert lost >= 0
