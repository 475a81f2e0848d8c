"""Every command in the pages is run by a test or has its reason; what is only parsed is parsed."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from generate.__main__ import found_program
from tests.docs.classes import CLASSES, Way, way_of
from tests.docs.commands import Command, commands
from tests.test_documents import FOLDER

_RUN = (Way.HERE, Way.IN_A_CLUSTER, Way.BY_ITS_NAME)


def _of(way: Way, *programs: str) -> list[Command]:
    return [
        each
        for each in commands()
        if way_of(each).way is way and (not programs or each.words[0] in programs)
    ]


def test_every_command_is_in_a_class() -> None:
    assert _of(Way.UNKNOWN) == []
    used = {way_of(each) for each in commands()}
    assert used == {*CLASSES}, "a class without a command"
    for each in CLASSES:
        if each.way in _RUN:
            assert (Path(__file__).parent / each.why).is_file(), each
        else:
            assert " " in each.why, each


@pytest.mark.parametrize("program", ["kubectl", "helm", "docker", "podman"])
def test_a_command_named_without_arguments_is_there(program: str) -> None:
    found = found_program(program)
    if found is None:
        pytest.skip(f"{program} is missing: apt install docker.io podman, and make helm")
    for command in _of(Way.BY_ITS_NAME, program):
        words = [word for word in command.words[1:] if word != "minerwatch"]
        assert "usage:" in _help(found, *words, "--help").lower(), command


@pytest.mark.parametrize(
    ("program", "asks"),
    [
        ("systemctl", ("--help",)),
        ("journalctl", ("--help",)),
        ("systemd-cgtop", ("--help",)),
        ("perf", ("top", "-h")),
        ("gcloud", ("compute", "ssh", "--help")),
        ("aws", ("ssm", "start-session", "help")),
    ],
)
def test_other_programs_know_the_words_of_the_pages(program: str, asks: tuple[str, ...]) -> None:
    typed = [each for each in _of(Way.PARSED, program) if len(each.words) > 1]
    assert typed
    found = shutil.which(program)
    printed = _help(found, *asks) if found else ""
    if not printed:
        pytest.skip(f"{program} is missing: install it (gcloud: its SDK; aws: pip install awscli)")
    for command in typed:
        for word in command.words[1:]:
            is_checked = word.startswith("-") or word in ("status", "edit", "enable", "restart")
            name = word.partition("=")[0]
            assert not is_checked or re.search(rf"(?<![\w-]){name}\b", printed), command


@pytest.mark.parametrize(
    ("program", "is_known"),
    [
        ("make", lambda words: not _failed("make", "-n", words[1], cwd=FOLDER)),
        ("python", lambda words: find_spec(words[2]) is not None),
    ],
)
def test_targets_and_modules_are_there(
    program: str, is_known: Callable[[tuple[str, ...]], bool]
) -> None:
    typed = _of(Way.PARSED, program)
    assert len(typed) > 5
    unknown = [each.text for each in typed if not is_known(each.words)]
    assert unknown == []


def _help(*command: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    return done.stdout + done.stderr if done.returncode in (0, 129) else ""


def _failed(*command: str, cwd: Path) -> bool:
    return subprocess.run(command, capture_output=True, check=False, cwd=cwd).returncode != 0
