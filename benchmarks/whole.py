"""The whole agent on a full node: how soon it tells, what an hour costs it, how fast it answers.

    python -m benchmarks.whole [--cgroups 250] [--processes 5000] [--ticks 360] [--untuned]

Two agents watch the same real containers (root), one of them follows a cluster of 10,000 pods on a
server of the tests' own. First each is started as its users start it, with a miner's name among
the processes. Then an hour goes by on a simulated clock: the agent's own loop runs, only that it
does not wait; where it would, the clock is put on. Before each tick a hundredth of the processes
and one container are replaced, and pods with them, every tenth of them by one with a miner's name,
while the miner before ends; now and then somebody asks for metrics and the snapshot. Five minutes
follow without any change. With ``--untuned`` there is a third agent, which leaves heap and garbage
collector as they are.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.crowd import CONTAINERS_A_POD, Crowd
from benchmarks.pods import NODE, kubeconfig, pod
from benchmarks.probes import Lines
from benchmarks.table import Budget, Row, missing, needs_root, parser, show
from minerwatch.api.client import answer
from tests.agent.test_tick import POOL
from tests.kube.api_server import ApiServer

START, HOUR, ANSWERS = "Start to first verdict", "An hour of churn", "Answers"
_MINER = " ".join(POOL)
_TICK_S = 10.0
_REPLACED_SHARE = 0.01
_FLAGGED = 5
_MINER_EVERY = 10  # ticks; the one before ends, so that as many are flagged at the end as before
_IDLE_TICKS = 30
_WARM_TICKS = 60
_CLUSTER_PODS = 10_000
_SIDES = ("without Kubernetes", "with Kubernetes")
_UNTUNED = "without Kubernetes, untuned"
_RESIDENT_MIB = {"without Kubernetes": Budget(56), "with Kubernetes": Budget(80)}
_NO_GROWTH = Budget(1.0)  # MiB an hour: below it is the allocator's own noise
_CORE_SHARE = Budget(0.5)  # % of a core
_ANSWERS = 30


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--cgroups", type=int, default=250)
    options.add_argument("--processes", type=int, default=5000)
    options.add_argument("--ticks", type=int, default=360)
    options.add_argument("--untuned", action="store_true")
    chosen = options.parse_args()
    sides = (*_SIDES, _UNTUNED) if chosen.untuned else _SIDES
    show(
        HOUR,
        lambda: rows(chosen.cgroups, chosen.processes, chosen.ticks, sides),
        is_json=chosen.json,
    )


def rows(cgroups: int, processes: int, ticks: int, sides: Sequence[str] = _SIDES) -> Iterator[Row]:
    """Start-up, the hour, answers."""
    needs_root()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(ApiServer())
        crowd = stack.enter_context(Crowd(folder, cgroups))
        crowd.grow(processes)
        for number in range(_FLAGGED):
            crowd.start_in(crowd.folders[number * cgroups // _FLAGGED], _MINER)
        pods = cgroups // CONTAINERS_A_POD
        for number in range(_CLUSTER_PODS):
            server.put(pod(number, NODE if number < pods else f"n{number % 40 + 2}"))
        settings = _configurations(folder, server)
        for side in _SIDES:
            yield from _start_rows(side, settings[side])
        agents = [stack.enter_context(_Simulated(side, settings[side])) for side in sides]
        yield from _hour(crowd, server, agents, ticks)
        for agent in agents:
            yield from _answer_rows(agent)


def _configurations(folder: Path, server: ApiServer) -> dict[str, Path]:
    kube = folder / "kubeconfig"
    kube.write_text(kubeconfig(server.url))
    found = {}
    for side, cluster in zip(
        (*_SIDES, _UNTUNED),
        (
            "kubernetes: {enabled: false}\n",
            f"node: {{name: {NODE}}}\nkubernetes: {{enabled: true, kubeconfig: {kube}}}\n",
            "kubernetes: {enabled: false}\n",
        ),
        strict=True,
    ):
        found[side] = folder / f"{side.replace(' ', '-')}.yaml"
        socket = f"socket: {folder}/{side.replace(' ', '-')}.sock\n"
        found[side].write_text(f"listen: 127.0.0.1:0\n{socket}{cluster}")
    return found


# Start.


def _start_rows(side: str, settings: Path) -> Iterator[Row]:
    taken = [took for _ in range(2) if (took := _start_s(settings)) is not None]
    if taken:
        yield Row(START, side, "start to first verdict", min(taken), "s", note="the faster of two")
    else:
        yield missing(START, f"{side}: start to first verdict", "none within 30 s")


def _start_s(settings: Path) -> float | None:
    command = [sys.executable, "-m", "minerwatch", "agent", "--config", str(settings)]
    began_s = time.monotonic()
    with subprocess.Popen([*command, "--log-format", "json"], stderr=subprocess.PIPE) as process:
        is_told = Lines(process).wait_for("verdict", began_s + 30)
        took_s = time.monotonic() - began_s
        process.kill()
    return took_s if is_told else None


# The hour.


class _Simulated:
    """An agent in a process of its own, tick by tick."""

    def __init__(self, side: str, settings: Path) -> None:
        self.side = side
        self.socket = settings.with_suffix(".sock")
        self.resident_mib: list[float] = []
        self.cpu_ms: list[float] = []
        self.collected_ms: list[float] = []
        self.collected_at_once_ms: list[float] = []
        self._spent_ms = 0.0
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "benchmarks.simulated", str(settings)),
                *(("--untuned",) if side == _UNTUNED else ()),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.wait()

    def __enter__(self) -> _Simulated:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def go_on(self) -> None:
        assert self._process.stdin
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def wait(self) -> None:
        """Until a tick is over; then it is weighed."""
        assert self._process.stdout
        collected = self._process.stdout.readline().split()
        if not collected:
            raise RuntimeError(f"the agent {self.side} has ended")
        collected_ms, at_once_ms = map(float, collected)
        self.collected_ms.append(collected_ms)
        self.collected_at_once_ms.append(at_once_ms)
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        self.resident_mib.append(int(line.split()[1]) / 1024)
        spent_ms = self._threads_ms()
        self.cpu_ms.append(spent_ms - self._spent_ms)
        self._spent_ms = spent_ms

    def _threads_ms(self) -> float:
        spent_ms = 0.0
        for each in Path(f"/proc/{self._process.pid}/task").iterdir():
            with suppress(OSError):
                spent_ms += int((each / "schedstat").read_text().split()[0]) / 1e6
        return spent_ms


@dataclass(frozen=True, slots=True)
class _Hour:
    """What an agent was found to take, tick by tick."""

    resident_mib: Sequence[float]
    cpu_ms: Sequence[float]
    collected_ms: Sequence[float]
    collected_at_once_ms: Sequence[float]

    @classmethod
    def last(cls, agent: _Simulated, ticks: int) -> _Hour:
        return cls(
            agent.resident_mib[-ticks:],
            agent.cpu_ms[-ticks:],
            agent.collected_ms[-ticks:],
            agent.collected_at_once_ms[-ticks:],
        )


def _hour(
    crowd: Crowd, server: ApiServer, agents: Sequence[_Simulated], ticks: int
) -> Iterator[Row]:
    for number in range(ticks):
        _change(crowd, server, number)
        if number % 6 == 5:
            for agent in agents:
                answer(agent.socket, "/metrics")
                answer(agent.socket, "/snapshot")
        _tick(agents)
    hours = [(agent, _Hour.last(agent, ticks)) for agent in agents]
    for _ in range(_IDLE_TICKS):
        _tick(agents)
    for agent, hour in hours:
        idle_ms = statistics.median(agent.cpu_ms[-_IDLE_TICKS // 2 :])
        yield from _hour_rows(agent.side, hour, idle_ms)


def _tick(agents: Sequence[_Simulated]) -> None:
    for agent in agents:
        agent.go_on()
    for agent in agents:
        agent.wait()


def _change(crowd: Crowd, server: ApiServer, number: int) -> None:
    """What happens on the node, and in the cluster, between two ticks."""
    crowd.replace(int(len(crowd) * _REPLACED_SHARE))
    place = number % len(crowd.folders)
    after = crowd.replace_container(place)
    if number % _MINER_EVERY == 0:
        crowd.start_in(crowd.folders[place], _MINER, in_place_of_last=number > 0)
    if place % CONTAINERS_A_POD == CONTAINERS_A_POD - 1:
        server.put(pod(after // CONTAINERS_A_POD, NODE))
        before = (after - len(crowd.folders)) // CONTAINERS_A_POD
        server.remove("hub", f"jupyter-user-{before:05}")


def _hour_rows(side: str, hour: _Hour, idle_ms: float) -> Iterator[Row]:
    yield Row(
        HOUR, side, "resident at its end", hour.resident_mib[-1], "MiB", _RESIDENT_MIB.get(side)
    )
    yield Row(HOUR, side, "at most", max(hour.resident_mib), "MiB")
    warm = hour.resident_mib[min(_WARM_TICKS, len(hour.resident_mib) // 2) :]
    slope = growth(warm) * 3600 / _TICK_S
    yield Row(HOUR, side, "growth after ten minutes", slope, "MiB/h", _NO_GROWTH)
    yield Row(HOUR, side, "CPU of a tick, churn", statistics.median(hour.cpu_ms), "ms")
    yield Row(HOUR, side, "CPU of a tick, idle", idle_ms, "ms")
    yield Row(HOUR, side, "of a core, idle", idle_ms / _TICK_S / 10, "%", _CORE_SHARE)
    churn_share = statistics.fmean(hour.cpu_ms) / _TICK_S / 10
    yield Row(HOUR, side, "of a core, churn", churn_share, "%", _CORE_SHARE)
    collected_ms = statistics.fmean(hour.collected_ms)
    yield Row(HOUR, side, "garbage collector, churn", collected_ms, "ms a tick")
    yield Row(HOUR, side, "garbage collector, longest", max(hour.collected_at_once_ms), "ms")


def growth(values: Sequence[float]) -> float:
    """By how much the values grow from one to the next: the slope of the line that fits best."""
    return float(np.polyfit(np.arange(len(values)), np.array(values), 1)[0])


# Answers.


def _answer_rows(agent: _Simulated) -> Iterator[Row]:
    for path in ("/metrics", "/snapshot", "/snapshot/full"):
        taken, size = _taken_ms(lambda path=path: answer(agent.socket, path))  # type: ignore[misc]
        yield Row(ANSWERS, f"{agent.side}, {path}", "median", statistics.median(taken), "ms")
        yield Row(ANSWERS, f"{agent.side}, {path}", "longest", max(taken), "ms")
        yield Row(ANSWERS, f"{agent.side}, {path}", "size", size / 1024, "KiB")


def _taken_ms(ask: Callable[[], bytes]) -> tuple[list[float], int]:
    taken, size = [], 0
    for _ in range(_ANSWERS):
        began_s = time.perf_counter()
        size = len(ask())
        taken.append((time.perf_counter() - began_s) * 1000)
    return taken, size


if __name__ == "__main__":
    main()
