from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.culling.evidence import MAX_FINDINGS, MAX_PROCESSES, bundle, file_name
from minerwatch.culling.records import Case, Moment
from minerwatch.model import (
    Attribution,
    Connection,
    Evidence,
    Finding,
    Level,
    OwnerKind,
    OwnerReference,
    ProcessId,
    ProcessLoad,
)
from tests.builders import (
    make_container,
    make_finding,
    make_load,
    make_observation,
    make_pod_container,
    make_verdict,
)
from tests.culling.test_policy import POD, SITUATION

NOW = Moment(1_800_000_000.0, 1000.0, "boot")
CONTAINER = make_container()


def load(pid: int, parent: int = 0, **changes: Any) -> ProcessLoad:
    return make_load(pid, start_ticks=pid * 10, parent_pid=parent, **changes)


def finding(**changes: Any) -> Finding:
    seen = Evidence("CommandLine", "./xmrig -o pool", "contains 'xmrig'")
    plain = {"title": "A title", "since_s": 900.0, "process": ProcessId(7, 70), "evidence": (seen,)}
    return make_finding(**{**plain, **changes})


def made(
    *loads: ProcessLoad, findings: tuple[Finding, ...] = (finding(),), **options: Any
) -> dict[str, Any]:
    verdict = make_verdict(
        CONTAINER, *findings, at_s=990.0, score=91.0, level=Level.CONFIRMED, since_s=900.0
    )
    observation = make_observation(CONTAINER, verdict, *loads, cpu_cores=1.5, cpu_s=7200.0)
    changes = options.pop("case", {})
    case = replace(Case(CONTAINER, verdict, POD, None, SITUATION), **changes)
    given_options = {"culprits": (), "digests": {}, "connections": {}, **options}
    evidence = bundle(case, observation, NOW, **given_options)
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(evidence))
    return found


def test_it_has_what_an_investigator_asks_for() -> None:
    found = made(
        load(7),
        culprits=(ProcessId(7, 70),),
        digests={ProcessId(7, 70): "a" * 64},
        connections={7: (Connection("10.0.0.1", 3333, 950.0),)},
    )
    assert found["verdict"]["since"] == "2027-01-15T07:58:20.000Z"
    assert found["container"]["cpu_hours"] == 2.0
    (process,) = found["processes"]
    assert (process["culprit"], process["sha256"]) == (True, "a" * 64)
    assert found["connections"] == [
        {"pid": 7, "address": "10.0.0.1", "port": 3333, "seen_since": "2027-01-15T07:59:10.000Z"}
    ]
    assert (found["pod"]["name"], found["pod"]["uid"]) == (POD.name, POD.uid)


def test_parents_come_before_their_children() -> None:
    found = made(load(4, 3), load(3, 2), load(9), load(2, 1), load(5, 3))
    assert [(each["pid"], each["depth"]) for each in found["processes"]] == [
        (9, 0), (2, 0), (3, 1), (4, 2), (5, 2),
    ]  # fmt: skip


def test_a_circle_of_parents_ends() -> None:
    found = made(load(4, 3), load(3, 4), load(5, 5))
    assert sorted(each["pid"] for each in found["processes"]) == [3, 4, 5]


def test_secrets_are_taken_out_before_anything_is_cut() -> None:
    long = "x " * 2000
    found = made(
        load(7, command_line=f"./a --password hunter2 {long} TOKEN=hunter3"),
        findings=(finding(evidence=(Evidence("CommandLine", "--password hunter4 -o", "x"),)),),
        command_lines=True,
    )
    assert "hunter" not in str(found)
    assert "--password …" in found["processes"][0]["command_line"]


def test_there_are_no_command_lines_but_where_they_are_asked_for() -> None:
    assert "command_line" not in made(load(7))["processes"][0]
    asked = made(load(7), command_lines=True)["processes"][0]
    assert asked["command_line"] == "./xmrig -o pool"


def test_of_a_private_rule_only_the_id_is_told() -> None:
    found = made(load(7), findings=(finding(private=True, title="what it looks for"),))
    assert "what it looks for" not in str(found)
    assert "contains" not in str(found["findings"])
    assert found["findings"][0]["rule"] == "rule-1"


def test_why_there_is_no_digest_is_said() -> None:
    (process,) = made(load(7), digests={ProcessId(7, 70): "- too large"})["processes"]
    assert (process["sha256"], process["no_sha256"]) == (None, "too large")


def test_it_is_bounded() -> None:
    many = made(
        *(load(pid) for pid in range(1, 1000)),
        findings=tuple(finding(rule=f"r{number}") for number in range(200)),
    )
    assert len(many["processes"]) == MAX_PROCESSES
    assert len(many["findings"]) == MAX_FINDINGS
    few = made(*(load(pid) for pid in range(1, 1000)), most=2)
    assert len(few["processes"]) == 2


def test_no_names_of_a_pod_make_it_longer_than_a_line_of_the_log() -> None:
    long = "\x01" * 1000
    pod = replace(
        POD,
        labels={f"k{number}": long for number in range(64)},
        owners=tuple(OwnerReference(long, long, "u", is_controller=True) for _ in range(16)),
        containers=tuple(make_pod_container(f"c{n}", image=long) for n in range(256)),
        service_account=long,
    )
    owners = tuple(Attribution(OwnerKind.CONFIGURED, long, long) for _ in range(32))
    found = made(load(7), case={"pod": pod, "owners": owners}, most=1)
    assert len(msgspec.json.encode(found)) < 32 << 10


@given(st.text(), st.text())
def test_whatever_they_are_called_it_is_plain_json(name: str, command: str) -> None:
    name, command = (each.encode("utf-8", "backslashreplace").decode() for each in (name, command))
    process = load(7, comm=name, command_line=command, image=name, user=name)
    found = made(process, command_lines=True)
    (process,) = found["processes"]
    assert process["comm"].isprintable() or process["comm"] == ""
    assert len(process["command_line"]) <= 11 * 1024


@given(st.text(), st.text(), st.floats(allow_nan=True, allow_infinity=True))
def test_a_file_is_called_what_any_file_system_takes(record: str, pod: str, unix_s: float) -> None:
    name = file_name(record, pod, unix_s)
    assert name.isascii()
    assert "/" not in name
    assert not name.startswith(".")
    assert len(name) < 200
    assert name.endswith(".json")
