from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from minerwatch.api.snapshot import decode
from minerwatch.api.types import AgentStatus, ContainerStatus, Unanswered
from minerwatch.untrusted_text.display import printable
from minerwatch.view.campaigns import campaign_of, campaigns
from minerwatch.view.explanation import explanation
from minerwatch.view.overview import Coverage, missing_lines, overview
from minerwatch.view.selection import found, sorted_by
from tests.report.samples import HOSTILE, MINER, NODE, NOW, container, hostile_text

Golden = Callable[[str, str], None]

CLUSTER = Path(__file__).parent.parent / "fixtures" / "clusters" / "three-nodes"
CRASHING = Unanswered(
    "node-3", "minerwatch/minerwatch-9zlpd", "its agent does not run: CrashLoopBackOff"
)
COVERAGE = Coverage("lab", "", 2, (CRASHING,))


def shown(
    statuses: Sequence[ContainerStatus], coverage: Coverage | None = COVERAGE, **changes: Any
) -> str:
    plain: dict[str, Any] = {"now": NOW, "width": None, "colour": False}
    return overview(
        statuses, statuses, campaigns(statuses), coverage=coverage, **{**plain, **changes}
    )


@pytest.fixture(scope="module")
def three_nodes() -> Sequence[ContainerStatus]:
    answers = [(CLUSTER / f"node-{number}.json").read_bytes() for number in (1, 2)]
    return sorted_by([status for answer in answers for status in decode(answer)], "score")


@pytest.mark.parametrize("width", [80, 120, 200])
def test_three_nodes_one_of_them_missing(
    golden: Golden, three_nodes: Sequence[ContainerStatus], width: int
) -> None:
    golden(f"top-cluster-{width}.txt", shown(three_nodes, width=width))


def test_three_nodes_in_colour(golden: Golden, three_nodes: Sequence[ContainerStatus]) -> None:
    golden("top-cluster-colour.txt", shown(three_nodes, width=120, colour=True))


def test_a_pod_of_a_campaign_is_explained(
    golden: Golden, three_nodes: Sequence[ContainerStatus]
) -> None:
    status = found(three_nodes, "binder/jupyter-example-2dmallory-2dnotebooks-2d0011")
    campaign = campaign_of(status, campaigns(three_nodes))
    golden("explain-cluster.txt", explanation(status, now=NOW, campaign=campaign))


def test_the_banner_names_context_namespace_and_nodes() -> None:
    lines = shown([MINER]).splitlines()
    assert lines[0] == "context lab · all namespaces · 2 of 3 nodes answered"
    assert lines[1] == (
        "missing node-3 (minerwatch/minerwatch-9zlpd): its agent does not run: CrashLoopBackOff"
    )
    one = shown([MINER], Coverage("lab", "binder", 1, (), "nodes: 403"))
    assert one.splitlines()[0] == "context lab · namespace binder · 1 of 1 node answered"
    assert one.splitlines()[1] == "nodes: 403"
    assert not shown([MINER], None).startswith("context")
    agents = (AgentStatus("node-1", "0.1.0", rules={"stable": 5}, culling="dry-run"),)
    said = shown([MINER], replace(COVERAGE, agents=agents)).splitlines()[0]
    assert said.endswith("2 of 3 nodes answered · agent 0.1.0 · 5 rules · mode dry-run")


def test_no_container_is_no_all_clear_while_nodes_are_missing() -> None:
    assert shown([], replace(COVERAGE, missing=())).endswith("no container to show\n")
    assert shown([]).endswith(
        "no container to show on the 2 nodes that answered; nothing is known of 1 other\n"
    )
    assert shown([], replace(COVERAGE, answered=0)).endswith(
        "no container to show: no agent has answered, so nothing is known\n"
    )


def test_what_agents_cannot_do_stands_above_the_table() -> None:
    trouble = "the pods of this node cannot be listed: pods is forbidden\x1b[2J"
    agents = tuple(
        AgentStatus(f"node-{number}", "0.1.0", troubles=(trouble,)) for number in range(12)
    )
    (line,) = [line for line in shown([MINER], replace(COVERAGE, agents=agents)).splitlines()
               if "forbidden" in line]  # fmt: skip
    assert line.startswith("nodes node-0, node-1, ")
    assert line.endswith("and 4 nodes more: " + printable(trouble))


def test_many_nodes_that_miss_for_one_reason_are_one_line() -> None:
    bare = tuple(Unanswered(f"node-{n}", "", "no agent runs on it") for n in range(20))
    (line,) = missing_lines(bare, names=2)
    assert line == "missing node-0, node-1 and 18 nodes more: no agent runs on it"
    assert "node-19" in missing_lines(bare)[0]
    assert len(missing_lines((*bare, CRASHING))) == 2


def test_only_a_silent_agent_is_a_failure() -> None:
    bare = Unanswered("node-4", "", "no agent runs on it")
    assert Coverage("lab", "", 2, (bare,)).is_complete
    assert not Coverage("lab", "", 2, (bare, CRASHING)).is_complete


def test_the_largest_campaigns_are_named() -> None:
    pods = [
        structs.replace(
            MINER, owner=f"o-{n // 2}", image="", findings=(), processes=(),
            pod=f"p-{n}", pod_uid=f"{n}",
        )
        for n in range(20)
    ]  # fmt: skip
    lines = shown(pods, None).splitlines()
    assert sum(line.startswith("campaign: 2 pods of owner o-") for line in lines) == 5
    assert "and 5 campaigns more, of fewer pods" in lines


@given(hostile_text, hostile_text, hostile_text, st.sampled_from([None, 60, 120]))
def test_whatever_nodes_and_reasons_are_called_lines_stay_lines(
    node: str, pod: str, reason: str, width: int | None
) -> None:
    missing = (Unanswered(node, pod, reason), Unanswered(node, "", reason))
    coverage = Coverage(node, pod, 3, missing, reason)
    text = shown([container(), MINER], coverage, width=width)
    assert all(printable(line) == line for line in text.split("\n"))
    assert len(text.split("\n")) < 12


def test_hostile_containers_in_a_cluster() -> None:
    text = shown(NODE, replace(COVERAGE, context=HOSTILE[0], namespace=HOSTILE[1]))
    assert "\x1b" not in text
