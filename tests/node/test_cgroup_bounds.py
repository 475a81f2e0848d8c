"""Cgroups without number or end: they cost little, hide no process, and blind for nobody else."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minerwatch.model import ContainerKey
from minerwatch.node.cgroup_state import CgroupBounds
from minerwatch.node.cgroups import CgroupTick, CgroupTree
from minerwatch.node.proc_files import read_once
from tests.conftest import TOP, CgroupFolders, Programs
from tests.examples import examples

POD = "/kubepods/burstable/pod0f3c1a52-7d1e-4b6c-9a55-3b8a2f0d9c11"
POD2 = "/kubepods/burstable/pod77b0a4de-51c2-4f7e-8e0a-6a1b9d3c5e22"
ID, ID2 = "a1" * 32, "b2" * 32
USER = "/user.slice/user-1000.slice/user@1000.service"


def key_of(found: CgroupTick, cgroup: str) -> ContainerKey:
    return next(key for key in found.containers if key.cgroup == cgroup)


def over_bound(found: CgroupTick) -> set[str]:
    return {key.cgroup for key in found.over_bound}


class PlainNode:
    """A tree of plain files: what the kernel would write is written here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "sys/fs/cgroup"
        self.add("/")
        (self.root / "cgroup.controllers").write_text("cpu\n")
        (folder / "proc").mkdir()

    def add(self, cgroup: str, *pids: int) -> None:
        folder = self.root / cgroup.lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.stat").write_text("usage_usec 5\n")
        (folder / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
        for pid in pids:
            place = self.folder / "proc" / str(pid)
            place.mkdir()
            (place / "cgroup").write_text(f"0::{cgroup}\n")

    def add_many(self, cgroup: str, count: int) -> None:
        """Bare folders, as a tenant makes them."""
        above = self.root / cgroup.lstrip("/")
        above.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (above / f"{number:064x}").mkdir()

    def tree(self, *, units: bool = True, **bounds: int) -> CgroupTree:
        return CgroupTree(
            self.folder / "sys",
            self.folder / "proc",
            units=units,
            bounds=CgroupBounds(**bounds),
        )


@pytest.fixture
def node(tmp_path: Path) -> PlainNode:
    return PlainNode(tmp_path)


def test_long_paths_count_as_several_cgroups(node: PlainNode) -> None:
    """Tenants' text is bounded in bytes: a byte that is no UTF-8 is kept as five."""
    deep = "/".join([f"/docker/{ID}", *["x" * 250] * 6])
    node.add(f"/docker/{ID}", 7)
    node.add_many(deep, 3900)
    node.add(f"/docker/{ID2}", 8)
    found = node.tree().tick()
    below = [key for key in found.containers if key.cgroup.startswith(deep)]
    assert 900 < len(below) < 1100
    assert over_bound(found) == {f"/docker/{ID}"}
    assert found.pids[key_of(found, f"/docker/{ID2}")] == {8}


@pytest.mark.parametrize(
    ("outermost", "within"),
    [
        (USER, f"{USER}/a.service"),
        (f"/docker/{ID}", f"/docker/{ID}/docker/{ID2}"),
        (f"{POD}/{ID}", f"{POD}/{ID}/docker/{ID2}"),
    ],
)
def test_nested_containers_share_the_turns_and_bounds_of_the_outermost(
    node: PlainNode, outermost: str, within: str
) -> None:
    """Else a pair of cgroups for each turn would starve all others."""
    for number in range(20):
        node.add(f"{within}{number}.service/{number:064x}/docker/{number + 100:064x}")
    found = node.tree().tick()
    owners = {each.owner for each in found.containers.values() if each.cgroup.startswith(outermost)}
    assert len(owners) == 1
    assert sum(each.cgroup.startswith(outermost) for each in found.containers.values()) > 40


@pytest.mark.parametrize(
    "hostile",
    [
        USER,
        f"{USER}/kubepods/pod0f3c1a52-7d1e-4b6c-9a55-3b8a2f0d9c11",
        f"{POD2}/{ID2}",
        f"/docker/{ID2}",
    ],
)
@pytest.mark.parametrize("units", [True, False])
def test_cgroups_by_the_thousand_hide_no_new_pod(
    node: PlainNode, hostile: str, *, units: bool
) -> None:
    node.add(USER)
    node.add(f"{POD2}/{ID2}")
    node.add(f"/docker/{ID2}")
    node.add_many(f"{hostile}/made", 8_000)
    tree = node.tree(units=units)
    tree.tick()
    node.add(f"{POD}/{ID}", 77)
    node.add("/system.slice/new.service", 78)
    node.add(f"{POD2}/{ID}", 79)
    found = tree.tick()
    assert found.pids[key_of(found, f"{POD}/{ID}")] == {77}
    assert found.pids[key_of(found, f"{POD2}/{ID}")] == {79}
    if units:
        assert found.pids[key_of(found, "/system.slice/new.service")] == {78}
    if units or "user@" not in hostile:
        expected = USER if hostile.startswith(USER) else hostile
        assert over_bound(found) == {expected}
    assert tree.over_bound_count == 1
    assert len(found.containers) < 6000
    tree.close()


def test_of_a_user_without_bound_the_pods_of_the_whole_node_can_still_come(node: PlainNode) -> None:
    node.add_many(f"{USER}/made", 6000)
    tree = node.tree()
    for number in range(500):
        for id_ in (ID, ID2):
            node.add(f"{POD[:-4]}{number:04}/{id_}")
    found = tree.tick()
    assert sum(key.cgroup.startswith("/kubepods/") for key in found.containers) == 1000
    tree.close()


def test_kubernetes_own_cgroups_count_apart_wherever_they_are(node: PlainNode) -> None:
    service = "/system.slice/containerd.service"
    node.add_many(f"{service}/made", 50)
    tree = node.tree(below_other=10)
    uid = "0f3c1a52_7d1e_4b6c_9a55_3b8a2f0d9c11"
    name = f"{service}/kubepods-burstable-pod{uid}.slice:cri-containerd:{ID}"
    node.add(name, 77)
    found = tree.tick()
    assert found.pids[key_of(found, name)] == {77}
    assert over_bound(found) == {service}
    tree.close()


def test_what_all_tenants_share_leaves_some_for_each_and_accuses_only_those_over_their_own_bound(
    node: PlainNode,
) -> None:
    pods = [f"{POD[:-1]}{number}/{ID}" for number in range(4)]
    for pod in pods[:3]:
        node.add(pod)
        node.add_many(pod, 200)
    node.add(pods[3])
    node.add_many(f"{pods[3]}/docker", 15)
    found = node.tree(below_pod=60, tenants=100, guaranteed=20).tick()
    nested = [sum(key.cgroup.startswith(pod) for key in found.containers) - 1 for pod in pods]
    assert nested[3] == 15
    assert min(nested[:3]) == 20
    assert max(nested[:3]) == 60
    assert len(over_bound(found)) == 1


def test_what_there_is_room_for_again_is_seen(node: PlainNode) -> None:
    node.add(f"{POD}/{ID}")
    node.add_many(f"{POD}/{ID}", 8)
    for number in range(8):
        node.add(f"{POD}/{ID}/{number:064x}", 100 + number)
    tree = node.tree(below_pod=5)
    found = tree.tick()
    pids = found.pids[key_of(found, f"{POD}/{ID}")]
    assert len(pids) == 3
    assert set().union(*found.pids.values()) == set(range(100, 108))
    for number in range(5):
        folder = node.root / f"{POD}/{ID}/{number:064x}".lstrip("/")
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
        (node.folder / f"proc/{100 + number}/cgroup").unlink()
        (node.folder / f"proc/{100 + number}").rmdir()
    for _ in range(9):  # it sleeps: in its turn
        found = tree.tick()
    assert over_bound(found) == set()
    assert tree.over_bound_count == 0
    assert found.pids[key_of(found, f"{POD}/{ID}")] == set()
    assert set().union(*found.pids.values()) == {105, 106, 107}
    tree.close()


def test_a_line_beyond_the_first_page_says_where_a_process_is(node: PlainNode) -> None:
    """On v1 each hierarchy has a line of its own, and a tenant chooses how long they are."""
    node.add(f"{POD}/{ID}")
    (node.folder / "proc/7").mkdir()
    lines = "".join(f"{n}:c{n}:{POD}/{ID}/{'x' * 200}\n" for n in range(30, 1, -1))
    (node.folder / "proc/7/cgroup").write_text(f"{lines}0::{POD}/{ID}/{'x' * 200}\n")
    found = node.tree().container_of(7)
    assert found is not None
    assert found.container_id == ID


# The real kernel.


def sleeper(folder: Path, cgroups: CgroupFolders, programs: Programs) -> int:
    process = programs.start("waits", busy=False)
    cgroups.put(process, folder)
    return process.pid


def test_a_process_in_a_cgroup_beyond_the_bound_is_the_containers(
    cgroups: CgroupFolders, programs: Programs
) -> None:
    above = f"{TOP}{POD}"
    cgroups.make(f"{above}/{ID}")
    folders = [cgroups.make(f"{above}/{ID}/{number:064x}") for number in range(22)]
    bounds = CgroupBounds(below_pod=20)
    tree = CgroupTree(Path("/sys"), Path("/proc"), units=False, bounds=bounds)
    found = tree.tick()
    known = {key.cgroup for key in found.containers}
    hidden = [each for each in folders if f"{above}/{ID}/{each.name}" not in known]
    assert len(hidden) == 2
    pids = {sleeper(folder, cgroups, programs) for folder in hidden}
    found = tree.tick()
    assert found.pids[key_of(found, f"{above}/{ID}")] == pids
    assert key_of(found, f"{above}/{ID}") in found.changed
    assert over_bound(found) == {f"{above}/{ID}"}
    for pid in pids:
        container = tree.container_of(pid)
        assert container is not None
        assert container.cgroup == f"{above}/{ID}"
    tree.close()


def test_a_process_deeper_than_is_listed_is_its_nearest_known_ancestors(
    cgroups: CgroupFolders, programs: Programs
) -> None:
    above = f"{TOP}{POD}"
    cgroups.make(f"{above}/{ID}")
    deepest = cgroups.make(f"{above}/{ID}" + "/x" * 40)
    pid = sleeper(deepest, cgroups, programs)
    tree = CgroupTree(Path("/sys"), Path("/proc"), units=False)
    found = tree.tick()
    assert found.pids[key_of(found, f"{above}/{ID}")] == {pid}
    assert over_bound(found) == {f"{above}/{ID}"}
    tree.close()


@pytest.fixture
def endless(cgroups: CgroupFolders) -> Iterator[tuple[Path, int]]:
    """A container's cgroup, and a descriptor of one below it whose path is longer than a page."""
    top = cgroups.make(f"{TOP}{POD}/{ID}")
    fds = [os.open(top, os.O_RDONLY | os.O_DIRECTORY)]
    try:
        for _ in range(24):
            os.mkdir("x" * 200, dir_fd=fds[-1])
            fds.append(os.open("x" * 200, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fds[-1]))
        yield top, fds[-1]
    finally:
        for fd in reversed(fds[:-1]):
            empty(fds[-1])
            os.close(fds.pop())
            os.rmdir("x" * 200, dir_fd=fd)
        os.close(fds[0])


def empty(folder: int) -> None:
    """Ends what is in a cgroup."""
    fd = os.open("cgroup.procs", os.O_RDONLY, dir_fd=folder)
    try:
        while pids := os.pread(fd, 4096, 0).split():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.01)
            os.close(fd)
            fd = os.open("cgroup.procs", os.O_RDONLY, dir_fd=folder)
    finally:
        os.close(fd)


def test_a_process_whose_cgroup_the_kernel_cannot_show_is_its_parents_containers(
    cgroups: CgroupFolders, programs: Programs, endless: tuple[Path, int]
) -> None:
    top, deepest = endless
    shell = programs.run(["sh", "-c", "sleep 600 & wait"])
    cgroups.put(shell, top)
    below = child_of(shell.pid)
    fd = os.open("cgroup.procs", os.O_WRONLY, dir_fd=deepest)
    try:
        os.write(fd, b"%d" % below)
    finally:
        os.close(fd)
    with suppress(OSError):  # older kernels refuse, newer ones show the path's beginning
        assert b"x" * 200 in Path(f"/proc/{below}/cgroup").read_bytes()
    tree = CgroupTree(Path("/sys"), Path("/proc"), units=False)
    found = tree.tick()
    (key,) = (key for key in found.containers if key.cgroup.startswith(TOP))
    assert found.pids[key] == {shell.pid, below}
    assert found.over_bound == {key}
    container = tree.container_of(below)
    assert container is not None
    assert container.key == key
    tree.close()


def test_where_the_kernel_refuses_to_show_a_cgroup_the_parents_counts(
    node: PlainNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As before Linux 6.7, where the path is longer than a page."""
    node.add(f"{POD}/{ID}", 7)
    for pid, parent in ((8, 7), (9, 8)):
        (node.folder / f"proc/{pid}").mkdir()
        (node.folder / f"proc/{pid}/stat").write_text(f"{pid} (a) S 1) S {parent} 1 1 0\n")

    def refusing(path: bytes, limit_bytes: int) -> bytes:
        if path.endswith((b"/8/cgroup", b"/9/cgroup")):
            raise OSError(errno.ENAMETOOLONG, "File name too long")
        return read_once(path, limit_bytes)

    monkeypatch.setattr("minerwatch.node.cgroup_files.read_once", refusing)
    found = node.tree().container_of(9)
    assert found is not None
    assert found.container_id == ID


def child_of(pid: int) -> int:
    while True:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if children:
            return int(children[0])


# Each process belongs to exactly one container, whatever the tree and however small the bounds.

_NAMES = (
    *("kubepods", "burstable", POD.rpartition("/")[2], POD2.rpartition("/")[2], ID, ID2),
    *("docker", "buildkit", "t4967jvf8rbufklrhkicskyes", "lxc", "lxc.payload.a", "job_7"),
    *("system.slice", "a.service", "b.scope", "user@1000.service", "slurmstepd.scope"),
    *("crio-conmon-x.scope", "x", "y"),
)


@settings(max_examples=examples(60))
@given(
    st.lists(st.lists(st.sampled_from(_NAMES), min_size=0, max_size=7), min_size=1, max_size=30),
    st.integers(1, 40),
    st.integers(1, 9),
)
def test_each_process_belongs_to_one_container_at_or_above_its_cgroup(
    tmp_path_factory: pytest.TempPathFactory, places: list[list[str]], most: int, deepest: int
) -> None:
    node = PlainNode(tmp_path_factory.mktemp("node"))
    placed: dict[int, str] = {}
    tree = node.tree(
        below_pod=most,
        below_other=most,
        node=2 * most,
        tenants=2 * most,
        guaranteed=1,
        depth=deepest,
    )
    for number, names in enumerate(places):
        pid = 100 + number
        placed[pid] = "/" + "/".join(names)
        above = [f"/{'/'.join(names[:depth])}" for depth in range(1, len(names))]
        for cgroup in above:
            if not (node.root / cgroup.lstrip("/") / "cgroup.procs").exists():
                node.add(cgroup)
        node.add(placed[pid])
        folder = node.root / placed[pid].lstrip("/")
        members = [each for each, cgroup in placed.items() if cgroup == placed[pid]]
        (folder / "cgroup.procs").write_text("".join(f"{each}\n" for each in members))
        (node.folder / f"proc/{pid}").mkdir()
        (node.folder / f"proc/{pid}/cgroup").write_text(f"0::{placed[pid]}\n")
        if number % 7 == 0:
            tree.tick()
    for _ in range(20):
        found = tree.tick()
    assert sorted(pid for pids in found.pids.values() for pid in pids) == sorted(placed)
    for key, pids in found.pids.items():
        for pid in pids:
            assert f"{placed[pid]}/".startswith(f"{key.cgroup.rstrip('/')}/")
    tree.close()
