"""Addresses of the code that all CPUs execute, sampled by the kernel's CPU clock.

One perf event a CPU (perf_event_open(2), PERF_COUNT_SW_CPU_CLOCK): a timer of the kernel writes
what user code a CPU executes into a ring in shared memory. It needs no hardware counter, works in
virtual machines, and stops nothing. It needs the capability PERFMON (Linux 5.8) or SYS_ADMIN, and
the host's pid namespace. Where the kernel refuses it, kernel_entries.py is the next best.

Every second draws another period, so that code cannot pause just before it is sampled.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import random
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from struct import Struct

from minerwatch.model import CodeSample, CodeSamples
from minerwatch.node.capabilities import effective_capabilities

DEFAULT_HZ = 19.0
"""Prime, so that it does not fall into step with work that repeats every 10 ms."""
_SPREAD = 0.3
_RING_PAGES = 8
"""Of each CPU, a power of two: at 19 Hz a read may be 50 s late."""
_PAGE_BYTES = mmap.PAGESIZE
_RING_BYTES = _RING_PAGES * _PAGE_BYTES
_READS_PER_CPU_CHECK = 10
_REDRAW_S = 0.9
"""Another period starts the timers again, which loses half a sample of each CPU."""

# include/uapi/linux/perf_event.h
_SYSCALL = {"x86_64": 298, "aarch64": 241}
_TYPE_SOFTWARE, _CPU_CLOCK = 1, 0
_SAMPLE_IP, _SAMPLE_TID, _SAMPLE_CGROUP = 1 << 0, 1 << 1, 1 << 21
_EXCLUDE_KERNEL, _EXCLUDE_HV = 1 << 5, 1 << 6
_FLAG_FD_CLOEXEC = 1 << 3
_IOC_PERIOD, _IOC_ID = 0x40082404, 0x80082407
_RECORD_LOST, _RECORD_SAMPLE = 2, 9
_HEAD, _TAIL = 1024, 1032
"""Offsets of data_head and data_tail in struct perf_event_mmap_page."""

_HEADER = Struct("=IHH")  # type, misc, size
_LOST = Struct("=8xQQ")
SAMPLE = Struct("=IHHQIIQ")  # header, address, pid, tid, cgroup
SAMPLE_WITHOUT_CGROUP = Struct("=IHHQII")
_NUMBER = Struct("=Q")

_ONLY_FOR_ADMIN = frozenset(("3", "4"))
"""Values of perf_event_paranoid that Debian's (3) and Ubuntu's (4) kernels know besides Linux's."""


class Attributes(ctypes.Structure):
    """``struct perf_event_attr``, as far as PERF_ATTR_SIZE_VER1."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("config", ctypes.c_uint64),
        ("sample_period", ctypes.c_uint64),
        ("sample_type", ctypes.c_uint64),
        ("read_format", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("wakeup_events", ctypes.c_uint32),
        ("bp_type", ctypes.c_uint32),
        ("config1", ctypes.c_uint64),
        ("config2", ctypes.c_uint64),
    )


class SamplerUnavailableError(Exception):
    """The kernel refuses; ``str()`` is one line: the reason, and how to grant it."""


class CodeSampler:
    """Samples what every CPU executes; for one thread.

    ``failures`` counts since the start, by reason: ``lost`` (samples that no room was left for),
    ``cpu`` (CPUs that could not be opened).
    """

    read_every_s = 1.0

    def __init__(
        self, hz: float = DEFAULT_HZ, spread: float = _SPREAD, redraw_s: float = _REDRAW_S
    ) -> None:
        """Raises SamplerUnavailableError.

        ``redraw_s``: seconds for which a period is kept at least.
        """
        self.failures = {"lost": 0, "cpu": 0}
        self.has_cgroups = True
        self._mean_s = 1 / hz
        self._spread = spread
        self._redraw_s = redraw_s
        self._period_s = self._drawn_period_s()
        self._drawn_at_s = time.monotonic()
        self._rings: dict[int, _Ring] = {}
        self._reads = 0
        try:
            self._open_cpus()
        except OSError as error:
            self.close()
            raise SamplerUnavailableError(refusal(error)) from error

    def read(self) -> CodeSamples:
        """Return the samples of user mode since the last read, and draw another period if due."""
        period_s, now_s = self._period_s, time.monotonic()
        is_drawn = now_s >= self._drawn_at_s + self._redraw_s
        if is_drawn:
            self._period_s, self._drawn_at_s = self._drawn_period_s(), now_s
        record = SAMPLE if self.has_cgroups else SAMPLE_WITHOUT_CGROUP
        samples: list[CodeSample] = []
        for cpu, ring in [*self._rings.items()]:
            try:
                content = ring.take(self._period_s if is_drawn else None)
            except OSError:  # the CPU has gone
                self._rings.pop(cpu).close()
                continue
            found, lost = samples_in(content, record)
            samples += found
            self.failures["lost"] += lost
        self._reads += 1
        if self._reads % _READS_PER_CPU_CHECK == 0:
            with suppress(OSError):
                self._open_cpus()
        return CodeSamples(period_s, samples)

    def close(self) -> None:
        """End sampling."""
        for ring in self._rings.values():
            ring.close()
        self._rings.clear()

    def _drawn_period_s(self) -> float:
        return self._mean_s * random.uniform(1 - self._spread, 1 + self._spread)  # noqa: S311

    def _open_cpus(self) -> None:
        """Open the CPUs that are online and not open; raises OSError if none can be opened."""
        online = set(online_cpus())
        for cpu in self._rings.keys() - online:
            self._rings.pop(cpu).close()
        for cpu in sorted(online - self._rings.keys()):
            try:
                self._rings[cpu] = self._opened(cpu)
            except OSError:
                if not self._rings:
                    raise
                self.failures["cpu"] += 1

    def _opened(self, cpu: int) -> _Ring:
        try:
            return _Ring(cpu, self._period_s, has_cgroups=self.has_cgroups)
        except OSError as error:
            if error.errno != errno.EINVAL or not self.has_cgroups:
                raise
            self.has_cgroups = False  # before Linux 5.7
            return _Ring(cpu, self._period_s, has_cgroups=False)


def samples_in(content: bytes, record: Struct) -> tuple[list[CodeSample], int]:
    """Return the samples in what a ring held, and the number that there was no room for."""
    if len(content) % record.size == 0:
        records = [*record.iter_unpack(content)]
        if {each[0:3:2] for each in records} <= {(_RECORD_SAMPLE, record.size)}:
            return [_sample(each) for each in records], 0
    samples, lost, at = [], 0, 0
    while at + _HEADER.size <= len(content):
        kind, _, size = _HEADER.unpack_from(content, at)
        if size < _HEADER.size or at + size > len(content):
            break
        if kind == _RECORD_SAMPLE and size == record.size:
            samples.append(_sample(record.unpack_from(content, at)))
        elif kind == _RECORD_LOST and size >= _LOST.size:
            lost += _LOST.unpack_from(content, at)[1]
        at += size
    return samples, lost


def _sample(record: tuple[int, ...]) -> CodeSample:
    return CodeSample(record[4], record[3], record[6] if len(record) > 6 else 0)


class _Ring:
    """One CPU's event and its ring. Raises OSError."""

    def __init__(self, cpu: int, period_s: float, *, has_cgroups: bool) -> None:
        attributes = Attributes(
            type=_TYPE_SOFTWARE,
            size=ctypes.sizeof(Attributes),
            config=_CPU_CLOCK,
            sample_period=int(period_s * 1e9),
            sample_type=_SAMPLE_IP | _SAMPLE_TID | (_SAMPLE_CGROUP if has_cgroups else 0),
            flags=_EXCLUDE_KERNEL | _EXCLUDE_HV,
        )
        self._fd = perf_event_open(attributes, cpu)
        try:
            self._memory = mmap.mmap(self._fd, _PAGE_BYTES + _RING_BYTES)
        except BaseException:
            os.close(self._fd)
            raise

    def take(self, period_s: float | None) -> bytes:
        """Return what was written since the last call, and set another period; None: keep it."""
        memory = self._memory
        (head,) = _NUMBER.unpack_from(memory, _HEAD)
        (tail,) = _NUMBER.unpack_from(memory, _TAIL)
        # Either call also orders the reads of head and data.
        if period_s is None:
            fcntl.ioctl(self._fd, _IOC_ID, bytes(_NUMBER.size))
        else:
            fcntl.ioctl(self._fd, _IOC_PERIOD, _NUMBER.pack(int(period_s * 1e9)))
        begins, ends = tail % _RING_BYTES, head % _RING_BYTES
        if head == tail:
            content = b""
        elif begins < ends:
            content = memory[_PAGE_BYTES + begins : _PAGE_BYTES + ends]
        else:
            content = memory[_PAGE_BYTES + begins :] + memory[_PAGE_BYTES : _PAGE_BYTES + ends]
        _NUMBER.pack_into(memory, _TAIL, head)
        return content

    def close(self) -> None:
        self._memory.close()
        os.close(self._fd)


def perf_event_open(attributes: Attributes, cpu: int) -> int:
    """Open an event for all processes on one CPU; return its file descriptor. Raises OSError."""
    number = _SYSCALL.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    libc = ctypes.CDLL(None, use_errno=True)
    every_process, no_group = -1, -1
    fd = libc.syscall(
        number, ctypes.byref(attributes), every_process, cpu, no_group, _FLAG_FD_CLOEXEC
    )
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(fd)


def online_cpus(path: Path = Path("/sys/devices/system/cpu/online")) -> Iterable[int]:
    """Return the numbers of the CPUs that run (Documentation/admin-guide/cputopology.rst)."""
    for part in path.read_text().strip().split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def refusal(
    error: OSError, paranoid_path: Path = Path("/proc/sys/kernel/perf_event_paranoid")
) -> str:
    """Return why the kernel refuses, and how to permit it."""
    if error.errno == errno.ENOSYS:
        return "this kernel has no perf events (CONFIG_PERF_EVENTS)"
    if error.errno not in (errno.EPERM, errno.EACCES):
        return f"perf_event_open: {error.strerror}"
    if not {"PERFMON", "SYS_ADMIN"} & effective_capabilities():
        return "the capability PERFMON is missing: grant it to the agent, or run it as root"
    paranoid = "?"
    with suppress(OSError):
        paranoid = paranoid_path.read_text().strip()
    if error.errno == errno.EACCES and paranoid in _ONLY_FOR_ADMIN:
        return (
            f"kernel.perf_event_paranoid = {paranoid} forbids perf_event_open(2) without SYS_ADMIN:"
            " set it to 2 on the node"
        )
    return (
        "perf_event_open(2) is forbidden though the capability is there: by the runtime's seccomp"
        f" profile, or by kernel.perf_event_paranoid = {paranoid}"
    )
