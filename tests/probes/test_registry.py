from __future__ import annotations

import sys
from collections.abc import Hashable, Sequence
from pathlib import Path
from time import sleep

import pytest

from benchmarks.orphan import Orphan
from minerwatch.config.schema import Config
from minerwatch.config.schema import Probes as Settings
from minerwatch.errors import SourceUnavailableError
from minerwatch.model import ProcessId
from minerwatch.node.memory_maps import MappingReader, Mappings
from minerwatch.node.task_iterator import TaskIterator
from minerwatch.probes.base import Probe, no_owner
from minerwatch.probes.mappings import MappingsProbe
from minerwatch.probes.registry import Probes
from tests import shipped
from tests.conftest import needs_root
from tests.probes.suspects import me, suspect


@needs_root
def test_each_probe_can_be_switched_off_and_says_so() -> None:
    probes = Probes(Config(probes=Settings(connections=False)))
    off = {status.name: status.off for status in probes.status}
    assert off["connections"] == "switched off (probes.connections)"
    assert off["mappings"] == ""
    probes.close()


NO_PROBES = Config(
    probes=Settings(connections=False, mappings=False, content=False, drift=False, rounding=False)
)


class _Looker(Probe):
    """A probe that records the suspects that it gets."""

    name = "looker"
    failures: dict[str, int] = {}  # noqa: RUF012

    def __init__(self, *, looks_early: bool = False) -> None:
        super().__init__(no_owner)
        self.looks_early = looks_early
        self.seen: list[list[ProcessId]] = []

    def _examine_due(self, suspects: Sequence[ProcessId], *_: object) -> None:
        self.seen.append(list(suspects))

    def close(self) -> None:
        pass


class _Broken(_Looker):
    name = "broken"

    def _examine_due(self, *_: object) -> None:
        raise ZeroDivisionError


def test_a_probe_fails_alone_and_is_counted() -> None:
    probes = Probes(Config(), more=[_Broken()])
    took_s = probes.examine([suspect(me())], 100.0)
    assert ("broken", "ZeroDivisionError", 1) in list(probes.failures())
    assert took_s.keys() >= {"broken"}
    probes.close()


@pytest.mark.parametrize("pid", [4_194_999, 1])
def test_a_suspect_that_is_gone_or_another_has_no_facts(pid: int) -> None:
    probes = Probes(Config())
    gone = ProcessId(pid, 1)
    probes.examine([suspect(gone)], 100.0)
    assert "JitMiB" not in probes.facts(gone)
    probes.close()


def test_costly_probes_wait_until_a_suspect_is_for_all_of_them() -> None:
    early, late = _Looker(looks_early=True), _Looker(looks_early=False)
    probes = Probes(NO_PROBES, more=[early, late])
    probes.examine([suspect(me(), is_for_all_probes=False)], 100.0)
    probes.examine([suspect(me())], 110.0)
    assert early.seen == [[me()], [me()]]
    assert late.seen == [[], [me()]]


def test_what_was_known_of_a_program_is_not_said_of_the_next_one() -> None:
    looker = _Looker(looks_early=False)
    probes = Probes(NO_PROBES, more=[looker])
    for at_s, program in enumerate((123, 123, 456, 456)):
        probes.examine([suspect(me(), program)], float(at_s))
    assert looker.seen == [[me()], [me()], [], [me()]]


def test_a_suspect_is_read_again_when_it_has_earned_that() -> None:
    reader = Answering()
    probes = Probes(NO_PROBES, more=[MappingsProbe(reader, no_owner)])
    for at_s, is_due in ((0.0, True), (10.0, False), (100.0, False), (200.0, True), (210.0, True)):
        probes.examine([suspect(me(), is_due=is_due)], at_s)
    assert reader.asked == 2
    assert probes.facts(me())["JitMiB"] == 1.0
    probes.close()


class Answering(MappingReader):
    """Answers at once."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def ask(self, process: ProcessId, owner: Hashable = None) -> bool:
        self.asked += 1
        self._finish(process, Mappings(1.0, 1.0, 1.0))
        return True


def status_of(probes: Probes) -> dict[str, str]:
    probes.close()
    return {status.name: status.off for status in probes.status}


def test_rounding_needs_the_task_iterator() -> None:
    off = status_of(Probes(Config(), tasks_off="no BTF"))
    assert off["rounding"] == "it needs the task iterator; tasks: no BTF"
    assert "ptrace" not in off


def test_rounding_needs_a_kernel_whose_control_words_can_be_read() -> None:
    try:
        tasks = TaskIterator()
    except SourceUnavailableError as error:
        pytest.skip(f"run it as root of a host: {error}")
    off = status_of(Probes(Config(), tasks=tasks))
    assert off["rounding"] == ""
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
def test_a_target_that_changes_all_the_time_does_no_harm(tmp_path: Path) -> None:
    """It renames itself, forks, maps, opens sockets, execs, truncates what it ran, exits."""
    script, victim, output = (tmp_path / name for name in ("shifter.py", "victim", "output"))
    script.write_text(SHAPE_SHIFTER)
    victim.write_bytes(Path("/bin/true").read_bytes())
    try:
        tasks = TaskIterator()
    except SourceUnavailableError as error:
        pytest.skip(f"run it as root of a host: {error}")
    book = shipped.book()
    probes = Probes(Config(), content_rules=book.content, tasks=tasks)
    command = [sys.executable, str(script), "12", str(victim)]
    with Orphan(["sh", "-c", '"$@"; echo "status $?"', "sh", *command], output) as target:
        at_s = 0.0
        found: set[ProcessId] = set()
        while target.is_running:
            at_s += 10.0
            family = target.family()
            found.update(family)
            suspects = [suspect(each, int(at_s) // 100) for each in family]
            probes.examine([*suspects, suspect(me())], at_s)
            probes.sample(at_s)
            sleep(0.01)
        assert target.said == "status 0\n"
    for _ in range(3):
        at_s += 60.0
        probes.examine([suspect(each) for each in found], at_s)
        probes.sample(at_s)
    own = {(probe, reason) for probe, reason, _ in probes.failures() if reason[0].isupper()}
    assert own == set()  # exceptions of ours, that is
    probes.close()
    tasks.close()
