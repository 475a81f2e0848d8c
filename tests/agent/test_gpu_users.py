"""Use of a GPU makes containers hot and their processes suspects, as CPU time does."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from minerwatch.agent.gpu_users import GpuUsers
from minerwatch.agent.looks import Looks
from minerwatch.agent.monitor import MonitoredNode, now_s, open_node
from minerwatch.agent.tracked import Details, TrackedContainer, TrackedNode, TrackedProcess
from minerwatch.config import schema
from minerwatch.config.schema import Config, Examination
from minerwatch.config.values import Duration
from minerwatch.detection.cpu_history import CpuHistory
from minerwatch.model import Facts, Level, Observation, Signal
from minerwatch.node.gpu_use import GpuReader
from minerwatch.probes.gpu import Gpus
from tests import shipped
from tests.builders import make_container, make_process
from tests.conftest import TOP, CgroupFolders, Programs, container_id, needs_root
from tests.node.fake_gpus import Scripted, answer, built
from tests.waiting import until

TICK_S = 10.0
PLACE: Facts = {"PodNamespace": "hub", "GpuRequested": False, "ContainerGpuLimit": 0.0}


class World:
    """Containers that are idle but for their GPUs."""

    def __init__(self) -> None:
        self.node = TrackedNode()
        self.sampler = Scripted()
        self.looks = Looks(self.node, self, Examination(), 1000)
        self.users = GpuUsers(self.node, Gpus(GpuReader([self.sampler])), self.looks)
        self.at_s = 1000.0

    def limit(self, _key: object) -> None:
        return None

    def waited_s(self, _key: object) -> None:
        return None

    def add(self, name: str, *pids: int) -> TrackedContainer:
        container = make_container(name, pod_uid=f"uid-{name}", cgroup=f"/{name}")
        tracked = TrackedContainer.new(container, self.at_s, 0.0)
        for pid in pids:
            process = TrackedProcess(make_process(pid, start_ticks=1))
            process.cpu = CpuHistory(self.at_s, 0.0)
            tracked.processes[pid] = process
            self.node.container_of[pid] = tracked
        self.node.containers[container.key] = tracked
        return tracked

    def tick(
        self, *uses: list[object], devices: Sequence[dict[str, object]] = ({"id": "GPU-1"},)
    ) -> list[set[int]]:
        """Return the PIDs of suspects, and those that a look was earned at."""
        self.at_s += TICK_S
        self.sampler.answers.append(answer(at_s=self.at_s, devices=[*devices], uses=uses))
        self.users.tick(self.at_s)
        found = self.looks.suspects(self.node.containers.values(), self.at_s)
        return [
            {each.process.pid for each in found},
            {each.process.pid for each in found if each.is_due},
        ]


def test_half_a_minute_of_gpu_time_earns_a_look_without_cpu_time() -> None:
    world = World()
    world.users.tick(world.at_s)
    container = world.add("a", 1, 2)
    due = [world.tick([1, 0, None, 1.0, 1], [2, 0, None, 0.0, 1])[1] for _ in range(8)]
    assert [sorted(each) for each in due] == [[], [], [], [1], [], [], [1], []]
    assert world.users.is_notable(container)


def test_of_many_processes_those_on_a_gpu_are_published() -> None:
    world = World()
    world.users.tick(world.at_s)
    container = world.add("a", *range(1, 9))
    for _ in range(2):
        world.tick([7, 0, None, 0.9, 1])
    published = container.observation(1, Details(gpu=world.users.facts)).processes
    assert [(each.process.id.pid, each.gpu["GpuBusy"]) for each in published] == [(7, 0.9)]


def test_an_idle_context_earns_nothing() -> None:
    world = World()
    world.users.tick(world.at_s)
    container = world.add("a", 1)
    assert [world.tick([1, 0, None, 0.0, 1 << 30]) for _ in range(8)] == [[set(), set()]] * 8
    assert not world.users.is_notable(container)


def test_gpus_that_were_not_requested_are_counted() -> None:
    world = World()
    world.users.tick(world.at_s)
    thief, owner, unknown = (world.add(name, pid) for name, pid in (("a", 1), ("b", 2), ("c", 3)))
    thief.cluster_facts, owner.cluster_facts = (
        PLACE,
        {"GpuRequested": True, "ContainerGpuLimit": 1.0},
    )
    thief.verdict = replace(thief.verdict, level=Level.SUSPICIOUS)
    for _ in range(2):
        world.tick([1, 0, None, 0.5, 1], [2, 0, None, 0.5, 1], [3, 0, None, 0.5, 1])
    summary = world.users.summary()
    assert summary.unrequested == 1
    assert summary.attributions["shared"] == 1
    assert [(container.owner, gpu_s) for container, _, gpu_s, _ in summary.flagged] == [
        ("uid-a", 5.0)
    ]
    assert (thief.gpu["GpuRequested"], owner.gpu["ContainerGpuLimit"]) == (False, 1.0)
    assert "GpuRequested" not in unknown.gpu


def test_an_exporters_names_find_a_pods_own_container() -> None:
    world = World()
    world.users.tick(world.at_s)
    own, nested = world.add("a", 1), world.add("b", 2)
    place: Facts = {"PodNamespace": "hub", "PodName": "jupyter-eve", "ContainerName": "notebook"}
    own.cluster_facts = nested.cluster_facts = {
        **place,
        "GpuRequested": True,
        "ContainerGpuLimit": 1.0,
    }
    nested.container = replace(nested.container, outer_cgroup="/a")
    for _ in range(5):
        world.at_s += TICK_S
        pods = [[0, "hub", "jupyter-eve", "notebook", None], [1, "x", "of-another-node", "c", None]]
        devices = [{"id": "GPU-1", "busy": 0.9}, {"id": "GPU-2", "busy": 0.9}]
        world.sampler.answers.append(answer(at_s=world.at_s, devices=devices, pods=pods))
        world.users.tick(world.at_s)
    assert (own.gpu["ContainerGpuBusy"], own.gpu["ContainerGpusOverRequest"]) == (0.9, 0)
    assert not nested.gpu
    own.processes[1].cpu = CpuHistory(world.at_s, 0.01)  # CUDA polls
    (suspect,) = world.looks.suspects(world.node.containers.values(), world.at_s)
    assert suspect.process.pid == 1, "the busiest of the container"


FOUR: list[dict[str, object]] = [{"id": f"GPU-{number}"} for number in range(4)]


def over_request(
    *uses: list[object], limit: float = 1.0, devices: Sequence[dict[str, object]] = FOUR
) -> object:
    """Return how many GPUs the pod of processes 1 and 2 uses over its request."""
    world = World()
    world.users.tick(world.at_s)
    own = [world.add(name, pid) for name, pid in (("a", 1), ("b", 2))]
    other = world.add("other", 3)
    for each in own:
        each.container = replace(each.container, pod_uid="uid")
        each.cluster_facts = {"GpuRequested": True, "ContainerGpuLimit": limit}
    other.cluster_facts = {"GpuRequested": True, "ContainerGpuLimit": 1.0}
    for _ in range(2):
        world.tick(*uses, devices=devices)
    found = {each.gpu["ContainerGpusOverRequest"] for each in own if each.gpu}
    assert len(found) == 1, "the same of each container of the pod"
    (over,) = found
    assert world.users.summary().unrequested == over
    assert other.gpu.get("ContainerGpusOverRequest", 0) == 0
    return over


def test_a_container_uses_more_than_the_one_beside_it_has_requested() -> None:
    own: list[list[object]] = [[1, 0, None, 0.9, 1]]
    assert over_request(*own, [2, 1, None, 0.9, 1], [2, 2, None, 0.9, 1]) == 2
    assert over_request(*own, [2, 1, None, 0.9, 1], limit=2.0) == 0
    assert over_request([1, 0, None, 0.15, 1], [2, 0, None, 0.1, 1]) == 0, "one, by both"
    assert over_request(*own, [2, 1, None, 0.1, 1]) == 0, "hardly in use"
    assert over_request(*own, [2, 1, None, 0.9, 1], limit=16e3) == 0, "MiB of a GPU's memory"
    assert over_request(*own, limit=0.5) == 0


def test_a_shared_gpu_counts_by_each_process_and_not_by_its_own_rate() -> None:
    own: list[list[object]] = [[1, 0, None, 0.9, 1]]
    stranger: list[object] = [3, 1, None, 0.0, 1]
    assert over_request(*own, [2, 1, None, 0.9, 1], stranger) == 1, "an idle context hides nothing"
    rate: list[dict[str, object]] = [{"id": "GPU-1"}, {"id": "GPU-2", "busy": 0.9}]
    assert over_request(*own, [2, 1, None, None, 1], devices=rate) == 1, "alone there"
    assert over_request(*own, [2, 1, None, None, 1], [3, 1, None, None, 1], devices=rate) == 0


def test_instances_of_a_gpu_are_not_counted_over_the_request() -> None:
    split: list[dict[str, object]] = [{"id": f"GPU-{n}", "is_split": True} for n in range(3)]
    uses: list[list[object]] = [[1, n, 1, 0.9, 1] for n in range(3)]
    assert over_request([2, 3, None, 0.9, 1], *uses, devices=[*split, {"id": "GPU-3"}]) == 0


def test_open_devices_are_looked_for_in_one_process_of_each_owner_in_turn() -> None:
    world = World()
    world.add("decoys", *range(1000, 4000))
    world.add("b", 7)
    for _ in range(3):
        world.tick()
    asked = [pid for question in world.sampler.asked for pid in question["pids"]]
    assert 7 in asked[:2]
    assert len(world.sampler.asked[1]["pids"]) == 128
    assert len(set(asked)) == len(asked)


def test_without_gpus_there_is_nothing() -> None:
    world = World()
    users = GpuUsers(world.node, None, world.looks)
    users.tick(1.0)
    assert users.summary().attributions == {}
    assert not users.is_notable(world.add("a", 1))


# From the library to the verdict.


Opened = Callable[..., MonitoredNode]


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    """Open this node with the tests' library, and few other sources."""
    monkeypatch.setenv("FAKE_NVML", str(tmp_path / "scenario"))
    nodes = []

    def open_it(*, content: bool) -> MonitoredNode:
        settings = Config(
            node=schema.Node(gpu_library=built(tmp_path)),
            probes=schema.Probes(
                tasks=False, connections=False, mappings=False, drift=False, rounding=False,
                content=content, executed_code=False, pod_network=False,
            ),
            examination=Examination(cpu_per_look=Duration(1)),
        )  # fmt: skip
        nodes.append(open_node(settings, shipped.book(), matcher=shipped.matcher()))
        return nodes[-1]

    yield open_it
    for each in nodes:
        each.watch.close()


def use_gpu(scenario: Path, pid: int) -> None:
    scenario.write_text(
        "driver 580.1\ngpu GPU-1 NVIDIA H100\nutil 98\npower 400000\n"
        f"proc {pid} 8388608\nshare {pid} 97\n"
    )


def watched(node: MonitoredNode, cgroup: str) -> Observation | None:
    """Run a tick; return the container, once it has used a GPU."""
    node.watch.tick(now_s())
    return next(
        (
            each
            for each in node.watch.observations(10)
            if each.container.cgroup == cgroup and each.gpu.get("ContainerGpuHours")
        ),
        None,
    )


@needs_root
@pytest.mark.slow
def test_an_idle_process_that_keeps_a_gpu_busy_is_measured(
    opened: Opened, tmp_path: Path, cgroups: CgroupFolders, programs: Programs
) -> None:
    folder = cgroups.make(f"{TOP}/docker/{container_id('a9')}")
    process = programs.start("srv", busy=False)
    cgroups.put(process, folder)
    use_gpu(tmp_path / "scenario", process.pid)
    node, cgroup = opened(content=False), f"/{folder.relative_to(cgroups.root)}"
    observation = until(lambda: watched(node, cgroup), every_s=0.2)
    assert observation is not None
    assert observation.gpu["ContainerGpuBusy"] == 0.97
    assert [each.cpu_cores is not None for each in observation.processes] == [True]
    assert observation.processes[0].gpu["GpuBusy"] == 0.97
    status = node.status(observation)
    assert status.gpu is not None
    assert (status.gpu.devices, status.gpu.memory_bytes) == (1, 8 << 20)
    assert (status.processes[0].gpus, status.processes[0].gpu_memory_bytes) == (0.97, 8 << 20)
    failures = {reason: n for probe, reason, n in node.watch.failures() if probe == "gpu"}
    assert not failures["timeout"]
    assert not failures["sampler"]


IDLE = """
#include <unistd.h>
volatile const char *words[] = {
  "accepted\\x1b[0m (%l", "rejected\\x1b[0m (%l",
  "new job\\x1b[0m from \\x1b[1;37m%s:%d\\x1b[0m diff ", "speed\\x1b[0m 10s/60s/15m \\x1b[1;36m%s"
};
int main(void) { while (words[0]) pause(); }
"""


@needs_root
@pytest.mark.slow
def test_what_an_idle_process_holds_is_found_because_it_uses_a_gpu(
    opened: Opened, tmp_path: Path, cgroups: CgroupFolders
) -> None:
    node = opened(content=True)
    (tmp_path / "srv.c").write_text(IDLE)
    subprocess.run(["cc", "-o", tmp_path / "srv", tmp_path / "srv.c"], check=True)
    folder = cgroups.make(f"{TOP}/docker/{container_id('b9')}")
    with subprocess.Popen([tmp_path / "srv"]) as process:
        try:
            cgroups.put(process, folder)
            use_gpu(tmp_path / "scenario", process.pid)
            cgroup = f"/{folder.relative_to(cgroups.root)}"

            def found() -> bool:
                observation = watched(node, cgroup)
                return observation is not None and any(
                    each.signal is Signal.CONTENT for each in observation.verdict.findings
                )

            until(found, every_s=0.2)
        finally:
            process.kill()
