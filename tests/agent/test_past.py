"""A real agent records a busy loop that is named like a miner; the report says so."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from minerwatch.cli.main import cli
from minerwatch.report.journal import JournalFiles
from tests.agent.test_daemon import OWN_RULES_ONLY, RunningAgent, few_rules
from tests.agent.test_tick import POOL
from tests.conftest import TOP, CgroupFolders, Programs, container_id

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
        counted = 'minerwatch_detection_delay_seconds_count{abuse="mining"} 1.0'
        agent.until(lambda: counted in agent.get("/metrics")[1])
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
