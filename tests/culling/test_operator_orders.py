"""What an operator orders: act, preview, release one pod or all."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from msgspec import structs

from minerwatch.config.hub import Bans
from minerwatch.config.schema import Audit
from minerwatch.config.values import DRY_RUN, OFF
from minerwatch.culling.ban_store import BanStore
from minerwatch.culling.decision import Reason
from minerwatch.culling.process_signals import STOPPED, state
from minerwatch.errors import MinerwatchError, TargetError
from minerwatch.kube.client import ApiError
from minerwatch.model import Action, Observation, ProcessId
from tests.culling.harness import (
    EVE,
    LEASES,
    QUARANTINE,
    Harness,
    Open,
    actions_on,
    eve,
    lines,
    outcomes,
    places,
    put_pod,
    settings,
    target,
)
from tests.kube.api_server import (
    ApiServer,
    Dropping,
)
from tests.waiting import until

# By hand.


def test_by_hand_the_same_policy_holds(api: ApiServer, opened: Open, log: Path) -> None:
    harness = opened(settings(log, namespaces=("elsewhere",)))
    observation = eve(api, harness)
    harness.settled()
    answer = harness.cull(target(observation), Action.DELETE, dry_run=False)
    assert not answer.acts
    assert answer.outcome == ""
    assert any("namespace" in reason for reason in answer.reasons)
    assert answer.request.startswith(f"DELETE /api/v1/namespaces/binder/pods/{EVE} ")
    assert actions_on(api, EVE) == []
    (line,) = [line for line in lines(log) if line.kind == "decision"]
    assert line.decision is not None
    assert line.decision.by_hand


def test_by_hand_a_dry_run_asks_the_api_server(api: ApiServer, opened: Open, log: Path) -> None:
    harness = opened(settings(log, Action.LABEL))
    observation = eve(api, harness)
    harness.settled()
    answer = harness.cull(target(observation), Action.EVICT, dry_run=True)
    assert (answer.acts, answer.outcome, answer.dry_run) == (True, "dry-run", True)
    assert "dryRun=All" in answer.request
    assert actions_on(api, EVE) == ["evict dry-run"]


@pytest.mark.parametrize("dry_run", [True, False])
def test_by_hand_a_preview_decides_and_tries_nothing(
    api: ApiServer, opened: Open, log: Path, dry_run: bool
) -> None:
    harness = opened(settings(log, Action.LABEL))
    observation = eve(api, harness)
    harness.settled()
    known = lines(log)
    answer = harness.preview(target(observation), Action.EVICT, dry_run=dry_run)
    assert (answer.acts, answer.outcome, answer.dry_run) == (True, "", dry_run)
    assert ("dryRun=All" in answer.request) == dry_run
    assert actions_on(api, EVE) == []
    assert lines(log) == known
    assert places(api) == 0
    done = harness.cull(target(observation), Action.EVICT, dry_run=dry_run)
    assert structs.replace(done, outcome="") == answer


def test_by_hand_what_is_in_earnest_is_counted_and_told(
    api: ApiServer, opened: Open, log: Path
) -> None:
    harness = opened(settings(log, Action.LABEL), events=True)
    observation = eve(api, harness)
    harness.settled()
    answer = harness.cull(target(observation), Action.EVICT, dry_run=False)
    assert answer.outcome == "done"
    assert places(api) == 1
    until(lambda: api.items("events", "/apis/events.k8s.io/v1"))
    (event,) = api.items("events", "/apis/events.k8s.io/v1")
    assert (event["reason"], event["action"]) == ("MinerEvicted", "Evicting")
    assert "Title of identity" in event["note"]


def test_by_hand_a_container_that_is_gone_is_not_found(opened: Open, log: Path) -> None:
    harness = opened(settings(log))
    observation = harness.watch.add("/kubepods/poduid-1/c", "uid-1")
    harness.settled()
    with pytest.raises(TargetError):
        harness.cull(
            msgspec.structs.replace(target(observation), container_id="other"),
            Action.EVICT,
            dry_run=False,
        )
    harness.culler.close()
    with pytest.raises(MinerwatchError, match="try again"):
        harness.cull(target(observation), Action.EVICT, dry_run=False)


@pytest.mark.parametrize("action", [Action.STOP, Action.LABEL])
def test_a_release_undoes_and_leaves_the_pod_alone_from_then_on(
    api: ApiServer, opened: Open, log: Path, miner: ProcessId, action: Action
) -> None:
    harness = opened(settings(log, action), events=True)
    observation = eve(api, harness, miner)
    harness.tick()
    if action is Action.STOP:
        until(lambda: state(miner) == STOPPED)
        harness.tick()
    answer = harness.release(target(observation))
    assert (answer.resumed, answer.label_removed) == (
        ((miner.pid,), False) if action is Action.STOP else ((), True)
    )
    assert answer.trouble == ()
    until(lambda: state(miner) != STOPPED)
    assert QUARANTINE not in api.items("pods")[0]["metadata"].get("labels", {})
    harness.watch.ahead_s += 7200
    harness.tick()
    assert Reason.RELEASED.value in harness.reasons(observation)
    assert outcomes(log) == [f"{action} pending", f"{action} done"]
    assert harness.ended == [(action.value, "done"), (action.value, "released")]
    until(lambda: len(api.items("events", "/apis/events.k8s.io/v1")) == 2)
    reasons = {event["reason"] for event in api.items("events", "/apis/events.k8s.io/v1")}
    assert "MinerReleased" in reasons
    # and the next agent knows it, too
    harness.close()
    again = opened(settings(log, action), harness.watch)
    until(lambda: again.node.identity(observation.container))
    again.tick()
    assert Reason.RELEASED.value in again.reasons(observation)
    assert harness.ended[2:] == []


def test_a_release_continues_processes_while_the_api_server_is_away(
    api: ApiServer, opened: Open, log: Path, miner: ProcessId
) -> None:
    harness = opened(settings(log, Action.STOP))
    observation = eve(api, harness, miner)
    harness.tick()
    until(lambda: state(miner) == STOPPED)
    harness.tick()
    api.vanish()
    answer = harness.release(target(observation))
    assert answer.resumed == (miner.pid,)
    assert any("label" in each for each in answer.trouble)
    until(lambda: state(miner) != STOPPED)


# Everything released.


def stopped(api: ApiServer, harness: Harness, miner: ProcessId) -> Observation:
    """One pod whose process was stopped."""
    observation = eve(api, harness, miner)
    harness.tick()
    until(lambda: state(miner) == STOPPED)
    return observation


def test_all_is_released_also_of_pods_that_are_no_longer_watched(
    api: ApiServer, opened: Open, log: Path, miner: ProcessId
) -> None:
    harness = opened(settings(log, Action.STOP), events=True)
    stopped(api, harness, miner)
    put_pod(api, "jupyter-mallory", "uid-2")
    harness.use(settings(log, Action.LABEL))
    labelled = harness.watch.add("/kubepods/poduid-2/c", "uid-2")
    until(lambda: harness.node.identity(labelled.container))
    harness.tick()
    assert labels_of(api) == {EVE: set(), "jupyter-mallory": {QUARANTINE}}
    harness.watch.found.clear()

    answer = harness.release_all("elsewhere")
    assert (answer.released, answer.trouble) == ((), ())
    answer = harness.release_all()
    by_pod = {each.pod: each for each in answer.released}
    assert by_pod[EVE].resumed == (miner.pid,)
    assert by_pod["jupyter-mallory"].label_removed
    assert not answer.acts_no_more
    assert answer.trouble == ()
    until(lambda: state(miner) != STOPPED)
    assert labels_of(api) == {EVE: set(), "jupyter-mallory": set()}
    assert harness.release_all().released == ()
    # Both are left alone from then on, and so by the next agent.
    observation = harness.watch.add("/kubepods/poduid-1/c", "uid-1", miner)
    harness.watch.ahead_s += 7200
    harness.tick()
    assert Reason.RELEASED.value in harness.reasons(observation)
    harness.close()
    again = opened(settings(log, Action.STOP), harness.watch)
    again.tick()
    assert Reason.RELEASED.value in again.reasons(observation)


def test_bans_are_asked_for_once_if_the_api_server_does_not_answer(
    api: ApiServer, opened: Open, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    culling = settings(log, Action.LABEL, bans=Bans(config_map="binder/minerwatch-bans"))
    harness = opened(culling)
    uids = ("uid-1", "uid-2", "uid-3")
    for uid in uids:
        put_pod(api, f"jupyter-{uid}", uid)
    found = [harness.watch.add(f"/kubepods/pod{uid}/c", uid) for uid in uids]
    until(lambda: all(harness.node.identity(each.container) for each in found))
    harness.tick()
    reads = []

    def read(_: BanStore) -> None:
        reads.append(1)
        raise ApiError("timeout", "no answer")

    monkeypatch.setattr(BanStore, "read", read)
    released = harness.release_all().released
    assert [each.trouble[-1] for each in released] == ["the bans: no answer"] * 3
    assert len(reads) == 1


def labels_of(api: ApiServer) -> dict[str, set[str]]:
    return {
        pod["metadata"]["name"]: set(pod["metadata"].get("labels", {})) & {QUARANTINE}
        for pod in api.items("pods")
    }


def test_an_agent_that_was_restarted_releases_what_the_one_before_stopped(
    api: ApiServer, opened: Open, log: Path, miner: ProcessId
) -> None:
    harness = opened(settings(log, Action.STOP))
    stopped(api, harness, miner)
    harness.close()
    again = opened(settings(log, Action.STOP, mode=DRY_RUN), harness.watch)
    (released,) = again.release_all().released
    assert released.resumed == (miner.pid,)
    until(lambda: state(miner) != STOPPED)


def test_who_retires_acts_no_more_until_settings_are_read_again(
    api: ApiServer, opened: Open, log: Path
) -> None:
    harness = opened(settings(log))
    assert harness.release_all(retire=True).acts_no_more
    observation = eve(api, harness)
    harness.tick()
    assert actions_on(api, EVE) == []
    assert harness.reasons(observation) == "Culling is off (culling.mode)."
    assert log.exists()
    harness.use(settings(log))
    harness.tick()
    assert actions_on(api, EVE) == ["evict"]


def test_nothing_is_left_of_what_is_forgotten(
    api: ApiServer, opened: Open, log: Path, miner: ProcessId
) -> None:
    evidence = log.parent / "evidence"
    audit = Audit(log=str(log), folder=str(evidence))
    harness = opened(settings(log, Action.STOP, audit=audit))
    stopped(api, harness, miner)
    assert [*evidence.iterdir()]
    assert places(api) == 1
    for _ in range(2):  # as a hook that is tried again
        answer = harness.release_all(forget=True)
        assert (answer.acts_no_more, answer.forgotten, answer.trouble) == (True, True, ())
    until(lambda: state(miner) != STOPPED)
    assert api.items(*LEASES) == []
    assert not log.parent.exists()
    for _ in range(3):
        harness.tick()
    harness.use(settings(log, Action.STOP, audit=audit))
    harness.watch.ahead_s += 7200
    harness.tick()
    assert not log.parent.exists(), "nothing is written again"
    assert state(miner) != STOPPED
    assert places(api) == 0


def test_nothing_is_forgotten_that_could_not_be_undone(
    api: ApiServer, opened: Open, log: Path
) -> None:
    harness = opened(settings(log, Action.LABEL))
    for number in range(3):
        put_pod(api, f"jupyter-{number}", f"uid-{number}")
        observation = harness.watch.add(f"/kubepods/poduid-{number}/c", f"uid-{number}")
        until(lambda: harness.node.identity(observation.container))  # noqa: B023 - called at once
    harness.tick()
    assert all(labels_of(api).values())
    api.misbehave(Dropping(), when=lambda asked: "/pods/jupyter-" in asked.path, times=1)
    answer = harness.release_all(forget=True)
    assert (answer.acts_no_more, answer.forgotten) == (True, False)
    assert "audit log and the Lease are kept" in answer.trouble[0]
    assert len(answer.released) == 3, "it is not asked again for each"
    assert all("the label: " in each.trouble[0] for each in answer.released)
    assert log.exists()
    answer = harness.release_all(forget=True)
    assert answer.forgotten
    assert all(each.label_removed for each in answer.released)
    assert not any(labels_of(api).values())


def test_stopped_processes_go_on_without_the_api_server(
    api: ApiServer, opened: Open, log: Path, miner: ProcessId
) -> None:
    harness = opened(settings(log, Action.STOP))
    stopped(api, harness, miner)
    api.vanish()
    answer = harness.release_all(retire=True)
    assert (answer.released[0].resumed, answer.released[0].trouble) == ((miner.pid,), ())
    until(lambda: state(miner) != STOPPED)


def test_switched_off_it_lets_go_what_it_holds(
    api: ApiServer, opened: Open, log: Path, miner: ProcessId
) -> None:
    harness = opened(settings(log, Action.STOP))
    stopped(api, harness, miner)
    harness.use(settings(log, Action.STOP, mode=OFF))
    until(lambda: state(miner) != STOPPED)
    harness.settled()
    assert ("stop", "released") in harness.ended
    harness.watch.ahead_s += 7200
    harness.tick()
    assert state(miner) != STOPPED
