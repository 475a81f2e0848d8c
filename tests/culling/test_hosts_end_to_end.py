"""The real agent on a host without Kubernetes: a busy loop in a unit, stopped and released."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from minerwatch.cli.main import cli
from minerwatch.culling.culler import BUDGET_FILE
from minerwatch.culling.process_signals import STOPPED, state
from minerwatch.model import ProcessId
from tests.agent.test_daemon import OWN_RULES_ONLY, RunningAgent, few_rules, whole_lines
from tests.agent.test_tick import POOL
from tests.conftest import TOP, CgroupFolders, Programs, needs_root
from tests.culling.test_process_signals import identity
from tests.kube.test_culling_end_to_end import COMPUTES_AND_WAITS, STAND_IN, remembered
from tests.waiting import until

_UNIT, _OTHER = "ci@1.service", "web.service"


@dataclass
class _Culled:
    """An agent that culls, and two units that mine, one of which is named."""

    agent: RunningAgent
    config: Path
    audit_log: Path
    miner: ProcessId
    spared: ProcessId

    def configure(self, mode: str) -> None:
        self.config.write_text(_config(self.config.parent, self.audit_log, mode))
        self.agent.process.send_signal(signal.SIGHUP)

    def run(self, *command: str) -> Result:
        return CliRunner().invoke(cli, [*command, "--socket", str(self.agent.socket)])


def _config(folder: Path, audit_log: Path, mode: str) -> str:
    return f"""
{OWN_RULES_ONLY}
node: {{name: host-1}}
rules: [{folder / "few-rules"}]
probes: {{content: false, mappings: false}}
culling:
  mode: {mode}
  hosts: {{units: ["ci@*"]}}
  ladder: [{{actions: [stop]}}]
  minimum_age: 1s
  hold: 1s
  pause: 1s
  circuit_breaker: {{at_least: 1000}}
  audit: {{log: {audit_log}}}
"""


@pytest.fixture
def culled(cgroups: CgroupFolders, programs: Programs, tmp_path: Path) -> Iterator[_Culled]:
    hidden = tmp_path / "..." / "xmrig"  # a folder whose name is nothing but dots
    hidden.parent.mkdir()
    shutil.copy(shutil.which("dash") or "/bin/sh", hidden)
    script = tmp_path / "config"
    script.write_text(COMPUTES_AND_WAITS)
    (few_rules(tmp_path) / "stand_in.yml").write_text(STAND_IN)
    miners = []
    for unit in (_UNIT, _OTHER):
        process = programs.run([str(hidden), str(script), *POOL])
        cgroups.put(process, cgroups.make(f"{TOP}/system.slice/{unit}"))
        miners.append(identity(process.pid))
    audit_log = remembered(tmp_path / "audit" / "audit.jsonl", "host-1")
    config = tmp_path / "config.yaml"
    config.write_text(_config(tmp_path, audit_log, "dry-run"))
    agent = RunningAgent(tmp_path, "--config", str(config))
    yield _Culled(agent, config, audit_log, miners[0], miners[1])
    agent.close()


def _outcomes(culled: _Culled) -> list[str]:
    lines = [json.loads(line) for line in whole_lines(culled.audit_log)]
    ended = (line["record"] for line in lines if line["kind"] == "outcome")
    return [f"{each['action']} {each['pod']} {each['outcome']}" for each in ended]


@needs_root
def test_a_dry_run_then_stop_and_release(culled: _Culled) -> None:
    agent = culled.agent
    assert agent.line("culling is on", mode="dry-run")["hosts"]
    agent.line("verdict", container=_UNIT, level="confirmed")
    agent.line("action ended", outcome="dry-run")
    assert state(culled.miner) != STOPPED

    culled.configure("enforce")
    agent.line("action ended", outcome="done", action="stop")
    until(lambda: state(culled.miner) == STOPPED)
    assert _outcomes(culled) == [f"stop {_UNIT} dry-run", f"stop {_UNIT} done"]
    budget = json.loads((culled.audit_log.parent / BUDGET_FILE).read_bytes())
    assert sorted(place[3] for place in budget) == [False, True]
    metrics = agent.get("/metrics")[1]
    assert 'minerwatch_actions_total{action="stop",outcome="done"} 1.0' in metrics

    def explained(unit: str) -> str:
        return culled.run("explain", unit).stdout

    until(lambda: f"minerwatch release {_UNIT}" in explained(_UNIT), lambda: explained(_UNIT))
    assert "culling.hosts names neither it nor its user (web.service)." in explained(_OTHER)
    assert state(culled.spared) not in ("", STOPPED)

    refused = culled.run("cull", _OTHER, "--action", "stop")
    assert refused.exit_code == 1
    released = culled.run("release", _UNIT)
    assert released.exit_code == 0, released.output
    assert f"1 process continued: {culled.miner.pid}" in released.stdout
    until(lambda: state(culled.miner) not in ("", STOPPED))
    past = culled.run("cull", "--simulate", "1")
    assert _UNIT in past.stdout
