from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.agent.gpu_users import GpuSummary
from minerwatch.agent.monitor import MonitoredNode
from minerwatch.agent.recorder import PERIOD_S, Recorder
from minerwatch.agent.tick import TickSummary, Watch
from minerwatch.api.journal import (
    ActionLine,
    AgentLine,
    AnyLine,
    UsageLine,
    VerdictLine,
    encode,
)
from minerwatch.culling.records import ActionRecord
from minerwatch.model import (
    Action,
    Container,
    Evidence,
    Identity,
    Level,
    Observation,
    Outcome,
    Owner,
)
from minerwatch.report.journal import Journal, JournalFiles
from tests.agent.test_daemon import RunningAgent
from tests.builders import make_container, make_finding, make_observation, make_pod, make_verdict

SECRET = "hunter2hunter2"


class FakeWatch:
    """Containers with the CPU time that a test gives them."""

    def __init__(self) -> None:
        self.found: dict[str, Observation] = {}

    def use(self, container: Container, cpu_s: float, level: Level = Level.CLEAR) -> Observation:
        finding = make_finding(
            evidence=(Evidence("CommandLine", f"./a -p {SECRET}", "contains -p"),)
        )
        verdict = make_verdict(container, *([finding] if level else []), level=level)
        observation = make_observation(container, verdict, cpu_s=cpu_s)
        self.found[container.cgroup] = observation
        return observation

    def observations(self, _max_processes: int) -> tuple[Observation, ...]:
        return (*self.found.values(),)


class Recording:
    """A recorder with a clock of its own, and the lines that it wrote."""

    def __init__(self, folder: Path, interval_s: float = 10.0) -> None:
        self.watch = FakeWatch()
        self.at_s = 1000.0
        self.cpu_s: defaultdict[str, float] = defaultdict(float)
        self.gpus: dict[str, float] = {}  # of each miner, each of 700 W
        node = MonitoredNode(
            "node-1", cast("Watch", self.watch), "cgroup v2", (), (), identity=self._identity
        )
        self.journal = Journal(JournalFiles(folder), self._raise)
        self.recorder = Recorder(node, self.journal, interval_s, lambda: self.at_s)

    def _identity(self, container: Container) -> Identity | None:
        if not container.pod_uid:
            return None
        owner = container.pod_uid.partition("-")[0]
        pod = make_pod(f"pod-{container.pod_uid}", container.pod_uid)
        if owner == "user":  # of a host
            pod = replace(pod, namespace="", service_account=owner)
        image = f"bob:{SECRET}@registry.example.org/image"
        return Identity(pod, "notebook", image, Owner(owner, "label user"))

    def _raise(self, error: OSError) -> None:
        raise error

    def tick(self, **cores: float) -> None:
        """Ten seconds in which the containers of these names use so many cores."""
        self.at_s += 10
        flagged = []
        for name, used in cores.items():
            self.cpu_s[name] += used * 10
            level = Level.LIKELY if name.startswith("miner") else Level.CLEAR
            container = make_container(name, f"{name}-uid")
            observation = self.watch.use(container, self.cpu_s[name], level)
            if level:
                flagged.append((observation, used * 10))
        self.recorder.record_tick(self._summary(flagged))

    def _summary(self, flagged: list[tuple[Observation, float]]) -> TickSummary:
        return TickSummary(
            at_s=self.at_s, changes=(), ended=(), began=(),
            flagged=tuple(each for each, _ in flagged),
            flagged_cpu_s=tuple(
                (each.container, each.verdict.level, cpu_s) for each, cpu_s in flagged
            ),
            levels={}, process_count=0, unmapped_count=0, over_bound_count=0, foreign_count=0,
            probe_s={},
            gpus=GpuSummary(
                flagged=tuple(
                    (each.container, Level.LIKELY, 10 * gpus, 7000 * gpus)
                    for each, _ in flagged
                    if (gpus := self.gpus.get(each.container.container_id)) is not None
                )
            ),
        )  # fmt: skip

    def lines(self, kind: type[Any]) -> list[Any]:
        self.journal.close()
        return [line for line in self.journal.files.read() if isinstance(line, kind)]


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[Recording]:
    made = Recording(tmp_path)
    yield made
    made.journal.close()


def ticks(count: float) -> range:
    return range(int(count))


def test_cpu_usage_is_written_each_five_minutes_as_means(recording: Recording) -> None:
    for _ in ticks(2 * PERIOD_S / 10 + 1):
        recording.tick(miner=2.0, worker=0.5)
    first, second = recording.lines(UsageLine)
    assert (first.seconds, second.seconds) == (300, 300)
    assert first.cpu_cores == pytest.approx(2.5)
    assert first.flagged_cpu_cores == second.flagged_cpu_cores == pytest.approx(2.0)
    by_name = {each.pod: each for each in second.containers}
    assert by_name["pod-miner-uid"].cpu_cores == pytest.approx(2.0)
    assert by_name["pod-miner-uid"].level == "likely"
    assert by_name["pod-worker-uid"].level == "clear"


def test_gpu_usage_and_power_are_written_of_flagged_containers(recording: Recording) -> None:
    recording.gpus["miner"] = 0.5
    for _ in ticks(2 * PERIOD_S / 10 + 1):
        recording.tick(miner=0.1, minery=2.0, worker=0.5)
    gpu = {"ContainerGpuBusy": 0.5, "ContainerGpuHours": 2.5, "ContainerGpuJoules": 9e6}
    observation = replace(recording.watch.observations(0)[0], gpu=gpu)
    recording.recorder.record_verdict(observation, "clear", "likely")
    _, line = recording.lines(UsageLine)
    of_pod = {each.pod: (each.gpus, each.gpu_watts) for each in line.containers}
    assert of_pod["pod-miner-uid"] == (0.5, 350.0)
    assert of_pod["pod-minery-uid"] == of_pod["pod-worker-uid"] == (None, None)
    assert encode(line).count(b"gpus") == 1, "no byte for what is not used"
    (change,) = recording.lines(VerdictLine)
    assert (change.gpu_hours, change.gpu_joules) == (2.5, 9e6)


def test_the_time_in_which_nothing_was_watched_is_in_no_line(recording: Recording) -> None:
    for _ in ticks(10):
        recording.tick(worker=1.0)
    recording.at_s += 3600  # the machine was suspended
    for _ in ticks(PERIOD_S / 10 + 1):
        recording.tick(worker=1.0)
    (line,) = recording.lines(UsageLine)
    assert line.seconds == 300
    assert line.cpu_cores == pytest.approx(1.0)


def test_a_flagged_container_that_is_gone_is_in_the_line(recording: Recording) -> None:
    recording.tick(worker=1.0)
    for _ in ticks(9):
        recording.tick(miner=2.0, worker=1.0)
    recording.watch.found.clear()
    for _ in ticks(PERIOD_S / 10 - 9):
        recording.tick(worker=1.0)
    (line,) = recording.lines(UsageLine)
    gone = {each.pod: each for each in line.containers}["pod-miner-uid"]
    assert gone.cpu_cores == pytest.approx(2.0 * 90 / 300)
    assert line.flagged_cpu_cores == pytest.approx(2.0 * 90 / 300)


def test_stopping_writes_what_there_is(recording: Recording) -> None:
    for _ in ticks(4):
        recording.tick(worker=1.0)
    recording.recorder.close()
    (line,) = recording.lines(UsageLine)
    assert line.seconds == 30
    assert [each.event for each in recording.lines(AgentLine)] == ["start", "stop"]


def test_a_tenant_with_many_flagged_containers_leaves_room_for_others(
    recording: Recording,
) -> None:
    flood = {f"miner-{number}": 1.0 for number in range(100)}
    for _ in ticks(PERIOD_S / 10 + 1):
        recording.tick(**flood, minery=0.2)
    (line,) = recording.lines(UsageLine)
    assert len(line.containers) <= 30
    assert "pod-minery-uid" in {each.pod for each in line.containers}
    assert line.left_out == 101 - sum(each.level == "likely" for each in line.containers) >= 81


def test_busy_cpus_hide_no_gpu_of_the_same_owner(recording: Recording) -> None:
    recording.gpus["miner-gpu"] = 1.0
    flood = {f"miner-{number}": 1.0 for number in range(100)}
    for _ in ticks(PERIOD_S / 10 + 1):
        recording.tick(**flood, **{"miner-gpu": 0.1})
    (line,) = recording.lines(UsageLine)
    assert [each.gpus for each in line.containers if each.gpus] == [1.0]


def test_no_name_makes_a_line_long(recording: Recording) -> None:
    """However many letters of however many bytes a tenant puts into it."""
    for letter in ("\U0001f600", "\u202e", "字", '"'):
        name = letter * 5000
        for _ in ticks(PERIOD_S / 10 + 1):
            recording.tick(**{f"miner{name}-{number}": 1.0 for number in range(20)}, miner=0.1)
        observation = recording.watch.observations(0)[0]
        recording.recorder.record_verdict(observation, "clear", "likely")
    usage, verdicts = recording.lines(UsageLine), recording.lines(VerdictLine)
    assert len(usage) == len(verdicts) == 4
    assert max(len(encode(line)) for line in (*usage, *verdicts)) < 4000
    assert all("pod-miner-uid" in {each.pod for each in line.containers} for line in usage)


def test_a_verdict_has_its_rules_and_no_argument(recording: Recording) -> None:
    observation = recording.watch.use(make_container("c", "alice-1"), 3600.0, Level.CONFIRMED)
    recording.recorder.record_verdict(observation, "clear", "confirmed")
    (line,) = recording.lines(VerdictLine)
    assert (line.level, line.previous, line.owner, line.pod) == (
        "confirmed", "clear", "alice", "pod-alice-1",
    )  # fmt: skip
    assert line.cpu_hours == 1.0
    assert [each.title for each in line.rules] == [observation.verdict.findings[0].title]
    stored = b"".join(each.read_bytes() for each in recording.journal.files.folder.iterdir())
    assert SECRET.encode() not in stored


def test_of_a_private_rule_only_the_id_is_written(recording: Recording) -> None:
    container = make_container("c", "alice-1")
    private = make_finding(title=f"looks for {SECRET}", private=True)
    verdict = make_verdict(container, private, level=Level.LIKELY)
    recording.recorder.record_verdict(make_observation(container, verdict), "clear", "likely")
    (line,) = recording.lines(VerdictLine)
    assert line.rules[0].title == f"private rule {private.rule}"


def test_an_owner_that_flips_all_day_has_some_lines_and_others_all_of_theirs(
    recording: Recording,
) -> None:
    flipping = recording.watch.use(make_container("f", "eve-1"), 1.0, Level.LIKELY)
    quiet = recording.watch.use(make_container("q", "bob-1"), 1.0, Level.LIKELY)
    for minute in range(24 * 60):
        recording.at_s += 60
        recording.recorder.record_verdict(flipping, "clear", "likely")
        recording.recorder.record_verdict(flipping, "likely", "clear")
        if minute % 360 == 0:
            recording.recorder.record_verdict(quiet, "clear", "likely")
    owners = Counter(line.owner for line in recording.lines(VerdictLine))
    assert owners["bob"] == 4
    assert owners["eve"] <= 8 + 24 * 2 + 24 * 2
    failures = {reason: count for _, reason, count in recording.recorder.failures()}
    assert failures["left"] == 2 * 24 * 60 - owners["eve"]
    assert sum(line.left_out for line in recording.lines(VerdictLine)) > 0


def test_on_a_host_containers_by_the_hundred_leave_users_their_lines(
    recording: Recording,
) -> None:
    for number in range(200):
        container = make_container(f"ci-{number}", "", cgroup=f"/docker/{number}")
        recording.recorder.record_verdict(recording.watch.use(container, 1.0), "clear", "likely")
    users = recording.watch.use(make_container("a", "user-1"), 1.0, Level.LIKELY)
    recording.recorder.record_verdict(users, "clear", "likely")
    owners = Counter(line.owner for line in recording.lines(VerdictLine))
    assert owners["user"] == 1
    assert owners[""] == 120


@given(names=st.lists(st.text(), max_size=3))
def test_names_of_any_kind_are_written_and_read(
    names: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    recording = Recording(tmp_path_factory.mktemp("journal"))
    for name in names:
        container = make_container(name, "", cgroup=f"/{name}", runtime=name)
        recording.recorder.record_verdict(recording.watch.use(container, 1.0), "clear", "likely")
    lines: list[AnyLine] = recording.lines(VerdictLine)
    assert len(lines) == len(names)


def test_actions_are_written(recording: Recording) -> None:
    record = ActionRecord(
        id="a1", unix_s=1.0, monotonic_s=1.0, boot_id="b", node="node-1", namespace="binder",
        pod="jupyter-eve", pod_uid="u", owner="eve", action=Action.EVICT, rung=0, dry_run=True,
        outcome=Outcome.DRY_RUN,
    )  # fmt: skip
    recording.recorder.record_action(record)
    (line,) = recording.lines(ActionLine)
    assert (line.action, line.outcome, line.dry_run, line.pod) == (
        "evict", "dry-run", True, "jupyter-eve",
    )  # fmt: skip


def test_without_a_journal_nothing_is_done_and_a_forgotten_one_is_removed(
    recording: Recording, tmp_path: Path
) -> None:
    recording.tick(worker=1.0)
    recording.recorder.forget()
    assert not tmp_path.exists()
    recording.tick(worker=1.0)
    recording.recorder.record_verdict(
        replace(recording.watch.observations(0)[0]), "clear", "likely"
    )
    recording.recorder.close()
    assert [*recording.recorder.failures()] == []
    assert not tmp_path.exists()


def test_a_journal_that_cannot_be_written_is_said_once_and_counted(tmp_path: Path) -> None:
    in_the_way = tmp_path / "journal"
    in_the_way.write_text("a file")
    with closing(RunningAgent(tmp_path, "--journal", str(in_the_way), all_rules=False)) as agent:
        line = agent.line("the journal cannot be written: its lines are dropped until it can")
        assert line["folder"] == str(in_the_way)
        counted = 'minerwatch_probe_failures_total{probe="journal",reason="EEXIST"}'
        agent.until(lambda: counted in agent.get("/metrics")[1])
        assert agent.stop() == 0
        said = [each for each in agent.lines() if "journal" in str(each["event"])]
        assert len(said) == 1, "also the line of the stop was lost"
