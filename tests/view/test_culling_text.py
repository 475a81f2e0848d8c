from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from minerwatch.api.types import (
    ActionStatus,
    CullAnswer,
    CullStatus,
    ReleaseAllAnswer,
    ReleaseAnswer,
)
from minerwatch.culling.records import ActionRecord, AuditLine, DecisionLine
from minerwatch.model import Action, Outcome
from minerwatch.untrusted_text.display import printable
from minerwatch.view.culling_text import cull_text, release_all_text, release_text, simulation_text
from minerwatch.view.explanation import explanation
from tests.report.samples import MINER, NOW, hostile_text

Golden = Callable[[str, str], None]

PERMITTED = CullAnswer(
    node="worker-1",
    namespace="binder",
    pod="jupyter-eve",
    container="notebook",
    owner="eve",
    level="confirmed",
    score=95.2,
    proposed="evict",
    dry_run=False,
    acts=True,
    reasons=(),
    request='POST /api/v1/namespaces/binder/pods/jupyter-eve/eviction {"kind":"Eviction"}',
    outcome="done",
)
OBJECTED = structs.replace(
    PERMITTED,
    acts=False,
    dry_run=True,
    outcome="",
    reasons=("The namespace is protected (binder).", "It is too young (3 s, 300 s at least)."),
)
RELEASED = ReleaseAnswer("worker-1", "binder", "jupyter-eve", "notebook", (7, 8), (9,), True)
RELEASED_ALL = ReleaseAllAnswer(
    "worker-1", (RELEASED, structs.replace(RELEASED, pod="b", container="")), False, False
)
STATUS = CullStatus(
    mode="enforce",
    action="observe",
    proposed="stop",
    dry_run=False,
    rung=0,
    reasons=("It has been done already (stop).",),
    pids=(4242,),
    stopped=(4242,),
    history=(
        ActionStatus("2026-11-20T08:00:00Z", "release", "released", False, ()),
        ActionStatus("2026-11-20T07:59:00Z", "stop", "done", False, (4242,)),
        ActionStatus("2026-11-20T07:00:00Z", "evict", "dry-run", True, ()),
    ),
)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cull-done", cull_text(PERMITTED)),
        ("cull-objected", cull_text(OBJECTED)),
        (
            "cull-refused",
            cull_text(
                structs.replace(PERMITTED, outcome="refused", message="403 Forbidden: no right")
            ),
        ),
        ("release", release_text(RELEASED)),
        (
            "release-nothing",
            release_text(structs.replace(RELEASED, resumed=(), gone=(), label_removed=False)),
        ),
        (
            "release-trouble",
            release_text(structs.replace(RELEASED, gone=(), trouble=("the label: 403 Forbidden",))),
        ),
        ("release-all", release_all_text(RELEASED_ALL)),
        (
            "release-all-forgotten",
            release_all_text(
                structs.replace(RELEASED_ALL, released=(), acts_no_more=True, forgotten=True)
            ),
        ),
        (
            "release-all-trouble",
            release_all_text(structs.replace(RELEASED_ALL, trouble=("no log",))),
        ),
    ],
)
def test_what_is_printed(golden: Golden, name: str, text: str) -> None:
    golden(f"{name}.txt", text)


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("stopped", STATUS),
        ("acting", structs.replace(STATUS, reasons=(), stopped=(), history=(), action="stop")),
        ("off", CullStatus("off", "observe", "observe", True, 0, ("Culling is off.",))),
    ],
)
def test_explain_says_what_culling_does(golden: Golden, name: str, status: CullStatus) -> None:
    shown = explanation(structs.replace(MINER, culling=status), now=NOW)
    start = shown.index("\nCulling\n")
    golden(f"explain-culling-{name}.txt", shown[start:])


def decision(pod: str, **changes: object) -> DecisionLine:
    plain = DecisionLine(
        namespace="binder", pod=pod, container="notebook", pod_uid=f"uid-{pod}", owner="eve",
        score=95.2, level="confirmed", proposed="evict", acts=False, dry_run=True, rung=0,
        reasons=("It is too young (3 s, 300 s at least).",),
    )  # fmt: skip
    return DecisionLine(**{**{f: getattr(plain, f) for f in plain.__struct_fields__}, **changes})


def record(pod: str, outcome: Outcome) -> ActionRecord:
    return ActionRecord(
        id=f"{pod}/1", unix_s=0.0, monotonic_s=0.0, boot_id="b", node="n", namespace="binder",
        pod=pod, pod_uid=f"uid-{pod}", owner="eve", action=Action.EVICT, rung=0, dry_run=True,
        outcome=outcome,
    )  # fmt: skip


def past(pod: str, minute: int, outcome: Outcome, message: str = "") -> list[AuditLine]:
    """First too young, then tried, then ended."""
    at = f"2026-11-24T10:{minute:02}:0{{}}.000Z"
    acting = decision(pod, acts=True, reasons=())
    pending = record(pod, Outcome.PENDING)
    ended = record(pod, outcome)
    return [
        AuditLine("decision", at.format(0), "n", decision=decision(pod)),
        AuditLine("action", at.format(1), "n", record=pending, decision=acting),
        AuditLine("outcome", at.format(2), "n", record=ended, message=message),
    ]


def test_what_would_have_been_culled(golden: Golden) -> None:
    lines = [
        *past("eve", 1, Outcome.DRY_RUN),
        *past("mallory", 2, Outcome.DONE),
        *past("trent", 3, Outcome.REFUSED, "429 Cannot evict pod"),
        *past("eve", 4, Outcome.WITHDRAWN, "what came later does not hide what came first"),
        AuditLine("decision", "2026-11-24T10:05:00.000Z", "n", decision=decision("ada")),
        AuditLine("start", "2026-11-24T10:06:00.000Z", "n"),
    ]
    golden("cull-simulate.txt", simulation_text(lines, 24))


def test_nothing_would_have_been_culled() -> None:
    assert simulation_text([], 1).startswith("In the last hour no container was confirmed")


def test_a_container_of_a_host_has_its_engines_name() -> None:
    answer = structs.replace(PERMITTED, namespace="", pod="docker/web", proposed="stop-container")
    text = cull_text(answer)
    assert text.startswith("docker/web on node ")
    assert "permits to stop the container" in text
    released = structs.replace(
        RELEASED, namespace="", pod="docker/web", resumed=(), gone=(), label_removed=False,
        trouble=(), unpaused=True,
    )  # fmt: skip
    assert release_text(released).splitlines() == [
        "docker/web is released: no further actions.",
        "The container is no longer paused.",
    ]


def test_very_many_are_cut_with_a_mark() -> None:
    lines = [
        AuditLine("decision", f"2026-11-24T10:{n % 60:02}:00.000Z", "n", decision=decision(str(n)))
        for n in range(1000)
    ]
    text = simulation_text(lines, 24)
    assert "1000 left alone" in text
    assert "… 800 earlier ones: use -o json" in text
    assert len(text.splitlines()) == 203


@given(hostile_text, hostile_text, st.sampled_from(("done", "nonsense", "")))
def test_whatever_an_agent_says_has_no_power_over_a_terminal(
    name: str, reason: str, outcome: str
) -> None:
    answer = structs.replace(
        OBJECTED, pod=name, node=name, owner=name, reasons=(reason,), request=reason,
        outcome=outcome, message=reason, level=name, proposed=reason,
    )  # fmt: skip
    for text in (
        cull_text(answer),
        cull_text(structs.replace(answer, acts=True)),
        release_text(structs.replace(RELEASED, pod=name, trouble=(reason,))),
        simulation_text(
            [AuditLine("decision", reason, "n", decision=decision(name, reasons=(reason,)))], 1
        ),
    ):
        assert all(printable(line) == line for line in text.split("\n"))
