"""A host's budget: never one action too many, whatever becomes of the file or the agent."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import mkdtemp

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from minerwatch.config.schema import CullBudget
from minerwatch.culling.file_budget import BudgetError, FileBudget
from minerwatch.culling.records import HOUR_S, ActionRecord, Moment
from minerwatch.model import Action, Outcome
from tests.examples import examples

_TWO = CullBudget(per_node=2, per_cluster=10)


@dataclass
class Clock:
    """Both clocks of a host."""

    moment: Moment = field(default_factory=lambda: Moment(1.8e9, 50_000.0, "boot-1"))

    def __call__(self) -> Moment:
        return self.moment

    def forward(self, seconds: float) -> None:
        now = self.moment
        self.moment = replace(
            now, unix_s=now.unix_s + seconds, monotonic_s=now.monotonic_s + seconds
        )

    def step(self, seconds: float) -> None:
        self.moment = replace(self.moment, unix_s=self.moment.unix_s + seconds)

    def reboot(self, boot_id: str, up_s: float = 60.0) -> None:
        self.moment = replace(self.moment, monotonic_s=up_s, boot_id=boot_id)


def _record(name: str, now: Moment | None = None, *, dry_run: bool = False) -> ActionRecord:
    now = now or Clock().moment
    return ActionRecord(
        name, now.unix_s, now.monotonic_s, now.boot_id, "host-1", "", "web", "uid", "",
        Action.KILL, 0, dry_run, Outcome.PENDING,
    )  # fmt: skip


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "budget.json"


@pytest.fixture
def open_budget(path: Path, clock: Clock) -> Callable[[], FileBudget]:
    return lambda: FileBudget(path, lambda: _TWO, clock, lock_s=0.2)


Open = Callable[[], FileBudget]


def _taken(budget: FileBudget, name: str, clock: Clock, *, dry_run: bool = False) -> bool:
    return budget.reserve(_record(name, clock(), dry_run=dry_run), clock())


def test_two_actions_an_hour_and_no_third(open_budget: Open, clock: Clock, path: Path) -> None:
    budget = open_budget()
    assert budget.left(dry_run=False) is None  # not read yet
    assert budget.refresh()
    assert budget.left(dry_run=False) == 2
    assert [_taken(budget, name, clock) for name in ("a", "b", "c")] == [True, True, False]
    assert budget.left(dry_run=False) == 0
    assert budget.left(dry_run=True) == 2  # dry runs have a budget of their own
    assert path.stat().st_mode & 0o777 == 0o600
    clock.forward(HOUR_S)
    assert _taken(budget, "d", clock)


def test_the_same_action_takes_one_place(open_budget: Open, clock: Clock) -> None:
    budget = open_budget()
    assert all(_taken(budget, "a", clock) for _ in range(5))
    assert budget.left(dry_run=False) == 1
    budget.give_back(_record("a"))
    assert budget.left(dry_run=False) == 2


def test_it_survives_a_restart(open_budget: Open, clock: Clock) -> None:
    assert _taken(open_budget(), "a", clock)
    again = open_budget()
    assert again.refresh()
    assert again.left(dry_run=False) == 1


def test_steps_of_the_clock_free_nothing(open_budget: Open, clock: Clock) -> None:
    budget = open_budget()
    assert _taken(budget, "a", clock)
    assert _taken(budget, "b", clock)
    for step_s in (2 * HOUR_S, -9 * HOUR_S, 365 * 86400.0):
        clock.step(step_s)
        assert not _taken(open_budget(), "c", clock)


def test_after_a_boot_places_are_held_for_an_hour(open_budget: Open, clock: Clock) -> None:
    budget = open_budget()
    assert _taken(budget, "a", clock)
    assert _taken(budget, "b", clock)
    clock.reboot("boot-2")
    clock.step(9 * HOUR_S)  # a clock without a battery is set late
    assert not _taken(open_budget(), "c", clock)
    clock.forward(HOUR_S - 61)
    assert not _taken(open_budget(), "c", clock)
    clock.forward(2)
    assert _taken(open_budget(), "c", clock)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]x",
        b"[1]",
        b'[["a","boot-1",1]]',
        b'[["a","boot-1",99999999.0,false]]',  # in the future
        b"\xff" * 40,
        b"[" * 100_000,
        json.dumps([["a", "b", 1.0, True]] * 1101).encode(),
    ],
)
def test_a_damaged_file_permits_nothing(
    open_budget: Open, clock: Clock, path: Path, content: bytes
) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    path.chmod(0o600)
    budget = open_budget()
    assert not _taken(budget, "a", clock)
    assert not budget.refresh()
    assert budget.left(dry_run=False) is None
    assert budget.failures == {"damaged": 2}
    assert path.read_bytes() == content  # the operator decides
    path.rename(path.with_name("moved"))
    assert _taken(budget, "a", clock)


@settings(max_examples=examples(60), deadline=None)
@given(st.binary(max_size=200))
def test_whatever_is_in_the_file_at_most_two_are_permitted(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("state") / "budget.json"
    path.write_bytes(content)
    path.chmod(0o600)
    clock = Clock()
    budget = FileBudget(path, lambda: _TWO, clock)
    assert sum(_taken(budget, str(number), clock) for number in range(4)) <= 2


def _link(path: Path) -> None:
    target = path.with_name("target")
    target.write_bytes(b"[]")
    path.symlink_to(target)


def _hard_link(path: Path) -> None:
    path.write_bytes(b"[]")
    path.with_name("other").hardlink_to(path)


def _open_to_others(path: Path) -> None:
    path.write_bytes(b"[]")
    path.chmod(0o666)


@pytest.mark.parametrize("name", ["budget.json", "budget.json.lock"])
@pytest.mark.parametrize("make", [_link, _hard_link, _open_to_others, os.mkfifo, os.mkdir])
def test_what_is_no_regular_file_of_its_own_permits_nothing(
    open_budget: Open, clock: Clock, path: Path, name: str, make: Callable[[Path], object]
) -> None:
    path.parent.mkdir()
    make(path.with_name(name))
    budget = open_budget()
    assert not _taken(budget, "a", clock)
    assert budget.left(dry_run=False) is None
    assert sum(budget.failures.values()) == 1


def test_a_link_where_it_writes_aside_is_not_followed(
    open_budget: Open, clock: Clock, path: Path
) -> None:
    path.parent.mkdir()
    precious = path.with_name("precious")
    precious.write_bytes(b"precious")
    path.with_name("budget.json.new").symlink_to(precious)
    assert _taken(open_budget(), "a", clock)
    assert precious.read_bytes() == b"precious"


def test_a_folder_that_cannot_be_written_permits_nothing(clock: Clock, tmp_path: Path) -> None:
    errors: list[str] = []
    file = tmp_path / "file"
    file.touch()
    budget = FileBudget(
        file / "budget.json",
        lambda: _TWO,
        clock,
        on_error=lambda reason, error: errors.append(f"{reason}: {error}"),
    )
    assert not _taken(budget, "a", clock)
    assert errors[0].startswith("unusable: ")
    with pytest.raises(BudgetError, match="budget"):
        budget.forget()


def test_an_agent_that_keeps_the_lock_stops_the_other(
    open_budget: Open, clock: Clock, path: Path
) -> None:
    assert open_budget().refresh()
    budget = open_budget()
    with path.with_name("budget.json.lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert not _taken(budget, "a", clock)
        assert budget.failures == {"locked": 1}
    assert _taken(budget, "a", clock)


def _take_many(path: Path, agent: int, taken: Path) -> None:
    clock = Clock()
    budget = FileBudget(path, lambda: CullBudget(per_node=7, per_cluster=10), clock, lock_s=60)
    for number in range(10):
        if _taken(budget, f"{agent}-{number}", clock):
            (taken / f"{agent}-{number}").touch()


def test_agents_at_once_never_take_one_too_many(path: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    spawn = get_context("spawn")
    agents = [spawn.Process(target=_take_many, args=(path, each, taken)) for each in range(4)]
    for agent in agents:
        agent.start()
    for agent in agents:
        agent.join()
        assert agent.exitcode == 0
    assert len(list(taken.iterdir())) == 7


_KILLED = """
import sys
from pathlib import Path
from tempfile import mkdtemp
from minerwatch.config.schema import CullBudget
from minerwatch.culling.file_budget import FileBudget
from tests.culling.test_file_budget import Clock, _record
clock = Clock()
budget = FileBudget(Path(sys.argv[1]), lambda: CullBudget(per_node=1000, per_cluster=1000), clock)
for number in range(100000):
    if budget.reserve(_record(f"{number}"), clock()):
        print(number, flush=True)
"""


@pytest.mark.slow
def test_an_agent_that_is_killed_keeps_the_places_that_it_took(path: Path) -> None:
    """Killed between reservation and action, or while it writes: no place is lost."""
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", _KILLED, str(path)], stdout=subprocess.PIPE, text=True
        ) as agent:
            assert agent.stdout is not None
            last = [agent.stdout.readline() for _ in range(3)]
            agent.send_signal(signal.SIGKILL)
        assert last[-1].strip()
        clock = Clock()
        budget = FileBudget(path, lambda: CullBudget(per_node=1000, per_cluster=1000), clock)
        assert budget.refresh()
        left = budget.left(dry_run=False)
        assert left is not None
        assert left <= 1000 - int(last[-1]) - 1


class _Budget(RuleBasedStateMachine):
    """Any order of actions, boots, steps and restarts: never more than two an hour."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(mkdtemp())
        self.clock = Clock()
        self.taken_s: list[float] = []
        self.true_s = 0.0
        self.boots = 1
        self.numbers = iter(range(10**6))
        self.budget = self._opened()

    def _opened(self) -> FileBudget:
        return FileBudget(self.folder / "budget.json", lambda: _TWO, self.clock)

    @rule()
    def act(self) -> None:
        if _taken(self.budget, str(next(self.numbers)), self.clock):
            self.taken_s.append(self.true_s)

    @rule(seconds=st.floats(0, 2 * HOUR_S))
    def wait(self, seconds: float) -> None:
        self.clock.forward(seconds)
        self.true_s += seconds

    @rule(seconds=st.floats(-9 * HOUR_S, 9 * HOUR_S))
    def step(self, seconds: float) -> None:
        self.clock.step(seconds)

    @rule()
    def restart(self) -> None:
        self.budget = self._opened()

    @rule()
    def boot(self) -> None:
        self.boots += 1
        self.clock.reboot(f"boot-{self.boots}", up_s=1.0)
        self.true_s += 30
        self.restart()

    @invariant()
    def never_more_than_two_an_hour(self) -> None:
        assert sum(self.true_s - each < HOUR_S for each in self.taken_s) <= 2

    def teardown(self) -> None:
        for file in self.folder.glob("*"):
            file.unlink()
        if self.folder.exists():
            self.folder.rmdir()


TestBudget = _Budget.TestCase
TestBudget.settings = settings(max_examples=examples(40), deadline=None)
