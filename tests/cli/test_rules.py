from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from minerwatch.cli.main import cli
from minerwatch.config import BUILT_IN_RULES
from tests.detection.test_check import RULE

Golden = Callable[[str, str], None]

BROKEN = {
    "bad_yaml.yml": "title: [unfinished\n",
    "no_id.yml": RULE.replace("id: 5b7d4b3a-0d43-4f41-8a3d-0c4b5f1d2e3f\n", ""),
    "look_behind.yml": RULE.replace("{Comm: miner}, c", "{Comm|re: '(?<=x)miner'}, c"),
    "unknown_modifier.yml": RULE.replace("{Comm: miner}, c", "{Comm|sounds: miner}, c"),
    "unknown_list.yml": RULE.replace("{Comm: miner}, c", "{Comm|expand: '%nobody%'}, c"),
    "loud_behaviour.yml": RULE.replace("tests:", "signal: behaviour\n  score: 60\n  tests:"),
    "misspelt_key.yml": RULE.replace("minerwatch:", "minerwach:"),
    "no_condition.yml": RULE.replace(", condition: sel", ""),
    "not_text.yml": "title: \x01\n",
    "hostile\x1b[2J.yml": "title: [\n",
    "typo.yml": RULE.replace("{Comm: miner}, c", "{Comand: miner}, c").replace(
        "5b7d4b3a", "5b7d4b3b"
    ),
}


def run(*arguments: str, given: str = "") -> Result:
    return CliRunner().invoke(cli, ["rules", *arguments], input=given, prog_name="minerwatch")


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    folder = tmp_path / "rules"
    folder.mkdir()
    for name, text in BROKEN.items():
        (folder / name).write_text(text)
    return folder


def test_lint_says_each_error_in_a_line(broken: Path, golden: Golden) -> None:
    result = run("lint", str(broken))
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) >= len(BROKEN)
    shown = result.stdout.replace(str(broken.parent), "").replace(str(BUILT_IN_RULES), "(shipped)")
    golden("rules-lint.txt", shown)


def test_lint_of_what_is_good_is_silent(tmp_path: Path) -> None:
    (tmp_path / "rule.yml").write_text(RULE)
    result = run("lint", str(tmp_path / "rule.yml"))
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "1 rules, 0 errors, 0 warnings\n"


def test_warnings_fail_only_if_strict(tmp_path: Path) -> None:
    (tmp_path / "rule.yml").write_text(RULE.replace("falsepositives: [Miners in mines]\n", ""))
    assert run("lint", str(tmp_path)).exit_code == 0
    assert run("lint", "--strict", str(tmp_path)).exit_code == 1


def test_lint_as_json(broken: Path) -> None:
    remarks = json.loads(run("lint", "-o", "json", str(broken)).stdout)
    assert {"path", "line", "severity", "text"} == remarks[0].keys()


def test_a_failing_test_is_explained(tmp_path: Path, golden: Golden) -> None:
    text = RULE.replace(
        "detection: {sel: {Comm: miner}, condition: sel}",
        "detection:\n  sel: {Comm: miner, CpuCores|gte: 0.5}\n"
        "  filter: {Image|endswith: /grep}\n  condition: sel and not filter",
    ).replace("[{Comm: miner}]", "[{Comm: miner, CpuCores: 0.2, Image: /bin/grep}]")
    (tmp_path / "rule.yml").write_text(text)
    result = run("test", str(tmp_path))
    assert result.exit_code == 1
    golden("rules-test.txt", result.stdout.replace(str(tmp_path), ""))
    (failure,) = json.loads(run("test", "-o", "json", str(tmp_path)).stdout)
    assert failure["expected"] == "match"


def test_only_what_is_named_is_tested(tmp_path: Path) -> None:
    (tmp_path / "rule.yml").write_text(RULE)
    result = run("test", str(tmp_path / "rule.yml"))
    assert result.exit_code == 0
    assert result.stderr == "1 rules, 2 tests, 0 failed\n"


def test_all_shipped_rules_pass() -> None:
    assert run("lint", "--strict").exit_code == 0
    assert run("test").exit_code == 0


def test_list_shows_what_is_in_force(tmp_path: Path) -> None:
    (tmp_path / "rule.yml").write_text(RULE)
    result = run("list", "--rules", str(tmp_path))
    assert result.exit_code == 0
    assert "   60  identity   test          -      A rule  (5b7d4b3a" in result.stdout
    listed = json.loads(run("list", "--rules", str(tmp_path), "-o", "json").stdout)
    assert {"id", "title", "signal", "score", "status", "for_s", "path", "fields"} <= listed[
        0
    ].keys()
    assert len(listed) > 20


RECORDED = """\
{"id": "a", "label": "miner", "seconds": 300, "facts": {"CommandLine": "./x -o stratum+tcp://pool.supportxmr.com:3333 -u 4AdU", "CpuCores": 0.98}}
nonsense

{"id": "b\\u001b[2J", "label": "benign", "seconds": 300, "facts": {"CommandLine": "python3 train.py", "CpuCores": 3.9}}
{"id": 3, "seconds": 0, "facts": {"Comm": "xmrig", "Image": "/tmp/xmrig"}}
"""  # noqa: E501


def test_replay_in_text(golden: Golden) -> None:
    result = run("replay", "-", given=RECORDED)
    assert result.exit_code == 1  # for the line that cannot be read
    assert "\x1b" not in result.output
    golden("rules-replay.txt", result.stdout + "--- stderr\n" + result.stderr)


def test_replay_in_json(golden: Golden) -> None:
    result = run("replay", "-", "-o", "json", given=RECORDED.replace("nonsense\n", ""))
    assert result.exit_code == 0
    outcomes = [json.loads(line) for line in result.stdout.splitlines()]
    assert [outcome["id"] for outcome in outcomes] == ["a", "b\x1b[2J", 3]
    assert {"id", "score", "level", "signals", "rules", "cullable"} == outcomes[0].keys()
    golden("rules-replay.jsonl", result.stdout)


def test_a_folder_may_be_named_twice(tmp_path: Path) -> None:
    (tmp_path / "rule.yml").write_text(RULE)
    assert run("test", str(tmp_path), "--rules", str(tmp_path)).exit_code == 0
