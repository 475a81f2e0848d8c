from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from minerwatch.abuse_text import text_of
from minerwatch.api.types import ContainerStatus, OwnerStatus
from minerwatch.detection.judge import joined_score
from minerwatch.model import Abuse, Signal
from minerwatch.untrusted_text.display import printable
from minerwatch.view.explanation import explanation
from tests.report.samples import (
    BUSY,
    HELD,
    HOST,
    HOSTILE_ONE,
    LIKELY,
    MINER,
    NOW,
    POOL,
    SCAN,
    SIMULATION,
    SUSPICIOUS,
    WALLET,
    container,
    containers,
    finding,
    process,
)

Golden = Callable[[str, str], None]


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("confirmed", MINER),
        ("likely", LIKELY),
        ("scan", SCAN),
        ("suspicious", SUSPICIOUS),
        ("held", HELD),
        ("clear-busy", SIMULATION),
        ("clear-idle", HOST),
        ("hostile", HOSTILE_ONE),
    ],
)
def test_explanations(golden: Golden, name: str, status: ContainerStatus) -> None:
    golden(f"explain-{name}.txt", explanation(status, now=NOW, width=100))


def test_a_scan_is_never_called_a_miner() -> None:
    signals = {each.value: 40.0 for each in Signal}
    for abuse in (each.value for each in Abuse if each is not Abuse.MINING):
        status = structs.replace(SCAN, abuse=abuse, abuses={abuse: 80.0}, signals=signals)
        text = explanation(status, now=NOW, width=None).replace("minerwatch", "")
        assert not re.search(r"(?i)miner|mining|cryptocurrency", text)
        assert f"Abuse      {abuse}: looks as if it {text_of(abuse).does}" in text


def test_a_container_in_the_hosts_network_says_what_is_not_looked_for() -> None:
    text = explanation(structs.replace(SCAN, uses_host_network=True), now=NOW, width=None)
    assert "Network    the node's, which counts for all that runs on it: scans and floods" in text
    assert "Network " not in explanation(SCAN, now=NOW, width=None)


def test_a_narrow_coloured_terminal(golden: Golden) -> None:
    golden("explain-colour-60.txt", explanation(MINER, now=NOW, width=60, colour=True))


def test_the_sum_is_the_score() -> None:
    assert "100 × (1 − (1 − 0.88) × (1 − 0.6)) = 95.2" in explanation(MINER, now=NOW)
    busy = structs.replace(MINER, signals={"identity": 88.0, "behaviour": 29.0}, level="likely")
    score = joined_score({Signal(name): value for name, value in busy.signals.items()})
    shown = explanation(structs.replace(busy, score=score), now=NOW)
    assert "100 × (1 − (1 − 0.88) × (1 − 0.29)) = 91.48" in shown
    assert "limited to 89.99: behaviour never changes the level" in shown


def test_words_of_one_argument_are_said_to_be_limited() -> None:
    words = structs.replace(finding(), score=60.0, words_only=True)
    port = structs.replace(finding("Connection to a pool's port"), signal="network", score=45.0)
    status = structs.replace(
        MINER,
        score=69.99,
        level="suspicious",
        signals={"identity": 60.0, "network": 45.0},
        findings=(words, port),
    )
    shown = explanation(status, now=NOW)
    assert "its words stand in one argument or in a script: 60 at most" in shown
    assert "limited to 69.99: words of one argument lift nothing above suspicious" in shown


def test_the_filters_that_narrow_a_rule_are_named_below_it() -> None:
    narrowed = structs.replace(finding(), filters=("Node that checks blocks", "a\x1b[2J"))
    lines = explanation(structs.replace(MINER, findings=(narrowed,)), now=NOW).splitlines()
    (first,) = (number for number, line in enumerate(lines) if "Node that checks" in line)
    assert " rule " in lines[first - 1]
    assert lines[first : first + 2] == [
        "          narrowed by the filter: Node that checks blocks",
        "          narrowed by the filter: a\\e[2J",
    ]


def test_what_may_be_copied_is_whole_and_not_redacted() -> None:
    shown = explanation(MINER, now=NOW, width=60)
    assert f"-o {POOL} -u {WALLET}" in shown
    assert "kubectl -n binder describe pod jupyter-alice-2dnotebooks-2dx7f3k2\n" in shown


def test_a_long_command_line_shows_both_ends_and_the_cut() -> None:
    long = container(processes=(process(command_line="./a" + " x" * 1_000_000 + f" -o {POOL}"),))
    (line,) = (line for line in explanation(long, now=NOW).splitlines() if POOL in line)
    assert "./a x x" in line
    assert "…[cut]…" in line
    assert len(line) < 400


def test_copies_of_one_program_are_told_together() -> None:
    copies = container(
        level="likely",
        score=88.0,
        signals={"identity": 88.0},
        findings=tuple(finding(pid=pid) for pid in range(100, 200)),
    )
    shown = explanation(copies, now=NOW)
    assert "processes 100, 101, 102, 103, 104 and 95 more" in shown
    assert shown.count("XMRig command line") == 3  # the first sentence, the score, the finding
    assert "left out   99 findings: of each signal only the strongest counts" in shown


def test_the_first_line_is_a_sentence_to_paste_and_holds_no_secret() -> None:
    leaky = structs.replace(MINER, abuse="mining", owner="https://ada:hunter2xyz@git.example.org/x")
    first = explanation(leaky, now=NOW, width=60).splitlines()[0]
    assert first == (
        "binder/jupyter-alice-2dnotebooks-2dx7f3k2/notebook on node node-7 is confirmed as mining,"
        " score 95.2, since 2026-11-23T02:17:45Z; identity ×2: XMRig command line; execution:"
        " Executable deleted from a temporary folder; 1.98 cores; owner https://ada:…@git.example.org/x."
    )


def test_the_host_says_which_findings_its_score_leaves_out_and_why() -> None:
    best = finding(pid=1)
    host = container(
        kind="host",
        container="host",
        abuse="mining",
        score=88.0,
        level="likely",
        signals={"identity": 88.0},
        findings=(
            best,
            structs.replace(best, score=60.0, title="Weaker", status="experimental"),
            *(finding(pid=pid, counted=False, abuse="mining") for pid in range(2, 9)),
            finding(pid=9, counted=False, abuse="cracking", title="Hashes"),
        ),
    )
    shown = explanation(host, now=NOW, width=None)
    assert (
        """
  identity     88  XMRig command line (and 1 more)
  left out   7 findings of processes 2, 3, 4, 5, 6 and 2 more: processes of the host are unrelated, so the score is that of the worst one
             1 finding of cracking: the score is of one kind of abuse, here mining
             1 finding: of each signal only the strongest counts
             1 finding of experimental rules: in the score, but no ground for Events and actions
"""  # noqa: E501
        in shown
    )
    assert "identity ×2: XMRig command line;" in shown.splitlines()[0]


def test_many_different_findings_are_cut_with_a_mark() -> None:
    many = container(
        findings=tuple(
            finding(pid=pid, rule=f"{pid}-{number}") for pid in range(30) for number in range(30)
        )
    )
    shown = explanation(many, now=NOW)
    assert "and 22 processes more" in shown
    assert "and 20 more" in shown
    assert len(shown.splitlines()) < 300


def test_evidence_that_different_processes_gave_is_said_to_be_so() -> None:
    apart = container(
        signals=MINER.signals, findings=(finding(), finding(signal="execution", pid=1))
    )
    together = container(signals=MINER.signals, findings=(finding(), finding(signal="execution")))
    shared = container(
        signals=MINER.signals, findings=(finding(), finding(signal="behaviour", pid=None))
    )
    said = "another process"
    assert said in explanation(apart, now=NOW)
    assert said not in explanation(together, now=NOW)
    assert said not in explanation(shared, now=NOW)


def test_behaviour_alone_is_called_what_it_is() -> None:
    busy = container(signals={"behaviour": 29.0}, score=29.0, findings=(BUSY,), cpu_cores=1.98)
    assert "alone, this never raises an alarm" in explanation(busy, now=NOW, width=None)


def test_memory_threads_and_files_are_shown_where_they_are_known() -> None:
    status = LIKELY
    assert "MEMORY" not in explanation(status, now=NOW)
    known = structs.replace(status.processes[0], memory_bytes=57 << 20, threads=3, open_files=12)
    text = explanation(structs.replace(status, processes=(known, *status.processes[1:])), now=NOW)
    row = next(line for line in text.splitlines() if f" {known.pid} " in line and "MiB" in line)
    assert "57 MiB" in row
    assert "3 threads, 12 open files" in text


def test_commands_are_safe_to_paste() -> None:
    trap = container(
        kind="unit",
        container_id="$(reboot).service",
        namespace="-n kube-system",
        pod="x; reboot",
        findings=(finding(),),
    )
    shown = explanation(trap, now=NOW)
    assert "systemctl status '$(reboot).service'" in shown
    assert "minerwatch explain '$(reboot).service' -o json" in shown
    assert "kubectl" not in shown
    for bad in ("a\nreboot", "--help", "\u202e"):
        hidden = container(kind="unit", container_id=bad, cgroup=bad, findings=(finding(),))
        assert "systemctl" not in explanation(hidden, now=NOW)
        assert "minerwatch explain" not in explanation(hidden, now=NOW)


@given(containers, st.one_of(st.none(), st.integers(1, 200)))
def test_whatever_a_container_holds_the_text_is_harmless_and_bounded(
    status: ContainerStatus, width: int | None
) -> None:
    shown = explanation(status, now=NOW, width=width)
    lines = shown.split("\n")
    assert lines.pop() == ""
    assert all(printable(line) == line for line in lines)
    assert all(len(line) < 10_000 for line in lines)
    assert len(lines) < 400
    assert status.level.upper() in shown
    coloured = explanation(status, now=NOW, width=width, colour=True)
    assert coloured.count("\n") == shown.count("\n")


def test_all_names_are_shown_with_their_sources() -> None:
    owners = (
        OwnerStatus("annotation hub.jupyter.org/username", "ada", "user"),
        OwnerStatus("environment BINDER_CLIENT_IP", "192.0.2.7", "client", claimed=True),
        OwnerStatus("x", "https://me:ghp_0123456789abcdefghijABCDEFGHIJ012345@h/r", "repository"),
        OwnerStatus("container", "lab:1", "image"),
    )
    text = explanation(structs.replace(MINER, owner="ada", owners=owners), now=NOW)
    assert "User       ada  (annotation hub.jupyter.org/username)\n" in text
    assert "Client     192.0.2.7  (claimed by environment BINDER_CLIENT_IP)\n" in text
    assert "ghp_" not in text
    assert text.count("lab:1") == 0, "the image has a line of its own"
