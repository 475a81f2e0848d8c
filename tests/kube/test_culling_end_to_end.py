"""The real agent and rules, a busy loop in a real cgroup, and what becomes of its pod.

On the tests' own API server or a real one, where the agent's account may do only what the chart
grants.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from minerwatch.agent.monitor import now_s
from minerwatch.cli.main import cli
from minerwatch.culling.decision import Reason
from minerwatch.culling.history import History
from minerwatch.culling.process_signals import STOPPED, state
from minerwatch.culling.records import HOUR_S, AuditLine, Moment
from minerwatch.format import rfc3339
from minerwatch.kube.client import ApiError
from minerwatch.model import ProcessId
from tests.agent.test_daemon import OWN_RULES_ONLY, RunningAgent, few_rules, whole_lines
from tests.agent.test_tick import POOL
from tests.conftest import TOP, CgroupFolders, Programs, container_id, needs_root
from tests.culling.test_process_signals import identity
from tests.deploy.chart import VALUES, release
from tests.kube.any_cluster import AGENT_RULES, AnyCluster, Rules
from tests.kube.api_server import eventually
from tests.waiting import PATIENCE_S, until

_CULLS = ("minerwatch-cull", "minerwatch-cull-budget")


def cull_rules() -> Rules:
    """All that the chart grants where all actions are configured; skips where there is no helm."""
    (values,) = (path for path in VALUES if path.stem == "everything")
    roles = [each for kind in ("ClusterRole", "Role") for each in release(values).of_kind(kind)]
    chosen = [role["rules"] for role in roles if role["metadata"]["name"] in _CULLS]
    return [*AGENT_RULES, *chain.from_iterable(chosen)]


STAND_IN = """
title: Stand-in for what takes half an hour
id: 0c5ac1d3-0d3b-4e0c-9a0f-0a4d1f7b6c55
status: stable
description: Holds where RandomX for half an hour would, so that no test waits for it.
author: tests
date: 2026-11-28
logsource: {product: linux, category: process_creation}
detection:
  selection: {Comm: xmrig, CpuSeconds|gte: 0.2}
  condition: selection
level: critical
minerwatch: {signal: compute, score: 88}
"""

COMPUTES_AND_WAITS = "i=0\nwhile [ $i -lt 1000000 ]; do i=$((i+1)); done\nread nothing\n"
"""As many seconds as ``STAND_IN`` asks for, and some more: other tests need the CPUs, too."""

ID, OTHER_ID = container_id("c1"), container_id("c2")
LEASE = "/apis/coordination.k8s.io/v1/namespaces/{}/leases/minerwatch-cull-budget"


@dataclass
class Culled:
    """An agent that culls, and two pods that mine: one that it may touch, and one of its own."""

    cluster: AnyCluster
    own_namespace: str
    agent: RunningAgent
    config: Path
    audit_log: Path
    miner: ProcessId
    spared: ProcessId
    kubeconfig: Path

    def configure(self, mode: str, action: str) -> None:
        write_config(self, mode, action)
        if mode != "dry-run":
            self.agent.process.send_signal(signal.SIGHUP)

    def run(self, *command: str) -> Result:
        """Its end; a tick under way may be longer than it waits for an answer to a question."""

        def answered() -> list[Result]:
            asked = CliRunner().invoke(cli, [*command, "--socket", str(self.agent.socket)])
            return [asked] if "did not answer within 5 s" not in asked.stderr else []

        return until(answered)[0]

    def cull_once_held(self, *command: str) -> Result:
        """What the policy says once no time is an objection; a late tick begins it anew."""

        def asked() -> list[Result]:
            said = self.run("cull", *command)
            waits = (Reason.NOT_HELD, Reason.TOO_SOON, Reason.STALE_VERDICT)
            return [] if any(each.rstrip(".") in said.output for each in waits) else [said]

        return until(asked, every_s=0.2)[0]

    def explained(self, name: str) -> str:
        asked = self.run("explain", name)
        assert asked.exit_code == 0, asked.output
        return asked.stdout

    def actions(self) -> list[str]:
        lines = [json.loads(line) for line in whole_lines(self.audit_log)]
        ended = (line for line in lines if line["kind"] == "outcome")
        return [f"{line['record']['action']} {line['record']['outcome']}" for line in ended]

    def pods(self, namespace: str) -> list[str]:
        listed = msgspec.json.decode(
            self.cluster.api.call("GET", f"/api/v1/namespaces/{namespace}/pods")
        )
        return [
            item["metadata"]["name"]
            for item in listed["items"]
            if not item["metadata"].get("deletionTimestamp")
        ]


def write_config(culled: Culled, mode: str, action: str) -> None:
    namespaces = f"{culled.cluster.namespace}, {culled.own_namespace}, kube-system"
    culled.config.write_text(f"""
{OWN_RULES_ONLY}
node: {{name: {culled.cluster.node}}}
kubernetes:
  enabled: true
  kubeconfig: {culled.kubeconfig}
  namespace: {culled.own_namespace}
rules: [{culled.config.parent / "few-rules"}]
probes: {{content: false, mappings: false}}
report: {{journal: {culled.config.parent}/journal}}
culling:
  mode: {mode}
  namespaces: [{namespaces}]
  ladder: [{{actions: [{action}]}}]
  minimum_age: 1s
  hold: 1s
  pause: 1s
  circuit_breaker: {{at_least: 1000}}
  budget: {{per_node: 100, per_cluster: 100}}
  audit: {{log: {culled.audit_log}, folder: {culled.audit_log.parent}/evidence}}
""")


def remembered(path: Path, node: str) -> Path:
    """The audit log of an agent that has been there for two hours."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    ago = Moment(time.time() - 2 * HOUR_S, now_s() - 2 * HOUR_S, boot_id)
    (start,) = History.started(node, ago).records()
    line = AuditLine("start", rfc3339(ago.unix_s, milliseconds=True), node, record=start)
    path.parent.mkdir(mode=0o700)
    path.write_bytes(msgspec.json.encode(line) + b"\n")
    return path


@pytest.fixture
def own_namespace(any_cluster: AnyCluster) -> str:
    """Where the agent is, and its Lease."""
    name = f"{any_cluster.namespace}-agent"
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    any_cluster.send("POST", "/api/v1/namespaces", namespace)
    any_cluster.cluster_wide.append(f"/api/v1/namespaces/{name}")
    return name


def start_pod(cluster: AnyCluster, namespace: str, name: str, container_id: str) -> str:
    """A pod on the test's node whose container runs; its uid."""
    own, cluster.namespace = cluster.namespace, namespace
    cluster.pods_path = f"/api/v1/namespaces/{namespace}/pods"
    try:
        created = cluster.create_pod(name, container="notebook")
        cluster.start_container(name, container_id, "notebook")
    finally:
        cluster.namespace = own
        cluster.pods_path = f"/api/v1/namespaces/{own}/pods"
    return str(created["metadata"]["uid"])


@pytest.fixture
def culled(
    any_cluster: AnyCluster,
    own_namespace: str,
    cgroups: CgroupFolders,
    programs: Programs,
    tmp_path: Path,
) -> Iterator[Culled]:
    kubeconfig = (
        any_cluster.write_kubeconfig(tmp_path / "agent", "agent", cull_rules())
        if any_cluster.is_real
        else any_cluster.kubeconfig
    )
    hidden = tmp_path / "..." / "xmrig"  # a folder whose name is nothing but dots
    hidden.parent.mkdir()
    shutil.copy(shutil.which("dash") or "/bin/sh", hidden)
    script = tmp_path / "config"  # not after -c: a shell's script is no proof
    script.write_text(COMPUTES_AND_WAITS)
    (few_rules(tmp_path) / "stand_in.yml").write_text(STAND_IN)
    miners = []
    for namespace, container in ((any_cluster.namespace, ID), (own_namespace, OTHER_ID)):
        uid = start_pod(any_cluster, namespace, "jupyter-eve", container)
        folder = cgroups.make(f"{TOP}/kubepods/burstable/pod{uid}/{container}")
        loop = [str(hidden), str(script), *POOL, "--password", "hunter2"]
        process = programs.run(loop)
        cgroups.put(process, folder)
        miners.append(identity(process.pid))
    culled = Culled(
        cluster=any_cluster,
        own_namespace=own_namespace,
        agent=None,  # type: ignore[arg-type]  # it follows
        config=tmp_path / "config.yaml",
        audit_log=remembered(tmp_path / "audit" / "audit.jsonl", any_cluster.node),
        miner=miners[0],
        spared=miners[1],
        kubeconfig=kubeconfig,
    )
    write_config(culled, "dry-run", "evict")
    culled.agent = RunningAgent(tmp_path, "--config", str(culled.config), in_cluster=True)
    yield culled
    culled.agent.close()


@needs_root
def test_dry_run_then_enforce(culled: Culled) -> None:
    namespace, agent = culled.cluster.namespace, culled.agent
    verdict = agent.line("verdict", namespace=namespace, level="confirmed")
    assert "identity" in set(verdict["signals"])  # type: ignore[call-overload]
    agent.line("action ended", outcome="dry-run")
    assert culled.pods(namespace) == ["jupyter-eve"]
    metrics = agent.get("/metrics")[1]
    assert 'minerwatch_actions_total{action="evict",outcome="dry-run"} 1.0' in metrics
    assert 'minerwatch_cull_mode{mode="dry-run"} 1.0' in metrics
    assert "minerwatch_cull_budget_remaining 99.0" in metrics

    why = culled.explained(f"{namespace}/jupyter-eve")
    assert "It is not evicted in a dry run, because:" in why
    assert "Stand-in for what takes half an hour" in why
    assert "It has been done already" in why
    spared = culled.explained(f"{culled.own_namespace}/jupyter-eve")
    assert f"The namespace is protected ({culled.own_namespace})." in spared

    asked = culled.cull_once_held(f"{namespace}/jupyter-eve", "--action", "delete", "--dry-run")
    assert asked.exit_code == 0, asked.output
    assert "The policy permits to delete it in a dry run." in asked.stdout
    assert '"dryRun":["All"]' in asked.stdout
    assert culled.pods(namespace) == ["jupyter-eve"]
    refused = culled.run("cull", f"{culled.own_namespace}/jupyter-eve", "--action", "delete")
    assert refused.exit_code == 1
    assert "The namespace is protected" in refused.stdout
    past = culled.run("cull", "--simulate", "1")
    assert past.exit_code == 0
    assert f"{namespace}/jupyter-eve/notebook" in past.stdout
    assert "would have been evicted" in past.stdout
    own = [line for line in past.stdout.splitlines() if f"{culled.own_namespace}/" in line]
    assert [" not evicted: " in own[0], " not deleted: " in own[1]] == [True, True]

    culled.configure("enforce", "evict")
    agent.line("action ended", outcome="done", action="evict")
    eventually(lambda: culled.pods(namespace) == [], "not evicted", PATIENCE_S)
    assert culled.pods(culled.own_namespace) == ["jupyter-eve"]
    assert culled.actions().count("evict done") == 1
    lease: Any = msgspec.json.decode(
        culled.cluster.api.call("GET", LEASE.format(culled.own_namespace))
    )
    held = json.loads(lease["metadata"]["annotations"]["minerwatch.io/actions"])
    assert len(held) == 1
    eventually(lambda: "MinerEvicted" in reasons(culled.cluster), "no event", PATIENCE_S)
    files = [*(culled.audit_log.parent / "evidence").iterdir()]
    assert len(files) == len(culled.actions())
    reported = culled.run("report", "--since", "1h", "--format", "json", "-n", namespace)
    assert reported.exit_code == 0, reported.output
    (incident,) = json.loads(reported.stdout)["incidents"]
    done = [(each["action"], each["outcome"]) for each in incident["actions"]]
    was_asked = [("evict", "dry-run"), ("delete", "dry-run"), ("evict", "done")]
    assert [each for each in dict.fromkeys(done) if each[1] != "withdrawn"] == was_asked
    assert (incident["pod"], incident["level"]) == ("jupyter-eve", "confirmed")
    assert incident["acted_s"] >= 0
    everything = culled.audit_log.read_text() + agent.log_path.read_text()
    everything += "".join(file.read_text() for file in files)
    assert "hunter2" not in everything
    assert "stratum+tcp://pool" in everything
    assert state(culled.spared) not in ("", STOPPED)


@needs_root
def test_stop_then_release(culled: Culled) -> None:
    namespace, agent = culled.cluster.namespace, culled.agent
    agent.line("action ended", outcome="dry-run")
    culled.configure("enforce", "stop")
    agent.line("action ended", outcome="done", action="stop")
    eventually(lambda: state(culled.miner) == STOPPED)
    agent.until(lambda: "minerwatch_stopped_processes 1.0" in agent.get("/metrics")[1])
    why = culled.explained(f"{namespace}/jupyter-eve")
    assert f"Stopped by minerwatch: process {culled.miner.pid}" in why
    assert f"minerwatch release {namespace}/jupyter-eve" in why

    agent.stop()  # and the next one knows it
    agent.close()
    again = RunningAgent(agent.socket.parent, "--config", str(culled.config), in_cluster=True)
    culled.agent = again
    again.until(lambda: "minerwatch_stopped_processes 1.0" in again.get("/metrics")[1])
    assert state(culled.miner) == STOPPED

    released = culled.run("release", f"{namespace}/jupyter-eve")
    assert released.exit_code == 0, released.output
    assert f"1 process continued: {culled.miner.pid}" in released.stdout
    eventually(lambda: state(culled.miner) != STOPPED)
    again.until(lambda: "minerwatch_stopped_processes 0.0" in again.get("/metrics")[1])
    ended = ticks(again)
    time.sleep(1.1)  # the pause
    again.until(lambda: ticks(again) >= ended + 5)
    assert state(culled.miner) not in ("", STOPPED)
    why = culled.explained(f"{namespace}/jupyter-eve")
    assert "An operator has released it." in why
    assert state(culled.spared) not in ("", STOPPED)
    assert culled.pods(namespace) == ["jupyter-eve"]


@needs_root
def test_nothing_is_left_before_an_uninstallation(culled: Culled) -> None:
    agent = culled.agent
    agent.line("action ended", outcome="dry-run")
    culled.configure("enforce", "stop")
    agent.line("action ended", outcome="done", action="stop")
    eventually(lambda: state(culled.miner) == STOPPED)
    lease = LEASE.format(culled.own_namespace)
    culled.cluster.api.call("GET", lease)

    released = culled.run("release", "--all", "--forget")
    assert released.exit_code == 0, released.output
    assert f"1 process continued: {culled.miner.pid}" in released.stdout
    eventually(lambda: state(culled.miner) != STOPPED)
    folder = culled.audit_log.parent
    eventually(lambda: not folder.exists(), f"{folder} is still there")
    time.sleep(2.0)  # some ticks, and longer than the pause
    assert state(culled.miner) not in ("", STOPPED)
    assert not folder.exists(), [*folder.iterdir()]
    with pytest.raises(ApiError, match="404"):
        culled.cluster.api.call("GET", lease)


def ticks(agent: RunningAgent) -> float:
    text = agent.get("/metrics")[1]
    return float(text.partition("minerwatch_tick_duration_seconds_count ")[2].split()[0])


def reasons(cluster: AnyCluster) -> set[str]:
    return {event["reason"] for event in cluster.events()}


@needs_root
def test_an_agent_with_culling_off_has_nothing_in_it_that_acts(
    any_cluster: AnyCluster, tmp_path: Path
) -> None:
    """Neither in its code, nor in what it asks of the API server."""
    settings = tmp_path / "config.yaml"
    settings.write_text(
        f"{OWN_RULES_ONLY}node: {{name: {any_cluster.node}}}\n"
        f"kubernetes: {{enabled: true, kubeconfig: {any_cluster.kubeconfig}}}\n"
        "probes: {content: false}\n"
    )
    script = tmp_path / "agent.py"
    script.write_text(_SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, str(script), str(settings), str(tmp_path / "agent.sock")],
        env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with pytest.raises(ApiError):
        any_cluster.api.call("GET", LEASE.format(any_cluster.namespace))


_SCRIPT = """
import sys
from importlib.util import find_spec
from pathlib import Path
import msgspec
from minerwatch.agent.daemon import Agent
from minerwatch.config.reader import load
from minerwatch.report.log import logger

config = load(Path(sys.argv[1]))
config = msgspec.structs.replace(config, listen="127.0.0.1:0", socket=sys.argv[2])
agent = Agent(config, logger(as_json=True))
for _ in range(3):
    agent.tick()
agent.close()
assert "minerwatch.culling.service" in sys.modules
for name in ("culler", "enforcer", "actions", "process_signals", "lease_budget"):
    assert find_spec(f"minerwatch.culling.{name}"), name
    assert f"minerwatch.culling.{name}" not in sys.modules, name
assert "minerwatch.kube.cluster_view" in sys.modules
"""
