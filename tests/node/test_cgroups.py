from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minerwatch.errors import NodeError
from minerwatch.model import ContainerKey, ContainerKind
from minerwatch.node import cgroups as cgroups_module
from minerwatch.node.cgroups import CgroupTick, CgroupTree
from tests.conftest import TOP, CgroupFolders, Programs, container_id, no_files_left, private_sys
from tests.examples import examples
from tests.waiting import until

NODES = Path(__file__).parent.parent / "fixtures" / "nodes"
SCENARIOS = sorted(path.name for path in NODES.iterdir() if path.is_dir())

POD = "/kubepods/burstable/pod0f3c1a52-7d1e-4b6c-9a55-3b8a2f0d9c11"
ID = container_id("a1")


def tree_of(node: Path, *, units: bool = True) -> CgroupTree:
    return CgroupTree(node / "sys", node / "proc", units=units)


def by_cgroup(found: CgroupTick) -> dict[str, ContainerKey]:
    return {key.cgroup: key for key in found.containers}


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
    assert (limit.periods, limit.throttled_periods, limit.throttled_s) == (100, 25, 1.5)
    tree.close()


def test_a_container_that_is_not_there_has_no_limit() -> None:
    tree = tree_of(NODES / "docker-systemd-v2")
    tree.tick()
    assert tree.limit(ContainerKey("/nowhere", 1)) is None
    tree.close()


def test_a_node_without_cgroups_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="mount the host's /sys/fs/cgroup"):
        CgroupTree(tmp_path, tmp_path)


def test_a_part_of_the_tree_is_called_a_blind_spot(tmp_path: Path) -> None:
    shutil.copytree(NODES / "docker-systemd-v2", tmp_path / "node")
    (tmp_path / "node/sys/fs/cgroup/cgroup.type").write_text("domain\n")
    assert "only the cgroups below" in tree_of(tmp_path / "node").blind_spot


def test_a_root_without_a_counter_is_measured_by_proc_stat(tmp_path: Path) -> None:
    shutil.copytree(NODES / "docker-systemd-v2", tmp_path / "node")
    (tmp_path / "node/sys/fs/cgroup/cpu.stat").unlink()
    tree = tree_of(tmp_path / "node")
    found = tree.tick()
    inner_s = sum(cpu_s for key, cpu_s in found.cpu_s.items() if key.cgroup != "/")
    node_s = (100 + 50 + 2) / os.sysconf("SC_CLK_TCK")
    assert found.cpu_s[by_cgroup(found)["/"]] == pytest.approx(max(0.0, node_s - inner_s))
    tree.close()


# Changes, on a tree of plain files: what the kernel would write is written here.


def node_with(tmp_path: Path, usages_us: dict[str, int]) -> Path:
    for path, usage_us in usages_us.items():
        write_usage(tmp_path, path, usage_us)
    root = tmp_path / "sys/fs/cgroup"
    (root / "cgroup.controllers").write_text("cpu\n")
    (tmp_path / "proc").mkdir(exist_ok=True)
    return tmp_path


def write_usage(node: Path, path: str, usage_us: int, pids: str = "") -> None:
    folder = node / "sys/fs/cgroup" / path.lstrip("/")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.stat").write_text(f"usage_usec {usage_us}\nuser_usec 0\n")
    (folder / "cgroup.procs").write_text(pids)


@pytest.mark.parametrize("name", ["x\r0:", "x\r5:cpuacct:", "x\x0b0:", "x"])
def test_whoever_makes_cgroups_cannot_name_them_into_another_pod(tmp_path: Path, name: str) -> None:
    other = POD[:-1] + "2"
    node = node_with(tmp_path, {"/": 10, f"{POD}/{ID}": 5, f"{other}/{'b2' * 32}": 5})
    (node / "proc/7").mkdir()
    below = f"{POD}/{ID}/{name}{other}/{'b2' * 32}"
    (node / "proc/7/cgroup").write_bytes(f"1:name=systemd:{below}\n0::{below}\n".encode())
    found = tree_of(node).container_of(7)
    assert found is not None
    assert found.container_id == ID


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


def test_a_counter_that_falls_is_no_negative_time(tmp_path: Path) -> None:
    node = node_with(tmp_path, {"/": 9_000_000, f"{POD}/{ID}": 5_000_000})
    tree = tree_of(node)
    key = by_cgroup(tree.tick())[f"{POD}/{ID}"]
    write_usage(node, f"{POD}/{ID}", 1_000_000)
    assert tree.tick().cpu_s[key] == pytest.approx(5.0)
    write_usage(node, f"{POD}/{ID}", 3_000_000)
    assert tree.tick().cpu_s[key] == pytest.approx(7.0)
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


def test_a_tenant_cannot_make_the_agent_follow_cgroups_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups_module, "_MAX_FOLDERS_BELOW_POD", 10)
    node = node_with(tmp_path, {"/": 10, f"{POD}/{ID}": 5})
    for number in range(50):
        write_usage(node, f"{POD}/{ID}/made-{number}", 1, f"{1000 + number}\n")
    write_usage(node, f"{POD}/{'b2' * 32}", 1, "77\n")
    tree = tree_of(node)
    found = tree.tick()
    assert tree.failures["too_many"] > 0
    assert len(found.pids[by_cgroup(found)[f"{POD}/{ID}"]]) <= 10
    assert found.pids[by_cgroup(found)[f"{POD}/{'b2' * 32}"]] == {77}
    tree.close()


def test_what_is_in_an_engines_container_that_is_a_pods_is_that_pods_too(tmp_path: Path) -> None:
    """A cluster in docker in docker: its pods are none of this cluster's."""
    other = POD.replace(POD[-12:], "222222222222")
    engine, nested = f"/docker/{'b2' * 32}", f"/docker/{'b2' * 32}{other}/{'c3' * 32}"
    node = node_with(tmp_path, {"/": 10, f"{POD}/{ID}": 5, engine: 5, nested: 5})
    tree = tree_of(node)
    found = tree.tick()
    keys = by_cgroup(found)
    assert found.containers[keys[nested]].pod_uid == other.rpartition("pod")[2]
    assert tree.attribute(keys[engine], found.containers[keys[f"{POD}/{ID}"]]) is not None
    write_usage(node, f"{engine}/docker/{'d4' * 32}", 5)
    found = tree.tick()
    uid = POD.rpartition("pod")[2]
    assert [each.pod_uid for each in found.containers.values() if each.cgroup != "/"] == [uid] * 4
    assert found.containers[keys[engine]].outer_cgroup == f"{POD}/{ID}"
    assert found.containers[keys[nested]].outer_cgroup == engine
    gone = ContainerKey("/gone", 1)
    assert tree.attribute(gone, found.containers[keys[engine]]) is None
    tree.close()


@settings(max_examples=examples(60), deadline=None)
@given(
    st.lists(
        st.binary(min_size=1, max_size=80).filter(
            lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
        ),
        min_size=1,
        max_size=6,
        unique=True,
    )
)
def test_no_bytes_in_a_name_stop_it(
    tmp_path_factory: pytest.TempPathFactory, names: list[bytes]
) -> None:
    node = node_with(tmp_path_factory.mktemp("node"), {"/": 10, f"{POD}/{ID}": 5})
    pod = node / "sys/fs/cgroup" / POD.lstrip("/")
    for name in names:
        for path in (os.fsencode(folder) + b"/" + name for folder in (pod / ID, pod)):
            if not os.path.exists(path):  # hypothesis knows the kernel's own file names by now
                os.mkdir(path)
    tree = tree_of(node)
    for container in tree.tick().containers.values():
        container.cgroup.encode("utf-8")
        assert (
            container.pod_uid == "" if container.kind is ContainerKind.HOST else container.pod_uid
        )
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


# The real kernel.


def real_tree(*, units: bool = True) -> CgroupTree:
    return CgroupTree(Path("/sys"), Path("/proc"), units=units)


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
    assert tree.unplaced == {sleeper.pid}
    container = tree.container_of(sleeper.pid)
    assert container is not None
    assert container.cgroup.endswith(ID)
    assert tree.unplaced == set()
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
    for _ in range(cgroups_module._TURNS):
        found = tree.tick()
    assert found.pids[keys[f"{TOP}{POD}/{ID}"]] == {processes[1].pid}
    assert processes[0].pid in found.pids[keys[f"{TOP}{POD}/{ID}/docker/{'b2' * 32}"]]
    tree.close()


def test_without_open_files_left_counters_are_opened_each_time(cgroups: CgroupFolders) -> None:
    for number in range(30):
        cgroups.make(f"{TOP}{POD}/{number:064x}")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = len(os.listdir("/proc/self/fd"))
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
    before = len(os.listdir("/proc/self/fd"))
    most = 2 * before + 20  # of which half is free
    containers = most // 2 + 10
    for number in range(containers):
        cgroups.make(f"{TOP}/docker/{number:064x}")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        tree = CgroupTree(Path("/sys"), Path("/proc"))
        found = tree.tick()
        assert len(os.listdir("/proc/self/fd")) - before <= most // 2
        assert tree.failures["open_files"] > 0
        ours = [key for key in found.cpu_s if key.cgroup.startswith(f"{TOP}/docker/")]
        assert len(ours) == containers
        tree.close()
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_counter_that_cannot_be_opened_now_is_not_the_nodes(
    cgroups: CgroupFolders, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups_module, "_SHARE_OF_FILES", 0.0)
    folder = cgroups.make(f"{POD}/{ID}")
    cgroups.put(programs.start("server", busy=False), folder)
    tree = CgroupTree(Path("/sys"), Path("/proc"), units=False)
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


def test_closing_gives_every_file_back(cgroups: CgroupFolders) -> None:
    cgroups.make(f"{TOP}{POD}/{ID}")
    before = len(os.listdir("/proc/self/fd"))
    tree = real_tree()
    tree.tick()
    tree.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_pure_v2_host(cgroups: CgroupFolders) -> None:
    """In a mount namespace of its own with v2 alone on /sys/fs/cgroup."""
    script = f"""
import os, subprocess, sys
from pathlib import Path
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
subprocess.run(["mount", "-t", "cgroup2", "none", "/sys/fs/cgroup"], check=True)
from minerwatch.node.cgroups import CgroupTree
tree = CgroupTree(Path("/sys"), Path("/proc"))
tree.tick()
folder = Path("/sys/fs/cgroup{TOP}-v2{POD}/{ID}")
folder.mkdir(parents=True)
child = subprocess.Popen(["sleep", "60"])
(folder / "cgroup.procs").write_text(str(child.pid))
try:
    found = tree.tick()
    (key,) = (key for key in found.containers if key.cgroup.endswith("{ID}"))
    assert found.pids[key] == {{child.pid}}, found.pids[key]
    second = subprocess.Popen(["sleep", "60"])
    (folder / "cgroup.procs").write_text(str(second.pid))
    # at once if it runs there, in the container's turn if it sleeps
    assert any(tree.tick().pids[key] == {{child.pid, second.pid}} for _ in range(9))
    second.kill(); second.wait()
    assert any(tree.tick().pids[key] == {{child.pid}} for _ in range(9))
    assert tree.source == "cgroup v2"
finally:
    child.kill(); child.wait()
    while folder != Path("/sys/fs/cgroup"):
        folder.rmdir(); folder = folder.parent
assert key in tree.tick().gone
print("seen")
"""
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", script],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    if "mount:" in done.stderr:
        pytest.skip(
            "cgroup2 cannot be mounted here (run it as root with SYS_ADMIN): "
            + done.stderr.strip()[-120:]
        )
    assert done.stdout == "seen\n", done.stderr


_SEEN_FROM_A_NAMESPACE = """
import sys
import time
from pathlib import Path
from minerwatch.node.cgroups import CgroupTree
tree = CgroupTree(Path("/sys"), Path("/proc"), units=False)
tree.tick()
for pid in sys.argv[1:]:
    found = tree.container_of(int(pid))
    print(found.container_id if found else None)
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare: apt install util-linux")
def test_a_container_is_found_from_within_a_cgroup_namespace(
    cgroups: CgroupFolders, programs: Programs
) -> None:
    """As a runtime gives one to the agent's own container."""
    own = cgroups.make(f"{TOP}/namespace/docker/" + container_id("0a"))
    other = cgroups.make(f"{TOP}/namespace/docker/" + container_id("0b"))
    inner = cgroups.make(f"{TOP}/namespace/docker/" + container_id("0a") + "/inner")
    neighbour, child = (programs.start(name, busy=False) for name in ("neighbour", "child"))
    cgroups.put(neighbour, other)
    cgroups.put(child, inner)
    join = f'echo $$ > {own}/cgroup.procs && exec unshare --cgroup "$@"'
    seen = subprocess.run(
        [
            *("sh", "-c", join, "sh", sys.executable, "-c", _SEEN_FROM_A_NAMESPACE),
            *(str(process.pid) for process in (neighbour, child)),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert seen.stdout.split() == [container_id("0b"), container_id("0a")]
