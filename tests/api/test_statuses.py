from __future__ import annotations

import json
from dataclasses import replace

from minerwatch.api.snapshot import encode
from minerwatch.api.statuses import (
    MAX_COMMAND_LINE_LENGTH,
    container_status,
    encoded_worst_first,
    worst_first,
)
from minerwatch.api.types import ContainerStatus
from minerwatch.detection.judge import joined_score, signal_scores
from minerwatch.format import rfc3339
from minerwatch.model import (
    Connection,
    Container,
    ContainerKind,
    CpuLimit,
    Evidence,
    Finding,
    Level,
    Observation,
    ProcessId,
    ProcessLoad,
    Signal,
    Verdict,
)
from tests.builders import make_finding, make_process
from tests.report.samples import NODE, POOL

BOOT_UNIX_S = 1_763_850_000.0
PROCESS = make_process(
    4711,
    99,
    comm="a",
    command_line="./a" + " x" * 1_000_000 + f" -o {POOL}",
    image="/tmp/a",
    uid=1000,
    user="jovyan",
    program=123,
)


def finding(signal: Signal, score: float, process: ProcessId | None = PROCESS.id) -> Finding:
    evidence = (
        Evidence("CommandLine", "./a x", "contains 'x'"),
        Evidence("CommandLine", "./a x", "ends with 'x'"),
        Evidence("CpuCores", 0.99, ">= 0.9"),
    )
    return make_finding(
        signal, score, rule="id", title="title", since_s=60.0, process=process, evidence=evidence
    )


def observation(
    container: Container, findings: tuple[Finding, ...] = (), **changes: object
) -> Observation:
    score = joined_score(signal_scores(findings))
    values: dict[str, object] = {
        "at_s": 100.0,
        "cpu_cores": 1.98765,
        "cpu_s": 7200.0,
        "limit": CpuLimit(2.0, 10, 4),
        "throttled_share": 0.4,
        "process_count": 14,
        "processes": (ProcessLoad(PROCESS, 0.98765),),
        "verdict": Verdict(container.key, 100.0, score, Level.of(score), 60.0, findings),
        **changes,
    }
    return Observation(container=container, **values)  # type: ignore[arg-type]


UNIT = Container("/system.slice/ssh.service", 7, ContainerKind.UNIT, "ssh.service", "systemd")
POD = Container("/kubepods/podx/" + "3f" * 32, 8, ContainerKind.POD, "3f" * 32, "containerd", "x")


def test_the_keys_are_those_that_the_design_promises() -> None:
    (read,) = json.loads(encode([status_of(POD, (finding(Signal.IDENTITY, 88.0),))]))
    assert {
        *("node", "namespace", "pod", "container", "container_id", "runtime", "image", "cgroup"),
        *("cpu_cores", "cpu_limit_cores", "cpu_hours", "score", "level", "since", "signals"),
        *("owner", "findings", "processes"),
    } <= set(read)
    assert {"rule", "title", "signal", "score", "since", "pid", "evidence"} <= set(
        read["findings"][0]
    )
    assert {"pid", "comm", "command_line", "image", "cpu_cores"} <= set(read["processes"][0])


def status_of(container: Container, findings: tuple[Finding, ...] = ()) -> ContainerStatus:
    return container_status(
        observation(container, findings), node="node-7", boot_unix_s=BOOT_UNIX_S
    )


def test_connections_are_told_with_the_process_that_has_them() -> None:
    load = ProcessLoad(PROCESS, 0.9, (Connection("203.0.113.7", 3333, 60.0),))
    status = container_status(
        observation(POD, processes=(load,)), node="node-7", boot_unix_s=BOOT_UNIX_S
    )
    (told,) = status.processes[0].connections
    assert (told.address, told.port) == ("203.0.113.7", 3333)
    assert told.since == rfc3339(BOOT_UNIX_S + 60.0)


def test_what_an_observation_becomes() -> None:
    findings = (finding(Signal.IDENTITY, 88.0), finding(Signal.BEHAVIOUR, 29.0, None))
    status = status_of(POD, findings)
    assert (status.container, status.container_id) == ("3f" * 6, "3f" * 32)
    assert (status.cpu_cores, status.cpu_limit_cores, status.cpu_hours) == (1.988, 2.0, 2.0)
    assert (status.score, status.level) == (89.99, "likely")  # behaviour confirms nothing
    assert status.since == "2025-11-22T22:21:00Z"
    assert status.signals == {"identity": 88.0, "behaviour": 29.0}
    assert [each.pid for each in status.findings] == [4711, None]
    assert status.findings[0].evidence == {"CommandLine": "./a x", "CpuCores": 0.99}
    assert status.findings[0].expected["CommandLine"] == "contains 'x'; ends with 'x'"
    assert status_of(UNIT).container == "ssh.service"


def test_findings_of_other_processes_of_the_host_are_marked_as_not_counted() -> None:
    host = Container("/", 1, ContainerKind.HOST, "host", "")
    other = ProcessId(4712, 9)
    findings = (
        finding(Signal.IDENTITY, 88.0),
        finding(Signal.NETWORK, 60.0, other),
        finding(Signal.BEHAVIOUR, 29.0, None),
    )
    assert [each.counted for each in status_of(host, findings).findings] == [True, False, True]
    assert all(each.counted for each in status_of(POD, findings).findings)


def test_what_was_not_measured() -> None:
    idle = observation(UNIT, cpu_cores=None, limit=None, throttled_share=None, processes=())
    status = container_status(idle, node="", boot_unix_s=0.0)
    assert (status.cpu_cores, status.cpu_limit_cores, status.throttled_share) == (0.0, None, None)


def test_a_long_command_line_keeps_both_ends() -> None:
    (process,) = status_of(UNIT).processes
    assert len(process.command_line) == MAX_COMMAND_LINE_LENGTH
    assert process.command_line.startswith("./a x")
    assert process.command_line.endswith(POOL)


def test_encoded_one_by_one_they_are_as_encoded_together() -> None:
    for statuses in (NODE, NODE[:1], ()):
        assert encoded_worst_first(iter(statuses)) == encode(worst_first(statuses))


def test_worst_first_then_busiest() -> None:
    assert [status.score for status in worst_first(NODE)][:4] == [95.2, 88.0, 60.0, 60.0]
    clear = [status.cpu_cores for status in worst_first(NODE) if status.score == 0]
    assert clear == sorted(clear, reverse=True)


def test_secrets_are_masked_unless_they_are_asked_for() -> None:
    secret = "hunter2xyz"
    process = replace(PROCESS, command_line=f"mysql -uroot -p{secret} --token {secret} db")
    seen = observation(POD, processes=(ProcessLoad(process, 1.0),))
    shown = container_status(seen, node="n", boot_unix_s=0.0)
    assert shown.processes[0].command_line == "mysql -uroot -p… --token … db"
    asked = container_status(seen, node="n", boot_unix_s=0.0, unmasked=True)
    assert asked.processes[0].command_line == process.command_line


def test_a_secret_is_masked_on_either_side_of_the_cut() -> None:
    secret = "hunter2xyz"
    filler = "word " * 10_000
    line = f"mysql --password {secret} {filler} --token {secret} {filler} --password {secret} end"
    for cut in range(0, 60, 7):
        moved = replace(PROCESS, command_line=line + "x" * cut)
        (shown,) = container_status(
            observation(POD, processes=(ProcessLoad(moved, 1.0),)), node="n", boot_unix_s=0.0
        ).processes
        assert secret not in shown.command_line
        assert "[cut]" in shown.command_line


def test_all_the_words_that_matched_are_shown() -> None:
    evidence = (
        Evidence("CommandLine", "--donate-level", "contains '--donate-level'"),
        Evidence("CommandLine", "stratum+tcp://a:1", "contains 'stratum'"),
        Evidence("CommandLine", "--donate-level", "contains 'donate'"),
    )
    found = replace(finding(Signal.IDENTITY, 88.0), evidence=evidence)
    shown = status_of(POD, (found,)).findings[0]
    assert shown.evidence == {"CommandLine": "--donate-level … stratum+tcp://a:1"}
