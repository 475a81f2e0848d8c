from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minerwatch.model import ContainerKey, ContainerKind
from tests.examples import examples
from tests.node.cgroup_nodes import (
    ID,
    POD,
    by_cgroup,
    node_with,
    tree_of,
    write_usage,
)


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
