"""What a hot container with thousands of idle processes costs a tick, beside a psutil scan of them.

    python -m benchmarks.hot [--processes 2000] [--ticks 12] [--every 1.0]

Makes one real cgroup (root) with sleeping processes and one that computes under a miner's
arguments, so that the container stays hot. Measures CPU of

- reading: counters, threads and programs of its processes;
- matching: rules on what was measured, and the verdict;
- the whole tick;
- psutil, asked for the same processes and the attributes that minesweeper asks for.

Each watch has its turn, then psutil, so that a busy neighbour hits all of them.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil

from benchmarks.crowd import TOP, Crowd, writable_root
from benchmarks.scan import ATTRIBUTES, task_iterator
from benchmarks.table import Budget, Row, cpu_ms, missing, needs_root, parser, show
from minerwatch.agent.scheduling import PhaseTimer
from minerwatch.agent.tick import Sources, Watch
from minerwatch.config.schema import BUILT_IN_RULES, Examination
from minerwatch.config.values import Duration
from minerwatch.detection.judge import Judge
from minerwatch.detection.matching.matcher import Matcher
from minerwatch.detection.sigma import rulebook
from minerwatch.node.cgroups import CgroupTree
from minerwatch.node.processes import ProcessReader
from minerwatch.node.task_iterator import TaskIterator

MEASURE = "One hot container"
_MINER = ("-o", "stratum+tcp://pool.example.org:3333", "--donate-level", "1", "-u", "x")
_WARM_TICKS = 10
_EXAMINATION = Examination(window=Duration(5))
"""A process is idle after a window without CPU time: it need not be waited for for a minute."""
_MIN_RATIO = Budget(30, is_least=True)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--processes", type=int, default=2000)
    options.add_argument("--ticks", type=int, default=12)
    options.add_argument("--every", type=float, default=1.0, help="seconds between two ticks")
    chosen = options.parse_args()
    show(
        MEASURE,
        lambda: rows(chosen.processes, chosen.ticks, chosen.every),
        is_json=chosen.json,
    )


def rows(processes: int, ticks: int, every_s: float) -> Iterator[Row]:
    """The cost of a tick with each source of counters."""
    needs_root()
    matcher = Matcher(rulebook.load((BUILT_IN_RULES,)).rules)
    tasks, tasks_off = task_iterator()
    with (
        tempfile.TemporaryDirectory() as folder,
        Crowd(Path(folder), 1, TOP) as crowd,
        _busy(crowd.folders[0]),
        closing(_Ticks(matcher, _own_sys(Path(folder)))) as plain,
        closing(_Ticks(matcher, Path(folder) / "sys", tasks)) as with_tasks,
    ):
        crowd.grow(processes)
        sides = {"/proc": plain} | ({"task iterator": with_tasks} if tasks is not None else {})
        scan = _psutil_scan(crowd.folders[0])
        scans = []
        for number in range(_WARM_TICKS + ticks):
            time.sleep(every_s)
            for side in sides.values():
                side.tick(is_counted=number >= _WARM_TICKS)
            if number >= _WARM_TICKS:
                scans.append(cpu_ms(scan))
    case = f"{processes:,} idle processes and a busy one"
    psutil_ms = statistics.median(scans)
    yield Row(MEASURE, case, "psutil", psutil_ms, "ms")
    for name, side in sides.items():
        for figure, spent_ms in side.medians_ms().items():
            yield Row(MEASURE, f"{case}, {name}", figure, spent_ms, "ms")
        ratio = psutil_ms / side.medians_ms()["reading and matching"]
        budget = _MIN_RATIO if processes >= 2000 else None
        yield Row(MEASURE, f"{case}, {name}", "psutil ÷ reading and matching", ratio, budget=budget)
    if tasks is None:
        yield missing(MEASURE, f"{case}, task iterator", tasks_off)


class _Ticks:
    """A watch of its own, and what its ticks took."""

    def __init__(self, matcher: Matcher, sys: Path, tasks: TaskIterator | None = None) -> None:
        cgroups = CgroupTree(sys, Path("/proc"))
        sources = Sources(cgroups, ProcessReader(Path("/proc")), tasks)
        self._watch = Watch(
            sources, matcher, _EXAMINATION, Judge(), timer=PhaseTimer(time.thread_time)
        )
        self._spent_ms: dict[str, list[float]] = {}

    def tick(self, *, is_counted: bool) -> None:
        started_s = time.thread_time()
        phases = self._watch.tick(time.clock_gettime(time.CLOCK_BOOTTIME)).probe_s
        whole_s = time.thread_time() - started_s
        reading_s = phases["tasks"] + phases["processes"]
        figures = {
            "reading": reading_s,
            "matching": phases["rules"],
            "reading and matching": reading_s + phases["rules"],
            "tick": whole_s,
        }
        for figure, spent_s in figures.items():
            if is_counted:
                self._spent_ms.setdefault(figure, []).append(spent_s * 1000)

    def medians_ms(self) -> dict[str, float]:
        return {figure: statistics.median(each) for figure, each in self._spent_ms.items()}

    def close(self) -> None:
        self._watch.close()


def _own_sys(folder: Path) -> Path:
    """A /sys with the cgroups of this run only: other hot containers would be measured, too."""
    root = writable_root()
    mounts = folder / "sys" / "fs" / "cgroup"
    mounts.parent.mkdir(parents=True)
    if root == Path("/sys/fs/cgroup"):
        mounts.symlink_to(root / TOP)
    else:
        mounts.mkdir()
        (mounts / root.name).symlink_to(root / TOP)
    return folder / "sys"


@contextmanager
def _busy(folder: Path) -> Iterator[None]:
    command = [sys.executable, "-c", "while True: pass", *_MINER]
    with subprocess.Popen(command) as process:
        (folder / "cgroup.procs").write_text(str(process.pid))
        try:
            yield
        finally:
            process.kill()


def _psutil_scan(folder: Path) -> Callable[[], None]:
    """A scan of the processes of one cgroup; what psutil keeps of each is kept."""
    known: dict[int, psutil.Process] = {}

    def scan() -> None:
        for pid in map(int, (folder / "cgroup.procs").read_text().split()):
            if pid not in known:
                known[pid] = psutil.Process(pid)
            known[pid].as_dict(ATTRIBUTES)

    return scan


if __name__ == "__main__":
    main()
