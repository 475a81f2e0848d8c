"""Commands of the pages for docker and podman, by engines of the test's own."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.conftest import needs_root
from tests.docs.classes import way_of
from tests.docs.commands import Command, commands
from tests.engines import Engine, docker, podman, short_folder
from tests.test_documents import FOLDER

pytestmark = [needs_root, pytest.mark.slow]

_SBOM = "opt/minerwatch/share/minerwatch/sbom.cdx.json"


@pytest.fixture(params=[docker, podman], ids=["docker", "podman"], scope="module")
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    open_engine: Callable[[Path], AbstractContextManager[Engine]] = request.param
    with short_folder() as root, open_engine(root) as engine:
        yield engine


def _of(program: str) -> list[Command]:
    return [
        each
        for each in commands()
        if each.words[0] == program
        and way_of(each).why == Path(__file__).name
        and each.words[1] in ("stats", "top")
    ]


def test_containers_are_looked_at_as_the_page_says(engine: Engine) -> None:
    engine.start("looked-at", "sleep", "900")
    typed = _of(engine.name)
    assert len(typed) == 2
    for command in typed:
        words = ["looked-at" if word == "CONTAINER" else word for word in command.words[1:]]
        printed = engine.run(*words)
        assert "sleep 900" in printed or "looked-at" in printed, command


def test_the_parts_of_an_image_are_read_as_the_page_says(engine: Engine, tmp_path: Path) -> None:
    if engine.name != "docker":
        pytest.skip("the page has it for docker: install docker.io")
    (line,) = [
        each
        for each in (FOLDER / "docs" / "security.md").read_text().splitlines()
        if each.lstrip().startswith("id=$(docker create IMAGE)")
    ]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(_SBOM))
    subprocess.run(
        [*engine.command, "import", "--change", 'CMD ["/none"]', "-", "image:1"],
        input=packed.getvalue(),
        check=True,
    )
    subprocess.run(
        ["bash", "-euc", line.replace("IMAGE", "image:1")],
        env={**os.environ, "DOCKER_HOST": f"unix://{engine.socket}"},
        check=True,
        cwd=tmp_path,
    )
    assert (tmp_path / Path(_SBOM).name).is_file()
    assert engine.run("ps", "-aq", "--filter", "ancestor=image:1") == ""
