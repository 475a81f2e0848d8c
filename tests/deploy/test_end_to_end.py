"""From a busy loop in a cgroup to a message with a runbook: every part is the real one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

import pytest

from tests.deploy.conftest import CONTAINER, WatchedNode
from tests.deploy.services import AGENT_POD, GUIDE, anchors, until

_CONFIRMED = "MinerwatchMinerConfirmed"


def _is_meant(alert: Any) -> bool:
    """The agent also sees what other tests start at the same time."""
    labels = alert["labels"]
    return bool(labels["alertname"] == _CONFIRMED and labels.get("container") == CONTAINER[:12])


def test_a_confirmed_miner_reaches_chat_and_pager_with_its_runbook(
    watched_node: WatchedNode,
) -> None:
    if watched_node.alertmanager is None:
        pytest.skip("prometheus-alertmanager is missing: apt install prometheus-alertmanager")
    webhook, alertmanager = watched_node.webhook, watched_node.alertmanager
    pages = until(
        lambda: [m for m in webhook.messages("/pager") if any(map(_is_meant, m["alerts"]))],
        alertmanager.said,
    )
    (alert,) = (each for each in pages[0]["alerts"] if _is_meant(each))
    labels, annotations = alert["labels"], alert["annotations"]
    assert labels["alertname"] == _CONFIRMED
    assert labels["severity"] == "critical"
    assert labels["container"] == CONTAINER[:12]
    assert labels["instance"] == AGENT_POD["instance"]
    assert "pod" not in labels  # the flagged container has none, and the agent's is not it
    assert CONTAINER[:12] in annotations["summary"]

    page, _, anchor = annotations["runbook_url"].partition("#")
    assert page.endswith("/" + "/".join(GUIDE.parts[-2:]))
    assert anchor in anchors(GUIDE.read_text())

    summary = annotations["summary"]
    chats = until(
        lambda: [m for m in webhook.messages("/chat") if summary in m["attachments"][0]["text"]],
        alertmanager.said,
    )
    told = chats[0]["attachments"][0]
    assert re.fullmatch(rf"\[\d\] {_CONFIRMED}", told["title"])
    assert told["title_link"] == annotations["runbook_url"]
    assert annotations["runbook_url"] in told["text"]
    assert told["color"] == "danger"


def test_the_command_that_the_alert_names_explains_it(watched_node: WatchedNode) -> None:
    until(lambda: watched_node.prometheus.has(f'ALERTS{{alertname="{_CONFIRMED}"}}'))
    (alert,) = filter(_is_meant, watched_node.prometheus.alerts())
    command = re.search(r"minerwatch (explain \S+)$", alert["annotations"]["why"])
    assert command is not None
    answer = subprocess.run(
        [sys.executable, "-m", "minerwatch", *command[1].split()],
        env=os.environ | {"MINERWATCH_SOCKET": str(watched_node.agent.socket)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "CONFIRMED" in answer.stdout
    assert str(watched_node.miner) in answer.stdout


def test_the_shipped_rules_evaluate_without_error(watched_node: WatchedNode) -> None:
    assert watched_node.prometheus.rule_errors() == []
