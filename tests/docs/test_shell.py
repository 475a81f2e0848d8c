"""Shell commands in the pages: all can be parsed; those for any machine are run on a process."""

from __future__ import annotations

import itertools
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from generate.__main__ import found_program
from minerwatch.config.schema import Web
from minerwatch.web.access import Access
from tests.docs.classes import way_of
from tests.docs.commands import commands
from tests.test_documents import FOLDER, PAGES
from tests.waiting import until

_SHELL = re.compile(r"^ *```sh\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
_CONSOLE = re.compile(r"^ *```console\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"`([^`]+)`")
_ON_ANY_MACHINE = ("ps ", "cat /proc", "tr ", "ls ", "awk ")
_HOLDS_MEMORY = """
import mmap, sys
memory = mmap.mmap(-1, 257 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
file = open(sys.argv[1], "rb")
marked = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
for page in range(0, len(memory), 4096):
    memory[page] = 1
print("ready", flush=True)
sys.stdin.read()
"""
SPOT = FOLDER / "docs" / "how-to-spot-a-miner.md"
BY_HAND = FOLDER / "docs" / "find-what-uses-cpu.md"


def _blocks(page: Path) -> list[str]:
    return [textwrap.dedent(block) for block in _SHELL.findall(page.read_text())]


def _all_blocks() -> Iterator[object]:
    for page in PAGES:
        typed = [
            "\n".join(re.findall(r"^ *[#$] (.+)$", block, re.MULTILINE))
            for block in _CONSOLE.findall(page.read_text())
        ]
        for number, block in enumerate((*_blocks(page), *filter(None, typed))):
            yield pytest.param(block, id=f"{page.relative_to(FOLDER)}:{number}")


def _bash(script: str, *options: str, folder: Path | None = None) -> str:
    done = subprocess.run(
        ["bash", *options], input=script, capture_output=True, text=True, check=False, cwd=folder
    )
    assert (done.returncode, done.stderr) == (0, ""), script
    return done.stdout


@pytest.fixture
def marked(tmp_path: Path) -> Path:
    """A file with the marker of RandomX's code."""
    path = tmp_path / "library.so"
    path.write_bytes(b"-" * 5000 + b"RandomX\x03" + b"-" * 5000)
    return path


@pytest.fixture
def process(marked: Path) -> Iterator[subprocess.Popen[str]]:
    """A process with 257 MiB of anonymous memory that has mapped the marked file."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDS_MEMORY, str(marked)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "ready\n"
        yield started
        started.kill()


@pytest.mark.parametrize("block", [*_all_blocks()])
def test_it_can_be_parsed(block: str) -> None:
    _bash(block, "-n")


def test_a_process_is_looked_at_as_the_page_says(process: subprocess.Popen[str]) -> None:
    rows = [line for line in SPOT.read_text().splitlines() if line.startswith("| ")]
    commands = [
        command
        for row in rows
        for command in _CODE.findall(row.replace("\\|", "|"))
        if command.startswith(_ON_ANY_MACHINE) and "PID" in command
    ]
    assert len(commands) >= 5
    printed = {command: _bash(command.replace("PID", str(process.pid))) for command in commands}
    assert all(printed.values())
    assert "library.so" in printed["tr '\\0' ' ' < /proc/PID/cmdline"]


def test_memory_and_code_are_found_as_the_page_says(
    process: subprocess.Popen[str], marked: Path
) -> None:
    memory, code = next(b for b in _blocks(SPOT) if "smaps" in b).splitlines()
    assert re.fullmatch(r"257\S* MiB anonymous\n", _bash(memory.replace("PID", str(process.pid))))
    found = subprocess.run(
        ["bash", "-c", code.replace("PID", str(process.pid))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stdout == f"/proc/{process.pid}/root{marked}\n"


def test_cpu_is_found_as_the_page_says() -> None:
    first = _blocks(SPOT)[0].replace("PID", "self")
    printed = _bash(first)
    assert "PID USER" in printed
    assert "%CPU" in printed
    assert ":/" in printed


def test_evidence_is_kept_and_a_process_stopped_as_the_page_says(
    process: subprocess.Popen[str], tmp_path: Path
) -> None:
    _bash(_blocks(SPOT)[-1].replace("PID", str(process.pid)), folder=tmp_path)
    assert (tmp_path / "sample").stat().st_size == Path(sys.executable).stat().st_size
    assert "PATH=" in (tmp_path / "environ.txt").read_text()
    until(lambda: _state(process.pid) == "T")
    _bash(f"kill -CONT {process.pid}")
    until(lambda: _state(process.pid) != "T")


def test_cgroups_are_compared_as_the_page_says(tmp_path: Path) -> None:
    script = next(block for block in _blocks(BY_HAND) if "usage()" in block)
    script = script.replace("-path '*kubepods*' ", "").replace("sleep 10", "sleep 1")
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=False, cwd=tmp_path)
    # Other tests make cgroups of any name, and remove them meanwhile, which find says.
    assert done.returncode == 0, done.stderr
    if not done.stdout:
        pytest.skip("no cgroup here has CPU usage: run it on a host")
    assert re.search(rb"^ *-?\d+\.\d\d /sys/fs/cgroup/", done.stdout, re.MULTILINE)


def test_a_token_is_made_as_the_page_says(tmp_path: Path) -> None:
    (block,) = (each for each in _blocks(FOLDER / "docs" / "web.md") if "openssl rand" in each)
    made = block.splitlines()[0].replace("/etc/minerwatch", str(tmp_path))
    _bash(made)
    token = tmp_path / "web-token"
    assert token.stat().st_mode & 0o777 == 0o600
    Access(Web(listen="0.0.0.0:9798", token_file=str(token)))


_IN_PIPES = ("awk", "cut", "echo", "grep", "head", "jq", "sort", "tail", "uniq")
_OF_A_PROCESS = ("awk", "cat", "ls", "nsenter", "ps", "top")


def _here(programs: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [
        each.words
        for each in commands()
        if each.words[0] in programs and way_of(each).why == Path(__file__).name
    ]


def test_parts_of_pipes_take_what_they_are_given(tmp_path: Path) -> None:
    for name in ("before", "after", "audit.jsonl"):
        (tmp_path / name).write_text('{"kind": "stop"}\n')
    typed = [words for words in _here(_IN_PIPES) if "PID" not in " ".join(words)]
    assert len(typed) > 20
    for words in typed:
        if shutil.which(words[0]) is None:  # jq
            continue
        typed_here = [each.replace("/var/lib/minerwatch", str(tmp_path)) for each in words]
        done = subprocess.run(
            typed_here, input="a b c d\n", capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert (done.stderr, done.returncode in (0, 1, 123)) == ("", True), words


def test_a_process_is_looked_at_as_all_pages_say(
    process: subprocess.Popen[str], tmp_path: Path
) -> None:
    (tmp_path / "cgroup.procs").write_text(f"{process.pid}\n")
    missing = {"nsenter": "ss", "top": "top"}
    typed = [words for words in _here(_OF_A_PROCESS) if {"PID", "CGROUP"} & set(_names(words))]
    assert len(typed) > 10
    for words in typed:
        if shutil.which(missing.get(words[0], words[0])) is None:
            continue
        line = shlex.join(words).replace("PID", str(process.pid)).replace("CGROUP", str(tmp_path))
        if words[:2] == ("top", "-H") and "-b" not in words:
            line += " -b -n 1"
        if "$(" in line:
            line = line.replace("'", '"')
        assert _bash(line), line


def _names(words: tuple[str, ...]) -> list[str]:
    return re.findall("[A-Z]+", " ".join(words))


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _typed(program: str) -> set[tuple[tuple[str, ...], frozenset[str]]]:
    """Subcommand and options of each command of a program that the pages have as code."""
    found = set()
    for page in PAGES:
        text = page.read_text()
        code = "\n".join(
            (*_SHELL.findall(text), *_CODE.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL)))
        )
        for line in re.findall(
            rf"(?:^|\s|[(|]){program} ([^`|>#;\n)]*)", code.replace("\\\n", " ")
        ):
            words = line.partition(" -- ")[0].split()
            options = {w.partition("=")[0] for w in words if re.match("--?[a-z]", w)}
            while words and words[0].startswith("-"):  # -n NAMESPACE
                words = words[2:]
            subcommand = tuple(itertools.takewhile(re.compile("[a-z][a-z-]*$").match, words))[:2]
            if subcommand and subcommand[0] != "minerwatch":
                found.add((subcommand, frozenset(options)))
    return found


@pytest.mark.parametrize("program", ["kubectl", "helm"])
def test_other_programs_have_the_options_that_pages_name(program: str) -> None:
    found = found_program(program)
    if found is None:
        pytest.skip(f"{program} is missing: install it (make helm)")
    typed = _typed(program)
    assert len(typed) >= 5
    of_all = _options(_output(found, "options"))
    of_each = {subcommand: _output(found, *subcommand, "--help") for subcommand, _ in typed}
    for subcommand, options in typed:
        assert "Usage:" in of_each[subcommand], subcommand
        unknown = options - of_all - _options(of_each[subcommand]) - {"-it"}
        assert not unknown, (subcommand, unknown)


def _options(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text))


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
