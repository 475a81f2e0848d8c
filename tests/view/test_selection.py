from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from minerwatch.api.types import ContainerStatus
from minerwatch.errors import TargetError
from minerwatch.untrusted_text.display import printable
from minerwatch.view.selection import (
    SORT_KEYS,
    abuse_of,
    beside,
    busy,
    filtered,
    found,
    full_name,
    limit_share,
    sorted_by,
    unknown_namespace,
)
from tests.report.samples import (
    HELD,
    HOST,
    LIKELY,
    MINER,
    NODE,
    SCAN,
    SIMULATION,
    SUSPICIOUS,
    container,
    containers,
    process,
)


@pytest.mark.parametrize(
    ("key", "first"),
    [
        ("score", MINER),
        ("cpu", SIMULATION),
        ("hours", SIMULATION),
        ("limit", MINER),
        ("throttled", MINER),
        ("owner", MINER),
        ("name", HELD),
    ],
)
def test_highest_first(key: str, first: ContainerStatus) -> None:
    assert sorted_by(NODE, key)[0] == first


def test_age_puts_the_oldest_level_first() -> None:
    assert sorted_by((LIKELY, MINER, SUSPICIOUS), "age") == [SUSPICIOUS, MINER, LIKELY]


@given(st.lists(containers, max_size=5), st.sampled_from(SORT_KEYS))
def test_sorting_keeps_every_container(statuses: list[ContainerStatus], key: str) -> None:
    in_order = sorted_by(statuses, key)
    assert len(in_order) == len(statuses)
    assert all(status in in_order for status in statuses)
    assert sorted_by(in_order, key) == in_order


@given(st.lists(containers, max_size=5), st.sampled_from(["owner", "image", "age"]))
def test_those_that_have_none_of_it_come_last_either_way(
    statuses: list[ContainerStatus], key: str
) -> None:
    def has(status: ContainerStatus) -> bool:
        return bool({"owner": status.owner, "image": status.image, "age": status.started}[key])

    for is_reversed in (False, True):
        ordered = [has(each) for each in sorted_by(statuses, key, is_reversed=is_reversed)]
        assert ordered == sorted(ordered, reverse=True)


def test_the_other_way_round() -> None:
    assert sorted_by(NODE, "cpu", is_reversed=True)[-1] == SIMULATION
    assert sorted_by((MINER, LIKELY), "score", is_reversed=True) == [LIKELY, MINER]


def test_busy_are_those_that_burn_cpu_or_have_findings() -> None:
    assert busy([container(), SUSPICIOUS, SIMULATION]) == [SUSPICIOUS, SIMULATION]


def test_what_is_flagged_is_shown_until_its_level_has_fallen() -> None:
    falling = structs.replace(container(), level="likely")
    assert busy([container(), falling]) == [falling]
    weak = structs.replace(SUSPICIOUS, level="clear", score=1.0)
    assert sorted_by([SIMULATION, weak, falling], "score") == [falling, weak, SIMULATION]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", NODE),
        ("ALICE", (MINER,)),
        ("xmrig command", (MINER, LIKELY)),
        ("xmrig docker", (LIKELY,)),
        ("melt.in", (SIMULATION,)),
        ("confirmed", (MINER,)),
        ("1b2c3d4e-0000", (MINER,)),
        ("node-7 nowhere", ()),
    ],
)
def test_filter_looks_for_every_word_anywhere(
    text: str, expected: tuple[ContainerStatus, ...]
) -> None:
    assert tuple(filtered(NODE, text)) == expected


def test_filter_by_namespace() -> None:
    assert filtered(NODE, namespace="binder") == [MINER]
    assert filtered(NODE, "bob", "binder") == []


def test_a_namespace_without_pods_here_is_said_with_those_that_there_are() -> None:
    assert unknown_namespace(NODE, "binder") == unknown_namespace(NODE, "") == ""
    assert unknown_namespace((), "nope") == ""
    said = unknown_namespace(NODE, "nope\x1b[2J")
    assert said.startswith("no pod of namespace nope")
    assert "\x1b" not in said
    assert "here are: " in said
    assert "binder" in said


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("4700", MINER),
        ("900", SIMULATION),
        ("3f2a9c", MINER),
        ("3f2a9c1b44de", MINER),
        ("jupyter-alice-2dnotebooks-2dx7f3k2", MINER),
        ("binder/jupyter-alice-2dnotebooks-2dx7f3k2", MINER),
        ("binder/jupyter-alice-2dnotebooks-2dx7f3k2/notebook", MINER),
        ("docker/9c1b44de3f2a", LIKELY),
        ("ci-runner.service", SUSPICIOUS),
        ("/system.slice/batch.service", HELD),
        ("host", HOST),
    ],
)
def test_a_target_is_found_by_any_of_its_names(target: str, expected: ContainerStatus) -> None:
    assert found(NODE, target) == expected


def test_a_container_id_of_digits_alone_is_found() -> None:
    digits = container(container_id="123456789012" + "0" * 52, container="123456789012")
    assert found((*NODE, digits), "123456789012") == digits


@pytest.mark.parametrize("target", ["99999", "3f2", "nobody", "", "\x1b[2J"])
def test_a_target_that_is_not_there(target: str) -> None:
    with pytest.raises(TargetError) as error:
        found(NODE, target)
    assert str(error.value).isprintable()


def test_a_target_that_is_several_names_them_on_one_line() -> None:
    twins = [
        container(cgroup=f"/{number}\n\x1b[2J", container="twin", container_id=f"{number}")
        for number in range(20)
    ]
    with pytest.raises(TargetError, match=r"twin is not one container but 20: /0\\n") as error:
        found(twins, "twin")
    assert str(error.value).isprintable()


@given(st.lists(containers, max_size=5), st.data())
def test_whatever_a_container_is_called_it_is_found_or_not_alone(
    statuses: list[ContainerStatus], data: st.DataObject
) -> None:
    names = [name for status in statuses for name in (status.cgroup, status.container)]
    target = data.draw(st.sampled_from(names)) if names else "x"
    is_only = sum(target in (status.cgroup, status.container) for status in statuses) == 1
    try:
        chosen = found(statuses, target)
    except TargetError as error:
        refused = str(error)
        assert not is_only or "is not one container" in refused
        assert printable(refused) == refused
    else:
        assert chosen in statuses


def test_places() -> None:
    assert full_name(MINER) == "binder/jupyter-alice-2dnotebooks-2dx7f3k2/notebook"
    assert full_name(LIKELY) == "docker/9c1b44de3f2a"
    assert full_name(HOST) == "host"
    unknown = container(kind="pod", pod_uid="1b2c3d4e-0000", container="3f2a9c1b44de")
    assert full_name(unknown) == "pod:1b2c3d4e/3f2a9c1b44de"
    assert found((unknown,), full_name(unknown)) == unknown


def test_share_of_the_limit() -> None:
    assert limit_share(MINER) == pytest.approx(0.99)
    assert limit_share(LIKELY) is None
    assert limit_share(container(cpu_limit_cores=0.0)) is None


def test_of_a_pods_containers_the_one_with_the_highest_score_is_meant() -> None:
    pause = container(
        node=MINER.node, namespace=MINER.namespace, pod=MINER.pod, pod_uid=MINER.pod_uid,
        container="a1b2c3d4e5f6", cgroup="/pause",
    )  # fmt: skip
    assert found((pause, MINER), f"{MINER.namespace}/{MINER.pod}") == MINER
    assert found((MINER, pause), MINER.pod) == MINER
    assert found((MINER, pause), "a1b2c3d4e5f6") == pause
    assert beside((HOST, pause, MINER), MINER) == [pause]
    assert beside((HOST, container()), HOST) == []


def test_the_same_name_on_several_nodes_is_told_with_the_nodes() -> None:
    twins = (container(node="node-1"), container(node="node-2"))
    with pytest.raises(TargetError, match=r"node-1:ssh\.service, node-2:ssh\.service"):
        found(twins, "ssh.service")
    pods = [structs.replace(MINER, node=f"node-{n}", pod_uid=f"uid-{n}") for n in (1, 2)]
    with pytest.raises(TargetError, match="not one container but 2"):
        found(pods, MINER.pod)


def test_age_puts_the_oldest_pod_first_and_what_is_no_pod_last() -> None:
    young = container(started="2026-11-23T01:00:00Z", cgroup="/young")
    old = container(started="2026-11-01T01:00:00Z", cgroup="/old")
    assert sorted_by((HOST, young, old), "age") == [old, young, HOST]


def test_a_pid_names_the_container_that_has_it_before_one_that_is_called_so() -> None:
    called = container(container="4711", container_id="4711")
    has = container(processes=(process(),))
    assert found((called, has), "4711") == has


def test_an_abuse_is_found_by_its_name_where_it_is_flagged() -> None:
    busy = structs.replace(SIMULATION, abuse="mining", abuses={"mining": 29.0})
    every = (SCAN, busy)
    assert filtered(every, "scanning") == [SCAN]
    assert filtered(every, "mining") == []
    assert (abuse_of(SCAN), abuse_of(busy)) == ("scanning", "")
