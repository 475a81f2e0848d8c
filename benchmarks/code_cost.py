"""CPU time of sampling and classifying what CPUs execute, per sample, all in and by part.

    python -m benchmarks.code_cost [--cpus 16] [--seconds 180]      (root)

Several events are opened on each of this machine's CPUs, so that there are as many rings and
samples as on a node with ``--cpus`` busy CPUs. A process for each CPU of this machine hashes, and
as many as ``--cpus`` says are forks of the same, which sleep; all samples count as these processes'
in turn. Once they are known, everything is counted: reading the rings, choosing, and the child with
its starts, which classifies them again in rounds.

Two costs are the kernel's, and shown apart: a new period for another CPU, which that CPU is
interrupted for (a part of reading the rings), and the interrupt of each sample, which the sampled
program pays.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from statistics import median

import psutil

from benchmarks.table import Budget, Row, needs_root, parser, show
from minerwatch.model import CodeSamples, ContainerKey
from minerwatch.node.bpf_ring import BpfRing
from minerwatch.node.executed_code import (
    COPY,
    DEFAULT_HZ,
    CodeSampler,
    Copies,
    CopyingEvent,
    Ring,
    copying_sampler,
    online_cpus,
)
from minerwatch.node.proc_files import ProcessFiles
from minerwatch.probes.code_schedule import Place
from minerwatch.probes.executed_code import ExecutedCode

MEASURE = "Executed code"
_KNOWN_AFTER_S = 40.0
_KEPT = 1000
_FAMILY = """
import hashlib, os, sys, time
for _ in range(int(sys.argv[1])):
    if (child := os.fork()) == 0:
        while time.process_time() < 0.3: hashlib.sha256(bytes(4096))  # its pages are there then
        time.sleep(1e6)
    print(child, flush=True)
for _ in range(os.cpu_count() - 1): os.fork()
while True: hashlib.sha256(bytes(4096))
"""
_FAST_HZ = 20_000.0
_TRIES = 40
_WORK = range(2_000_000)


class ManyRings(CodeSampler):
    """A sampler with several rings a CPU, whose samples are all of some processes."""

    def __init__(self, rings: int, busy: int, pids: Sequence[int]) -> None:
        here = [*online_cpus()]
        self._busy, self._pids = busy, pids
        self._own: list[tuple[int, bytes]] = []
        self.count = 0
        self.reading_s = 0.0
        self.benchmark_s = 0.0
        copies = BpfRing(
            "executed_code", COPY.size - 8, 4096, needs="Linux 5.8", what="copier of code"
        )
        super().__init__(
            copies=copies,
            cpus=lambda: range(rings),
            open_ring=lambda cpu, period_s, _: CopyingEvent(
                here[cpu % len(here)], period_s, copies.program_fd
            ),
        )

    def read(self) -> CodeSamples:
        """Return the samples of all rings."""
        began_s = time.thread_time()
        period_s, samples = super().read()
        read_s = time.thread_time()
        self._own += [(at, code) for pid, at, _, code, _ in samples if pid == self._busy]
        del self._own[:-_KEPT]
        self.count += len(samples)
        drawn = random.choices(self._own, k=len(samples) if self._own else 0)
        known = Copies(
            b"".join(
                COPY.pack(at, 0, random.choice(self._pids), len(code), code) for at, code in drawn
            )
        )
        self.reading_s += read_s - began_s
        self.benchmark_s += time.thread_time() - read_s
        return CodeSamples(period_s, known)


class Places:
    """Each process in a container of its own."""

    def __init__(self) -> None:
        self._files = ProcessFiles("/proc", {})

    def locate(self, pid: int) -> Place | None:
        """Return the place of a process."""
        found = self._files.stat(pid)
        return Place(found[0].id, ContainerKey(f"/{pid}", pid), pid) if found else None

    def relatives(self, cgroup: int) -> Sequence[Place]:
        """Return nothing: no process exits."""
        del cgroup
        return ()


def main() -> None:
    """Print the rows."""
    options = parser(__doc__)
    options.add_argument("--cpus", type=int, default=16)
    options.add_argument("--seconds", type=float, default=180.0)
    chosen = options.parse_args()
    show(MEASURE, lambda: rows(chosen.cpus, chosen.seconds), is_json=chosen.json)


def rows(cpus: int, seconds: float) -> list[Row]:
    """Measure once."""
    needs_root()
    with subprocess.Popen(
        [sys.executable, "-c", _FAMILY, str(cpus)], stdout=subprocess.PIPE, start_new_session=True
    ) as busy:
        assert busy.stdout is not None
        sampler = ManyRings(cpus, busy.pid, [int(busy.stdout.readline()) for _ in range(cpus)])
        code = ExecutedCode(sampler, Places())
        try:
            time.sleep(_KNOWN_AFTER_S)
            before = _spent(sampler, busy.pid)
            time.sleep(seconds)
            after = _spent(sampler, busy.pid)
            code.close()
            memory_mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        finally:
            os.killpg(busy.pid, signal.SIGKILL)
    samples, agent_s, reading_s, child_s = (
        later - earlier for later, earlier in zip(after, before, strict=True)
    )
    note = f"{samples / seconds:.0f} samples a second, {cpus} rings on {psutil.cpu_count()} CPUs"
    of, of_child = f"{cpus} CPUs", "with its starts"
    return [
        _each(of, "a sample, all in", (agent_s + child_s) / samples, note, Budget(3.0)),
        _each(of, "of that, reading the rings", reading_s / samples),
        _each(of, "of that, new periods of other CPUs", _period_s() * cpus * seconds / samples),
        _each(of, "of that, placing and asking", (agent_s - reading_s) / samples),
        _each(of, "of that, the child", child_s / samples, of_child),
        _each(of, "beside it, a sample's interrupt", _interrupt_s(), "in the sampled program"),
        Row(MEASURE, of, "the child, resident at most", memory_mib, "MiB", Budget(60.0)),
    ]


def _each(
    of: str, figure: str, spent_s: float, note: str = "", budget: Budget | None = None
) -> Row:
    return Row(MEASURE, of, figure, spent_s * 1e6, "µs", budget, note)


def _spent(sampler: ManyRings, besides: int) -> tuple[int, float, float, float]:
    """Return samples, and CPU time of the agent, of its reading, and of its children so far."""
    agent_s = time.process_time() - sampler.benchmark_s
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    running = [each.cpu_times() for each in psutil.Process().children() if each.pid != besides]
    child_s = ended.ru_utime + ended.ru_stime + sum(each.user + each.system for each in running)
    sampler.benchmark_s += time.process_time() - sampler.benchmark_s - agent_s
    return sampler.count, agent_s, sampler.reading_s, child_s


def _period_s() -> float:
    """Return the CPU time of a new period for another CPU."""
    rings = [Ring(cpu, 1 / DEFAULT_HZ, True) for cpu in online_cpus()]
    period = int(1e9 / DEFAULT_HZ).to_bytes(8, "little")
    spent = {
        ring: median(_spent_s(ring, period) - _spent_s(ring, None) for _ in range(_TRIES))
        for ring in rings
    }
    for ring in rings:
        ring.close()
    return max(spent.values())


def _spent_s(ring: Ring, period: bytes | None) -> float:
    began_s = time.thread_time()
    ring.take(period)
    return time.thread_time() - began_s


def _interrupt_s() -> float:
    """Return the CPU time by which one sample slows down what is sampled."""
    slower_s = []
    for _ in range(_TRIES):
        alone_s = _work_s()
        sampler = copying_sampler(_FAST_HZ)
        sampled_s = _work_s()
        sampler.close()
        slower_s.append((sampled_s - alone_s) / (sampled_s * _FAST_HZ))
    return median(slower_s)


def _work_s() -> float:
    began_s = time.thread_time()
    for _ in _WORK:
        pass
    return time.thread_time() - began_s


if __name__ == "__main__":
    main()
