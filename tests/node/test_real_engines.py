"""Names of real containers, started by a real docker and podman."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest

from minerwatch.api.snapshot import container_status
from minerwatch.model import Container, ContainerKind, Level, Observation, Verdict
from minerwatch.node.cgroups import CgroupTree
from minerwatch.node.host_view import HostView
from tests.conftest import needs_root
from tests.engines import IMAGE, Engine, docker, podman, short_folder

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
