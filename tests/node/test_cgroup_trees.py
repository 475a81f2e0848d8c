"""Layouts of cgroups as runtimes, guests and batch systems make them: whose is each process?"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from minerwatch.model import Container, ContainerKind
from minerwatch.node.cgroups import CgroupTick, CgroupTree

FIXTURE = Path(__file__).parent.parent / "fixtures" / "cgroup_trees.yaml"
UID = "0f3c1a52-7d1e-4b6c-9a55-3b8a2f0d9c11"
UID2 = "77b0a4de-51c2-4f7e-8e0a-6a1b9d3c5e22"
WORDS = {
    **{
        letter: digits * 32 for letter, digits in zip("ABCD", ("a1", "b2", "c3", "d4"), strict=True)
    },
    "E": "t4967jvf8rbufklrhkicskyes",
    "UID": UID,
    "UID2": UID2,
    "S_UID": UID.replace("-", "_"),
    "S_UID2": UID2.replace("-", "_"),
}
_WORD = re.compile(r"(?<![A-Za-z])(?:pod)?(S_UID2|S_UID|UID2|UID|[A-E])(?![A-Za-z])")


def spelled_out(text: str) -> str:
    """``text`` with the ids that its capital letters stand for."""
    return _WORD.sub(lambda match: match[0].replace(match[1], WORDS[match[1]]), text)


@dataclass(frozen=True, slots=True)
class Tree:
    layout: str
    cgroups: dict[str, list[int]]
    right: dict[str, dict[str, Any]]


def _tree(raw: dict[str, Any]) -> Tree:
    return Tree(
        raw.get("layout", "v2"),
        {spelled_out(path): pids for path, pids in raw["cgroups"].items()},
        {
            spelled_out(path): {
                key: spelled_out(value) if isinstance(value, str) else value
                for key, value in found.items()
            }
            for path, found in raw["right"].items()
        },
    )


TREES = {name: _tree(raw) for name, raw in yaml.load(FIXTURE.read_text(), yaml.CSafeLoader).items()}


def write(node: Path, tree: Tree) -> Path:
    is_v1 = tree.layout == "v1"
    root = node / "sys/fs/cgroup" / ("cpu,cpuacct" if is_v1 else "")
    folders = dict(tree.cgroups)
    for path in tree.cgroups:
        for above in Path(path).parents:
            folders.setdefault(str(above), [])
    for path, pids in folders.items():
        folder = root / path.lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
        usage = ("cpuacct.usage", "1000\n") if is_v1 else ("cpu.stat", "usage_usec 1\n")
        (folder / usage[0]).write_text(usage[1])
        for pid in pids:
            place = node / "proc" / str(pid)
            place.mkdir(parents=True)
            lines = f"4:cpu,cpuacct:{path}\n1:name=systemd:/\n" if is_v1 else f"0::{path}\n"
            (place / "cgroup").write_text(lines)
    if not is_v1:
        (root / "cgroup.controllers").write_text("cpu\n")
    return node


def shown(found: CgroupTick) -> dict[str, dict[str, Any]]:
    return {key.cgroup: _as_in_fixture(each, found) for key, each in found.containers.items()}


def _as_in_fixture(container: Container, found: CgroupTick) -> dict[str, Any]:
    fields = {
        "kind": container.kind.value,
        "id": container.container_id,
        "runtime": container.runtime,
        "pod": container.pod_uid,
        "outer": container.outer_cgroup,
        "pids": sorted(found.pids[container.key]),
    }
    return {name: value for name, value in fields.items() if value}


@pytest.mark.parametrize("name", TREES)
def test_each_process_belongs_to_what_it_should(name: str, tmp_path: Path) -> None:
    tree = TREES[name]
    node = write(tmp_path, tree)
    cgroups = CgroupTree(node / "sys", node / "proc")
    cgroups.tick()
    found = cgroups.tick()  # what two places claim is settled by then, in whatever order they came
    of_host = shown(found).pop("/")
    assert {path: each for path, each in shown(found).items() if path != "/"} == tree.right
    pids = {pid for those in tree.cgroups.values() for pid in those}
    assert set().union(*found.pids.values()) == pids
    owners = {pid: path for path, each in tree.right.items() for pid in each.get("pids", ())}
    assert set(of_host.get("pids", ())) == pids - owners.keys()
    for pid in pids:
        container = cgroups.container_of(pid)
        assert container is not None
        assert container.cgroup == owners.get(pid, "/")
    assert not any(cgroups.failures.values())
    cgroups.close()


@pytest.mark.parametrize("name", TREES)
def test_without_units_pods_and_engines_containers_are_the_same(name: str, tmp_path: Path) -> None:
    tree = TREES[name]
    node = write(tmp_path, tree)
    cgroups = CgroupTree(node / "sys", node / "proc", units=False)
    cgroups.tick()
    found = cgroups.tick()
    engines = (ContainerKind.POD, ContainerKind.ENGINE)
    is_unit = {path for path, each in tree.right.items() if each["kind"] not in engines}
    expected = {
        path: {key: value for key, value in each.items() if key != "outer" or value not in is_unit}
        for path, each in tree.right.items()
        if path not in is_unit
    }
    assert shown(found) == expected
    cgroups.close()
