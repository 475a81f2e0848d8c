from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from minerwatch.api.types import AgentStatus, NodeAnswer, NodeReport, Unanswered
from minerwatch.view.screen.poll import KEPT, Answers
from tests.report.samples import MINER, NOW

NODES = ("node-1", "node-2")
AGENT = AgentStatus("node-1", "0.1.0")


def answered(node: str = "node-1", cores: float = 1.0) -> NodeAnswer:
    status = structs.replace(MINER, node=node, cpu_cores=cores)
    return NodeAnswer(node, f"minerwatch/{node}", NodeReport((status,), AGENT))


def silent(node: str = "node-1") -> NodeAnswer:
    return NodeAnswer(node, f"minerwatch/{node}", None, "no answer within 20 s")


def begun(*taken: NodeAnswer) -> Answers:
    answers = Answers("lab", "")
    answers.begin(NODES)
    for answer in taken:
        answers.add(answer, NOW)
    return answers


def test_rows_come_before_the_last_node_has_answered() -> None:
    poll = begun(answered()).poll(NOW)
    assert len(poll.statuses) == 1
    assert poll.progress == (1, 2)
    assert poll.coverage is not None
    assert (poll.coverage.answered, poll.coverage.missing) == (1, ())
    assert begun(answered(), answered("node-2")).poll(NOW).progress is None


def test_until_a_node_is_asked_again_its_last_answer_holds() -> None:
    answers = begun(answered(cores=1.0), answered("node-2", cores=2.0))
    answers.begin(NODES)
    answers.add(answered("node-2", cores=3.0), NOW + timedelta(seconds=30))
    poll = answers.poll(NOW + timedelta(seconds=30))
    assert [status.cpu_cores for status in poll.statuses] == [1.0, 3.0]
    assert poll.stale == {}
    assert poll.progress == (1, 2)


def test_a_node_that_no_longer_answers_is_stale_then_gone() -> None:
    answers = begun(answered(), answered("node-2"))
    for after, statuses in ((timedelta(minutes=1), 2), (KEPT + timedelta(seconds=1), 1)):
        answers.begin(NODES)
        answers.add(silent(), NOW + after)
        answers.add(answered("node-2"), NOW + after)
        poll = answers.poll(NOW + after)
        assert len(poll.statuses) == statuses
        assert poll.stale == ({"node-1": NOW} if statuses == 2 else {})
        assert poll.coverage is not None
        assert poll.coverage.answered == 1
        assert poll.coverage.missing == (
            Unanswered("node-1", "minerwatch/node-1", "no answer within 20 s"),
        )


def test_a_node_that_answers_again_is_not_stale() -> None:
    answers = begun(answered(), silent("node-2"))
    answers.begin(NODES)
    answers.add(answered("node-2"), NOW)
    assert answers.poll(NOW).stale == {}


def test_a_node_that_has_left_the_cluster_takes_its_containers_along() -> None:
    answers = begun(answered(), answered("node-2"))
    answers.begin(["node-2"])
    poll = answers.poll(NOW)
    assert {status.node for status in poll.statuses} == {"node-2"}


def test_agents_and_what_is_not_known_are_passed_on() -> None:
    answers = Answers("lab", "binder")
    answers.begin(["node-1"], "only nodes with an agent are known")
    answers.add(answered(), NOW)
    poll = answers.poll(NOW)
    assert poll.agents == (AGENT,)
    assert poll.coverage is not None
    assert poll.coverage.blind_spot == "only nodes with an agent are known"
    assert poll.coverage.namespace == "binder"


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "c"]), st.booleans(), st.integers(0, 900)),
        max_size=30,
    )
)
def test_every_listed_node_is_answered_missing_or_still_to_be_asked(
    taken: list[tuple[str, bool, int]],
) -> None:
    answers = Answers("lab", "")
    at = NOW
    for node, is_there, after_s in taken:
        answers.begin(["a", "b", "c"])
        at += timedelta(seconds=after_s)
        answers.add(answered(node) if is_there else silent(node), at)
        poll = answers.poll(at)
        assert poll.coverage is not None
        missing = {each.node for each in poll.coverage.missing}
        shown = {status.node for status in poll.statuses}
        assert poll.coverage.answered + len(missing) <= 3
        assert set(poll.stale) <= missing & shown
        assert poll.coverage.answered == len(shown - missing)
