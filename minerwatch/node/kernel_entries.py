"""Addresses at which threads were interrupted, where the kernel's CPU clock cannot be sampled.

A BPF iterator (bpf/kernel_entries.bpf.c) returns where each thread last entered the kernel. An
interrupt's address is of code that the thread executes. A system call's is left out, because the
thread chooses it; one that calls the kernel often therefore gives fewer samples.

Each read chooses threads at random by the CPU time that they have used since the last one, so the
samples stand for equal CPU time, as those of the clock do. A process that starts and exits between
two reads is not seen.
"""

from __future__ import annotations

import os
import random
import time
from struct import Struct

from minerwatch.errors import SourceUnavailableError
from minerwatch.model import CodeSample, CodeSamples
from minerwatch.node.bpf_iterator import OUTSIDE_HOST_PIDS, BpfIterator

ROW = Struct("=QQII")
"""As struct record in bpf/kernel_entries.bpf.c: CPU time in ns, address or 0, tid, pid."""
_NEEDS = "Linux 5.15"
_MAX_CPU_SHARE = 0.002
"""Of one core, for reading: 1 µs a task."""
_MIN_PAUSE_S = 0.25
_MAX_PAUSE_S = 10.0
_SPREAD = 0.3
"""Pauses are drawn at random, so that nothing can be done just before each read."""


class EntrySampler:
    """Samples where threads were interrupted; for one thread.

    ``read_every_s``: seconds to wait before the next read.
    ``failures`` counts since the start, by reason: ``unreadable``.
    """

    copies_code = False

    def __init__(self) -> None:
        """Raises SourceUnavailableError."""
        self._iterator = BpfIterator(
            "kernel_entries", ROW.size, needs=_NEEDS, what="iterator over kernel entries"
        )
        self.failures = self._iterator.failures
        self.read_every_s = _MIN_PAUSE_S
        self._cpu_ns: dict[int, int] = {}  # of each thread, at the last read
        self._last_read_s = time.monotonic()
        self.read()
        if os.getpid() not in self._cpu_ns:
            self.close()
            raise SourceUnavailableError(OUTSIDE_HOST_PIDS)

    def read(self) -> CodeSamples:
        """Return the samples since the last read, and draw the pause until the next."""
        started_cpu_s, now_s = time.thread_time(), time.monotonic()
        period_s = now_s - self._last_read_s
        failed = self.failures["unreadable"]
        cpu_ns: dict[int, int] = {}
        samples = []
        for piece in self._iterator.pieces():
            for now_ns, address, tid, pid in ROW.iter_unpack(piece):
                cpu_ns[tid] = now_ns
                used_ns = now_ns - self._cpu_ns.get(tid, 0)
                if used_ns < 0:  # another thread with a reused id
                    used_ns = now_ns
                if address and random.random() * period_s < used_ns / 1e9:  # noqa: S311
                    samples.append(CodeSample(pid, address, 0, b"", tid))
        self.read_every_s = _pause_s(time.thread_time() - started_cpu_s)
        if self.failures["unreadable"] > failed:
            return CodeSamples(period_s, [])
        self._cpu_ns, self._last_read_s = cpu_ns, now_s
        return CodeSamples(period_s, samples)

    @property
    def read_calmly_every_s(self) -> float:
        """The same pause: a read takes one sample, and not those since the last."""
        return self.read_every_s

    def close(self) -> None:
        """Remove the program from the kernel."""
        self._iterator.close()


def _pause_s(cost_s: float) -> float:
    pause_s = min(_MAX_PAUSE_S, max(_MIN_PAUSE_S, cost_s / _MAX_CPU_SHARE))
    return pause_s * random.uniform(1 - _SPREAD, 1 + _SPREAD)  # noqa: S311
