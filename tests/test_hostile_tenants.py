"""What a tenant can do to whoever looks at it, done for real, each with a bound.

Most tests here run a miner, in this or that disguise or beside whoever does harm, and count the
ticks until it is told. What else a tenant can do is tested beside what it is done to:

============================  ======================================================================
names                         node/test_processes.py: a_hostile_name_changes_nothing_else,
                              no_stat_fields_crash
arguments                     here the many; node/test_processes.py: odd_arguments,
                              wiped_arguments, megabytes_of_arguments_keep_both_ends
many processes                test_watch.py: whoever_brings_many_processes_holds_up_others
threads                       here; node/test_tasks.py: tens_of_thousands_of_threads_are_kept
fork storms                   here; node/test_execs.py: a_storm_is_told_or_counted_as_lost;
                              test_watch.py: cpu_of_processes_too_short_to_see_is_hidden
cgroup trees                  here; node/test_cgroup_bounds.py, as
                              twenty_thousand_cgroups_hide_no_new_pod
cgroup names                  here; node/test_cgroup_names.py: no_bytes_in_a_name_stop_it
mounts over /proc             here
arguments that block reads    here; node/test_processes.py: arguments_under_userfaultfd_are_hidden,
                              many_hanging_command_lines_leave_one_thread_and_no_processes
executables on a dead FUSE    here
a process that is its own     here
tracer
============================  ======================================================================
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from minerwatch.api.snapshot import decode, encode
from minerwatch.api.statuses import container_status
from minerwatch.config.schema import Config
from minerwatch.detection.matching.matcher import Matcher
from minerwatch.errors import SourceUnavailableError
from minerwatch.model import Level, Observation, ProcessId
from minerwatch.node.exe_digests import ExecutableHasher
from minerwatch.node.guarded_child import CHILDREN, GuardedProgram
from minerwatch.node.memory_maps import MappingReader
from minerwatch.node.processes import ProcessReader
from minerwatch.node.task_iterator import TaskIterator
from minerwatch.node.yara_scan import SCANNER, ContentReader
from minerwatch.probes.registry import Probes
from minerwatch.text_budget import MAX_NODE_BYTES
from tests import shipped
from tests.agent.test_tick import POOL, Node
from tests.conftest import TOP, CgroupFolders, Programs, container_id
from tests.waiting import until

TARGETS = Path(__file__).parent / "targets"
TOLD_WITHIN_TICKS = 2
"""The tick that first sees the miner's container, and the next."""
_MANY_THREADS = 30_000
_FEW_THREADS = 5_000
_GIVE_UP_S = 60.0


@pytest.fixture
def matcher() -> Matcher:
    return shipped.matcher()


@pytest.fixture
def folder(cgroups: CgroupFolders) -> Path:
    """Of the container that the miner runs in."""
    return cgroups.make(f"{TOP}/docker/{container_id('a1')}")


@pytest.fixture
def hostile(cgroups: CgroupFolders) -> Path:
    """Of the container that does what is done."""
    return cgroups.make(f"{TOP}/docker/{container_id('b2')}")


@pytest.fixture
def node(matcher: Matcher, folder: Path, cgroups: CgroupFolders) -> Iterator[Node]:
    """Without deep probes; the container that it looks at is the miner's."""
    node = Node(matcher, folder, cgroups.root)
    yield node
    node.watch.close()


@pytest.fixture
def compiled(tmp_path: Path) -> Callable[[str], str]:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler: apt install gcc libc6-dev")

    def program(name: str) -> str:
        path = tmp_path / name
        source = TARGETS / f"{name}.c"
        subprocess.run(["cc", "-O1", "-pthread", "-o", path, source], check=True)
        return str(path)

    return program


def ticks_until_told(node: Node) -> int:
    """How many ticks it takes until the container is likely to mine."""
    for tick in range(1, 10):
        node.tick(0.1)
        if node.watch.has_deferred:  # as the agent does between two ticks
            node.watch.handle_execs((), node.now_s())
        if node.container().verdict.level >= Level.LIKELY:
            return tick
    raise AssertionError(f"not told: {node.container()}")


def identity(pid: int) -> ProcessId:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return ProcessId(pid, int(stat.rpartition(")")[2].split()[19]))


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def script(pid: int) -> str:
    """The program of node/children/ that a child of the agent runs; its id if it is none."""
    with suppress(OSError):
        for argument in Path(f"/proc/{pid}/cmdline").read_text().split("\0"):
            if Path(argument).parent == CHILDREN:
                return argument
    return str(pid)


def children() -> set[int]:
    """Of this process."""
    found = (each.read_text().split() for each in Path("/proc/self/task").glob("*/children"))
    return {int(pid) for pids in found for pid in pids}


# Text.

FLOOD_COUNT = 250
FLOOD_ARGUMENT = ("\udcff" * 7 + "\U0001f600") * 8_000
"""Bytes that are no text become four characters each, and the one that is makes all of them wide:
88 KiB of the tenant's memory, 500 KiB of whoever keeps both ends of it as they come."""

WATCH_AND_TELL = """
import sys, time
from pathlib import Path
from minerwatch.agent.heap import keep_heap_small
keep_heap_small()
from minerwatch.config.schema import BUILT_IN_RULES, Examination
from minerwatch.detection.sigma import rulebook
from minerwatch.detection.judge import Judge
from minerwatch.detection.matching.matcher import Matcher
from minerwatch.node.cgroups import CgroupTree
from minerwatch.node.processes import ProcessReader
from minerwatch.agent.tick import Sources, Watch

def kib(what):
    return int(Path("/proc/self/status").read_text().partition(what + ":")[2].split()[0])

matcher = Matcher(rulebook.load((BUILT_IN_RULES,)).rules)
reader = ProcessReader(Path("/proc"))
sources = Sources(CgroupTree(Path("/sys"), Path("/proc")), reader)
watch = Watch(sources, matcher, Examination(), Judge())
before = kib("VmRSS")
for _ in range(3):
    tick = watch.tick(time.clock_gettime(time.CLOCK_BOOTTIME))
    while watch.has_deferred:
        watch.handle_execs((), time.clock_gettime(time.CLOCK_BOOTTIME))
levels = {each.container.cgroup[-64:]: each.verdict.level.label for each in watch.observations(0)}
print(kib("VmHWM") - before, tick.text_bytes, *(levels[each] for each in sys.argv[1:]))
"""


def test_a_flood_of_arguments_takes_no_more_than_its_share_of_memory(
    folder: Path, hostile: Path, cgroups: CgroupFolders, programs: Programs
) -> None:
    """They are read and matched whole all the same: one of them is a miner's."""
    for number in range(FLOOD_COUNT):
        last = POOL if number == FLOOD_COUNT - 1 else ()
        cgroups.put(programs.start("worker", FLOOD_ARGUMENT, *last, busy=False), hostile)
    cgroups.put(programs.start("xmrig", *POOL, busy=False), folder)
    done = subprocess.run(
        [sys.executable, "-c", WATCH_AND_TELL, folder.name, hostile.name],
        capture_output=True,
        text=True,
        check=True,
    )
    peak_kib, text_bytes, of_the_miner, of_the_flood = done.stdout.split()
    assert int(peak_kib) < 32 << 10
    assert int(text_bytes) <= MAX_NODE_BYTES
    assert of_the_miner != Level.CLEAR.label
    assert of_the_flood != Level.CLEAR.label


# Threads and processes.


def room_for_threads() -> int:
    """Half of what the kernel has room for: others live here, too."""
    limits = [Path(f"/proc/sys/kernel/{name}").read_text() for name in ("pid_max", "threads-max")]
    there_are = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])
    return (min(int(limit) for limit in limits) - there_are) // 2


@pytest.mark.parametrize("source", ["proc", "tasks"])
def test_of_tens_of_thousands_of_threads_few_are_looked_at(
    matcher: Matcher,
    folder: Path,
    cgroups: CgroupFolders,
    programs: Programs,
    compiled: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    source: str,
) -> None:
    """30,000, where kernel.pid_max has room for them; half of what there is room for elsewhere."""
    count = min(_MANY_THREADS, room_for_threads())
    if count < _FEW_THREADS:
        pytest.skip(f"there is room for {count} threads: set sysctl kernel.pid_max=4194304")
    node = Node(matcher, folder, cgroups.root, task_iterator() if source == "tasks" else None)
    program = Path(compiled("many_threads"))
    xmrig = program.rename(program.with_name("xmrig"))
    miner = programs.run([str(xmrig), str(count), *POOL])
    cgroups.put(miner, folder)
    until(lambda: thread_count(miner.pid) > count * 0.9)
    opened: list[str] = []
    really_open = os.open

    def noted(path: str, *rest: int) -> int:
        opened.append(str(path))
        return really_open(path, *rest)

    monkeypatch.setattr(os, "open", noted)
    assert ticks_until_told(node) <= TOLD_WITHIN_TICKS
    for _ in range(3):
        opened.clear()
        node.tick()
        assert sum(f"/{miner.pid}/task/" in path for path in opened) <= 4096
    assert node.container().process_count == 1
    node.watch.close()


def thread_count(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[17])


def task_iterator() -> TaskIterator:
    try:
        return TaskIterator()
    except SourceUnavailableError as error:
        pytest.skip(f"run it as root of a host: {error}")


def test_a_fork_storm_hides_no_miner_and_leaves_nothing_behind(
    node: Node,
    folder: Path,
    hostile: Path,
    cgroups: CgroupFolders,
    programs: Programs,
    compiled: Callable[[str], str],
) -> None:
    node.tick()
    storm = compiled("fork_storm")
    for _ in range(4):
        cgroups.put(programs.run([storm, shutil.which("true") or "/bin/true"]), hostile)
    for _ in range(5):
        node.tick(0.1)
    cgroups.put(programs.start("xmrig", *POOL, busy=True), folder)
    assert ticks_until_told(node) <= TOLD_WITHIN_TICKS
    programs.close()
    until(lambda: not (hostile / "cgroup.procs").read_text())
    # No more than there are: what the storm has left is reaped by init in its own time.
    until(lambda: node.tick(0.1).process_count <= sum(map(str.isdigit, os.listdir("/proc"))) + 10)


# Cgroups.


def test_a_tree_too_deep_is_followed_to_a_limit_and_hides_no_miner_below_it(
    node: Node, folder: Path, hostile: Path, cgroups: CgroupFolders, programs: Programs
) -> None:
    """It belongs to the closest cgroup above that is followed, and nesting so is suspicious."""
    deepest = hostile
    with ExitStack() as made:
        for _ in range(100):
            deepest = deepest / "d"
            deepest.mkdir()
            made.callback(_remove, deepest)
        node.tick()
        followed = dict_of_failures(node)["cgroups", "too_many"]
        assert followed == 1  # one folder has more below it than is followed
        assert of_hostile(node).verdict.level is Level.SUSPICIOUS
        cgroups.put(programs.start("xmrig", *POOL, busy=True), deepest)
        cgroups.put(programs.start("xmrig", *POOL, busy=True), folder)
        assert ticks_until_told(node) <= TOLD_WITHIN_TICKS
        for _ in range(2):
            node.tick()
        deep = of_hostile(node)
        assert deep.cpu_cores is not None
        assert deep.cpu_cores > 0
        assert deep.verdict.level >= Level.LIKELY
        assert deep.process_count == 1
        programs.close()


def of_hostile(node: Node) -> Observation:
    (found,) = (
        each
        for each in node.watch.observations(0)
        if each.container.cgroup.endswith(container_id("b2"))
    )
    return found


def dict_of_failures(node: Node) -> dict[tuple[str, str], int]:
    return {(probe, reason): count for probe, reason, count in node.watch.failures()}


def _remove(folder: Path) -> None:
    def is_gone() -> bool:
        try:
            folder.rmdir()
        except OSError as error:
            return error.errno == errno.ENOENT
        return True

    until(is_gone)


ODD_NAMES = [
    b"\x1b[2J\x1b[31m",
    b"a\tb\rc",
    b"\xff\xfe\x80",
    b"x" * 255,
    "‮gnp.rekam".encode(),
    b'", "level": "clear", "x": "',
    b"%s%n${HOME}",
    b"...",
]


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_a_miner_is_told_whatever_its_cgroup_is_called(
    matcher: Matcher, hostile: Path, cgroups: CgroupFolders, programs: Programs, name: bytes
) -> None:
    place = os.fsencode(hostile) + b"/" + name
    os.mkdir(place)
    node = Node(matcher, hostile, cgroups.root)
    try:
        miner = programs.start("xmrig", *POOL, busy=True)
        Path(os.fsdecode(place + b"/cgroup.procs")).write_text(str(miner.pid))
        assert ticks_until_told(node) <= TOLD_WITHIN_TICKS
        status = container_status(node.container(), node="n", boot_unix_s=0.0, identity=None)
        (told,) = decode(encode([status]))
        assert told.level in ("likely", "confirmed")
    finally:
        node.watch.close()
        programs.close()
        _remove(Path(os.fsdecode(place)))


def test_the_kernel_makes_no_cgroup_with_a_newline_in_its_name(hostile: Path) -> None:
    """So that nobody can forge a line of /proc/PID/cgroup (cgroup_mkdir in kernel/cgroup/cgroup.c).

    On a kernel that made one, test_no_bytes_in_a_name_stop_it would hold, but this has to be known.
    """
    with pytest.raises(OSError, match="Invalid argument"):
        (hostile / "a\n0::").mkdir()


# What stands between the agent and the process.


HIDES_PROC = {
    "all of it": "mount -t tmpfs none /proc",
    "its own folder": "mount --bind /tmp /proc/$$",
    "one file": "mount --bind /dev/null /proc/$$/cmdline",
}


@pytest.mark.parametrize("mount", HIDES_PROC.values(), ids=HIDES_PROC)
def test_mounts_over_proc_inside_a_container_hide_nothing(
    node: Node, folder: Path, cgroups: CgroupFolders, programs: Programs, tmp_path: Path, mount: str
) -> None:
    xmrig = tmp_path / "xmrig"
    shutil.copy(shutil.which("dash") or "/bin/sh", xmrig)
    ready = tmp_path / "ready"
    script = (
        f"{mount} && echo >{ready} || exit 1; read go;"
        f" exec {xmrig} -c 'while :; do :; done' {' '.join(POOL)}"
    )
    miner = programs.run(["unshare", "--mount", "--propagation", "private", "sh", "-c", script])
    cgroups.put(miner, folder)
    until(lambda: ready.exists() or miner.poll() is not None)
    if miner.poll() is not None:
        pytest.skip("no mount namespace can be had here: run it as root outside of a container")
    assert miner.stdin is not None
    miner.stdin.write(b"\n")
    miner.stdin.flush()
    until(lambda: Path(f"/proc/{miner.pid}/comm").read_text() == "xmrig\n")
    assert ticks_until_told(node) <= TOLD_WITHIN_TICKS
    (process,) = node.container().processes
    assert process.process.image == str(xmrig)
    assert "stratum" in process.process.command_line


# A file system that does not answer.


class DeadFuse:
    """A program on a file system that serves it, and then does not any more."""

    def __init__(self, folder: Path) -> None:
        """Skips the test where there can be none."""
        self.folder = folder / "fuse"
        self.folder.mkdir()
        copy = folder / "served"
        shell = Path(shutil.which("dash") or "/bin/sh").read_bytes()
        copy.write_bytes(shell + bytes(4 << 20))  # more than is read ahead
        self.program = self.folder / "program"
        self._server = subprocess.Popen(
            [sys.executable, "-I", str(TARGETS / "dead_fuse.py"), str(self.folder), str(copy)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        if self._said() != b"mounted\n":
            self._server.wait()
            pytest.skip("no FUSE here: run it as root where /dev/fuse is")

    def die(self) -> None:
        """From now on whoever reads what the kernel does not hold already waits."""
        assert self._server.stdin is not None
        self._server.stdin.write(b"\n")
        self._server.stdin.flush()
        assert self._said() == b"dead\n"

    def close(self) -> None:
        """Everybody who waits gets an error."""
        self._server.kill()
        self._server.wait()
        for pipe in (self._server.stdin, self._server.stdout):
            if pipe is not None:
                pipe.close()
        subprocess.run(["umount", "--lazy", self.folder], check=False)

    def _said(self) -> bytes:
        assert self._server.stdout is not None
        return self._server.stdout.readline()


@pytest.fixture
def fuse(tmp_path: Path) -> Iterator[DeadFuse]:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK) or os.geteuid() != 0:
        pytest.skip("no FUSE here: run it as root where /dev/fuse is")
    fuse = DeadFuse(tmp_path)
    yield fuse
    fuse.close()


def test_a_miner_on_a_dead_file_system_is_told(
    matcher: Matcher, folder: Path, cgroups: CgroupFolders, programs: Programs, fuse: DeadFuse
) -> None:
    """With every probe at work on it."""
    node = Node(matcher, folder, cgroups.root, None, Probes(Config()))
    command = [str(fuse.program), "-c", "while :; do :; done", *POOL]
    miner = programs.run(command)
    until(lambda: os.readlink(f"/proc/{miner.pid}/exe") == str(fuse.program))
    until(lambda: "stratum" in Path(f"/proc/{miner.pid}/cmdline").read_text())
    fuse.die()
    cgroups.put(miner, folder)
    assert ticks_until_told(node) <= TOLD_WITHIN_TICKS
    for _ in range(5):
        node.tick(0.1)
    fuse.close()  # so that a scanner that waits for it can end
    node.watch.close()


def test_an_executable_on_a_dead_file_system_holds_up_no_scan(
    programs: Programs, fuse: DeadFuse, tmp_path: Path
) -> None:
    """Its pages are read in memory; a child that hashes the file itself is left behind."""
    rule = tmp_path / "elf.yar"
    rule.write_text("rule Elf { condition: uint32(0) == 0x464C457F }")
    on_fuse = identity(programs.run([str(fuse.program), "-c", "read nothing"]).pid)
    until(lambda: os.readlink(f"/proc/{on_fuse.pid}/exe") == str(fuse.program))
    other = identity(programs.start("other", busy=False).pid)
    fuse.die()
    scanner = GuardedProgram(SCANNER, needs_packages=True)
    reader = ContentReader("/proc", [rule], program=scanner, stall_s=0.5)
    before = children()
    answers: dict[ProcessId, tuple[str, ...] | None] = {}

    def is_answered() -> bool:
        answers.update(reader.answers())
        return answers.keys() == {on_fuse, other}

    for process in (on_fuse, on_fuse, other):
        reader.ask(process)
    until(is_answered)
    assert reader.failures["timeout"] == 0
    assert answers == {on_fuse: ("Elf",), other: ("Elf",)}
    assert len(children() - before) <= 2  # one that works; one that dies as soon as it can
    hashing = GuardedProgram(CHILDREN / "exe_hasher.py", "/proc", "1000000000")
    hasher = ExecutableHasher(deadline_s=3.0, program=hashing)
    assert on_fuse not in hasher.digests([on_fuse])
    assert len(hasher.digests([other])[other]) == 64
    fuse.close()
    until(lambda: not hashing.dying())
    reader.close()
    until(lambda: not scanner.dying())


ARGUMENTS_ON_FUSE = """
import ctypes, os, sys
fields = open('/proc/self/stat').read().rpartition(')')[2].split()
start = int(fields[45]) & ~4095
end = (int(fields[46]) + 4095) & ~4095
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
fd = os.open(sys.argv[1], os.O_RDONLY)
fixed = libc.mmap(start, end - start, 1, 0x12, fd, 1 << 20)
assert fixed == start
os.write(1, b'ready\\n')
os.read(0, 1)
"""


def test_arguments_on_a_dead_file_system_are_hidden(fuse: DeadFuse) -> None:
    """From Linux 4.17 on they are not fetched; before, the read that hangs is left behind."""
    command = [sys.executable, "-I", "-S", "-c", ARGUMENTS_ON_FUSE, str(fuse.program)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        fuse.die()
        reader = ProcessReader(Path("/proc"))
        found = reader.read([child.pid, os.getpid()])
        assert found[child.pid].command_line_hidden
        assert found[os.getpid()].command_line
        assert reader.failures["deadline"] <= 1
        reader.close()
        fuse.close()
        child.kill()


LOCKS_ITS_MEMORY = """
import mmap, os, sys, threading, time
cached = os.open(sys.argv[1], os.O_RDONLY)
direct = os.open(sys.argv[1], os.O_RDONLY | os.O_NOATIME)
os.write(1, b'opened\\n')
os.read(0, 1)
threading.Thread(target=os.pread, args=(cached, 4096, 1 << 20), daemon=True).start()
time.sleep(0.3)
mmap.mmap(direct, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ)
"""
"""It holds its memory lock for as long as its file system does not answer.

A read that is not answered holds a page of the file; mmap(2) of a file that is opened for direct
input and output waits for that page while it holds the memory lock (``fuse_file_mmap``,
``invalidate_inode_pages2``). Whoever then reads its arguments or mappings waits, as every ps does.
"""


class Lockers:
    """Processes that hold their own memory locks."""

    def __init__(self, fuse: DeadFuse, count: int) -> None:
        command = [sys.executable, "-I", "-S", "-c", LOCKS_ITS_MEMORY, str(fuse.program), *POOL]
        self.processes = [
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            for _ in range(count)
        ]
        for process in self.processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"opened\n"
        fuse.die()
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.flush()
        until(lambda: all(state(process.pid) == "D" for process in self.processes))

    def close(self) -> None:
        """To be called when the file system is gone: nothing else ends them."""
        for process in self.processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


@pytest.fixture
def lockers(fuse: DeadFuse) -> Iterator[Lockers]:
    lockers = Lockers(fuse, 5)
    yield lockers
    fuse.close()
    lockers.close()


def test_processes_that_lock_their_memory_hold_up_nobody(
    matcher: Matcher,
    folder: Path,
    hostile: Path,
    cgroups: CgroupFolders,
    programs: Programs,
    lockers: Lockers,
) -> None:
    reader = ProcessReader(Path("/proc"), retry_s=0.2)  # a few times in the test's time
    node = Node(matcher, folder, cgroups.root, None, Probes(Config()), reader=reader)
    threads, before = threading.active_count(), children()
    for process in lockers.processes:
        cgroups.put(process, hostile)
    node.tick()
    cgroups.put(programs.start("xmrig", *POOL, busy=True), folder)
    # Each of them may take the time for command lines of one tick, once.
    assert ticks_until_told(node) <= TOLD_WITHIN_TICKS + len(lockers.processes)

    def are_hidden() -> bool:
        node.tick(0.1)
        observed = {each.container.cgroup[-64:]: each for each in node.watch.observations(100)}
        held = observed[container_id("b2")].processes
        assert len(held) == len(lockers.processes)
        is_hidden = [each.process.command_line_hidden for each in held]
        hangs = reader.failures["deadline"]
        assert hangs >= 3 * sum(is_hidden)  # none at the first or the second time
        return all(is_hidden)

    until(are_hidden)
    assert reader.failures["deadline"] <= 10 * len(lockers.processes)
    assert threading.active_count() <= threads + 1  # one is left behind
    miners = {process.pid for process in programs.running}
    # One of each program at most, for whichever containers of the machine; killed ones gone.
    until(lambda: max(Counter(map(script, children() - before - miners)).values(), default=0) <= 1)
    node.watch.close()


def test_a_process_that_locks_its_memory_does_not_blind_the_reading_of_mappings(
    lockers: Lockers,
) -> None:
    reader = MappingReader(stall_s=2.0)
    locked = [identity(process.pid) for process in lockers.processes[:2]]
    own = identity(os.getpid())
    for process in locked:
        reader.ask(process, "hostile")
    reader.ask(own, "another")
    until(lambda: own in reader.answers())
    until(lambda: not (reader.answers() or len(reader.questions)))
    assert reader.failures["timeout"] == len(locked)
    for process in locked:
        reader.ask(process, "hostile")  # left alone for some time
    reader.ask(own, "another")
    until(lambda: own in reader.answers())
    assert reader.failures["timeout"] == len(locked)
    reader.close()


# Tracers.

TRACES_ITS_PARENT = """
import ctypes, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
parent = os.getpid()
if os.fork() == 0:
    assert libc.ptrace(0x4206, parent, None, 0x100000) == 0  # PTRACE_SEIZE, EXITKILL
    os.write(1, b'traced\\n')
    while os.WIFSTOPPED(os.waitpid(parent, 0x40000000)[1]):  # __WALL
        libc.ptrace(7, parent, None, 0)  # PTRACE_CONT
    os._exit(0)
os.read(0, 1)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_a_miner_that_is_traced_by_its_own_child_is_told(
    matcher: Matcher, folder: Path, cgroups: CgroupFolders, programs: Programs, tmp_path: Path
) -> None:
    """With every probe at work on it; only one tracer is possible, and it is not the agent."""
    node = Node(matcher, folder, cgroups.root, None, Probes(Config()))
    xmrig = tmp_path / "xmrig"
    shutil.copy(shutil.which("dash") or "/bin/sh", xmrig)
    busy = [str(xmrig), "-c", "while :; do :; done", *POOL]
    command = [sys.executable, "-I", "-S", "-c", TRACES_ITS_PARENT, *busy]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as miner:
        assert miner.stdin is not None
        assert miner.stdout is not None
        assert miner.stdout.readline() == b"traced\n"
        cgroups.put(miner, folder)
        miner.stdin.write(b"\n")
        miner.stdin.flush()
        until(lambda: Path(f"/proc/{miner.pid}/comm").read_text() == "xmrig\n")
        assert ticks_until_told(node) <= TOLD_WITHIN_TICKS
        for _ in range(5):
            node.tick(0.1)
        assert state(miner.pid) == "R"  # nobody stopped it
        assert node.container().verdict.level >= Level.LIKELY
        miner.kill()
    node.watch.close()
