"""Proposals of the key ``k``: decided by the agent, done as they were confirmed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from minerwatch.api import orders
from minerwatch.api.types import CullAnswer, CullStatus
from minerwatch.cli.top_screen.proposal import ByHand, Proposal, ProposalError, proposal_sections
from minerwatch.model import Action
from minerwatch.untrusted_text.display import printable
from tests.cli.top_screen.driving import AGENT
from tests.examples import examples
from tests.report.samples import MINER, SIMULATION, hostile_text
from tests.view.test_culling_text import OBJECTED, PERMITTED


class Agent:
    """What the agent of a node is told, and what it answers."""

    def __init__(self, answer: CullAnswer) -> None:
        self.told: list[tuple[str, str, orders.CullOrder]] = []
        self._answer = answer

    def ordered(self, node: str, path: str, order: bytes) -> bytes:
        self.told.append((node, path, orders.decode(order, orders.CullOrder)))
        return orders.encode(self._answer)


ACTING = structs.replace(AGENT, culling="enforce")
IN_EARNEST = structs.replace(PERMITTED, dry_run=False, outcome="")


def test_without_culling_the_mode_is_the_reason() -> None:
    proposer = ByHand(Agent(PERMITTED).ordered)
    for agent, told in ((None, "it only observes"), (AGENT, "culling is off")):
        with pytest.raises(ProposalError, match=told):
            proposer.choices(MINER, agent)


def test_the_policys_own_choice_is_marked() -> None:
    status = CullStatus("enforce", "observe", "stop", dry_run=False, rung=0, reasons=("No.",))
    choices = ByHand(Agent(PERMITTED).ordered).choices(
        structs.replace(MINER, culling=status), ACTING
    )
    assert [action for _, action, _ in choices] == [
        *("label", "stop", "kill", "stop-server", "evict", "delete")
    ]
    marked = [action for _, action, said in choices if said.endswith("the policy's own choice")]
    assert marked == ["stop"]


def test_what_is_in_no_pod_has_the_actions_of_hosts() -> None:
    container = structs.replace(MINER, namespace="", pod="", pod_uid="", kind="engine")
    choices = ByHand(Agent(PERMITTED).ordered).choices(container, ACTING)
    assert [action for _, action, _ in choices] == ["stop", "pause", "kill", "stop-container"]


def test_a_proposal_tries_nothing() -> None:
    agent = Agent(IN_EARNEST)
    proposal = ByHand(agent.ordered).propose(MINER, "evict")
    ((node, path, order),) = agent.told
    assert (node, path, order.action) == (MINER.node, orders.PREVIEW, Action.EVICT)
    assert (order.cgroup, order.container_id, order.pod_uid) == (
        MINER.cgroup, MINER.container_id, MINER.pod_uid,
    )  # fmt: skip
    assert proposal.is_permitted
    assert (proposal.mode, proposal.request) == ("enforce", IN_EARNEST.request)
    assert proposal.confirmation == MINER.pod
    assert proposal.decision.startswith("The policy permits to")
    objected = ByHand(Agent(OBJECTED).ordered).propose(MINER, "evict")
    assert not objected.is_permitted
    assert "  - " in objected.decision


@pytest.mark.parametrize("is_dry", [True, False])
def test_what_was_confirmed_as_a_dry_run_stays_one(is_dry: bool) -> None:
    agent = Agent(structs.replace(IN_EARNEST, dry_run=is_dry))
    proposer = ByHand(agent.ordered)
    proposal = proposer.propose(MINER, "stop")
    told = proposer.carry_out(proposal)
    assert MINER.namespace in told
    (_, path, order) = agent.told[-1]
    assert (path, order.dry_run, order.action) == (orders.CULL, is_dry, Action.STOP)


def test_where_there_is_no_pod_the_containers_name_is_typed() -> None:
    proposal = Proposal(SIMULATION, "kill", "", "", "dry-run", is_permitted=True)
    assert proposal.confirmation == "simulation.service"


@settings(max_examples=examples(40))
@given(hostile_text, hostile_text, st.sampled_from([1, 10, 40, 80, 200]))
def test_a_proposal_is_shown_as_it_is(decision: str, request: str, width: int) -> None:
    proposal = Proposal(MINER, "evict", decision, request, "enforce", is_permitted=True)
    for title, lines in proposal_sections(proposal, width):
        assert title
        assert all(printable(each.plain) == each.plain for each in lines)
    told = "".join(each.plain for _, lines in proposal_sections(proposal, 80) for each in lines)
    assert "in earnest" in told
    assert MINER.pod in told
