"""`minerwatch config`, and faults of files and environment variables in other commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from minerwatch.cli.main import cli
from minerwatch.config.reader import load
from minerwatch.config.schema import Config


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(cli, arguments, env=environment, prog_name="minerwatch")


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    path = tmp_path / "agent.yaml"
    path.write_text("interval: soon\nowners: {profile: hub, sources: [x]}\nrules: [/none]\n")
    return path


def test_check_prints_every_fault_with_its_line(bad: Path) -> None:
    result = run("config", "check", str(bad))
    assert result.exit_code == 1
    assert [line.partition("'")[0] for line in result.stdout.splitlines()] == [
        f"{bad}:1: interval: invalid duration ",
        f"{bad}:2: owners.profile: there is no ",
        f"{bad}:2: owners.sources[0]: ",
        f"{bad}:3: rules[0]: ",
    ]
    listed = json.loads(run("config", "check", str(bad), "-o", "json").stdout)
    assert [each["line"] for each in listed] == [1, 2, 2, 3]
    assert set(listed[0]) == {"path", "line", "key", "text"}


def test_check_of_a_good_file_says_ok(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(f"rules: [{tmp_path}]\n")
    result = run("config", "check", MINERWATCH_CONFIG=str(path))
    assert (result.exit_code, result.stdout) == (0, f"{path}: ok\n")


def test_check_of_what_is_no_yaml(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text("a: [\n")
    result = run("config", "check", str(path))
    assert result.exit_code == 1
    assert result.stdout.startswith(f"{path}:2: ")


def test_the_agent_reports_every_fault_too(bad: Path) -> None:
    result = run("agent", "--config", str(bad))
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert [line.split(": ")[2] for line in lines] == [
        "interval",
        "owners.profile",
        "owners.sources[0]",
    ], "folders of rules may appear later"


def test_show_has_every_setting_with_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MINERWATCH_NODE", raising=False)
    path = tmp_path / "agent.yaml"
    path.write_text("interval: 5s\nculling:\n  mode: dry-run\nrules: [/a]\n")
    result = run(
        *("config", "show", "--config", str(path), "--no-kubernetes", "-o", "json"),
        MINERWATCH_AGENT_LISTEN=":99",
        MINERWATCH_RULES=str(tmp_path),
        MINERWATCH_NODE="n1",
        MINERWATCH_GPU_EXPORTER="http://gpu:9400/metrics",
    )
    shown = {each["key"]: (each["value"], each["source"]) for each in json.loads(result.stdout)}
    assert shown["interval"] == ("5s", f"{path}:1")
    assert shown["culling.mode"] == ("dry-run", f"{path}:3")
    assert shown["listen"] == (":99", "MINERWATCH_AGENT_LISTEN")
    assert shown["rules"] == (["/a", str(tmp_path)], f"{path}:4, MINERWATCH_RULES")
    assert shown["node.name"] == ("n1", "MINERWATCH_NODE")
    exporter = "http://gpu:9400/metrics", "MINERWATCH_GPU_EXPORTER"
    assert shown["node.gpu_exporter"] == exporter
    assert shown["node.gpu_socket"] == ("", "default")
    assert shown["kubernetes.enabled"] == (False, "--no-kubernetes")
    assert shown["culling.hold"] == ("5m", "default")


def test_show_as_text_and_as_a_file_to_begin_with(tmp_path: Path) -> None:
    text = run("config", "show", "--interval", "7s").stdout.splitlines()
    assert text[0].split() == ["interval", "7s", "--interval"]
    assert sum(line.endswith("  default") for line in text) > 60
    path = tmp_path / "all.yaml"
    path.write_text(run("config", "show", "-o", "yaml").stdout)
    assert load(path) == Config()
    assert yaml.safe_load(path.read_text())["culling"]["mode"] == "off"


@pytest.mark.parametrize(
    ("arguments", "variable", "value", "option"),
    [
        (("agent",), "MINERWATCH_AGENT_LISTEN", "x", "--listen"),
        (("agent",), "MINERWATCH_AGENT_INTERVAL", "soon", "--interval"),
        (("agent",), "MINERWATCH_CONFIG", "/none/x", "--config"),
        (("agent",), "MINERWATCH_RULES", "/none", "--rules"),
        (("top", "--once"), "MINERWATCH_TOP_SORT", "colour", "--sort"),
        (("rules", "list"), "MINERWATCH_RULES", "/none", "--rules"),
    ],
)
def test_a_wrong_value_of_an_environment_variable_names_it(
    arguments: tuple[str, ...], variable: str, value: str, option: str
) -> None:
    result = run(*arguments, **{variable: value})
    assert result.exit_code == 2
    assert f"environment variable {variable} ({option})" in result.stderr
    given = run(*arguments, option, value)
    assert given.exit_code == 2
    assert f"Invalid value for {option}: " in given.stderr


@pytest.mark.parametrize(
    "command",
    ["agent", "explain 1", "top --once", "rules list", "rules lint", "rules test"],
)
def test_a_folder_of_rules_that_is_not_there_is_named(command: str) -> None:
    result = run(*command.split(), "--rules", "/none/rules")
    assert result.exit_code == 2
    assert "'/none/rules' does not exist" in result.stderr
