from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from time import sleep

import pytest

from benchmarks.orphan import Orphan
from minerwatch.config import BUILT_IN_RULES, Config
from minerwatch.config import Probes as Settings
from minerwatch.detection import rulebook
from minerwatch.model import FpSample, ProcessId
from minerwatch.node.rounding import ENOUGH_ROUNDS, LEAST_SAMPLES
from minerwatch.node.tasks import TaskIterator, TasksUnavailableError
from minerwatch.probes import Connections, MemoryMappings, Probes, Rounding, Suspect
from tests.conftest import needs_root


def me() -> ProcessId:
    stat = Path("/proc/self/stat").read_text()
    return ProcessId(os.getpid(), int(stat.rpartition(")")[2].split()[19]))


def suspect(
    process: ProcessId, program: tuple[int, int, int] = (1, 2, 3), *, is_settled: bool = True
) -> Suspect:
    return Suspect(process, program, is_settled)


def always() -> bool:
    return True


def until(holds: Callable[[], bool]) -> None:
    for _ in range(1000):
        if holds():
            return
        sleep(0.01)
    raise AssertionError("it did not happen")


def has_looked(probe: Connections, at_s: float) -> bool:
    probe.look([me()], at_s, always)
    return bool(probe.facts(me()))


def test_connections_become_facts_and_age() -> None:
    probe = Connections("/proc")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with socket.create_connection(server.getsockname()), server.accept()[0]:
            until(lambda: has_looked(probe, 100.0))
            until(lambda: has_looked(probe, 160.0) and longest(probe) == 60.0)
            facts = probe.facts(me())
            told = probe.connections(me())
            port = str(server.getsockname()[1])
    assert "127.0.0.1" in facts["DestinationIp"]  # type: ignore[operator]
    assert port in facts["DestinationPort"]  # type: ignore[operator]
    assert ("127.0.0.1", port, 100.0) in [(c.address, str(c.port), c.since_s) for c in told]
    probe.close()


def longest(probe: Connections) -> object:
    return probe.facts(me()).get("LongestConnection")


def test_what_is_no_longer_suspect_is_forgotten() -> None:
    probe = Connections("/proc")
    probe.look([me()], 100.0, always)
    probe.look([], 110.0, always)
    assert probe.facts(me()) == {}
    assert probe.connections(me()) == ()
    assert not probe._facts
    assert not probe._asked_s
    assert not probe._open
    probe.close()


def test_nobody_is_looked_at_when_the_time_is_up() -> None:
    probe = Connections("/proc")
    probe.look([me()], 100.0, lambda: False)
    assert probe._asked_s[me()] == float("-inf")
    probe.close()


def test_mappings_come_when_they_come() -> None:
    probe = MemoryMappings("/proc")
    at_s = 100.0
    probe.look([me()], at_s, always)

    def has_come() -> bool:
        probe.look([me()], at_s, always)
        return bool(probe.facts(me()))

    until(has_come)
    assert probe.facts(me()).keys() == {"JitMiB", "LargestAnonymousMiB"}
    probe.close()


@needs_root
def test_each_probe_can_be_switched_off_and_says_so() -> None:
    probes = Probes(Config(probes=Settings(connections=False)))
    off = {status.name: status.off for status in probes.status}
    assert off["connections"] == "switched off (probes.connections)"
    assert off["mappings"] == ""
    probes.close()


class _Broken:
    name = "broken"
    looks_early = False
    failures: dict[str, int] = {}  # noqa: RUF012

    def look(self, *_: object) -> None:
        raise ZeroDivisionError

    def facts(self, _process: ProcessId) -> dict[str, str]:
        return {}

    def close(self) -> None:
        pass


def test_a_probe_fails_alone_and_is_counted() -> None:
    probes = Probes(Config())
    probes._probes.insert(0, _Broken())
    took_s = probes.look([suspect(me())], 100.0)
    assert ("broken", "ZeroDivisionError", 1) in list(probes.failures())
    assert took_s.keys() >= {"broken"}
    probes.close()


@pytest.mark.parametrize("pid", [4_194_999, 1])
def test_a_suspect_that_is_gone_or_another_has_no_facts(pid: int) -> None:
    probes = Probes(Config())
    gone = ProcessId(pid, 1)
    probes.look([suspect(gone)], 100.0)
    assert "JitMiB" not in probes.facts(gone)
    probes.close()


class _Looker:
    """A probe that only notes whom it was shown."""

    name = "looker"
    failures: dict[str, int] = {}  # noqa: RUF012

    def __init__(self, *, looks_early: bool) -> None:
        self.looks_early = looks_early
        self.seen: list[list[ProcessId]] = []

    def look(self, suspects: Sequence[ProcessId], *_: object) -> None:
        self.seen.append(list(suspects))

    def facts(self, _process: ProcessId) -> dict[str, str]:
        return {}

    def close(self) -> None:
        pass


def test_costly_probes_wait_until_a_suspect_has_settled() -> None:
    early, late = _Looker(looks_early=True), _Looker(looks_early=False)
    probes = Probes(Config(probes=Settings(connections=False, mappings=False)))
    probes._probes = [early, late]
    probes.look([suspect(me(), is_settled=False)], 100.0)
    probes.look([suspect(me())], 110.0)
    assert early.seen == [[me()], [me()]]
    assert late.seen == [[], [me()]]


def test_what_was_known_of_a_program_is_not_said_of_the_next_one() -> None:
    looker = _Looker(looks_early=False)
    probes = Probes(Config(probes=Settings(connections=False, mappings=False)))
    probes._probes = [looker]
    for at_s, program in enumerate(((1, 2, 3), (1, 2, 3), (4, 5, 6), (4, 5, 6))):
        probes.look([suspect(me(), program)], float(at_s))
    assert looker.seen == [[me()], [me()], [], [me()]]


class _Words:
    """A source of control words: each time the next, of one thread of each process."""

    def __init__(self, words: Iterable[int], most_at_once: int = 1000) -> None:
        self.failures: dict[str, int] = {}
        self.most_at_once = most_at_once
        self.is_resting = False
        self._words = enumerate(words)

    def fp_samples(self, processes: Iterable[ProcessId]) -> list[FpSample]:
        self.is_resting = False
        switches, word = next(self._words)
        return [FpSample(process, process.pid, switches, word) for process in processes]

    def rest(self) -> None:
        self.is_resting = True


class _NoWords(_Words):
    """A source that knows nothing."""

    def fp_samples(self, processes: Iterable[ProcessId]) -> list[FpSample]:
        return []


ROUNDS_IN_TURN = tuple(0x9FC0 | at % 4 << 13 for at in range(1000))
NEAREST = (0x1F80,) * 1000


def sampled_until_it_rests(probe: Rounding, at_s: float = 0.0) -> float:
    while probe.wants_samples:
        at_s += 1.0
        probe.sample(at_s)
    return at_s


def test_a_suspect_is_sampled_until_enough_is_known_and_then_rests() -> None:
    source = _Words(NEAREST)
    probe = Rounding(source)
    probe.look([me()], 0.0, always)
    at_s = sampled_until_it_rests(probe)
    assert at_s == 49.0  # the first time says only how often each thread has been switched out
    assert source.is_resting
    assert probe.facts(me()) == {
        "RoundingShare": 0.0, "RoundingModes": 1, "FlushToZeroShare": 0.0
    }  # fmt: skip
    probe.look([me()], at_s + 299.0, always)
    assert not probe.wants_samples
    probe.look([me()], at_s + 301.0, always)
    assert probe.wants_samples
    assert probe.facts(me())["RoundingModes"] == 1


def test_who_rounds_oddly_is_sampled_again_soon() -> None:
    probe = Rounding(_Words(ROUNDS_IN_TURN))
    probe.look([me()], 0.0, always)
    at_s = sampled_until_it_rests(probe)
    assert probe.facts(me())["RoundingModes"] == 4
    probe.look([me()], at_s + 61.0, always)
    assert probe.wants_samples


def test_the_innocent_are_let_be_after_few_samples_where_a_sample_is_a_stop() -> None:
    innocent = Rounding(_Words(NEAREST), spares_the_innocent=True)
    innocent.look([me()], 0.0, always)
    assert sampled_until_it_rests(innocent) == LEAST_SAMPLES + 1
    odd = Rounding(_Words(ROUNDS_IN_TURN), spares_the_innocent=True)
    odd.look([me()], 0.0, always)
    assert sampled_until_it_rests(odd) == ENOUGH_ROUNDS + 1


def test_of_many_suspects_each_has_its_turn() -> None:
    suspects = [ProcessId(1000 + number, 1) for number in range(20)]
    probe = Rounding(_Words(NEAREST * 3, most_at_once=8))
    turns: list[set[ProcessId]] = []
    for at_s in range(300):
        if at_s % 10 == 0:
            probe.look(suspects, float(at_s), always)
        probe.sample(float(at_s))
        now = set(probe._sampled)
        assert len(now) <= 8
        if now and (not turns or turns[-1] != now):
            turns.append(now)
    assert [len(turn) for turn in turns] == [8, 8, 4]
    assert set().union(*turns) == set(suspects)


def test_who_does_not_run_is_not_sampled_for_ever() -> None:
    probe = Rounding(_NoWords(()))
    probe.look([me()], 0.0, always)
    probe.sample(30.0)
    assert probe.wants_samples
    probe.sample(61.0)
    assert not probe.wants_samples
    assert probe.facts(me()) == {}


def test_who_is_no_suspect_any_more_is_not_sampled() -> None:
    source = _Words(NEAREST)
    probe = Rounding(source)
    probe.look([me()], 0.0, always)
    probe.look([], 1.0, always)
    assert not probe.wants_samples
    assert source.is_resting
    assert not probe._facts
    assert not probe._due_s


def status_of(probes: Probes) -> dict[str, str]:
    probes.close()
    return {status.name: status.off for status in probes.status}


def test_ptrace_is_off_unless_it_is_allowed() -> None:
    off = status_of(Probes(Config(), tasks_off="no BTF"))
    assert off["ptrace"] == "switched off (probes.ptrace)"
    assert off["rounding"] == (
        "it needs the task iterator or ptrace; tasks: no BTF; ptrace: switched off (probes.ptrace)"
    )


@needs_root
def test_ptrace_is_on_where_it_is_allowed_and_the_iterator_is_not_to_be_had() -> None:
    probes = Probes(Config(probes=Settings(ptrace=True)), tasks_off="no BTF")
    off = status_of(probes)
    if "quota" in off["ptrace"]:
        pytest.skip(off["ptrace"])
    assert (off["ptrace"], off["rounding"]) == ("", "")


def test_ptrace_is_not_needed_beside_the_iterator() -> None:
    try:
        tasks = TaskIterator()
    except TasksUnavailableError as error:
        pytest.skip(str(error))
    probes = Probes(Config(probes=Settings(ptrace=True)), tasks=tasks)
    off = status_of(probes)
    assert off["rounding"] == ""
    assert off["ptrace"].startswith("not needed: the task iterator")
    assert not [each for each in probes.status if each.name == "ptrace" and each.is_asked_for]
    tasks.has_fp_control = False
    off = status_of(Probes(Config(), tasks=tasks))
    assert "does not know where this kernel keeps" in off["rounding"]
    tasks.close()


SHAPE_SHIFTER = """
import ctypes, mmap, os, resource, socket, sys, threading, time
libc = ctypes.CDLL(None)
resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))
sockets = []
try:
    while True:
        sockets.append(socket.socket())
except OSError:
    sockets.pop().close()
sockets.pop().close()  # so that the next program can be opened
turn = int(sys.argv[1])
ends = time.monotonic() + 0.1
while time.monotonic() < ends:
    libc.prctl(15, os.urandom(15), 0, 0, 0)
    if os.fork() == 0:
        os._exit(0)
    mapping = mmap.mmap(-1, 8 << 20)
    mapping.write(b"x" * 65536)
    mapping.close()
    thread = threading.Thread(target=time.sleep, args=(0.001,))
    thread.start()
    thread.join()
    os.wait()
if turn == 0:
    sys.exit(0)
os.truncate(sys.argv[2], 0 if turn % 2 else 4096)
os.execv(sys.executable, [sys.executable, __file__, str(turn - 1), sys.argv[2]])
"""


@needs_root
@pytest.mark.parametrize("source", ["tasks", "ptrace"])
def test_a_target_that_changes_all_the_time_does_no_harm(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It renames itself, forks, maps, opens sockets, execs, truncates what it ran, exits."""
    monkeypatch.setattr("minerwatch.node.ptrace._ASK_EVERY_S", 0.0)
    script, victim, output = (tmp_path / name for name in ("shifter.py", "victim", "output"))
    script.write_text(SHAPE_SHIFTER)
    victim.write_bytes(Path("/bin/true").read_bytes())
    tasks = None
    if source == "tasks":
        try:
            tasks = TaskIterator()
        except TasksUnavailableError as error:
            pytest.skip(str(error))
    book = rulebook.load((BUILT_IN_RULES,))
    settings = Settings(ptrace=source == "ptrace")
    probes = Probes(Config(probes=settings), content_rules=book.content, tasks=tasks)
    command = [sys.executable, str(script), "12", str(victim)]
    with Orphan(["sh", "-c", '"$@"; echo "status $?"', "sh", *command], output) as target:
        at_s = 0.0
        found: set[ProcessId] = set()
        while target.is_running:
            at_s += 10.0
            family = target.family()
            found.update(family)
            suspects = [suspect(each, (int(at_s) // 100, 0, 0)) for each in family]
            probes.look([*suspects, suspect(me())], at_s)
            probes.sample(at_s)
            sleep(0.01)
        assert target.said == "status 0\n"
    for _ in range(3):
        at_s += 60.0
        probes.look([suspect(each) for each in found], at_s)
        probes.sample(at_s)
    own = {(probe, reason) for probe, reason, _ in probes.failures() if reason[0].isupper()}
    assert own == set()  # exceptions of ours, that is
    counted = {reason: n for probe, reason, n in probes.failures() if probe == "rounding"}
    assert counted.get("child", 0) == counted.get("interrupted", 0) == 0
    probes.close()
    if tasks is not None:
        tasks.close()
