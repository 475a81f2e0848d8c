"""A real agent records a busy loop that is named like a miner; the report says so."""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from click.testing import CliRunner

from minerwatch.agent.parts import Parts
from minerwatch.agent.past import PastIncidents
from minerwatch.api import orders
from minerwatch.cli.main import cli
from minerwatch.config.schema import Config
from minerwatch.culling.audit_log import AuditError
from minerwatch.culling.records import ActionRecord, AuditLine
from minerwatch.format import rfc3339
from minerwatch.model import Action, Outcome
from minerwatch.report.journal import JournalFiles
from tests.agent.test_daemon import OWN_RULES_ONLY, RunningAgent, few_rules
from tests.agent.test_tick import POOL
from tests.conftest import TOP, CgroupFolders, Programs, container_id
from tests.view.test_journal_history import verdict

NAME = container_id("e9")[:12]
SECRET = "hunter2hunter2"


def test_what_a_real_agent_records_is_reported(
    tmp_path: Path, cgroups: CgroupFolders, programs: Programs
) -> None:
    journal, config = tmp_path / "journal", tmp_path / "config.yml"
    config.write_text(f"{OWN_RULES_ONLY}report: {{price_per_core_hour: 0.5, currency: EUR}}\n")
    options = ("--config", str(config), "--journal", str(journal), "--rules")
    folder = cgroups.make(f"{TOP}/docker/{container_id('e9')}")
    with closing(RunningAgent(tmp_path, *options, str(few_rules(tmp_path)))) as agent:
        agent.line("watching")
        miner = programs.start("xmrig", "--password", SECRET, *POOL, busy=True)
        cgroups.put(miner, folder)
        agent.line("verdict", container=NAME)
        none = 'minerwatch_detection_delay_seconds_count{abuse="mining"} 0.0'
        agent.until(lambda: none not in agent.get("/metrics")[1])  # others' miners count, too
        miner.kill()
        miner.wait()
        agent.line("verdict", container=NAME, level="clear")
        words = ["report", "--socket", str(agent.socket), "--format", "json"]
        agent.until(lambda: _of_container(words)["ended"])
        asked = _of_container(words)
        assert agent.stop() == 0
    assert (asked["abuse"], asked["level"]) in (("mining", "likely"), ("mining", "confirmed"))
    assert 0 <= asked["delay_s"] < 600
    assert asked["rules"]
    assert asked["flagged"] <= asked["detected"] <= asked["ended"]

    read = CliRunner().invoke(cli, ["report", "--journal", str(journal)])
    assert read.exit_code == 0, read.output
    assert NAME in read.stdout
    assert "nothing was recorded for 6d23h" in read.stdout
    page = CliRunner().invoke(cli, ["report", "--journal", str(journal), "--format", "html"])
    assert NAME in page.stdout
    assert SECRET not in read.stdout + page.stdout + json.dumps(asked)
    assert [*JournalFiles(journal).read()]


def _of_container(words: list[str]) -> dict[str, Any]:
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["prices"] == {"core_hour": 0.5, "gpu_hour": None, "currency": "EUR"}
    (own,) = [each for each in found["incidents"] if each["container"] == NAME]
    return dict(own)


def test_without_a_journal_the_node_is_missing_and_the_reason_says_what_to_do(
    tmp_path: Path,
) -> None:
    with closing(RunningAgent(tmp_path, all_rules=False)) as agent:
        agent.line("watching")
        result = CliRunner().invoke(cli, ["report", "--socket", str(agent.socket)])
    assert result.exit_code == 1
    assert "it keeps no journal" in result.output
    assert "report.journal" in result.output


def past_of(folder: Path, audit: list[AuditLine] | AuditError) -> PastIncidents:
    """The handler of an agent with a journal of one incident, and with these lines of audit."""
    files = JournalFiles(folder)
    files.append(verdict(time.time() - 600))

    def audit_lines(_hours: float) -> tuple[AuditLine, ...]:
        if isinstance(audit, AuditError):
            raise audit
        return (*audit,)

    parts = SimpleNamespace(
        recorder=SimpleNamespace(journal=SimpleNamespace(files=files, failures={"ENOSPC": 2})),
        culling=SimpleNamespace(audit_lines=audit_lines),
        node=SimpleNamespace(name="node-1"),
        state=SimpleNamespace(config=Config()),
    )
    return PastIncidents(cast("Parts", parts))


def audited(kind: str, outcome: Outcome) -> AuditLine:
    record = ActionRecord(
        id="i", unix_s=0.0, monotonic_s=0.0, boot_id="b", node="node-1", namespace="ns", pod="p",
        pod_uid="u", owner=f"token={SECRET}", action=Action.STOP, rung=0, dry_run=False,
        outcome=outcome,
    )  # fmt: skip
    return AuditLine(kind, rfc3339(time.time() - 60), "node-1", record=record)


def test_actions_and_releases_of_the_audit_log_are_added(tmp_path: Path) -> None:
    lines = [
        audited("action", Outcome.PENDING),
        audited("outcome", Outcome.DONE),
        audited("release", Outcome.RELEASED),
        AuditLine("decision", rfc3339(time.time()), "node-1"),
    ]
    answer = past_of(tmp_path, lines)(orders.encode(orders.HoursOrder(1.0)))
    found = orders.history_answer(answer.body)
    assert [each.outcome for each in found.incidents[0].actions] == ["done", "released"]
    assert (found.node, found.lost, found.audit) == ("node-1", {"ENOSPC": 2}, "")
    assert SECRET.encode() not in answer.body


def test_an_audit_log_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    answer = past_of(tmp_path, AuditError("audit.jsonl: Permission denied"))(b'{"hours": 1}')
    assert orders.history_answer(answer.body).audit == "audit.jsonl: Permission denied"


@pytest.mark.parametrize(
    "order", [b"", b"{}", b'{"hours": 0}', b'{"hours": 1e9}', b'{"hours": -1}']
)
def test_an_order_that_is_none_is_refused(tmp_path: Path, order: bytes) -> None:
    answer = past_of(tmp_path, [])(order)
    assert answer.status == 409
    assert answer.body.startswith(b"invalid order")
