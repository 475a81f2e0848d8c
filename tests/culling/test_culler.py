"""From a confirmed verdict to the action on the pod."""

from __future__ import annotations

import os
import signal
import threading
import time
from datetime import datetime
from pathlib import Path

import msgspec
import pytest

from minerwatch.api.orders import HoursOrder
from minerwatch.config.schema import Audit, CircuitBreaker, CullBudget, Exemption
from minerwatch.config.selectors import Selector
from minerwatch.config.values import DRY_RUN, OFF, Duration
from minerwatch.culling.audit_log import read
from minerwatch.culling.decision import Reason
from minerwatch.culling.history import History
from minerwatch.culling.lease_budget import LeaseBudget
from minerwatch.culling.process_signals import STOPPED, state
from minerwatch.culling.records import HOUR_S, NO_EVIDENCE, Case
from minerwatch.errors import MinerwatchError
from minerwatch.model import Action, Level, Observation, Outcome, ProcessId
from minerwatch.worker import revive_all
from tests.builders import make_limits
from tests.conftest import Programs
from tests.culling.harness import (
    EVE,
    QUARANTINE,
    SECRET,
    Harness,
    Open,
    actions_on,
    eve,
    last,
    lines,
    moment,
    on_pod,
    outcomes,
    places,
    put_pod,
    remembers,
    settings,
    takes_a_place,
    target,
    until_known,
)
from tests.culling.test_process_signals import identity
from tests.kube.api_server import (
    Answering,
    ApiServer,
    Request,
)
from tests.waiting import PATIENCE_S, until

# What is done.


def test_a_miner_is_evicted_once(api: ApiServer, opened: Open, log: Path) -> None:
    harness = opened(settings(log))
    eve(api, harness)
    for _ in range(3):
        harness.tick()
    assert actions_on(api, EVE) == ["evict"]
    assert api.items("pods") == []
    assert outcomes(log) == ["evict pending", "evict done"]
    assert harness.ended == [("evict", "done")]
    assert places(api) == 1
    assert harness.errors == []


def test_a_dry_run_is_asked_once_and_changes_nothing(
    api: ApiServer, opened: Open, log: Path
) -> None:
    harness = opened(settings(log, mode=DRY_RUN))
    observation = eve(api, harness)
    for _ in range(3):
        harness.tick()
        harness.watch.ahead_s += 700
    assert actions_on(api, EVE) == ["evict dry-run"]
    assert len(api.items("pods")) == 1
    assert outcomes(log) == ["evict pending", "evict dry-run"]
    assert places(api) == 0
    assert "done already" in harness.reasons(observation)


def test_a_dry_run_then_in_earnest(api: ApiServer, opened: Open, log: Path) -> None:
    harness = opened(settings(log, mode=DRY_RUN))
    eve(api, harness)
    harness.tick()
    harness.use(settings(log))
    harness.tick()
    assert actions_on(api, EVE) == ["evict dry-run", "evict"]
    assert outcomes(log)[2:] == ["evict pending", "evict done"]


def test_a_label_is_set_once_and_again_if_the_tenant_takes_it_off(
    api: ApiServer, opened: Open, log: Path
) -> None:
    harness = opened(settings(log, Action.LABEL))
    observation = eve(api, harness)
    harness.tick()
    (pod,) = api.items("pods")
    assert pod["metadata"]["labels"] == {QUARANTINE: "true"}
    until(lambda: "done already" in harness.reasons(observation))
    harness.watch.ahead_s += 700
    harness.tick()
    assert actions_on(api, EVE) == ["label"]
    put_pod(api, EVE, "uid-1", labels={})
    until(lambda: "done already" not in harness.reasons(observation))
    harness.tick()
    assert actions_on(api, EVE) == ["label", "label"]


def test_a_pod_is_deleted_with_the_grace_period(api: ApiServer, opened: Open, log: Path) -> None:
    harness = opened(settings(log, Action.DELETE, grace_period=Duration(7)))
    eve(api, harness)
    harness.tick()
    assert api.items("pods") == []
    (asked,) = [asked for asked in api.requests if asked.method == "DELETE"]
    assert asked.body["gracePeriodSeconds"] == 7


def test_only_the_flagged_process_is_killed(
    api: ApiServer, opened: Open, log: Path, programs: Programs, miner: ProcessId
) -> None:
    innocent = programs.start("innocent", busy=True)
    harness = opened(settings(log, Action.KILL))
    eve(api, harness, miner)
    harness.tick()
    until(lambda: state(miner) in ("", "Z"))
    assert innocent.poll() is None
    assert outcomes(log) == ["kill pending", "kill done"]
    assert last(log).processes == (miner,)


def test_a_pid_that_was_used_again_in_between_is_left_alone(
    api: ApiServer, opened: Open, log: Path, programs: Programs
) -> None:
    later = identity(programs.start("innocent", busy=True).pid)
    before = ProcessId(later.pid, later.start_ticks - 1)
    harness = opened(settings(log, Action.KILL))
    eve(api, harness, before)
    harness.tick()
    assert outcomes(log) == ["kill pending", "kill withdrawn"]
    assert state(later) not in ("", "Z")
    assert places(api) == 0


def test_offenders_who_come_back_climb(
    api: ApiServer, opened: Open, log: Path, programs: Programs
) -> None:
    harness = opened(settings(log, Action.KILL, Action.DELETE))
    eve(api, harness)
    for _ in range(4):
        process = identity(programs.start("xmrig", busy=True).pid)
        harness.watch.add("/kubepods/poduid-1/c", "uid-1", process)
        harness.tick()
        harness.watch.ahead_s += 700
    assert outcomes(log)[1::2] == ["kill done"] * 3 + ["delete done"]
    assert api.items("pods") == []


# The evidence comes first.


def test_the_evidence_is_on_the_disk_before_anything_is_asked_for(
    api: ApiServer, opened: Open, log: Path, tmp_path: Path, miner: ProcessId
) -> None:
    folder = tmp_path / "evidence"
    harness = opened(settings(log, audit=Audit(log=str(log), folder=str(folder))))
    seen: list[tuple[list[str], int]] = []

    def look(asked: Request) -> bool:
        if on_pod(asked) or takes_a_place(asked):
            seen.append((outcomes(log), len([*folder.iterdir()])))
        return False

    api.misbehave(Answering(500), when=look)
    eve(api, harness, miner)
    harness.tick()
    assert seen == [(["evict pending"], 1)] * 2
    (line,) = [line for line in lines(log) if line.kind == "action"]
    evidence = msgspec.json.decode(line.evidence)
    (file,) = folder.iterdir()
    kept = msgspec.json.decode(file.read_bytes())
    (process,) = kept["processes"]
    assert "--password … -o stratum+tcp://pool" in process.pop("command_line")
    assert kept == evidence, "but for command lines, which neither log has"
    assert (file.stat().st_mode & 0o777, log.stat().st_mode & 0o077) == (0o600, 0)
    assert evidence["verdict"]["level"] == "confirmed"
    assert [each["rule"] for each in evidence["findings"]] == ["rule-identity", "rule-compute"]
    (process,) = evidence["processes"]
    assert (process["pid"], process["culprit"]) == (miner.pid, True)
    assert len(process["sha256"]) == 64
    assert evidence["pod"]["name"] == EVE
    assert '"uid":"uid-1"' in line.request
    assert "stratum+tcp://pool" not in log.read_text()
    assert "stratum+tcp://pool" not in str(harness.said.lines)
    assert SECRET not in log.read_text() + file.read_text()
    assert SECRET not in str(harness.said.lines)
    said = [event for event, _ in harness.said.lines]
    assert said.index("decision") < said.index("action") < said.index("action ended")


def test_no_evidence_no_action(api: ApiServer, opened: Open, log: Path, tmp_path: Path) -> None:
    (tmp_path / "evidence").write_text("in the way")
    audit = Audit(log=str(log), folder=str(tmp_path / "evidence"))
    harness = opened(settings(log, audit=audit))
    observation = eve(api, harness)
    harness.tick()
    assert actions_on(api, EVE) == []
    assert outcomes(log) == ["evict pending", "evict withdrawn"]
    assert "audit log cannot be written" in harness.reasons(observation)
    (tmp_path / "evidence").unlink()
    harness.watch.ahead_s += 700
    harness.tick()
    assert actions_on(api, EVE) == ["evict"]


def test_an_audit_log_that_cannot_be_written_stops_everything(
    api: ApiServer, opened: Open, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = opened(settings(log))
    harness.settled()
    is_full = [True]
    written = os.write

    def write(file: int, data: bytes) -> int:
        if is_full[0] and Path(f"/proc/self/fd/{file}").resolve() == log:
            written(file, bytes(data)[:5])  # and torn
            raise OSError(28, "No space left on device")
        return int(written(file, data))

    monkeypatch.setattr("minerwatch.culling.audit_log.os.write", write)
    observation = eve(api, harness)
    for _ in range(3):
        harness.tick()
    assert actions_on(api, EVE) == []
    assert "No space left on device" in harness.reasons(observation)
    is_full[0] = False
    harness.watch.ahead_s += 700
    harness.tick()
    assert actions_on(api, EVE) == ["evict"]
    lines_read = [line for line in log.read_bytes().splitlines() if line.startswith(b'{"kind"')]
    assert len(lines_read) >= 4, "nothing is lost"
    assert not read(log).damaged, "what was torn is cut off"


def test_an_audit_log_that_was_removed_stops_the_action_and_is_begun_again(
    api: ApiServer, opened: Open, log: Path
) -> None:
    harness = opened(settings(log))
    harness.settled()
    observation = eve(api, harness)
    harness.culler.history.write("decision")
    log.unlink()
    harness.tick()
    assert actions_on(api, EVE) == []
    assert harness.reasons(observation) == "", "and what is begun again can be written"
    harness.watch.ahead_s += 700
    harness.tick()
    assert actions_on(api, EVE) == ["evict"]
    again = History.restored([line.record for line in lines(log) if line.record], moment(700))
    assert again.knows_last_hour(moment(700)), "the new file says how far back it reaches"


def test_a_damaged_line_is_lost_memory_until_somebody_moves_the_file(
    api: ApiServer, opened: Open, log: Path
) -> None:
    remembers(log)
    log.write_bytes(log.read_bytes() + b'{"kind": "rel\x00\x00\x00\n' + log.read_bytes())
    harness = opened(settings(log))
    observation = eve(api, harness)
    for _ in range(3):
        harness.tick()
    assert f"{log}:2" in harness.reasons(observation)
    assert actions_on(api, EVE) == []
    log.rename(log.with_name("kept"))
    harness.tick()
    assert "within the last hour" in harness.reasons(observation)
    assert actions_on(api, EVE) == []


def test_a_culler_that_fails_again_and_again_is_seen_and_goes_on(
    api: ApiServer, opened: Open, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = opened(settings(log))
    observation = eve(api, harness)
    with monkeypatch.context() as patch:
        patch.setattr(harness.culler.history, "make_ready", failing)
        with pytest.raises(ZeroDivisionError):
            harness.release(target(observation))
        (culling,) = (state for state in revive_all() if state.name == "culling")
        assert culling.down_s > 0
        assert culling.failures["ZeroDivisionError"] >= 1
    harness.tick()
    assert outcomes(log) == ["evict pending", "evict done"]


def test_a_container_that_raises_does_not_keep_the_next_from_being_looked_at(
    api: ApiServer, opened: Open, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = opened(settings(log))
    put_pod(api, "bad", "uid-2")
    bad = harness.watch.add("/kubepods/poduid-2/c", "uid-2", cpu_s=7200.0)
    until_known(harness, bad)
    eve(api, harness)
    case = harness.culler.cases.checked_case

    def failing_case(observation: Observation) -> Case:
        if observation.container.key == bad.container.key:
            failing()
        return case(observation)

    monkeypatch.setattr(harness.culler.cases, "checked_case", failing_case)
    harness.tick()
    until(lambda: outcomes(log) == ["evict pending", "evict done"])
    assert actions_on(api, EVE) == ["evict"]
    assert actions_on(api, "bad") == []
    (culling,) = (state for state in revive_all() if state.name == "culling")
    assert culling.failures["ZeroDivisionError"] >= 1


def failing() -> None:
    raise ZeroDivisionError


def test_a_pipe_in_place_of_the_audit_log_hangs_nobody(
    api: ApiServer, opened: Open, log: Path
) -> None:
    log.unlink(missing_ok=True)  # the fixture's
    os.mkfifo(log)
    harness = opened(settings(log))
    observation = eve(api, harness)
    harness.tick()
    assert "not a regular file" in harness.reasons(observation)
    assert actions_on(api, EVE) == []


@pytest.mark.parametrize("step_s", [86400.0, -86400.0])
def test_a_step_of_the_nodes_clock_makes_no_pod_older(
    api: ApiServer, opened: Open, log: Path, step_s: float
) -> None:
    """A pod's age is by the API server's clock, which has dated it."""
    harness = opened(settings(log, minimum_age=Duration(3 * 86400)))
    harness.step_s = step_s
    observation = eve(api, harness)
    harness.tick()
    assert actions_on(api, EVE) == []
    assert "too young" in harness.reasons(observation)
    seconds = float(harness.reasons(observation).partition("too young (")[2].partition(" s")[0])
    created = api.items("pods")[0]["metadata"]["creationTimestamp"]
    age_s = time.time() - datetime.fromisoformat(created).timestamp()
    assert abs(seconds - age_s) < 3600


# Whom nothing is done to.


@pytest.mark.parametrize("namespace", ["kube-system", "minerwatch", "other"])
def test_other_namespaces_are_never_touched(
    api: ApiServer, opened: Open, log: Path, namespace: str
) -> None:
    harness = opened(settings(log, namespaces=("binder", "kube-*", "minerwatch")))
    put_pod(api, EVE, "uid-1", namespace)
    observation = harness.watch.add("/kubepods/poduid-1/c", "uid-1")
    until(lambda: harness.node.identity(observation.container))
    harness.tick()
    with_hand = harness.cull(target(observation), Action.DELETE, dry_run=False)
    assert not with_hand.acts
    assert actions_on(api, EVE) == []
    assert places(api) == 0


def flag_others(api: ApiServer, harness: Harness, *namespaces: str, owner: str = "") -> None:
    """Other pods in which the same rules hold: each of a namespace, or of ``owner``."""
    for number, namespace in enumerate(namespaces):
        uid = f"uid-other-{number}"
        annotations = {"hub.jupyter.org/username": owner} if owner else {}
        put_pod(api, f"other-{number}", uid, namespace, annotations=annotations)
        other = harness.watch.add(f"/kubepods/pod{uid}/c", uid, level=Level.SUSPICIOUS)
        until_known(harness, other)


def test_a_rule_that_flags_many_owners_stops_all_on_its_findings(
    api: ApiServer, opened: Open, log: Path
) -> None:
    breaker = CircuitBreaker(share=0.2, at_least=3)
    harness = opened(settings(log, circuit_breaker=breaker))
    observation = eve(api, harness)
    flag_others(api, harness, "a", "b")
    harness.tick()
    assert harness.culler.figures().is_circuit_open
    assert actions_on(api, EVE) == []
    assert "the rules must be wrong (rule-compute: 3 of 3 owners" in harness.reasons(observation)
    harness.watch.found = {observation.container.key: observation}
    harness.tick()
    assert not harness.culler.figures().is_circuit_open
    assert actions_on(api, EVE) == ["evict"]


@pytest.mark.parametrize(
    ("namespaces", "owner"),
    [
        (["a"] * 60, ""),  # bare pods: their namespace is one tenant
        (["a"] * 60, "mallory"),
        (["a"], ""),
    ],
)
def test_one_tenants_many_containers_open_no_circuit(
    api: ApiServer, opened: Open, log: Path, namespaces: list[str], owner: str
) -> None:
    harness = opened(settings(log, circuit_breaker=CircuitBreaker(share=0.2, at_least=3)))
    eve(api, harness)
    flag_others(api, harness, *namespaces, owner=owner)
    harness.tick()
    assert not harness.culler.figures().is_circuit_open
    assert actions_on(api, EVE) == ["evict"]


def test_where_tenants_choose_labels_their_owners_are_one(
    api: ApiServer, opened: Open, log: Path
) -> None:
    breaker = CircuitBreaker(share=0.2, at_least=3)
    harness = opened(settings(log, circuit_breaker=breaker, tenant_namespaces=("a",)))
    eve(api, harness)
    for number in range(8):
        uid = f"uid-{number}0"
        name = {"hub.jupyter.org/username": f"made-up-{number}"}
        put_pod(api, f"other-{number}", uid, "a", annotations=name)
        other = harness.watch.add(f"/kubepods/pod{uid}/c", uid)
        until_known(harness, other)
    harness.tick()
    assert not harness.culler.figures().is_circuit_open
    assert actions_on(api, EVE) == ["evict"]


def test_what_the_operator_exempts_opens_no_circuit(
    api: ApiServer, opened: Open, log: Path
) -> None:
    agreed = (Exemption(reason="agreed", namespaces=("a", "b", "c")),)
    breaker = CircuitBreaker(share=0.2, at_least=3)
    harness = opened(settings(log, circuit_breaker=breaker, exemptions=agreed))
    eve(api, harness)
    flag_others(api, harness, "a", "b", "c")
    harness.tick()
    assert not harness.culler.figures().is_circuit_open
    assert actions_on(api, EVE) == ["evict"]


def test_agents_count_a_rules_owners_together(api: ApiServer, opened: Open, log: Path) -> None:
    """One owner on each of three nodes: no node sees that there are many."""
    breaker = CircuitBreaker(cluster_owners=3)
    harness = opened(settings(log, circuit_breaker=breaker))
    others = LeaseBudget(harness.node.cluster, "minerwatch", make_limits(10, 10, cluster_owners=3))
    others.refresh()
    others.flag({"rule-compute": ["a/b", "a/c"], "rule-identity": ["a/b"]})
    observation = eve(api, harness)
    harness.tick()
    assert harness.culler.figures().is_circuit_open
    assert actions_on(api, EVE) == []
    assert "(rule-compute: 3 owners in the cluster)" in harness.reasons(observation)


def test_the_budget_goes_to_what_used_most_cpu(api: ApiServer, opened: Open, log: Path) -> None:
    """Decoys that were found first would take it away else."""
    harness = opened(settings(log, budget=CullBudget(per_node=1, per_cluster=1)))
    for number in range(5):
        put_pod(api, f"decoy-{number}", f"uid-{number}0")
        harness.watch.add(f"/kubepods/poduid-{number}0/c", f"uid-{number}0", cpu_s=1.0)
    put_pod(api, EVE, "uid-1")
    harness.watch.add("/kubepods/poduid-1/c", "uid-1", cpu_s=86_400.0)
    until(lambda: all(harness.node.identity(o.container) for o in harness.watch.observations(0)))
    harness.tick()
    assert actions_on(api, EVE) == ["evict"]
    assert len(api.items("pods")) == 5


# What a pod says of itself.


@pytest.mark.parametrize("is_real", [True, False])
def test_a_daemon_set_spares_its_own_pods_and_no_others(
    api: ApiServer, opened: Open, log: Path, is_real: bool
) -> None:
    harness = opened(settings(log))
    reference = {
        "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "exporter", "uid": "ds-uid",
        "controller": True,
    }  # fmt: skip
    template = {"spec": {"containers": [{"name": "notebook", "image": "notebook:1"}]}}
    spec = {"selector": {"matchLabels": {"app": "exporter"}}, "template": template}
    metadata = {"name": "exporter", "namespace": "binder", "uid": "ds-uid" if is_real else "other"}
    api.put(
        {"kind": "DaemonSet", "metadata": metadata, "spec": spec}, "/apis/apps/v1", "daemonsets"
    )
    put_pod(api, EVE, "uid-1", labels={"app": "exporter"}, ownerReferences=[reference])
    observation = harness.watch.add("/kubepods/poduid-1/c", "uid-1")
    until(lambda: harness.node.identity(observation.container))
    harness.tick()
    assert actions_on(api, EVE) == ([] if is_real else ["evict"])
    if is_real:
        assert Reason.DAEMON_SET_POD.value in harness.reasons(observation)


def test_what_the_api_server_cannot_confirm_is_left_alone(
    api: ApiServer, opened: Open, log: Path
) -> None:
    harness = opened(settings(log))
    reference = {
        "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "x", "uid": "u", "controller": True
    }  # fmt: skip
    put_pod(api, EVE, "uid-1", ownerReferences=[reference])
    observation = harness.watch.add("/kubepods/poduid-1/c", "uid-1")
    until(lambda: harness.node.identity(observation.container))
    api.misbehave(Answering(403), when=lambda asked: "daemonsets" in asked.path)
    harness.tick()
    assert actions_on(api, EVE) == []
    assert Reason.CONTROLLER_UNKNOWN.value in harness.reasons(observation)
    assert ("controllers", "forbidden", 1) in [*harness.culler.failures()]


# What was watched counts.


def test_what_was_not_watched_is_not_held(api: ApiServer, opened: Open, log: Path) -> None:
    """Two sightings, and nothing known of the time between them: the findings are an hour old."""
    harness = opened(settings(log))
    put_pod(api, EVE, "uid-1")
    observation = harness.watch.add("/kubepods/poduid-1/c", "uid-1")
    until(lambda: harness.node.identity(observation.container))
    for _ in range(2):
        harness.culler.consider(harness.watch.observations(0))
        harness.settled()
        harness.watch.ahead_s += 400
    assert Reason.NOT_HELD.value[:-1] in harness.reasons(observation)
    assert actions_on(api, EVE) == []
    harness.tick()
    assert actions_on(api, EVE) == ["evict"]


def test_an_agent_without_memory_waits(api: ApiServer, opened: Open, tmp_path: Path) -> None:
    harness = opened(settings(tmp_path / "new" / "audit.jsonl"))
    observation = eve(api, harness)
    harness.tick()
    assert Reason.MEMORY_LOST.value in harness.reasons(observation)
    assert lines(tmp_path / "new" / "audit.jsonl")[0].kind == "start"
    harness.watch.ahead_s += HOUR_S
    harness.tick()
    assert actions_on(api, EVE) == ["evict"]


def test_an_agent_that_does_not_know_where_it_runs_does_nothing(
    api: ApiServer, opened: Open, log: Path
) -> None:
    harness = opened(settings(log), namespace="")
    observation = eve(api, harness)
    harness.tick()
    assert Reason.OWN_IDENTITY_UNKNOWN.value in harness.reasons(observation)
    assert not [asked for asked in api.requests if "leases" in asked.path]


def test_a_budget_that_is_spent_permits_nothing(api: ApiServer, opened: Open, log: Path) -> None:
    harness = opened(settings(log, budget=CullBudget(per_node=5, per_cluster=1)))
    for number in range(3):
        put_pod(api, f"pod-{number}", f"uid-{number}")
        harness.watch.add(f"/kubepods/poduid-{number}/c", f"uid-{number}")
    until(lambda: all(harness.node.identity(o.container) for o in harness.watch.observations(0)))
    harness.tick()
    harness.tick()
    assert len(api.items("pods")) == 2
    assert harness.culler.figures().budget_left == 0
    assert places(api) == 1


# Stopped, and released.


def test_what_was_stopped_is_not_forgotten_when_its_verdict_is_clear(
    api: ApiServer, opened: Open, log: Path, miner: ProcessId
) -> None:
    harness = opened(settings(log, Action.STOP))
    observation = eve(api, harness, miner)
    harness.tick()
    until(lambda: state(miner) == STOPPED)
    harness.tick()
    assert harness.culler.figures().stopped == 1
    assert "done already" in harness.reasons(observation)
    clear = harness.watch.add("/kubepods/poduid-1/c", "uid-1", miner, level=Level.CLEAR)
    harness.tick()
    status = harness.culler.status(clear)
    assert status is not None
    assert status.stopped == (miner.pid,)
    assert [each.action for each in status.history] == ["stop"]


def test_a_process_that_its_tenant_continues_is_stopped_again(
    api: ApiServer, opened: Open, log: Path, miner: ProcessId
) -> None:
    harness = opened(settings(log, Action.STOP))
    eve(api, harness, miner)
    harness.tick()
    until(lambda: state(miner) == STOPPED)
    os.kill(miner.pid, signal.SIGCONT)
    until(lambda: state(miner) != STOPPED)
    harness.tick()
    assert state(miner) != STOPPED, "not within the pause"
    harness.watch.ahead_s += 700
    harness.tick()
    until(lambda: state(miner) == STOPPED)
    os.kill(miner.pid, signal.SIGCONT)


def test_switched_off_while_it_runs_nothing_is_done_any_more(
    api: ApiServer, opened: Open, log: Path
) -> None:
    harness = opened(settings(log))
    observation = eve(api, harness)
    harness.use(settings(log, mode=OFF))
    harness.tick()
    assert actions_on(api, EVE) == []
    assert Reason.OFF.value[:-1] in harness.reasons(observation)


@pytest.mark.parametrize("when", ["lease", "refusal"])
def test_switched_off_between_the_decision_and_the_action_it_is_heard(
    api: ApiServer, opened: Open, log: Path, when: str
) -> None:
    harness = opened(settings(log))
    eve(api, harness)

    def switch_off(asked: Request) -> bool:
        if takes_a_place(asked) if when == "lease" else on_pod(asked):
            harness.use(settings(log, mode=OFF))
        return when == "refusal" and on_pod(asked)

    api.misbehave(Answering(429), times=99, when=switch_off)
    harness.tick()
    assert len(api.items("pods")) == 1
    assert len(actions_on(api, EVE)) == (1 if when == "refusal" else 0)
    assert outcomes(log)[0] == "evict pending"
    assert outcomes(log)[1] == ("evict refused" if when == "refusal" else "evict withdrawn")


def test_an_interval_that_is_changed_changes_what_is_stale(
    api: ApiServer, opened: Open, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = opened(settings(log))
    observation = eve(api, harness)
    old = harness.watch.observation(observation.container.key, 0)
    assert old is not None
    harness.watch.ahead_s += 15
    status = harness.culler.status(old)
    assert status is not None
    assert Reason.STALE_VERDICT.value[:-1] not in " ".join(status.reasons)
    harness.use(settings(log), 5.0)
    status = harness.culler.status(old)
    assert status is not None
    assert Reason.STALE_VERDICT.value[:-1] in " ".join(status.reasons)


def test_an_order_that_nobody_waits_for_any_more_is_not_carried_out(
    api: ApiServer, opened: Open, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = opened(settings(log, selector=Selector("app=other")))
    put_pod(api, EVE, "uid-1", labels={"app": "hub"})
    observation = harness.watch.add("/kubepods/poduid-1/c", "uid-1")
    until(lambda: harness.node.identity(observation.container))
    harness.settled()
    is_free, is_busy = threading.Event(), threading.Event()

    def hold() -> None:
        is_busy.set()
        is_free.wait(PATIENCE_S)

    monkeypatch.setattr(harness.culler.history, "make_ready", hold)
    harness.consider()
    is_busy.wait(PATIENCE_S)
    harness.use(settings(log))
    with pytest.raises(MinerwatchError, match=r"nothing was done"):
        harness.cull(target(observation), Action.DELETE, dry_run=False, timeout_s=0.1)
    is_free.set()
    harness.settled()
    assert "delete" not in actions_on(api, EVE)


def test_what_was_decided_is_told_from_the_audit_log(
    api: ApiServer, opened: Open, log: Path
) -> None:
    harness = opened(settings(log, mode=DRY_RUN))
    eve(api, harness)
    harness.tick()
    told = harness.culler.history.lines_since(HoursOrder(1.0))
    assert [line.kind for line in told] == ["decision", "action", "outcome"]
    assert all(line.evidence == NO_EVIDENCE for line in told)
    assert told[-1].record is not None
    assert told[-1].record.outcome is Outcome.DRY_RUN
    time.sleep(0.01)  # the log tells whole milliseconds
    assert harness.culler.history.lines_since(HoursOrder(1e-9)) == ()
