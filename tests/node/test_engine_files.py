"""What docker's and podman's files say of a container; the texts are theirs, shortened."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minerwatch.model import Container, ContainerKind
from minerwatch.node.engine_files import (
    COMPOSE_PROJECT,
    MAX_LABELS,
    MAX_NAME_CHARS,
    docker_container,
    docker_data_root,
    podman_containers,
    podman_graph_root,
    user_of,
)
from tests.examples import examples

_ID = "110db06ed0fb5be50d24a77aceeb44edc9c002eb6ea56491a8f1138d1239985c"


def _docker(**changes: object) -> bytes:
    config: dict[str, object] = {
        "ID": _ID,
        "Name": "/shop-web-1",
        "Image": "sha256:fa504d0e265fe4bb9c9943c65a8408cd08ab2dd9bfeb32e2f79628ac5f31df05",
        "Created": "2026-11-29T22:39:52.305174817Z",
        "State": {"Running": True, "Paused": False, "Pid": 22956},
        "Config": {
            "Image": "shop/web:1.2",
            "Env": ["SECRET=x"],
            "Labels": {COMPOSE_PROJECT: "shop", "com.docker.compose.service": "web"},
        },
    }
    return json.dumps({**config, **changes}).encode()


def _podman(*containers: dict[str, object]) -> bytes:
    return json.dumps(containers).encode()


def test_a_container_of_docker() -> None:
    found = docker_container(_docker(), _ID)
    assert found is not None
    assert (found.engine, found.name, found.image) == ("docker", "shop-web-1", "shop/web:1.2")
    assert found.labels == {COMPOSE_PROJECT: "shop", "com.docker.compose.service": "web"}
    assert not found.is_paused


def test_a_paused_container_of_docker() -> None:
    found = docker_container(_docker(State={"Paused": True}), _ID)
    assert found is not None
    assert found.is_paused


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        _docker(ID="0" * 64),  # another container's file
        _docker(Name="/"),
        _docker(Name=None),
        b"[" * 100_000,
    ],
)
def test_a_damaged_file_of_docker_is_no_container(body: bytes) -> None:
    assert docker_container(body, _ID) is None


def test_labels_are_bounded_and_the_project_is_kept() -> None:
    many = {f"a{number}": "x" * 9999 for number in range(999)}
    found = docker_container(_docker(Config={"Labels": {**many, COMPOSE_PROJECT: "shop"}}), _ID)
    assert found is not None
    assert len(found.labels) == MAX_LABELS
    assert found.labels[COMPOSE_PROJECT] == "shop"
    assert sum(map(len, found.labels.values())) < 8192


def test_containers_of_podman() -> None:
    body = _podman(
        {
            "id": "a" * 64,
            "names": ["web1"],
            "image": "6c2a",
            "metadata": '{"image-name":"docker.io/library/nginx:1","name":"web","created-at":1}',
        },
        {"id": "b" * 64, "names": ["by-name"], "metadata": "{"},
        {"id": "c" * 64, "names": None},
    )
    found = podman_containers(body)
    assert {each.name for each in found.values()} == {"web", "by-name"}
    assert found["a" * 64].image == "docker.io/library/nginx:1"
    assert podman_containers(body, most=1).keys() == {"a" * 64}


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b"\xff", b"[" * 100_000])
def test_a_damaged_store_of_podman_is_empty(body: bytes) -> None:
    assert podman_containers(body) == {}


@settings(max_examples=examples(200))
@given(st.text(st.characters(), min_size=1))
def test_names_are_valid_unicode_and_bounded(name: str) -> None:
    found = docker_container(_docker(Name=name), _ID)
    if found is not None:
        found.name.encode()
        assert len(found.name) <= MAX_NAME_CHARS * 6  # escapes of surrogates
    for each in podman_containers(_podman({"id": "a", "names": [name]})).values():
        each.name.encode()


def test_folders_that_the_operator_has_moved() -> None:
    assert docker_data_root(b'{"data-root": "/data/docker", "debug": true}') == "/data/docker"
    assert docker_data_root(b'{"debug": true}') == docker_data_root(b"{") == ""
    assert podman_graph_root(b'[storage]\ngraphroot = "/data/c"\n') == "/data/c"
    assert podman_graph_root(b"[storage]\n") == podman_graph_root(b"\xff") == ""
    assert podman_graph_root(b"storage = 1") == podman_graph_root(b"[storage]\ngraphroot=1") == ""


@pytest.mark.parametrize(
    ("cgroup", "user"),
    [
        ("/user.slice/user-1000.slice/session-3.scope", 1000),
        ("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-x.scope", 1000),
        ("/user.slice/user-1000.slice", 1000),
        ("/slurm/uid_1001/job_7", 1001),
        ("/system.slice/docker-x.scope", None),
        ("/system.slice/user.slice/user-1000.slice/x", None),
        ("/user.slice/user-1000.slicer/x", None),
        ("/docker/user.slice/user-0.slice", None),
        ("/", None),
    ],
)
def test_the_user_of_a_cgroup_is_what_systemd_made_of_it(cgroup: str, user: int | None) -> None:
    assert user_of(Container(cgroup, 1, ContainerKind.UNIT, "x", "systemd")) == user
