"""The agent on a full node: load 30 on all CPUs, the agent with the chart's requests (root).

    python -m benchmarks.starved [--requests 25] [--ticks 10] [--busy 30]

The CPU controller gives weight as on a full node: the requests of 30 busy pods and of the agent
add up to all of the node's CPUs, as the scheduler permits at most. Each pod has a loop in a cgroup
of its own. Shown are the agent's start, the time between ticks, the CPU time of a tick, and how
long ``minerwatch top --once`` takes as an exec into the agent's pod, within its share, and from a
shell on the node.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from minerwatch.api.client import answer
from minerwatch.errors import SnapshotError

_V1 = Path("/sys/fs/cgroup/cpu")
_V2 = Path("/sys/fs/cgroup")
_SHARES_PER_CORE = 1024
_LOOP = "while True: pass"
_EVERY_S = 0.25
_START_LIMIT_S = 300.0
_INTERVAL_S = 10.0


class Group:
    """A cgroup of the CPU controller with a weight of ``millicores`` as the kubelet sets it."""

    def __init__(self, name: str, millicores: int) -> None:
        is_v1 = (_V1 / "cpu.shares").is_file() or (_V1 / "cgroup.procs").is_file()
        self.folder = (_V1 if is_v1 else _V2) / name
        self.folder.mkdir(parents=True, exist_ok=True)
        shares = max(2, millicores * _SHARES_PER_CORE // 1000)
        if is_v1:
            (self.folder / "cpu.shares").write_text(str(shares))
        else:  # the kubelet's conversion
            (self.folder / "cpu.weight").write_text(str(1 + (shares - 2) * 9999 // 262142))

    def run(self, *argv: str, **options: object) -> subprocess.Popen[bytes]:
        """Start a program in it."""
        enter = f'echo $$ > "{self.folder}/cgroup.procs"; exec "$@"'
        return subprocess.Popen(["sh", "-c", enter, "sh", *argv], **options)  # type: ignore[call-overload, no-any-return]

    def remove(self) -> None:
        """Remove it, once it is empty."""
        with suppress(OSError):
            self.folder.rmdir()


@contextmanager
def full_node(busy: int, agent_millicores: int) -> Iterator[Group]:
    """Run ``busy`` pods whose requests leave exactly the agent's; yield the agent's cgroup."""
    top = Group("benchmark-starved", 1000 * (os.cpu_count() or 1))
    each = (1000 * (os.cpu_count() or 1) - agent_millicores) // busy
    if (top.folder / "cgroup.subtree_control").is_file():
        (top.folder / "cgroup.subtree_control").write_text("+cpu")
    pods = [Group(f"benchmark-starved/pod{number}", each) for number in range(busy)]
    agent = Group("benchmark-starved/agent", agent_millicores)
    loops = [pod.run(sys.executable, "-c", _LOOP) for pod in pods]
    try:
        yield agent
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
        for group in (*pods, agent, top):
            group.remove()


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--requests", type=int, default=25, help="millicores of the agent")
    options.add_argument("--ticks", type=int, default=10)
    options.add_argument("--busy", type=int, default=30)
    chosen = options.parse_args()
    with TemporaryDirectory() as folder, full_node(chosen.busy, chosen.requests) as group:
        measure(Path(folder), group, chosen.ticks)


def measure(folder: Path, group: Group, ticks: int) -> None:
    """Start an agent in ``group``, and print what is seen of it."""
    socket = folder / "agent.sock"
    with (folder / "log").open("wb") as log:
        agent = group.run(
            sys.executable, "-m", "minerwatch", "agent", "--no-kubernetes", "--socket", str(socket),
            "--listen", "127.0.0.1:0", "--interval", f"{_INTERVAL_S:g}s", stderr=log,
        )  # fmt: skip
        try:
            began_s = time.monotonic()
            times_s, cpu_s = _tick_times(socket, agent.pid, ticks)
            gaps_s = [after - before for before, after in pairwise(times_s)]
            print(f"first tick after {times_s[0] - began_s:.1f} s")
            print(
                f"{len(gaps_s)} ticks, between two {sum(gaps_s) / len(gaps_s):.1f} s in the mean,"
            )
            print(f"  {max(gaps_s):.1f} s at most; {cpu_s / len(gaps_s) * 1000:.0f} ms of CPU each")
            command = (sys.executable, "-m", "minerwatch")
            print(
                f"snapshot by exec:     {_timed(group, *command, 'snapshot', '--socket', socket)}"
            )
            top = (*command, "top", "--once", "--socket", socket)
            print(f"top --once by exec:   {_timed(group, *top)}")
            print(f"top --once by a shell: {_timed(None, *top)}")
        finally:
            agent.send_signal(signal.SIGTERM)
            agent.wait()


def _tick_times(socket: Path, pid: int, ticks: int) -> tuple[list[float], float]:
    """Return when ticks ended, and the CPU time from the first to the last, in seconds."""
    times_s: list[float] = []
    count, first_cpu_s = 0.0, 0.0
    deadline_s = time.monotonic() + _START_LIMIT_S
    while len(times_s) <= ticks and time.monotonic() < deadline_s:
        time.sleep(_EVERY_S)
        with suppress(SnapshotError):
            now = _tick_count(answer(socket, "/metrics").decode())
            if now > count:
                count = now
                times_s.append(time.monotonic())
                first_cpu_s = first_cpu_s or _cpu_s(pid)
                deadline_s = time.monotonic() + _START_LIMIT_S
    return times_s, _cpu_s(pid) - first_cpu_s


def _tick_count(exposition: str) -> float:
    lines = (line.rpartition(" ") for line in exposition.splitlines())
    return next(
        (
            float(value)
            for name, _, value in lines
            if name == "minerwatch_tick_duration_seconds_count"
        ),
        0.0,
    )


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _timed(group: Group | None, *argv: object) -> str:
    words = [str(each) for each in argv]
    began_s = time.monotonic()
    devnull = subprocess.DEVNULL
    if group is None:
        done = subprocess.Popen(words, stdout=devnull, stderr=subprocess.PIPE)
    else:
        done = group.run(*words, stdout=devnull, stderr=subprocess.PIPE)
    _, errors = done.communicate()
    last = errors.decode().strip().splitlines()[-1:] if done.returncode else []
    return f"{time.monotonic() - began_s:.1f} s, exit status {done.returncode} {''.join(last)}"


if __name__ == "__main__":
    main()
