from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.arguments import NO_BREAK_SPACE
from minerwatch.model import Process
from minerwatch.node.processes import ProcessReader, accounts, saturated_threads
from tests.conftest import no_files_left
from tests.node.recorded_proc import RecordedProc, read_one, stat_line
from tests.waiting import until as eventually

PROC = Path("/proc")
SLEEP = shutil.which("sleep") or "/bin/sleep"
REPOSITORY = Path(__file__).parents[2]

Spawn = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def reader() -> Iterator[ProcessReader]:
    reader = ProcessReader(PROC)
    yield reader
    reader.close()


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    with ExitStack() as children:

        def start(*arguments: str | bytes, **options: object) -> subprocess.Popen[bytes]:
            child = subprocess.Popen(
                arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options
            )  # type: ignore[call-overload]
            children.enter_context(child)
            children.callback(child.kill)
            return child  # type: ignore[no-any-return]

        yield start


def python(spawn: Spawn, code: str, *arguments: str) -> subprocess.Popen[bytes]:
    """A Python child that has run ``code``, which ends in ready(), and waits for a line."""
    prelude = (
        "import ctypes, os, sys, time\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "def ready(): os.write(1, b'ready\\n'); os.read(0, 1)\n"
    )
    child = spawn(sys.executable, "-I", "-S", "-c", prelude + code, *arguments)
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    return child


def go_on(child: subprocess.Popen[bytes]) -> None:
    assert child.stdin is not None
    child.stdin.write(b"\n")
    child.stdin.flush()


def shows(reader: ProcessReader, pid: int, holds: Callable[[Process], object]) -> bool:
    """Return True if ``pid`` was read, and ``holds``; while it execs it may not be."""
    process = reader.read([pid]).get(pid)
    return process is not None and bool(holds(process))


# Real processes


def test_identity_of_an_ordinary_process(
    reader: ProcessReader, spawn: Spawn, tmp_path: Path
) -> None:
    child = python(spawn, "os.chdir(sys.argv[1]); ready()", str(tmp_path), "two words", "ünïcode")
    process = read_one(reader, child.pid)
    stat = reader.stat(child.pid)
    assert stat is not None
    assert process.id == stat.id
    assert process.id.pid == child.pid
    assert process.parent_pid == os.getpid()
    assert process.command_line.endswith(f" {tmp_path} two{NO_BREAK_SPACE}words ünïcode")
    assert process.image == os.path.realpath(sys.executable)
    assert process.current_directory == str(tmp_path)
    assert process.uid == os.geteuid()
    assert process.program == stat.program
    assert not any((process.command_line_hidden, process.exe_deleted, process.exe_in_memory))
    assert not process.kernel_thread
    assert not any(reader.failures.values())
    assert reader.deferred == frozenset()


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (("a\nb", "\x1b[2J"), f"a{NO_BREAK_SPACE}b \x1b[2J"),
        (("holiday --donate-level 1.mp4",), "holiday\xa0--donate-level\xa01.mp4"),
        ((b"\xff\xfe", b"ok"), "\\xff\\xfe ok"),
        (("", "x", "", ""), " x"),
    ],
)
def test_odd_arguments(
    reader: ProcessReader, spawn: Spawn, arguments: tuple[str | bytes, ...], shown: str
) -> None:
    child = spawn(
        sys.executable, "-I", "-S", "-c", "import os; os.write(1, b'r'); os.read(0, 1)", *arguments
    )
    assert child.stdout is not None
    child.stdout.read(1)
    text = read_one(reader, child.pid).command_line
    assert text.endswith(f"os.read(0,{NO_BREAK_SPACE}1) {shown}")


def test_a_hostile_name_changes_nothing_else(reader: ProcessReader, spawn: Spawn) -> None:
    child = python(spawn, "libc.prctl(15, b') R 1 2 \\n\\xff', 0, 0, 0); ready()")
    process = read_one(reader, child.pid)
    assert process.comm == ") R 1 2 \n\\xff"
    assert process.parent_pid == os.getpid()
    assert process.uid == os.geteuid()


def test_a_new_name_is_noticed(reader: ProcessReader, spawn: Spawn) -> None:
    child = python(spawn, "ready(); libc.prctl(15, b'kworker/0:1', 0, 0, 0); ready()")
    before = reader.stat(child.pid)
    go_on(child)
    assert child.stdout is not None
    child.stdout.readline()
    after = reader.stat(child.pid)
    assert before is not None
    assert after is not None
    assert (after.id, after.program) == (before.id, before.program)
    assert after.comm == "kworker/0:1"
    assert before.comm != after.comm


def test_exec_without_fork_is_noticed_under_the_same_name(
    reader: ProcessReader, spawn: Spawn
) -> None:
    code = "ready(); os.execv(sys.executable, [sys.executable, '-I', *sys.argv[1:]])"
    child = python(spawn, code, "-c", "import os; os.write(1, b'again\\n'); os.read(0, 1)")
    before = read_one(reader, child.pid)
    go_on(child)
    assert child.stdout is not None
    assert child.stdout.readline() == b"again\n"
    stat = reader.stat(child.pid)
    after = read_one(reader, child.pid)
    assert stat is not None
    assert stat.comm == before.comm
    assert stat.id == before.id
    assert stat.program == after.program != before.program
    assert "again" in after.command_line


def test_deleted_executable(reader: ProcessReader, spawn: Spawn, tmp_path: Path) -> None:
    copy = tmp_path / "worker"
    shutil.copy(SLEEP, copy)
    child = spawn(str(copy), "60")
    eventually(lambda: shows(reader, child.pid, lambda it: it.image == str(copy)))
    copy.unlink()
    process = read_one(reader, child.pid)
    assert (process.image, process.exe_deleted, process.exe_in_memory) == (str(copy), True, False)


def test_a_file_named_deleted_accuses_itself(
    reader: ProcessReader, spawn: Spawn, tmp_path: Path
) -> None:
    copy = tmp_path / "worker (deleted)"
    shutil.copy(SLEEP, copy)
    child = spawn(str(copy), "60")
    eventually(lambda: shows(reader, child.pid, lambda it: it.image == str(tmp_path / "worker")))
    assert read_one(reader, child.pid).exe_deleted


def test_executable_in_memory(reader: ProcessReader, spawn: Spawn) -> None:
    code = (
        "fd = os.memfd_create('x')\n"
        "os.write(fd, open(sys.argv[1], 'rb').read())\n"
        "os.set_inheritable(fd, True)\n"
        "ready()\n"
        "os.execv(f'/proc/self/fd/{fd}', ['nginx', '60'])\n"
    )
    child = python(spawn, code, SLEEP)
    go_on(child)
    eventually(lambda: shows(reader, child.pid, lambda it: it.exe_in_memory))
    process = read_one(reader, child.pid)
    assert (process.image, process.exe_deleted) == ("/memfd:x", False)
    assert process.command_line == "nginx 60"


@pytest.mark.parametrize("wiped_with", ["\\0", " "])
def test_wiped_arguments(reader: ProcessReader, spawn: Spawn, wiped_with: str) -> None:
    code = (
        "fields = open('/proc/self/stat').read().rpartition(')')[2].split()\n"
        "start, end = int(fields[45]), int(fields[46])\n"
        f"ctypes.memset(start, ord('{wiped_with}'), end - start - 1)\n"
        "ready()\n"
    )
    process = read_one(reader, python(spawn, code).pid)
    assert process.command_line == ""
    assert process.command_line_hidden
    assert process.image


def test_rewritten_arguments(reader: ProcessReader, spawn: Spawn) -> None:
    code = (
        "fields = open('/proc/self/stat').read().rpartition(')')[2].split()\n"
        "start, end = int(fields[45]), int(fields[46])\n"
        "title = b'nginx: worker process'\n"
        "ctypes.memmove(start, title + bytes(end - start - len(title)), end - start)\n"
        "ready()\n"
    )
    process = read_one(reader, python(spawn, code).pid)
    title = process.command_line.replace(NO_BREAK_SPACE, " ")
    assert (title, process.command_line_hidden) == ("nginx: worker process", True)


TITLES = (
    *("nginx: worker process", "postgres: analyst db SELECT", "sshd: u@pts/0", "ray::train"),
    "[celeryd: celery@9f1c:ForkPoolWorker-3] -active-",
)


@pytest.mark.parametrize("title", TITLES)
@pytest.mark.parametrize("padded_to_b", [1, 400])
def test_a_title_over_the_arguments_hides_them_and_is_returned(
    reader: ProcessReader, spawn: Spawn, title: str, padded_to_b: int
) -> None:
    """As setproctitle writes it: filled up with NUL bytes, whatever the area's length."""
    code = (
        "fields = open('/proc/self/stat').read().rpartition(')')[2].split()\n"
        "start, end = int(fields[45]), int(fields[46])\n"
        "title = sys.argv[1].encode()\n"
        "ctypes.memmove(start, title + bytes(end - start - len(title)), end - start)\n"
        "ready()\n"
    )
    process = read_one(reader, python(spawn, code, title, "x" * padded_to_b).pid)
    assert process.command_line.replace(NO_BREAK_SPACE, " ") == title
    assert process.command_line_hidden


def test_a_title_longer_than_the_arguments_hides_them(reader: ProcessReader, spawn: Spawn) -> None:
    """The last byte of the area is no NUL then, and the kernel reads on into the environment."""
    code = (
        "fields = open('/proc/self/stat').read().rpartition(')')[2].split()\n"
        "start, end, last = int(fields[45]), int(fields[46]), int(fields[48])\n"
        "title = (b'worker: ' + b'word ' * 4000)[:last - start - 1] + bytes(1)\n"
        "ctypes.memmove(start, title, len(title))\n"
        "ready()\n"
    )
    process = read_one(reader, python(spawn, code).pid)
    assert process.command_line.startswith("worker:")
    assert process.command_line_hidden


def test_one_long_word_over_the_arguments_hides_them(reader: ProcessReader, spawn: Spawn) -> None:
    code = (
        "fields = open('/proc/self/stat').read().rpartition(')')[2].split()\n"
        "start, end = int(fields[45]), int(fields[46])\n"
        "ctypes.memset(start, ord('A'), end - start - 1)\n"
        "ready()\n"
    )
    process = read_one(reader, python(spawn, code).pid)
    assert set(process.command_line) == {"A"}
    assert process.command_line_hidden


def test_megabytes_of_arguments_keep_both_ends(reader: ProcessReader, spawn: Spawn) -> None:
    _soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    stack = 64 << 20 if hard == resource.RLIM_INFINITY else hard
    padding = ["x" * 100_000] * max(1, min(20, stack // 4 // 100_001 - 1))
    waiting = "import os; os.write(1, b'r'); os.read(0, 1)"
    child = spawn(
        *(sys.executable, "-I", "-S", "-c", waiting, "--pool=first", *padding, "--nicehash"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_STACK, (stack, hard)),
    )
    assert child.stdout is not None
    child.stdout.read(1)
    text = read_one(reader, child.pid).command_line
    assert "--pool=first" in text
    assert text.endswith("--nicehash")
    assert "…" in text
    assert len(text) < 40_000


def test_arguments_under_userfaultfd_are_hidden(reader: ProcessReader, spawn: Spawn) -> None:
    code = """
fields = open('/proc/self/stat').read().rpartition(')')[2].split()
start = int(fields[45]) & ~4095
end = (int(fields[46]) + 4095) & ~4095
fd = libc.syscall(323, 0o2000000)
class Api(ctypes.Structure): _fields_ = [('api', ctypes.c_uint64 * 3)]
class Register(ctypes.Structure): _fields_ = [('range', ctypes.c_uint64 * 4)]
api = Api((ctypes.c_uint64 * 3)(0xAA, 0, 0))
register = Register((ctypes.c_uint64 * 4)(start, end - start, 1, 0))
libc.ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]
if (fd < 0 or libc.ioctl(fd, 0xC018AA3F, ctypes.byref(api))
        or libc.ioctl(fd, 0xC020AA00, ctypes.byref(register))):
    os.write(2, b'no userfaultfd'); os._exit(3)
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
assert libc.madvise(start, end - start, 4) == 0
ready()
"""
    if os.uname().machine != "x86_64":
        pytest.skip("the system call's number is that of x86-64: run it on such a machine")
    try:
        child = python(spawn, code, "--donate-level=1")
    except AssertionError:
        pytest.skip("userfaultfd is not to be had here: run it as root (CONFIG_USERFAULTFD)")
    process = read_one(reader, child.pid)
    assert process.command_line_hidden
    assert process.command_line == ""


def test_zombie_hides_nothing(reader: ProcessReader, spawn: Spawn) -> None:
    child = spawn(SLEEP, "60")
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    process = read_one(reader, child.pid)
    assert process.comm == "sleep"
    assert (process.command_line, process.image) == ("", "")
    assert not process.command_line_hidden
    assert reader.memory(child.pid) is not None
    assert not any(reader.failures.values())


def test_a_process_is_read_through_its_other_threads(reader: ProcessReader, spawn: Spawn) -> None:
    code = (
        "import threading, platform\n"
        "def work():\n"
        "    os.write(1, b'ready\\n'); time.sleep(60)\n"
        "threading.Thread(target=work).start()\n"
        "libc.syscall(60 if platform.machine() == 'x86_64' else 93, 0)\n"
    )
    child = python(spawn, code, "--donate-level=1")
    eventually(lambda: " Z " in (PROC / str(child.pid) / "stat").read_text())
    process = read_one(reader, child.pid)
    assert process.command_line.endswith("--donate-level=1")
    assert process.image == os.path.realpath(sys.executable)
    assert not process.command_line_hidden
    memory = reader.memory(child.pid)
    assert memory is not None
    assert memory.rss_mib > 1


def test_kernel_thread(reader: ProcessReader) -> None:
    process = reader.read([2]).get(2)
    if process is None or process.comm != "kthreadd":
        pytest.skip("the host's processes are not visible here: run it in the host's pid namespace")
    assert process.kernel_thread
    assert not process.command_line_hidden
    assert (process.command_line, process.image, process.program) == ("", "", hash((0, 0, 0)))
    memory = reader.memory(2)
    assert memory is not None
    assert memory.rss_mib == 0


def test_gone_processes_are_missing_and_no_failure(reader: ProcessReader, spawn: Spawn) -> None:
    child = spawn(SLEEP, "60")
    child.kill()
    child.wait()
    assert reader.stat(child.pid) is None
    assert reader.read([child.pid, os.getpid()]).keys() == {os.getpid()}
    assert reader.memory(child.pid) is None
    assert reader.thread_cpu(child.pid) == {}
    assert not any(reader.failures.values())


def test_what_there_is_no_time_for_is_left_open_in_order(
    recorded: RecordedProc, recorded_reader: ProcessReader
) -> None:
    pids = [*range(1300, 1000, -1)]
    for pid in pids:
        recorded.add(pid)
    found = recorded_reader.read(pids, cpu_s=0.0)
    assert 0 < len(found) < len(pids)
    assert [*found, *recorded_reader.deferred] == pids
    assert recorded_reader.failures["deferred"] == len(recorded_reader.deferred)
    while recorded_reader.deferred:
        found |= recorded_reader.read(recorded_reader.deferred, cpu_s=0.0)
    assert [*found] == pids


@pytest.mark.parametrize("spare", [0, 1, 2])
def test_who_cannot_be_read_for_want_of_files_is_asked_again(
    reader: ProcessReader, spawn: Spawn, spare: int
) -> None:
    pid = spawn("sleep", "1000").pid
    reader.read([os.getpid()])  # what it needs for itself is open
    with no_files_left(spare):
        found = reader.read([pid])
        assert (pid in found and pid not in reader.deferred) == bool(spare)
    found |= reader.read(reader.deferred)
    # on a busy machine a command line can come too late for one read
    eventually(lambda: found[pid].command_line or found.update(reader.read([pid])))
    assert found[pid].command_line == "sleep 1000"
    assert found[pid].image.startswith("/")
    assert not reader.deferred


def test_processes_that_end_while_they_are_read(reader: ProcessReader) -> None:
    ended = threading.Event()

    def churn() -> None:
        while not ended.is_set():
            subprocess.run(["/bin/true"], check=True)

    churning = threading.Thread(target=churn)
    churning.start()
    try:
        for _ in range(30):
            pids = [int(name.name) for name in PROC.iterdir() if name.name.isdigit()]
            for pid, process in reader.read(pids).items():
                assert process.id.pid == pid
    finally:
        ended.set()
        churning.join()
    assert reader.failures["malformed"] == 0


def test_cpu_time_and_memory_of_threads(reader: ProcessReader, spawn: Spawn) -> None:
    code = (
        "import threading\n"
        "threading.Thread(target=lambda: time.sleep(60), daemon=True).start()\n"
        "data = bytearray(b'x') * (32 << 20)\n"
        "end = time.process_time() + 0.3\n"
        "while time.process_time() < end: pass\n"
        "ready()\n"
    )
    child = python(spawn, code)
    stat = reader.stat(child.pid)
    assert stat is not None
    assert stat.threads == 2
    cpu_s = reader.thread_cpu(child.pid)
    assert len(cpu_s) == 2
    assert cpu_s[child.pid] >= 0.2
    assert abs(sum(cpu_s.values()) - stat.cpu_s) < 0.2
    assert len(reader.thread_cpu(child.pid, limit=1)) == 1
    memory = reader.memory(child.pid)
    assert memory is not None
    assert memory.rss_mib > 32
    assert memory.hugetlb_mib == 0


NON_ROOT = """
import dataclasses, json, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from minerwatch.node.processes import ProcessReader
os.setgroups([]); os.setgid(65534); os.setuid(65534)
reader = ProcessReader(Path("/proc"))
process = reader.read([int(sys.argv[2])])[int(sys.argv[2])]
print(json.dumps([dataclasses.asdict(process), reader.failures, reader.thread_cpu(1) != {}]))
reader.close()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user: run it as root")
def test_what_another_user_may_not_read_is_empty(spawn: Spawn) -> None:
    target = spawn(SLEEP, "60")
    seen = subprocess.run(
        [sys.executable, "-c", NON_ROOT, str(REPOSITORY), str(target.pid)],
        check=True,
        capture_output=True,
    )
    process, failures, reads_threads = json.loads(seen.stdout)
    assert process["command_line"] == f"{SLEEP} 60"
    assert (process["image"], process["current_directory"]) == ("", "")
    assert process["uid"] == 0
    assert process["program"] == hash((1, 0, 0))
    assert not process["command_line_hidden"]
    assert failures["permission"] == 2
    assert reads_threads


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a proc: run it as root")
@pytest.mark.parametrize("hidepid", [1, 2])
def test_hidden_processes_of_others_are_missing(spawn: Spawn, hidepid: int) -> None:
    script = (
        f"mount -t proc -o hidepid={hidepid} proc /proc || exit 77\n"
        'exec "$@"\n'
    )  # fmt: skip
    code = NON_ROOT.replace(
        "process = reader.read([int(sys.argv[2])])[int(sys.argv[2])]",
        "found = reader.read([int(sys.argv[2]), os.getpid()])\n"
        "assert set(found) == {os.getpid()}, found\n"
        "process = found[os.getpid()]",
    )
    target = spawn(SLEEP, "60")
    seen = subprocess.run(
        [
            *("unshare", "-m", "sh", "-c", script, "sh"),
            *(sys.executable, "-c", code, str(REPOSITORY), str(target.pid)),
        ],
        capture_output=True,
        check=False,
    )
    if seen.returncode == 77:
        pytest.skip("proc cannot be mounted here: run it as root with SYS_ADMIN")
    assert seen.returncode == 0, seen.stderr


# A recorded /proc.


def test_recorded_process(recorded: RecordedProc, recorded_reader: ProcessReader) -> None:
    recorded.add(10)
    process = read_one(recorded_reader, 10)
    assert process.command_line == "worker -v"
    assert (process.uid, process.user) == (7, "alice")
    assert (process.image, process.current_directory) == ("/opt/worker", "/srv")


def test_a_pid_that_is_used_again_is_another_process(
    recorded: RecordedProc, recorded_reader: ProcessReader
) -> None:
    folder = recorded.add(10)
    first = read_one(recorded_reader, 10)
    (folder / "stat").write_bytes(stat_line(10, start_ticks=101))
    second = read_one(recorded_reader, 10)
    assert first.id != second.id


def test_facts_of_two_programs_are_never_mixed(
    recorded: RecordedProc, recorded_reader: ProcessReader
) -> None:
    folder = recorded.add(10)
    status = folder / "status"
    content = status.read_bytes()
    status.unlink()
    os.mkfifo(status)

    def become_another_program_while_the_status_is_read() -> None:
        for start in (101, 102):
            descriptor = os.open(status, os.O_WRONLY)  # waits for the reader
            (folder / "stat").write_bytes(stat_line(10, start_ticks=start))
            status.unlink()
            if start == 101:
                os.mkfifo(status)
            os.write(descriptor, content)
            os.close(descriptor)

    replacing = threading.Thread(
        target=become_another_program_while_the_status_is_read, daemon=True
    )
    replacing.start()
    found = recorded_reader.read([10])
    replacing.join(20)
    assert found == {}
    assert recorded_reader.failures["mixed"] == 1
    assert recorded_reader.deferred == {10}


def test_files_that_are_not_what_they_should_be(
    recorded: RecordedProc, recorded_reader: ProcessReader
) -> None:
    folder = recorded.add(10)
    (folder / "status").write_bytes(b"\xff" * 100)
    (folder / "cmdline").unlink()
    (folder / "cmdline").mkdir()
    (folder / "exe").unlink()
    (folder / "exe").mkdir()
    recorded.add(11)
    (recorded.root / "11" / "stat").write_bytes(b"11 (x")
    process = read_one(recorded_reader, 10)
    assert (process.uid, process.user, process.image) == (-1, "", "")
    assert (process.command_line, process.command_line_hidden) == ("", False)
    assert recorded_reader.read([11]) == {}
    assert recorded_reader.failures["malformed"] == 2
    assert recorded_reader.failures["unreadable"] == 2


def test_hugetlb_memory(recorded: RecordedProc, recorded_reader: ProcessReader) -> None:
    folder = recorded.add(10)
    (folder / "status").write_text("Name:\tx\nVmRSS:\t 13312 kB\nHugetlbPages:\t 2129920 kB\n")
    memory = recorded_reader.memory(10)
    assert memory is not None
    assert (memory.rss_mib, memory.hugetlb_mib) == (13, 2080)


def test_memory_after_a_long_list_of_groups(
    recorded: RecordedProc, recorded_reader: ProcessReader
) -> None:
    groups = " ".join(["4294967294"] * 65536)
    (recorded.add(10) / "status").write_text(f"Name:\tx\nGroups:\t{groups}\nVmRSS:\t2048 kB\n")
    memory = recorded_reader.memory(10)
    assert memory is not None
    assert memory.rss_mib == 2


# Pure functions


def test_saturated_threads() -> None:
    before = {1: 10.0, 2: 5.0, 3: 0.0, 5: 9.0}
    after = {1: 12.0, 2: 6.0, 3: 1.9, 4: 2.0, 5: 1.0}
    assert saturated_threads(before, after, 2.0) == 2
    assert saturated_threads(before, after, 0.0) == 0


def test_accounts(tmp_path: Path) -> None:
    passwd = tmp_path / "passwd"
    lines = b"root:x:0:0:r:/root:/bin/sh\n\nbad\nx:y:z\ntoor:x:0:0\nl\xff:x:10:1\nbig:x:"
    passwd.write_bytes(lines + b"9" * 5000)
    assert accounts(passwd) == {0: ("root", "/root"), 10: ("l\\xff", "")}
    assert accounts(tmp_path / "none") == {}


@pytest.fixture(scope="module")
def module_proc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, ProcessReader]]:
    recorded = RecordedProc(tmp_path_factory.mktemp("recorded"))
    folder = recorded.add(10)
    reader = ProcessReader(recorded.root, deadline_s=30)
    yield folder, reader
    reader.close()


@given(command_line=st.binary(max_size=300), status=st.binary(max_size=100))
def test_no_content_crashes(
    module_proc: tuple[Path, ProcessReader], command_line: bytes, status: bytes
) -> None:
    folder, reader = module_proc
    (folder / "cmdline").write_bytes(command_line)
    (folder / "status").write_bytes(b"Name:\tx\nUid:\t" + status)
    process = read_one(reader, 10)
    process.command_line.encode()
    assert process.command_line_hidden or process.command_line
    reader.memory(10)
