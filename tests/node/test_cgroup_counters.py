from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minerwatch.model import ContainerKey
from minerwatch.node.cgroup_state import CgroupBounds
from minerwatch.node.cgroups import CgroupTree
from tests.conftest import CgroupFolders, Programs
from tests.examples import examples
from tests.node.cgroup_nodes import (
    ID,
    NODES,
    POD,
    SCENARIOS,
    by_cgroup,
    node_with,
    tree_of,
    write_usage,
)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_first_reading_splits_the_cpu_among_containers(scenario: str) -> None:
    tree = tree_of(NODES / scenario)
    found = tree.tick()
    assert all(cpu_s >= 0 for cpu_s in found.cpu_s.values())
    node_s = 90.0 if scenario == "kubernetes-containerd-systemd-v2" else None
    if node_s is not None:
        assert sum(found.cpu_s.values()) == pytest.approx(node_s)
    tree.close()


def test_a_limit_is_the_tightest_of_the_container_and_those_above_it() -> None:
    tree = tree_of(NODES / "kubernetes-containerd-systemd-v2")
    found = by_cgroup(tree.tick())
    (free,) = (
        key for path, key in found.items() if path.endswith(f"cri-containerd-{'a1' * 32}.scope")
    )
    limit = tree.limit(free)
    assert limit is not None
    assert limit.cores == 2.0  # the pod's
    assert (limit.periods, limit.throttled_periods) == (100, 25)
    tree.close()


def test_a_container_that_is_not_there_has_no_limit() -> None:
    tree = tree_of(NODES / "docker-systemd-v2")
    tree.tick()
    assert tree.limit(ContainerKey("/nowhere", 1)) is None
    tree.close()


def test_a_root_without_a_counter_is_measured_by_proc_stat(tmp_path: Path) -> None:
    shutil.copytree(NODES / "docker-systemd-v2", tmp_path / "node")
    (tmp_path / "node/sys/fs/cgroup/cpu.stat").unlink()
    tree = tree_of(tmp_path / "node")
    found = tree.tick()
    inner_s = sum(cpu_s for key, cpu_s in found.cpu_s.items() if key.cgroup != "/")
    node_s = (100 + 50 + 2) / os.sysconf("SC_CLK_TCK")
    assert found.cpu_s[by_cgroup(found)["/"]] == pytest.approx(max(0.0, node_s - inner_s))
    tree.close()


def test_a_counter_that_falls_is_no_negative_time(tmp_path: Path) -> None:
    node = node_with(tmp_path, {"/": 9_000_000, f"{POD}/{ID}": 5_000_000})
    tree = tree_of(node)
    key = by_cgroup(tree.tick())[f"{POD}/{ID}"]
    write_usage(node, f"{POD}/{ID}", 1_000_000)
    assert tree.tick().cpu_s[key] == pytest.approx(5.0)
    write_usage(node, f"{POD}/{ID}", 3_000_000)
    assert tree.tick().cpu_s[key] == pytest.approx(7.0)
    tree.close()


@settings(max_examples=examples(60), deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 1_000_000), min_size=4, max_size=4), min_size=2, max_size=5)
)
def test_own_cpu_never_falls_and_adds_up_to_no_more_than_the_node(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[list[int]]
) -> None:
    """Burnt by host, outer, nested and innermost: inclusive counters hold what is below them."""
    node = node_with(tmp_path_factory.mktemp("node"), {"/": 0})
    paths = ["/", f"{POD}/{ID}", f"{POD}/{ID}/docker/{'b2' * 32}"]
    paths.append(f"{paths[2]}/docker/{'c3' * 32}")
    own = [0, 0, 0, 0]
    tree = None
    last: dict[ContainerKey, float] = {}
    for burnt in rounds:
        own = [total + more for total, more in zip(own, burnt, strict=True)]
        for depth, path in enumerate(paths):
            write_usage(node, path, sum(own[depth:]))
        tree = tree or tree_of(node)
        found = tree.tick()
        assert sum(found.cpu_s.values()) == pytest.approx(sum(own) / 1e6, abs=1e-6)
        assert all(cpu_s >= last.get(key, 0.0) for key, cpu_s in found.cpu_s.items())
        for depth, path in enumerate(paths):
            assert found.cpu_s[by_cgroup(found)[path]] == pytest.approx(own[depth] / 1e6, abs=1e-6)
        last = dict(found.cpu_s)
    assert tree is not None
    tree.close()


def test_a_counter_that_cannot_be_opened_now_is_not_the_nodes(
    cgroups: CgroupFolders, programs: Programs
) -> None:
    folder = cgroups.make(f"{POD}/{ID}")
    cgroups.put(programs.start("server", busy=False), folder)
    bounds = CgroupBounds(open_share=0.0)
    tree = CgroupTree(Path("/sys"), Path("/proc"), units=False, bounds=bounds)
    tree.tick()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        found = tree.tick()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    (key,) = (key for key in found.cpu_s if key.cgroup == f"{POD}/{ID}")
    assert found.cpu_s[key] < 5
    assert tree.failures["unreadable"] > 0
    tree.close()


def test_time_spent_waiting_for_a_cpu_is_that_of_the_pressure_file(tmp_path: Path) -> None:
    shutil.copytree(NODES / "kubernetes-containerd-systemd-v2", tmp_path / "node", symlinks=True)
    tree = tree_of(tmp_path / "node")
    (key,) = (each for each in tree.tick().containers if "a1" * 32 in each.cgroup)
    assert tree.waited_s(key) is None  # not every kernel counts it
    pressure = tmp_path / "node/sys/fs/cgroup" / key.cgroup.lstrip("/") / "cpu.pressure"
    pressure.write_text("some avg10=1.00 avg60=0.50 avg300=0.10 total=2500000\nfull avg10=0.00\n")
    assert tree.waited_s(key) == 2.5
    pressure.write_text("nonsense total=x\n")
    assert tree.waited_s(key) is None
    assert tree.failures["unreadable"] == 0
    tree.close()


def test_a_container_is_found_by_the_id_of_its_cgroup_on_v2_only() -> None:
    tree = tree_of(NODES / "kubernetes-containerd-systemd-v2")
    for key, container in tree.tick().containers.items():
        assert tree.container_with_id(key.cgroup_inode) == container
    assert tree.container_with_id(1 << 62) is None
    tree.close()
    tree = tree_of(NODES / "podman-cgroupfs-v1")
    assert not any(tree.container_with_id(key.cgroup_inode) for key in tree.tick().containers)
    tree.close()
