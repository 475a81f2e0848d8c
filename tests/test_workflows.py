"""The workflows: pinned, with few permissions, calling only what the repository has."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kernels.__main__ import KERNELS

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
_PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+(\.\d+)+")
_HERE = "./.github/workflows/pull-request.yml"

pytestmark = pytest.mark.skipif(not WORKFLOWS, reason="no workflows here: run it in a clone")


@pytest.mark.parametrize(
    "command",
    [("actionlint",), ("zizmor", "--quiet", "--offline", "--persona=pedantic", ".github")],
)
def test_linters_find_nothing(command: tuple[str, ...]) -> None:
    program = shutil.which(command[0], path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip(f"{command[0]} is missing: pip install -e '.[dev]'")
    done = subprocess.run(
        [program, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _workflow(path: Path) -> Any:
    return yaml.load(path.read_text(), Loader=yaml.BaseLoader)  # "on" stays a word


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_nothing_is_permitted_to_all_jobs_and_each_ends(path: Path) -> None:
    workflow = _workflow(path)
    assert workflow["permissions"] == {}
    assert "concurrency" in workflow
    assert "pull_request_target" not in workflow["on"]
    for job in workflow["jobs"].values():
        assert "permissions" in job
        assert "timeout-minutes" in job or job.get("uses") == _HERE


def test_each_action_is_pinned_and_always_the_same() -> None:
    used = {
        line.strip()
        for path in WORKFLOWS
        for line in re.findall(r"uses: (.*)", path.read_text())
        if not line.startswith(_HERE)
    }
    assert used
    for line in used:
        assert _PINNED.fullmatch(line), line
    assert len({line.partition("@")[0] for line in used}) == len(used)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_what_is_called_is_there(path: Path) -> None:
    text = path.read_text()
    makefile = (ROOT / "Makefile").read_text()
    made = re.findall(r"(?:run: |^ +)make ([\w ]+)$|\.ci/run (\w+)", text, re.MULTILINE)
    for target in " ".join(part for found in made for part in found).split():
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for name in re.findall(r"(?<![\w./@-])((?:deploy|tests|\.ci)/[\w./-]+)", text):
        assert (ROOT / name).exists(), name
    for module in re.findall(r"python -m (generate\.\w+)", text):
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file()


def test_kernels_are_those_of_the_command_and_their_container_is_the_images_base() -> None:
    job = _workflow(ROOT / ".github" / "workflows" / "nightly.yml")["jobs"]["kernels"]
    assert job["strategy"]["matrix"]["kernel"] == list(KERNELS)
    assert f"docker.io/library/{job['container']}\n" in (ROOT / "deploy/Dockerfile").read_text()
