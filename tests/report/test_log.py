from __future__ import annotations

import io
import json
import os
import re
from contextlib import redirect_stderr
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from minerwatch.api.statuses import container_status
from minerwatch.api.types import ContainerStatus
from minerwatch.model import Evidence
from minerwatch.report.log import Log, Once, logger, verdict_line
from minerwatch.untrusted_text.display import printable
from tests.builders import make_container, make_finding, make_observation, make_verdict
from tests.report.samples import (
    HELD,
    HOSTILE,
    HOSTILE_ONE,
    LIKELY,
    MINER,
    POOL,
    WALLET,
    container,
    containers,
    finding,
    hostile_text,
)

any_text = st.one_of(hostile_text, st.text(st.characters()))  # surrogates too
fields = st.dictionaries(
    st.sampled_from(["reason", "path", "error", "rules"]),
    st.one_of(any_text, st.integers(), st.lists(any_text, max_size=2)),
)


def logged(event: str, values: dict[str, Any], *, as_json: bool, method: str = "info") -> str:
    with redirect_stderr(io.StringIO()) as written:
        getattr(logger(as_json=as_json), method)(event, **values)
    return written.getvalue()


def is_one_line(text: str) -> bool:
    return text.endswith("\n") and len(text.splitlines()) == 1


@given(fields)
def test_json_is_one_object_a_line_whatever_the_text(values: dict[str, Any]) -> None:
    line = logged("rule file cannot be used", values, as_json=True, method="warning")
    assert is_one_line(line)
    read = json.loads(line)
    assert {key: read[key] for key in values} == values
    assert (read["event"], read["severity"]) == ("rule file cannot be used", "warning")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", read["timestamp"])


@given(fields)
def test_a_terminal_gets_one_harmless_line_whatever_the_text(values: dict[str, Any]) -> None:
    line = logged("watching", values, as_json=False)
    assert is_one_line(line)
    assert printable(line[:-1]) == line[:-1]
    assert len(line) < 200_000


@given(containers, st.sampled_from(["clear", "suspicious", "likely", "confirmed"]))
def test_a_verdict_on_anything_is_one_line(status: ContainerStatus, before: str) -> None:
    line = verdict_line(status, before)
    as_json = logged("verdict", dict(line), as_json=True)
    assert is_one_line(as_json)
    assert json.loads(as_json)["previous_level"] == before
    shown = logged("verdict", dict(line), as_json=False)
    assert is_one_line(shown)
    assert printable(shown[:-1]) == shown[:-1]


def test_a_verdict_for_people() -> None:
    shown = logged("verdict", verdict_line(MINER, "clear"), as_json=False)
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d CONFIRMED   95\.2  binder/jupyter-alice-2dnotebooks-2dx7f3k2/notebook"
        r"  1\.98 cores  identity ×2: XMRig command line;"
        r" execution: Executable deleted from a temporary folder\n",
        shown,
    )
    ended = logged("verdict", verdict_line(container(), "likely"), as_json=False)
    assert ended.endswith("CLEAR        0.0  ssh.service  0.00 cores  (was likely)\n")


def test_a_verdict_names_what_explain_needs_whole_and_each_signal_once() -> None:
    copies = tuple(finding(pid=pid) for pid in range(40))
    other = finding("Rounding", signal="compute", score=45.0, pid=40)
    elsewhere = finding("Port", signal="network", score=99.0, pid=41, counted=False)
    status = container(
        namespace="n" * 63, pod="p" * 200, container="c", findings=(elsewhere, *copies, other)
    )
    line = verdict_line(status, "clear")
    assert len(line["findings"]) == 10
    assert {each["signal"] for each in line["findings"]} >= {"identity", "compute"}
    shown = logged("verdict", line, as_json=False)
    assert f"  {'n' * 63}/{'p' * 200}/c  " in shown
    assert shown.endswith("identity ×40: XMRig command line; compute: Rounding\n")


def test_a_verdict_for_machines() -> None:
    read = json.loads(logged("verdict", verdict_line(LIKELY, "clear"), as_json=True))
    assert (read["level"], read["previous_level"], read["score"]) == ("likely", "clear", 88.0)
    assert read["signals"] == {"identity": 88.0}
    (found,) = read["findings"]
    assert (found["title"], found["pid"]) == ("XMRig command line", 4711)
    assert POOL in found["evidence"]["CommandLine"]
    assert WALLET in found["evidence"]["CommandLine"]


def test_secrets_stay_out_of_the_log() -> None:
    leaky = container(
        findings=(finding(evidence={"CommandLine": f"./a --token hunter2 -o {POOL}", "Age": 3}),)
    )
    evidence = verdict_line(leaky, "clear")["findings"][0]["evidence"]
    assert evidence == {"CommandLine": f"./a --token … -o {POOL}", "Age": 3}


def test_a_secret_whose_name_was_cut_off_stays_out_of_the_log() -> None:
    excerpt = container(
        findings=(finding(evidence={"CommandLine": f"…ssword hunter2 -o {POOL} …"}),)
    )
    evidence = verdict_line(excerpt, "clear")["findings"][0]["evidence"]
    assert evidence == {"CommandLine": f"… -o {POOL} …"}


def test_a_verdict_is_bounded() -> None:
    flooded = container(findings=tuple(finding(pid=pid) for pid in range(1000)))
    assert len(verdict_line(flooded, "clear")["findings"]) == 10
    assert len(json.dumps(verdict_line(HOSTILE_ONE, "clear"))) < 10_000


@pytest.mark.parametrize("as_json", [True, False])
def test_a_log_that_cannot_be_written_stops_nobody(*, as_json: bool) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as broken, redirect_stderr(broken):
        log = logger(as_json=as_json)
        log.error("nobody reads this", reason="the pipe has no other end")
        with pytest.raises(BrokenPipeError):
            broken.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), broken.fileno())
    log.warning("and the file is closed now")


def test_once_says_a_thing_once() -> None:
    with redirect_stderr(io.StringIO()) as written:
        once = Once(logger(as_json=True))
        for _ in range(3):
            once.warning("no capability", about="netlink", reason="x")
            once.warning("no capability", about="content", reason="x")
            _fail(once)
    events = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [event["event"] for event in events] == ["no capability", "no capability", "tick failed"]
    assert events[2]["error"] == "ValueError('\\x1b[2J')"
    assert re.fullmatch(r"test_log\.py:\d+", events[2]["place"])


def _fail(once: Once) -> None:
    try:
        raise ValueError(HOSTILE[0][:4])
    except ValueError as error:
        once.failure("tick failed", error)


class Kept:
    """A log that keeps what it was told."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def info(self, event: str, **fields: Any) -> None:
        self.events.append(event)

    warning = error = info


def test_what_once_remembers_is_bounded_by_event() -> None:
    kept = Kept()
    log: Log = kept
    once = Once(log)
    for number in range(10_100):
        once.warning("flood", about=str(number))
    assert kept.events.count("flood") == 200
    assert kept.events[-1] == "no more of these are logged until a restart"
    once.warning("something else", about="x")
    assert kept.events[-1] == "something else", "one event does not silence another"


def test_a_held_level_has_no_reasons_to_tell() -> None:
    assert verdict_line(HELD, "confirmed")["findings"] == []


def test_a_private_rule_is_told_by_its_id_only() -> None:
    evidence = (Evidence("CommandLine", "./a --donate-level 1", "contains '--donate-level'"),)
    secret = make_finding(title="Our rivals' pool", evidence=evidence, private=True)
    seen = make_observation(make_container(), make_verdict(make_container(), secret))
    status = container_status(seen, node="n", boot_unix_s=0.0, public=True)
    (told,) = verdict_line(status, "clear")["findings"]
    assert (told["rule"], told["title"]) == (secret.rule, f"private rule {secret.rule}")
    assert told["evidence"] == {}
    assert "rivals" not in json.dumps(told)
    assert "donate" not in json.dumps(told)


def test_whose_it_is_stands_in_the_line_without_secrets() -> None:
    owned = structs.replace(MINER, owner="https://ada:hunter2@example.org/a/b\n", image="lab:1")
    line = verdict_line(owned, "clear")
    assert (line["owner"], line["image"]) == ("https://ada:…@example.org/a/b\\n", "lab:1")
