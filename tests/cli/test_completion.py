"""Completion in a shell: commands, options, and targets from the agent's socket."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec import structs

from minerwatch.api.snapshot import encode
from minerwatch.cli.main import cli
from minerwatch.report.http_server import Answer
from minerwatch.report.socket_listener import SocketListener
from tests.cli.top_screen.test_top import Terminal, needs_tmux
from tests.report.samples import HOSTILE, MINER, SIMULATION

POD = f"{MINER.namespace}/{MINER.pod}"
STATUSES = [
    MINER,
    SIMULATION,
    *(
        structs.replace(SIMULATION, container=name)
        for name in (*HOSTILE, "$(reboot)", "a b", "x" * 300, "--all")
    ),
]


@pytest.fixture
def agent_socket(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "agent.sock"
    routes = {"/snapshot": lambda: Answer(encode(STATUSES), "application/json")}
    listener = SocketListener(path, routes, on_error=lambda _error: None)
    yield path
    listener.close()


def completed(line: str, **environment: str) -> list[str]:
    words = line.split(" ")
    result = CliRunner().invoke(
        cli,
        env={
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
            "_MINERWATCH_COMPLETE": "bash_complete",
            **environment,
        },
        prog_name="minerwatch",
    )
    assert result.stderr == ""
    return [row.partition(",")[2] for row in result.stdout.split()]


def test_targets_are_those_of_the_agent_and_safe_to_type(agent_socket: Path) -> None:
    environment = {"MINERWATCH_SOCKET": str(agent_socket)}
    assert completed("minerwatch explain ", **environment) == [POD, "simulation.service"]
    assert completed("minerwatch explain bin", **environment) == [POD]
    assert completed(f"minerwatch explain --socket {agent_socket} si") == ["simulation.service"]
    for command in ("cull", "release"):
        assert completed(f"minerwatch {command} ", **environment) == [POD]


def test_without_an_agent_nothing_is_completed_and_nothing_said(tmp_path: Path) -> None:
    assert completed("minerwatch explain ", MINERWATCH_SOCKET=str(tmp_path / "none")) == []


def test_commands_and_options_are_completed() -> None:
    assert completed("minerwatch re") == ["report", "release"]
    assert completed("minerwatch config ") == ["check", "show"]
    assert "--processes" in completed("minerwatch top --pro")


def test_in_bash(agent_socket: Path) -> None:
    script = (
        'eval "$(_MINERWATCH_COMPLETE=bash_source minerwatch)"\n'
        "COMP_WORDS=(minerwatch explain si) COMP_CWORD=2\n"
        '_minerwatch_completion minerwatch; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={
            "PATH": f"{sysconfig.get_path('scripts')}:/usr/bin:/bin",
            "MINERWATCH_SOCKET": str(agent_socket),
        },
    )
    assert (done.stdout, done.stderr) == ("simulation.service\n", "")


_EVAL = 'eval "$(_MINERWATCH_COMPLETE={}_source minerwatch)"'


@needs_tmux
@pytest.mark.parametrize(
    ("shell", "setup"),
    [
        ("bash --norc", _EVAL.format("bash")),
        (
            "zsh -f",
            f"autoload -U compinit; compinit -u -D; {_EVAL.format('zsh')}",
        ),
        ("fish --no-config", "_MINERWATCH_COMPLETE=fish_source minerwatch | source"),
    ],
)
def test_a_tab_completes_a_target(
    shell: str, setup: str, agent_socket: Path, tmp_path: Path
) -> None:
    program, *options = shell.split()
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is missing: apt-get install {program}")
    path = f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"
    terminal = Terminal(tmp_path, PATH=path, MINERWATCH_SOCKET=str(agent_socket))
    try:
        terminal.type(" ".join([found, *options]))
        terminal.type(f"{setup}; echo set-'up'")
        terminal.shows("set-up")
        terminal.press("C-l")
        terminal.until(lambda: "set-up" not in terminal.text)
        terminal.press(*"minerwatch", "Space", *"explain", "Space", *"si", "Tab")
        terminal.shows("minerwatch explain simulation.service")
    finally:
        terminal.close()
