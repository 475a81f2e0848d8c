from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from minerwatch.api.types import ContainerStatus, OwnerStatus
from minerwatch.untrusted_text.display import printable
from minerwatch.view.campaigns import Kind, Trait, campaign_of, campaigns, traits
from tests.report.samples import (
    HOSTILE_ONE,
    MINER,
    POOL,
    WALLET,
    container,
    containers,
    finding,
    process,
)

OTHER_WALLET = "8" + "B" * 94
ETHEREUM = "0x" + "aB" * 20


def miner(number: int, *, wallet: str = "", pool: str = "", **changes: Any) -> ContainerStatus:
    command = f"./a{f' -u {wallet}' if wallet else ''}{f' -o {pool}' if pool else ''}"
    plain: dict[str, Any] = {
        "pod": f"p-{number}",
        "pod_uid": f"uid-{number}",
        "cgroup": f"/kubepods/uid-{number}",
        "image": "",
        "owner": "",
        "findings": (finding(evidence={"CommandLine": command}),),
        "processes": (),
    }
    return structs.replace(MINER, **{**plain, **changes})


def said(*statuses: ContainerStatus) -> list[str]:
    return [str(campaign) for campaign in campaigns(statuses)]


def test_fifty_pods_of_one_repository_are_one_campaign() -> None:
    pods = [
        miner(number, wallet=WALLET, pool=POOL, owner="https://example.org/repo", image="repo:1")
        for number in range(50)
    ]
    assert said(*pods) == [
        "50 pods of owner https://example.org/repo (one image, one wallet, one pool)"
    ]


def test_pods_of_one_owner_with_many_images() -> None:
    pods = [miner(number, owner="mallory", image=f"i:{number % 3}") for number in range(9)]
    assert said(*pods) == ["9 pods of owner mallory (3 images)"]


def test_owners_that_share_a_wallet_are_one() -> None:
    pods = [miner(number, owner=f"o-{number % 3}", wallet=WALLET) for number in range(6)]
    assert said(*pods) == [f"6 pods that mine for wallet {WALLET[:8]}…{WALLET[-8:]} (3 owners)"]


def test_strangers_at_a_public_pool_are_named_by_it() -> None:
    pods = [miner(number, owner=f"o-{number}", pool=POOL) for number in range(5)]
    assert said(*pods) == ["5 pods that mine at pool pool.example.org (5 owners)"]


def test_an_owner_tells_more_than_a_pool_that_few_others_use() -> None:
    pods = [miner(number, owner="mallory", pool=POOL) for number in range(10)]
    others = [miner(number, owner=f"o-{number}", pool=POOL) for number in range(10, 12)]
    assert said(*pods, *others) == [
        "10 pods of owner mallory (one pool)",
        "2 pods that mine at pool pool.example.org (2 owners)",
    ]


def test_each_container_is_in_one_campaign_the_largest_first() -> None:
    small = [miner(number, owner="small") for number in range(2)]
    large = [miner(number, owner="large") for number in range(2, 7)]
    found = campaigns([*small, *large])
    assert [campaign.trait.value for campaign in found] == ["large", "small"]
    assert campaign_of(small[0], found) == found[1]
    assert campaign_of(miner(99), found) is None


def test_the_target_of_a_scan_is_no_pool() -> None:
    target = finding(signal="network", abuse="scanning", evidence={"DestinationIp": "192.0.2.7"})
    pods = [
        miner(number, owner=f"u{number}", abuse="scanning", findings=(target,),
              processes=(process(command_line=f"nmap -o 192.0.2.7:80 -u {WALLET}"),))
        for number in range(3)
    ]  # fmt: skip
    assert said(*pods) == []
    assert said(*(structs.replace(each, image="i") for each in pods)) == [
        "3 pods of image i (3 owners)"
    ]


def test_one_pod_is_no_campaign() -> None:
    assert said(miner(1, owner="a"), miner(1, owner="a", container="second")) == []
    assert said(miner(1, owner="a"), miner(2, owner="b")) == []
    assert said() == []


@pytest.mark.parametrize("level", ["clear", "suspicious"])
def test_what_is_not_likely_a_miner_is_in_none(level: str) -> None:
    assert said(*(miner(number, owner="a", level=level) for number in (1, 2))) == []


def test_containers_outside_pods_count_one_by_one() -> None:
    outside = {"pod": "", "pod_uid": "", "namespace": ""}
    twins = [miner(number, wallet=WALLET, **outside) for number in (1, 2)]
    assert said(*twins) == [f"2 containers that mine for wallet {WALLET[:8]}…{WALLET[-8:]}"]


@pytest.mark.parametrize(
    ("command", "wallets"),
    [
        (f"./a -u {WALLET}.rig7 -p x", {WALLET}),
        (f'{{"user": "{WALLET}"}}', {WALLET}),
        (f"./a -u {'4' + 'B' * 105}", {"4" + "B" * 105}),
        (f"./a --user={ETHEREUM}", {ETHEREUM.lower()}),
        (f"./a -u BTC:{'1' + 'B' * 30}.x", {"1" + "B" * 30}),
        (f"./a -u {WALLET} --proxywallet {OTHER_WALLET}", {WALLET, OTHER_WALLET}),
        ("./a bc1q" + "0" * 38, {"bc1q" + "0" * 38}),
        (f"./a x{WALLET}y", set()),
        (f"./a {'1' + 'B' * 30}", set()),
        ("sha256sum " + "ab" * 32, set()),
    ],
)
def test_wallets(command: str, wallets: set[str]) -> None:
    status = container(level="likely", findings=(finding(evidence={"CommandLine": command}),))
    assert {t.value for t in traits(status) if t.kind is Kind.WALLET} == wallets


@pytest.mark.parametrize(
    ("command", "pools"),
    [
        (f"./a -o {POOL}", {"pool.example.org"}),
        ("./a --url=Pool.Example.ORG:443", {"pool.example.org"}),
        ("./a stratum+ssl://w:p@a.example.org:1 stratum1://b.example.org:2",
         {"a.example.org", "b.example.org"}),
        ("./a -o 127.0.0.1:3333", set()),
        ("./a stratum+tcp://[2001:db8::1]:3333", {"2001:db8::1"}),
        ("curl -o page.html https://example.org:443/", set()),
    ],
)  # fmt: skip
def test_pools(command: str, pools: set[str]) -> None:
    status = container(level="likely", findings=(finding(evidence={"CommandLine": command}),))
    assert {t.value for t in traits(status) if t.kind is Kind.POOL} == pools


def test_whom_it_talks_to_is_a_pool_where_a_network_rule_says_so() -> None:
    seen = {"DestinationIp": "192.0.2.7", "DestinationHostname": "Pool.example.org."}
    talks = container(findings=(finding(signal="network", evidence=seen),))
    assert Trait(Kind.POOL, "pool.example.org") in traits(talks)
    assert Trait(Kind.POOL, "192.0.2.7") not in traits(talks)
    names = container(findings=(finding(evidence=seen),))
    assert not traits(names)


def test_command_lines_of_processes_with_findings_are_searched_and_no_others() -> None:
    seen = (finding(evidence={"Comm": "a"}),)
    whole = process(command_line=f"./a -u {WALLET}")
    assert Trait(Kind.WALLET, WALLET) in traits(container(findings=seen, processes=(whole,)))
    other = structs.replace(whole, pid=99)
    assert not traits(container(findings=seen, processes=(other,)))


@given(st.lists(containers, max_size=3))
def test_whatever_containers_are_called_campaigns_are_short_lines(
    statuses: list[ContainerStatus],
) -> None:
    for campaign in campaigns([*statuses, *statuses, HOSTILE_ONE]):
        text = str(campaign)
        assert printable(text) == text
        assert len(text) < 1000
        assert campaign.pods >= 2
        assert all(campaign.trait in traits(member) for member in campaign.members)


@given(st.lists(containers, max_size=3))
def test_no_container_is_in_two(statuses: list[ContainerStatus]) -> None:
    members = [id(m) for campaign in campaigns(statuses) for m in campaign.members]
    assert len(members) == len(set(members))


PAGE, OTHER_PAGE = "ab" * 16, "cd" * 16


def running(number: int, page: str = PAGE, **changes: Any) -> ContainerStatus:
    """A container that is suspicious by what it computes, with the fingerprint of its code."""
    evidence: dict[str, Any] = {"ForeignCodeFingerprints": page}
    plain = {
        "level": "suspicious",
        "score": 60.0,
        "signals": {"compute": 60.0},
        "findings": (finding(signal="compute", evidence=evidence),),
    }
    return miner(number, **{**plain, **changes})


def test_suspicious_pods_that_run_the_same_code_are_a_campaign() -> None:
    pods = [running(number, node=f"n-{number}", owner=f"o-{number}") for number in range(3)]
    assert said(*pods) == ["3 pods that run code page abababab…abababab"]
    assert said(pods[0], running(7, OTHER_PAGE)) == []


def test_one_page_of_several_is_enough() -> None:
    assert said(running(1, f"{PAGE} {OTHER_PAGE}"), running(2, OTHER_PAGE)) == [
        "2 pods that run code page cdcdcdcd…cdcdcdcd"
    ]


def test_code_that_a_clear_container_runs_joins_nothing() -> None:
    pods = [running(number) for number in range(3)]
    innocent = running(9, level="clear", score=1.0, signals={"compute": 1.0})
    assert said(*pods, innocent) == []


def test_pods_that_are_suspicious_by_other_evidence_are_not_joined_by_code() -> None:
    pods = [running(number, signals={"identity": 60.0, "compute": 1.0}) for number in range(3)]
    assert said(*pods) == []


def test_likely_and_suspicious_pods_with_the_same_code_are_one_campaign() -> None:
    likely: dict[str, Any] = {"level": "likely", "score": 75.0, "image": "repo:1"}
    pods = [running(1, **likely), running(2, **likely), running(3), running(4)]
    assert said(*pods) == ["4 pods that run code page abababab…abababab"]


@pytest.mark.parametrize("page", ["", "x", "ab", "AB" * 16, "ab" * 17, "ab; rm -rf", "\x1b[1m"])
def test_what_is_no_fingerprint_joins_nothing(page: str) -> None:
    assert said(running(1, page), running(2, page)) == []


def test_pods_are_joined_by_each_name_of_the_people_behind_them() -> None:
    for kind, sentence in (
        ("user", "of user x"),
        ("repository", "of repository x"),
        ("build", "of repository x"),
        ("ref", "of ref x"),
        ("project", "of project x"),
        ("client", "asked for from x"),
        ("controller", "of x"),
        ("digest", "of image digest x"),
    ):
        owners = (OwnerStatus("somewhere", "x", kind),)
        pods = [miner(number, owner=f"o{number}", owners=owners) for number in range(3)]
        assert said(*pods) == [f"3 pods {sentence} (3 owners)"]


def test_what_everybody_shares_joins_nothing() -> None:
    owners = (OwnerStatus("s", "https://hub", "launch-host"), OwnerStatus("s", "arc", "job"))
    assert said(*(miner(number, owners=owners) for number in range(3))) == []


def test_a_claimed_name_is_shown_as_one() -> None:
    owners = (OwnerStatus("label x", "victim", "user", claimed=True),)
    assert said(*(miner(number, owners=owners) for number in range(2))) == [
        "2 pods of user victim (claimed)"
    ]
