from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from minerwatch.model import ContainerKey
from minerwatch.node.cgroup_state import IDLE_CHECK_TICKS, CgroupBounds
from minerwatch.node.cgroups import CgroupTree
from tests.conftest import TOP, CgroupFolders, Programs, no_files_left, open_files, private_sys
from tests.node.cgroup_nodes import (
    ID,
    NODES,
    POD,
    SCENARIOS,
    by_cgroup,
    node_with,
    real_tree,
    tree_of,
    write_usage,
)
from tests.waiting import until


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_runtime_and_driver_has_the_containers_it_should(scenario: str) -> None:
    tree = tree_of(NODES / scenario)
    found = tree.tick()
    assert {
        key.cgroup: {
            "kind": container.kind.value,
            "container_id": container.container_id,
            "runtime": container.runtime,
            "pod_uid": container.pod_uid,
            "outer_cgroup": container.outer_cgroup,
            "pids": sorted(found.pids[key]),
            "cpu_limit_cores": _own_limit(tree, key),
        }
        for key, container in found.containers.items()
    } == json.loads((NODES / scenario / "expected.json").read_text())
    assert not any(tree.failures.values())
    tree.close()


def _own_limit(tree: CgroupTree, key: ContainerKey) -> float | None:
    limit = tree.limit(key)
    assert limit is not None
    return limit.cores


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_without_units_only_pods_and_engine_containers_count(scenario: str) -> None:
    expected = json.loads((NODES / scenario / "expected.json").read_text())
    tree = tree_of(NODES / scenario, units=False)
    assert set(by_cgroup(tree.tick())) == {
        cgroup for cgroup, is_ in expected.items() if is_["kind"] in ("pod", "engine")
    }
    tree.close()


# Changes, on a tree of plain files: what the kernel would write is written here.


def test_unchanged_members_are_the_same_object_and_not_changed(tmp_path: Path) -> None:
    node = node_with(tmp_path, {"/": 10, f"{POD}/{ID}": 5})
    write_usage(node, f"{POD}/{ID}", 5, "7\n8\n")
    tree = tree_of(node)
    first, second = tree.tick(), tree.tick()
    key = by_cgroup(first)[f"{POD}/{ID}"]
    assert key in first.changed
    assert second.changed == frozenset()
    assert second.pids[key] is first.pids[key] == frozenset({7, 8})
    tree.close()


def test_malformed_files_are_counted_and_passed_over(tmp_path: Path) -> None:
    node = node_with(tmp_path, {"/": 10, f"{POD}/{ID}": 5})
    folder = node / "sys/fs/cgroup" / f"{POD}/{ID}".lstrip("/")
    (folder / "cpu.stat").write_text("nonsense")
    (folder / "cgroup.procs").write_bytes(b"12\nx\n\xff\n13\n0\n")
    tree = tree_of(node)
    found = tree.tick()
    assert tree.failures["malformed"] == 1
    assert found.pids[by_cgroup(found)[f"{POD}/{ID}"]] == frozenset({12, 13})
    tree.close()


def test_a_long_list_of_members_is_read_to_its_end(tmp_path: Path) -> None:
    node = node_with(tmp_path, {"/": 10})
    pids = range(100_000, 120_000)
    write_usage(node, f"{POD}/{ID}", 5, "".join(f"{pid}\n" for pid in pids))
    tree = tree_of(node)
    found = tree.tick()
    assert found.pids[by_cgroup(found)[f"{POD}/{ID}"]] == frozenset(pids)
    tree.close()


def test_a_tenant_cannot_make_the_agent_follow_cgroups_without_end(tmp_path: Path) -> None:
    node = node_with(tmp_path, {"/": 10, f"{POD}/{ID}": 5})
    for number in range(50):
        write_usage(node, f"{POD}/{ID}/made-{number}", 1, f"{1000 + number}\n")
    write_usage(node, f"{POD}/{'b2' * 32}", 1, "77\n")
    tree = tree_of(node, bounds=CgroupBounds(below_pod=10))
    found = tree.tick()
    assert tree.failures["too_many"] > 0
    assert len(found.pids[by_cgroup(found)[f"{POD}/{ID}"]]) <= 10
    assert found.pids[by_cgroup(found)[f"{POD}/{'b2' * 32}"]] == {77}
    tree.close()


# The real kernel.


def run_in(folder: Path, cgroups: CgroupFolders, programs: Programs) -> subprocess.Popen[bytes]:
    """A process that burns CPU in a cgroup, and has done so already."""
    busy = programs.start("busy", busy=True)
    cgroups.put(busy, folder)
    burnt_s = cpu_s_of(busy.pid)
    while cpu_s_of(busy.pid) < burnt_s + 0.05:
        assert busy.poll() is None
    return busy


def cpu_s_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_for_state(pid: int, letter: str) -> None:
    stat = Path(f"/proc/{pid}/stat")
    until(lambda: stat.read_text().rpartition(")")[2].split()[0] == letter)


def test_a_real_container_appears_burns_and_goes(
    cgroups: CgroupFolders, programs: Programs
) -> None:
    cgroups.make(TOP)  # so that hybrid hosts read the tree that the test writes to
    tree = real_tree()
    before = set(tree.tick().containers)
    folder = cgroups.make(f"{POD}/{ID}")
    busy = programs.start("busy", busy=True)
    cgroups.put(busy, folder)
    found = tree.tick()
    key = by_cgroup(found)[f"{POD}/{ID}"]
    assert key not in before
    burnt_s = found.cpu_s[key]
    assert found.pids[key] == {busy.pid}
    assert key in found.changed
    while tree.tick().cpu_s[key] < burnt_s + 0.2:
        assert busy.poll() is None
    assert tree.tick().changed & {key} == frozenset()
    busy.kill()
    busy.wait()
    found = tree.tick()
    assert found.pids[key] == frozenset()
    folder.rmdir()
    assert tree.tick().gone == {key}
    assert key not in tree.tick().containers
    tree.close()


def test_a_path_that_is_used_again_is_another_container(cgroups: CgroupFolders) -> None:
    folder = cgroups.make(f"{TOP}{POD}/{ID}")
    tree = real_tree()
    first = by_cgroup(tree.tick())[f"{TOP}{POD}/{ID}"]
    folder.rmdir()
    folder.mkdir()
    found = tree.tick()
    second = by_cgroup(found)[f"{TOP}{POD}/{ID}"]
    assert second.cgroup_inode != first.cgroup_inode
    assert found.gone == {first}
    tree.close()


def test_a_container_that_takes_another_ones_place_between_two_ticks_is_seen(
    cgroups: CgroupFolders, programs: Programs
) -> None:
    """The pod's folder has as many links as before: only the missing one tells."""
    old = cgroups.make(f"{TOP}{POD}/{ID}")
    tree = real_tree()
    for _ in range(3):
        tree.tick()
    old.rmdir()
    run_in(cgroups.make(f"{TOP}{POD}/{ID[::-1]}"), cgroups, programs)
    found = by_cgroup(tree.tick())
    assert f"{TOP}{POD}/{ID[::-1]}" in found
    assert f"{TOP}{POD}/{ID}" not in found
    tree.close()


def test_containers_of_a_pod_that_sleeps_are_not_read_until_it_runs_again(
    cgroups: CgroupFolders, programs: Programs
) -> None:
    folders = [cgroups.make(f"{TOP}{POD}/{id_}") for id_ in (ID, ID[::-1])]
    busy = run_in(folders[0], cgroups, programs)
    tree = real_tree()
    keys = {by_cgroup(tree.tick())[f"{TOP}{POD}/{id_}"] for id_ in (ID, ID[::-1])}
    busy.send_signal(signal.SIGSTOP)
    wait_for_state(busy.pid, "T")
    read = [len(tree.tick().read & keys) for _ in range(20)]
    assert read[:3] == [2, 2, 2]  # it has just run
    assert read[4:].count(2) in (2, 3)  # its turns
    assert read[4:].count(0) == 16 - read[4:].count(2)
    busy.send_signal(signal.SIGCONT)
    burnt_s = cpu_s_of(busy.pid)
    while cpu_s_of(busy.pid) < burnt_s + 0.2:
        pass
    busy.send_signal(signal.SIGSTOP)
    wait_for_state(busy.pid, "T")
    found, afresh = tree.tick(), real_tree()
    assert keys <= found.read
    key = by_cgroup(found)[f"{TOP}{POD}/{ID}"]
    assert found.cpu_s[key] == pytest.approx(afresh.tick().cpu_s[key])
    afresh.close()
    tree.close()


def test_a_pod_that_sleeps_costs_one_read_a_tick(
    cgroups: CgroupFolders, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def calls_of_eight_ticks() -> Counter[str]:
        calls: Counter[str] = Counter()

        def counting(name: str, call: Callable[..., object]) -> Callable[..., object]:
            def counted(*arguments: object) -> object:
                calls[name] += 1
                return call(*arguments)

            return counted

        with monkeypatch.context() as patched:
            for name in ("open", "pread", "read", "stat", "scandir"):
                patched.setattr(os, name, counting(name, getattr(os, name)))
            for _ in range(8):
                tree.tick()
        return calls

    cgroups.make(TOP)
    tree = CgroupTree(private_sys(tmp_path, cgroups.root), Path("/proc"))
    tree.tick()
    without = calls_of_eight_ticks()
    for number in range(20):
        for id_ in (ID, ID[::-1], "c3" * 32):
            cgroups.make(f"{TOP}{POD[:-2]}{number:02}/{id_}")
    for _ in range(10):
        tree.tick()
    added = calls_of_eight_ticks() - without
    above = 8 * 3  # the folders that the pods are in
    assert added["pread"] <= 20 * (8 + 3 + 4) + above  # in a turn its containers' and members
    assert added["open"] <= 20 * 4 + above
    assert added["stat"] <= 20 * 4 + above
    assert added["scandir"] == 0
    tree.close()


def test_what_could_not_be_read_for_want_of_files_is_read_when_there_are_some(
    cgroups: CgroupFolders, programs: Programs
) -> None:
    """Also in a container that sleeps by then."""
    cgroups.make(f"{TOP}{POD}/{ID}")
    tree = real_tree()
    for _ in range(10):
        tree.tick()
    here = cgroups.make(f"{TOP}{POD}/{ID}/inner")
    there = cgroups.make(f"{TOP}{POD}/{ID[::-1]}/inner")
    sleepers = [run_in(folder, cgroups, programs) for folder in (here, there)]
    for sleeper in sleepers:
        sleeper.send_signal(signal.SIGSTOP)
        wait_for_state(sleeper.pid, "T")
    with no_files_left():
        for _ in range(5):
            tree.tick()
    assert tree.failures["unreadable"] > 0
    for _ in range(2):
        found = tree.tick()
    keys = by_cgroup(found)
    assert found.pids[keys[f"{TOP}{POD}/{ID}"]] == {sleepers[0].pid}
    assert found.pids[keys[f"{TOP}{POD}/{ID[::-1]}"]] == {sleepers[1].pid}
    tree.close()


def without_files(path: bytes) -> NoReturn:
    raise OSError(errno.EMFILE, "none left", path)


@pytest.mark.parametrize("spare", [0, 1])  # one: its path can be read, but not where that is
def test_whose_container_could_not_be_told_for_want_of_files_is_asked_for_again(
    cgroups: CgroupFolders, programs: Programs, monkeypatch: pytest.MonkeyPatch, spare: int
) -> None:
    """Meanwhile it is nobody's, and not the host's."""
    cgroups.make(TOP)
    tree = real_tree()
    tree.tick()
    sleeper = run_in(cgroups.make(f"{TOP}{POD}/{ID}"), cgroups, programs)
    with monkeypatch.context() as patched, no_files_left(spare):
        if spare:
            patched.setattr(os, "scandir", without_files)
        assert tree.container_of(sleeper.pid) is None
    assert tree.unattributed == {sleeper.pid}
    container = tree.container_of(sleeper.pid)
    assert container is not None
    assert container.cgroup.endswith(ID)
    assert tree.unattributed == set()
    tree.close()


def test_a_container_whose_cgroup_is_removed_long_after_it_ran_is_gone_in_its_pods_turn(
    cgroups: CgroupFolders,
) -> None:
    folder = cgroups.make(f"{TOP}{POD}/{ID}")
    tree = real_tree()
    key = by_cgroup(tree.tick())[f"{TOP}{POD}/{ID}"]
    for _ in range(10):
        tree.tick()
    folder.rmdir()
    assert [tree.tick().gone for _ in range(8)].count(frozenset({key})) == 1
    tree.close()


def test_a_process_that_runs_in_a_pods_own_cgroup_is_the_hosts(
    cgroups: CgroupFolders, programs: Programs
) -> None:
    pod = cgroups.make(f"{TOP}{POD}/{ID}").parent
    tree = real_tree()
    for _ in range(10):
        tree.tick()
    busy = run_in(pod, cgroups, programs)
    found = tree.tick()
    assert busy.pid in found.pids[by_cgroup(found)["/"]]
    tree.close()


def test_members_of_folders_below_belong_to_the_container(
    cgroups: CgroupFolders, programs: Programs
) -> None:
    outer = cgroups.make(f"{TOP}{POD}/{ID}")
    inside = cgroups.make(f"{TOP}{POD}/{ID}/init")
    nested = cgroups.make(f"{TOP}{POD}/{ID}/docker/{'b2' * 32}")
    processes = [programs.start("waits", busy=False) for _ in range(3)]
    for process, folder in zip(processes, (outer, inside, nested), strict=True):
        cgroups.put(process, folder)
    tree = real_tree()
    found = tree.tick()
    keys = by_cgroup(found)
    assert found.pids[keys[f"{TOP}{POD}/{ID}"]] == {p.pid for p in processes[:2]}
    assert found.pids[keys[f"{TOP}{POD}/{ID}/docker/{'b2' * 32}"]] == {processes[2].pid}
    # a process that moves is in its new place, and only there, as soon as it has run
    cgroups.put(processes[0], nested)
    for _ in range(IDLE_CHECK_TICKS):
        found = tree.tick()
    assert found.pids[keys[f"{TOP}{POD}/{ID}"]] == {processes[1].pid}
    assert processes[0].pid in found.pids[keys[f"{TOP}{POD}/{ID}/docker/{'b2' * 32}"]]
    tree.close()


def test_without_open_files_left_counters_are_opened_each_time(cgroups: CgroupFolders) -> None:
    for number in range(30):
        cgroups.make(f"{TOP}{POD}/{number:064x}")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = len(open_files())
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 8, hard))
    try:
        tree = real_tree()
        found = tree.tick()
        assert tree.failures["open_files"] > 0
        assert sum(POD in key.cgroup for key in found.containers) == 30
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    tree.close()


def test_half_of_the_files_are_left_to_others(cgroups: CgroupFolders) -> None:
    before = open_files()
    most = 2 * len(before) + 20  # of which half is free
    containers = most // 2 + 10
    for number in range(containers):
        cgroups.make(f"{TOP}/docker/{number:064x}")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        tree = CgroupTree(Path("/sys"), Path("/proc"))
        found = tree.tick()
        assert len(open_files() - before) <= most // 2
        assert tree.failures["open_files"] > 0
        ours = [key for key in found.cpu_s if key.cgroup.startswith(f"{TOP}/docker/")]
        assert len(ours) == containers
        tree.close()
        assert not open_files() - before
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_closing_gives_every_file_back(cgroups: CgroupFolders) -> None:
    cgroups.make(f"{TOP}{POD}/{ID}")
    before = open_files()
    tree = real_tree()
    tree.tick()
    tree.close()
    assert not open_files() - before
