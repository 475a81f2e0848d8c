"""What messages say, in each format, whatever containers are called."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from minerwatch.api.types import OwnerStatus
from minerwatch.model import MessageFormat
from minerwatch.report.messages import ACTION, Batch, Notice, bodies, notice
from tests.report.samples import MINER, SCAN, container, finding, hostile_text, process

AT = "2026-11-23T02:30:00Z"


def said(message_format: MessageFormat, *notices: Notice, **left_out: int) -> list[Any]:
    return [json.loads(body) for body, _ in bodies(message_format, Batch(notices, left_out))]


def of(status: Any = MINER, event: str = "verdict", *, command_lines: bool = False) -> Notice:
    return notice(status, event, AT, command_lines=command_lines)


@pytest.mark.parametrize("message_format", MessageFormat)
@pytest.mark.parametrize("event", ["verdict", "cleared", ACTION])
def test_a_scan_is_never_called_a_miner(message_format: MessageFormat, event: str) -> None:
    said = notice(SCAN, event, "2026-11-30T02:00:00Z", command_lines=True)
    said = msgspec.structs.replace(said, action="evict", outcome="done")
    ((body, _),) = bodies(message_format, Batch((said,), {}))
    text = body.decode().replace("minerwatch", "")
    assert "scanning" in text
    assert not re.search(r"(?i)miner|mining|proxyware|tunnel", text)


def test_a_second_kind_of_abuse_is_told_by_its_own_findings() -> None:
    said = notice(
        SCAN, "verdict", "2026-11-30T02:00:00Z",
        command_lines=False, abuse="proxyware", level="suspicious",
    )  # fmt: skip
    assert (said.abuse, said.level, said.score) == ("proxyware", "suspicious", 15.0)
    assert said.reasons == ("identity: Tunnel or proxy by its name",)


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


def test_a_name_that_a_tenant_may_have_chosen_is_marked() -> None:
    claim = OwnerStatus("annotation hub.jupyter.org/username", "victim", "user", claimed=True)
    forged = container(namespace="mallory", pod="x", owner="victim", owners=(claim,))
    (slack,) = said(MessageFormat.SLACK, of(forged))
    assert ", owner `victim` (claimed)" in slack["text"]
    (json_,) = said(MessageFormat.JSON, of(forged))
    assert json_["notices"][0]["owner_claimed"]
    known = structs.replace(forged, owners=(claim, structs.replace(claim, claimed=False)))
    (slack,) = said(MessageFormat.SLACK, of(known))
    assert "(claimed)" not in slack["text"]


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


def test_one_owner_cannot_fill_a_message_that_others_are_in() -> None:
    crowd = [of(container(pod=f"p{n}", namespace="eve", owner="user: eve")) for n in range(20)]
    other = of(container(pod="q", namespace="lab", owner="user: ada"))
    (text,) = (body["text"] for body in said(MessageFormat.SLACK, *crowd, other))
    assert "lab/q" in text
    assert text.count("`user: eve`") == 19


def test_what_was_done_stands_before_what_was_found() -> None:
    crowd = [of(container(pod=f"p{n}", owner="user: eve")) for n in range(20)]
    done = Notice(AT, ACTION, "node-1", "", "p0", "", "user: eve", action="evict", outcome="done")
    (text,) = (body["text"] for body in said(MessageFormat.SLACK, *crowd, done))
    assert text.splitlines()[1].startswith("EVICT done: `p0`")


def test_whose_owner_has_anothers_name_is_told_apart_by_namespace() -> None:
    crowd = [of(container(pod=f"p{n}", namespace="eve", owner="user: ada")) for n in range(20)]
    other = of(container(pod="q", namespace="lab", owner="user: ada"))
    (text,) = (body["text"] for body in said(MessageFormat.SLACK, *crowd, other))
    assert text.startswith("21 messages about 2 owners")
    assert "lab/q" in text


@pytest.mark.parametrize("message_format", [MessageFormat.SLACK, MessageFormat.TEAMS])
def test_no_names_make_a_message_longer_than_receivers_take(message_format: MessageFormat) -> None:
    long = container(
        namespace="n_" * 2000, pod="\U000e0041" * 2000, container="`" * 2000, owner="\x1b" * 2000,
        findings=(finding("t" * 2000),), processes=(process(command_line="\u200b" * 2000),),
    )  # fmt: skip
    crowd = [of(long, command_lines=True) for _ in range(20)]
    other = of(container(pod="q", owner="user: ada"))
    batch = Batch((*crowd, other), {f"user: {n}" + "o" * 256: 1 for n in range(100)})
    ((body, _),) = bodies(message_format, batch)
    assert len(body) < 16_000
    assert b"q" in body
    assert b"100 messages left out" in body


def test_of_many_owners_that_were_left_out_some_are_named() -> None:
    (text,) = (body["text"] for body in said(MessageFormat.SLACK, of(), a=1, b=2, c=3, d=4))
    assert text.endswith("10 messages left out, about `a`, `b`, `c`, others")


def test_systems_learn_what_was_left_out_too_and_get_few_notices_a_request() -> None:
    first, second = said(MessageFormat.FALCO, of(), of(), eve=7)
    assert first["output"].endswith("7 messages left out, about eve")
    assert first["output_fields"]["minerwatch.left_out"] == 7
    assert second["output_fields"]["minerwatch.left_out"] == 0
    requests = said(MessageFormat.JSON, *[of()] * 120, eve=7)
    assert [len(each["notices"]) for each in requests] == [50, 50, 20]
    assert [each["left_out"] for each in requests] == [{"eve": 7}, {}, {}]


def test_a_command_to_copy_runs_nothing_that_a_name_holds() -> None:
    (slack,) = said(MessageFormat.SLACK, of(container(container="a; $(touch x).service")))
    assert slack["text"].endswith("Look: `minerwatch explain 'a; $(touch x).service'`")
    (slack,) = said(MessageFormat.SLACK, of(container(container="--kubeconfig=x")))
    assert slack["text"].endswith("Look: `minerwatch explain -- --kubeconfig=x`")


def test_command_lines_are_quoted_as_in_a_shell() -> None:
    line = "sh -c ./xmrig\N{NO-BREAK SPACE}--donate-level\N{NO-BREAK SPACE}1"
    status = container(processes=(process(command_line=line),), findings=(finding(),))
    assert of(status, command_lines=True).command_lines == ("sh -c './xmrig --donate-level 1'",)


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
    assert "``" not in slack["text"]
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
