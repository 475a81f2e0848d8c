"""Real RandomX under the name of a training, beside the real agent: nothing but what it does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.test_daemon import RunningAgent
from tests.conftest import TOP, CgroupFolders, Programs, container_id, environment_of_this_python
from tests.waiting import PATIENCE_S, cpu_s, until

TARGET = Path(__file__).parent / "targets" / "randomx_hashing.py"
EVADING = Path(__file__).parent / "targets" / "randomx_evading.py"
EXECUTED = ("Executes RandomX", "Runs the code of RandomX")
"""Rules on executed code only; which of them is first depends on which code is read first."""
WAYS = (
    pytest.param("0d", ["1"], id="1 thread"),
    pytest.param("1d", ["2"], id="2 threads", marks=pytest.mark.nightly),
    pytest.param("2d", ["1", "nojit"], id="1 thread, no JIT", marks=pytest.mark.nightly),
)
"""A container and the target's options. Others, and how long it takes: ``benchmarks.miners``."""
LIKELY_CPU_S = 60.0
LIMIT_CPU_S = 120.0
"""Of each miner, however little of a CPU it gets."""

pytest.importorskip("cyrx", reason="needs a RandomX binding: pip install cyrx")


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAgent]:
    """Content is scanned only where something was found already, so that it is not the first."""
    folder = tmp_path_factory.mktemp("agent")
    config = folder / "minerwatch.yml"
    config.write_text("examination: {cpu_per_look: 1h}\n")
    running = RunningAgent(folder, "--interval", "2s", "--config", str(config))
    running.line("watching")
    yield running
    running.close()


def verdicts(agent: RunningAgent, container: str) -> list[dict[str, object]]:
    return [
        line
        for line in agent.lines()
        if line["event"] == "verdict" and line["container"] == container
    ]


@pytest.mark.quiet  # content is scanned at the lowest priority
@pytest.mark.parametrize(("first", "options"), WAYS)
def test_it_is_likely_by_how_it_rounds_and_confirmed_with_content(
    agent: RunningAgent,
    cgroups: CgroupFolders,
    programs: Programs,
    tmp_path: Path,
    first: str,
    options: list[str],
) -> None:
    if not is_on(agent, "rounding"):
        pytest.skip("how threads round cannot be told here: run it as root on a kernel with BTF")
    shutil.copy(TARGET, tmp_path / "train.py")
    container = container_id(first)
    folder = cgroups.make(f"{TOP}/docker/{container}")
    miner = programs.run(
        ["python3", "train.py", options[0], "3600", *options[1:]],
        executable=sys.executable,
        cwd=tmp_path,
        env=environment_of_this_python(),
    )
    cgroups.put(miner, folder)
    levels = wait_until_confirmed(agent, container[:12], miner.pid)
    assert levels, agent.log_path.read_text()[-3000:]
    if "likely" in levels:  # else both kinds of evidence came at one tick
        signals = levels["likely"]["signals"]
        assert isinstance(signals, dict)
        assert signals.keys() == {"compute"}
    signals = levels["confirmed"]["signals"]
    assert isinstance(signals, dict)
    assert signals.keys() >= {"compute", "content"}
    assert signals.keys() <= {"compute", "content", "behaviour"}


SHAPES = (
    pytest.param("0e", "workers"),
    pytest.param("1e", "bursts", marks=pytest.mark.nightly),
    pytest.param("2e", "reset", marks=pytest.mark.slow),
)


@pytest.fixture(scope="module")
def sampling_agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAgent]:
    """One for all containers, without the other probes that can tell RandomX."""
    folder = tmp_path_factory.mktemp("sampling")
    config = folder / "minerwatch.yml"
    config.write_text("probes: {rounding: false, content: false}\n")
    running = RunningAgent(folder, "--interval", "2s", "--config", str(config))
    running.line("watching")
    yield running
    running.close()


@pytest.mark.parametrize(("first", "shape"), SHAPES)
def test_no_shape_hides_what_it_executes(
    first: str, shape: str, sampling_agent: RunningAgent, cgroups: CgroupFolders, programs: Programs
) -> None:
    """Short-lived workers, bursts of five processes, the control word reset before each sleep."""
    if not is_on(sampling_agent, "executed_code"):
        pytest.skip("what is executed cannot be sampled here: run it as root")
    container = container_id(first)
    folder = cgroups.make(f"{TOP}/docker/{container}")
    miner = programs.run(
        ["python3", str(EVADING), shape, "3600"],
        executable=sys.executable,
        env=environment_of_this_python(),
    )
    cgroups.put(miner, folder)
    found = until(
        lambda: [
            verdict
            for verdict in verdicts(sampling_agent, container[:12])
            if verdict["level"] in {"likely", "confirmed"}
        ],
        lambda: sampling_agent.log_path.read_text()[-3000:],
        every_s=0.5,
        limit_s=4 * PATIENCE_S,
    )
    assert any(title in str(found[0]["findings"]) for title in EXECUTED)


CPU = Path("/sys/fs/cgroup/cpu")
"""The CPU controller of cgroups v1, in a hierarchy other than the agent's."""


@pytest.fixture
def full_node() -> Iterator[None]:
    """As many loops as leave 0.13 core to each thread, less what runs here anyway."""
    wanted = (os.cpu_count() or 1) / 0.13 - os.getloadavg()[0]
    loops = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(max(0, int(wanted)))
    ]
    yield
    for loop in loops:
        loop.kill()
        loop.wait()


@pytest.mark.nightly
@pytest.mark.skipif(not (CPU / "cpu.shares").exists(), reason="run it with cgroups v1 and cpu")
@pytest.mark.parametrize("processes", [1, 5])
def test_a_tenth_of_a_core_on_a_full_node_is_likely_within_a_minute_of_cpu_time(
    processes: int,
    sampling_agent: RunningAgent,
    cgroups: CgroupFolders,
    programs: Programs,
    full_node: None,
) -> None:
    """One process under a limit of 100m, or five, each under a limit of its own."""
    if not is_on(sampling_agent, "executed_code"):
        pytest.skip("what is executed cannot be sampled here: run it as root")
    container = container_id(f"{processes}f")
    folder = cgroups.make(f"{TOP}/docker/{container}")
    limits = CgroupFolders(CPU)
    miners = []
    try:
        for number in range(processes):
            limit = limits.make(f"{TOP}/limits/{container}-{number}")
            (limit / "cpu.cfs_quota_us").write_text("10000")  # of 100 ms
            miner = programs.run(
                ["python3", str(EVADING), "plain", "36000"],
                executable=sys.executable,
                env=environment_of_this_python(),
            )
            cgroups.put(miner, folder)
            limits.put(miner, limit)
            miners.append(miner.pid)
        spent_s = 0.0
        while spent_s < LIKELY_CPU_S:
            spent_s = sum(map(cpu_s, miners))
            found = [
                verdict
                for verdict in verdicts(sampling_agent, container[:12])
                if verdict["level"] in {"likely", "confirmed"}
            ]
            if found:
                break
            time.sleep(0.5)
        assert found, sampling_agent.log_path.read_text()[-3000:]
        assert any(title in str(found[0]["findings"]) for title in EXECUTED)
        print(f"{processes} processes: likely after {spent_s:.1f} s of CPU time")
    finally:
        limits.close()


def is_on(agent: RunningAgent, probe: str) -> bool:
    agent.until(lambda: any(line.get("probe") == probe for line in agent.lines()))
    return any(line["event"] == "probe is on" and line["probe"] == probe for line in agent.lines())


def wait_until_confirmed(
    agent: RunningAgent, container: str, pid: int
) -> dict[str, dict[str, object]]:
    """The first verdict of each level; empty if it was not confirmed in time."""
    end_s = time.monotonic() + 4 * PATIENCE_S
    while cpu_s(pid) < LIMIT_CPU_S and time.monotonic() < end_s:
        levels: dict[str, dict[str, object]] = {}
        for verdict in verdicts(agent, container):
            levels.setdefault(str(verdict["level"]), verdict)
        if "confirmed" in levels:
            return levels
        time.sleep(0.5)
    return {}
