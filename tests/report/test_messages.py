"""What messages say, in each format, whatever containers are called."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from minerwatch.model import MessageFormat
from minerwatch.report.messages import Batch, Notice, bodies, notice
from tests.report.samples import MINER, container, finding, hostile_text, process

AT = "2026-11-23T02:30:00Z"


def said(message_format: MessageFormat, *notices: Notice, **left_out: int) -> list[Any]:
    return [json.loads(body) for body, _ in bodies(message_format, Batch(notices, left_out))]


def of(status: Any = MINER, event: str = "verdict", *, command_lines: bool = False) -> Notice:
    return notice(status, event, AT, command_lines=command_lines)


def test_a_message_says_what_whose_why_and_what_to_type() -> None:
    status = container(
        namespace="lab", pod="jupyter-eve", container="notebook", owner="user: eve",
        level="confirmed", abuse="mining", score=98.26, cpu_cores=3.972, node="node-1",
        findings=(finding("XMRig command line"), finding("RandomX", signal="compute")),
    )  # fmt: skip
    (slack,) = said(MessageFormat.SLACK, of(status))
    assert slack == {
        "text": "CONFIRMED mining, score 98.2: `lab/jupyter-eve/notebook` on node `node-1`, owner"
        " `user: eve`, 3.97 cores. `identity: XMRig command line`; `compute: RandomX`."
        " Look: `minerwatch explain lab/jupyter-eve`"
    }
    (teams,) = said(MessageFormat.TEAMS, of(status))
    (attachment,) = teams["attachments"]
    assert attachment["content"]["body"][0]["text"].startswith("CONFIRMED mining, score 98.2")
    (falco,) = said(MessageFormat.FALCO, of(status))
    assert (falco["priority"], falco["source"]) == ("Critical", "minerwatch")
    assert falco["output_fields"]["k8s.pod.name"] == "jupyter-eve"


def test_command_lines_only_where_asked_and_without_secrets() -> None:
    secret = "curl --password hunter2hunter2 https://example.org"
    status = container(
        processes=(process(pid=4711, command_line=secret), process(pid=9, command_line="other")),
        findings=(finding(),),
    )
    for message_format in MessageFormat:
        assert "curl" not in json.dumps(said(message_format, of(status)))
    asked = of(status, command_lines=True)
    assert asked.command_lines[0].startswith("curl --password")
    assert "hunter2" not in json.dumps(said(MessageFormat.SLACK, asked))
    assert len(asked.command_lines) == 1


def test_one_message_groups_by_owner_and_counts_the_rest() -> None:
    notices = [of(container(pod=f"p{n}", owner=f"user: {n % 2}")) for n in range(30)]
    (text,) = (body["text"] for body in said(MessageFormat.SLACK, *notices, eve=7))
    lines = text.splitlines()
    assert lines[0] == "30 messages about 2 owners"
    owners = ["user: 0" in line for line in lines[1:21]]
    assert owners == sorted(owners, reverse=True), "those of one owner stand together"
    assert lines[21:] == ["and 10 messages more", "7 messages left out, about `eve`"]


def test_an_action_and_a_clear_container() -> None:
    (cleared,) = said(MessageFormat.SLACK, of(event="cleared"))
    assert cleared["text"].startswith("CLEAR again: `")
    stopped = Notice(
        AT, "action", "node-1", "lab", "jupyter-eve", "", "user: eve", action="stop", outcome="done"
    )
    (done,) = said(MessageFormat.SLACK, stopped)
    assert done["text"] == "STOP done: `lab/jupyter-eve` on node `node-1`, owner `user: eve`"


@given(
    name=hostile_text,
    owner=hostile_text,
    title=hostile_text,
    event=st.sampled_from(["verdict", "cleared"]),
)
def test_whatever_names_are_nobody_is_mentioned_and_nothing_breaks_out(
    name: str, owner: str, title: str, event: str
) -> None:
    status = container(pod=name + "<!channel> @all `", owner=owner, findings=(finding(title),))
    (slack,) = said(MessageFormat.SLACK, of(status, event))
    assert "<" not in slack["text"]
    assert ">" not in slack["text"]
    assert "\n" not in slack["text"]
    assert slack["text"].count("`") % 2 == 0
    outside = "".join(slack["text"].split("`")[::2])
    assert "@" not in outside
    (teams,) = said(MessageFormat.TEAMS, of(status, event))
    (line,) = teams["attachments"][0]["content"]["body"]
    assert "](" not in line["text"]
    said(MessageFormat.FALCO, of(status, event))
    (plain,) = said(MessageFormat.JSON, of(status, event))
    assert plain["version"] == 1
    assert len(plain["notices"]) == 1
