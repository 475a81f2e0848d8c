"""Records what the agent would know of a program, as lines that ``minerwatch rules replay`` reads.

    python -m benchmarks.record --id zstd --label benign -- zstd -19 -c /dev/urandom >>corpus.jsonl

The program runs in a container of its own, under all probes that this machine permits, and is
killed at the end. Each of its processes that burnt CPU gives a line: its facts as they were
measured last, with those of all processes together, ``seconds`` being what ``--as`` says, as if it
had gone on like that. What differs from run to run (pids, the container's name) is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from benchmarks import traffic
from benchmarks.networks import networks
from minerwatch.agent.monitor import MonitoredNode, now_s, open_node
from minerwatch.config.schema import BUILT_IN_RULES, Config, Examination, Probes
from minerwatch.config.values import Duration
from minerwatch.detection.matching.matcher import Match, Matcher
from minerwatch.detection.sigma import rulebook
from minerwatch.model import Facts
from tests.conftest import CgroupFolders, cgroup_root

TICK_S = 3.0
LEFT_OUT = frozenset(("ProcessId", "ContainerName"))
MAX_LINES = 8
MIN_CPU_S = 0.2


class Recorder(Matcher):
    """A matcher that keeps the last facts of every process that it is shown."""

    seen: dict[int, Facts]
    together: dict[object, Facts]
    """Container's name -> facts on all its processes together, also those that have exited."""

    def dynamic_matches(self, facts: Facts) -> tuple[Match, ...]:
        """As ever; the facts are kept."""
        pid = facts.get("ProcessId")
        if isinstance(pid, int):
            self.seen[pid] = {**self.seen.get(pid, {}), **facts}
        return super().dynamic_matches(facts)

    def container_matches(self, facts: Facts) -> tuple[Match, ...]:
        """As ever; the facts are kept."""
        name = facts.get("ContainerName")
        self.together[name] = {**self.together.get(name, {}), **facts}
        return super().container_matches(facts)


def main() -> None:
    """Runs the command and prints its lines."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--id", required=True)
    parser.add_argument("--label", default="benign")
    parser.add_argument("--seconds", type=float, default=45.0, help="how long it runs")
    parser.add_argument("--as", dest="held_s", type=float, default=3600.0)
    parser.add_argument("--session", action="store_true")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    runs = _with_session if arguments.session else nullcontext
    with runs(arguments.command) as command:
        seen = record(command, arguments.seconds)
    for number, facts in enumerate(seen):
        name = arguments.id if len(seen) == 1 else f"{arguments.id}-{number}"
        line = {"id": name, "label": arguments.label, "seconds": arguments.held_s, "facts": facts}
        print(json.dumps(line, ensure_ascii=False))


def record(command: Sequence[str], seconds: float) -> list[dict[str, object]]:
    """The facts of the command's processes that burnt CPU, the busiest first."""
    book = rulebook.load((BUILT_IN_RULES,))
    recorder = Recorder(book.rules)
    recorder.seen, recorder.together = {}, {}
    examination = Examination(cpu_per_look=Duration(6.0))
    config = Config(examination=examination, probes=Probes(execs=False, budget=Duration(1.0)))
    node = open_node(config, book)
    node.watch.use(recorder)
    with _container() as (name, folders, folder), _running(command, folders, folder):
        _watch(node, seconds)
    node.watch.close()
    together = recorder.together.get(name, {})
    ours = [
        {**together, **facts}
        for facts in recorder.seen.values()
        if facts.get("ContainerName") == name
    ]
    ours.sort(key=lambda facts: -_cpu_s(facts))
    return [_kept(facts) for facts in ours if _cpu_s(facts) >= MIN_CPU_S][:MAX_LINES]


@contextmanager
def _with_session(command: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield the command as it inherits a connection to the outside of its network."""
    opens = f'exec 3<>/dev/tcp/{traffic.address(3)}/{traffic.ECHO} && exec "$@"'
    with networks() as found:
        yield ("ip", "netns", "exec", found.client, "bash", "-c", opens, "bash", *command)


def _watch(node: MonitoredNode, seconds: float) -> None:
    ends_s = time.monotonic() + seconds
    next_s = time.monotonic()
    while time.monotonic() < ends_s:
        if time.monotonic() >= next_s:
            node.watch.tick(now_s())
            next_s += TICK_S
        if node.watch.wants_samples:
            node.watch.sample(now_s())
        time.sleep(1.0)


@contextmanager
def _container() -> Iterator[tuple[str, CgroupFolders, Path]]:
    """A cgroup such as a pod's container has."""
    folders = CgroupFolders(cgroup_root())
    name = uuid.uuid4().hex * 2
    try:
        yield name, folders, folders.make(f"kubepods/besteffort/pod{uuid.uuid4()}/{name}")
    finally:
        folders.close()


@contextmanager
def _running(command: Sequence[str], folders: CgroupFolders, folder: Path) -> Iterator[None]:
    waits = ("sh", "-c", 'kill -STOP $$ && exec "$@"', "sh", *command)
    process = subprocess.Popen(waits, stdout=sys.stderr, start_new_session=True)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    folders.put(process, folder)  # before it has children, which would stay outside
    process.send_signal(signal.SIGCONT)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _cpu_s(facts: Facts) -> float:
    value = facts.get("CpuSeconds")
    return float(value) if isinstance(value, int | float) else 0.0


def _kept(facts: Facts) -> dict[str, object]:
    """Without what differs from run to run, and without the recorder as a parent."""
    is_child = "benchmarks.record" in str(facts.get("ParentCommandLine"))
    left_out = LEFT_OUT | {"ParentImage", "ParentCommandLine"} if is_child else LEFT_OUT
    return {
        name: round(value, 3) if isinstance(value, float) else value
        for name, value in facts.items()
        if name not in left_out
    }


if __name__ == "__main__":
    main()
