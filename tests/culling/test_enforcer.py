"""One action from the decision to its end: faults, and an agent that is killed in between."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from minerwatch.culling.decision import Reason
from minerwatch.culling.process_signals import STOPPED, state
from minerwatch.model import Action, ProcessId
from tests.culling.harness import (
    EVE,
    QUICK,
    Open,
    actions_on,
    eve,
    lines,
    looks,
    on_pod,
    outcomes,
    places,
    put_pod,
    settings,
    takes_a_place,
    target,
)
from tests.kube.api_server import (
    Answering,
    ApiServer,
    Dripping,
    Dropping,
    Hanging,
    LosingTheAnswer,
    Request,
    encode,
)
from tests.waiting import until

# What goes wrong between the decision and the action.


@pytest.mark.parametrize(
    ("how", "times", "when", "expected", "requests", "held"),
    [
        # before anything is asked for
        (Answering(500), 99, "lease", "withdrawn", 0, 0),
        (Hanging(9.0), 99, "lease", "withdrawn", 0, 0),
        (Dropping(), 99, "look", "withdrawn", 0, 0),
        (Answering(500), 99, "look", "withdrawn", 0, 0),
        (Answering(404), 99, "look", "withdrawn", 0, 0),
        (Answering(200, body=b"{}"), 99, "look", "withdrawn", 0, 0),
        # refused, and nothing has happened
        (Answering(403), 1, "act", "refused", 1, 1),
        (Answering(422), 1, "act", "refused", 1, 1),
        (Answering(409), 99, "act", "refused", 5, 1),
        (Answering(429), 99, "act", "refused", 5, 1),
        (Answering(401), 99, "act", "refused", 5, 1),
        (Answering(404), 99, "act", "refused", 5, 1),
        # refused at first
        (Answering(409), 1, "act", "done", 2, 1),
        (Answering(429, headers={"Retry-After": "1"}), 1, "act", "done", 2, 1),
        (Answering(401), 1, "act", "done", 2, 1),
        # nobody can know, until the pod is looked at
        (LosingTheAnswer(), 1, "act", "done", 1, 1),
        (Dropping(), 1, "act", "unknown", 1, 1),
        (Answering(504), 1, "act", "unknown", 1, 1),
        (Answering(500), 1, "act", "failed", 1, 1),
        (Answering(201, body=encode({"kind": "Status", "status": "Failure", "code": 500})),
            1, "act", "failed", 1, 1),
    ],
)  # fmt: skip
def test_faults(
    api: ApiServer,
    opened: Open,
    log: Path,
    how: Any,
    times: int,
    when: str,
    expected: str,
    requests: int,
    held: int,
) -> None:
    harness = opened(settings(log))
    harness.tick()
    eve(api, harness)
    matches = {
        "lease": takes_a_place,
        "look": looks,
        "act": on_pod,
    }[when]
    api.misbehave(how, times=times, when=matches)
    harness.tick()
    assert outcomes(log) == ["evict pending", f"evict {expected}"]
    assert harness.ended == [("evict", expected)]
    assert len(actions_on(api, EVE)) == requests
    assert places(api) == held
    assert harness.errors == [] or when == "lease"
    assert (api.items("pods") == []) is (expected == "done")
    # and nothing is stuck: another pod is served as before
    api.behave()
    put_pod(api, "jupyter-mallory", "uid-2")
    observation = harness.watch.add("/kubepods/poduid-2/c", "uid-2")
    until(lambda: harness.node.identity(observation.container))
    harness.tick()
    assert actions_on(api, "jupyter-mallory") == ["evict"]
    assert len(actions_on(api, EVE)) == requests, "nothing is done twice within the pause"


def test_a_request_that_hangs_ends_and_is_not_repeated(
    api: ApiServer, opened: Open, log: Path
) -> None:
    """The API server carries it out after the agent has given up."""
    harness = opened(settings(log), retry=replace(QUICK, answer_s=0.3))
    eve(api, harness)
    api.misbehave(Hanging(0.8), when=on_pod)
    harness.tick()
    assert outcomes(log) == ["evict pending", "evict unknown"]
    until(lambda: api.items("pods") == [])
    harness.tick()
    assert actions_on(api, EVE) == ["evict"]


def test_a_pod_that_is_made_anew_between_the_look_and_the_action_lives(
    api: ApiServer, opened: Open, log: Path
) -> None:
    harness = opened(settings(log))
    eve(api, harness)

    def recreate(asked: Request) -> bool:
        if on_pod(asked):
            api.remove("binder", EVE)
            put_pod(api, EVE, "uid-9")
        return False

    api.misbehave(Answering(500), when=recreate)
    harness.tick()
    assert outcomes(log) == ["evict pending", "evict withdrawn"]
    assert [pod["metadata"]["uid"] for pod in api.items("pods")] == ["uid-9"]


def test_a_verdict_that_falls_while_the_budget_is_asked_for_is_heard(
    api: ApiServer, opened: Open, log: Path
) -> None:
    harness = opened(settings(log))
    observation = eve(api, harness)

    def clear(asked: Request) -> bool:
        if "leases" in asked.path and asked.method == "POST":
            verdict = replace(observation.verdict, findings=())
            harness.watch.found[observation.container.key] = replace(observation, verdict=verdict)
        return False

    api.misbehave(Answering(500), when=clear)
    harness.tick()
    assert actions_on(api, EVE) == []
    assert outcomes(log) == ["evict pending", "evict withdrawn"]
    assert places(api) == 0, "the place was given back"


def test_an_api_server_that_is_away_permits_nothing(
    api: ApiServer, opened: Open, log: Path
) -> None:
    harness = opened(settings(log))
    observation = eve(api, harness)
    api.vanish()
    until(lambda: not harness.node.is_synced)
    harness.tick()
    assert Reason.PODS_NOT_SYNCED.value in harness.reasons(observation)
    assert outcomes(log) == []
    api.listen()
    harness.until_synced()
    harness.watch.ahead_s += 700  # or the budget would not be asked for so soon again
    harness.tick()
    assert actions_on(api, EVE) == ["evict"]


# The agent is killed.


def _killed_at(
    api: ApiServer, kubeconfig: Path, log: Path, action: Action, when: Callable[[Request], bool],
    how: Any, process: ProcessId | None = None,
) -> None:  # fmt: skip
    """Runs an agent that is killed by SIGKILL when a request comes for which ``when`` holds."""
    came: list[float] = []

    def matches(asked: Request) -> bool:
        if not when(asked):
            return False
        came.append(time.monotonic())
        return True

    api.misbehave(how, when=matches)
    pid, ticks = process or (0, 0)
    agent = subprocess.Popen(
        [sys.executable, "-m", "tests.culling.harness", str(kubeconfig), str(log), action.value,
         "/kubepods/poduid-1/c", "uid-1", str(pid), str(ticks)],
        cwd=Path(__file__).parents[1], stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until(lambda: came)
        time.sleep(0.1)
    finally:
        agent.send_signal(signal.SIGKILL)
        agent.wait()
    api.behave()


@pytest.mark.parametrize(
    ("when", "how", "has_acted", "held"),
    [
        (takes_a_place, Hanging(2.0), 0, 1),
        (takes_a_place, Dripping(1, 0.05), 0, 1),
        (looks, Hanging(2.0), 0, 1),
        (on_pod, Hanging(2.0), 1, 1),
        (on_pod, Dripping(1, 0.05), 1, 1),
    ],
    ids=["budget asked", "budget had", "second look", "action asked", "action done"],
)
def test_an_agent_that_is_killed_leaves_nothing_done_twice_and_nothing_stuck(
    api: ApiServer,
    opened: Open,
    kubeconfig: Path,
    log: Path,
    when: Callable[[Request], bool],
    how: Any,
    has_acted: int,
    held: int,
) -> None:
    put_pod(api, EVE, "uid-1")
    _killed_at(api, kubeconfig, log, Action.EVICT, when, how)
    assert outcomes(log) == ["evict pending"]
    until(lambda: places(api) == held)
    if has_acted:
        until(lambda: api.items("pods") == [])
    harness = opened(settings(log))
    observation = harness.watch.add("/kubepods/poduid-1/c", "uid-1")
    put_pod(api, "jupyter-mallory", "uid-2")
    other = harness.watch.add("/kubepods/poduid-2/c", "uid-2")
    until(lambda: harness.node.identity(other.container))
    harness.tick()
    assert outcomes(log)[:2] == ["evict pending", "evict unknown"]
    assert len(actions_on(api, EVE)) == has_acted, "it is not done again"
    assert actions_on(api, "jupyter-mallory") == ["evict"], "and nothing else is held up"
    assert harness.ended == [("evict", "unknown"), ("evict", "done")]
    assert places(api) == held + 1
    if not has_acted:  # the pod is still there: once the pause is over it is tried again
        until(lambda: harness.node.identity(observation.container))
        assert Reason.TOO_SOON.value[:-1] in harness.reasons(observation)
        harness.watch.ahead_s += 700
        harness.tick()
        assert actions_on(api, EVE) == ["evict"]
    assert [line.kind for line in lines(log)].count("start") == 1


def test_processes_that_an_agent_stopped_before_it_was_killed_are_known_to_the_next(
    api: ApiServer, opened: Open, kubeconfig: Path, log: Path, miner: ProcessId
) -> None:
    """It is killed between the signal and the record of it."""
    put_pod(api, EVE, "uid-1")
    agent = subprocess.Popen(
        [sys.executable, "-m", "tests.culling.harness", str(kubeconfig), str(log), "stop",
         "/kubepods/poduid-1/c", "uid-1", str(miner.pid), str(miner.start_ticks)],
        cwd=Path(__file__).parents[1], stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until(lambda: state(miner) == STOPPED)
    finally:
        agent.kill()
        agent.wait()
    text = b"".join(
        line + b"\n" for line in log.read_bytes().splitlines() if b'"outcome":"done"' not in line
    )
    log.write_bytes(text)
    harness = opened(settings(log, Action.STOP))
    observation = harness.watch.add("/kubepods/poduid-1/c", "uid-1", miner)
    harness.settled()
    assert outcomes(log) == ["stop pending", "stop unknown"]
    status = harness.culler.status(observation)
    assert status is not None
    assert status.stopped == (miner.pid,)
    released = harness.release(target(observation))
    assert released.resumed == (miner.pid,)
    until(lambda: state(miner) != STOPPED)
