"""What the probes cost, what their targets notice, and how soon a miner is told after its exec.

    python -m benchmarks.probes [--execs 200] [--storm 20000]

Needs root. Prints one table a question:

- cost: CPU of one look by each source, in one run;
- pause: for how long a busy loop stands still while its control word is sampled;
- latency: from the exec of a program called like a miner, in a container of its own, to the log
  line of the real agent's verdict;
- events: CPU of one exec event in a storm of them, and what was lost.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path

from benchmarks.orphan import Orphan, identity
from benchmarks.scan import cpu_ms, machine, writable_root
from minerwatch.config import BUILT_IN_RULES
from minerwatch.detection import rulebook
from minerwatch.model import ProcessId
from minerwatch.node import ptrace
from minerwatch.node.content import ContentReader
from minerwatch.node.execs import ExecEvents
from minerwatch.node.mappings import MappingReader
from minerwatch.node.ptrace import PtraceSampler, PtraceUnavailableError
from minerwatch.node.quota import OwnQuota
from minerwatch.node.sockets import SocketReader
from minerwatch.node.tasks import TaskIterator, TasksUnavailableError
from minerwatch.probes import FpSource

_SOCKETS = 2000
_REPEATS = 20
_PAUSE_S = 20


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--execs", type=int, default=200)
    parser.add_argument("--storm", type=int, default=20_000)
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("this benchmark makes cgroups and reads others' processes: run it as root")
    print(f"{machine()}\n")
    _print_costs()
    _print_pause()
    _print_latency(arguments.execs)
    _print_storm(arguments.storm)


# Cost.


def _print_costs() -> None:
    print("cost of one look, CPU ms, median")
    with ExitStack() as stack:
        target = stack.enter_context(_busy())
        _print_tasks(target)
        _print_ptrace()
        stack.enter_context(_connections(_SOCKETS))
        sockets = SocketReader("/proc")
        me = identity(os.getpid())
        spent = _median(lambda: sockets.connections([me.pid], time.monotonic()))
        print(f"  connections   {spent:8.2f}   of a process with {_SOCKETS:,} in its namespace")
        mappings = MappingReader("/proc")
        stack.callback(mappings.close)
        spent = _median(lambda: _answer(lambda: mappings.ask(me), mappings.answers))
        print(f"  mappings      {spent:8.2f}   of this process")
    content = ContentReader("/proc", rulebook.load((BUILT_IN_RULES,)).content)
    with _busy() as target:
        started_s = time.monotonic()
        before_s = os.times().children_user + os.times().children_system
        _answer(lambda: content.ask(target), content.answers)
        wall_ms = (time.monotonic() - started_s) * 1000
        content.close()
        after_s = os.times().children_user + os.times().children_system
        cpu = (after_s - before_s) * 1000
        print(
            f"  content       {cpu:8.2f}   of a Python process, first scan; {wall_ms:.0f} ms in all"
        )
    print()


def _print_tasks(target: ProcessId) -> None:
    try:
        tasks = TaskIterator()
    except TasksUnavailableError as error:
        print(f"  tasks         not here: {error}")
        return
    count = len(tasks.samples())
    for name, work in (
        ("tasks", tasks.table),
        ("rounding", lambda: tasks.fp_samples([target])),
    ):
        spent = _median(work)
        print(f"  {name:13} {spent:8.2f}   {count} tasks: {spent * 1000 / count:.2f} us a task")
    tasks.close()


def _print_ptrace() -> None:
    """The agent's part, and the child's, of one question a second about one busy process."""
    ptrace._ASK_EVERY_S = 0.0  # noqa: SLF001
    try:
        sampler = PtraceSampler(OwnQuota().reason)
    except PtraceUnavailableError as error:
        print(f"  ptrace        not here: {error}")
        return
    with Orphan([sys.executable, "-c", "while True: pass"]) as target:
        process, samples, began_s = target.process, 0, time.process_time()
        while samples < 100:
            samples += len(sampler.fp_samples([process]))
            time.sleep(0.01)
        own_ms = (time.process_time() - began_s) * 10
    before_s = os.times().children_user + os.times().children_system
    sampler.close()
    child_ms = (os.times().children_user + os.times().children_system - before_s) * 10
    print(f"  ptrace        {own_ms:8.2f}   a sample, and {child_ms:.2f} in the child")


def _answer(ask: Callable[[], None], answers: Callable[[], object]) -> None:
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


def _print_pause() -> None:
    """What a busy loop neither ran nor waited for a CPU: it stood still for somebody's sake."""
    print(f"pause: how long a busy loop stood still in {_PAUSE_S} s, sampled ten times a second")
    for load in (0, 2 * (os.cpu_count() or 1)):
        if load:
            print(f"  with {load} other busy loops")
        _print_still("without", None, load)
        with suppress(TasksUnavailableError):
            tasks = TaskIterator()
            _print_still("by the task iterator", tasks, load)
            tasks.close()
        try:
            sampler = PtraceSampler(OwnQuota().reason)
        except PtraceUnavailableError as error:
            print(f"  ptrace is not here: {error}")
            continue
        ptrace._ASK_EVERY_S = 0.1  # noqa: SLF001 - ten times as often as the agent
        _print_still("by ptrace", sampler, load)
        sampler.close()
    print()


def _print_still(name: str, source: FpSource | None, load: int = 0) -> None:
    samples = 0
    with ExitStack() as stack:
        for _ in range(load):
            stack.enter_context(_busy())
        output = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "output"
        script = _LOOP.format(seconds=_PAUSE_S)
        target = stack.enter_context(Orphan([sys.executable, "-c", script], output))
        process = target.process
        while target.is_running:
            if source is not None:
                samples += len(source.fp_samples([process]))
            time.sleep(0.1)
        took_ns, ran_ns, waited_ns = map(int, target.said.split())
    still_ms = max(0, took_ns - ran_ns - waited_ns) / 1e6
    each = f"{still_ms * 1000 / samples:6.0f} us a sample" if samples else ""
    print(f"  {name:22} {samples:5} samples {still_ms:8.2f} ms  {each}")


# Latency.

_EXEC = """
import os, sys, time
open(sys.argv[1] + "/cgroup.procs", "w").write("0")
os.write(1, repr(time.time()).encode())
os.execv(sys.argv[2], ["xmrig", "-o", "stratum+tcp://pool.example:3333", "-u", "x"])
"""


def _print_latency(execs: int) -> None:
    with tempfile.TemporaryDirectory() as folder, _agent(Path(folder)) as lines:
        found = [_latency_ms(lines, Path(folder), number) for number in range(execs)]
    known = sorted(each for each in found if each is not None)
    print(f"from exec to the agent's verdict, {len(known)} of {execs} within 2 s, ms")
    if known:
        p99 = known[min(len(known) - 1, round(0.99 * len(known)))]
        print(f"  median {statistics.median(known):.2f}   p99 {p99:.2f}   longest {known[-1]:.2f}")
    print()


def _latency_ms(lines: Lines, folder: Path, number: int) -> float | None:
    name = f"{number + 1:012x}" + "0" * 52
    cgroup = writable_root() / "minerwatch-bench" / "docker" / name
    cgroup.mkdir(parents=True)
    program = folder / "xmrig"
    if not program.exists():
        program.write_bytes(Path("/bin/sleep").read_bytes())
        program.chmod(0o755)
    child = subprocess.Popen(
        [sys.executable, "-S", "-c", _EXEC, str(cgroup), str(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert child.stdout
    exec_unix_s = float(child.stdout.read())
    verdict_unix_s = lines.time_of(name[:12], until_s=time.monotonic() + 2)
    child.kill()
    child.wait()
    child.stdout.close()
    time.sleep(0.05)
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

    def wait_for(self, event: str, until_s: float) -> None:
        """Until ``event`` has been logged."""
        while (line := self._line(until_s)) is not None:
            if json.loads(line).get("event") == event:
                return

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
    (writable_root() / "minerwatch-bench" / "docker").mkdir(parents=True, exist_ok=True)
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
        parent = writable_root() / "minerwatch-bench"
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


def _print_storm(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "storm"
        program.with_suffix(".c").write_text(_STORM)
        subprocess.run(["cc", "-O2", "-w", "-o", program, f"{program}.c"], check=True)
        execs = ExecEvents()
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
    print(f"a storm of {count:,} execs, {count / took_s:,.0f} a second")
    print(f"  received {received:,}, lost {lost}, {spent_ms * 1000 / received:.1f} us CPU an event")


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
