"""Names of real containers, started by a real docker and podman."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest

from minerwatch.api.statuses import container_status
from minerwatch.model import Container, ContainerKind, Level, Observation, Verdict
from minerwatch.node.cgroups import CgroupTree
from minerwatch.node.host_view import HostView
from tests.conftest import needs_root
from tests.engines import IMAGE, Engine, docker, podman, short_folder
from tests.waiting import until

_NOBODY = 65534

pytestmark = [needs_root, pytest.mark.slow]


@pytest.fixture(params=[docker, podman], ids=["docker", "podman"], scope="module")
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    open_engine: Callable[[Path], AbstractContextManager[Engine]] = request.param
    with short_folder() as root, open_engine(root) as engine:
        yield engine


def _container_of(pid: int) -> Container:
    with closing(CgroupTree(Path("/sys"), Path("/proc"), units=True)) as tree:
        tree.tick()
        found = tree.container_of(pid)
    assert found is not None
    return found


def test_a_real_container_has_its_engines_name(engine: Engine) -> None:
    container_id = engine.start("shop-web-1", "sleep", "900")
    container = _container_of(engine.pid("shop-web-1"))
    assert (container.container_id, container.kind) == (container_id, ContainerKind.ENGINE)
    assert container.runtime == engine.name
    with closing(HostView(engine.root, "host-1")) as view:
        identity = view.identity(container)
        assert identity is not None
        verdict = Verdict(container.key, 0.0, 0.0, Level.CLEAR, 0.0, ())
        observation = Observation(container, 0.0, 0.0, 0.0, None, None, verdict, 1, ())
        status = container_status(observation, node="host-1", boot_unix_s=0.0, identity=identity)
        assert (status.namespace, status.pod, status.container) == ("", "", "shop-web-1")
        if engine.name == "docker":
            assert (status.image, status.owner) == (IMAGE, "shop")
            assert status.labels == {"com.docker.compose.project": "shop"}
            engine.run("rename", "shop-web-1", "renamed")
            fresh = view.fresh_identity(container)
            assert fresh is not None
            assert fresh.container == "renamed"


def test_a_container_that_a_user_made_without_root_is_that_users() -> None:
    for program in ("podman", "setpriv"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}: apt-get install --no-install-recommends podman")
    with short_folder() as root:
        home = root / "home"
        for folder in (home, root / "run", root / "rootfs", root / "etc"):
            folder.mkdir()
            os.chown(folder, _NOBODY, _NOBODY)
        root.chmod(0o755)
        (root / "etc" / "passwd").write_text(f"nobody:x:{_NOBODY}:{_NOBODY}::/home:/bin/sh\n")
        environment = {"HOME": str(home), "XDG_RUNTIME_DIR": str(root / "run")}
        command = [
            *("setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"),
            *("podman", "--cgroup-manager=cgroupfs", "--events-backend=file", "create"),
            *("--name=web", "--rootfs", str(root / "rootfs"), "/bin/true"),
        ]
        done = subprocess.run(
            command,
            env={**environment, "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=False,
            cwd=root,
        )
        _end_pause(root / "run")
        if done.returncode:
            pytest.skip(
                f"podman makes no container without root, run it on a host: {done.stderr[-300:]}"
            )
        container_id = done.stdout.split()[-1]
        slice_ = f"/user.slice/user-{_NOBODY}.slice"
        container = Container(
            f"{slice_}/user@{_NOBODY}.service/user.slice/libpod-{container_id}.scope",
            *(7, ContainerKind.ENGINE, container_id, "podman"),
        )
        with closing(HostView(root, "host-1")) as view:
            until(lambda: view.facts(container) != {})
            identity = view.identity(container)
        assert identity is not None
        assert identity.container == f"{_NOBODY}/web"
        assert identity.owner is not None
        assert identity.owner.name == "nobody"


def _end_pause(run: Path) -> None:
    """End the process that podman without root leaves behind, to keep its user namespace."""
    for file in run.rglob("pause.pid"):
        os.kill(int(file.read_text()), signal.SIGKILL)
