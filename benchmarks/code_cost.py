"""CPU time of sampling and classifying what CPUs execute, per sample and all in.

    python -m benchmarks.code_cost [--cpus 16] [--seconds 180]      (root)

Busy processes run on this machine's CPUs, and several events are opened a CPU, so that there are as
many rings and samples as on a node with ``--cpus`` busy CPUs. Samples of other processes count as
more of these. Once the processes are known, everything is counted: reading the rings, choosing, and
the child with its starts, which classifies them again in rounds.
"""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks.table import Budget, Row, needs_root, parser, show
from minerwatch.model import CodeSample, CodeSamples, ContainerKey
from minerwatch.node.executed_code import CodeSampler, online_cpus
from minerwatch.node.proc_files import ProcessFiles
from minerwatch.probes.executed_code import ExecutedCode, Place

MEASURE = "Executed code"
_KNOWN_AFTER_S = 30.0
_KEPT = 1000
_LOOP = "import hashlib\nwhile True: hashlib.sha256(bytes(4096))"


class ManyRings(CodeSampler):
    """A sampler with several rings a CPU, whose samples are all of some processes."""

    def __init__(self, rings: int, pids: set[int]) -> None:
        self.cpus = [*online_cpus()]
        self._others = [CodeSampler() for _ in range(max(0, rings // len(self.cpus) - 1))]
        self._pids = pids
        self._own: list[CodeSample] = []
        self.count = 0
        super().__init__()

    def read(self) -> CodeSamples:
        """Return the samples of all rings."""
        period_s, samples = super().read()
        for other in self._others:
            samples += other.read().samples
        self._own += [each for each in samples if each.pid in self._pids]
        del self._own[:-_KEPT]
        self.count += len(samples)
        known = [
            each if each.pid in self._pids else random.choice(self._own)
            for each in samples
            if self._own
        ]
        return CodeSamples(period_s, known)

    def close(self) -> None:
        """End sampling."""
        super().close()
        for other in self._others:
            other.close()


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
    busy = [subprocess.Popen([sys.executable, "-c", _LOOP]) for _ in online_cpus()]
    sampler = ManyRings(cpus, {each.pid for each in busy})
    code = ExecutedCode(sampler, Places())
    try:
        time.sleep(_KNOWN_AFTER_S)
        began, before_s = sampler.count, time.process_time()
        time.sleep(seconds)
        samples, agent_s = sampler.count - began, time.process_time() - before_s
        code.close()
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
    finally:
        for each in busy:
            each.kill()
            each.wait()
    child_s = children.ru_utime + children.ru_stime
    note = f"{samples / seconds:.0f} samples a second, {cpus} rings on {os.cpu_count()} CPUs"
    spent, memory_mib = f"in {seconds + _KNOWN_AFTER_S:.0f} s", children.ru_maxrss / 1024
    per_sample_us = (agent_s + child_s * seconds / (seconds + _KNOWN_AFTER_S)) / samples * 1e6
    of = f"{cpus} CPUs"
    return [
        Row(MEASURE, of, "a sample, all in", per_sample_us, "µs", Budget(3.0), note),
        Row(MEASURE, of, "a sample, in the agent", agent_s / samples * 1e6, "µs"),
        Row(MEASURE, of, "the child, with its starts", child_s * 1e3, "ms", note=spent),
        Row(MEASURE, of, "the child, resident at most", memory_mib, "MiB", Budget(60.0)),
    ]


if __name__ == "__main__":
    main()
