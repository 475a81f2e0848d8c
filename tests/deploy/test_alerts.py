"""The Prometheus rules and the Alertmanager example, by the tools that will read them."""

from __future__ import annotations

import json
import re
import subprocess
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml

from generate.names import names
from tests.deploy.metric_names import AWAITED, OTHERS, exported, metric_names
from tests.deploy.services import DEPLOY, GUIDE, RULES, anchors, program

_RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.load(RULES.read_text(), yaml.CSafeLoader)["groups"]
    for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in _RULES if "alert" in rule}
_RECORDED = {rule["record"]: rule for rule in _RULES if "record" in rule}
_RULE_TESTS = sorted((RULES.parent / "tests").glob("*.yml"))
_RUNBOOKS = GUIDE.parent / "runbooks"
_RUNBOOK_LINES = 60
_ALERTMANAGER = DEPLOY / "alertmanager"
_PAGE = f"{names()['repository']}/blob/main/docs/sre-guide.md"


def test_promtool_finds_nothing_wrong() -> None:
    _run("promtool", "prometheus", "check", "rules", str(RULES))


@pytest.mark.parametrize("path", _RULE_TESTS, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should(path: Path) -> None:
    _run("promtool", "prometheus", "test", "rules", str(path))


@cache
def _checks() -> tuple[dict[str, Any], ...]:
    tests = (yaml.load(path.read_text(), yaml.CSafeLoader)["tests"] for path in _RULE_TESTS)
    return tuple(
        check for test in chain.from_iterable(tests) for check in test.get("alert_rule_test", ())
    )


@pytest.mark.parametrize("name", ALERTS)
def test_each_alert_is_tested_to_fire_and_not_to_fire(name: str) -> None:
    expected = [each.get("exp_alerts") for each in _checks() if each["alertname"] == name]
    assert any(expected)
    assert not all(expected)


@pytest.mark.parametrize(("name", "rule"), ALERTS.items(), ids=ALERTS)
def test_an_alert_says_what_it_is_and_where_to_read_on(name: str, rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    of_container = "container_abuse_score" in rule["expr"] and name != "MinerwatchCampaign"
    why = {"why"} if of_container else set()
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"} | why
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert page == _PAGE
    assert anchor == name.lower()
    assert anchors(GUIDE.read_text()).count(anchor) == 1


@pytest.mark.parametrize(("name", "rule"), ALERTS.items(), ids=ALERTS)
def test_an_alert_has_a_runbook_of_one_page(name: str, rule: dict[str, Any]) -> None:
    severity = rule["labels"]["severity"]
    _, _, section = GUIDE.read_text().partition(f"\n### {name}\n")
    section, _, _ = section.partition("\n##")
    assert section.strip().startswith(f"*{severity}.* ")
    assert f"[Runbook](runbooks/{name}.md)" in section
    assert f"| [{name}]({name}.md) | {severity} |" in (_RUNBOOKS / "README.md").read_text()

    page = (_RUNBOOKS / f"{name}.md").read_text()
    meaning, *parts = re.split(r"^## ", page, flags=re.MULTILINE)
    assert meaning.startswith(f"# {name}\n\n*{severity}, ")
    assert "**Impact:**" in meaning
    assert [part.partition("\n")[0] for part in parts] == [
        "First command",
        "Decide and act",
        "How it closes",
    ]
    assert "```sh\n" in parts[0]
    assert "**Ignore it**" in parts[2]
    assert page.count("\n") <= _RUNBOOK_LINES


def test_no_alert_that_is_no_more_has_a_section_or_a_runbook() -> None:
    sections = {anchor for anchor in anchors(GUIDE.read_text()) if anchor.startswith("minerwatch")}
    assert {name.lower() for name in ALERTS} >= sections
    assert {path.stem for path in _RUNBOOKS.glob("*.md")} == {*ALERTS, "README"}


def test_links_within_the_guide_lead_somewhere() -> None:
    text = GUIDE.read_text()
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= set(anchors(text))
    for target in re.findall(r"\]\((?!#|https?:)([^)#]+)", text):
        assert (GUIDE.parent / target).exists(), target


@pytest.mark.parametrize("rule", _RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_every_metric_exists_or_is_awaited(rule: dict[str, Any]) -> None:
    names = metric_names(rule["expr"])
    assert names
    known = exported() | set(AWAITED) | OTHERS | set(_RECORDED)
    assert set(names) <= known


@pytest.mark.parametrize("name", _RECORDED)
def test_what_is_recorded_is_named_by_its_labels_and_rate(name: str) -> None:
    assert re.fullmatch(r"minerwatch:[a-z_]+:[a-z0-9]+", name)


def test_amtool_finds_nothing_wrong() -> None:
    config = str(_ALERTMANAGER / "alertmanager.yml")
    _run("amtool", "prometheus-alertmanager", "check-config", config)


@pytest.mark.parametrize(
    ("labels", "receivers"),
    [
        (
            "alertname=MinerwatchMinerConfirmed severity=critical",
            "minerwatch-pager,minerwatch-chat",
        ),
        (
            "alertname=MinerwatchOutgoingAttack severity=critical abuse=scanning",
            "minerwatch-pager,minerwatch-chat",
        ),
        ("alertname=MinerwatchMinerLikely severity=warning", "minerwatch-chat"),
        ("alertname=MinerwatchActed severity=info", "minerwatch-chat"),
    ],
)
def test_an_alert_goes_to(labels: str, receivers: str) -> None:
    said = _run(
        *("amtool", "prometheus-alertmanager", "config", "routes", "test"),
        f"--config.file={_ALERTMANAGER / 'alertmanager.yml'}",
        f"--verify.receivers={receivers}",
        *labels.split(),
    )
    assert receivers in said


def test_a_name_cannot_call_the_whole_channel(tmp_path: Path) -> None:
    text = _chat_text(tmp_path, count=1, summary="Miner confirmed: <!channel> & <https://x|y>")
    assert text.startswith("Miner confirmed: &lt;!channel&gt; &amp; &lt;https://x|y&gt;\n")
    assert f"What to do: {_PAGE}#x" in text


def test_the_reasons_reach_the_chat(tmp_path: Path) -> None:
    why = "scanning, score 80: network 80. Look: kubectl minerwatch explain a/b"
    text = _chat_text(tmp_path, count=1, summary="pod", why=f"{why} & <@U1>")
    assert f"Why: {why} &amp; &lt;@U1&gt;\n" in text


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    text = _chat_text(tmp_path, count=50, summary="pod")
    assert text.count("pod\n") == 10
    assert "50 in all" in text


def _chat_text(folder: Path, *, count: int, summary: str, **more: str) -> str:
    annotations = {"summary": summary, "description": "d", "runbook_url": f"{_PAGE}#x", **more}
    alert = {"status": "firing", "labels": {}, "annotations": annotations}
    data = {
        "status": "firing",
        "alerts": [alert] * count,
        "groupLabels": {"alertname": "MinerwatchMinerConfirmed"},
        "commonLabels": {},
        "commonAnnotations": annotations,
    }
    (folder / "data.json").write_text(json.dumps(data))
    return _run(
        *("amtool", "prometheus-alertmanager", "template", "render"),
        f"--template.glob={_ALERTMANAGER / '*.tmpl'}",
        '--template.text={{ template "minerwatch.text" . }}',
        f"--template.data={folder / 'data.json'}",
    )


def _run(name: str, package: str, *arguments: str) -> str:
    answer = subprocess.run(
        [program(name, package), *arguments], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout
