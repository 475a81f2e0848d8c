"""The client as `pip install minerwatch` has it: without the agent's modules, and off Linux."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from minerwatch.cli.extra import AGENT_MODULES
from tests.stub_agent import stub_agent

ROOT = Path(__file__).parent.parent.parent
_HIDE = f"""
import os, resource, select, signal, socket, sys, time

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(AGENT_MODULES)!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
"""
_OFF_LINUX = """
import asyncio, psutil  # both have code for each system, and keep that of this one

for module, names in {
    os: "O_PATH eventfd memfd_create pidfd_open sched_getaffinity sched_setaffinity setns setxattr"
        " splice unshare getxattr posix_fadvise",
    resource: "prlimit",
    select: "epoll",
    signal: "pidfd_send_signal sigtimedwait",
    socket: "AF_NETLINK AF_PACKET AF_VSOCK SO_PEERCRED SO_BINDTODEVICE",
    time: "CLOCK_BOOTTIME",
}.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)

LINUX_ONLY = ("minerwatch.agent", "minerwatch.probes", "minerwatch.node.", "minerwatch.report")

class OffLinux:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(LINUX_ONLY) and name != "minerwatch.node.process_details":
            raise ImportError(f"{name} is for Linux only")

sys.meta_path.insert(0, OffLinux())
"""
_COMMAND = "from minerwatch.cli.main import main; sys.argv[0] = 'minerwatch'; main()"


def _python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"NO_COLOR": "1", "COLUMNS": "120"}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_extra_has_the_modules_that_the_client_does_without() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = {
        canonicalize_name(Requirement(text).name)
        for text in project["optional-dependencies"]["agent"]
    }
    installed = packages_distributions()
    assert {canonicalize_name(installed[name][0]) for name in AGENT_MODULES} == extra


@pytest.mark.parametrize("command", ["top", "explain", "cull", "release", "status"])
def test_a_command_imports_off_linux(command: str) -> None:
    imported = "".join(
        f"import minerwatch.cli.top_screen.{path.stem}\n"
        for path in (ROOT / "minerwatch" / "cli" / "top_screen").glob("[a-z]*.py")
    )
    screen = imported if command == "top" else ""
    done = _python(f"{_HIDE}{_OFF_LINUX}\nimport minerwatch.cli.{command}\n{screen}")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(("top", "--once"), "notebook"), (("explain", "1111111111111111"), "CONFIRMED")],
    ids=["top", "explain"],
)
def test_an_agent_is_read_off_linux(
    tmp_path: Path, arguments: tuple[str, ...], expected: str
) -> None:
    with stub_agent(tmp_path / "agent.sock") as socket:
        done = _python(f"{_HIDE}{_OFF_LINUX}{_COMMAND}", *arguments, "--socket", str(socket))
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


@pytest.mark.parametrize(
    "arguments", [("agent", "--no-kubernetes"), ("top", "--once", "--local"), ("rules", "list")]
)
def test_what_needs_the_extra_says_so_in_one_line(arguments: tuple[str, ...]) -> None:
    done = _python(_HIDE + _COMMAND, *arguments)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("minerwatch: ")
    assert line.endswith("pip install 'minerwatch[agent]'")


def test_completion_leaves_out_what_cannot_be_imported() -> None:
    completing = "os.environ |= {'_MINERWATCH_COMPLETE': 'bash_complete', 'COMP_CWORD': '2'}\n"
    done = _python(f"{_HIDE}{completing}os.environ['COMP_WORDS'] = 'minerwatch rules '\n{_COMMAND}")
    assert done.stderr == ""
