"""Samples to facts: what is classified, of which process and container, and within which bounds."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.detection.executed_code import CLASSES
from minerwatch.errors import SourceUnavailableError
from minerwatch.model import (
    CodeSample,
    CodeSamples,
    ContainerKey,
    Facts,
    PlainSample,
    ProcessId,
)
from minerwatch.node.executed_code import CodeSampler, copying_sampler
from minerwatch.node.guarded_child import GuardedProgram
from minerwatch.node.kernel_entries import EntrySampler
from minerwatch.node.proc_files import ProcessFiles
from minerwatch.probes.code_schedule import Bounds, Pace, Place, Rounds
from minerwatch.probes.executed_code import CodeAnswer, ExecutedCode
from minerwatch.probes.hot_code import HotCode
from tests.conftest import TOP, CgroupFolders, container_id
from tests.probes.test_hot_code import Answers
from tests.waiting import until

HERE = ContainerKey("/here", 1)
ELSEWHERE = ContainerKey("/elsewhere", 2)
MIXING = bytes.fromhex("8d0c37c1c10731cb" * 16)
"""lea ecx,[rdi+rsi]; rol ecx,7; xor ebx,ecx"""


class Samples:
    """A source that returns what a test gives it, once."""

    def __init__(self, read_every_s: float = 1e6) -> None:
        self.read_every_s = self.read_calmly_every_s = read_every_s
        self.failures = {"lost": 0}
        self.copies_code = False
        self.next: Sequence[PlainSample] = []

    def read(self) -> CodeSamples:
        samples, self.next = self.next, []
        return CodeSamples(0.05, samples)

    def close(self) -> None:
        pass


class Places:
    """Places of processes by PID, and of containers by cgroup id."""

    def __init__(
        self,
        by_pid: dict[int, Place],
        by_cgroup: dict[int, list[Place]] | None = None,
    ) -> None:
        self._by_pid = by_pid
        self._by_cgroup = by_cgroup or {}

    def locate(self, pid: int) -> Place | None:
        return self._by_pid.get(pid)

    def relatives(self, cgroup: int) -> list[Place]:
        return self._by_cgroup.get(cgroup, [])


def identity(pid: int) -> ProcessId:
    found = ProcessFiles("/proc", {}).stat(pid)
    assert found is not None
    return found[0].id


def opened(
    places: dict[int, Place], program: GuardedProgram | None = None
) -> tuple[ExecutedCode, Samples]:
    """A probe whose thread waits for ever: tests call ``take``."""
    source = Samples()
    return ExecutedCode(source, Places(places), program=program), source


@pytest.fixture
def mixing() -> Iterator[int]:
    """The address of mixing code in memory of this process that no file backs."""
    memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(MIXING)
    view = ctypes.c_char.from_buffer(memory)
    yield ctypes.addressof(view)
    del view
    memory.close()


def program_of(code: str, folder: Path) -> GuardedProgram:
    """A child that does what ``code`` says, in place of the classifier."""
    script = folder / "child.py"
    script.write_text(code)
    return GuardedProgram(script)


def me(owner: str = "me", container: ContainerKey = HERE) -> Place:
    return Place(identity(os.getpid()), container, owner)


def times(count: int, pid: int, address: int) -> CodeSamples:
    return CodeSamples(0.05, [CodeSample(pid, address, 0)] * count)


def test_a_process_and_its_container_have_facts(mixing: int) -> None:
    probe, _ = opened({os.getpid(): me()})
    try:
        for second in range(4):
            probe.take(times(40, os.getpid(), mixing), float(second))
        of_process = probe.facts(me().process)
        together = dict(probe.facts(HERE))
        assert float(str(together.pop("LargestFileMiB"))) > 0
        assert of_process == together
        assert of_process["HashCodeShare"] == 1.0
        assert of_process["AnonymousCodeShare"] == 1.0
        assert probe.take_news(HERE)
        assert not probe.take_news(HERE)
        assert not probe.take_news(ELSEWHERE)
        assert probe.facts(ELSEWHERE) == {}
    finally:
        probe.close()


def test_a_containers_facts_outlive_its_processes() -> None:
    """Workers that are replaced every moment: each is seen for an instant, all of them add up."""
    code = f"""
import ctypes, mmap, sys
memory = mmap.mmap(-1, 4096, prot=7)
memory.write(bytes.fromhex({MIXING.hex()!r}))
print(ctypes.addressof(ctypes.c_char.from_buffer(memory)), flush=True)
sys.stdin.read()
"""
    places: dict[int, Place] = {}
    probe, _ = opened(places)
    try:
        for second in range(6):
            with subprocess.Popen(
                [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            ) as worker:
                assert worker.stdout is not None
                address = int(worker.stdout.readline())
                places[worker.pid] = Place(identity(worker.pid), HERE, "pod")
                probe.take(times(20, worker.pid, address), float(second))
                worker.communicate()
            probe.end_tick({HERE})
        assert probe.facts(HERE)["HashCodeShare"] == 1.0
        assert all(probe.facts(place.process) == {} for place in places.values())
        probe.end_tick(())
        assert probe.facts(HERE) == {}
    finally:
        probe.close()


def test_one_owner_cannot_take_the_second_of_another(mixing: int) -> None:
    fake = identity(os.getppid())
    places = {os.getpid(): me("quiet"), os.getppid(): Place(fake, ELSEWHERE, "loud")}
    probe, _ = opened(places)
    try:
        loud = [CodeSample(os.getppid(), 64 + at, 0) for at in range(1000)]
        quiet = [CodeSample(os.getpid(), mixing, 0)] * 30
        for second in range(4):
            probe.take(CodeSamples(0.05, [*loud, *quiet]), float(second))
        assert probe.facts(me().process)["HashCodeShare"] == 1.0
        assert dict(probe.failures())["left"] == 4 * 960
        assert dict(probe.failures())["unread"] == 4 * 40
    finally:
        probe.close()


def test_a_known_process_is_looked_at_in_rounds_only(mixing: int) -> None:
    probe, _ = opened({os.getpid(): me()})
    try:
        seen: list[bool] = []
        for second in range(900):
            before = dict(probe.failures())["unread"]
            # 40 that can be read, until it is known; then 10 that cannot
            address, count = (mixing, 40) if second < 6 else (64, 10)
            probe.take(times(count, os.getpid(), address), float(second))
            seen.append(dict(probe.failures())["unread"] > before)
        # one question about all samples of ten seconds, of each round
        assert 1 <= sum(seen[:90]) <= 2
        assert 3 <= sum(seen[90:]) <= 9
    finally:
        probe.close()


@pytest.mark.parametrize("prepared_s", [10, 25, 50, 100, 400])
def test_what_a_process_does_once_it_is_prepared_is_known_soon(
    prepared_s: int, mixing: int
) -> None:
    """RandomX fills its data set first; rounds alone would take up to three minutes to see more."""
    probe, _ = opened({os.getpid(): me()})
    with mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as memory:
        memory.write(bytes.fromhex("8d0c37") * 1000)
        view = ctypes.c_char.from_buffer(memory)
        preparing = ctypes.addressof(view)
        del view
        try:
            for second in range(prepared_s):
                probe.take(times(20, os.getpid(), preparing), float(second))
            assert probe.facts(me().process)["HashCodeShare"] == 0.0
            for second in range(prepared_s, prepared_s + 60):
                probe.take(times(20, os.getpid(), mixing), float(second))
            assert float(str(probe.facts(me().process)["HashCodeShare"])) >= 0.4
        finally:
            probe.close()


def test_a_process_that_changes_counts_for_itself_until_the_next_round(mixing: int) -> None:
    """Decoys that changed their pages again and again were all that was known of a container."""
    probe, _ = opened({os.getpid(): me()})
    with mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as memory:
        memory.write(bytes.fromhex("8d0c37") * 1000)
        view = ctypes.c_char.from_buffer(memory)
        decoy = ctypes.addressof(view)
        del view
        try:
            for second in range(80):
                address = mixing if second < 22 else decoy
                probe.take(times(20, os.getpid(), address), float(second))
            assert float(str(probe.facts(me().process)["HashCodeShare"])) < 0.6
            assert float(str(probe.facts(HERE)["HashCodeShare"])) == 1.0
        finally:
            probe.close()


def test_samples_of_no_container_are_counted(mixing: int) -> None:
    probe, _ = opened({})
    try:
        probe.take(times(5, os.getpid(), mixing), 0.0)
        assert dict(probe.failures())["unplaced"] == 5
    finally:
        probe.close()


def test_a_child_that_hangs_costs_one_container_a_minute(tmp_path: Path, mixing: int) -> None:
    script = tmp_path / "hangs.py"
    script.write_text("import time\ntime.sleep(1000)\n")
    probe, _ = opened({os.getpid(): me()}, GuardedProgram(script))
    try:
        for second in range(5):
            probe.take(times(5, os.getpid(), mixing), float(second))
        assert dict(probe.failures())["timeout"] == 1
    finally:
        probe.close()


HANGS_IN_PROCESSES = """
import os, sys, time
for line in sys.stdin.buffer:
    if not line.startswith(b"[0,"):
        time.sleep(1000)
    os.write(1, b'{"of_unknown_origin": 30, "pairs": 30, "classes": [0,0,0,0,0,0,0,0,0,0,0]}\\n')
"""


@pytest.mark.parametrize(("program", "hangs"), [(HANGS_IN_PROCESSES, True), ("1 / 0", False)])
def test_what_cannot_be_read_in_time_is_known_by_its_copies(
    program: str, hangs: bool, tmp_path: Path
) -> None:
    """A process that blocked its readers once a minute was never classified.

    If the child has died, no code of the owner is decoded for a while.
    """
    child = program_of(program, tmp_path)
    probe, sampler = opened({os.getpid(): me()}, child)
    sampler.copies_code = True
    try:
        for second in range(5):
            copies = [CodeSample(os.getpid(), 4096, 0, MIXING)] * 30
            probe.take(CodeSamples(0.05, copies), float(second))
        assert probe.facts(HERE).get("PairConversionShare", 0.0) == (1.0 if hangs else 0.0)
        assert probe.facts(me().process) == {}
        assert dict(probe.failures())["timeout"] == hangs
    finally:
        probe.close()


def test_lists_of_mappings_that_were_cut_are_counted(tmp_path: Path, mixing: int) -> None:
    script = tmp_path / "cut.py"
    answer = '{"unread": 5, "is_cut": 1}'
    script.write_text(
        f"import os, sys\nfor _ in sys.stdin.buffer: os.write(1, {answer!r}.encode() + b'\\n')\n"
    )
    probe, _ = opened({os.getpid(): me()}, GuardedProgram(script))
    try:
        for second in range(2):
            probe.take(times(5, os.getpid(), mixing), float(second))
        assert dict(probe.failures())["too_large"] == 2
    finally:
        probe.close()


COSTLY = """
import os, sys
for _ in sys.stdin.buffer: os.write(1, b'{"unread": 5, "took_s": 0.2}\\n')
"""


def test_an_owner_whose_code_is_costly_to_read_waits_a_minute(tmp_path: Path, mixing: int) -> None:
    child = program_of(COSTLY, tmp_path)
    places = {os.getpid(): me("costly"), os.getppid(): Place(identity(os.getppid()), HERE, "other")}
    probe, _ = opened(places, child)
    try:
        for second in range(10):
            probe.take(times(5, os.getpid(), mixing), float(second))
        probe.take(times(5, os.getppid(), mixing), 10.0)
        assert dict(probe.failures())["costly"] == 1
        assert dict(probe.failures())["unread"] == 5 * (3 + 1)
        probe.take(times(5, os.getpid(), mixing), 100.0)
        assert dict(probe.failures())["unread"] == 5 * (3 + 2)
    finally:
        probe.close()


def test_costly_code_is_decoded_from_copies_while_these_are_not_costly_as_well(
    tmp_path: Path,
) -> None:
    """Instructions of one owner took 310 us an address, and copies of it cost nothing."""
    child = program_of(COSTLY, tmp_path)
    probe, sampler = opened({os.getpid(): me()}, child)
    sampler.copies_code = True
    try:
        for second in range(20):
            copies = [CodeSample(os.getpid(), 4096, 0, MIXING)] * 5
            probe.take(CodeSamples(0.05, copies), float(second))
        assert dict(probe.failures())["costly"] == 2
        assert dict(probe.failures())["unread"] == 5 * (3 + 3)
    finally:
        probe.close()


@pytest.mark.parametrize("pause_s", [(0.0, 0.0), (90.0, 180.0)])
def test_what_is_gathered_is_asked_about_or_counted_as_left(pause_s: tuple[float, float]) -> None:
    """More than is classified in a second waits; the next round began without it, uncounted."""
    rounds, bounds = Rounds(pause_s), Bounds()
    sent = left = asked = 0
    for second in range(400):
        bounds.chosen([], float(second))
        for pid in range(60) if second < 100 else ():
            sent += 19 * rounds.is_on(float(second))
            left += rounds.add(place(pid, f"owner {pid}"), spots(*[16] * 19), float(second))
        while not bounds.is_reached and (found := rounds.next(float(second))) is not None:
            bounds.count("", found[1].total())
            asked += found[1].total()
    assert sent == left + asked
    assert asked > 0


@pytest.mark.parametrize(
    "answer",
    [
        '{"samples": 9, "unread": 0, "classes": [0,0,0,0,0,0,0,0,0,0,9]}',
        '{"samples": 5, "unread": 0}',
        '{"samples": 5, "unread": 0, "classes": [1]}',
        '{"samples": -1, "unread": 6, "classes": [0,0,0,0,0,0,0,0,0,0,0]}',
        '{"samples": 5, "unread": 0, "hashing": 6, "classes": [0,0,0,0,0,0,0,0,0,0,9]}',
        '{"samples": 5, "unread": 0, "anonymous": 6, "classes": [0,0,0,0,0,0,0,0,0,0,9]}',
        '{"samples": 5, "unread": 0, "classes": [0,0,0,0,0,0,0,0,0,0,900]}',
        '{"samples": 5, "classes": [0,0,0,0,0,0,0,0,0,0,9], "pages": {"' + "x" * 99 + '": 1}}',
        "[]",
        "nonsense",
    ],
)
def test_a_child_that_lies_is_replaced(answer: str, tmp_path: Path, mixing: int) -> None:
    script = tmp_path / "lies.py"
    script.write_text(
        f"import os, sys\nfor _ in sys.stdin.buffer: os.write(1, {answer!r}.encode() + b'\\n')\n"
    )
    probe, _ = opened({os.getpid(): me()}, GuardedProgram(script))
    try:
        probe.take(times(5, os.getpid(), mixing), 0.0)
        assert dict(probe.failures())["child"] == 1
        assert not probe.take_news(HERE)
    finally:
        probe.close()


def test_many_new_pages_at_first_hide_no_later_time_in_the_kernel(
    tmp_path: Path, mixing: int
) -> None:
    script = tmp_path / "server.py"
    script.write_text(
        "import json, sys\n"
        "for number, line in enumerate(sys.stdin):\n"
        "    count = sum(each for _, each, _ in json.loads(line)[-1])\n"
        "    answer = {'samples': count, 'classes': [0] * 10 + [count], 'io_bytes': 0,\n"
        "              'cpu_s': 10 * number, 'kernel_s': 6 * number - 60}\n"
        "    print(json.dumps(answer), flush=True)\n"
    )
    probe, _ = opened({os.getpid(): me()}, GuardedProgram(script))
    try:
        for second in range(4):
            probe.take(times(40, os.getpid(), mixing), float(second))
        assert probe.facts(me().process)["KernelCpuShare"] == pytest.approx(0.6)
    finally:
        probe.close()


@given(st.integers(-3, 9), st.integers(-3, 9), st.lists(st.integers(-9, 900), max_size=12))
def test_an_answer_that_is_taken_is_possible(
    samples: int, hashing: int, classes: list[int]
) -> None:
    try:
        answer = CodeAnswer(samples=samples, hashing=hashing, classes=classes).checked(5)
    except ValueError:
        return
    assert answer.samples == 5
    assert 0 <= answer.hashing <= 5
    assert sum(answer.classes) <= 16 * 5


def test_the_thread_takes_samples(mixing: int) -> None:
    source = Samples(read_every_s=0.01)
    probe = ExecutedCode(source, Places({os.getpid(): me()}))
    try:

        def is_known() -> bool:
            source.next = times(20, os.getpid(), mixing).samples
            return probe.facts(me().process).get("HashCodeShare") == 1.0

        until(is_known, every_s=0.05)
    finally:
        probe.close()


def test_what_a_process_executed_that_has_exited_is_read_from_a_relative(mixing: int) -> None:
    """Of one that is forked from the same, and not where unrelated programs lie."""
    with subprocess.Popen(["/bin/true"]) as gone:
        pass
    probe = ExecutedCode(Samples(), Places({}, {7: [me()]}))
    try:
        for second in range(5):
            samples = [CodeSample(gone.pid, mixing, 7)] * 25 + [
                CodeSample(gone.pid, 0x400000, 7),
                CodeSample(gone.pid, mixing, 8),
            ]
            probe.take(CodeSamples(0.05, samples), float(second))
        assert probe.facts(HERE)["HashCodeShare"] == 1.0
        assert probe.facts(me().process) == {}
        assert dict(probe.failures())["gone"] == 5 * 2
        assert dict(probe.failures())["unplaced"] == 0
    finally:
        probe.close()


def test_samples_before_a_pid_was_reused_are_not_of_the_process_that_has_it_now(
    mixing: int,
) -> None:
    """An outsider's hash code would be an innocent's."""
    places = Places({os.getpid(): me()}, {7: [me("else", ELSEWHERE)], HERE.cgroup_inode: []})
    probe = ExecutedCode(Samples(), places)
    try:
        for second in range(5):
            samples = [CodeSample(os.getpid(), mixing, cgroup) for cgroup in [7] * 24 + [1]]
            probe.take(CodeSamples(0.05, samples), float(second))
        assert probe.facts(ELSEWHERE)["HashCodeShare"] == 1.0
        assert (probe.facts(HERE), probe.facts(me().process)) == ({}, {})
        assert dict(probe.failures())["gone"] == 5
    finally:
        probe.close()


@pytest.mark.parametrize("cgroup", [0, 1, 8, 9])
def test_samples_of_unknown_cgroups_and_of_ones_below_are_of_the_process(
    cgroup: int, mixing: int
) -> None:
    probe = ExecutedCode(Samples(), Places({os.getpid(): me()}, {8: [me()]}))
    try:
        for second in range(5):
            samples = [CodeSample(os.getpid(), mixing, cgroup)] * 40
            probe.take(CodeSamples(0.05, samples), float(second))
        assert probe.facts(me().process)["HashCodeShare"] == 1.0
    finally:
        probe.close()


def test_a_thread_that_ran_lately_is_named_in_questions_and_looks(
    tmp_path: Path, mixing: int
) -> None:
    script = tmp_path / "child.py"
    script.write_text(
        "import json, sys\n"
        "for line in sys.stdin:\n"
        "    _, _, _, tid, spots = json.loads(line)\n"
        "    count = sum(each for _, each, _ in spots)\n"
        "    answer = {'samples': count, 'hashing': count * (tid == 78), 'classes': [count] * 11}\n"
        "    print(json.dumps(answer), flush=True)\n"
    )
    reader = Answers()
    places, program, hot = Places({os.getpid(): me()}), GuardedProgram(script), HotCode(reader)
    probe = ExecutedCode(Samples(), places, program=program, hot=hot)
    try:
        for second in range(10):
            samples = [CodeSample(os.getpid(), mixing, 0, b"", tid) for tid in [77] * 29 + [78]]
            probe.take(CodeSamples(0.05, samples), float(second))
        assert probe.facts(HERE)["HashCodeShare"] == 1.0
        assert reader.tids == [78]
    finally:
        probe.close()


def test_bounds_are_those_of_a_second_however_often_is_read(mixing: int) -> None:
    probe, _ = opened({os.getpid(): me()})
    try:
        for tenth in range(20):
            probe.take(times(10, os.getpid(), 64), tenth / 10)
        assert dict(probe.failures())["unread"] == 2 * 40
    finally:
        probe.close()


def test_reads_are_fast_for_a_while_where_processes_exit_before_them() -> None:
    pace = Pace()
    pace.note(20, 2, 0.0)
    assert pace.pause_s(1.0, 2.0, 0.0001, 0.0) == 1.0
    pace.note(20, 12, 1.0)
    assert pace.pause_s(1.0, 2.0, 0.0001, 1.0) == 0.1
    assert pace.pause_s(1.0, 2.0, 0.002, 1.0) == 0.5  # as it costs more
    assert pace.pause_s(1.0, 2.0, 1.0, 1.0) == 1.0
    pace.note(20, 12, 11.5)
    assert pace.pause_s(1.0, 2.0, 0.0001, 11.5) == 1.0  # not for ever
    pace.note(20, 12, 41.5)
    assert pace.pause_s(1.0, 2.0, 0.0001, 41.5) == 0.1


def test_a_calm_node_is_read_less_often() -> None:
    pace = Pace()
    pace.note_new(100.0)
    assert pace.pause_s(1.0, 2.0, 0.0001, 101.0) == 1.0
    pace.note(20, 0, 131.0)
    assert pace.pause_s(1.0, 2.0, 0.0001, 131.0) == 2.0
    pace.note(20, 1, 132.0)  # a process has exited before its samples were read
    assert pace.pause_s(1.0, 2.0, 0.0001, 132.0) == 1.0
    pace.note(20, 0, 170.0)
    assert pace.pause_s(1.0, 2.0, 0.0001, 170.0) == 2.0
    pace.note_new(171.0)
    assert pace.pause_s(1.0, 2.0, 0.0001, 171.0) == 1.0


UNIFIED = next(
    (path for path in map(Path, ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"))
     if (path / "cgroup.controllers").exists()),
    None,
)  # fmt: skip
FORKS = """
import hashlib, os, time
data = bytes(100_000)
hashlib.sha512(data)
while True:
    child = os.fork()
    if child == 0:
        ends = time.process_time() + 0.02
        while time.process_time() < ends:
            hashlib.sha512(data)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.skipif(UNIFIED is None, reason="run it where a cgroup v2 hierarchy is mounted")
@pytest.mark.parametrize("opens", [CodeSampler, copying_sampler])
def test_a_container_is_found_by_the_cgroup_in_samples_of_forks_that_are_gone(
    opens: Callable[[float], CodeSampler],
) -> None:
    assert UNIFIED is not None
    try:
        sampler = opens(199.0)
    except SourceUnavailableError as error:
        pytest.skip(f"run it as root of a host: {error}")
    if "perf_event" in Path("/proc/self/cgroup").read_text():
        pytest.skip("samples have ids of perf_event's v1 hierarchy: run it without one")
    folders = CgroupFolders(UNIFIED)
    folder = folders.make(f"{TOP}/docker/{container_id('f0')}")
    probe = None
    try:
        with subprocess.Popen([sys.executable, "-c", FORKS]) as forks:
            folders.put(forks, folder)
            place = Place(identity(forks.pid), HERE, "pod")
            probe = ExecutedCode(Samples(), Places({}, {folder.stat().st_ino: [place]}))
            seconds = count()

            def facts() -> Facts:
                assert probe is not None
                probe.take(sampler.read(), float(next(seconds)))
                return probe.facts(HERE)

            found = until(facts, every_s=0.5)
            forks.kill()
    finally:
        if probe is not None:
            probe.close()
        sampler.close()
        folders.close()
    assert float(str(found["HashCodeShare"])) >= 0.8


JUMPS_BACK = b"\xe9" + (-30 * len(MIXING) - 5).to_bytes(4, "little", signed=True)
MIXES = f"""
import ctypes, mmap
memory = mmap.mmap(-1, 4096, prot=7)
memory.write(bytes.fromhex({(30 * MIXING + JUMPS_BACK).hex()!r}))
loop = ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
print(flush=True)
loop()
"""
"""It executes MIXING again and again: so long that few windows reach beyond its end."""


MOVING = str(Path(__file__).parents[1] / "targets" / "moving_code.py")


@pytest.mark.parametrize(
    ("source", "program", "least"),
    [
        (lambda: CodeSampler(199.0), ("-c", MIXES), 0.95),
        (EntrySampler, ("-c", MIXES), 0.95),
        (lambda: copying_sampler(199.0), ("-c", MIXES), 0.95),
        (lambda: copying_sampler(199.0), (MOVING, "moves"), 0.75),  # it also moves
        (lambda: copying_sampler(199.0), (MOVING, "covers"), 0.75),
        (lambda: copying_sampler(199.0), (MOVING, "bits"), 0.95),
    ],
    ids=["clock", "entries", "copies", "moving", "covered", "of 32 bits"],
)
def test_each_source_of_samples_tells_a_hash_loop(
    source: Callable[[], CodeSampler | EntrySampler], program: tuple[str, ...], least: float
) -> None:
    found = facts_of(source, program)
    assert float(str(found["HashCodeShare"])) >= least
    assert float(str(found["AnonymousCodeShare"])) >= least


@pytest.mark.parametrize("way", ["segment", "unreadable"])
def test_code_that_cannot_be_read_while_it_is_executed_is_a_fact(way: str) -> None:
    if way == "unreadable" and " ospke" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("run it on a CPU with protection keys")
    found = facts_of(lambda: copying_sampler(199.0), (MOVING, way))
    assert float(str(found["HiddenCodeShare"])) >= 0.9


def facts_of(source: Callable[[], CodeSampler | EntrySampler], program: tuple[str, ...]) -> Facts:
    """Return the first facts about a program's container."""
    try:
        sampler = source()
    except SourceUnavailableError as error:
        pytest.skip(f"run it as root of a host: {error}")
    with subprocess.Popen([sys.executable, *program], stdout=subprocess.PIPE) as loop:
        assert loop.stdout is not None
        loop.stdout.readline()
        sampler.read()  # the start of Python
        probe, samples = opened({loop.pid: Place(identity(loop.pid), HERE, "pod")})
        samples.copies_code = sampler.copies_code
        try:
            seconds = count()

            def facts() -> Facts:
                probe.take(sampler.read(), float(next(seconds)))
                return probe.facts(HERE)

            return until(facts, every_s=0.02)
        finally:
            loop.kill()
            probe.close()
            sampler.close()


def place(number: int, owner: str) -> Place:
    return Place(ProcessId(number, 1), HERE, owner)


def spots(*addresses: int) -> list[tuple[int, bytes]]:
    return [(address, b"") for address in addresses]


def gathered(rounds: Rounds, at_s: float) -> dict[int, int]:
    """Each process that is asked about at ``at_s``, and how many of its addresses."""
    found: dict[int, int] = {}
    while (each := rounds.next(at_s)) is not None:
        found[each[0].process.pid] = each[1].total()
    return found


def test_a_round_asks_once_about_each_process() -> None:
    rounds = Rounds()
    for second in range(10):
        assert rounds.add(place(1, "one"), spots(16, 16, 32), float(second)) == 0
        assert rounds.add(place(2, "two"), spots(48), float(second)) == 0
        assert gathered(rounds, float(second)) == {}
    assert gathered(rounds, 10.0) == {1: 30, 2: 10}
    assert gathered(rounds, 11.0) == {}
    assert rounds.add(place(1, "one"), spots(16), 12.0) == 0  # between two rounds
    assert gathered(rounds, 60.0) == {}


def test_an_owner_cannot_fill_a_round() -> None:
    rounds = Rounds()
    left = sum(rounds.add(place(pid, "loud"), spots(16) * 9, 1.0) for pid in range(100))
    assert rounds.add(place(500, "quiet"), spots(16) * 9, 1.0) == 0
    found = gathered(rounds, 11.0)
    assert found.pop(500) == 9
    assert sum(found.values()) + left == 900
    assert sum(found.values()) == 400


def test_owners_take_turns_in_a_round() -> None:
    rounds = Rounds()
    for pid in range(100):
        rounds.add(place(pid, "loud"), spots(16), 1.0)
    rounds.add(place(500, "quiet"), spots(16), 1.0)
    assert 500 in [*gathered(rounds, 11.0)][:2]


def test_a_storm_of_new_processes_does_not_stop_rounds(mixing: int) -> None:
    """Five owners whose processes are always new take all that is classified in a second."""
    places = {os.getpid(): me()}
    probe, _ = opened(places)
    try:
        for second in range(6):
            probe.take(times(40, os.getpid(), mixing), float(second))
        probe.take_news(HERE)
        is_asked = False
        for second in range(6, 400):
            storm = [
                CodeSample(5_000_000 + 1000 * owner + second, 64, 0)
                for owner in range(1, 6)
                for _ in range(40)
            ]
            for owner in range(1, 6):
                pid = 5_000_000 + 1000 * owner + second
                places[pid] = Place(ProcessId(pid, 1), ELSEWHERE, f"owner {owner}")
            own = times(20, os.getpid(), mixing).samples
            probe.take(CodeSamples(0.05, [*storm, *own]), float(second))
            is_asked = is_asked or probe.take_news(HERE)
        assert is_asked
    finally:
        probe.close()


def test_relatives_are_asked_at_once_in_a_round(mixing: int) -> None:
    """They live as short as the processes whose samples they stand for."""
    with subprocess.Popen(["/bin/true"]) as gone:
        pass
    relatives = [me()]
    probe = ExecutedCode(Samples(), Places({}, {7: relatives}))
    try:
        for second in range(8):
            if second == 7:
                relatives[:] = [Place(identity(os.getppid()), HERE, "me")]
            probe.take(CodeSamples(0.05, [CodeSample(gone.pid, mixing, 7)] * 40), float(second))
        assert dict(probe.failures())["unread"] == 40  # of the last second, in which it is known
    finally:
        probe.close()


@pytest.mark.parametrize("pairs", [0, 1])
def test_code_that_converts_pairs_and_hardly_mixes_is_looked_at(
    pairs: int, tmp_path: Path, mixing: int
) -> None:
    script = tmp_path / "child.py"
    classes = [0] * len(CLASSES)
    classes[CLASSES.index("pairs")] = pairs
    classes[CLASSES.index("other")] = 479
    answer = json.dumps({"samples": 30, "classes": classes})
    script.write_text(
        f"import os, sys\nfor _ in sys.stdin.buffer: os.write(1, {answer!r}.encode() + b'\\n')\n"
    )
    reader = Answers()
    places, program, hot = Places({os.getpid(): me()}), GuardedProgram(script), HotCode(reader)
    probe = ExecutedCode(Samples(), places, program=program, hot=hot)
    try:
        for second in range(10):
            probe.take(times(30, os.getpid(), mixing), float(second))
        assert probe.facts(HERE)["MixingCodeShare"] == 0.0
        assert bool(reader.asked) == bool(pairs)
    finally:
        probe.close()
