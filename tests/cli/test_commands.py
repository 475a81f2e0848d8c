"""The commands as their users type them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import click
import pytest
from click.testing import CliRunner, Result

from minerwatch import __version__
from minerwatch.cli.main import cli
from minerwatch.config.schema import Config
from minerwatch.config.values import duration_text
from minerwatch.errors import SnapshotError
from tests.agent.test_daemon import OWN_RULES_ONLY, few_rules
from tests.agent.test_tick import POOL
from tests.conftest import TOP, CgroupFolders, Programs, container_id
from tests.waiting import until

ID = container_id("a1")


def _commands(group: click.Group, *above: str) -> Iterator[tuple[str, ...]]:
    """Yield each command of ``group``, and those below it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        yield (*above, name)
        if isinstance(command := group.get_command(context, name), click.Group):
            yield from _commands(command, *above, name)


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(cli, arguments, env=environment, prog_name="minerwatch")


@pytest.mark.parametrize("command", [*_commands(cli)], ids=" ".join)
def test_every_command_has_a_page_of_help(command: tuple[str, ...]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "Usage: " in result.stdout
    if command in (("agent",), ("top",), ("explain",), ("rules",), ("status",), ("config",)):
        assert f"  minerwatch {command[0]} " in result.stdout  # an example to copy
        assert all(len(line) <= 100 for line in result.stdout.splitlines())


def test_the_help_of_the_agent_has_the_defaults_that_it_runs_with() -> None:
    shown = " ".join(run("agent", "--help").stdout.split())
    assert f"[default: {duration_text(Config().interval)}]" in shown
    assert f"[default: {Config().listen}]" in shown
    assert f"[default: {Config().socket_path}]" in shown
    for name in ("CONFIG", "RULES", "NO_KUBERNETES", "AGENT_INTERVAL", "AGENT_LISTEN", "SOCKET"):
        assert f"[env var: MINERWATCH_{name}]" in shown


def test_version() -> None:
    assert __version__ in run("version").stdout
    assert __version__ in run("--version").stdout


def test_an_error_that_quotes_others_has_no_power_over_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nobody(_path: Path | None) -> NoReturn:
        raise SnapshotError("it said \x1b[2J\n" + "x" * 10_000)

    monkeypatch.setattr("minerwatch.cli.canary.load", nobody)
    result = run("canary")
    assert result.exit_code == 1
    assert result.stderr.startswith("minerwatch: it said \\e[2J\\nxxx")
    assert len(result.stderr) < 5000


def test_help_and_version_import_nothing_heavy() -> None:
    script = (
        "import sys; from minerwatch.cli.main import cli\n"
        "try: cli(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'sigma', 'prometheus_client', 're2', 'rich', 'kubernetes'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stderr.strip() == ""
    assert done.returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("agent", "--interval", "soon"),
        ("agent", "--listen", "here"),
        ("agent", "--config", "/nonexistent/config.yml"),
        ("top", "--sort", "colour"),
        ("explain",),
        ("canary", "--metrics", "file:///etc/passwd"),
        ("rules", "replay", "/nonexistent"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_status_2_and_no_traceback(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert isinstance(result.exception, SystemExit)


@pytest.mark.parametrize(("typed", "meant"), [("tpo", "; did you mean top?"), ("zzz", "")])
def test_a_command_that_is_not_there_is_named_with_the_nearest(typed: str, meant: str) -> None:
    done = CliRunner().invoke(cli, [typed])
    assert done.exit_code == 2
    assert done.stderr.endswith(f"No such command '{typed}'{meant}\n")


def test_a_named_socket_that_nobody_listens_on_is_an_error(tmp_path: Path) -> None:
    result = run("top", "--once", "--socket", str(tmp_path / "agent.sock"))
    assert result.exit_code == 1
    assert result.stderr == f"minerwatch: no agent is listening on {tmp_path}/agent.sock\n"


def test_options_have_environment_variables(tmp_path: Path) -> None:
    result = run("top", "--once", MINERWATCH_SOCKET=str(tmp_path / "agent.sock"))
    assert result.exit_code == 1
    assert str(tmp_path) in result.stderr


@pytest.fixture
def few(tmp_path: Path) -> dict[str, str]:
    """Environment of commands that sample by themselves: all rules take seconds to read."""
    config = tmp_path / "config.yml"
    config.write_text(f"{OWN_RULES_ONLY}rules: [{few_rules(tmp_path)}]\n")
    return {"MINERWATCH_CONFIG": str(config)}


@pytest.fixture
def miner(cgroups: CgroupFolders, programs: Programs) -> int:
    folder = cgroups.make(f"{TOP}/docker/{ID}")
    process = programs.start("xmrig", *POOL, busy=True)
    cgroups.put(process, folder)
    return process.pid


def test_top_samples_by_itself_where_no_agent_runs(miner: int) -> None:
    result = run("top", "--once", "--local")
    assert result.exit_code == 0
    (row,) = (line for line in result.stdout.splitlines() if f"docker/{ID[:12]}" in line)
    assert "likely" in row


def test_top_as_json_has_the_documented_keys(miner: int, few: dict[str, str]) -> None:
    def sampled() -> list[dict[str, Any]]:
        """The miner's container, if the miner got a CPU meanwhile."""
        result = run("top", "--once", "--local", "-o", "json", **few)
        found = (each for each in json.loads(result.stdout) if each["container_id"] == ID)
        return [each for each in found if each["cpu_cores"] and each["processes"]]

    (status,) = until(sampled)
    assert {
        *("node", "namespace", "pod", "container", "container_id", "runtime", "image", "cgroup"),
        *("cpu_cores", "cpu_limit_cores", "cpu_hours", "score", "level", "since", "signals"),
        *("owner", "findings", "processes"),
    } <= status.keys()
    assert {"rule", "title", "signal", "score", "since", "pid", "evidence"} <= status["findings"][
        0
    ].keys()
    assert {"pid", "comm", "command_line", "image", "cpu_cores"} <= status["processes"][0].keys()
    assert status["level"] == "likely"


def test_processes_by_cpu_without_an_agent(miner: int, few: dict[str, str]) -> None:
    def listed() -> list[dict[str, Any]]:
        result = run("top", "--once", "--local", "--processes", "-o", "json", **few)
        found = (each for each in json.loads(result.stdout) if each["pid"] == miner)
        return [each for each in found if each["cpu_cores"] and each["memory_bytes"]]

    (process,) = until(listed)
    assert process["container_id"] == ID
    assert process["cpu_seconds"] > 0
    assert process["threads"] == 1
    assert process["signals"] == ["identity"]
    table = run("top", "--once", "--local", "--processes", "--sort", "memory", **few)
    assert " MEMORY " in table.stdout
    assert " of " in table.stdout.splitlines()[0]


def test_a_sort_key_of_the_other_table_is_refused() -> None:
    assert "add --processes" in run("top", "--once", "--local", "--sort", "threads").stderr
    refused = run("top", "--once", "--local", "--processes", "--sort", "hours")
    assert refused.exit_code == 2
    assert "leave out --processes" in refused.stderr


def test_top_filters(miner: int, few: dict[str, str]) -> None:
    result = run("top", "--once", "--local", "-o", "json", "--filter", "supportxmr", **few)
    found = {status["container_id"]: json.dumps(status) for status in json.loads(result.stdout)}
    assert ID in found
    assert all("supportxmr" in told for told in found.values()), "other runs' miners at most"
    of_no_namespace = run("top", "--local", "--once", "-o", "json", "-n", "none", **few)
    assert json.loads(of_no_namespace.stdout) == []


def test_explain_by_pid_id_and_name(miner: int, few: dict[str, str]) -> None:
    for target in (ID[:8], f"docker/{ID[:12]}"):  # each samples for seconds
        result = run("explain", target, "--local", **few)
        assert result.exit_code == 0, result.stderr
        assert "likely" in result.stdout.lower()
        assert "pool.supportxmr.com" in result.stdout
    explained = json.loads(run("explain", str(miner), "--local", "-o", "json", **few).stdout)
    assert explained["container_id"] == ID


def test_explain_of_what_is_not_there(few: dict[str, str]) -> None:
    result = run("explain", "4194999", "--local", **few)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "4194999" in result.stderr


def test_an_agent_without_a_canary_is_said_to_tell_why_in_its_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = import_module("minerwatch.cli.canary")
    monkeypatch.setattr(module, "answer", lambda *_: b"minerwatch_processes 4.0\n")
    asked = CliRunner().invoke(cli, ["canary"])
    assert asked.exit_code == 1
    assert (
        "runs in no container that it watches (its log has the reason: probe is off)"
        in asked.stderr
    )
