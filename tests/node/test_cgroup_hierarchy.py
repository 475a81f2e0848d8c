from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minerwatch.errors import NodeError
from minerwatch.node.cgroups import CgroupTree
from tests.conftest import TOP, CgroupFolders, Programs, container_id
from tests.node.cgroup_nodes import (
    ID,
    NODES,
    POD,
    tree_of,
)

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


def test_a_node_without_cgroups_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="mount the host's /sys/fs/cgroup"):
        CgroupTree(tmp_path, tmp_path)


def test_v1_without_cpuacct_is_named(tmp_path: Path) -> None:
    for name in ("cpu", "memory"):
        folder = tmp_path / "fs" / "cgroup" / name
        folder.mkdir(parents=True)
        (folder / "cgroup.procs").touch()
    with pytest.raises(NodeError, match=r"v1 .* without cpuacct.*: boot the node with cgroup v2"):
        CgroupTree(tmp_path, tmp_path)


def test_a_part_of_the_tree_is_called_a_blind_spot(tmp_path: Path) -> None:
    shutil.copytree(NODES / "docker-systemd-v2", tmp_path / "node")
    (tmp_path / "node/sys/fs/cgroup/cgroup.type").write_text("domain\n")
    assert "only the cgroups below" in tree_of(tmp_path / "node").blind_spot


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
