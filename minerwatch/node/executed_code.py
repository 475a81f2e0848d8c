"""Addresses of the code that all CPUs execute, sampled by the kernel's CPU clock.

One perf event a CPU (perf_event_open(2), PERF_COUNT_SW_CPU_CLOCK): a timer of the kernel writes
what user code a CPU executes into a ring in shared memory. It needs no hardware counter, works in
virtual machines, and stops nothing. It needs the capability PERFMON (Linux 5.8) or SYS_ADMIN, and
the host's pid namespace. Where the kernel refuses it, kernel_entries.py is the next best.

With the capability BPF the code is copied as it is executed (bpf/executed_code.bpf.c), into one
ring for all CPUs: code that moves or changes before it is read cannot hide so.

A read draws another period for each CPU, at most once in 0.9 s, so that code cannot pause just
before a sample, nor one thread tell all others when that is.
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
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from struct import Struct
from typing import Protocol

from minerwatch.errors import SourceUnavailableError
from minerwatch.model import CodeSamples, PlainSample
from minerwatch.node.bpf_ring import BpfRing
from minerwatch.node.capabilities import effective_capabilities

DEFAULT_HZ = 19.0
"""Prime, so that it does not fall into step with work that repeats every 10 ms."""
_SPREAD = 0.3
_RING_PAGES = 8
"""Of each CPU, a power of two: at 19 Hz a read may be 50 s late."""
_PAGE_BYTES = mmap.PAGESIZE
_RING_BYTES = _RING_PAGES * _PAGE_BYTES
_READS_PER_CPU_CHECK = 10
_CHECKS_PER_RENEWAL = 6
"""A CPU that goes offline loses its event, and may be back before the next check: so rings that
have written nothing are opened again."""
_REDRAW_S = 0.9
"""Another period starts the timers again, which loses half a sample of each CPU."""

# include/uapi/linux/perf_event.h
_SYSCALL = {"x86_64": 298, "aarch64": 241}
_TYPE_SOFTWARE, _CPU_CLOCK = 1, 0
_SAMPLE_IP, _SAMPLE_TID, _SAMPLE_CGROUP = 1 << 0, 1 << 1, 1 << 21
_EXCLUDE_KERNEL, _EXCLUDE_HV = 1 << 5, 1 << 6
_FLAG_FD_CLOEXEC = 1 << 3
_IOC_PERIOD, _IOC_ID, _IOC_SET_BPF = 0x40082404, 0x80082407, 0x40042408
_RECORD_LOST, _RECORD_SAMPLE = 2, 9
_HEAD, _TAIL = 1024 // 8, 1032 // 8
"""Offsets of data_head and data_tail in struct perf_event_mmap_page, in units of 8 bytes."""

UNREADABLE = b"\0"
"""In place of a copy of memory that may be executed and not read: no instruction is so short.

It is not read later: something else may be there then.
"""
COPY = Struct("=8xQQII128s")
"""struct record of executed_code.bpf.c, after the ring's header: address, cgroup, pid, ``copied``,
code."""
_PID, _COPIED, _STRIDE = 24 // 4, 28 // 4, COPY.size // 4
_CGROUP, _LONG_STRIDE = 16 // 8, COPY.size // 8
"""Offsets, and from one record to the next, in units of 4 and 8 bytes."""
_TID_BIT = 8
_COPIES_FOR_S = 10.0
"""Seconds of samples of all CPUs that the ring has room for."""
_INITIAL_PIDS = "pid:[4026531836]"  # PROC_PID_INIT_INO (include/linux/proc_ns.h)

PARANOID = Path("/proc/sys/kernel/perf_event_paranoid")
_MAX_PARANOID = 2
"""Of the kernel itself. Kernels of Ubuntu and Debian know 3 and 4 as well."""

_HEADER = Struct("=IHH")  # type, misc, size
_LOST = Struct("=8xQQ")
SAMPLE = Struct("=IHHQIIQ")  # header, address, pid, tid, cgroup
SAMPLE_WITHOUT_CGROUP = Struct("=IHHQII")
_FIELDS = {SAMPLE.size: Struct("=8xQIIQ"), SAMPLE_WITHOUT_CGROUP.size: Struct("=8xQII")}
_NUMBER = Struct("=Q")
_KIND_AND_SIZE = (0, 1, 2, 3, 6, 7)
"""Bytes of the header but ``misc``, the mode of the CPU."""


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


class CpuRing(Protocol):
    """The samples of one CPU, as ``Ring`` returns them."""

    def take(self, period: bytes | None) -> bytes:
        """Return what is new."""

    def is_silent(self) -> bool:
        """Return True if nothing was written since the last call."""

    def close(self) -> None:
        """End sampling."""


OpenRing = Callable[[int, float, bool], CpuRing]
"""Of a CPU, with the first period in seconds, and with the ids of cgroups; raises OSError."""


class CodeSampler:
    """Samples what every CPU executes; for one thread.

    ``failures`` counts since the start, by reason: ``lost`` (samples that no room was left for),
    ``cpu`` (CPUs that could not be opened, or went while they were sampled).
    """

    read_every_s = 1.0
    read_calmly_every_s = 2.0

    def __init__(
        self,
        hz: float = DEFAULT_HZ,
        redraw_s: float = _REDRAW_S,
        *,
        copies: BpfRing | None = None,
        cpus: Callable[[], Iterable[int]] | None = None,
        open_ring: OpenRing | None = None,
    ) -> None:
        """Raises SourceUnavailableError.

        ``redraw_s``: seconds for which a period is kept at least.
        ``copies``: to which code is copied, and which is closed with this.
        ``cpus``: returns the CPUs that run, if not this machine's.
        """
        self._copies = copies
        self.copies_code = copies is not None
        self._cpus = cpus or online_cpus
        self._open_ring = open_ring or (copying_into(copies) if copies else Ring)
        self.failures = {"lost": 0, "cpu": 0}
        self.has_cgroups = True
        self._mean_s = 1 / hz
        self._redraw_s = redraw_s
        self._drawn_at_s = time.monotonic()
        self._rings: dict[int, CpuRing] = {}
        self._read_count = 0
        try:
            self._open_cpus()
        except OSError as error:
            self.close()
            raise SourceUnavailableError(refusal(error)) from error

    def read(self) -> CodeSamples:
        """Return the samples of user mode since the last read, and draw other periods if due."""
        now_s = time.monotonic()
        is_due = now_s >= self._drawn_at_s + self._redraw_s
        if is_due:
            self._drawn_at_s = now_s
        contents = []
        for cpu, ring in [*self._rings.items()]:
            try:
                contents.append(ring.take(_period(self._drawn_period_s()) if is_due else None))
            except OSError:  # the CPU has gone
                self._rings.pop(cpu).close()
        if self._copies is not None:
            samples: Sequence[PlainSample] = Copies(self._copies.take())
            self.failures["lost"] = self._copies.lost()
        else:
            record = SAMPLE if self.has_cgroups else SAMPLE_WITHOUT_CGROUP
            samples, lost = samples_in(contents, record)
            self.failures["lost"] += lost
        self._read_count += 1
        if self._read_count % _READS_PER_CPU_CHECK == 0:
            if self._read_count % (_READS_PER_CPU_CHECK * _CHECKS_PER_RENEWAL) == 0:
                self._close_silent()
            with suppress(OSError):
                self._open_cpus()
        return CodeSamples(self._mean_s, samples)

    def close(self) -> None:
        """End sampling."""
        for ring in self._rings.values():
            ring.close()
        self._rings.clear()
        copies, self._copies = self._copies, None  # a read in another thread finds nothing then
        if copies is not None:
            copies.close()

    def _drawn_period_s(self) -> float:
        return self._mean_s * random.uniform(1 - _SPREAD, 1 + _SPREAD)  # noqa: S311

    def _close_silent(self) -> None:
        """Close those that have written nothing since the last call: idle CPUs, or dropped."""
        for cpu, ring in [*self._rings.items()]:
            if ring.is_silent():
                self._rings.pop(cpu).close()

    def _open_cpus(self) -> None:
        """Open the CPUs that are online and not open; raises OSError if none can be opened."""
        online = set(self._cpus())
        for cpu in self._rings.keys() - online:
            self._rings.pop(cpu).close()
            self.failures["cpu"] += 1
        for cpu in sorted(online - self._rings.keys()):
            try:
                self._rings[cpu] = self._opened(cpu)
            except OSError:
                if not self._rings:
                    raise
                self.failures["cpu"] += 1

    def _opened(self, cpu: int) -> CpuRing:
        try:
            return self._open_ring(cpu, self._drawn_period_s(), self.has_cgroups)
        except OSError as error:
            if error.errno != errno.EINVAL or not self.has_cgroups:
                raise
            self.has_cgroups = False  # before Linux 5.7
            return self._open_ring(cpu, self._drawn_period_s(), self.has_cgroups)


def samples_in(contents: Sequence[bytes], layout: Struct) -> tuple[list[PlainSample], int]:
    """Return the samples in what rings held, and the number that there was no room for."""
    samples = _samples_only(b"".join(contents), layout)
    if samples is not None:
        return samples, 0
    samples, lost = [], 0
    for content in contents:
        at = 0
        while at + _HEADER.size <= len(content):
            kind, _, size = _HEADER.unpack_from(content, at)
            if size < _HEADER.size or at + size > len(content):
                break
            if kind == _RECORD_SAMPLE and size == layout.size:
                samples += _samples_only(content[at : at + size], layout) or ()
            elif kind == _RECORD_LOST and size >= _LOST.size:
                lost += _LOST.unpack_from(content, at)[1]
            at += size
    return samples, lost


def _samples_only(content: bytes, layout: Struct) -> list[PlainSample] | None:
    """Return the samples of whole records; None if there are others among them."""
    number, rest = divmod(len(content), layout.size)
    header = _HEADER.pack(_RECORD_SAMPLE, 0, layout.size)
    # A slice of bytes with a step is faster than a number for each header.
    if rest or any(
        content[at :: layout.size] != header[at : at + 1] * number for at in _KIND_AND_SIZE
    ):
        return None
    if layout.size == SAMPLE.size:
        found = _FIELDS[SAMPLE.size].iter_unpack(content)
        return [(pid, address, cgroup, b"", tid) for address, pid, tid, cgroup in found]
    found = _FIELDS[layout.size].iter_unpack(content)
    return [(pid, address, 0, b"", tid) for address, pid, tid in found]


def copied(code_bytes: int, tid: int) -> int:
    """Return the field of COPY that holds both."""
    return tid << _TID_BIT | code_bytes


class Copies(Sequence[PlainSample]):
    """Samples in what the ring of copies held, unpacked one by one: few are more than counted.

    ``pids``, ``cgroups``: of each.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        numbers = memoryview(content).cast("I")
        self.pids: list[int] = numbers[_PID::_STRIDE].tolist()
        self.cgroups: Sequence[int] = memoryview(content).cast("Q")[_CGROUP::_LONG_STRIDE]
        self._copied: Sequence[int] = numbers[_COPIED::_STRIDE]

    def __len__(self) -> int:
        return len(self.pids)

    def tid(self, index: int) -> int:
        """Return the thread that was sampled."""
        return self._copied[index] >> _TID_BIT

    def __getitem__(self, index: int) -> PlainSample:  # type: ignore[override]
        pid = self.pids[index]
        address, cgroup, _, sizes, code = COPY.unpack_from(self._content, index * COPY.size)
        return pid, address, cgroup, code[: sizes & 0xFF] or UNREADABLE, sizes >> _TID_BIT


def copying_sampler(hz: float = DEFAULT_HZ, redraw_s: float = _REDRAW_S) -> CodeSampler:
    """Return a sampler that copies code. Raises SourceUnavailableError."""
    try:
        namespace, cpus = Path("/proc/self/ns/pid").readlink(), len([*online_cpus()])
    except (OSError, ValueError) as error:
        raise SourceUnavailableError(f"namespace and CPUs cannot be read: {error}") from error
    if str(namespace) != _INITIAL_PIDS:
        raise SourceUnavailableError("BPF does not know the numbers of processes in this namespace")
    records = int(cpus * DEFAULT_HZ / (1 - _SPREAD) * _COPIES_FOR_S)
    copies = BpfRing(
        "executed_code", COPY.size - 8, records, needs="Linux 5.8", what="copier of code"
    )
    return CodeSampler(hz, redraw_s, copies=copies)


def copying_into(copies: BpfRing) -> OpenRing:
    """Return the function that opens the event of a CPU, whose code is copied."""
    return lambda cpu, period_s, _: CopyingEvent(cpu, period_s, copies.program_fd)


class CopyingEvent:
    """One CPU's event, at which a BPF program runs. Raises OSError."""

    def __init__(self, cpu: int, period_s: float, program_fd: int) -> None:
        self._fd = perf_event_open(_attributes(period_s, 0), cpu)
        self._seen_ns = b""
        try:
            fcntl.ioctl(self._fd, _IOC_SET_BPF, program_fd)
        except BaseException:
            os.close(self._fd)
            raise

    def take(self, period: bytes | None) -> bytes:
        """Set another period; None: keep it. Return nothing: samples are in the ring of copies."""
        if period is not None:
            fcntl.ioctl(self._fd, _IOC_PERIOD, period)
        return b""

    def is_silent(self) -> bool:
        """Return True if the CPU's clock has not counted since the last call."""
        before, self._seen_ns = self._seen_ns, os.read(self._fd, _NUMBER.size)
        return before == self._seen_ns

    def close(self) -> None:
        """End sampling this CPU."""
        os.close(self._fd)


def _attributes(period_s: float, sample_type: int) -> Attributes:
    return Attributes(
        type=_TYPE_SOFTWARE,
        size=ctypes.sizeof(Attributes),
        config=_CPU_CLOCK,
        sample_period=int(period_s * 1e9),
        sample_type=sample_type,
        flags=_EXCLUDE_KERNEL | _EXCLUDE_HV,
    )


class Ring:
    """One CPU's event and its ring. Raises OSError."""

    def __init__(self, cpu: int, period_s: float, has_cgroups: bool) -> None:  # noqa: FBT001
        sample_type = _SAMPLE_IP | _SAMPLE_TID | (_SAMPLE_CGROUP if has_cgroups else 0)
        self._fd = perf_event_open(_attributes(period_s, sample_type), cpu)
        try:
            self._memory = mmap.mmap(self._fd, _PAGE_BYTES + _RING_BYTES)
        except BaseException:
            os.close(self._fd)
            raise
        self._numbers = memoryview(self._memory).cast("Q")
        self._seen_head = 0

    def take(self, period: bytes | None) -> bytes:
        """Return what was written since the last call, and set another period; None: keep it."""
        head, tail = self._numbers[_HEAD], self._numbers[_TAIL]
        # Either call also orders the reads of head and data.
        if period is None:
            fcntl.ioctl(self._fd, _IOC_ID, bytes(_NUMBER.size))
        else:
            fcntl.ioctl(self._fd, _IOC_PERIOD, period)
        if head == tail:
            return b""
        begins, ends = tail % _RING_BYTES, head % _RING_BYTES
        if begins < ends:
            content = self._memory[_PAGE_BYTES + begins : _PAGE_BYTES + ends]
        else:
            content = (
                self._memory[_PAGE_BYTES + begins :]
                + self._memory[_PAGE_BYTES : _PAGE_BYTES + ends]
            )
        self._numbers[_TAIL] = head
        return content

    def is_silent(self) -> bool:
        """Return True if nothing was written since the last call."""
        before, self._seen_head = self._seen_head, self._numbers[_HEAD]
        return before == self._seen_head

    def close(self) -> None:
        """End sampling this CPU."""
        self._numbers.release()
        self._memory.close()
        os.close(self._fd)


def _period(period_s: float) -> bytes:
    return _NUMBER.pack(int(period_s * 1e9))


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


def refusal(error: OSError) -> str:
    """Return why the kernel refuses, and how to permit it."""
    if error.errno == errno.ENOSYS:
        return "this kernel has no perf events (CONFIG_PERF_EVENTS)"
    if error.errno not in (errno.EPERM, errno.EACCES):
        return f"perf_event_open: {error.strerror}"
    if not {"PERFMON", "SYS_ADMIN"} & effective_capabilities():
        return "the capability PERFMON is missing: grant it to the agent, or run it as root"
    with suppress(OSError, ValueError):
        paranoid = int(PARANOID.read_text())
        if error.errno == errno.EACCES and paranoid > _MAX_PARANOID:
            return (
                f"kernel.perf_event_paranoid = {paranoid}, of this distribution, asks for SYS_ADMIN"
                f", which the agent should not have: set it to {_MAX_PARANOID} on the node"
            )
    return (
        "perf_event_open(2) is forbidden though the capability is there, probably by the runtime's"
        " seccomp profile: install deploy/seccomp/minerwatch.json, and name it in seccompProfile"
    )
