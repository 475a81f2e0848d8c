from __future__ import annotations

import gc
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.config import BUILT_IN_RULES
from minerwatch.model import ProcessId
from minerwatch.node import content as content_module
from minerwatch.node import content_scanner
from minerwatch.node.content import ContentReader, compile_errors
from tests.conftest import environment_of_this_python
from tests.waiting import until

MIB = 1 << 20
TARGETS = Path(__file__).parent.parent / "targets"
SHIPPED = sorted((BUILT_IN_RULES / "content").glob("*.yar"))
RANDOMX = {"RandomX_Constants", "RandomX_Code"}

MARK = hashlib.sha256(b"a mark that no other program holds").digest()
RULE = f"rule Marked {{ strings: $a = {{ {MARK.hex(' ')} }} condition: $a }}"
OTHER_RULE = "rule Elf { condition: uint32(0) == 0x464C457F }"

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="reads others' executables and memory: run it as root"
)


def identity(pid: int) -> ProcessId:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return ProcessId(pid, int(stat.rpartition(")")[2].split()[19]))


def children(pid: int) -> list[int]:
    found = (path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    return [int(child) for each in found for child in each]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class Started:
    """Real processes; all are killed at the end."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []

    def run(self, command: list[str], **options: object) -> ProcessId:
        process = subprocess.Popen(  # type: ignore[call-overload]
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            **options,
        )
        self.processes.append(process)
        return identity(process.pid)

    def python(self, script: str, *arguments: str) -> ProcessId:
        """Runs it as far as its ``print``."""
        process = self.run(
            [sys.executable, "-c", textwrap.dedent(script) + "\ninput()", *arguments]
        )
        self.wait_for_print()
        return process

    def wait_for_print(self) -> bytes:
        stdout = self.processes[-1].stdout
        assert stdout is not None
        line = stdout.readline()
        assert line
        return line

    def end(self, process: ProcessId) -> None:
        for each in self.processes:
            if each.pid == process.pid:
                each.kill()
                each.wait()

    def close(self) -> None:
        for each in self.processes:
            each.kill()
            each.wait()
            for pipe in (each.stdin, each.stdout):
                if pipe is not None:
                    pipe.close()


@pytest.fixture
def started() -> Iterator[Started]:
    started = Started()
    yield started
    started.close()


@pytest.fixture
def rule_file(tmp_path: Path) -> Path:
    path = tmp_path / "marked.yar"
    path.write_text(RULE)
    return path


@pytest.fixture
def reader(rule_file: Path) -> Iterator[ContentReader]:
    reader = ContentReader("/proc", [rule_file])
    yield reader
    reader.close()


@pytest.fixture
def files_only(rule_file: Path) -> Iterator[ContentReader]:
    reader = ContentReader("/proc", [rule_file], scan_memory=False)
    yield reader
    reader.close()


@pytest.fixture
def shipped() -> Iterator[ContentReader]:
    reader = ContentReader("/proc", SHIPPED)
    yield reader
    reader.close()


def answer(reader: ContentReader, process: ProcessId) -> set[str] | None:
    reader.ask(process)
    until(lambda: not reader._answers.empty())
    names = reader.answers().get(process)
    return None if names is None else set(names)


def failures(reader: ContentReader) -> dict[str, int]:
    return {reason: count for reason, count in reader.failures.items() if count}


def sleeper(folder: Path, added: bytes = b"") -> Path:
    program = folder / "innocent"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    with program.open("ab") as file:
        file.write(added)
    return program


# What is found.


@pytest.mark.parametrize("options", [["1"], ["2", "nojit"]], ids=" ".join)
def test_randomx_under_an_innocent_name_is_matched_in_memory(
    shipped: ContentReader, started: Started, options: list[str]
) -> None:
    pytest.importorskip("cyrx", reason="needs a RandomX binding: pip install cyrx")
    threads, *how = options
    command = ["python3", str(TARGETS / "randomx_hashing.py"), threads, "60", *how]
    process = started.run(command, executable=sys.executable, env=environment_of_this_python())
    started.wait_for_print()
    found = answer(shipped, process)
    assert found is not None
    assert RANDOMX.intersection(found) == RANDOMX
    assert failures(shipped) == {}


INNOCENT = {
    "a shell's loop": ["bash", "-c", "while :; do :; done"],
    "a Python loop": [sys.executable, "-c", "while True: sum(range(1000))"],
    "openssl speed": ["openssl", "speed", "-seconds", "30", "sha256"],
    "a test run": [
        sys.executable, "-c", "import pytest, hypothesis, minerwatch.agent, yaml; input()",
    ],
    "a reader of our rules": [
        sys.executable, "-c",
        "import sys; held = [open(path).read().split('\\n') for path in sys.argv[1:]]; input()",
        *map(str, SHIPPED),
    ],
}  # fmt: skip


@pytest.mark.parametrize("command", INNOCENT.values(), ids=INNOCENT)
def test_innocents_match_nothing(
    shipped: ContentReader, started: Started, command: list[str]
) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"install {command[0]} to see it spared")
    process = started.run(command)
    time.sleep(0.5)
    assert answer(shipped, process) == set()
    assert failures(shipped) == {}


def test_a_deleted_executable(files_only: ContentReader, started: Started, tmp_path: Path) -> None:
    program = sleeper(tmp_path, MARK)
    process = started.run([str(program), "60"])
    program.unlink()
    assert answer(files_only, process) == {"Marked"}


def test_an_executable_in_memory(
    files_only: ContentReader, started: Started, tmp_path: Path
) -> None:
    fd = os.memfd_create("x")
    os.write(fd, sleeper(tmp_path, MARK).read_bytes())
    process = started.run(["x", "60"], executable=f"/proc/self/fd/{fd}", pass_fds=[fd])
    os.close(fd)
    assert answer(files_only, process) == {"Marked"}


@pytest.mark.parametrize("place", [1 << 31, (4 << 30) - 4096], ids=["middle", "end"])
def test_four_gib_of_holes_are_not_read(
    files_only: ContentReader, started: Started, tmp_path: Path, place: int
) -> None:
    program = sleeper(tmp_path)
    os.truncate(program, 4 << 30)
    with program.open("r+b") as file:
        file.seek(place)
        file.write(MARK)
    assert answer(files_only, started.run([str(program), "60"])) == {"Marked"}
    assert failures(files_only) == {}
    assert files_only._child is not None
    status = Path(f"/proc/{files_only._child.pid}/status").read_text()
    assert int(status.partition("VmHWM:")[2].split()[0]) < 128 << 10


def test_of_a_large_executable_the_end_is_read_too(
    files_only: ContentReader, started: Started, tmp_path: Path
) -> None:
    program = sleeper(tmp_path, b"x" * (90 * MIB) + MARK)
    assert answer(files_only, started.run([str(program), "60"])) == {"Marked"}
    assert failures(files_only) == {"too_large": 1}


def test_what_unpacks_itself_is_matched_in_memory(shipped: ContentReader, started: Started) -> None:
    """The constants come about at run time, as RandomX specifies; no file holds them."""
    process = started.python(
        """
        import hashlib, mmap
        memory = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE)
        memory.seek(70_000)
        memory.write(hashlib.blake2b(b"RandomX AesGenerator1R keys").digest())
        print("ready", flush=True)
        """
    )
    assert answer(shipped, process) == {"RandomX_Constants"}


MAPPED = {
    "private": "mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE)",
    "shared": "mmap.mmap(-1, size, flags=mmap.MAP_SHARED)",
    "memfd": "fd = os.memfd_create('m'); os.truncate(fd, size); memory = mmap.mmap(fd, size)",
}


@pytest.mark.parametrize("mapped", MAPPED.values(), ids=MAPPED)
def test_every_kind_of_memory_is_read(reader: ContentReader, started: Started, mapped: str) -> None:
    process = started.python(
        f"""
        import hashlib, mmap, os
        size = 48 << 20
        memory = {mapped}
        memory[40 << 20 : (40 << 20) + 32] = hashlib.sha256(
            b"a mark that no other program holds").digest()
        print("ready", flush=True)
        """
    )
    assert answer(reader, process) == {"Marked"}


# What it does not do.


def test_no_page_is_made_by_the_reading(reader: ContentReader, started: Started) -> None:
    process = started.python(
        """
        import mmap
        reserved = mmap.mmap(-1, 1 << 40, flags=mmap.MAP_PRIVATE | 0x4000)  # MAP_NORESERVE
        reserved[1 << 30] = 1
        print("ready", flush=True)
        """
    )

    def held() -> list[str]:
        text = Path(f"/proc/{process.pid}/smaps").read_text()
        return re.findall(r"^(?:Rss|Swap): .*", text.partition("1073741824 kB")[2], re.MULTILINE)[
            :2
        ]

    before = held()
    assert len(before) == 2
    assert answer(reader, process) == set()
    assert held() == before
    assert failures(reader) == {}


def test_the_agent_does_not_load_the_scanner() -> None:
    script = "import minerwatch.node.content, sys; sys.exit('yara_x' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_process_that_is_gone_or_another_has_no_answer(
    reader: ContentReader, started: Started
) -> None:
    process = started.run(["sleep", "60"])
    assert answer(reader, ProcessId(4_194_999, 1)) is None
    assert answer(reader, ProcessId(process.pid, process.start_ticks + 1)) is None
    assert answer(reader, ProcessId(2, identity(2).start_ticks)) is None  # a kernel thread
    assert not reader._asked
    assert failures(reader) == {}


def test_targets_that_exit_meanwhile_do_no_harm(reader: ContentReader, started: Started) -> None:
    processes = [started.python("held = b'x' * (32 << 20); print(1, flush=True)") for _ in range(4)]
    for process in processes:
        reader.ask(process)
    for at, process in enumerate(processes):
        time.sleep(0.02 * at)
        started.end(process)
    until(lambda: reader.answers() == {} and not reader._asked)
    assert answer(reader, started.run(["sleep", "60"])) == set()
    assert "child" not in failures(reader)


def test_an_executable_that_shrinks_under_the_reading(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(8 * MIB))
    fd = os.open(path, os.O_RDONLY)
    try:
        pieces = content_scanner._file_pieces(fd, 8 * MIB)
        assert len(next(pieces)) == MIB
        os.truncate(path, 100)
        assert sum(map(len, pieces)) < MIB
    finally:
        os.close(fd)


# What is remembered.


def test_an_executable_is_scanned_once(
    files_only: ContentReader, started: Started, tmp_path: Path
) -> None:
    program = sleeper(tmp_path, MARK)
    first = started.run([str(program), "60"])
    assert answer(files_only, first) == {"Marked"}
    (key,) = files_only._known
    files_only._known[key] = ("Remembered",)
    assert answer(files_only, started.run([str(program), "61"])) == {"Remembered"}
    other = tmp_path / "other"
    other.mkdir()
    changed = sleeper(other, MARK)
    assert answer(files_only, started.run([str(changed), "60"])) == {"Marked"}


def test_what_is_remembered_is_bounded(
    files_only: ContentReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content_module, "_MAX_REMEMBERED", 3)
    for inode in range(10):
        files_only._remember((1, inode, 0, 0, 0), ())
    assert [key[1] for key in files_only._known] == [7, 8, 9]


# Rules.


def test_rules_can_be_changed(
    files_only: ContentReader, started: Started, rule_file: Path, tmp_path: Path
) -> None:
    process = started.run([str(sleeper(tmp_path, MARK)), "60"])
    assert answer(files_only, process) == {"Marked"}
    other = tmp_path / "other.yar"
    other.write_text(OTHER_RULE)
    files_only.use([rule_file, other])
    assert answer(files_only, process) == {"Marked", "Elf"}
    files_only.use([other])
    assert answer(files_only, process) == {"Elf"}
    files_only.use([])
    assert answer(files_only, process) == set()


def test_a_broken_file_keeps_what_it_held_and_takes_no_other_down(
    files_only: ContentReader, started: Started, rule_file: Path, tmp_path: Path
) -> None:
    process = started.run([str(sleeper(tmp_path, MARK)), "60"])
    other = tmp_path / "other.yar"
    other.write_text("rule Elf { condition: nobody_knows }")
    files_only.use([other, rule_file])
    assert answer(files_only, process) == {"Marked"}
    assert failures(files_only) == {"rules": 1}
    other.write_text(OTHER_RULE)
    files_only.use([other, rule_file])
    assert answer(files_only, process) == {"Marked", "Elf"}
    other.write_text("rule Elf {")
    rule_file.unlink()
    for _ in range(2):
        files_only.use([other, rule_file])
        assert answer(files_only, process) == {"Marked", "Elf"}
    assert failures(files_only) == {"rules": 5}


def test_the_same_name_in_two_files_is_no_error(tmp_path: Path) -> None:
    for name in ("a.yar", "b.yar"):
        (tmp_path / name).write_text(OTHER_RULE)
    assert compile_errors(sorted(tmp_path.glob("*.yar"))) == []


def test_errors_name_file_line_and_reason(tmp_path: Path) -> None:
    texts = {
        "a.yar": b"rule A {\n  strings: $a = { 0 }\n  condition: $a\n}",
        "b.yar": OTHER_RULE.encode(),
        "c.yar": b"rule C {\n  condition: nothing_known\n}",
        "d.yar": b"// one\n// \xff",
        "e.yar": b'include "/etc/passwd"',
        "f.yar": bytes(MIB + 1),
    }
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text)
    files = [*sorted(tmp_path.glob("*.yar")), tmp_path / "missing.yar"]
    told = [str(error).removeprefix(f"{tmp_path}/") for error in compile_errors(files)]
    assert sorted(told) == [
        "a.yar:2: syntax error; expecting BYTE or `(`, found `0`",
        "c.yar:2: unknown identifier `nothing_known`; this identifier has not been declared",
        "d.yar:2: not UTF-8",
        "e.yar:1: include statements not allowed; includes are disabled for this compilation",
        "f.yar:1: larger than 1 MiB: split it",
        "missing.yar:1: cannot be read: No such file or directory",
    ]


def test_the_shipped_rules_compile() -> None:
    assert compile_errors(SHIPPED) == []


# The child.


def test_the_child_ends_when_nothing_is_asked(
    reader: ContentReader, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content_module, "_IDLE_S", 0.1)
    assert answer(reader, started.run(["sleep", "60"])) == set()
    until(lambda: reader._child is None)
    assert answer(reader, started.run(["sleep", "61"])) == set()


def test_the_child_goes_with_the_agent(started: Started, rule_file: Path) -> None:
    target = started.run(["sleep", "60"])
    started.python(
        """
        import sys, time
        from pathlib import Path
        from minerwatch.model import ProcessId
        from minerwatch.node.content import ContentReader
        reader = ContentReader("/proc", [Path(sys.argv[1])])
        reader.ask(ProcessId(int(sys.argv[2]), int(sys.argv[3])))
        while reader._child is None or reader._answers.empty():
            time.sleep(0.01)
        print(reader._child.pid, flush=True)
        """,
        str(rule_file),
        str(target.pid),
        str(target.start_ticks),
    )
    agent = started.processes[-1]
    (child,) = children(agent.pid)
    os.kill(child, signal.SIGSTOP)  # so that it cannot see its input end
    agent.kill()
    until(lambda: not is_running(child))


def test_the_child_is_bounded_and_keeps_behind(reader: ContentReader, started: Started) -> None:
    assert answer(reader, started.run(["sleep", "60"])) == set()
    assert reader._child is not None
    child = Path(f"/proc/{reader._child.pid}")
    assert (child / "stat").read_text().rpartition(")")[2].split()[16] == "19"
    assert (child / "oom_score_adj").read_text() == "1000\n"
    limits = (child / "limits").read_text()
    assert "Max data size             536870912" in limits
    assert "Max core file size        0" in limits
    assert len(list((child / "fd").iterdir())) == 3


def test_one_that_hangs_is_killed_and_another_goes_on(
    reader: ContentReader, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content_module, "_STALLED_S", 0.3)
    hanging, other = started.run(["sleep", "60"]), started.run(["sleep", "61"])
    assert answer(reader, other) == set()
    assert reader._child is not None
    stuck = reader._child.pid
    os.kill(stuck, signal.SIGSTOP)  # as if a read did not return
    assert answer(reader, hanging) is None
    assert failures(reader) == {"timeout": 1}
    assert not is_running(stuck)
    assert answer(reader, hanging) is None  # left alone for some time
    assert answer(reader, other) == set()
    assert failures(reader) == {"timeout": 1}


TALK = """\
import sys
read = sys.stdin.buffer.read
def out(line):
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()
"""
HOSTILE = {
    "ends": "",
    "garbage": "out(b'\\xff\\x00garbage\\n')",
    "no end of line": "\nwhile True: out(b'x' * 65536)",
    "of another type": "out(b'{\"broken\": []}\\n'); out(b'{\"is_there\": [1]}\\n'); read()",
    "no end of names": 'out(b\'{"broken": []}\\n\')\nwhile True: out(b\'{"name": "A"}\\n\')',
    "no answer on rules": 'out(b\'{"name": "A"}\\n\'); read()',
}


@pytest.mark.parametrize("script", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_child_is_not_believed(
    rule_file: Path,
    started: Started,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
) -> None:
    program = tmp_path / "hostile.py"
    program.write_text(TALK + script)
    monkeypatch.setattr(content_module, "_SCANNER", program)
    reader = ContentReader("/proc", [rule_file])
    found = answer(reader, started.run(["sleep", "60"]))
    reader.close()
    assert not found or found == {"A"}
    assert failures(reader) == {"child": 1}


def test_names_are_those_of_rules_and_not_too_many(
    rule_file: Path, started: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "hostile.py"
    program.write_text(
        "print('{\"broken\": []}')\n"
        'for at in range(500): print(\'{"name": "A%d"}\' % at)\n'
        "for bad in ('', '1', 'a b', 'x' * 129, '\\\\u001b[2J', 'ä'):\n"
        '    print(\'{"name": "%s"}\' % bad)\n'
        'print(\'{"is_there": true, "failures": ["timeout", "rules", ""]}\', flush=True)\n'
        "input()\n"
    )
    monkeypatch.setattr(content_module, "_SCANNER", program)
    reader = ContentReader("/proc", [rule_file])
    found = answer(reader, started.run(["sleep", "60"]))
    reader.close()
    assert found == {f"A{at}" for at in range(64)}
    assert failures(reader) == {"timeout": 1}


def test_a_question_is_asked_once_and_too_many_are_dropped(
    reader: ContentReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content_module, "_MAX_WAITING", 4)
    for _ in range(3):
        reader.ask(ProcessId(1 << 22, 1))
    for pid in range(10):
        reader.ask(ProcessId((1 << 23) + pid, 1))
    assert len(reader._asked) == 4
    assert failures(reader) == {"crowded": 7}


def test_closing_ends_even_a_child_that_hangs(rule_file: Path, started: Started) -> None:
    reader = ContentReader("/proc", [rule_file])
    assert answer(reader, started.run(["sleep", "60"])) == set()
    assert reader._child is not None
    pid = reader._child.pid
    os.kill(pid, signal.SIGSTOP)
    reader.ask(started.run(["sleep", "61"]))
    reader.close()
    until(lambda: not is_running(pid) and not reader._thread.is_alive())
    gc.collect()  # a pipe that was left open would be warned of


# Pieces.


@given(st.lists(st.binary(min_size=1, max_size=7), max_size=40), st.integers(0, 300))
def test_what_is_near_is_seen_together(pieces: list[bytes], start: int) -> None:
    whole = b"".join(pieces)
    wanted = whole[start : start + 8]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(content_scanner, "_WINDOW_BYTES", 16)
        patch.setattr(content_scanner, "_OVERLAP_BYTES", 8)
        windows = list(content_scanner._windows(pieces))
    assert any(wanted in window for window in windows) or not whole
    assert all(len(window) < 16 + 7 for window in windows)


RECORDED = b"7f00-7f01 r--p 00000000 08:01 17    /usr/lib/x.so\n"


@given(st.binary(max_size=200) | st.just(RECORDED))
def test_no_line_of_maps_stops_it(line: bytes) -> None:
    match = content_scanner._MAPPING.match(line)
    with suppress(OverflowError):  # makedev: a device number that no kernel prints
        mapping = match and content_scanner._mapping(match, (os.makedev(8, 1), 17))
        assert not mapping or mapping.end >= 0


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b"10000-20000 rwxp 00000000 00:00 0 ", 0),
        (b"10000-20000 rw-p 00000000 00:00 0      [heap]", 1),
        (b"10000-20000 r-xp 00000000 08:01 9      /usr/lib/x.so", 2),
        (b"10000-20000 r--p 00000000 08:01 9      /usr/lib/x.so", 3),
        (b"10000-20000 rw-s 00000000 00:01 9      /memfd:x (deleted)", 4),
        (b"10000-20000 --xp 00000000 00:00 0 ", 0),
        (b"10000-20000 rw-p 00001000 08:01 17     /usr/bin/x", 3),
        (b"10000-20000 r--p 00000000 08:01 17     /usr/bin/x", None),
        (b"10000-20000 ---p 00000000 00:00 0 ", None),
        (b"10000-20000 r--p 00000000 00:00 0      [vvar]", None),
        (b"10000-20000 r-xp 00000000 00:00 0      [vdso]", None),
    ],
)
def test_mappings_by_their_kind(line: bytes, kind: int | None) -> None:
    match = content_scanner._MAPPING.match(line)
    assert match is not None
    mapping = content_scanner._mapping(match, (os.makedev(8, 1), 17))
    assert (mapping and mapping.kind) == kind
