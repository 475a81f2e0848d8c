"""Whether the agent itself may be kept from running: in real cgroups and in made-up trees."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from minerwatch.node.cpu_quota import OwnQuota
from tests.conftest import CGROUPS, TOP, CgroupFolders, needs_root

SAYS = "from minerwatch.node.cpu_quota import OwnQuota; print(OwnQuota().reason())"


@pytest.fixture
def folders() -> Iterator[CgroupFolders]:
    """In the hierarchy that has the CPU controller."""
    is_v2 = (CGROUPS / "cgroup.controllers").exists()
    root = CGROUPS if is_v2 else next((p for p in CGROUPS.glob("cpu*") if has_quota_file(p)), None)
    if root is None or not os.access(root, os.W_OK) or os.statvfs(root).f_flag & os.ST_RDONLY:
        pytest.skip(
            "makes cgroups with CPU quotas: run it as root where /sys/fs/cgroup is writable"
        )
    if is_v2 and "cpu" not in (root / "cgroup.subtree_control").read_text().split():
        pytest.skip("the CPU controller is not on below the root: run it under systemd")
    found = CgroupFolders(root)
    yield found
    found.close()


def has_quota_file(folder: Path) -> bool:
    return (folder / "cpu.cfs_quota_us").exists()


def limit(folder: Path) -> None:
    if (folder / "cpu.max").exists():
        (folder / "cpu.max").write_text("50000 100000")
    else:
        (folder / "cpu.cfs_quota_us").write_text("50000")


def said_in(folder: Path, *command: str) -> str:
    script = f'echo $$ >"{folder}/cgroup.procs" && exec "$@"'
    said = subprocess.run(
        ["sh", "-c", script, "sh", *command, sys.executable, "-c", SAYS],
        capture_output=True,
        text=True,
        check=True,
    )
    return said.stdout.strip()


@needs_root
@pytest.mark.parametrize("namespace", [(), ("unshare", "--cgroup")], ids=["", "own namespace"])
def test_a_quota_is_seen_wherever_it_is_set(
    folders: CgroupFolders, namespace: tuple[str, ...]
) -> None:
    without = folders.make(f"{TOP}/quota/without/agent")
    with_it = folders.make(f"{TOP}/quota/with/pod/agent")
    assert said_in(without, *namespace) == ""
    limit(with_it.parent.parent)
    reason = said_in(with_it, *namespace)
    assert reason.startswith("the agent has a CPU quota, and whoever it stops would stand still")
    assert f"limits.cpu; {with_it.parent.parent}/cpu." in reason


@needs_root
def test_one_that_is_set_later_is_seen(folders: CgroupFolders) -> None:
    folder = folders.make(f"{TOP}/quota/later")
    script = (
        "from minerwatch.node.cpu_quota import OwnQuota\n"
        "quota = OwnQuota()\n"
        "print(quota.reason()); input(); print(quota.reason())"
    )
    with subprocess.Popen(
        [
            "sh",
            "-c",
            f'echo $$ >"{folder}/cgroup.procs" && exec "$0" -c "$1"',
            sys.executable,
            script,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "\n"
        limit(folder)
        said, _ = process.communicate("\n")
    assert "a CPU quota" in said


def v2_tree(sys: Path, *, own_quota: str, outer_quota: str) -> Path:
    root = sys / "fs/cgroup"
    own = root / "kubepods.slice/pod/agent"
    own.mkdir(parents=True)
    (root / "cgroup.controllers").write_text("cpu\n")
    for folder, quota in ((own, own_quota), (own.parent, outer_quota)):
        (folder / "cpu.max").write_text(quota)
    (own / "cgroup.procs").write_text(f"1\n{os.getpid()}\n")
    return root


@pytest.mark.parametrize(
    ("own_quota", "outer_quota", "is_limited"),
    [
        ("max 100000\n", "max 100000\n", False),
        ("10000 100000\n", "max 100000\n", True),
        ("max 100000\n", "200000 100000\n", True),
        ("what is this\n", "max 100000\n", True),
        ("", "max 100000\n", True),
    ],
)
def test_a_tree_of_v2(
    tmp_path: Path, own_quota: str, outer_quota: str, *, is_limited: bool
) -> None:
    v2_tree(tmp_path, own_quota=own_quota, outer_quota=outer_quota)
    reason = OwnQuota(str(tmp_path)).reason()
    assert reason.startswith("the agent has a CPU quota") == is_limited
    assert bool(reason) == is_limited


def test_where_it_cannot_be_told_it_says_so(tmp_path: Path) -> None:
    assert "cannot be told" in OwnQuota(str(tmp_path)).reason()
    root = v2_tree(tmp_path, own_quota="max 100000", outer_quota="max 100000")
    (root / "cgroup.type").write_text("domain\n")  # so this is not the real root
    assert "mount the host's /sys/fs/cgroup" in OwnQuota(str(tmp_path)).reason()
    (root / "cgroup.type").unlink()
    (root / "kubepods.slice/pod/agent/cgroup.procs").write_text("1\n")  # nor are we in there
    assert "cannot be told" in OwnQuota(str(tmp_path)).reason()
