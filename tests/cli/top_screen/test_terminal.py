from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from rich.cells import cell_len

from minerwatch.cli.top_screen.copies import (
    LONG_COPY_BYTES,
    SaveError,
    copy_of,
    destination,
    put_into_tmux,
    saved,
)
from minerwatch.cli.top_screen.terminal import environment_at_start, terminal_of, to_ascii
from minerwatch.untrusted_text.display import printable
from minerwatch.view.explanation import explanation
from minerwatch.view.screen.containers import Group
from minerwatch.view.screen.page import Subject
from tests.report.samples import MINER, NOW, SIMULATION, hostile_text

XTERM = {"TERM": "xterm-256color"}


@pytest.mark.parametrize(
    ("environment", "has_unicode"),
    [
        ({**XTERM, "LANG": "en_US.UTF-8"}, True),
        ({**XTERM, "LANG": "C.utf8"}, True),
        ({**XTERM, "LC_CTYPE": "de_DE.UTF-8", "LANG": "C"}, True),
        ({**XTERM, "LC_ALL": "C", "LANG": "en_US.UTF-8"}, False),
        ({**XTERM, "LC_ALL": "", "LANG": "en_US.UTF-8"}, True),
        ({**XTERM, "LANG": "C"}, False),
        ({**XTERM, "LANG": "de_DE.ISO-8859-1"}, False),
        (XTERM, False),
        ({"TERM": "linux", "LANG": "en_US.UTF-8"}, False),
    ],
)
def test_unicode_is_drawn_where_the_locale_says_so(
    environment: Mapping[str, str], has_unicode: bool
) -> None:
    assert terminal_of(environment).has_unicode == has_unicode
    assert not terminal_of(environment, ascii_only=True).has_unicode


@pytest.mark.parametrize("name", ["dumb", "", "unknown"])
def test_terminals_on_which_nothing_can_be_drawn(name: str) -> None:
    assert terminal_of({"TERM": name}).is_dumb
    assert terminal_of({}).is_dumb
    assert not terminal_of({"TERM": "tmux"}).is_dumb


def test_what_python_sets_for_itself_does_not_count() -> None:
    script = (
        "import os;"
        "from minerwatch.cli.top_screen.terminal import environment_at_start as at_start;"
        "print(at_start().get('LC_CTYPE'), at_start()['X'], os.environ.get('LC_CTYPE'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True,
        env={"LANG": "C", "X": "a=b"},
    )  # fmt: skip
    assert done.stdout.split()[:2] == ["None", "a=b"]
    assert done.stdout.split()[2] in ("C.UTF-8", "None")  # None: there is no such locale here


def test_where_there_is_no_proc_the_environment_has_to_do(tmp_path: Path) -> None:
    assert environment_at_start(tmp_path / "none") is os.environ


def test_what_the_screen_draws_has_a_likeness() -> None:
    assert to_ascii("▁▂▃▄▅▆▇█ │├└─▔ ▾▸▼▲ · … × → “x” −") == '_.:-=+*# |++-- -+v^ | ~ x > "x" -'
    assert to_ascii("日本 é") == "???? ?"


@given(hostile_text.map(printable))
def test_ascii_is_as_wide_as_what_it_stands_for(text: str) -> None:
    assert to_ascii(text).isascii()
    assert cell_len(to_ascii(text)) == cell_len(text)


# Copies.


class Tmux:
    """What ``tmux load-buffer`` is asked for."""

    def __init__(self, *statuses: int) -> None:
        self._statuses = list(statuses)
        self.commands: list[tuple[str, ...]] = []
        self.text = b""

    def __call__(self, command: tuple[str, ...], **how: Any) -> subprocess.CompletedProcess[bytes]:
        self.commands.append(command)
        self.text = how["input"]
        return subprocess.CompletedProcess(command, self._statuses.pop(0))


def test_tmux_is_given_the_text_itself() -> None:
    new, old, broken = Tmux(0), Tmux(1, 0), Tmux(1, 1)
    assert put_into_tmux("text", new)
    assert new.commands == [("tmux", "load-buffer", "-w", "-")]
    assert new.text == b"text"
    assert put_into_tmux("text", old)
    assert old.commands[-1] == ("tmux", "load-buffer", "-")
    assert not put_into_tmux("text", broken)

    def missing(*_: Any, **__: Any) -> subprocess.CompletedProcess[bytes]:
        raise FileNotFoundError

    assert not put_into_tmux("text", missing)


def test_a_copy_says_where_it_went_and_that_some_terminals_cut_it_off() -> None:
    assert destination("text", in_tmux=False) == "the terminal's clipboard (OSC 52)"
    assert destination("text", in_tmux=True).startswith("tmux's buffer, and the terminal's")
    assert "e s makes files" in destination("x" * (LONG_COPY_BYTES + 1), in_tmux=False)


def test_a_group_is_copied_as_all_its_members() -> None:
    subjects = [Subject(each, NOW) for each in (MINER, SIMULATION)]
    one = copy_of(subjects[:1], None)
    assert json.loads(one.json)["pod"] == MINER.pod
    assert one.text == explanation(MINER, now=NOW, width=100)
    group = Group("2 containers of owner x", (MINER, SIMULATION), is_open=True)
    both = copy_of(subjects, group)
    assert [each["container"] for each in json.loads(both.json)] == [
        MINER.container,
        SIMULATION.container,
    ]
    assert both.name.startswith("2 containers of owner x-20")
    assert set(both.files) == {".txt", ".json"}


def test_files_are_private_new_and_named_without_surprises(tmp_path: Path) -> None:
    (path,) = saved({".txt": b"x"}, "../../etc/\x1b[2J passwd -rf", tmp_path)
    assert path.parent == tmp_path
    assert path.name == "minerwatch-etc-2J-passwd-rf.txt"
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(SaveError, match="File exists"):
        saved({".txt": b"y"}, "../../etc/\x1b[2J passwd -rf", tmp_path)
    assert path.read_bytes() == b"x"
    (tmp_path / "minerwatch-link.txt").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SaveError):
        saved({".txt": b"y"}, "link", tmp_path)
    assert not (tmp_path / "elsewhere").exists()
    with pytest.raises(SaveError, match="No such file"):
        saved({".txt": b"y"}, "x", tmp_path / "none")
