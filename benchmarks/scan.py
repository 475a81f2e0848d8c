"""What one steady tick costs, beside a psutil scan and a C loop over /proc; all in one run.

    python benchmarks/scan.py [--processes 500,5000] [--cgroups 50,250] [--ticks 20]

Makes real cgroups (root) with sleeping processes in them, then measures CPU seconds of

- our tick: the whole Watch with the shipped rules, unchanged processes, idle containers;
- its parts: cgroups alone, processes, rules;
- the same tick with the task iterator, where the kernel has it, and what reading all tasks takes;
- psutil.process_iter with the attributes that minesweeper asks for;
- a C loop that opens, reads and closes every /proc/PID/stat.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from minerwatch.config import BUILT_IN_RULES, Examination
from minerwatch.detection import rulebook
from minerwatch.detection.judge import Judge
from minerwatch.detection.match import Matcher
from minerwatch.node.cgroups import CgroupTree
from minerwatch.node.processes import ProcessReader
from minerwatch.node.tasks import TaskIterator, TasksUnavailableError
from minerwatch.watch import Watch

ATTRIBUTES = (
    *("cmdline", "cpu_percent", "cpu_times", "exe", "memory_info"),
    *("name", "pid", "ppid", "status", "uids"),
)

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

# One process forks the sleepers, each into the cgroup that its line names.
_SLEEPERS = r"""
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <signal.h>
#include <unistd.h>
int main(void) {
  char line[1024];
  while (fgets(line, sizeof line, stdin)) {
    line[strcspn(line, "\n")] = 0;
    if (fork() == 0) {
      int fd = open(line, O_WRONLY);
      if (fd < 0 || write(fd, "0", 1) != 1) _exit(1);
      close(fd);
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      execl("/bin/sleep", "sleep", "100000", (char *)0);
      _exit(1);
    }
  }
  puts("ready");
  fflush(stdout);
  pause();
}
"""


@dataclass(frozen=True, slots=True)
class Row:
    """Medians of one measurement."""

    processes: int
    cgroups: int
    tick_ms: float
    tick_with_tasks_ms: float | None  # None: there is no task iterator here
    tasks_ms: float | None
    parts_ms: dict[str, float]
    psutil_ms: float
    floor_ms: float


def main() -> None:
    arguments = _arguments()
    if os.geteuid() != 0:
        sys.exit("this benchmark makes cgroups: run it as root")
    matcher = Matcher(rulebook.load((BUILT_IN_RULES,)).rules)
    with tempfile.TemporaryDirectory() as folder:
        floor = _compiled_floor(Path(folder))
        sleepers = _compiled(Path(folder), "sleepers", _SLEEPERS, ())
        print(f"{machine()}; {len(matcher.rules)} rules; CPU ms, median of {arguments.ticks}\n")
        print(
            "processes cgroups   tick  (cgroups processes rules)  with tasks (tasks)"
            "   psutil  C floor   psutil/tick  floor/tick  psutil/with tasks"
        )
        for cgroups in arguments.cgroups:
            for processes in arguments.processes:
                with _sleeping(sleepers, processes, cgroups):
                    _print(_measured(matcher, floor, cgroups, arguments.ticks))


def _arguments() -> argparse.Namespace:
    def numbers(text: str) -> list[int]:
        return [int(number) for number in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=numbers, default=[500, 2000, 5000])
    parser.add_argument("--cgroups", type=numbers, default=[50, 250])
    parser.add_argument("--ticks", type=int, default=20)
    return parser.parse_args()


class _Ticks:
    """A watch of its own, and what its ticks took."""

    def __init__(self, matcher: Matcher, tasks: TaskIterator | None = None) -> None:
        self.parts: dict[str, list[float]] = {}
        self.cpu_ms: list[float] = []
        self._watch = Watch(
            CgroupTree(Path("/sys"), Path("/proc")),
            ProcessReader(Path("/proc")),
            matcher,
            Examination(),
            Judge(),
            tasks=tasks,
        )
        for _ in range(4):  # the first ticks read everything, and see what is idle
            self._tick()
            time.sleep(0.5)
        self.parts.clear()

    def measure(self) -> None:
        self.cpu_ms.append(cpu_ms(self._tick))

    def part_ms(self, part: str) -> float:
        return statistics.median(self.parts[part])

    def close(self) -> None:
        self._watch.close()

    def _tick(self) -> None:
        brought = self._watch.tick(time.clock_gettime(time.CLOCK_BOOTTIME))
        for part, spent_s in brought.probe_s.items():
            self.parts.setdefault(part, []).append(spent_s * 1000)


def _measured(matcher: Matcher, floor: Callable[[], int], cgroups: int, ticks: int) -> Row:
    plain = _Ticks(matcher)
    with_tasks = _with_tasks(matcher)

    def scan() -> None:
        for _ in psutil.process_iter(ATTRIBUTES):
            pass

    costs: dict[str, list[float]] = {"psutil": [], "floor": []}
    for number in range(ticks):
        time.sleep(0.2)  # sides take turns, so that a busy neighbour hits all of them
        plain.measure()
        costs["floor"].append(cpu_ms(floor))
        if with_tasks is not None:
            with_tasks.measure()
        if number % 4 == 0:
            costs["psutil"].append(cpu_ms(scan))
    row = Row(
        processes=floor(),
        cgroups=cgroups,
        tick_ms=statistics.median(plain.cpu_ms),
        tick_with_tasks_ms=statistics.median(with_tasks.cpu_ms) if with_tasks else None,
        tasks_ms=with_tasks.part_ms("tasks") if with_tasks else None,
        parts_ms={part: plain.part_ms(part) for part in plain.parts},
        psutil_ms=statistics.median(costs["psutil"]),
        floor_ms=statistics.median(costs["floor"]),
    )
    plain.close()
    if with_tasks is not None:
        with_tasks.close()
    return row


def _with_tasks(matcher: Matcher) -> _Ticks | None:
    try:
        return _Ticks(matcher, TaskIterator())
    except TasksUnavailableError as error:
        print(f"without the task iterator: {error}")
        return None


def cpu_ms(work: Callable[[], object]) -> float:
    """CPU milliseconds that ``work`` takes of this process."""
    started_ns = time.process_time_ns()
    work()
    return (time.process_time_ns() - started_ns) / 1e6


def _print(row: Row) -> None:
    parts = row.parts_ms
    print(
        f"{row.processes:9} {row.cgroups:7} {row.tick_ms:6.2f}"
        f"  ({parts['cgroups']:7.2f} {parts['processes']:9.2f} {parts['rules']:5.2f})"
        f"  {row.tick_with_tasks_ms or 0:10.2f} {row.tasks_ms or 0:7.2f}"
        f" {row.psutil_ms:8.1f} {row.floor_ms:8.2f}"
        f" {row.psutil_ms / row.tick_ms:13.0f} {row.floor_ms / row.tick_ms:11.1f}"
        f" {row.psutil_ms / (row.tick_with_tasks_ms or row.tick_ms):18.0f}"
    )


@contextmanager
def _sleeping(program: Path, processes: int, cgroups: int) -> Iterator[None]:
    """That many sleeping processes, spread over that many cgroups named like containers."""
    root = writable_root()
    pod = root / "kubepods" / "burstable" / "pod0f3c1a52-7d1e-4b6c-9a55-3b8a2f0d9c11"
    folders = [pod / f"{number:064x}" for number in range(cgroups)]
    for folder in folders:
        folder.mkdir(parents=True)
    places = "".join(f"{folders[number % cgroups]}/cgroup.procs\n" for number in range(processes))
    child = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin
    assert child.stdout
    try:
        child.stdin.write(places)
        child.stdin.close()
        child.stdout.readline()
        time.sleep(1)
        yield
    finally:
        for folder in folders:
            for pid in (folder / "cgroup.procs").read_text().split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        child.kill()
        child.wait()
        child.stdout.close()
        _remove([*folders, pod, pod.parent, pod.parent.parent])


def writable_root() -> Path:
    """The hierarchy in which cgroups are made and seen."""
    mounts = Path("/sys/fs/cgroup")
    if (mounts / "cgroup.controllers").exists():
        return mounts
    return next(m for m in (mounts / "cpuacct", mounts / "cpu,cpuacct") if m.exists())


def _remove(folders: list[Path]) -> None:
    for folder in folders:
        for _ in range(200):
            try:
                folder.rmdir()
            except OSError:
                time.sleep(0.05)
            else:
                break


def _compiled_floor(folder: Path) -> Callable[[], int]:
    library = ctypes.CDLL(str(_compiled(folder, "floor.so", _FLOOR, ("-shared", "-fPIC"))))
    scan: Callable[[], int] = library.floor_scan
    return scan


def _compiled(folder: Path, name: str, source: str, options: tuple[str, ...]) -> Path:
    compiler = shutil.which("cc") or sys.exit("this benchmark needs a C compiler")
    (folder / f"{name}.c").write_text(source)
    command = [compiler, "-O2", "-w", *options, "-o", str(folder / name), str(folder / f"{name}.c")]
    subprocess.run(command, check=True)
    return folder / name


def machine() -> str:
    """What this runs on, in one line."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return (
        f"{model}, {os.cpu_count()} cores, Linux {platform.release()},"
        f" Python {platform.python_version()}"
    )


if __name__ == "__main__":
    main()
