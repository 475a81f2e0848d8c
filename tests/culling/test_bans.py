"""Bans: proof, claims, addresses that others use, budget, compare-and-swap, expiry, release."""

from __future__ import annotations

import json
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from minerwatch.api.orders import BanOrder, LiftOrder, SeenName, SeenOrder
from minerwatch.api.types import BanAnswer, BanStatus
from minerwatch.config.hub import Bans
from minerwatch.config.values import DRY_RUN
from minerwatch.culling.ban_patterns import banned_specs
from minerwatch.culling.ban_store import BANS, NOTICES, BanStore
from minerwatch.culling.banning import ban_status
from minerwatch.culling.bans import (
    DAY_S,
    NOTICE_S,
    Ban,
    HubBans,
    Notice,
    budget_objection,
    candidates,
    network,
)
from minerwatch.culling.compare_and_swap import SwapPace
from minerwatch.culling.sightings import MIN_AGE_S, Sightings
from minerwatch.kube.attributions import HUB_USER, HubServer
from minerwatch.kube.client import ApiError, Cluster
from minerwatch.model import Action, Attribution, BanKind, Level, Observation, OwnerKind
from minerwatch.view.ban_text import (
    FORMATS,
    ban_text,
    binderhub,
    ipset,
    jupyterhub,
    list_text,
    network_policy,
    plain,
)
from tests.culling.harness import (
    SECRET,
    FakeWatch,
    Harness,
    Open,
    last,
    lines,
    put_pod,
    remembers,
    settings,
    target,
)
from tests.culling.jupyterhub import HOW
from tests.culling.test_lease_budget import record as a_record
from tests.kube.api_server import Answering, ApiServer
from tests.waiting import until

STORE = "binder/minerwatch-bans"
QUICK = SwapPace(tries=200, first_delay_s=0.001, longest_delay_s=0.02)
NOW_S = 1_796_000_000
REPOSITORY = "https://github.com/mallory/mine"
HUBS = Path(__file__).parents[2] / "deploy" / "hub"


def a_ban(name: str = "ada", kind: BanKind = BanKind.USER, **changes: Any) -> Ban:
    plain = {
        "kind": kind,
        "name": name,
        "values": {"blocked_users": name},
        "reason": "it mines",
        "evidence": "e1",
        "node": "n1",
        "by": "eve",
        "at_unix_s": NOW_S,
        "until_unix_s": NOW_S + 7 * 86400,
    }
    return Ban(**{**plain, **changes})


def stored(api: ApiServer) -> list[dict[str, Any]]:
    found = api.items("configmaps")
    return json.loads(found[0]["data"][BANS]) if found else []


# Names and addresses.


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("8.8.8.8", "8.8.8.8/32"),
        (" 2a00:1450:4001:80b::200e ", "2a00:1450:4001:80b::/64"),
        ("::ffff:8.8.8.8", "8.8.8.8/32"),
    ],
)
def test_an_address_is_banned_no_wider_than_it_must_be(address: str, expected: str) -> None:
    assert str(network(address)) == expected


@pytest.mark.parametrize(
    "address",
    ["10.0.0.1", "127.0.0.1", "::1", "fe80::1", "0.0.0.0", "224.0.0.1", "8.8.8.0/24", "x", "",
     "64:ff9b::808:808", "64:ff9b:1::808:808", "::8.8.8.8", "::ffff:0:808:808"],
)  # fmt: skip
def test_no_private_address_and_no_network_is_banned(address: str) -> None:
    """A /64 of a translator (RFC 6052) is all of IPv4."""
    assert network(address) is None


@given(st.ip_addresses().map(str))
def test_never_wider_than_32_or_64(address: str) -> None:
    found = network(address)
    assert found is None or found.prefixlen == (32 if found.version == 4 else 64)


def reasons(
    kind: OwnerKind, name: str, seen: int | None, *, by_hand: bool = True, is_claim: bool = False
) -> list[str]:
    owners = [Attribution(kind, name, "somewhere", is_claim)]
    found = candidates(owners, {owners[0]: seen}, list(BanKind), by_hand=by_hand)
    return [reason for each in found for reason in each.objections]


def test_an_address_that_others_use_is_never_banned() -> None:
    assert reasons(OwnerKind.CLIENT, "8.8.8.8", 0) == []
    (why,) = reasons(OwnerKind.CLIENT, "8.8.8.8", 2)
    assert why == "2 others used it in the last seven days and were not flagged"
    (why,) = reasons(OwnerKind.CLIENT, "8.8.8.8", None)
    assert "not known on every node" in why


def test_a_repository_of_others_is_banned_by_hand_only() -> None:
    assert reasons(OwnerKind.REPOSITORY, REPOSITORY, 5) == []
    for others in (0, 5, None):
        found = reasons(OwnerKind.REPOSITORY, REPOSITORY, others, by_hand=False)
        assert "it is only banned by hand (minerwatch ban)" in found
    assert reasons(OwnerKind.REPOSITORY, "not an address", 0) != []


@pytest.mark.parametrize("kind", ["repository", "address"])
def test_only_users_are_banned_automatically(kind: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=f"{kind} is only banned by hand"):
        msgspec.convert({"kinds": ["user", kind]}, Bans)


def test_a_name_that_a_tenant_may_have_chosen_is_not_banned() -> None:
    for kind, name in ((OwnerKind.USER, "victim"), (OwnerKind.REPOSITORY, REPOSITORY)):
        (why,) = reasons(kind, name, 0, is_claim=True)
        assert why.startswith("a tenant may have chosen it (somewhere)")
    assert reasons(OwnerKind.USER, "x\x1b[2J", 0) != []


def test_the_budget_counts_new_bans_of_a_day() -> None:
    old = a_ban("old", at_unix_s=NOW_S - 2 * round(DAY_S))
    records = HubBans((old, *(a_ban(f"u{n}") for n in range(9))))
    assert budget_objection(records, [a_ban("new")], Bans(), NOW_S) == ""
    assert budget_objection(records, [a_ban("u1"), a_ban("u2")], Bans(), NOW_S) == ""
    assert "10 are allowed" in budget_objection(
        records, [a_ban("new"), a_ban("newer")], Bans(), NOW_S
    )


def test_bans_that_have_expired_count_for_the_day(api: ApiServer, opened: Open, log: Path) -> None:
    harness = opened(settings(log, Action.LABEL, bans=bans(per_day=2)), profile="binderhub")
    observation, store = session(api, harness), harness.culler.banning.store
    now_s = int(time.time())
    expired = a_ban(at_unix_s=now_s - 7200, until_unix_s=now_s - 3600)
    assert store is not None
    store.update(lambda records: records.with_bans([expired]))
    assert ordered(harness, observation, kinds=(BanKind.USER,)).trouble == ""
    again = ordered(harness, observation, kinds=(BanKind.REPOSITORY,))
    assert "2 are allowed (per_day)" in again.trouble
    assert [each.name for each in harness.culler.call(harness.culler.banning.listed)] == ["m-4f2k"]


def test_bans_and_notices_expire_by_the_clock() -> None:
    records = HubBans((a_ban("a"), a_ban("b", until_unix_s=NOW_S + 5)), ()).with_notice(
        Notice("a", "", NOW_S, "text")
    )
    assert [each.name for each in records.current(NOW_S + 4).bans] == ["a", "b"]
    assert [each.name for each in records.current(NOW_S + 5).bans] == ["a"]
    assert records.current(NOW_S + NOTICE_S + 1).notices == ()


def test_of_two_bans_of_a_name_the_one_that_ends_later_stays() -> None:
    long = a_ban(until_unix_s=NOW_S + 300, by="eve")
    short = a_ban(until_unix_s=NOW_S + 200, by="minerwatch")
    assert HubBans((long,)).with_bans([short]).bans == (long,)
    assert HubBans((short,)).with_bans([long]).bans == (long,)


# The ConfigMap.


@pytest.fixture
def store(cluster: Cluster) -> BanStore:
    return BanStore(cluster, lambda: STORE, QUICK)


def test_concurrent_clients_lose_no_ban_and_exceed_no_budget(
    api: ApiServer, cluster: Cluster
) -> None:
    limit = Bans(config_map=STORE, per_day=20)

    def add(number: int) -> bool:
        def change(records: HubBans) -> HubBans:
            ban = a_ban(f"u{number}")
            if budget_objection(records, [ban], limit, NOW_S):
                return records
            return records.with_bans([ban])

        after = BanStore(cluster, lambda: STORE, QUICK).update(change)
        return any(each.name == f"u{number}" for each in after.bans)

    with ThreadPoolExecutor(8) as threads:
        added = [*threads.map(add, range(40))]
    assert sum(added) == 20
    assert len({each["name"] for each in stored(api)}) == 20


def test_other_keys_and_labels_are_kept(api: ApiServer, store: BanStore) -> None:
    mine = {"namespace": "binder", "name": "minerwatch-bans", "labels": {"a": "b"}}
    api.put({"kind": "ConfigMap", "metadata": mine, "data": {"own": "x"}}, resource="configmaps")
    store.update(lambda records: records.with_bans([a_ban()]))
    (found,) = api.items("configmaps")
    assert (found["data"]["own"], found["metadata"]["labels"]) == ("x", {"a": "b"})
    assert store.read().bans == (a_ban(),)


@pytest.mark.parametrize("text", ["{", "[1]", '[{"kind": "host"}]', "null"])
def test_what_cannot_be_read_is_not_overwritten(api: ApiServer, store: BanStore, text: str) -> None:
    mine = {"namespace": "binder", "name": "minerwatch-bans"}
    api.put({"kind": "ConfigMap", "metadata": mine, "data": {BANS: text}}, resource="configmaps")
    with pytest.raises(ApiError, match="its bans cannot be read: mend or delete it"):
        store.update(lambda records: records.with_bans([a_ban()]))
    assert api.items("configmaps")[0]["data"] == {BANS: text}


@pytest.mark.parametrize("retry_after_s", [None, 3600.0])
def test_a_change_that_is_put_off_is_given_up_in_time(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, retry_after_s: float | None
) -> None:
    pace = SwapPace(tries=10_000, first_delay_s=0.05, longest_delay_s=0.05, give_up_s=0.3)
    store = BanStore(cluster, lambda: STORE, pace)

    def put_off(*_: object, **__: object) -> None:
        raise ApiError("throttled", "later", status=429, retry_after_s=retry_after_s)

    monkeypatch.setattr(cluster, "open", put_off)
    started_s = time.monotonic()
    with pytest.raises(ApiError, match="later"):
        store.update(lambda records: records.with_bans([a_ban()]))
    assert time.monotonic() - started_s < 5


def test_a_full_map_says_so(store: BanStore) -> None:
    many = [a_ban(f"{n}" + "x" * 500, values={"a": "y" * 3000}) for n in range(400)]
    with pytest.raises(ApiError, match="it is full"):
        store.update(lambda records: records.with_bans(many))


def test_binary_data_is_kept(api: ApiServer, store: BanStore) -> None:
    mine = {"namespace": "binder", "name": "minerwatch-bans"}
    map_ = {"kind": "ConfigMap", "metadata": mine, "binaryData": {"logo.png": "AAAA"}}
    api.put(map_, resource="configmaps")
    store.update(lambda records: records.with_bans([a_ban()]))
    assert api.items("configmaps")[0]["binaryData"] == {"logo.png": "AAAA"}


# Of an agent.


def bans(**changes: Any) -> Bans:
    return Bans(config_map=STORE, **changes)


def session(
    api: ApiServer, harness: Harness, *, level: Level = Level.CONFIRMED, namespace: str = "binder",
    repository: str = REPOSITORY, launch_host: str = "https://mybinder.org/",
) -> Observation:  # fmt: skip
    """A BinderHub session that mines."""
    pod = put_pod(api, "jupyter-m", "uid-1", namespace, annotations={HUB_USER: "m-4f2k"})
    pod["spec"]["containers"][0]["env"] = [
        {"name": "BINDER_REPO_URL", "value": repository},
        {"name": "BINDER_LAUNCH_HOST", "value": launch_host},
        {"name": "BINDER_CLIENT_IP", "value": "8.8.8.8"},
    ]
    api.put(pod)
    observation = harness.watch.add("/kubepods/poduid-1/c", "uid-1", level=level)
    until(lambda: (found := harness.node.identity(observation.container)) and len(found.owners) > 2)
    harness.has_watched(harness.watch.observations(0))
    return observation


def ordered(harness: Harness, observation: Observation, **changes: Any) -> BanAnswer:
    fields = msgspec.structs.asdict(target(observation))
    options: dict[str, Any] = {
        "kinds": (BanKind.USER, BanKind.REPOSITORY),
        "by": "eve",
        "dry_run": False,
        **changes,
    }
    order = BanOrder(**fields, **options)
    answer = harness.culler.call(lambda: harness.culler.orders.ban(order))
    assert isinstance(answer, BanAnswer)
    return answer


def test_a_ban_by_hand_is_kept_with_reason_evidence_and_end(
    api: ApiServer, opened: Open, log: Path
) -> None:
    harness = opened(settings(log, bans=bans()), profile="binderhub")
    observation = session(api, harness)
    assert all(not each.objections for each in ordered(harness, observation, dry_run=True).bans)
    assert stored(api) == []
    answer = ordered(harness, observation, duration_s=3600.0)
    assert (answer.reasons, answer.trouble, len(answer.bans)) == ((), "", 2)
    user, repository = stored(api)
    assert user["values"] == {"blocked_users": "m-4f2k"}
    assert repository["values"]["GitHubRepoProvider.banned_specs"].startswith("^")
    assert (user["by"], user["node"], user["pod"]) == ("eve", "worker-1", "jupyter-m")
    assert user["until_unix_s"] - user["at_unix_s"] == 3600
    assert "Title of identity" in user["reason"]
    (line,) = [line for line in lines(log) if line.kind == "ban"]
    assert user["evidence"] in msgspec.json.encode(line.bans).decode()
    assert b"findings" in bytes(line.evidence)


def test_a_dry_run_of_the_agent_bans_nobody(api: ApiServer, opened: Open, log: Path) -> None:
    harness = opened(settings(log, bans=bans(after_cull=True), mode=DRY_RUN), profile="binderhub")
    observation = session(api, harness)
    assert ordered(harness, observation).dry_run
    harness.tick()
    assert stored(api) == []


def test_one_sign_that_can_be_planted_bans_nobody(api: ApiServer, opened: Open, log: Path) -> None:
    harness = opened(settings(log, bans=bans(after_cull=True)), profile="binderhub")
    observation = session(api, harness, level=Level.LIKELY)
    answer = ordered(harness, observation)
    assert any("not confirmed" in reason for reason in answer.reasons)
    harness.tick()
    assert stored(api) == []


def test_forged_names_ban_nobody(api: ApiServer, opened: Open, log: Path) -> None:
    culling = settings(log, bans=bans(after_cull=True), namespaces=("mallory",))
    harness = opened(culling, profile="binderhub")
    observation = session(api, harness, namespace="mallory")
    answer = ordered(harness, observation)
    assert answer.reasons == ()
    assert all("a tenant may have chosen it" in each.objections[0] for each in answer.bans)
    harness.tick()
    assert last(log).owner_claimed
    assert stored(api) == []


def test_names_of_a_tenants_own_pod_ban_nobody(api: ApiServer, opened: Open, log: Path) -> None:
    culling = settings(log, bans=bans(after_cull=True), tenant_namespaces=("bind*",))
    harness = opened(culling, profile="binderhub")
    answer = ordered(harness, session(api, harness))
    assert len(answer.bans) == 2
    assert all("a tenant may have chosen it" in each.objections[0] for each in answer.bans)
    harness.tick()
    assert stored(api) == []


def test_after_a_cull_the_user_is_banned_if_switched_on(
    api: ApiServer, opened: Open, log: Path
) -> None:
    harness = opened(settings(log, bans=bans(after_cull=True)), profile="binderhub")
    session(api, harness)
    harness.tick()
    (found,) = stored(api)
    record = lines(log)[-1].record or lines(log)[-2].record
    assert record is not None
    assert (found["name"], found["by"], found["evidence"]) == ("m-4f2k", "minerwatch", record.id)
    assert not record.owner_claimed
    assert harness.errors == []


def test_a_ban_over_the_budget_does_not_keep_the_notice_away(
    api: ApiServer, opened: Open, log: Path
) -> None:
    """``follow_up`` does both, and one does not depend on the other."""
    harness = opened(settings(log, bans=bans(after_cull=True, per_day=1)), profile="binderhub")
    observation = session(api, harness)
    banning, cases = harness.culler.banning, harness.culler.cases
    assert banning.store is not None
    banning.store.update(lambda records: records.with_bans([a_ban(at_unix_s=int(time.time()))]))
    case = cases.case(next(each for each in harness.watch.observations(0)))
    decision = replace(
        harness.culler.history.decide(case), action=Action.STOP_SERVER, server=HubServer("m", "")
    )
    record = a_record("id")
    harness.culler.call(lambda: banning.follow_up(case, decision, record))
    (found,) = api.items("configmaps")
    assert [each["user"] for each in json.loads(found["data"][NOTICES])] == ["m"]
    assert [each["name"] for each in stored(api)] == ["ada"]
    assert len(harness.errors) == 1
    assert "per_day" in harness.errors[0]
    assert observation.container.pod_uid == "uid-1"


def test_a_ban_that_could_not_be_kept_is_recorded_as_such(
    api: ApiServer, opened: Open, log: Path
) -> None:
    harness = opened(settings(log, Action.LABEL, bans=bans(per_day=1)), profile="binderhub")
    observation = session(api, harness)
    assert ordered(harness, observation).trouble != ""
    kinds = [line.kind for line in lines(log) if line.bans]
    assert kinds == ["ban", "ban-failed"]


def test_an_escaped_name_in_a_label_bans_nobody(api: ApiServer, opened: Open, log: Path) -> None:
    """The label of ``a.b`` is ``a-2eb``, which another user may be called."""
    harness = opened(settings(log, bans=bans(after_cull=True)))
    put_pod(api, "jupyter-a-2eb", "uid-1", labels={HUB_USER: "a-2eb"})
    observation = harness.watch.add("/kubepods/poduid-1/c", "uid-1")
    until(lambda: (found := harness.node.identity(observation.container)) and found.owners)
    (user,) = ordered(harness, observation).bans
    assert "a label has an escaped form of the name" in user.objections
    harness.tick()
    assert stored(api) == []


def test_credentials_in_a_repositorys_address_are_kept_nowhere(
    api: ApiServer, opened: Open, log: Path
) -> None:
    harness = opened(settings(log, bans=bans(after_cull=True)), profile="binderhub")
    observation = session(api, harness, repository=f"https://ada:{SECRET}@git.example.org/a/b.git")
    ordered(harness, observation)
    harness.tick()
    assert [each["name"] for each in stored(api)][1:] == ["https://git.example.org/a/b"]
    assert SECRET not in json.dumps(api.items("configmaps"))
    assert SECRET not in log.read_text()
    assert SECRET not in str(harness.said.lines)


def test_a_secret_in_a_name_is_in_no_log(api: ApiServer, opened: Open, log: Path) -> None:
    harness = opened(settings(log, bans=bans(after_cull=True)), profile="binderhub")
    url = f"https://git.example.org/a/b/private_token={SECRET}"
    observation = session(api, harness, repository=url)
    ordered(harness, observation)
    harness.tick()
    said = [event for event, fields in harness.said.lines if "private_token" in str(fields)]
    assert {*said} == {"ban", "decision", "action"}
    assert SECRET not in str(harness.said.lines)


def test_no_other_name_passes_for_an_address_without_users(
    api: ApiServer, opened: Open, log: Path
) -> None:
    sightings = {"since_unix_s": 0, "last_unix_s": time.time()}
    remembers(log).with_name("sightings.json").write_text(json.dumps(sightings))
    harness = opened(settings(log, Action.LABEL, bans=bans()), profile="binderhub")
    observation = session(api, harness, launch_host="8.8.8.8")
    good = [("good", (Attribution(OwnerKind.CLIENT, "8.8.8.8", "x"),))]
    seen, now_s = harness.culler.banning.sightings, time.time()
    for ago_s in range(round(MIN_AGE_S) + 61, 0, -61):
        seen.update(good, frozenset(), now_s - ago_s)
    kinds, there = (BanKind.ADDRESS,), {"8.8.8.8": 0}
    (each,) = ordered(harness, observation, kinds=kinds, unflagged=there).bans
    assert each.objections == ("1 others used it in the last seven days and were not flagged",)
    assert stored(api) == []


def test_a_node_whose_clock_is_wrong_forgets_no_ban(
    api: ApiServer, opened: Open, log: Path
) -> None:
    """Without the API server's time nothing is known to have expired."""
    harness = opened(
        settings(log, Action.LABEL, bans=bans()),
        FakeWatch(ahead_s=3650 * DAY_S),
        profile="binderhub",
    )
    observation, store = session(api, harness), harness.culler.banning.store
    assert store is not None
    store.update(lambda records: records.with_bans([a_ban()]))
    api.misbehave(Answering(403), times=999, when=lambda asked: "leases" in asked.path)
    assert any("budget is unknown" in each for each in ordered(harness, observation).reasons)
    api.behave()
    assert ordered(harness, observation, kinds=(BanKind.USER,)).trouble == ""
    assert [each["name"] for each in stored(api)] == ["ada", "m-4f2k"]
    assert stored(api)[1]["until_unix_s"] < time.time() + 8 * DAY_S


def test_a_label_bans_nobody(api: ApiServer, opened: Open, log: Path) -> None:
    harness = opened(settings(log, Action.LABEL, bans=bans(after_cull=True)), profile="binderhub")
    session(api, harness)
    harness.tick()
    assert stored(api) == []


def test_release_lifts_the_bans(api: ApiServer, opened: Open, log: Path) -> None:
    harness = opened(settings(log, Action.LABEL, bans=bans()), profile="binderhub")
    observation = session(api, harness)
    ordered(harness, observation)
    assert len(stored(api)) == 2
    assert harness.release(target(observation)).bans_lifted == 2
    assert stored(api) == []
    assert ordered(harness, observation).reasons == ("An operator has released it.",)


def test_release_withdraws_the_notice(api: ApiServer, opened: Open, log: Path) -> None:
    harness = opened(settings(log, Action.LABEL, bans=bans()), profile="binderhub")
    observation = session(api, harness)
    banning, cases = harness.culler.banning, harness.culler.cases
    case, store = cases.case(observation), banning.store
    decided = harness.culler.history.decide(case)
    decision = replace(decided, action=Action.STOP_SERVER, server=HubServer("m", ""))
    assert store is not None
    harness.culler.call(lambda: banning.follow_up(case, decision, a_record("id")))
    other = Notice("ada", "", int(time.time()), "text", "uid-9")
    store.update(lambda records: records.with_notice(other))
    assert [each.user for each in store.read().notices] == ["m", "ada"]
    assert harness.release(target(observation)).bans_lifted == 0
    assert store.read().notices == (other,)


def test_a_name_is_lifted_without_its_pod(api: ApiServer, opened: Open, log: Path) -> None:
    harness = opened(settings(log, Action.LABEL, bans=bans()), profile="binderhub")
    ordered(harness, session(api, harness))
    banning = harness.culler.banning
    answer = harness.culler.call(lambda: banning.lift(LiftOrder("m-4f2k", "eve")))
    assert [each.name for each in answer.lifted] == ["m-4f2k"]
    assert [each["name"] for each in stored(api)] == [REPOSITORY]
    assert [each.name for each in harness.culler.call(banning.listed)] == [REPOSITORY]


def test_the_days_budget_holds(api: ApiServer, opened: Open, log: Path) -> None:
    harness = opened(settings(log, Action.LABEL, bans=bans(per_day=1)), profile="binderhub")
    observation = session(api, harness)
    assert "1 are allowed (per_day)" in ordered(harness, observation).trouble
    assert ordered(harness, observation, kinds=(BanKind.USER,)).trouble == ""
    assert len(stored(api)) == 1


def test_an_address_needs_seven_days_of_every_node(api: ApiServer, opened: Open, log: Path) -> None:
    harness = opened(settings(log, Action.LABEL, bans=bans()), profile="binderhub")
    observation = session(api, harness)
    kinds = (BanKind.ADDRESS,)
    for there in ({}, {"8.8.8.8": 0}, {"8.8.8.8": None}, {"8.8.8.8": 3}):
        (each,) = ordered(harness, observation, kinds=kinds, unflagged=there).bans
        assert each.objections != ()
    assert stored(api) == []


# Who else was there.


def seen(path: Path, *, is_known: bool = True) -> Sightings:
    """Sightings that reach back for long, or what the folder has."""
    if is_known:
        (path / "sightings.json").write_text(f'{{"since_unix_s": 0, "last_unix_s": {NOW_S}}}')
    found = Sightings(path / "sightings.json")
    found.update((), frozenset(), NOW_S)
    return found


CLIENT = Attribution(OwnerKind.CLIENT, "2a00:1450::1", "x")
NEIGHBOUR = Attribution(OwnerKind.CLIENT, "2a00:1450::2", "x")


def test_others_on_the_same_network_are_counted_once_they_stayed(tmp_path: Path) -> None:
    sightings = seen(tmp_path)
    for at_s in range(0, int(MIN_AGE_S) + 61, 61):
        pods = [("bad", (CLIENT,)), ("good", (NEIGHBOUR,)), ("also-bad", (CLIENT,))]
        sightings.update(pods, frozenset({"bad", "also-bad"}), NOW_S + at_s + 61)
    now_s = NOW_S + MIN_AGE_S + 200
    assert sightings.unflagged(CLIENT, "bad", now_s) == 1
    assert sightings.unflagged(CLIENT, "good", now_s) == 0
    assert sightings.unflagged(CLIENT, "bad", now_s + 8 * DAY_S) == 0
    again = seen(tmp_path, is_known=False)
    assert again.unflagged(CLIENT, "bad", now_s) is not None, "the file was read"


@pytest.mark.parametrize(
    "spelling",
    ["https://github.com/MALLORY/Mine", "http://www.github.com:80/mallory/mine.git/", REPOSITORY],
)
def test_users_of_a_repository_are_counted_however_it_is_spelt(
    tmp_path: Path, spelling: str
) -> None:
    sightings = seen(tmp_path)
    good = Attribution(OwnerKind.REPOSITORY, REPOSITORY, "x")
    for at_s in range(0, int(MIN_AGE_S) + 61, 61):
        sightings.update([("good", (good,))], frozenset(), NOW_S + at_s + 61)
    bad = Attribution(OwnerKind.REPOSITORY, spelling, "x")
    assert sightings.unflagged(bad, "bad", NOW_S + 8 * DAY_S) == 0
    assert sightings.unflagged(bad, "bad", NOW_S + 7 * DAY_S + 61) == 1


def test_a_name_that_is_only_claimed_has_no_users(tmp_path: Path) -> None:
    sightings = seen(tmp_path)
    claimed = replace(CLIENT, is_claim=True)
    for at_s in range(0, int(MIN_AGE_S) + 61, 61):
        sightings.update([("forged", (claimed,))], frozenset(), NOW_S + at_s + 61)
    assert sightings.unflagged(CLIENT, "bad", NOW_S + MIN_AGE_S + 200) == 0


def test_a_history_that_is_too_short_says_nothing(tmp_path: Path) -> None:
    sightings = seen(tmp_path, is_known=False)
    assert sightings.unflagged(CLIENT, "", NOW_S + 6 * DAY_S) is None
    assert sightings.unflagged(CLIENT, "", NOW_S + 8 * DAY_S) == 0


def test_a_gap_makes_it_short_again(tmp_path: Path) -> None:
    sightings = seen(tmp_path)
    sightings.update((), frozenset(), NOW_S + 8 * DAY_S)
    assert sightings.unflagged(CLIENT, "", NOW_S + 8 * DAY_S + 60) is None


def test_a_node_that_was_rebooted_after_a_gap_knows_nothing(tmp_path: Path) -> None:
    """Its uptime says nothing of the pods before the boot, nor of a lost file."""
    (tmp_path / "sightings.json").write_text('{"since_unix_s": 0, "last_unix_s": 1}')
    assert seen(tmp_path, is_known=False).unflagged(CLIENT, "", NOW_S + 60) is None


def test_too_many_names_make_it_unknown(tmp_path: Path) -> None:
    sightings = seen(tmp_path)
    pods = [
        (str(n), (Attribution(OwnerKind.REPOSITORY, f"https://x.org/{n}", "x"),))
        for n in range(6000)
    ]
    sightings.update(pods, frozenset(), NOW_S + 100)
    assert sightings.unflagged(CLIENT, "", NOW_S + 200) is None


def test_a_damaged_file_is_a_new_history(tmp_path: Path) -> None:
    (tmp_path / "sightings.json").write_bytes(b"\xff{")
    assert seen(tmp_path, is_known=False).unflagged(CLIENT, "", NOW_S + 60) is None


def test_an_agent_answers_what_it_has_seen(api: ApiServer, opened: Open, log: Path) -> None:
    harness = opened(settings(log, Action.LABEL, bans=bans()), profile="binderhub")
    session(api, harness)
    order = SeenOrder((SeenName(OwnerKind.CLIENT, "8.8.8.8"),), "uid-1")
    answer = harness.culler.call(lambda: harness.culler.banning.seen(order))
    assert answer.unflagged == {"8.8.8.8": None}


# Configuration of others.

HOSTILE = 'x"); import os; ("'
SHOWN = tuple(
    ban_status(each)
    for each in (
        a_ban(HOSTILE, values={"blocked_users": HOSTILE}),
        a_ban("ada"),
        a_ban(
            REPOSITORY,
            BanKind.REPOSITORY,
            values=banned_specs(REPOSITORY),
        ),
        a_ban("8.8.8.8", BanKind.ADDRESS, values={"ban_networks": "8.8.8.8/32"}),
        a_ban("2a00::1", BanKind.ADDRESS, values={"ban_networks": "2a00::/64"}),
    )
)


def test_formats_of_the_network() -> None:
    policy = yaml.safe_load(network_policy(SHOWN))
    assert policy["spec"]["ingress"] == [
        {
            "from": [
                {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["8.8.8.8/32"]}},
                {"ipBlock": {"cidr": "::/0", "except": ["2a00::/64"]}},
            ]
        }
    ]
    assert "add minerwatch-inet 8.8.8.8/32 -exist" in ipset(SHOWN)
    assert "add minerwatch-inet6 2a00::/64 -exist" in ipset(SHOWN)
    assert plain(SHOWN).splitlines()[1] == "user ada"
    for form in FORMATS.values():
        assert isinstance(form(()), str)


def test_an_agent_that_lies_writes_no_code_and_bans_no_network() -> None:
    """Of all agents the first that answers is believed, and its node may be a tenant's."""
    code = "a.extend([]); exec('x'); c.b.banned_specs"
    lies = [
        replace_status(values={code: "^x", "GitHubRepoProvider.banned_specs": "^a"}),
        replace_status(values={"ban_networks": "0.0.0.0/0"}),
        replace_status(values={"ban_networks": "x"}),
        replace_status(kind="a\nuser ada", until="\x1b[2J", values={"\x1b[2J": "x"}),
    ]
    (line,) = binderhub(lies).splitlines()[1:]
    assert line == "c.GitHubRepoProvider.banned_specs.extend(['^a'])"
    assert "except" not in network_policy(lies)
    assert "add" not in ipset(lies)
    assert len(plain(lies).splitlines()) == len(lies)
    answer = BanAnswer("n", "ns", "p", False, (), tuple(lies))
    assert "\x1b" not in list_text(lies) + ban_text(answer)


def replace_status(**changes: Any) -> BanStatus:
    return structs.replace(SHOWN[1], **changes)


_OBJECTS = """
import json, re, sys
from traitlets import Dict, List, Set, Unicode
from traitlets.config import Config, Configurable, PyFileConfigLoader
class RepoProvider(Configurable):
    banned_specs = List(config=True)
    spec = Unicode()
    def is_banned(self):
        return any(re.match(each, self.spec, re.IGNORECASE) for each in self.banned_specs)
class GitHubRepoProvider(RepoProvider):
    pass
class BinderHub(Configurable):
    ban_networks = Dict(config=True)
class Authenticator(Configurable):
    blocked_users = Set(config=True)
config = Config()
for path in sys.argv[1:]:
    config.merge(PyFileConfigLoader(path).load_config())
try:
    from binderhub.repoproviders import GitHubRepoProvider
except Exception as error:
    print("no binderhub:", error, file=sys.stderr)
try:
    from jupyterhub.auth import Authenticator
except Exception as error:
    print("no jupyterhub:", error, file=sys.stderr)
def is_banned(spec):
    return GitHubRepoProvider(config=config, spec=spec).is_banned()
print(json.dumps({
    "banned": [is_banned("Mallory/mine/HEAD"), is_banned("mallory/miner/HEAD")],
    "networks": BinderHub(config=config).ban_networks,
    "users": sorted(Authenticator(config=config).blocked_users),
    "modules": [GitHubRepoProvider.__module__, Authenticator.__module__],
}))
"""


def traits(*files: Path, **environment: str) -> dict[str, Any]:
    """What BinderHub's and JupyterHub's objects make of configuration files."""
    folder = os.environ.get("MINERWATCH_TEST_HUB", "")
    python = Path(folder) / "bin" / "python"
    if not folder or not python.is_file():
        pytest.skip(HOW)
    done = subprocess.run(
        [python, "-c", _OBJECTS, *map(str, files)], env={**os.environ, **environment},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_hubs_objects_take_the_rendered_bans(tmp_path: Path) -> None:
    (tmp_path / "binder.py").write_text(binderhub(SHOWN))
    (tmp_path / "hub.py").write_text(jupyterhub(SHOWN))
    found = traits(tmp_path / "binder.py", tmp_path / "hub.py")
    assert found["banned"] == [True, False]
    assert found["networks"] == {"8.8.8.8/32": "minerwatch e1", "2a00::/64": "minerwatch e1"}
    assert found["users"] == sorted({HOSTILE, "ada"})


def test_the_hubs_objects_take_the_mounted_map_without_what_has_expired(tmp_path: Path) -> None:
    address = a_ban("8.8.8.8", BanKind.ADDRESS, values={"ban_networks": "8.8.8.8/32"})
    address = msgspec.structs.replace(address, until_unix_s=2**40)
    kept = [
        a_ban("ada", until_unix_s=2**40),
        a_ban("gone", until_unix_s=NOW_S - 10**9),
        a_ban(REPOSITORY, BanKind.REPOSITORY, values=banned_specs(REPOSITORY), until_unix_s=2**40),
        address,
        a_ban("odd", values={"Spawner.cmd": "rm"}, until_unix_s=2**40),
    ]  # fmt: skip
    (tmp_path / BANS).write_bytes(msgspec.json.encode(kept))
    files = (HUBS / "minerwatch_binderhub.py", HUBS / "minerwatch_hub.py")
    found = traits(*files, MINERWATCH_BANS=str(tmp_path))
    assert (found["banned"], found["users"]) == ([True, False], ["ada"])
    assert found["networks"] == {"8.8.8.8/32": "banned by minerwatch"}
    odd = [
        {"values": {"blocked_users": ["x"], "ban_networks": "x"}, "until_unix_s": 2**40},
        {"values": {"GitHubRepoProvider.banned_specs": "(", "blocked_users": "a"}},
        {"values": {"GitHubRepoProvider.banned_specs": "("}, "until_unix_s": 2**40},
        {"values": "blocked_users", "until_unix_s": "2099"},
    ]
    for damaged in (b"{", b"null", b'[1, {"values": {}}]', json.dumps(odd).encode()):
        (tmp_path / BANS).write_bytes(damaged)
        found = traits(*files, MINERWATCH_BANS=str(tmp_path))
        assert (found["users"], found["networks"]) == ([], {})
