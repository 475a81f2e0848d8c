"""``minerwatch top`` in a real terminal, beside a real agent and a real load."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.agent.test_daemon import RunningAgent
from tests.agent.test_tick import POOL
from tests.conftest import TOP, CgroupFolders, Programs, container_id
from tests.waiting import until

needs_tmux = pytest.mark.skipif(
    shutil.which("tmux") is None, reason="opens a real terminal: apt install tmux"
)
ID = container_id("a1")
_PROMPT = "prompt-of-the-shell"


class Terminal:
    """A shell in a tmux of its own."""

    def __init__(self, folder: Path, *, width: int = 100, height: int = 30, **environment: str):
        self._server = ("tmux", "-S", str(folder / "tmux"), "-f", os.devnull)
        plain = {
            "PATH": os.environ["PATH"],
            "PS1": f"{_PROMPT}$ ",
            "LANG": "C.UTF-8",
            "HOME": str(folder),
            "TERM": "xterm-256color",
        }
        size = ("-x", str(width), "-y", str(height))
        shell = ("env", "-i", *(f"{k}={v}" for k, v in {**plain, **environment}.items()), "sh")
        self._tmux("new-session", "-d", *size, "-s", "s", *shell)
        self.until(lambda: _PROMPT in self.text)

    def type(self, line: str) -> None:
        self._tmux("send-keys", "-t", "s", "-l", line)
        self._tmux("send-keys", "-t", "s", "Enter")

    def press(self, *keys: str) -> None:
        self._tmux("send-keys", "-t", "s", *keys)

    def resize(self, width: int, height: int) -> None:
        self._tmux("resize-window", "-t", "s", "-x", str(width), "-y", str(height))

    @property
    def text(self) -> str:
        return self._tmux("capture-pane", "-p", "-t", "s")

    @property
    def coloured(self) -> str:
        return self._tmux("capture-pane", "-p", "-e", "-t", "s")

    def until(self, holds: Callable[[], bool]) -> None:
        until(holds, lambda: self.text, every_s=0.05)

    def shows(self, *texts: str) -> None:
        self.until(lambda: all(text in self.text for text in texts))

    def close(self) -> None:
        self._tmux("kill-server")

    def _tmux(self, *command: str) -> str:
        done = subprocess.run(
            [*self._server, *command], capture_output=True, text=True, check=False
        )
        return done.stdout


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    terminals: list[Terminal] = []

    def open_one(**how: object) -> Terminal:
        folder = tmp_path / f"terminal-{len(terminals)}"
        folder.mkdir()
        terminals.append(Terminal(folder, **how))  # type: ignore[arg-type]
        return terminals[-1]

    yield open_one
    for terminal in terminals:
        terminal.close()


@pytest.fixture
def agent(tmp_path: Path, cgroups: CgroupFolders, programs: Programs) -> Iterator[RunningAgent]:
    """An agent beside a loop that calls itself a miner."""
    folder = cgroups.make(f"{TOP}/docker/{ID}")
    cgroups.put(programs.start("xmrig", *POOL, busy=True), folder)
    (tmp_path / "agent").mkdir()
    running = RunningAgent(tmp_path / "agent", all_rules=False)
    running.line("verdict", container=ID[:12])
    yield running
    running.close()


def top(agent: RunningAgent, *options: str) -> str:
    return " ".join(
        (sys.executable, "-m", "minerwatch", "top", "--socket", str(agent.socket), *options)
    )


@needs_tmux
def test_a_person_looks_at_a_miner(agent: RunningAgent, opened: Callable[..., Terminal]) -> None:
    terminal = opened(width=120, height=40)
    terminal.type(top(agent))
    terminal.shows(f"docker/{ID[:12]}", "likely", "rules · mode observe", "Enter why")
    assert "\x1b[31m" in terminal.coloured or "\x1b[31;7m" in terminal.coloured
    terminal.press("/")
    terminal.press(*"xmrig", "Space", *ID[:12], "Enter")  # others may run tests here, too
    terminal.shows(f"holding “xmrig {ID[:12]}”")
    terminal.press("Enter")
    terminal.shows(f"docker/{ID[:12]}", "LIKELY, score", "CommandLine:")
    terminal.press("End")
    terminal.shows("What this does not prove")
    terminal.press("q")
    terminal.shows("LEVEL")
    terminal.resize(80, 24)
    terminal.shows("CONTAINER", "q quit")
    assert len(terminal.text.splitlines()) == 24
    terminal.press("q")
    terminal.shows(_PROMPT)
    assert "LEVEL" not in terminal.text  # what stood there before stands there again


@needs_tmux
def test_the_terminal_is_given_back_however_it_ends(
    agent: RunningAgent, opened: Callable[..., Terminal], tmp_path: Path
) -> None:
    terminal = opened()
    pid_path = tmp_path / "pid"
    for end in ("C-c", "TERM", "C-z"):
        terminal.type(
            f"sh -c 'echo $$ > {pid_path}; exec {top(agent)}';"
            " stty -a | grep -q ' echo ' && echo $((6*7))"
        )
        terminal.shows(f"docker/{ID[:12]}")
        if end == "TERM":
            subprocess.run(["kill", pid_path.read_text().strip()], check=True)
        else:
            terminal.press(end)
        terminal.until(lambda: "LEVEL" not in terminal.text)
        if end == "C-z":
            terminal.shows("Stopped")
            terminal.type("fg")
            terminal.shows(f"docker/{ID[:12]}")
            terminal.press("q")
        terminal.until(lambda: "42" in terminal.text.splitlines())  # its keys are echoed again
        terminal.type("clear")
        terminal.until(lambda: "42" not in terminal.text.splitlines())


AGENT = "import minerwatch.agent.daemon, minerwatch.cli.agent"
COMMAND = """
from minerwatch.cli.main import cli
try: cli([{}, '--socket', '/nonexistent'])
except SystemExit: pass
"""


@pytest.mark.parametrize(
    "script", [AGENT, COMMAND.format("'top', '--once'"), COMMAND.format("'explain', 'x'")]
)
def test_who_opens_no_screen_does_not_pay_for_one(script: str) -> None:
    check = "import sys\nsys.exit('textual' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", f"{script}\n{check}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
