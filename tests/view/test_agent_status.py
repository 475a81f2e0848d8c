from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from minerwatch.api.types import AgentStatus, ClusterReport, ProbeReport, TickReport
from minerwatch.untrusted_text.display import printable
from minerwatch.view.agent_status import fleet_row, problems, status_text
from tests.report.samples import hostile_text

NOW = datetime(2026, 11, 23, 2, 20, tzinfo=UTC)
GOOD = AgentStatus(
    "node-1",
    "0.1.0",
    "2026-11-23T00:10:00Z",
    10.0,
    {"stable": 21, "test": 109},
    culling="off",
    kernel="6.1.0",
    cgroups="cgroup v2",
    capabilities=("BPF", "PERFMON"),
    metrics="https://10.0.0.7:9797/metrics",
    last_tick=TickReport("2026-11-23T02:19:55Z", 0.0123, 35, 212),
    probes=(
        ProbeReport("tasks", "on"),
        ProbeReport("executed_code", "on", "", "kernel entries"),
        ProbeReport("drift", "unavailable", "the capability SYS_PTRACE is missing: grant it"),
        ProbeReport("content", "off", "switched off (probes.content)"),
    ),
    cluster=ClusterReport("https://10.0.0.1", 31, "2026-11-23T02:19:40Z", 2),
    bounds={"texts of processes shortened": 3},
)
TEXT = """\
node node-1: ok, agent 0.1.0, up 2h10m
  kernel        6.1.0, cgroup v2
  tick          every 10 s; the last 5s ago, in 12 ms: 35 containers, 212 processes
  rules         130 in force: 21 stable, 109 test
  culling       observe
  cluster       https://10.0.0.1: 31 pods, synced 20s ago; 2 containers of pods without a name
  metrics       https://10.0.0.7:9797/metrics
  capabilities  BPF, PERFMON

Probes
  tasks         on
  executed_code on           by kernel entries
  drift         unavailable  the capability SYS_PTRACE is missing: grant it
  content       off          switched off (probes.content)

Bounds reached, since the start unless it says now
  texts of processes shortened: 3
"""


def plain(agent: AgentStatus, width: int | None = None) -> str:
    text = status_text(agent, now=NOW, width=width, colour=False)
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def test_an_agent_that_works() -> None:
    assert problems(GOOD) == ()
    assert plain(GOOD) == TEXT
    assert fleet_row(GOOD, width=None) == (
        "node-1: ok · 0.1.0 · 130 rules · observe · tick 12 ms · 35 containers · unavailable: drift"
    )


@pytest.mark.parametrize(
    ("agent", "problem"),
    [
        (structs.replace(GOOD, not_ready="no tick yet"), "not ready: no tick yet"),
        (structs.replace(GOOD, troubles=("no pods",)), "no pods"),
        (
            structs.replace(GOOD, failing={"pods": "timeout (9 times)"}),
            "pods fails: timeout (9 times)",
        ),
        (structs.replace(GOOD, broken_rules=2), "2 rule files rejected"),
    ],
)
def test_what_has_to_be_mended_comes_first(agent: AgentStatus, problem: str) -> None:
    assert problems(agent) == (problem,)
    assert plain(agent).splitlines()[:2] == [
        "node node-1: FAILING, agent 0.1.0, up 2h10m",
        f"  {problem}",
    ]
    assert fleet_row(agent, width=None).startswith(f"node-1: FAILING · {problem} · ")


def test_an_older_agent_says_less() -> None:
    assert plain(AgentStatus("n", "0.0.1", interval_s=10.0)).splitlines() == [
        "node n: ok, agent 0.0.1",
        "  tick          every 10 s",
        "  rules         0 in force:",
        "  culling       unknown",
    ]


@given(
    hostile_text,
    st.dictionaries(hostile_text, hostile_text, max_size=2),
    st.sampled_from([None, 1, 40, 120]),
)
def test_whatever_an_agent_says_has_no_power(
    text: str, failing: dict[str, str], width: int | None
) -> None:
    agent = structs.replace(
        GOOD, node=text, kernel=text, rejected=(text,), probes=(ProbeReport(text, text, text),),
        failing=failing, bounds={text: 1}, blind_spots=(text,), cgroups=text,
    )  # fmt: skip
    for line in plain(agent, width).splitlines():
        assert printable(line) == line
    assert "\n" not in fleet_row(agent, width=width)
