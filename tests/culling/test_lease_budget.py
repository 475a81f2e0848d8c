"""The cluster's budget under real concurrency: it is never exceeded, not even by one."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from minerwatch.culling.lease_budget import (
    MARGIN_S,
    BudgetPace,
    LeaseBudget,
)
from minerwatch.culling.lease_codec import DRY_RUNS, FLAGGED, FLAGGED_S, IN_EARNEST, LEASE
from minerwatch.culling.records import HOUR_S, ActionRecord, Moment
from minerwatch.kube.client import Cluster, from_kubeconfig
from minerwatch.model import Action, Outcome
from tests.builders import make_limits
from tests.kube.api_server import (
    Answering,
    ApiServer,
    Dropping,
    Hanging,
    Json,
    LosingTheAnswer,
    Request,
)

LEASES = ("leases", "/apis/coordination.k8s.io/v1")
NAMESPACE = "minerwatch"
NOW = Moment(0.0, 0.0, "boot")  # which the budget does not use
QUICK = BudgetPace(first_delay_s=0.002, longest_delay_s=0.02, answer_s=1.0)
PATIENT = BudgetPace(
    tries=1000, give_up_s=60.0, first_delay_s=0.001, longest_delay_s=0.02, answer_s=10.0
)


def record(id_: str, node: str = "n1", *, dry_run: bool = False) -> ActionRecord:
    return ActionRecord(
        id=id_, unix_s=0.0, monotonic_s=0.0, boot_id="boot", node=node, namespace="binder",
        pod="p", pod_uid="u", owner="", action=Action.EVICT, rung=0, dry_run=dry_run,
        outcome=Outcome.PENDING,
    )  # fmt: skip


def leases(api: ApiServer) -> list[Json]:
    return api.items(*LEASES)


def places(api: ApiServer, name: str = IN_EARNEST) -> list[Any]:
    (lease,) = leases(api)
    found: list[Any] = json.loads(lease["metadata"]["annotations"][name])
    return found


Open = Callable[..., LeaseBudget]


@pytest.fixture
def opened(cluster: Cluster) -> Open:
    def one(
        per_cluster: int = 3, per_node: int = 1000, cluster_owners: int = 10, **options: Any
    ) -> LeaseBudget:
        limits = make_limits(per_node, per_cluster, cluster_owners)
        return LeaseBudget(cluster, NAMESPACE, limits, **{"pace": QUICK, **options})

    return one


# One agent.


def test_places_are_taken_until_there_are_none(api: ApiServer, opened: Open) -> None:
    budget = opened()
    assert budget.left(dry_run=False) is None
    assert [budget.reserve(record(str(n)), NOW) for n in range(5)] == [True] * 3 + [False] * 2
    assert budget.left(dry_run=False) == 0
    assert len(places(api)) == 3


def test_the_same_action_takes_one_place(api: ApiServer, opened: Open) -> None:
    budget = opened()
    assert all(budget.reserve(record("one"), NOW) for _ in range(5))
    assert len(places(api)) == 1
    assert opened().reserve(record("one"), NOW)  # and so for an agent that has just started
    assert len(places(api)) == 1


def test_a_node_has_a_limit_of_its_own_that_outlives_its_agent(opened: Open) -> None:
    assert [opened(per_node=2).reserve(record(str(n)), NOW) for n in range(3)] == [
        True, True, False,
    ]  # fmt: skip
    assert opened(per_node=2).reserve(record("other", node="n2"), NOW)


def test_dry_runs_have_a_budget_of_their_own(api: ApiServer, opened: Open) -> None:
    budget = opened(per_cluster=1)
    assert budget.reserve(record("dry", dry_run=True), NOW)
    assert budget.reserve(record("real"), NOW)
    assert not budget.reserve(record("dry 2", dry_run=True), NOW)
    assert (len(places(api)), len(places(api, DRY_RUNS))) == (1, 1)


def test_what_was_withdrawn_is_given_back(api: ApiServer, opened: Open) -> None:
    budget = opened(per_cluster=1)
    assert budget.reserve(record("a"), NOW)
    budget.give_back(record("b"))
    assert not budget.reserve(record("c"), NOW)
    budget.give_back(record("a"))
    assert places(api) == []
    assert budget.left(dry_run=False) == 1
    assert budget.reserve(record("c"), NOW)


def test_nothing_is_permitted_where_nothing_is_to_be_had(api: ApiServer, opened: Open) -> None:
    assert not opened(per_cluster=0).reserve(record("a"), NOW)
    assert leases(api) == []


def test_the_lease_is_one_that_kubernetes_takes_and_people_read(
    api: ApiServer, opened: Open
) -> None:
    assert opened().reserve(record("a", node="n" * 300), NOW)
    lease = leases(api)[0]
    assert lease["metadata"]["name"] == LEASE
    assert lease["metadata"]["namespace"] == NAMESPACE
    assert lease["spec"]["leaseDurationSeconds"] == 3600
    assert "deleting this" in lease["metadata"]["annotations"]["kubernetes.io/description"]


def test_what_others_put_there_stays(api: ApiServer, opened: Open) -> None:
    lease: Json = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": LEASE, "namespace": NAMESPACE, "labels": {"a": "b"}, "annotations": {"c": "d"},
        },
        "spec": {"leaseTransitions": 7},
    }  # fmt: skip
    api.put(lease, LEASES[1], LEASES[0])
    assert opened().reserve(record("a"), NOW)
    (lease,) = leases(api)
    assert lease["metadata"]["labels"] == {"a": "b"}
    assert lease["metadata"]["annotations"]["c"] == "d"
    assert lease["spec"]["leaseTransitions"] == 7
    assert len(places(api)) == 1


# How often it is asked.


def test_what_is_known_is_as_fresh_as_it_has_to_be(api: ApiServer, opened: Open) -> None:
    clock_s = [0.0]
    budget = opened(per_cluster=1, monotonic_s=lambda: clock_s[0])

    def reads(seconds: int, *, is_needed: bool) -> int:
        before = len(api.requests)
        for _ in range(seconds // 10):
            clock_s[0] += 10.0
            api.clock_ahead_s = clock_s[0]
            budget.refresh_if_due(clock_s[0], is_needed=is_needed, dry_run=False)
        return len(api.requests) - before

    assert reads(3600, is_needed=False) == 6
    assert reads(3600, is_needed=True) == 120
    assert budget.reserve(record("a"), NOW)
    assert reads(3000, is_needed=True) == 10  # there is nothing to be had
    assert reads(1500, is_needed=True) >= 20  # by its own clock there is again


def test_a_lease_that_cannot_be_read_is_left_alone_for_a_while(
    api: ApiServer, opened: Open
) -> None:
    clock_s = [0.0]
    budget = opened(monotonic_s=lambda: clock_s[0])
    api.misbehave(Answering(503), times=10**6)
    for _ in range(360):
        clock_s[0] += 10.0
        budget.refresh_if_due(clock_s[0], is_needed=True, dry_run=False)
    assert 3600 / 55 <= len(api.requests) <= 3600 / 15
    assert budget.left(dry_run=False) is None


# Time.


def test_a_place_is_free_again_after_an_hour_and_two_minutes(api: ApiServer, opened: Open) -> None:
    assert opened(per_cluster=1).reserve(record("a"), NOW)
    api.clock_ahead_s = HOUR_S + MARGIN_S - 5
    assert not opened(per_cluster=1).reserve(record("b"), NOW)
    api.clock_ahead_s = HOUR_S + MARGIN_S + 5
    assert opened(per_cluster=1).reserve(record("b"), NOW)


def test_what_is_over_is_not_kept(api: ApiServer, opened: Open) -> None:
    assert opened().reserve(record("a"), NOW)
    assert opened().reserve(record("b", dry_run=True), NOW)
    api.clock_ahead_s = 2 * HOUR_S
    assert opened().reserve(record("c"), NOW)
    assert (len(places(api)), places(api, DRY_RUNS)) == (1, [])


def test_an_api_servers_clock_that_jumps_frees_no_place(api: ApiServer, opened: Open) -> None:
    budget = opened(per_cluster=1)
    assert budget.reserve(record("a"), NOW)
    for jump_s in (1e6, -1e6, 1e9):
        api.clock_ahead_s = jump_s
        assert not budget.reserve(record("b"), NOW)


def test_an_agent_that_saw_a_place_holds_it_for_an_hour_by_its_own_clock(
    api: ApiServer, opened: Open
) -> None:
    clock = [1000.0]
    budget = opened(per_cluster=1, monotonic_s=lambda: clock[0])
    assert opened().reserve(record("a", node="n2"), NOW)
    assert not budget.reserve(record("b"), NOW)
    api.clock_ahead_s = 1e6
    clock[0] += HOUR_S
    assert not budget.reserve(record("b"), NOW)
    clock[0] += MARGIN_S
    assert budget.reserve(record("b"), NOW)


def test_a_place_of_the_future_is_held(api: ApiServer, opened: Open) -> None:
    api.clock_ahead_s = 7200
    assert opened(per_cluster=1).reserve(record("a"), NOW)
    api.clock_ahead_s = 0
    assert not opened(per_cluster=1).reserve(record("b"), NOW)


def test_what_was_heard_gets_old(opened: Open) -> None:
    clock = [1000.0]
    budget = opened(monotonic_s=lambda: clock[0])
    assert budget.last_read_s() is None
    assert budget.refresh()
    assert budget.left(dry_run=False) == 3
    clock[0] += 1000
    assert (budget.left(dry_run=False), budget.last_read_s()) == (3, 1000)
    clock[0] += 1000
    assert budget.left(dry_run=False) is None


# Faults.


@pytest.mark.parametrize("status", [401, 409, 429, 500, 503, 504])
def test_what_may_pass_is_tried_again(api: ApiServer, opened: Open, status: int) -> None:
    api.misbehave(Answering(status), when=lambda asked: asked.method == "GET")
    api.misbehave(Answering(status), when=lambda asked: asked.method == "POST")
    assert opened().reserve(record("a"), NOW)
    assert len(places(api)) == 1


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (Answering(403), "forbidden"),
        (Answering(422), "server"),
        (Answering(500), "server"),
        (Answering(200, body=b"{}"), "garbage"),
        (Answering(200, body=b"<html>"), "garbage"),
        (Dropping(), "connection"),
        (Hanging(5.0), "timeout"),
    ],
)
def test_whatever_goes_wrong_for_good_is_no(
    api: ApiServer, opened: Open, how: Any, reason: str
) -> None:
    heard: list[str] = []
    pace = BudgetPace(tries=3, first_delay_s=0.001, answer_s=0.2)
    budget = opened(pace=pace, on_error=lambda reason, _error: heard.append(reason))
    api.misbehave(how, times=100)
    assert not budget.reserve(record("a"), NOW)
    assert not budget.refresh()
    assert (heard[0], budget.failures[reason]) == (reason, 2)
    api.behave()
    assert budget.reserve(record("a"), NOW)


def test_an_api_server_that_is_away_permits_nothing(api: ApiServer, opened: Open) -> None:
    budget = opened(pace=BudgetPace(tries=3, first_delay_s=0.001))
    assert budget.refresh()
    api.vanish()
    assert not budget.reserve(record("a"), NOW)
    api.listen()
    assert budget.reserve(record("a"), NOW)


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_place_whose_answer_was_lost_is_found_again(
    api: ApiServer, opened: Open, method: str
) -> None:
    budget = opened(per_cluster=2)
    taken = 0
    if method == "PUT":
        assert budget.reserve(record("first"), NOW)
        taken = 1
    api.misbehave(LosingTheAnswer(), when=lambda asked: asked.method == method)
    assert budget.reserve(record("a"), NOW)
    assert len(places(api)) == taken + 1


def test_a_write_that_arrives_late_takes_no_place_twice(api: ApiServer, opened: Open) -> None:
    """The client has given up, and asked again, when the server does what it was asked first."""
    budget = opened(per_cluster=1, pace=BudgetPace(first_delay_s=0.01, answer_s=0.2))
    assert budget.refresh()
    api.misbehave(Hanging(0.5), when=lambda asked: asked.method == "POST")
    assert budget.reserve(record("a"), NOW)
    time.sleep(0.5)
    assert len(places(api)) == 1
    assert not budget.reserve(record("b"), NOW)


@pytest.mark.parametrize("text", ["", "{}", "null", "[[1]]", '[["a","b","c"]]', "[" * 10_000])
def test_a_damaged_annotation_permits_nothing_and_says_how_to_mend_it(
    api: ApiServer, opened: Open, text: str
) -> None:
    assert opened().reserve(record("a"), NOW)
    (lease,) = leases(api)
    lease["metadata"]["annotations"][IN_EARNEST] = text
    api.put(lease, LEASES[1], LEASES[0])
    said: list[str] = []
    budget = opened(on_error=lambda _reason, error: said.append(str(error)))
    assert not budget.reserve(record("b"), NOW)
    assert "delete the Lease" in said[0]
    assert budget.left(dry_run=False) is None
    api.remove(NAMESPACE, LEASE, LEASES[1], LEASES[0])
    assert budget.reserve(record("b"), NOW)


@pytest.mark.parametrize("spec", ["text", ["a"], 5])
def test_a_lease_whose_spec_is_none_permits_nothing(
    api: ApiServer, opened: Open, spec: object
) -> None:
    assert opened().reserve(record("a"), NOW)
    (lease,) = leases(api)
    api.put({**lease, "spec": spec}, LEASES[1], LEASES[0])
    budget = opened()
    assert not budget.reserve(record("b"), NOW)
    assert budget.failures == {"garbage": 1}


def test_a_lease_that_is_deleted_while_it_is_written_is_made_anew(
    api: ApiServer, opened: Open
) -> None:
    budget = opened()
    assert budget.reserve(record("a"), NOW)

    def deletes_it(asked: Request) -> bool:
        if asked.method == "PUT" and leases(api):
            api.remove(NAMESPACE, LEASE, LEASES[1], LEASES[0])
        return False

    api.misbehave(Answering(500), when=deletes_it)
    assert budget.reserve(record("b"), NOW)
    assert len(places(api)) == 1


def test_without_a_date_nothing_is_permitted(api: ApiServer, opened: Open) -> None:
    api.date = "yesterday"
    budget = opened()
    assert not budget.reserve(record("a"), NOW)
    assert budget.failures == {"garbage": 1}


# Rules that flag many.


def flagging(id_: str, owner: str, *rules: str) -> ActionRecord:
    return structs.replace(record(id_), rules=rules, counted_as=owner)


def test_a_rule_that_flags_many_owners_gets_no_place(api: ApiServer, opened: Open) -> None:
    budgets = [opened(per_cluster=20, cluster_owners=3) for _ in range(3)]
    for number, budget in enumerate(budgets):
        budget.refresh()
        budget.flag({"bad": [f"owner-{number}"], "good": ["owner-0"]})
    assert len(places(api, FLAGGED)) == 4
    assert "owner" not in str(places(api, FLAGGED)), "hashes are enough to count"
    budgets[0].refresh()
    assert budgets[0].flagged(["bad", "good", "other"]) == {"bad": 3, "good": 1}
    assert not budgets[0].reserve(flagging("a", "owner-0", "bad", "good"), NOW)
    assert budgets[0].reserve(flagging("b", "owner-0", "good"), NOW)
    assert len(places(api)) == 1


def test_owners_are_counted_at_the_reservation_too(opened: Open) -> None:
    budget = opened(per_cluster=20, cluster_owners=3)
    answers = [budget.reserve(flagging(str(n), f"owner-{n}", "bad"), NOW) for n in range(5)]
    assert answers == [True, True, False, False, False]
    one_owner = opened(per_cluster=20, cluster_owners=3)
    assert all(one_owner.reserve(flagging(f"x{n}", "eve", "other"), NOW) for n in range(5))


def test_flags_are_written_once_and_renewed_and_forgotten(api: ApiServer, opened: Open) -> None:
    budget = opened(cluster_owners=3)
    budget.flag({"bad": ["eve"]})
    assert leases(api) == [], "nothing is written before the Lease was read"

    def flag() -> int:
        budget.refresh()
        before = len(api.requests)
        budget.flag({"bad": ["eve"]})
        return len(api.requests) - before

    assert flag() > 0
    assert flag() == 0
    api.clock_ahead_s += FLAGGED_S / 2 + 1
    assert flag() > 0
    api.clock_ahead_s += FLAGGED_S + 1
    budget.refresh()
    assert budget.flagged(["bad"]) == {}


def test_of_a_rule_that_flags_too_many_no_more_is_written(api: ApiServer, opened: Open) -> None:
    budget = opened(cluster_owners=3)
    budget.refresh()
    budget.flag({"bad": [f"owner-{number}" for number in range(3)]})
    before = len(api.requests)
    budget.flag({"bad": [f"other-{number}" for number in range(50)]})
    assert len(api.requests) == before
    assert len(places(api, FLAGGED)) == 3


def test_flags_that_are_damaged_permit_nothing(api: ApiServer, opened: Open) -> None:
    budget = opened()
    budget.refresh()
    budget.flag({"bad": ["eve"]})
    (lease,) = leases(api)
    lease["metadata"]["annotations"][FLAGGED] = "[[1]]"
    api.put(lease, LEASES[1], LEASES[0])
    assert not budget.reserve(record("a"), NOW)
    assert budget.failures == {"garbage": 1}


def test_flags_that_cannot_be_written_are_not_tried_at_each_tick(
    api: ApiServer, opened: Open
) -> None:
    budget = opened()
    budget.refresh()
    api.misbehave(Answering(403), when=lambda asked: asked.method in ("PUT", "POST"))
    budget.flag({"bad": ["eve"]})
    before = len(api.requests)
    budget.flag({"bad": ["eve"]})
    assert len(api.requests) == before


# Many agents.


def test_many_threads_never_take_one_too_many(api: ApiServer, kubeconfig: Path) -> None:
    agents, tries, limit = 8, 6, 10
    clusters = [from_kubeconfig(kubeconfig) for _ in range(agents)]
    limits = make_limits(per_node=4, per_cluster=limit)
    barrier = threading.Barrier(agents)

    def agent(number: int) -> int:
        budget = LeaseBudget(clusters[number], NAMESPACE, limits, pace=PATIENT)
        barrier.wait()
        return sum(
            budget.reserve(record(f"{number}/{n}", f"node-{number}"), NOW) for n in range(tries)
        )

    with ThreadPoolExecutor(agents) as pool:
        taken = list(pool.map(agent, range(agents)))
    for cluster in clusters:
        cluster.close()
    assert sum(taken) == limit == len(places(api))
    assert max(taken) <= 4
    conflicts = [asked for asked in api.requests if asked.method in ("PUT", "POST")]
    assert len(conflicts) > limit, "nobody was ever in another's way: nothing has been shown"


_PROCESS = """
import random, sys
from minerwatch.culling.lease_budget import LeaseBudget
from minerwatch.kube.client import from_kubeconfig
from tests.builders import make_limits
from tests.culling.test_lease_budget import NAMESPACE, NOW, PATIENT, record

cluster = from_kubeconfig(sys.argv[1])
budget = LeaseBudget(cluster, NAMESPACE, make_limits(per_node=1000, per_cluster=int(sys.argv[3])),
                     pace=PATIENT)
print("ready", flush=True)
sys.stdin.readline()
for number in range(8):
    if budget.reserve(record(f"{sys.argv[2]}/{number}", sys.argv[2]), NOW):
        print("taken", flush=True)
"""


def test_many_processes_with_faults_never_take_one_too_many(
    api: ApiServer, kubeconfig: Path
) -> None:
    """Some answers are lost, some requests refused, and one of the processes is killed."""
    limit = 12
    agents = [
        subprocess.Popen(
            [sys.executable, "-c", _PROCESS, str(kubeconfig), f"node-{number}", str(limit)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
        )
        for number in range(4)
    ]  # fmt: skip
    lines: list[list[str]] = [[] for _ in agents]

    def follow(number: int) -> None:
        out = agents[number].stdout
        assert out
        lines[number].extend(line.strip() for line in out)

    followers = [threading.Thread(target=follow, args=(n,)) for n in range(len(agents))]
    for follower in followers:
        follower.start()
    while not all(lines):
        time.sleep(0.01)
    for how in (LosingTheAnswer(), Answering(409), Answering(500), Answering(429), Dropping()):
        api.misbehave(how, times=3, when=lambda asked: asked.method in ("PUT", "POST"))
    for agent in agents:
        assert agent.stdin
        agent.stdin.write("\n")
        agent.stdin.close()
    while "taken" not in lines[0] and agents[0].poll() is None:
        time.sleep(0.001)
    agents[0].kill()
    for agent, follower in zip(agents, followers, strict=True):
        agent.wait(60)
        follower.join()
        assert agent.stdout
        agent.stdout.close()
    taken = sum(line == "taken" for each in lines for line in each)
    held = places(api)
    assert len(held) == limit == len({id_ for id_, _, _ in held})
    # the one that was killed may have taken a place without being able to say so
    assert limit - 1 <= taken <= limit
