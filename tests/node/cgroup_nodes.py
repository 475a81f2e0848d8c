"""Recorded nodes, and nodes of plain files in which a test writes what the kernel would."""

from __future__ import annotations

from pathlib import Path

from minerwatch.model import ContainerKey
from minerwatch.node.cgroup_state import CgroupBounds
from minerwatch.node.cgroups import CgroupTick, CgroupTree
from tests.conftest import container_id

NODES = Path(__file__).parent.parent / "fixtures" / "nodes"
SCENARIOS = sorted(path.name for path in NODES.iterdir() if path.is_dir())
POD = "/kubepods/burstable/pod0f3c1a52-7d1e-4b6c-9a55-3b8a2f0d9c11"
ID = container_id("a1")


def tree_of(node: Path, *, units: bool = True, bounds: CgroupBounds | None = None) -> CgroupTree:
    return CgroupTree(node / "sys", node / "proc", units=units, bounds=bounds)


def by_cgroup(found: CgroupTick) -> dict[str, ContainerKey]:
    return {key.cgroup: key for key in found.containers}


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


def real_tree(*, units: bool = True) -> CgroupTree:
    return CgroupTree(Path("/sys"), Path("/proc"), units=units)
