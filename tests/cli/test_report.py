"""``report``, as typed on a node, on a laptop, and with a copy of a journal."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from minerwatch.api import orders
from minerwatch.api.history import NodeHistory, Prices
from minerwatch.api.journal import AnyLine
from minerwatch.cli.main import cli
from minerwatch.cli.prometheus_source import past_of
from minerwatch.format import rfc3339
from minerwatch.report.http_server import Answer
from minerwatch.report.incidents import node_history
from minerwatch.report.journal import JournalFiles
from minerwatch.report.socket_listener import SocketListener
from tests.cli.test_cull import api, far, put_agent
from tests.kube.api_server import ApiServer
from tests.kube.exec_endpoint import Printing
from tests.view.test_journal_history import usage, verdict

__all__ = ["api", "far"]  # fixtures

Typed = Callable[..., Result]
WEEK = orders.HoursOrder(168.0)


def of_node(node: str, **changes: object) -> NodeHistory:
    """A week that ends now, with a miner of the last two hours."""
    until_s = time.time()
    lines: list[AnyLine] = [verdict(until_s - 7200), usage(until_s - 60, 86400.0)]
    made = node_history(lines, until_s - 7 * 86400, until_s)
    return msgspec.structs.replace(made, node=node, **changes)


@pytest.fixture
def answer() -> dict[str, Answer]:
    return {"/history": Answer(orders.encode(of_node("here")))}


@pytest.fixture
def typed(answer: dict[str, Answer], tmp_path: Path) -> Iterator[Typed]:
    path = tmp_path / "agent.sock"

    def history(body: bytes) -> Answer:
        orders.decode(body, orders.HoursOrder)
        return answer["/history"]

    listener = SocketListener(path, {}, posts={orders.HISTORY: history})
    yield lambda *words: CliRunner().invoke(cli, ["report", *words, "--socket", str(path)])
    listener.close()


def test_the_agent_is_asked(typed: Typed) -> None:
    result = typed()
    assert result.exit_code == 0, result.output
    assert "node here" in result.stdout
    assert "1 container of 1 owner: mining 1" in result.stdout
    assert "here: nothing was recorded for 6d0h" in result.stdout
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("form", "begin"),
    [
        ("text", "Abuse of compute"),
        ("markdown", "# Abuse of compute"),
        ("html", "<!doctype html>"),
        ("csv", '"kind","node"'),
        ("json", '{\n  "version": 1,'),
    ],
)
def test_each_format_goes_to_a_file(typed: Typed, tmp_path: Path, form: str, begin: str) -> None:
    path = tmp_path / "report"
    result = typed("--format", form, "-o", str(path))
    assert (result.exit_code, result.output) == (0, "")
    assert path.read_text(encoding="utf-8").startswith(begin)


def test_a_file_that_cannot_be_written_is_one_line(typed: Typed, tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "report"
    result = typed("-o", str(path))
    assert result.exit_code == 1
    assert result.stderr == f"minerwatch: {path}: No such file or directory\n"


@pytest.mark.parametrize("of_agent", [True, False])
def test_costs_are_by_the_agents_prices_or_the_clients(
    typed: Typed, answer: dict[str, Answer], tmp_path: Path, of_agent: bool
) -> None:
    config = tmp_path / "config.yml"
    config.write_text("report: {price_per_core_hour: 3, currency: CHF}\n")
    if of_agent:
        prices = Prices(core_hour=3.0, currency="CHF")
        answer["/history"] = Answer(orders.encode(of_node("here", prices=prices)))
    result = typed(*(() if of_agent else ("--config", str(config))))
    assert "CHF at 3 CHF per core hour" in result.stdout or "at 3 CHF" in result.stdout
    assert "Cost, CHF" in result.stdout


@pytest.mark.parametrize(
    ("refused", "reason"),
    [
        (Answer(b"it keeps no journal\n", status=HTTPStatus.CONFLICT), "it keeps no journal"),
        (
            Answer(b"not found; try /cull /culled\n", status=HTTPStatus.NOT_FOUND),
            "this agent is too old to report: upgrade it",
        ),
        (Answer(b'{"node": 1}'), "the agent's answer cannot be parsed"),
    ],
)
def test_an_agent_without_an_answer_is_missing(
    typed: Typed, answer: dict[str, Answer], refused: Answer, reason: str
) -> None:
    answer["/history"] = refused
    result = typed()
    assert result.exit_code == 1
    assert reason in result.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--since", "0"), "invalid duration"),
        (("--since", "91d"), "91d: give 1m to 90d"),
        (("--since", "1s"), "1s: give 1m to 90d"),
        (("--prometheus", "prometheus:9090"), "begins with http:// or https://"),
        (("--prometheus", "http://p", "--token-file", "t"), "sent over https:// only"),
        (("--prometheus", "https://me:secret@p/x"), "leave user and password out"),
        (("--token-file", "t"), "sent over https:// only"),
        (("--prometheus", "http://p", "--journal", "."), "not both"),
        (("--journal", "/nowhere"), "does not exist"),
    ],
)
def test_wrong_usage_is_said(typed: Typed, words: tuple[str, ...], said: str) -> None:
    result = typed(*words)
    assert result.exit_code == 2
    assert said in result.stderr


@pytest.mark.parametrize("setting", ["price_per_core_hour: -1", "currency: '<b>'"])
def test_a_price_that_is_none_is_refused(tmp_path: Path, setting: str) -> None:
    config = tmp_path / "config.yml"
    config.write_text(f"report: {{{setting}}}\n")
    result = CliRunner().invoke(cli, ["report", "--config", str(config)])
    assert result.exit_code == 2
    assert f"report.{setting.partition(':')[0]}" in result.stderr


def written(folder: Path) -> Path:
    """A journal with a miner and four hours of usage."""
    files, now_s = JournalFiles(folder), time.time()
    files.append(verdict(now_s - 7200))
    files.append(usage(now_s - 60, 4 * 3600.0))
    return folder


def test_a_copy_of_a_journal_is_read_and_several_are_added_up(tmp_path: Path) -> None:
    folders = [written(tmp_path / name) for name in ("a", "b")]
    options = [word for folder in folders for word in ("--journal", str(folder))]
    result = CliRunner().invoke(cli, ["report", *options, "--since", "1d", "--format", "json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["total"]["incidents"] == 2
    assert [each["recorded_share"] for each in found["nodes"]] == pytest.approx([1 / 6] * 2, 0.02)


def test_a_folder_without_a_journal_is_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["report", "--journal", str(tmp_path)])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"minerwatch: {tmp_path}: no journal")


def test_without_an_agent_its_configured_journal_is_read(tmp_path: Path) -> None:
    config = tmp_path / "config.yml"
    config.write_text(f"report: {{journal: {written(tmp_path / 'journal')}}}\n")
    environment = {"XDG_RUNTIME_DIR": str(tmp_path), "KUBECONFIG": str(tmp_path / "none")}
    words = ["report", "--config", str(config)]
    config.write_text(config.read_text() + f"socket: {tmp_path / 'agent.sock'}\n")
    result = CliRunner().invoke(cli, words, env=environment)
    assert result.exit_code == 0, result.output
    assert "without the audit log" in result.stderr
    assert "1 container of 1 owner" in result.stdout
    config.write_text(f"socket: {tmp_path / 'agent.sock'}\n")
    result = CliRunner().invoke(cli, words, env=environment)
    assert result.exit_code == 1
    assert "name its journal by --journal FOLDER" in result.stderr


def test_all_agents_of_a_cluster_are_asked_and_others_are_named(api: ApiServer, far: Typed) -> None:
    command = ("minerwatch", "order", orders.HISTORY, orders.encode(WEEK).decode())
    for node in ("node-1", "node-2", "node-3"):
        put_agent(api, node)
    for node in ("node-1", "node-2"):
        body = Printing(orders.encode(of_node("another")))
        api.runs("minerwatch", f"minerwatch-{node}", body, *command)
    away = Printing(stderr=b"minerwatch: no agent is listening\n", exit_status=1)
    api.runs("minerwatch", "minerwatch-node-3", away, *command)
    api.put({"metadata": {"name": "node-4"}}, resource="nodes")
    result = far("report", "-A", "--format", "csv")
    assert result.exit_code == 1, result.output
    assert "2 nodes missing from the report, which names them" in result.stderr
    rows = [*csv.DictReader(io.StringIO(result.stdout))]
    missing = {row["node"]: row["note"] for row in rows if row["kind"] == "missing"}
    assert missing == {"node-3": "no agent is listening", "node-4": "no agent runs on it"}
    incidents = [row["node"] for row in rows if row["kind"] == "incident"]
    assert incidents == ["node-1", "node-2"], "an agent does not choose its node's name"
    assert {row["node"] for row in rows if row["kind"] == "gap"} == {"node-1", "node-2"}


def test_a_namespace_of_a_cluster_is_looked_at_alone(api: ApiServer, far: Typed) -> None:
    command = ("minerwatch", "order", orders.HISTORY, orders.encode(WEEK).decode())
    put_agent(api, "node-1")
    api.put({"metadata": {"name": "other"}}, resource="namespaces")
    body = Printing(orders.encode(of_node("node-1")))
    api.runs("minerwatch", "minerwatch-node-1", body, *command)
    result = far("report", "-n", "other")
    assert result.exit_code == 0, result.output
    assert "namespace other only" in result.stdout
    assert "none found" in result.stdout


def test_times_are_those_of_the_option(typed: Typed) -> None:
    found = json.loads(typed("--format", "json", "--since", "24h").stdout)
    assert found["since"] <= rfc3339(time.time() - 86400 + 60)
    assert found["source"] == "journal"


def test_by_prometheus_gpu_hours_are_known_and_their_energy_is_not() -> None:
    miner = {"instance": "node-1", "namespace": "hub", "pod": "jupyter-eve", "container": "c"}

    def ask(expression: str) -> list[tuple[dict[str, str], float]]:
        for name, value in (
            ("minerwatch_last_tick", 240.0), ("abuse_score", 94.0), ("container_gpus", 2.5),
        ):  # fmt: skip
            if name in expression:
                return [({**miner, "abuse": "mining"}, value)]
        return []

    (node,) = past_of(ask, 0.0, 3600.0).histories
    (incident,) = node.incidents
    assert (incident.gpu_hours, incident.energy_kwh, incident.cpu_hours) == (2.5, None, None)
