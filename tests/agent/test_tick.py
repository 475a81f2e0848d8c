"""The watch on the real kernel: real processes in real cgroups, scored by the shipped rules."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from minerwatch.agent import tracked
from minerwatch.agent.tick import Sources, TickSummary, Watch
from minerwatch.agent.tracked import TickLimits
from minerwatch.config.schema import Config, Examination
from minerwatch.config.schema import Probes as Settings
from minerwatch.config.values import Duration
from minerwatch.detection.judge import Judge
from minerwatch.detection.matching.matcher import Matcher
from minerwatch.detection.sigma import rulebook
from minerwatch.errors import SourceUnavailableError
from minerwatch.model import (
    Container,
    ContainerKind,
    Finding,
    Level,
    Observation,
    Process,
    ProcessId,
    Signal,
)
from minerwatch.node.cgroup_state import CgroupBounds
from minerwatch.node.cgroups import CgroupTree
from minerwatch.node.processes import ProcessReader
from minerwatch.node.task_iterator import TaskIterator
from minerwatch.probes.base import Probe, no_owner
from minerwatch.probes.registry import Probes
from tests import shipped
from tests.conftest import (
    TOP,
    CgroupFolders,
    Programs,
    container_id,
    environment_of_this_python,
    no_files_left,
    pod_uid,
    private_sys,
    remove_parent_cgroups,
)
from tests.waiting import cpu_s, until, until_burnt

POOL = (
    "-o",
    "stratum+tcp://pool.supportxmr.com:3333",
    "-u",
    "4AdUndXHHZ6cfufTMvppY6JwXNouMBzSkbLYfpAV5Usx3skxNgYeYTRj5UzqtReoS44qo9mtmXCqY45DJ852K5Jv2684Rge",
)


@pytest.fixture
def matcher() -> Matcher:
    return shipped.matcher()


HOT_AND_SMALL = Examination(hot_cpu_cores=0.01)


class Node:
    """A watch over this machine, and one container in which a test puts its processes."""

    def __init__(
        self,
        matcher: Matcher,
        folder: Path,
        root: Path,
        tasks: TaskIterator | None = None,
        probes: Probes | None = None,
        sys_folder: Path = Path("/sys"),
        limits: TickLimits | None = None,
        reader: ProcessReader | None = None,
        bounds: CgroupBounds | None = None,
        examination: Examination = HOT_AND_SMALL,
    ) -> None:
        """What gets little of a busy machine's CPU is hot, and suspect, all the same."""
        self._cgroup = "/" + str(folder.relative_to(root))
        self.watch = Watch(
            Sources(
                CgroupTree(sys_folder, Path("/proc"), bounds=bounds),
                reader or ProcessReader(Path("/proc"), retry_s=3600.0),
                tasks,
                probes or Probes(),
            ),
            matcher,
            examination,
            Judge(),
            limits=limits,
        )

    def tick(self, after_s: float = 0.3) -> TickSummary:
        time.sleep(after_s)
        return self.watch.tick(self.now_s())

    @staticmethod
    def now_s() -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def container(self) -> Observation:
        return next(
            each for each in self.watch.observations(100) if each.container.cgroup == self._cgroup
        )

    def process_count(self, container_id: str) -> int:
        return next(
            each.process_count
            for each in self.watch.observations(0)
            if each.container.container_id.startswith(container_id[:12])
        )


@pytest.fixture
def folder(cgroups: CgroupFolders) -> Path:
    return cgroups.make(f"{TOP}/docker/{container_id('a1')}")


def task_iterator() -> TaskIterator:
    try:
        return TaskIterator()
    except SourceUnavailableError as error:
        pytest.skip(f"run it as root of a host: {error}")


@pytest.fixture(params=["proc", "tasks"])
def node(
    request: pytest.FixtureRequest,
    matcher: Matcher,
    folder: Path,
    cgroups: CgroupFolders,
) -> Iterator[Node]:
    """With each source of what processes burn: file after file, or all tasks in one read."""
    tasks = task_iterator() if request.param == "tasks" else None
    node = Node(matcher, folder, cgroups.root, tasks, limits=TickLimits(ticks_per_table=1))
    yield node
    node.watch.close()


def test_a_busy_loop_called_like_a_miner_with_its_arguments_is_likely_within_two_ticks(
    node: Node, folder: Path, cgroups: CgroupFolders, programs: Programs
) -> None:
    cgroups.put(programs.start("xmrig", *POOL, busy=True), folder)
    node.tick()
    found = node.tick()
    container = node.container()
    assert container.verdict.level >= Level.LIKELY
    assert any(finding.signal is Signal.IDENTITY for finding in container.verdict.findings)
    assert container.verdict.container in {each.container.key for each in found.flagged}


def test_the_name_alone_without_cpu_stays_below_likely(
    node: Node, folder: Path, cgroups: CgroupFolders, programs: Programs
) -> None:
    cgroups.put(programs.start("xmrig", busy=False), folder)
    for _ in range(3):
        node.tick()
    assert Level.CLEAR < node.container().verdict.level < Level.LIKELY


def test_whoever_searches_for_miners_is_clear(
    node: Node, folder: Path, cgroups: CgroupFolders, programs: Programs
) -> None:
    searcher = programs.run(["grep", "-r", "stratum+tcp://", "-"])
    editor = programs.run(["sed", "-n", "s#stratum+tcp://pool.minexmr.com:4444##p"])
    for process in (searcher, editor):
        cgroups.put(process, folder)
    for _ in range(2):
        node.tick()
    container = node.container()
    assert container.process_count == 2
    assert container.verdict.findings == ()
    assert container.verdict.level is Level.CLEAR


def test_a_miner_that_joins_a_container_that_idled_is_told_at_the_next_tick(
    node: Node, folder: Path, cgroups: CgroupFolders, programs: Programs
) -> None:
    cgroups.put(programs.start("server", busy=False), folder)
    for _ in range(3):
        node.tick()
    assert node.container().verdict.level is Level.CLEAR
    cgroups.put(programs.start("xmrig", *POOL, busy=True), folder)
    node.tick()
    assert node.container().verdict.level >= Level.LIKELY


def catch_up(node: Node) -> None:
    """Read and match all that a tick had no time for, as the agent does between two ticks."""
    while node.watch.has_deferred or is_deferring(node):
        node.watch.handle_execs((), node.now_s())


def is_deferring(node: Node) -> bool:
    """Return True if processes still wait for matching after some more time for it."""
    before = deferred_matches(node)
    node.watch.handle_execs((), node.now_s())
    return deferred_matches(node) > before


def deferred_matches(node: Node) -> int:
    failures = {(probe, reason): n for probe, reason, n in node.watch.failures()}
    return failures["rules", "deferred"]


def test_whoever_brings_many_processes_holds_up_others_by_one_each(
    matcher: Matcher,
    folder: Path,
    cgroups: CgroupFolders,
    programs: Programs,
) -> None:
    crowded = cgroups.make(f"{TOP}/docker/{container_id('b2')}")
    node = Node(matcher, folder, cgroups.root, limits=TickLimits(match_s=0.0))  # one process a tick
    node.tick()
    catch_up(node)
    deferred_before = deferred_matches(node)
    for number in range(30):
        cgroups.put(programs.start(f"p{number}", "x" * 20_000, busy=False), crowded)
    cgroups.put(programs.start("xmrig", *POOL, busy=True), folder)
    other_containers = len(node.watch.observations(0))
    ticks = 0
    while node.container().verdict.level is Level.CLEAR:
        node.tick(0.02)
        ticks += 1
        assert ticks <= other_containers + 3
    assert deferred_matches(node) > deferred_before
    node.watch.close()


def test_who_starts_hundreds_of_processes_does_not_hide_a_miner_elsewhere(
    matcher: Matcher,
    folder: Path,
    cgroups: CgroupFolders,
    programs: Programs,
) -> None:
    """Where there is no time to read all of them, each container has its turn."""
    crowded = cgroups.make(f"{TOP}/docker/{container_id('c3')}")
    one_batch = TickLimits(read_s=0.0, read_between_ticks_s=0.0)
    node = Node(matcher, folder, cgroups.root, limits=one_batch)
    node.tick()
    catch_up(node)
    crowd = programs.run([sys.executable, "-c", CROWD, "400"])
    cgroups.put(crowd, crowded)
    assert crowd.stdin
    crowd.stdin.write(b"\n")
    crowd.stdin.flush()
    until(lambda: len((crowded / "cgroup.procs").read_text().split()) >= 401)
    cgroups.put(programs.start("xmrig", *POOL, busy=True), folder)
    node.tick()
    assert node.container().verdict.level > Level.CLEAR
    assert node.process_count(container_id("c3")) < 401
    catch_up(node)
    assert node.process_count(container_id("c3")) == 401
    node.watch.close()


def test_who_starts_hundreds_of_processes_between_two_ticks_takes_little_time_at_once(
    matcher: Matcher,
    folder: Path,
    cgroups: CgroupFolders,
    programs: Programs,
) -> None:
    """So that the agent need not pause for long, and what starts elsewhere is looked at soon."""
    crowded = cgroups.make(f"{TOP}/docker/{container_id('c3')}")
    node = Node(matcher, folder, cgroups.root)
    node.tick()
    crowd = programs.run([sys.executable, "-c", CROWD, "400"])
    cgroups.put(crowd, crowded)
    assert crowd.stdin
    crowd.stdin.write(b"\n")
    crowd.stdin.flush()
    members = crowded / "cgroup.procs"
    until(lambda: len(members.read_text().split()) >= 401)
    node.watch.handle_execs(map(int, members.read_text().split()), node.now_s(), max_cpu_s=0.0)
    read = [node.process_count(container_id("c3"))]
    assert 0 < read[0] < 100
    miner = programs.start("xmrig", *POOL, busy=False)
    cgroups.put(miner, folder)
    node.watch.handle_execs([miner.pid], node.now_s(), max_cpu_s=0.0)
    for _ in node.watch.observations(0):  # one process of each container, at most, goes first
        if node.container().verdict.level >= Level.LIKELY:
            break
        node.watch.handle_execs((), node.now_s(), max_cpu_s=0.0)
    assert node.container().verdict.level >= Level.LIKELY
    while node.watch.has_deferred:
        node.watch.handle_execs((), node.now_s(), max_cpu_s=0.0)
        read.append(node.process_count(container_id("c3")))
    assert all(after - before < 100 for before, after in pairwise(read))
    assert read[-1] == 401
    node.watch.close()


CROWD = """
import os, sys, time
sys.stdin.readline()
for _ in range(int(sys.argv[1])):
    if os.fork() == 0:
        break
time.sleep(1000)
"""


def test_a_process_that_execs_into_a_miner_is_found(
    node: Node, folder: Path, cgroups: CgroupFolders, programs: Programs, tmp_path: Path
) -> None:
    miner = programs.start("xmrig", busy=False)  # only so that the program is there
    program = os.readlink(f"/proc/{miner.pid}/exe")
    arguments = " ".join(POOL)
    script = tmp_path / "start.sh"
    script.write_text(f"read go; exec {program} -c 'while :; do :; done' {arguments}\n")
    innocent = programs.run(["bash", str(script)])
    cgroups.put(innocent, folder)
    node.tick()
    assert node.container().verdict.level is Level.CLEAR
    assert innocent.stdin
    innocent.stdin.write(b"go\n")
    innocent.stdin.flush()
    until(lambda: comm(innocent.pid) == "xmrig")
    node.tick()
    node.tick()
    container = node.container()
    assert container.verdict.level >= Level.LIKELY
    assert container.verdict.findings[0].process is not None
    assert container.verdict.findings[0].process.pid == innocent.pid


def test_a_process_that_joins_a_container_before_it_becomes_the_program_is_the_containers(
    node: Node, folder: Path, cgroups: CgroupFolders, programs: Programs
) -> None:
    """As runtimes start containers; between two ticks, by two exec events of the same pid."""
    miner = programs.start("xmrig", busy=False)
    program = os.readlink(f"/proc/{miner.pid}/exe")
    node.tick()
    arguments = " ".join(POOL)
    runtime = programs.run(["bash", "-c", f"read go; exec {program} -c 'read x' {arguments}"])
    assert runtime.stdin
    node.watch.handle_execs([runtime.pid], time.clock_gettime(time.CLOCK_BOOTTIME))
    cgroups.put(runtime, folder)
    runtime.stdin.write(b"go\n")
    runtime.stdin.flush()
    until(lambda: comm(runtime.pid) == "xmrig")
    examined = node.watch.handle_execs([runtime.pid], time.clock_gettime(time.CLOCK_BOOTTIME))
    assert [change.observation.container.cgroup for change in examined.changes] == [
        node.container().container.cgroup
    ]
    assert runtime.pid in {load.process.id.pid for load in node.container().processes}


def test_a_process_that_renames_itself_is_read_again(
    node: Node, folder: Path, cgroups: CgroupFolders, programs: Programs
) -> None:
    script = (
        "import ctypes, sys\n"
        "sys.stdin.readline()\n"
        "ctypes.CDLL(None).prctl(15, b'xmrig', 0, 0, 0)\n"
        "while True: pass\n"
    )
    process = programs.run([sys.executable, "-c", script])
    cgroups.put(process, folder)
    node.tick()
    assert node.container().verdict.findings == ()
    assert process.stdin
    process.stdin.write(b"\n")
    process.stdin.flush()
    until(lambda: comm(process.pid) == "xmrig")
    node.tick()
    node.tick()
    assert {load.process.comm for load in node.container().processes} == {"xmrig"}
    assert node.container().verdict.level > Level.CLEAR


def test_cpu_is_measured_by_container_and_by_process(
    node: Node, folder: Path, cgroups: CgroupFolders, programs: Programs
) -> None:
    busy = programs.start("burner", busy=True)
    idle = programs.start("idler", busy=False)
    for process in (busy, idle):
        cgroups.put(process, folder)

    def is_measured() -> bool:
        """A tick later: on a busy machine a container may have run too little to be hot before."""
        node.tick()
        return any(each.cpu_cores for each in node.container().processes)

    until(is_measured)
    until_burnt(busy.pid, 0.3)
    known_s = [cpu_s(busy.pid)]
    before = node.tick(0.0)
    known_s.append(cpu_s(busy.pid))
    until_burnt(busy.pid, 0.3)
    known_s.append(cpu_s(busy.pid))
    after = node.tick(0.0)
    known_s.append(cpu_s(busy.pid))
    elapsed_s = after.at_s - before.at_s
    least_s, most_s = known_s[2] - known_s[1], known_s[3] - known_s[0]
    container = node.container()
    first, second = container.processes
    assert (first.process.id.pid, second.process.id.pid) == (busy.pid, idle.pid)
    for measured in (container.cpu_cores, first.cpu_cores):
        assert measured is not None
        assert least_s - 0.03 <= measured * elapsed_s <= most_s + 0.03  # counted in ticks
    assert second.cpu_cores == 0.0


def test_a_flagged_container_that_goes_is_said_once(
    node: Node, folder: Path, cgroups: CgroupFolders, programs: Programs
) -> None:
    miner = programs.start("xmrig", *POOL, busy=False)
    cgroups.put(miner, folder)
    first = node.tick()
    ours = node.container().container
    (change,) = (each for each in first.changes if each.observation.container == ours)
    assert change.previous is Level.CLEAR
    miner.kill()
    miner.wait()
    _remove(folder)
    said = [each.container for _ in range(3) for each in node.tick().ended]
    assert [each for each in said if each == ours] == [ours]  # others may come and go


def test_a_level_falls_only_after_three_ticks_below_it(
    node: Node, folder: Path, cgroups: CgroupFolders, programs: Programs
) -> None:
    miner = programs.start("xmrig", *POOL, busy=False)
    cgroups.put(miner, folder)
    node.tick()
    miner.kill()
    miner.wait()
    levels = []
    for _ in range(4):
        node.tick(0.05)
        levels.append(node.container().verdict.level)
    assert levels[:2] == [Level.LIKELY, Level.LIKELY]
    assert levels[-1] is Level.CLEAR


def test_one_argument_counts_once_its_processes_have_computed_restarts_included(
    node: Node,
    folder: Path,
    cgroups: CgroupFolders,
    programs: Programs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracked, "DELAY_CPU_S", 1.0)
    level = Level.CLEAR
    for _ in range(100):
        reader = programs.start("convert", "--donate-level=1", busy=True)
        cgroups.put(reader, folder)
        node.tick()
        level = node.container().verdict.level
        used_s = psutil.Process(reader.pid).cpu_times().user
        assert used_s < 1.0, "one process alone must not make it count"
        if level is not Level.CLEAR:
            break
        reader.kill()
        reader.wait()
    assert level is Level.SUSPICIOUS
    findings = node.container().verdict.findings
    assert any(finding.words_only for finding in findings)
    assert all(finding.words_only for finding in findings if finding.score >= Level.SUSPICIOUS)


def test_other_rules_apply_at_the_next_tick_to_what_is_already_running(
    node: Node, folder: Path, cgroups: CgroupFolders, programs: Programs, matcher: Matcher
) -> None:
    cgroups.put(programs.start("xmrig", *POOL, busy=False), folder)
    node.watch.use(Matcher(()))
    node.tick()
    assert node.container().verdict.findings == ()
    node.watch.use(matcher)
    node.tick()
    assert node.container().verdict.level >= Level.LIKELY


def test_a_new_process_that_exits_at_once_stops_nothing(
    node: Node, folder: Path, cgroups: CgroupFolders, programs: Programs
) -> None:
    forker = programs.run(["sh", "-c", "while :; do /bin/true; done"])
    cgroups.put(forker, folder)
    for _ in range(10):
        node.tick(0.05)
    assert node.container().process_count >= 1


def test_cpu_of_processes_too_short_to_see_is_hidden(
    folder: Path, cgroups: CgroupFolders, programs: Programs, tmp_path: Path
) -> None:
    rule = tmp_path / "hidden.yml"
    rule.write_text(
        "title: Hidden\nid: 3c1f9d1e-3a3c-4b43-9a55-3b8a2f0d9c11\nstatus: test\n"
        "logsource: {product: linux, category: process_creation}\n"
        "detection: {s: {HiddenCpuShare|gte: 0.5}, condition: s}\nlevel: low\n"
        "minerwatch: {signal: behaviour}\n"
    )
    node = Node(Matcher(rulebook.load((rule,)).rules), folder, cgroups.root)
    script = "while :; do i=0; (while [ $i -lt 2000 ]; do i=$((i+1)); done); done"
    storm = programs.run(["sh", "-c", script])
    cgroups.put(storm, folder)

    def findings() -> tuple[Finding, ...]:
        node.tick()
        return node.container().verdict.findings

    (finding,) = until(findings)
    assert finding.process is None
    assert finding.evidence[0].field == "HiddenCpuShare"
    node.watch.close()


def test_who_ends_before_it_is_read_is_not_counted(
    matcher: Matcher,
    folder: Path,
    cgroups: CgroupFolders,
    programs: Programs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = Node(matcher, folder, cgroups.root)
    brief = programs.start("brief", busy=True)
    node.tick()
    batches = ProcessReader.batches

    def read_late(
        reader: ProcessReader,
        pids: Iterable[int],
        is_time_left: Callable[[], bool],
        owner_of: Callable[[int], Hashable],
    ) -> Iterator[dict[int, Process]]:
        return batches(reader, set(pids) - {brief.pid}, is_time_left, owner_of)

    monkeypatch.setattr(ProcessReader, "batches", read_late)
    cgroups.put(brief, folder)
    node.tick()

    def counted() -> int:
        return sum(each.process_count for each in node.watch.observations(0))

    until(lambda: node.tick().process_count == counted())
    node.watch.close()


def comm(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().rstrip("\n")


def _remove(folder: Path) -> None:
    def is_removed() -> bool:
        try:
            folder.rmdir()
        except OSError:
            return False
        return True

    until(is_removed, f"{folder} is still in use")


def test_a_container_made_by_a_real_runtime(
    matcher: Matcher, cgroups: CgroupFolders, tmp_path: Path
) -> None:
    """runc, with the cgroup path that a kubelet would give it."""
    bundle = runtime_bundle(tmp_path, _POD_PATH)
    name = f"minerwatch-test-{os.getpid()}"
    runtime = subprocess.Popen(
        ["runc", "run", "--bundle", str(bundle), name],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    node = Node(matcher, cgroups.root / _POD_PATH.strip("/"), cgroups.root)
    try:
        until(lambda: runtime.poll() is not None or _has(node))
        if runtime.poll() is not None:
            assert runtime.stdout
            pytest.skip(
                "runc cannot run here (run it as root of a host): "
                + runtime.stdout.read().decode()[-200:]
            )
        node.tick()
        container = node.container()
        assert container.container.pod_uid == _POD_UID
        assert container.verdict.level >= Level.LIKELY
    finally:
        subprocess.run(["runc", "delete", "--force", name], check=False, capture_output=True)
        runtime.wait()
        if runtime.stdout:
            runtime.stdout.close()
        node.watch.close()
        remove_parent_cgroups(_POD_PATH)


_POD_UID = pod_uid("0f3c1a52")
_POD_PATH = f"/kubepods/burstable/pod{_POD_UID}/{container_id('e5')}"


def _has(node: Node) -> bool:
    node.tick(0.05)
    return any(
        each.container.cgroup == _POD_PATH and each.process_count
        for each in node.watch.observations(0)
    )


def runtime_bundle(folder: Path, cgroup: str) -> Path:
    """A container that burns CPU with a miner's arguments, for runc to run in ``cgroup``."""
    if not shutil.which("runc") or not Path("/bin/busybox").exists():
        pytest.skip("needs runc and busybox: apt install runc busybox-static")
    programs = folder / "rootfs" / "bin"
    programs.mkdir(parents=True)
    shutil.copy("/bin/busybox", programs / "busybox-x")  # busybox itself counts as a reader
    subprocess.run(["runc", "spec", "--bundle", str(folder)], check=True)
    spec = json.loads((folder / "config.json").read_text())
    spec["process"]["terminal"] = False
    spec["process"]["args"] = ["/bin/busybox-x", "sh", "-c", "while :; do :; done", *POOL]
    spec["linux"]["cgroupsPath"] = cgroup
    (folder / "config.json").write_text(json.dumps(spec))
    return folder


_RANDOMX_CPU_S = 60.0
"""Within so much CPU time RandomX is told, however little of a CPU it gets."""


@pytest.mark.parametrize(
    "options",
    [["1"], pytest.param(["2"], marks=pytest.mark.nightly)],
    ids=["1 thread", "2 threads"],
)
def test_a_renamed_miner_is_likely_by_how_it_rounds(
    matcher: Matcher, folder: Path, cgroups: CgroupFolders, programs: Programs, options: list[str]
) -> None:
    """Real RandomX under the name of a training; its file, name and arguments say nothing."""
    pytest.importorskip("cyrx", reason="needs a RandomX binding: pip install cyrx")
    tasks = task_iterator()
    settings = Settings(connections=False, mappings=False, content=False)
    node = Node(matcher, folder, cgroups.root, tasks, Probes(Config(probes=settings), tasks=tasks))
    target = Path(__file__).parents[1] / "targets" / "randomx_hashing.py"
    command = ["python3", str(target), *options, "3600"]
    miner = programs.run(command, executable=sys.executable, env=environment_of_this_python())
    cgroups.put(miner, folder)
    node.tick()
    while node.container().verdict.level < Level.LIKELY:
        assert miner.poll() is None
        assert cpu_s(miner.pid) < _RANDOMX_CPU_S
        node.tick()
        node.watch.sample(time.monotonic())
    compute = [f for f in node.container().verdict.findings if f.signal is Signal.COMPUTE]
    assert max(finding.score for finding in compute) == 88
    node.watch.close()


class Recorder(Probe):
    """Records which processes it may examine."""

    name = "recorder"
    failures: dict[str, int] = {}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__(no_owner)
        self.seen: set[int] = set()

    def _examine_due(self, suspects: Sequence[ProcessId], *_: object) -> None:
        self.seen.update(each.pid for each in suspects)

    def close(self) -> None:
        pass


def test_small_processes_of_a_container_that_is_never_hot_are_examined_in_turn(
    matcher: Matcher, folder: Path, cgroups: CgroupFolders, programs: Programs
) -> None:
    recorder = Recorder()
    examination = Examination(hot_cpu_cores=1000, cpu_per_look=Duration(0.2))
    probes = Probes(None, more=[recorder])
    node = Node(matcher, folder, cgroups.root, probes=probes, examination=examination)
    workers = [programs.start("worker", busy=True) for _ in range(3)]
    decoy = programs.start("decoy", busy=False)
    for each in (*workers, decoy):
        cgroups.put(each, folder)
    pids = {each.pid for each in workers}

    def are_all_examined() -> bool:
        node.tick(0.1)
        return recorder.seen >= pids

    until(are_all_examined, lambda: str(recorder.seen))
    assert decoy.pid not in recorder.seen
    node.watch.close()


def test_a_recorded_node(matcher: Matcher) -> None:
    """A renamed miner in one container of a pod; its neighbours and the services are clear."""
    node = Path(__file__).parents[1] / "fixtures" / "nodes" / "kubernetes-containerd-systemd-v2"
    watch = Watch(
        Sources(CgroupTree(node / "sys", node / "proc"), ProcessReader(node / "proc")),
        matcher,
        Examination(),
        Judge(),
    )
    watch.tick(1000.0)
    watch.tick(1010.0)
    levels = {
        each.container.cgroup.rpartition("/")[2]: each.verdict.level
        for each in watch.observations(0)
    }
    miner = f"cri-containerd-{'b2' * 32}.scope"
    assert levels.pop(miner) >= Level.LIKELY
    assert set(levels.values()) == {Level.CLEAR}
    found = next(o for o in watch.observations(9) if o.container.cgroup.endswith(miner))
    assert found.container.pod_uid == "0f3c1a52-7d1e-4b6c-9a55-3b8a2f0d9c11"
    assert {finding.process.pid for finding in found.verdict.findings if finding.process} == {22}
    assert {finding.signal for finding in found.verdict.findings} == {
        Signal.IDENTITY,
        Signal.EXECUTION,
    }
    assert found.limit is not None
    assert found.limit.cores == 1.5
    watch.close()


def test_a_program_that_started_while_no_file_was_left_is_not_left_to_the_next_tick(
    matcher: Matcher, folder: Path, cgroups: CgroupFolders, programs: Programs
) -> None:
    node = Node(matcher, folder, cgroups.root)
    node.tick()
    miner = programs.start("xmrig", *POOL, busy=False)
    cgroups.put(miner, cgroups.make(f"{TOP}/docker/{container_id('b2')}"))
    with no_files_left():
        assert node.watch.handle_execs([miner.pid], node.now_s()).changes == ()
    assert node.watch.has_deferred
    (change,) = node.watch.handle_execs((), node.now_s()).changes
    assert change.observation.container.cgroup.endswith(container_id("b2"))
    assert not node.watch.has_deferred
    node.watch.close()


def test_a_container_that_sleeps_takes_no_memory_in_a_tick(
    matcher: Matcher,
    folder: Path,
    cgroups: CgroupFolders,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Unless it has its turn, which here it never has: much less than an object for each."""
    monkeypatch.setattr("minerwatch.node.cgroup_counters.IDLE_CHECK_TICKS", 1 << 40)
    node = Node(matcher, folder, cgroups.root, sys_folder=private_sys(tmp_path, cgroups.root))

    def taken_bytes() -> int:
        """By the tick that takes least of sixteen."""
        taken = []
        tracemalloc.start()
        try:
            for _ in range(16):
                tracemalloc.reset_peak()
                before, _ = tracemalloc.get_traced_memory()
                node.tick(after_s=0.01)
                taken.append(tracemalloc.get_traced_memory()[1] - before)
        finally:
            tracemalloc.stop()
        return min(taken)

    def settle() -> None:
        for _ in range(20):
            node.tick(after_s=0.01)
        gc.collect()

    settle()
    without, pods, containers = taken_bytes(), 100, 200
    for number in range(containers):
        uid = f"00000000-0000-4000-8000-{number % pods:012}"
        cgroups.make(f"{TOP}/kubepods/pod{uid}/{number + 1:064x}")
    settle()
    added = taken_bytes() - without
    node.watch.close()
    assert added < 32 * containers  # three references' worth, and no object


# Whose a container is that lies outside of every pod's cgroup.

POD = "/kubepods/burstable/pod0f3c1a52-7d1e-4b6c-9a55-3b8a2f0d9c11"
A, B, C, D = map(container_id, ("a1", "b2", "c3", "d4"))
OTHER_POD = "/kubepods/burstable/pod77b0a4de-51c2-4f7e-8e0a-6a1b9d3c5e22"


class Engine:
    """A runtime in a container, and what it has started, which is then moved to another cgroup."""

    def __init__(self, folder: Path, cgroups: CgroupFolders, programs: Programs) -> None:
        self._cgroups = cgroups
        self.runtime = programs.run(["sh", "-c", "sleep 600 & wait"])
        cgroups.put(self.runtime, folder)
        children = Path(f"/proc/{self.runtime.pid}/task/{self.runtime.pid}/children")
        while not (started := children.read_text().split()):
            time.sleep(0.01)
        self.started = int(started[0])

    def moves_to(self, folder: Path) -> None:
        (folder / "cgroup.procs").write_text(str(self.started))


def engines_container(node: Node, name: str) -> Container:
    return next(
        each.container for each in node.watch.observations(0) if each.container.container_id == name
    )


def test_a_container_made_by_an_engine_in_a_pod_is_that_pods(
    matcher: Matcher, cgroups: CgroupFolders, programs: Programs
) -> None:
    """Docker in docker on cgroup v1 makes its cgroups beside kubepods."""
    of_pod = cgroups.make(f"{TOP}{POD}/{A}")
    beside = cgroups.make(f"{TOP}/docker/{B}")
    node = Node(matcher, of_pod, cgroups.root)
    node.tick()
    engine = Engine(of_pod, cgroups, programs)
    engine.moves_to(beside)
    for _ in range(8):  # it sleeps, and is read in its turn
        node.tick(0.01)
    container = engines_container(node, B)
    assert container.kind is ContainerKind.POD
    assert container.pod_uid == POD.rpartition("pod")[2]
    assert container.outer_cgroup == f"{TOP}{POD}/{A}"
    assert node.watch.carrier(container).container_id == A
    engine.runtime.kill()
    engine.runtime.wait()
    node.tick()
    assert engines_container(node, B) == container
    node.watch.close()


def test_a_container_is_no_pods_unless_all_that_came_into_it_came_from_that_pod(
    matcher: Matcher, cgroups: CgroupFolders, programs: Programs
) -> None:
    of_pod = cgroups.make(f"{TOP}{POD}/{A}")
    of_other = cgroups.make(f"{TOP}{OTHER_POD}/{C}")
    mixed = cgroups.make(f"{TOP}/docker/{B}")
    of_node = cgroups.make(f"{TOP}/docker/{D}")
    for folder in (of_pod, of_other):
        Engine(folder, cgroups, programs).moves_to(mixed)
    cgroups.put(programs.start("waits", busy=False), of_node)
    node = Node(matcher, of_pod, cgroups.root)
    for _ in range(2):
        node.tick()
    for name in (B, D):
        container = engines_container(node, name)
        assert (container.kind, container.pod_uid) == (ContainerKind.ENGINE, "")
    node.watch.close()


def test_a_container_with_more_cgroups_than_are_kept_apart_is_suspicious(
    matcher: Matcher,
    cgroups: CgroupFolders,
    programs: Programs,
) -> None:
    """And a miner in the cgroup beyond the bound is likely."""
    folder = cgroups.make(f"{TOP}{POD}/{A}")
    node = Node(matcher, folder, cgroups.root, bounds=CgroupBounds(below_pod=4))
    node.tick()
    made = [cgroups.make(f"{TOP}{POD}/{A}/{n}") for n in range(6)]
    assert any(node.tick(0.01).over_bound_count for _ in range(8))  # it sleeps: in its turn
    verdict = node.container().verdict
    assert verdict.level is Level.SUSPICIOUS
    assert [finding.title for finding in verdict.findings] == [
        "More cgroups than can be kept apart"
    ]
    for each in made:
        cgroups.put(programs.start("xmrig", *POOL, busy=False), each)
    for _ in range(8):
        node.tick(0.01)
    assert node.container().process_count == 6
    assert node.container().verdict.level >= Level.LIKELY
    node.watch.close()
