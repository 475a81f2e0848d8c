from __future__ import annotations

from hypothesis import given
from msgspec import structs

from minerwatch.api.types import AgentStatus
from minerwatch.untrusted_text.display import printable
from minerwatch.view.agent_summary import agents_line, mode
from tests.report.samples import HOSTILE, hostile_text

AGENT = AgentStatus("node-1", "0.1.0", rules={"stable": 100, "test": 12}, culling="off")


def test_one_agent() -> None:
    assert agents_line([AGENT]) == "agent 0.1.0 · 112 rules · mode observe"
    broken = structs.replace(AGENT, broken_rules=1, culling="enforce")
    assert agents_line([broken]) == "agent 0.1.0 · 112 rules · 1 rule file broken · mode enforce"
    assert agents_line([]) == ""


def test_agents_that_are_alike_and_that_differ() -> None:
    assert agents_line([AGENT] * 3) == "agents 0.1.0 · 112 rules · mode observe"
    other = structs.replace(AGENT, version="0.0.9", culling="dry-run", rules={}, broken_rules=2)
    assert agents_line([AGENT, other, AGENT]) == (
        "agents 0.1.0 (2), 0.0.9 (1) · 112 (2), 0 (1) rules · broken rule files on 1 node"
        " · mode observe (2), dry-run (1)"
    )
    many = [structs.replace(AGENT, version=f"0.{number}") for number in range(9)]
    assert agents_line(many).startswith("agents 0.0 (1), 0.1 (1), 0.2 (1), … · 112 rules")


def test_an_agent_that_does_not_say() -> None:
    assert mode(AgentStatus("n", "0.1")) == "unknown"
    assert mode(structs.replace(AGENT, culling=HOSTILE[0])) == printable(HOSTILE[0])


@given(hostile_text, hostile_text)
def test_whatever_they_say_it_is_one_line(version: str, culling: str) -> None:
    line = agents_line([AgentStatus("n", version, culling=culling)])
    assert printable(line) == line
    assert len(line) < 1000
