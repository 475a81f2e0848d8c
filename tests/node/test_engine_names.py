"""Names from the engines' files: the host's, a user's, and what a user may put in their place."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from minerwatch.model import Container, ContainerKind
from minerwatch.node.engine_files import COMPOSE_PROJECT
from minerwatch.node.engine_names import EngineNames, Home
from minerwatch.node.host_view import HostView
from tests.waiting import until

_ID = "1" * 64
_ALICE = os.geteuid()


class _Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> _Clock:
    return _Clock()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The host's root folder, with one user: the one that runs the test."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").write_text(f"alice:x:{_ALICE}:1::/home/alice:/bin/sh\n")
    (tmp_path / "home" / "alice").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def view(root: Path, clock: _Clock) -> Iterator[HostView]:
    with closing(HostView(root, "host-1", monotonic_s=clock, unix_s=lambda: 5e8)) as view:
        yield view


def _container(cgroup: str = f"/docker/{_ID}", runtime: str = "docker", **more: str) -> Container:
    return Container(cgroup, 7, ContainerKind.ENGINE, _ID, runtime, **more)


def _users(runtime: str = "podman") -> Container:
    slice_ = f"/user.slice/user-{_ALICE}.slice/user@{_ALICE}.service"
    return _container(f"{slice_}/user.slice/libpod-{_ID}.scope", runtime, outer_cgroup=slice_)


def _write_docker(root: Path, name: str, folder: str = "var/lib/docker") -> Path:
    path = root / folder / "containers" / _ID / "config.v2.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = {COMPOSE_PROJECT: "shop", "traefik.password": "hunter2"}
    config = {"Image": "shop/web:1.2", "Labels": labels}
    path.write_text(json.dumps({"ID": _ID, "Name": f"/{name}", "Config": config}))
    return path


def _write_podman(root: Path, name: str, driver: str = "overlay") -> Path:
    path = root / f"{driver}-containers" / "containers.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([{"id": _ID, "names": [name], "metadata": "{}"}]))
    return path


def test_name_image_labels_and_project_of_a_container(root: Path, view: HostView) -> None:
    _write_docker(root, "shop-web-1")
    found = view.identity(_container())
    assert found is not None
    assert (found.container, found.image) == ("shop-web-1", "shop/web:1.2")
    assert found.owner is not None
    assert (found.owner.name, found.owner.source) == ("shop", f"label {COMPOSE_PROJECT}")
    assert (found.pod.namespace, found.pod.name) == ("", "docker/shop-web-1")
    assert view.facts(_container()) == {
        "ContainerName": "shop-web-1",
        "ContainerImage": "shop/web:1.2",
    }


@pytest.mark.parametrize("driver", ["overlay", "vfs"])
def test_a_container_of_podman(root: Path, view: HostView, driver: str) -> None:
    _write_podman(root / "var/lib/containers/storage", "web", driver)
    found = view.identity(_container(f"/machine.slice/libpod-{_ID}.scope", "podman"))
    assert found is not None
    assert (found.container, found.pod.name) == ("web", "podman/web")


def test_folders_that_the_engines_configuration_names(root: Path, view: HostView) -> None:
    (root / "etc/docker").mkdir()
    (root / "etc/docker/daemon.json").write_text('{"data-root": "/data/docker"}')
    _write_docker(root, "moved", "data/docker")
    found = view.identity(_container())
    assert found is not None
    assert found.container == "moved"


def test_a_new_name_is_read_within_a_minute(root: Path, view: HostView, clock: _Clock) -> None:
    assert view.identity(_container()) is None
    _write_docker(root, "before")
    assert view.identity(_container()) is None  # looked for a moment ago
    clock.now_s += 10
    first = view.identity(_container())
    assert first is not None
    assert first.container == "before"
    _write_docker(root, "after")
    clock.now_s += 60
    second = view.identity(_container())
    assert second is not None
    assert second.container == "after"
    assert second.pod.created_unix_s == first.pod.created_unix_s
    _write_docker(root, "now")
    fresh = view.fresh_identity(_container())
    assert fresh is not None
    assert fresh.container == "now"


def test_a_users_container_has_the_number_in_its_name_and_the_user_as_owner(
    root: Path, view: HostView
) -> None:
    _write_podman(root / "home/alice/.local/share/containers/storage", "web")
    assert view.facts(_users()) == {}  # it is read by a thread
    until(lambda: view.facts(_users()) != {})
    found = view.identity(_users())
    assert found is not None
    assert found.container == f"{_ALICE}/web"
    assert found.pod.name == f"podman/{_ALICE}/web"
    assert found.owner is not None
    assert found.owner.name == found.pod.service_account == "alice"


def test_a_users_container_without_a_name_is_that_users(view: HostView) -> None:
    found = view.identity(_users())
    assert found is not None
    assert found.owner is not None
    assert found.owner.name == "alice"
    assert (found.container, found.pod.name) == (_ID[:12], f"{_ALICE}/{_ID[:12]}")


def test_no_user_can_name_a_cgroup_after_a_container_of_the_host(
    root: Path, view: HostView
) -> None:
    _write_docker(root, "postgres")
    _write_podman(root / "var/lib/containers/storage", "postgres")
    for runtime in ("docker", "podman", ""):
        assert view.facts(_users(runtime)) == {}
    nested = _container(f"/docker/{'2' * 64}/docker/{_ID}", outer_cgroup=f"/docker/{'2' * 64}")
    assert view.identity(nested) is None


def test_a_service_with_cgroups_of_its_own_cannot_claim_a_container_of_docker(
    root: Path, view: HostView
) -> None:
    _write_docker(root, "postgres")
    _write_podman(root / "var/lib/containers/storage", "web")
    below = f"/system.slice/ci.service/docker-{_ID}.scope"
    assert view.identity(_container(below)) is None
    assert view.identity(_container(below, "")) is None


@pytest.mark.parametrize(
    ("asked", "is_named"),
    [
        (f"/system.slice/web.service/libpod-payload-{_ID}", True),
        (f"/system.slice/my-web.service/libpod-payload-{_ID}", False),
        (f"machine.slice:libpod:{_ID}", False),
        (None, False),
    ],
)
def test_a_service_has_a_container_of_podmans_only_if_podman_put_it_there(
    root: Path, view: HostView, asked: str | None, *, is_named: bool
) -> None:
    store = root / "var/lib/containers/storage"
    _write_podman(store, "web")
    bundle = store / f"overlay-containers/{_ID}/userdata/config.json"
    bundle.parent.mkdir(parents=True)
    bundle.write_text("{" if asked is None else json.dumps({"linux": {"cgroupsPath": asked}}))
    below = _container(f"/system.slice/web.service/libpod-payload-{_ID}", "podman")
    assert (view.identity(below) is not None) == is_named
    for claimed in ("web.service", "system.slice/web.service"):
        inside = f"/system.slice/evil.service/{claimed}/libpod-payload-{_ID}"
        assert view.identity(_container(inside, "podman")) is None


def test_a_users_store_names_no_container_of_the_host(root: Path, view: HostView) -> None:
    _write_podman(root / "home/alice/.local/share/containers/storage", "innocent")
    assert view.identity(_container(runtime="podman")) is None
    assert view.identity(_container(runtime="")) is None


def test_a_unit_has_its_name_and_the_user_of_its_slice(view: HostView) -> None:
    system = Container("/system.slice/a.service", 3, ContainerKind.UNIT, "a.service", "systemd")
    found = view.identity(system)
    assert found is not None
    assert (found.container, found.pod.name, found.owner) == ("a.service", "a.service", None)
    session = Container(
        f"/user.slice/user-{_ALICE}.slice/session-3.scope",
        *(4, ContainerKind.UNIT, "session-3.scope", "systemd"),
    )
    found = view.identity(session)
    assert found is not None
    assert found.container == "session-3.scope"
    assert found.owner is not None
    assert found.owner.name == "alice"
    unknown = Container("/user.slice/user-99999.slice/x.scope", 5, *_unit("x.scope"))
    found = view.identity(unknown)
    assert found is not None
    assert found.owner is not None
    assert found.owner.name == "99999"
    host = Container("/", 1, ContainerKind.HOST, "host", "kernel")
    assert view.identity(host) is None
    assert {pod.name for pod in view.pods()} == {
        *("a.service", f"{_ALICE}/session-3.scope", "99999/x.scope")
    }


def _unit(name: str) -> tuple[ContainerKind, str, str]:
    return ContainerKind.UNIT, name, "systemd"


# What a user may put where the agent reads.


@pytest.fixture
def storage(root: Path) -> Path:
    return root / "home/alice/.local/share/containers/storage"


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_PATH)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _refused(view: HostView) -> bool:
    view.identity(_users())
    return any(count for _, reason, count in view.failures() if reason != "crowded")


def test_a_link_in_a_users_home_is_not_followed(root: Path, view: HostView, storage: Path) -> None:
    secret = _write_podman(root / "elsewhere", "secret")
    (storage / "overlay-containers").mkdir(parents=True)
    (storage / "overlay-containers" / "containers.json").symlink_to(secret)
    until(lambda: _refused(view))
    assert view.facts(_users()) == {}


def test_a_linked_folder_in_a_users_home_is_not_followed(
    root: Path, view: HostView, storage: Path
) -> None:
    _write_podman(root / "elsewhere", "secret")
    storage.parent.mkdir(parents=True)
    storage.symlink_to(root / "elsewhere")
    until(lambda: _refused(view))
    assert view.facts(_users()) == {}


def test_a_pipe_a_socket_and_a_folder_are_no_store(view: HostView, storage: Path) -> None:
    path = storage / "overlay-containers" / "containers.json"
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    vfs = storage / "vfs-containers"
    vfs.mkdir()
    with socket.socket(socket.AF_UNIX) as bound, _opened(vfs) as folder:
        bound.bind(f"/proc/self/fd/{folder}/containers.json")
        (storage / "btrfs-containers" / "containers.json").mkdir(parents=True)
        until(lambda: _refused(view))
    assert view.facts(_users()) == {}


def test_a_file_that_is_too_large_is_not_read(view: HostView, storage: Path) -> None:
    path = _write_podman(storage, "web")
    os.truncate(path, 1 << 40)
    until(lambda: _refused(view))
    assert view.facts(_users()) == {}


def test_another_users_file_is_not_read(root: Path, view: HostView, storage: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to give a file away: run it as root")
    os.chown(_write_podman(storage, "web"), 65534, -1)
    until(lambda: _refused(view))
    assert view.facts(_users()) == {}


def test_a_user_with_many_cgroups_waits_alone(root: Path) -> None:
    with closing(EngineNames()) as names:
        home = Home(str(root / "home" / "alice"), _ALICE)
        for number in range(5000):
            users = Container(f"/u/{number}", number, ContainerKind.ENGINE, _ID, "podman")
            names.of(users, home)
        assert names.failures["crowded"] > 0
        _write_docker(root, "web")
        found = names.of(_container(), Home(str(root)))
        assert found is not None
        assert found.name == "web"


def test_reading_users_files_rests_and_is_ended_at_once(root: Path, storage: Path) -> None:
    _write_podman(storage, "web")
    with closing(EngineNames(cpu_share=1e-9)) as names:  # the first file costs hours of rest
        home = Home(str(root / "home" / "alice"), _ALICE)
        other = replace(_users(), cgroup="/user.slice/other")
        until(lambda: names.of(_users(), home) is not None)
        names.of(other, home)
        assert names.of(other, home) is None
    until(lambda: not any("users' containers" in each.name for each in threading.enumerate()))
