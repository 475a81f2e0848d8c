"""What a tick costs, beside a psutil scan and a C loop over /proc; all in one run.

    python -m benchmarks.scan [--processes 500,5000] [--cgroups 50,250] [--ticks 8]

Makes real cgroups (root) with sleeping processes in them, then measures CPU of

- our tick: the whole Watch with the shipped rules, unchanged processes, idle containers;
- its parts: cgroups alone, processes, rules;
- the same tick with the task iterator, where the kernel has it;
- psutil.process_iter with the attributes that minesweeper asks for;
- a C loop that opens, reads and closes every /proc/PID/stat: the compiled floor;

and again with a tenth of the processes replaced before each. Sides take turns, so that a busy
neighbour hits all of them. What a container and a process add is a least-squares fit.
"""

from __future__ import annotations

import ctypes
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil

from benchmarks.crowd import Crowd, compiled
from benchmarks.table import Budget, Row, cpu_ms, needs_root, parser, show
from minerwatch.agent.tick import Sources, Watch
from minerwatch.config.schema import BUILT_IN_RULES, Examination
from minerwatch.detection.judge import Judge
from minerwatch.detection.matching.matcher import Matcher
from minerwatch.detection.sigma import rulebook
from minerwatch.errors import SourceUnavailableError
from minerwatch.node.cgroups import CgroupTree
from minerwatch.node.processes import ProcessReader
from minerwatch.node.task_iterator import TaskIterator

MEASURE = "One tick"
ATTRIBUTES = (
    *("cmdline", "cpu_percent", "cpu_times", "exe", "memory_info"),
    *("name", "pid", "ppid", "status", "uids"),
)
_REPLACED_SHARE = 0.1
_PARTS = ("cgroups", "processes", "rules")

_FLOOR = r"""
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
long floor_scan(void) {
  DIR *proc = opendir("/proc");
  struct dirent *entry;
  char path[64], content[4096];
  long total = 0;
  while ((entry = readdir(proc))) {
    if (entry->d_name[0] < '1' || entry->d_name[0] > '9') continue;
    snprintf(path, sizeof path, "/proc/%.20s/stat", entry->d_name);
    int fd = open(path, O_RDONLY);
    if (fd < 0) continue;
    total += read(fd, content, sizeof content) > 0;
    close(fd);
  }
  closedir(proc);
  return total;
}
"""


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--processes", type=_numbers, default=[500, 2000, 5000, 10_000])
    options.add_argument("--cgroups", type=_numbers, default=[50, 250])
    options.add_argument("--ticks", type=int, default=6)
    chosen = options.parse_args()
    show(
        MEASURE,
        lambda: rows(chosen.processes, chosen.cgroups, chosen.ticks),
        is_json=chosen.json,
    )


def rows(processes: Sequence[int], cgroups: Sequence[int], ticks: int) -> list[Row]:
    """What a tick costs, in each case; and what a container and a process add to it."""
    needs_root()
    matcher = Matcher(rulebook.load((BUILT_IN_RULES,)).rules)
    costs: list[_Cost] = []
    for containers in cgroups:
        costs += _costs(matcher, containers, sorted(processes), ticks)
    return [row for cost in costs for row in cost.rows()] + _growth(costs)


class _Cost:
    """CPU milliseconds of all sides in one case."""

    def __init__(self, cgroups: int, processes: int, *, is_idle: bool) -> None:
        self.cgroups, self.processes, self.is_idle = cgroups, processes, is_idle
        self.sides: dict[str, list[float]] = {}
        self.tasks_off = ""

    def add(self, side: str, spent_ms: float) -> None:
        self.sides.setdefault(side, []).append(spent_ms)

    def ms(self, side: str) -> float | None:
        return statistics.median(self.sides[side]) if side in self.sides else None

    @property
    def tick_ms(self) -> float:
        return statistics.median(self.sides["tick"])

    def rows(self) -> Iterator[Row]:
        doing = "idle" if self.is_idle else "10 % replaced"
        case = f"{self.cgroups} cgroups, {self.processes:,} processes, {doing}"
        for side in ("tick", *_PARTS, "psutil", "C loop"):
            yield Row(MEASURE, case, side, self.ms(side), "ms")
        note = self.tasks_off
        yield Row(MEASURE, case, "tick with tasks", self.ms("with tasks"), "ms", note=note)
        is_budgeted = self.is_idle and (self.cgroups, self.processes) == (250, 2000)
        for side, least in (("psutil", 50), ("C loop", 1)):
            budget = Budget(least, is_least=True) if is_budgeted else None
            ratio = (self.ms(side) or 0.0) / self.tick_ms
            yield Row(MEASURE, case, f"{side} ÷ tick", ratio, budget=budget)


class _Ticks:
    """A watch of its own, and what its ticks took."""

    def __init__(self, matcher: Matcher, tasks: TaskIterator | None = None) -> None:
        self._watch = Watch(
            Sources(CgroupTree(Path("/sys"), Path("/proc")), ProcessReader(Path("/proc")), tasks),
            matcher,
            Examination(),
            Judge(),
        )
        self.parts_ms: dict[str, float] = {}

    def warm(self) -> None:
        """The first ticks read everything, and see what is idle."""
        for _ in range(4):
            self.tick()
            time.sleep(0.3)

    def tick(self) -> None:
        brought = self._watch.tick(time.clock_gettime(time.CLOCK_BOOTTIME))
        self.parts_ms = {part: spent * 1000 for part, spent in brought.probe_s.items()}

    def close(self) -> None:
        self._watch.close()


def _costs(matcher: Matcher, cgroups: int, processes: Sequence[int], ticks: int) -> Iterator[_Cost]:
    tasks, tasks_off = task_iterator()
    with (
        tempfile.TemporaryDirectory() as folder,
        Crowd(Path(folder), cgroups) as crowd,
        closing(_Ticks(matcher)) as plain,
        closing(_Ticks(matcher, tasks)) as with_tasks,
    ):
        sides: dict[str, Callable[[], object]] = {
            "tick": plain.tick,
            "C loop": _floor(Path(folder)),
            "psutil": _psutil_scan,
        }
        if tasks is not None:
            sides["with tasks"] = with_tasks.tick
        for count in processes:
            crowd.grow(count)
            plain.warm()
            with_tasks.warm()
            _psutil_scan()  # it keeps what it knows of a process
            for is_idle in (True, False):
                cost = _Cost(cgroups, count, is_idle=is_idle)
                cost.tasks_off = tasks_off
                for number in range(ticks if is_idle else ticks // 2):
                    if not is_idle:
                        crowd.replace(int(count * _REPLACED_SHARE))
                    time.sleep(0.2)
                    _take_turns(cost, sides, plain, with_psutil=number % 3 == 0)
                yield cost


def _take_turns(
    cost: _Cost, sides: dict[str, Callable[[], object]], plain: _Ticks, *, with_psutil: bool
) -> None:
    for name, side in sides.items():
        if name != "psutil" or with_psutil:
            cost.add(name, cpu_ms(side))
    for part in _PARTS:
        cost.add(part, plain.parts_ms[part])


def _growth(costs: Sequence[_Cost]) -> list[Row]:
    """What one more container, and one more process, adds to a tick."""
    found = []
    for is_idle, doing in ((True, "idle"), (False, "10 % replaced")):
        cases = [cost for cost in costs if cost.is_idle is is_idle]
        if len({cost.cgroups for cost in cases}) < 2 or len(cases) < 3:
            continue
        known = np.array([(1.0, cost.cgroups, cost.processes) for cost in cases])
        fitted = np.linalg.lstsq(known, np.array([cost.tick_ms for cost in cases]), rcond=None)[0]
        for name, slope_ms in (("a container", fitted[1]), ("a process", fitted[2])):
            found.append(Row("Growth of a tick", doing, name, float(slope_ms) * 1000, "µs"))
    return found


def task_iterator() -> tuple[TaskIterator | None, str]:
    try:
        return TaskIterator(), ""
    except SourceUnavailableError as error:
        return None, str(error)


def _psutil_scan() -> None:
    for _ in psutil.process_iter(ATTRIBUTES):
        pass


def _floor(folder: Path) -> Callable[[], int]:
    library = ctypes.CDLL(str(compiled(folder, "floor.so", _FLOOR, ("-shared", "-fPIC"))))
    scan: Callable[[], int] = library.floor_scan
    return scan


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    main()
