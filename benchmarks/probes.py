"""What the probes cost, what their targets notice, and how soon a miner is told after its exec.

    python -m benchmarks.probes [--execs 200] [--storm 20000] [--pause 20 --load 0 4]

Needs root. One table a question:

- cost: CPU of one look by each source, in one run;
- pause: for how long a busy loop stands still while its control word is sampled;
- latency: from the exec of a program called like a miner, in a container of its own, to the log
  line of the real agent's verdict;
- events: CPU of one exec event in a storm of them, and what was lost.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path

from benchmarks.crowd import TOP, compiled, own_container_id, writable_root
from benchmarks.orphan import Orphan, identity
from benchmarks.table import Budget, Row, cpu_ms, missing, needs_root, parser, show
from minerwatch.config.schema import BUILT_IN_RULES
from minerwatch.detection.sigma import rulebook
from minerwatch.errors import SourceUnavailableError
from minerwatch.model import ProcessId
from minerwatch.node.exec_events import ExecEvents
from minerwatch.node.memory_maps import MappingReader
from minerwatch.node.task_iterator import TaskIterator
from minerwatch.node.tcp_connections import SocketReader
from minerwatch.node.yara_scan import ContentReader
from minerwatch.probes.rounding import FpSource

_SOCKETS = 2000
_REPEATS = 20
COST, PAUSE = "Probes: CPU of one look", "Probes: pause of a busy loop"
EXECS = "Exec events"


def main() -> None:
    """Prints the tables."""
    options = parser(__doc__)
    options.add_argument("--execs", type=int, default=60)
    options.add_argument("--storm", type=int, default=5000)
    options.add_argument("--pause", type=float, default=4.0, help="seconds of each busy loop")
    options.add_argument("--load", type=int, nargs="*", default=[0], help="other busy loops")
    chosen = options.parse_args()

    def measured() -> Iterator[Row]:
        needs_root()
        yield from cost_rows()
        for load in chosen.load:
            yield from pause_rows(chosen.pause, load)
        yield from latency_rows(chosen.execs)
        yield from storm_rows(chosen.storm)

    show(COST, measured, is_json=chosen.json)


# Cost.


def cost_rows() -> Iterator[Row]:
    """CPU of one look by each source."""
    with ExitStack() as stack:
        target = stack.enter_context(_busy())
        yield from _task_rows(target)
        stack.enter_context(_connections(_SOCKETS))
        me = identity(os.getpid())
        spent = _median(lambda: SocketReader("/proc").connections([me.pid], time.monotonic()))
        note = f"of a process with {_SOCKETS:,} in its namespace"
        yield Row(COST, "", "connections", spent, "ms", note=note)
        mappings = MappingReader("/proc")
        stack.callback(mappings.close)
        spent = _median(lambda: _answer(lambda: mappings.ask(me), mappings.answers))
        yield Row(COST, "", "mappings", spent, "ms", note="of this process")
    content = ContentReader("/proc", rulebook.load((BUILT_IN_RULES,)).content)
    with _busy() as target:
        started_s, before_ms = time.monotonic(), _children_ms()
        _answer(lambda: content.ask(target), content.answers)
        wall_ms = (time.monotonic() - started_s) * 1000
        content.close()
    note = f"of a Python process, first scan, in the child; {wall_ms:.0f} ms in all"
    yield Row(COST, "", "content", _children_ms() - before_ms, "ms", note=note)


def _children_ms() -> float:
    times = os.times()
    return (times.children_user + times.children_system) * 1000


def _task_rows(target: ProcessId) -> Iterator[Row]:
    try:
        tasks = TaskIterator()
    except SourceUnavailableError as error:
        yield missing(COST, "tasks", str(error), Budget(2.0))
        return
    count = len(list(tasks.rows()))
    table_ms = _median(tasks.table)
    note = f"{count:,} tasks"
    yield Row(COST, "", "tasks", table_ms, "ms", note=note)
    yield Row(COST, "", "tasks, each", table_ms * 1000 / count, "µs", Budget(2.0), note)
    spent = _median(lambda: tasks.fp_samples([target]))
    yield Row(COST, "", "rounding", spent, "ms", note=note)
    tasks.close()


def _answer(ask: Callable[[], object], answers: Callable[[], object]) -> None:
    ask()
    while not answers():
        time.sleep(0.001)


def _median(work: Callable[[], object]) -> float:
    return statistics.median(cpu_ms(work) for _ in range(_REPEATS))


# Pause.

_LOOP = """
import time
def stat():
    return [int(number) for number in open("/proc/self/schedstat").read().split()[:2]]
began_ns, before = time.monotonic_ns(), stat()
while time.monotonic_ns() - began_ns < {seconds} * 10**9: pass
took_ns, after = time.monotonic_ns() - began_ns, stat()
print(took_ns, after[0] - before[0], after[1] - before[1])
"""


def pause_rows(seconds: float, load: int) -> Iterator[Row]:
    """What a busy loop neither ran nor waited for a CPU: it stood still for somebody's sake."""
    case = f"with {load} other busy loops, " if load else ""
    yield _still(f"{case}without", None, seconds, load)
    try:
        tasks = TaskIterator()
        yield _still(f"{case}by the task iterator", tasks, seconds, load)
        tasks.close()
    except SourceUnavailableError as error:
        yield missing(PAUSE, f"{case}by the task iterator", str(error))


def _still(name: str, source: FpSource | None, seconds: float, load: int) -> Row:
    samples = 0
    with ExitStack() as stack:
        for _ in range(load):
            stack.enter_context(_busy())
        output = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "output"
        script = _LOOP.format(seconds=seconds)
        target = stack.enter_context(Orphan([sys.executable, "-c", script], output))
        process = target.process
        while target.is_running:
            if source is not None:
                samples += len(source.fp_samples([process]))
            time.sleep(0.1)
        took_ns, ran_ns, waited_ns = map(int, target.said.split())
    still_ms = max(0, took_ns - ran_ns - waited_ns) / 1e6
    note = f"in {seconds:g} s"
    if samples:
        note += f", {samples} samples: {still_ms * 1000 / samples:.0f} µs each"
    return Row(PAUSE, "", name, still_ms, "ms", note=note)


# Latency.

_EXEC = """
import os, sys, time
open(sys.argv[1] + "/cgroup.procs", "w").write("0")
os.set_inheritable(1, False)  # so that whoever reads it sees its end at the exec
os.write(1, repr(time.time()).encode())
os.execv(sys.argv[2], ["xmrig", "-o", "stratum+tcp://pool.example:3333", "-u", "x"])
"""

_WAITS = """
#include <unistd.h>
int main(void) { for (;;) pause(); }
"""

_EXEC_PAUSE_S = 0.2
"""More verdicts a second use up what ``probes.execs_cpu_share`` grants, and wait for it."""


_CROWD = """
import subprocess, sys
while True:
    started = [subprocess.Popen(["sleep", "6"]) for _ in range(int(sys.argv[1]))]
    for each in started:
        each.wait()
"""

_CROWD_PROCESSES = 1500


def latency_rows(execs: int) -> Iterator[Row]:
    """From the exec of a program that is called like a miner to the agent's verdict.

    By itself, and beside programs of another container that start by the thousand.
    """
    with tempfile.TemporaryDirectory() as name, _agent(Path(name)) as lines:
        folder = Path(name)
        compiled(folder, "xmrig", _WAITS)  # a program that ends at once has no command line
        alone = [_latency_ms(lines, folder, number) for number in range(execs)]
        with _crowd():
            beside = [_latency_ms(lines, folder, execs + number) for number in range(execs // 3)]
    yield from _rows_of("", alone, Budget(5.0))
    yield from _rows_of(f"beside {_CROWD_PROCESSES} that start at once", beside, None)


def _rows_of(case: str, found: Sequence[float | None], budget: Budget | None) -> Iterator[Row]:
    known = sorted(each for each in found if each is not None)
    note = f"{len(known)} of {len(found)} within 2 s"
    if not known:
        yield missing(EXECS, f"{case} exec to verdict".strip(), note, budget)
        return
    p99 = known[min(len(known) - 1, round(0.99 * len(known)))]
    median = statistics.median(known)
    yield Row(EXECS, case, "exec to verdict, median", median, "ms", budget, note)
    yield Row(EXECS, case, "exec to verdict, p99", p99, "ms", note=note)


@contextmanager
def _crowd() -> Iterator[None]:
    """Programs that start by the thousand, again and again, in the cgroup of this process."""
    with subprocess.Popen(
        [sys.executable, "-c", _CROWD, str(_CROWD_PROCESSES)], start_new_session=True
    ) as crowd:
        time.sleep(1)
        try:
            yield
        finally:
            os.killpg(crowd.pid, signal.SIGKILL)


def _latency_ms(lines: Lines, folder: Path, number: int) -> float | None:
    name = own_container_id(number)
    cgroup = writable_root() / TOP / "docker" / name
    cgroup.mkdir(parents=True)
    child = subprocess.Popen(
        [sys.executable, "-S", "-c", _EXEC, str(cgroup), str(folder / "xmrig")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert child.stdout
    exec_unix_s = float(child.stdout.read())
    verdict_unix_s = lines.time_of(name[:12], until_s=time.monotonic() + 2)
    child.kill()
    child.wait()
    child.stdout.close()
    time.sleep(_EXEC_PAUSE_S)
    with suppress(OSError):
        cgroup.rmdir()
    return None if verdict_unix_s is None else (verdict_unix_s - exec_unix_s) * 1000


class Lines:
    """The agent's log, read as it is written."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr
        self._fd = process.stderr.fileno()
        self._rest = b""

    def time_of(self, container: str, until_s: float) -> float | None:
        """When the first verdict on ``container`` was logged."""
        while (line := self._line(until_s)) is not None:
            said = json.loads(line)
            if said.get("event") == "verdict" and said.get("container") == container:
                return datetime.fromisoformat(said["timestamp"]).timestamp()
        return None

    def wait_for(self, event: str, until_s: float) -> bool:
        """Until ``event`` has been logged; whether it has been."""
        while (line := self._line(until_s)) is not None:
            if json.loads(line).get("event") == event:
                return True
        return False

    def _line(self, until_s: float) -> bytes | None:
        while b"\n" not in self._rest:
            left_s = until_s - time.monotonic()
            if left_s <= 0 or not select.select([self._fd], [], [], left_s)[0]:
                return None
            self._rest += os.read(self._fd, 1 << 16)
        line, _, self._rest = self._rest.partition(b"\n")
        return line


@contextmanager
def _agent(folder: Path) -> Iterator[Lines]:
    # So that a hybrid host's agent reads the hierarchy that is written to.
    (writable_root() / TOP / "docker").mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "minerwatch", "agent", "--no-kubernetes"),
        *("--listen", "127.0.0.1:0", "--socket", str(folder / "agent.sock")),
    ]
    agent = subprocess.Popen(command, stderr=subprocess.PIPE)
    lines = Lines(agent)
    try:
        lines.wait_for("watching", time.monotonic() + 20)
        time.sleep(2)
        yield lines
    finally:
        agent.terminate()
        agent.wait()
        assert agent.stderr
        agent.stderr.close()
        parent = writable_root() / TOP
        for each in (*parent.glob("docker/*/"), parent / "docker", parent):
            with suppress(OSError):
                each.rmdir()


# Events.

_STORM = r"""
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>
extern char **environ;
int main(int count, char **arguments) {
  char *command[] = {"/bin/true", 0};
  for (int left = atoi(arguments[1]); left > 0; left--) {
    pid_t child;
    if (posix_spawn(&child, command[0], 0, 0, command, environ) == 0) waitpid(child, 0, 0);
  }
}
"""


def storm_rows(count: int) -> Iterator[Row]:
    """A storm of execs: how many came through, and what one costs."""
    with tempfile.TemporaryDirectory() as folder:
        program = compiled(Path(folder), "storm", _STORM)
        try:
            execs = ExecEvents()
        except SourceUnavailableError as error:
            yield missing(EXECS, "a storm", str(error))
            return
        started_s = time.monotonic()
        spent_ms = 0.0
        with subprocess.Popen([program, str(count)]) as storm:
            while storm.poll() is None:
                time.sleep(0.01)
                spent_ms += cpu_ms(execs.drain)
        took_s = time.monotonic() - started_s
        spent_ms += cpu_ms(execs.drain)
        received, lost = execs.received, execs.lost
        execs.close()
    note = f"{received:,} received of {count:,} and the machine's own"
    yield Row(EXECS, "a storm", "execs", count / took_s, "a second", note=note)
    yield Row(EXECS, "a storm", "lost", lost)
    yield Row(EXECS, "a storm", "CPU of an event", spent_ms * 1000 / received, "µs")


# Targets.


@contextmanager
def _busy() -> Iterator[ProcessId]:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        time.sleep(0.2)
        yield identity(process.pid)
        process.kill()


@contextmanager
def _connections(count: int) -> Iterator[None]:
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=count))
        for _ in range(count // 2):
            stack.enter_context(socket.create_connection(server.getsockname()))
            stack.enter_context(server.accept()[0])
        yield


if __name__ == "__main__":
    main()
