"""Skipping idle processes changes no match: compared with matching all of them at each tick."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minerwatch.agent.matching import CONTAINER_FIELDS, MEMORY_FIELDS, PROCESS_FIELDS, Matching
from minerwatch.agent.process_meter import ProcessMeter
from minerwatch.agent.scheduling import PhaseTimer
from minerwatch.agent.tracked import TickLimits, TrackedContainer, TrackedNode, TrackedProcess
from minerwatch.config.schema import Examination
from minerwatch.config.values import Duration
from minerwatch.detection.cpu_history import CpuHistory
from minerwatch.detection.facts import container_facts, measured, static_facts
from minerwatch.detection.fields import KNOWN_FIELDS, PROBE_FIELDS
from minerwatch.detection.matching.matcher import Matcher
from minerwatch.detection.sigma.rule import Rule
from minerwatch.model import Container, ContainerKind, Process, ProcessId
from minerwatch.node.proc_files import CLOCK_TICKS_PER_S
from minerwatch.node.processes import ProcessReader
from minerwatch.probes.registry import Probes
from tests.detection.sigma.test_rule import parsed
from tests.examples import examples

TICK_S = 10.0
WINDOW_S = 50.0
CONTAINER = Container("/docker/a1", 7, ContainerKind.ENGINE, "a1" * 32, "docker")


def rule(number: int, selection: str, condition: str = "s") -> Rule:
    return parsed(
        f"""
title: rule {number}
id: 00000000-0000-4000-8000-{number:012}
status: test
logsource: {{product: linux, category: process_creation}}
detection: {{s: {{{selection}}}, n: {{Comm: idler}}, condition: {condition}}}
level: low
minerwatch: {{signal: behaviour}}
"""
    )


RULES = (
    rule(1, "CpuCores|gte: 0.5"),
    rule(2, "CpuCores|lt: 0.01, CpuSeconds|gte: 3"),
    rule(3, "CpuFlatness|gte: 0.8"),
    rule(4, "CpuFlatness: null, CpuSeconds|gte: 5"),
    rule(5, "Age|gte: 155, Comm: idler"),
    rule(6, "Age|lt: 95, CpuCores|lte: 0"),
    rule(7, "ContainerCpuCores|gte: 0.4, Comm: idler"),
    rule(8, "Threads|gte: 3"),
    rule(9, "Age|gte: 125", "s and not n"),
)


EACH_TICK = TickLimits(ticks_per_idle_check=1)


class World:
    """A container of which a test writes /proc, tick by tick."""

    def __init__(
        self, proc: Path, count: int, rules: Sequence[Rule] = RULES, limits: TickLimits = EACH_TICK
    ) -> None:
        self.examination = Examination(window=Duration(WINDOW_S))
        self.node = TrackedNode()
        self.container = TrackedContainer.new(CONTAINER, 100.0, 0.0)
        self.reads = 0
        self.matcher = Matcher(rules)
        reader = ProcessReader(proc)
        self._proc = proc
        self._at_s = 100.0
        self._meter = ProcessMeter(self.node, reader, None, self.examination, limits)
        self._matching = Matching(
            self.node, self._meter, Probes(), self.examination, self.matcher, PhaseTimer()
        )
        self._counters = dict.fromkeys(range(1, count + 1), (0.0, 1))
        self._histories: dict[int, CpuHistory] = {}
        for pid in self._counters:
            comm = "idler" if pid % 2 else "worker"
            process = Process(
                id=ProcessId(pid, CLOCK_TICKS_PER_S * 10 * pid), parent_pid=0, comm=comm,
                command_line=comm, image=f"/bin/{comm}", current_directory="/", uid=0,
                user="root", exe_deleted=False, exe_in_memory=False, command_line_hidden=False,
                kernel_thread=False, program=hash((1, 2, 3)),
            )  # fmt: skip
            self.container.processes[pid] = TrackedProcess(process)

    def tick(self, used_s: Mapping[int, float], threads: Mapping[int, int]) -> set[tuple[str, int]]:
        """One tick; returns which rule matches on which process."""
        self._at_s += TICK_S
        for pid, (cpu_s, count) in self._counters.items():
            now = (round(cpu_s + used_s.get(pid, 0.0), 2), threads.get(pid, count))
            self._counters[pid] = now
            self._write(pid, *now)
        self.node.tick_times_s.append(self._at_s)
        window_s = self.examination.window
        cpu = self.container.cpu
        total_s = cpu.cpu_s + sum(used_s.values())
        cpu.add(self._at_s, total_s, window_s=window_s)
        self._meter.begin_tick([self.container])
        read, replaced = self._meter.read_container(self.container, self._at_s)
        assert not replaced
        self.reads = len(read)
        found = self._matching.sightings(self.container, frozenset(), self._at_s)
        matches = {(each.rule.id, each.process.pid) for each in found if each.process}
        self.node.last_tick_s = self._at_s
        return matches

    def expected(self) -> set[tuple[str, int]]:
        """What matches if every process is measured and matched."""
        shared = container_facts(
            CONTAINER, cpu_cores=self.container.cpu.cores, cpu_s=self.container.cpu.cpu_s
        )
        found = set()
        for pid, process in self.container.processes.items():
            cpu_s, threads = self._counters[pid]
            history = self._histories.get(pid)
            if history is None:
                history = self._histories[pid] = CpuHistory(self._at_s, cpu_s)
            else:
                history.add(self._at_s, cpu_s, window_s=WINDOW_S)
            facts = measured(
                Age=self._at_s - process.born_s, Threads=threads, CpuSeconds=cpu_s,
                CpuCores=history.cores, CpuFlatness=history.flatness(),
            )  # fmt: skip
            known = {**static_facts(process.process, None), **shared, **facts}
            found |= {(match.rule.id, pid) for match in self.matcher.dynamic_matches(known)}
        return found

    def _write(self, pid: int, cpu_s: float, threads: int) -> None:
        process = self.container.processes[pid].process
        ticks = round(cpu_s * CLOCK_TICKS_PER_S)
        fields = ["0"] * 50
        fields[0], fields[1] = "S", "0"
        fields[11], fields[17] = str(ticks), str(threads)
        fields[19] = str(process.id.start_ticks)
        fields[23], fields[25], fields[45] = "1", "2", "3"
        folder = self._proc / str(pid)
        folder.mkdir(exist_ok=True)
        (folder / "stat").write_text(f"{pid} ({process.comm}) {' '.join(fields)}\n")


a_tick = st.tuples(
    st.dictionaries(st.integers(1, 3), st.sampled_from([0.02, 0.5, 4.0, 5.0, 5.2]), max_size=2),
    st.dictionaries(st.integers(1, 3), st.integers(1, 4), max_size=1),
)


@settings(max_examples=examples(100), deadline=None)
@given(st.lists(a_tick | st.just(({}, {})), max_size=30))
def test_skipped_processes_match_what_they_would_match(
    ticks: list[tuple[dict[int, float], dict[int, int]]],
) -> None:
    with TemporaryDirectory() as folder:
        world = World(Path(folder), 3)
        for used_s, threads in ticks:
            found = world.tick(used_s, threads)
            assert found == world.expected()


def test_a_process_that_stops_computing_loses_what_its_rate_said(tmp_path: Path) -> None:
    world = World(tmp_path, 2)
    for _ in range(3):
        found = world.tick({2: 6.0}, {})
    assert (RULES[0].id, 2) in found
    assert (RULES[0].id, 2) not in world.tick({}, {})


def test_idle_processes_are_read_in_turns_until_one_of_them_runs(tmp_path: Path) -> None:
    world = World(tmp_path, 81, RULES[:1], TickLimits(ticks_per_idle_check=8))
    for _ in range(4):
        world.tick({1: 5.0}, {})
    assert world.reads <= 1 + 80 / 8 + 1
    found = world.tick({1: 5.0, 60: 6.0}, {})
    assert world.reads == 81
    assert (RULES[0].id, 60) in found


def test_every_measured_field_is_compared_or_matched_at_each_tick() -> None:
    """A new field that is in none of these would never make a rule match again."""
    at_each_tick = {"SaturatedThreads", *MEMORY_FIELDS}
    at_each_tick |= {field for fields in PROBE_FIELDS.values() for field in fields}
    measured_fields = {field.name for field in KNOWN_FIELDS.values() if field.dynamic}
    assert measured_fields == at_each_tick | {*PROCESS_FIELDS, *CONTAINER_FIELDS}


@pytest.mark.parametrize("exited_s", [0.0, 3.0])
def test_processes_that_compute_in_turn_are_measured_while_they_run(
    tmp_path: Path, exited_s: float
) -> None:
    """Also where processes that exit use CPU time, so that not all of it is accounted for."""
    world = World(tmp_path, 24, RULES[:1], TickLimits(ticks_per_idle_check=8))
    for tick in range(80):
        running = 2 + (tick // 4) % 23
        world.tick({running: TICK_S, -1: exited_s}, {})
        if tick > 20:
            assert not world.container.processes[running].is_idle, f"tick {tick}"
