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
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.config.schema import BUILT_IN_RULES
from minerwatch.model import ProcessId
from minerwatch.node.children import yara_scanner
from minerwatch.node.guarded_child import GuardedProgram
from minerwatch.node.yara_scan import ContentReader, compile_errors
from tests.conftest import environment_of_this_python
from tests.waiting import threads, threads_since, until, until_run

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
        until_run(process)
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
def shipped() -> Iterator[ContentReader]:
    reader = ContentReader("/proc", SHIPPED)
    yield reader
    reader.close()


def answer(reader: ContentReader, process: ProcessId) -> set[str] | None:
    reader.ask(process)
    found: dict[ProcessId, tuple[str, ...] | None] = {}
    until(lambda: found.update(reader.answers()) or process in found)
    names = found[process]
    return None if names is None else set(names)


def scanner_pid() -> int | None:
    """The running child of this process that scans."""
    for pid in children(os.getpid()):
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
        if is_running(pid) and b"yara_scanner.py" in arguments:
            return pid
    return None


def failures(reader: ContentReader) -> dict[str, int]:
    return {reason: count for reason, count in reader.failures.items() if count}


def sleeper(folder: Path, constant: bytes = b"", appended: bytes = b"") -> Path:
    """A copy of sleep(1), with ``constant`` in place of some of the text that it prints."""
    program = folder / "innocent"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    content = program.read_bytes()
    text = max(re.findall(rb"[ -~\n]+", content), key=len)
    assert len(text) > len(constant)
    program.write_bytes(content.replace(text, constant + text[len(constant) :]) + appended)
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
        sys.executable, "-c", "import pytest, hypothesis, minerwatch.agent.daemon, yaml; input()",
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


def test_the_constants_of_a_program(
    reader: ContentReader, started: Started, tmp_path: Path
) -> None:
    assert answer(reader, started.run([str(sleeper(tmp_path, MARK)), "60"])) == {"Marked"}


def test_a_deleted_executable(reader: ContentReader, started: Started, tmp_path: Path) -> None:
    program = sleeper(tmp_path, MARK)
    process = started.run([str(program), "60"])
    program.unlink()
    assert answer(reader, process) == {"Marked"}


def test_an_executable_in_memory(reader: ContentReader, started: Started, tmp_path: Path) -> None:
    fd = os.memfd_create("x")
    os.write(fd, sleeper(tmp_path, MARK).read_bytes())
    process = started.run(["x", "60"], executable=f"/proc/self/fd/{fd}", pass_fds=[fd])
    os.close(fd)
    assert answer(reader, process) == {"Marked"}


def test_what_is_appended_to_a_program_is_its_data(
    reader: ContentReader, started: Started, tmp_path: Path
) -> None:
    program = sleeper(tmp_path, appended=bytes(1 << 16) + MARK)
    assert answer(reader, started.run([str(program), "60"])) == set()


MEMORY = """
import ctypes, hashlib, mmap, os, sys
READ, WRITE, EXECUTE = 1, 2, 4
PRIVATE, SHARED = mmap.MAP_PRIVATE, mmap.MAP_SHARED
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
mark = hashlib.sha256(b"a mark that no other program holds").digest()
page, size = mmap.PAGESIZE, 1 << 20

def mapped(rights, flags=PRIVATE | mmap.MAP_ANONYMOUS, fd=-1):
    at = libc.mmap(None, size, rights, flags, fd, 0)
    assert at != ctypes.c_void_p(-1).value, ctypes.get_errno()
    return at

def put(at, content):
    ctypes.memmove(at, content, len(content))

def protect(at, size, rights):
    assert libc.mprotect(at, size, rights) == 0, ctypes.get_errno()

def file_of(content):
    fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
    os.write(fd, content.ljust(size))
    return fd

def touch(at):
    return ctypes.string_at(at, size)
"""
CODE = {
    "generated": """
        at = mapped(READ | WRITE | EXECUTE)
        put(at + 70_000, mark)
        """,
    "generated, then sealed": """
        at = mapped(READ | WRITE)
        put(at + 70_000, mark)
        protect(at, size, READ | EXECUTE)
        """,
    "generated in shared memory": """
        at = mapped(READ | WRITE | EXECUTE, SHARED | mmap.MAP_ANONYMOUS)
        put(at + 70_000, mark)
        """,
    "generated through two mappings of a memfd": """
        fd = os.memfd_create("generated")
        os.truncate(fd, size)
        put(mapped(READ | WRITE, SHARED, fd) + 70_000, mark)
        touch(mapped(READ | EXECUTE, SHARED, fd))
        """,
    "constants beside unpacked code": """
        at = mapped(READ | WRITE)
        put(at + 70_000, mark)
        protect(at, page, READ)
        protect(at + page, page, READ | EXECUTE)
        protect(at + 2 * page, size - 2 * page, READ)
        """,
    "constants of a library": """
        fd = file_of(bytes(70_000) + mark)
        mapped(READ | EXECUTE, PRIVATE, fd)
        touch(mapped(READ, PRIVATE, fd))
        """,
}
DATA = {
    "writable": "put(mapped(READ | WRITE), mark)",
    "shared": "put(mapped(READ | WRITE, SHARED | mmap.MAP_ANONYMOUS), mark)",
    "read-only": "at = mapped(READ | WRITE); put(at, mark); protect(at, size, READ)",
    "beside code, but writable": """
        at = mapped(READ | WRITE)
        put(at + 70_000, mark)
        protect(at, page, READ | EXECUTE)
        """,
    "beside code, with a gap": """
        at = mapped(READ | WRITE)
        put(at + 70_000, mark)
        protect(at, page, READ | EXECUTE)
        protect(at + page, page, 0)
        protect(at + 2 * page, size - 2 * page, READ)
        """,
    "a file, privately": "touch(mapped(READ, PRIVATE, file_of(mark)))",
    "a file, shared": "touch(mapped(READ, SHARED, file_of(mark)))",
    "a program's initialised data": """
        fd = file_of(mark)
        mapped(READ | EXECUTE, PRIVATE, fd)
        put(mapped(READ | WRITE, PRIVATE, fd) + 70_000, mark)
        os.lseek(fd, 0, 0)
        os.write(fd, bytes(100))
        """,
    "in a heap that is all executable": """
        held = [mapped(READ | WRITE | EXECUTE) for _ in range(64)]
        for at in held:
            put(at, mark.ljust(size))
        """,
    "where what is readable is executable": """
        assert libc.personality(0x0400000) != -1  # READ_IMPLIES_EXEC
        fd = file_of(mark)
        touch(mapped(READ, PRIVATE, fd))
        put(mapped(READ | WRITE), mark)
        at = mapped(READ | WRITE); put(at, mark); protect(at, size, READ)
        assert sys.argv[1] not in open("/proc/self/maps").read() or "r-xp" in "".join(
            line for line in open("/proc/self/maps") if sys.argv[1] in line)
        """,
    "where the stack is executable": """
        line, = (line for line in open("/proc/self/maps") if "[stack]" in line)
        start, end = (int(number, 16) for number in line.split()[0].split("-"))
        protect(start, end - start, READ | WRITE | EXECUTE)
        put(mapped(READ | WRITE | EXECUTE), mark)  # as a thread's stack then is
        """,
}


@pytest.mark.parametrize("script", CODE.values(), ids=CODE)
def test_every_kind_of_code_is_read(
    reader: ContentReader, started: Started, tmp_path: Path, script: str
) -> None:
    process = started.python(in_memory(script), str(tmp_path / "libfoo.so"))
    assert answer(reader, process) == {"Marked"}
    assert failures(reader) == {}


@pytest.mark.parametrize("script", DATA.values(), ids=DATA)
def test_no_kind_of_data_is_read(
    reader: ContentReader, started: Started, tmp_path: Path, script: str
) -> None:
    process = started.python(in_memory(script), str(tmp_path / "libfoo.so"))
    assert answer(reader, process) == set()
    assert failures(reader) == {}


def in_memory(script: str) -> str:
    data = "held_as_data = bytearray(48 << 20)  # so that code is the exception\n"
    return MEMORY + data + textwrap.dedent(script) + '\nprint("ready", flush=True)'


def test_a_process_whose_first_thread_has_ended(
    reader: ContentReader, started: Started, tmp_path: Path
) -> None:
    rest = """
    import threading, time
    def rest():
        time.sleep(0.3)
        print("ready", flush=True)
        time.sleep(60)
    threading.Thread(target=rest).start()
    libc.pthread_exit(None)
    """
    script = MEMORY + textwrap.dedent(CODE["generated"]) + textwrap.dedent(rest)
    process = started.run([sys.executable, "-c", script])
    started.wait_for_print()
    assert Path(f"/proc/{process.pid}/maps").read_bytes() == b""
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
    script = "import minerwatch.node.yara_scan, sys; sys.exit('yara_x' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_process_that_is_gone_or_another_has_no_answer(
    reader: ContentReader, started: Started
) -> None:
    process = started.run(["sleep", "60"])
    assert answer(reader, ProcessId(4_194_999, 1)) is None
    assert answer(reader, ProcessId(process.pid, process.start_ticks + 1)) is None
    assert answer(reader, ProcessId(2, identity(2).start_ticks)) is None  # a kernel thread
    assert not len(reader.questions)
    assert failures(reader) == {}


def test_targets_that_exit_meanwhile_do_no_harm(reader: ContentReader, started: Started) -> None:
    processes = [started.python("held = b'x' * (32 << 20); print(1, flush=True)") for _ in range(4)]
    for process in processes:
        reader.ask(process)
    for at, process in enumerate(processes):
        time.sleep(0.02 * at)
        started.end(process)
    until(lambda: not (reader.answers() or len(reader.questions)))
    assert answer(reader, started.run(["sleep", "60"])) == set()
    assert "child" not in failures(reader)


def test_what_is_not_read_of_much_code_is_counted() -> None:
    program = yara_scanner.Program(1, 1 << 40, read_implies_exec=False)
    files = [os.open(f"/proc/self/{name}", os.O_RDONLY) for name in ("maps", "pagemap", "mem")]
    try:
        memory = yara_scanner.Memory(program, *files, max_bytes=MIB)
        pieces = [piece for piece in memory.pieces() if piece != yara_scanner.GAP]
    finally:
        for fd in files:
            os.close(fd)
    assert sum(map(len, pieces)) == MIB
    assert memory.failures == {"too_large"}


# Rules.


def test_rules_can_be_changed(
    reader: ContentReader, started: Started, rule_file: Path, tmp_path: Path
) -> None:
    process = started.run([str(sleeper(tmp_path, MARK)), "60"])
    assert answer(reader, process) == {"Marked"}
    other = tmp_path / "other.yar"
    other.write_text(OTHER_RULE)
    reader.use([rule_file, other])
    assert answer(reader, process) == {"Marked", "Elf"}
    reader.use([other])
    assert answer(reader, process) == {"Elf"}
    reader.use([])
    assert answer(reader, process) == set()


def test_a_broken_file_keeps_what_it_held_and_takes_no_other_down(
    reader: ContentReader, started: Started, rule_file: Path, tmp_path: Path
) -> None:
    process = started.run([str(sleeper(tmp_path, MARK)), "60"])
    other = tmp_path / "other.yar"
    other.write_text("rule Elf { condition: nobody_knows }")
    reader.use([other, rule_file])
    assert answer(reader, process) == {"Marked"}
    assert failures(reader) == {"rules": 1}
    other.write_text(OTHER_RULE)
    reader.use([other, rule_file])
    assert answer(reader, process) == {"Marked", "Elf"}
    other.write_text("rule Elf {")
    rule_file.unlink()
    for _ in range(2):
        reader.use([other, rule_file])
        assert answer(reader, process) == {"Marked", "Elf"}
    assert failures(reader) == {"rules": 5}


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


def test_the_child_ends_when_nothing_is_asked(started: Started, rule_file: Path) -> None:
    reader = ContentReader("/proc", [rule_file], idle_s=0.1)
    assert answer(reader, started.run(["sleep", "60"])) == set()
    until(lambda: scanner_pid() is None)
    assert answer(reader, started.run(["sleep", "61"])) == set()
    reader.close()


def test_the_child_goes_with_the_agent(started: Started, rule_file: Path) -> None:
    target = started.run(["sleep", "60"])
    started.python(
        """
        import sys, time
        from pathlib import Path
        from minerwatch.model import ProcessId
        from minerwatch.node.yara_scan import ContentReader
        reader = ContentReader("/proc", [Path(sys.argv[1])])
        reader.ask(ProcessId(int(sys.argv[2]), int(sys.argv[3])))
        while not reader.answers():
            time.sleep(0.01)
        print("answered", flush=True)
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
    child = Path(f"/proc/{scanner_pid()}")
    assert (child / "stat").read_text().rpartition(")")[2].split()[16] == "19"
    assert (child / "oom_score_adj").read_text() == "1000\n"
    limits = (child / "limits").read_text()
    assert "Max data size             201326592" in limits
    assert "Max core file size        0" in limits
    assert len(list((child / "fd").iterdir())) == 3


def test_one_that_hangs_is_killed_and_another_goes_on(started: Started, rule_file: Path) -> None:
    reader = ContentReader("/proc", [rule_file], stall_s=0.3, idle_s=60.0)
    hanging, other = started.run(["sleep", "60"]), started.run(["sleep", "61"])
    assert answer(reader, other) == set()
    stuck = scanner_pid()
    assert stuck is not None
    os.kill(stuck, signal.SIGSTOP)  # as if a read did not return
    assert answer(reader, hanging) is None
    assert failures(reader) == {"timeout": 1}
    until(lambda: not is_running(stuck))
    assert answer(reader, hanging) is None  # left alone for some time
    assert answer(reader, other) == set()
    assert failures(reader) == {"timeout": 1}
    reader.close()


SCANNER = """
import json, sys, time
hostile = sys.argv[1].split()
log = open(sys.argv[2], "a", buffering=1)
print('{"broken": []}', flush=True)
sys.stdin.readline()
for line in sys.stdin:
    pid = str(json.loads(line)["pid"])
    print(pid, file=log)
    while pid in hostile:
        time.sleep(60)  # as if a read did not return
    print('{"is_there": true}', flush=True)
"""


def scanner(folder: Path, script: str = SCANNER, *arguments: str) -> GuardedProgram:
    """A scanner of the tests."""
    program = folder / "scanner.py"
    program.write_text(script)
    return GuardedProgram(program, *arguments)


def test_a_container_that_hangs_scans_costs_others_one_of_them(
    started: Started, rule_file: Path, tmp_path: Path
) -> None:
    hostile = [started.run(["sleep", "60"]) for _ in range(5)]
    other = started.run(["sleep", "61"])
    log = tmp_path / "scanned"
    program = scanner(tmp_path, SCANNER, " ".join(str(each.pid) for each in hostile), str(log))
    reader = ContentReader("/proc", [rule_file], program=program, stall_s=0.3)
    for process in hostile:
        reader.ask(process, "hostile")
    reader.ask(other, "another")
    answers: dict[ProcessId, tuple[str, ...] | None] = {}
    until(lambda: answers.update(reader.answers()) or len(answers) == 6)
    reader.close()
    assert answers == {**dict.fromkeys(hostile), other: ()}
    scanned = log.read_text().split()
    assert len(scanned) == 2
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
    rule_file: Path, started: Started, tmp_path: Path, script: str
) -> None:
    reader = ContentReader("/proc", [rule_file], program=scanner(tmp_path, TALK + script))
    found = answer(reader, started.run(["sleep", "60"]))
    reader.close()
    assert not found or found == {"A"}
    assert failures(reader) == {"child": 1}


def test_names_are_those_of_rules_and_not_too_many(
    rule_file: Path, started: Started, tmp_path: Path
) -> None:
    program = scanner(
        tmp_path,
        "print('{\"broken\": []}', flush=True)\n"
        "input()\n"  # answers that come before the request are not believed
        'for at in range(500): print(\'{"name": "A%d"}\' % at)\n'
        "for bad in ('', '1', 'a b', 'x' * 129, '\\\\u001b[2J', 'ä'):\n"
        '    print(\'{"name": "%s"}\' % bad)\n'
        'print(\'{"is_there": true, "failures": ["timeout", "rules", ""]}\', flush=True)\n'
        "input()\n",
    )
    reader = ContentReader("/proc", [rule_file], program=program)
    found = answer(reader, started.run(["sleep", "60"]))
    reader.close()
    assert found == {f"A{at}" for at in range(64)}
    assert failures(reader) == {"timeout": 1}


def test_one_container_holds_up_another_by_one_scan_at_a_time(
    started: Started, rule_file: Path, tmp_path: Path
) -> None:
    decoys = [started.run(["sleep", "60"]) for _ in range(40)]
    other = started.run(["sleep", "60"])
    log, gate = tmp_path / "scanned", tmp_path / "gate"
    waits = f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
    program = scanner(tmp_path, waits + SCANNER, "", str(log))
    reader = ContentReader("/proc", [rule_file], program=program)
    is_pending = [reader.ask(decoy, "decoys") for decoy in decoys]
    assert reader.ask(other, "another")
    gate.touch()
    until(lambda: other in reader.answers())
    assert log.read_text().split().index(str(other.pid)) <= 2
    accepted = is_pending.count(True)
    assert accepted < len(decoys)
    assert failures(reader) == {"crowded": len(decoys) - accepted}
    until(lambda: not (reader.answers() or len(reader.questions)))
    assert reader.ask(decoys[-1], "decoys")
    reader.close()


def test_closing_ends_even_a_child_that_hangs(rule_file: Path, started: Started) -> None:
    before = threads()
    reader = ContentReader("/proc", [rule_file])
    assert answer(reader, started.run(["sleep", "60"])) == set()
    pid = scanner_pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    reader.ask(started.run(["sleep", "61"]))
    reader.close()
    until(lambda: not is_running(pid) and not threads_since(before, "content"))
    gc.collect()  # a pipe that was left open would be warned of


# Pieces.


@given(st.lists(st.binary(min_size=1, max_size=7), max_size=40), st.integers(0, 300))
def test_what_is_near_is_seen_together(pieces: list[bytes], start: int) -> None:
    whole = b"".join(pieces)
    wanted = whole[start : start + 8]
    windows = list(yara_scanner.windows(pieces, size_bytes=16, overlap_bytes=8))
    assert any(wanted in window for window in windows) or not whole
    assert all(len(window) < 16 + 7 for window in windows)


RECORDED = b"7f00-7f01 r--p 00000000 08:01 17    /usr/lib/x.so\n"


@given(st.binary(max_size=200) | st.just(RECORDED))
def test_no_line_of_maps_stops_it(line: bytes) -> None:
    match = yara_scanner.MAPS_LINE.match(line)
    mapping = match and yara_scanner.parse_mapping(match)
    assert not mapping or mapping.end > mapping.start


@pytest.mark.parametrize(
    ("rights", "name", "is_read"),
    [
        ("rwxp", "/dev/zero", True),
        ("rwxp", "/dev/card", False),
        ("rwxs", "/dev/zero (deleted)", False),
        ("rwxp", "/usr/bin/a", True),
    ],
)
def test_pages_that_may_be_a_devices_are_left_out(rights: str, name: str, is_read: bool) -> None:
    """0x80: present, of no file, and not of one process alone, as after fork(2)."""
    match = yara_scanner.MAPS_LINE.match(f"1000-2000 {rights} 0 00:05 6 {name}".encode())
    assert match is not None
    mapping = yara_scanner.parse_mapping(match)
    assert mapping is not None
    assert bool(mapping.pages.match(b"\x80")) is is_read
    assert mapping.pages.match(b"\xa0")


RECORDED_MAPS = """\
00400000-00401000 r--p 00000000 08:01 17 /usr/bin/x
00401000-00402000 r-xp 00001000 08:01 17 /usr/bin/x
00402000-00403000 r--p 00002000 08:01 17 /usr/bin/x
00403000-00404000 rw-p 00003000 08:01 17 /usr/bin/x
00500000-00600000 rw-p 00000000 00:00 0 [heap]
10000000-10001000 rwxp 00000000 00:00 0
20000000-20001000 r--p 00000000 00:00 0
20001000-20002000 r-xp 00000000 00:00 0
20002000-20003000 r--p 00000000 00:00 0
20003000-20004000 rw-p 00000000 00:00 0
20004000-20005000 r--p 00000000 00:00 0
30000000-30001000 r--p 00000000 08:01 18 /data/x
30001000-30002000 r--p 00000000 08:01 17 /data/y
40000000-40001000 --xp 00000000 00:00 0 [anon:code]
50000000-50001000 rw-s 00000000 00:01 9 /memfd:x (deleted)
50001000-50002000 r-xs 00000000 00:01 9 /memfd:x (deleted)
60000000-60001000 r--p 00000000 00:00 0 [vvar]
60001000-60002000 r-xp 00000000 00:00 0 [vdso]
70000000-70001000 rwxp 00000000 00:00 0 [stack]
80000000-80001000 ---p 00000000 00:00 0
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]
"""
OF_THE_PROGRAM = [0x400000, 0x401000, 0x402000]
SEALED = [0x20000000, 0x20001000, 0x20002000, 0x40000000]


def recorded() -> list[yara_scanner.Mapping]:
    matches = map(yara_scanner.MAPS_LINE.match, RECORDED_MAPS.encode().splitlines())
    mappings = [yara_scanner.parse_mapping(match) for match in matches if match]
    assert len(mappings) == len(RECORDED_MAPS.splitlines())
    return [mapping for mapping in mappings if mapping]


@pytest.mark.parametrize("writable_counts", [True, False])
def test_which_mappings_are_code(writable_counts: bool) -> None:
    found = yara_scanner.code_mappings(recorded(), writable_counts=writable_counts)
    writable = [0x10000000] if writable_counts else []
    assert [mapping.start for mapping in found if mapping.file] == [*OF_THE_PROGRAM, 0x50001000]
    assert [mapping.start for mapping in found if not mapping.file] == [*writable, *SEALED]


def test_where_all_is_executable_only_the_program_is_code() -> None:
    mappings = recorded()
    found = yara_scanner.mappings_of_file(mappings, (b"08", b"01", b"17", b"/usr/bin/x"))
    assert [mapping.start for mapping in found] == OF_THE_PROGRAM
    assert yara_scanner.mappings_of_file(mappings, None) == []


def test_the_program_is_scanned_from_its_beginning() -> None:
    program = (b"08", b"01", b"17", b"/usr/bin/x")
    code = yara_scanner.code_mappings(recorded(), writable_counts=True)
    code.sort(key=lambda each: yara_scanner.scan_order(each, program))
    assert [mapping.start for mapping in code[:3]] == OF_THE_PROGRAM
    assert code[-1].start == 0x50001000
