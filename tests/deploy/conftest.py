"""One real node that several tests look at: a loop named like a miner, and who watches it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.agent.test_daemon import RunningAgent
from tests.agent.test_tick import POOL
from tests.conftest import TOP, CgroupFolders, Programs, cgroup_root, container_id
from tests.deploy.services import DEPLOY, Alertmanager, Prometheus, Webhook, program, until

CONTAINER = container_id("d7")
AGENT_CONTAINER = container_id("d8")


@dataclass(frozen=True)
class WatchedNode:
    """The agent, Prometheus and, where it is installed, Alertmanager with a webhook."""

    agent: RunningAgent
    prometheus: Prometheus
    alertmanager: Alertmanager | None
    webhook: Webhook
    miner: int  # pid


@pytest.fixture(scope="package")  # it burns a core: not beside other tests
def watched_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedNode]:
    if os.geteuid() != 0:
        pytest.skip("makes cgroups: run it as root")
    program("prometheus", "prometheus")
    try:
        root = cgroup_root()
    except StopIteration:
        pytest.skip("no cgroup hierarchy is mounted on /sys/fs/cgroup: run it where one is")
    if not os.access(root, os.W_OK) or os.statvfs(root).f_flag & os.ST_RDONLY:
        pytest.skip("/sys/fs/cgroup is read-only here: run it where cgroups can be made")
    folder = tmp_path_factory.mktemp("watched-node")
    with ExitStack() as stack:
        # Its executable is deleted from a temporary folder, so that two kinds of evidence agree.
        folder_of_miner = tempfile.TemporaryDirectory(prefix="minerwatch-", dir="/tmp")
        temporary = Path(stack.enter_context(folder_of_miner))
        cgroups = stack.enter_context(closing(CgroupFolders(root)))
        programs = stack.enter_context(closing(Programs(temporary)))
        miner = programs.start("xmrig", *POOL, busy=True)
        cgroup = cgroups.make(f"{TOP}/docker/{CONTAINER}")
        cgroups.put(miner, cgroup)
        (temporary / "xmrig").unlink()

        webhook = stack.enter_context(closing(Webhook()))
        alertmanager = None
        if shutil.which("prometheus-alertmanager"):
            config = alertmanager_config(webhook)
            alertmanager = stack.enter_context(closing(Alertmanager(folder, config)))
        # Only containers count: what else happens on this machine is nobody's business here.
        (folder / "config.yml").write_text("node: {units: false}\n")
        own = cgroups.make(f"{TOP}/docker/{AGENT_CONTAINER}")
        command = ("sh", "-c", f'echo $$ > {own}/cgroup.procs && exec "$@"', "sh", sys.executable)
        agent = stack.enter_context(
            closing(RunningAgent(folder, "--config", str(folder / "config.yml"), command=command))
        )
        address = str(agent.line("watching")["metrics"]).split("/")[2]
        prometheus = stack.enter_context(
            closing(Prometheus(folder, address, alertmanager.address if alertmanager else None))
        )
        until(lambda: prometheus.has("minerwatch_findings_total"), prometheus.said)
        # Counters grow from what was scraped first: this one is found after that.
        cgroups.put(programs.start("minerd", busy=False), cgroup)
        for seen in (
            "increase(minerwatch_findings_total[1m]) > 0",
            "increase(minerwatch_flagged_cpu_seconds_total[1m]) > 0",
            "ALERTS",
        ):
            until(
                lambda: prometheus.has(seen),  # noqa: B023 - called before the next one's turn
                lambda: agent.get("/metrics")[1] + prometheus.said(),
            )
        yield WatchedNode(agent, prometheus, alertmanager, webhook, miner.pid)


def alertmanager_config(webhook: Webhook) -> dict[str, Any]:
    """The shipped example: only its addresses are the test's, and it waits seconds, not minutes."""
    path = DEPLOY / "alertmanager" / "alertmanager.yml"
    config: dict[str, Any] = yaml.safe_load(path.read_text())
    config["templates"] = [str(path.parent / name) for name in config["templates"]]
    for receiver in config["receivers"]:
        for chat in receiver.get("slack_configs", ()):
            chat["api_url"] = f"{webhook.address}/chat"
        for pager in receiver.get("webhook_configs", ()):
            pager["url"] = f"{webhook.address}/pager"
    _make_quick(config["route"])
    return config


def _make_quick(route: dict[str, Any]) -> None:
    route.update(group_wait="1s", group_interval="1s")
    for inner in route.get("routes", ()):
        _make_quick(inner)
