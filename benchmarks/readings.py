"""CPU of reading the processes of one hot container of which hardly any runs; all in one run.

    python -m benchmarks.readings [--processes 2000] [--ticks 24]

Makes a real cgroup (root) with sleeping processes, one of which stands for those that run, then
measures the CPU of

- reading each of them at each tick;
- reading those that run, and the others in turn;
- the same where one read of all tasks says which run, with that read and without it;
- psutil.process_iter with the attributes that minesweeper asks for.

What runs is only said, not burnt: the container's counter moves by what exited processes use.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psutil

from benchmarks.crowd import Crowd
from benchmarks.table import Budget, Row, cpu_ms, needs_root, parser, show
from minerwatch.node.process_activity import ProcessActivity
from minerwatch.node.processes import ProcessReader
from minerwatch.node.task_iterator import TaskIterator, TasksUnavailableError

MEASURE = "Processes of one hot container"
IN_TURN = "in turn"
CHURNING = "in turn, others come and go"
EXACT = "by one read of all tasks"
TABLE = "that read"
_LIMIT_S = 1.5  # what one process uses unseen at most: half of 0.3 cores for 10 s
_EXITED_S = 5.0
_LEAST_RATIO = 30
_ATTRIBUTES = (
    *("cmdline", "cpu_percent", "cpu_times", "exe", "memory_info"),
    *("name", "pid", "ppid", "status", "uids"),
)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--processes", type=int, default=2000)
    options.add_argument("--ticks", type=int, default=24)
    chosen = options.parse_args()
    show(MEASURE, lambda: rows(chosen.processes, chosen.ticks), is_json=chosen.json)


def rows(count: int, ticks: int) -> list[Row]:
    """CPU of a tick's readings, on average: once in so many ticks all are read."""
    needs_root()
    tasks, tasks_off = _task_iterator()
    with (
        tempfile.TemporaryDirectory() as folder,
        Crowd(Path(folder), 1) as crowd,
        closing(ProcessReader(Path("/proc"))) as reader,
    ):
        crowd.grow(count)
        members = (crowd.folders[0] / "cgroup.procs").read_text()
        sides = _sides(frozenset(map(int, members.split())), reader, tasks)
        spent: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(5 + ticks):
            for name, side in sides.items():
                if name != "psutil" or number % 6 == 0:
                    spent_ms = cpu_ms(side)
                    if number >= 5:  # by then they have become idle
                        spent[name].append(spent_ms)
    means = {name: statistics.fmean(each) for name, each in spent.items()}
    case = f"{count:,} processes, hardly any runs"
    found = [Row(MEASURE, case, name, spent_ms, "ms") for name, spent_ms in means.items()]
    for name in (IN_TURN, CHURNING, EXACT):
        parts = (name, TABLE) if name == EXACT else (name,)
        ours_ms = sum(means.get(part, 0.0) for part in parts)
        ratio = means["psutil"] / ours_ms if ours_ms else None
        budget = Budget(_LEAST_RATIO, is_least=True)
        found.append(Row(MEASURE, case, f"psutil ÷ {name}", ratio, "", budget, tasks_off))
    return found


def _sides(
    pids: frozenset[int], reader: ProcessReader, tasks: TaskIterator | None
) -> dict[str, Callable[[], object]]:
    in_turn, churning, exact = ProcessActivity(), ProcessActivity(), ProcessActivity()
    sides: dict[str, Callable[[], object]] = {
        "each of them": lambda: [reader.stat(pid) for pid in pids],
        IN_TURN: lambda: in_turn.read(pids, reader.stat, 0.0, _LIMIT_S),
        CHURNING: lambda: churning.read(pids, reader.stat, _EXITED_S, _LIMIT_S),
    }
    table = tasks.table() if tasks is not None else None
    if tasks is not None and table is not None:
        sides[EXACT] = lambda: exact.read(pids, table.stat, 0.0, _LIMIT_S, cpu_ns=table.cpu_ns)
        sides[TABLE] = tasks.table
    return sides | {"psutil": _psutil_scan}


def _task_iterator() -> tuple[TaskIterator | None, str]:
    try:
        return TaskIterator(), ""
    except TasksUnavailableError as error:
        return None, str(error)


def _psutil_scan() -> None:
    for _ in psutil.process_iter(_ATTRIBUTES):
        pass


if __name__ == "__main__":
    main()
