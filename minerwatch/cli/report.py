"""``minerwatch report``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import msgspec

from minerwatch.api import orders
from minerwatch.api.client import NoAgentError
from minerwatch.api.history import NodeHistory, configured_prices
from minerwatch.api.types import Unanswered
from minerwatch.cli.fleet_source import AnySource, ClusterSource, Connect, source_options
from minerwatch.cli.options import configuration, parsed_by
from minerwatch.cli.prometheus_source import Prometheus
from minerwatch.cli.web_client import check_address
from minerwatch.config.values import duration_s
from minerwatch.errors import MinerwatchError, OrderError, SnapshotError
from minerwatch.format import counted
from minerwatch.report.incidents import node_history
from minerwatch.report.journal import USAGE, VERDICTS, JournalFiles
from minerwatch.view import report_text
from minerwatch.view.abuse_report import PROMETHEUS, Report
from minerwatch.view.abuse_report import report as summed
from minerwatch.web.report_page import report_page

_HOUR_S = 3600.0
_FORMATS: dict[str, Callable[[Report], str]] = {
    "text": report_text.text,
    "markdown": report_text.markdown,
    "html": report_page,
    "csv": report_text.csv_text,
    "json": lambda made: msgspec.json.format(msgspec.json.encode(made)).decode() + "\n",
}


def _span_s(text: str) -> float:
    seconds = duration_s(text)
    if not 60.0 <= seconds <= orders.MAX_HOURS * _HOUR_S:
        raise click.BadParameter(f"{text}: give 1m to {orders.MAX_HOURS // 24}d")
    return seconds


@click.command()
@click.option(
    "--since", "span_s", default="7d", callback=parsed_by(_span_s), metavar="DURATION",
    show_default=True, help="The time until now that it is about, at most 90d.",
)  # fmt: skip
@click.option(
    "--format", "form", type=click.Choice([*_FORMATS]), default="text", show_default=True,
    help="html: one page to forward; csv: a row each container, gap and missing node.",
)  # fmt: skip
@click.option(
    "-o", "--output", "output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Write there instead of to standard output.",
)  # fmt: skip
@click.option(
    "--journal", "folders", type=click.Path(path_type=Path, exists=True, file_okay=False),
    multiple=True, metavar="FOLDER", help="Read this journal, or a copy. May be repeated.",
)  # fmt: skip
@click.option(
    "--prometheus", "prometheus", metavar="URL",
    help="Read Prometheus instead of journals: it knows no times of actions, and no reasons.",
)  # fmt: skip
@click.option(
    "--token-file", type=click.Path(path_type=Path), metavar="FILE",
    help="A bearer token for Prometheus; for https:// only.",
)  # fmt: skip
@click.option(
    "--ca", type=click.Path(path_type=Path), metavar="FILE",
    help="PEM file to verify Prometheus by; without it, the system's authorities.",
)  # fmt: skip
@source_options(may_sample=False)
def report(
    span_s: float,
    form: str,
    output: Path | None,
    folders: tuple[Path, ...],
    prometheus: str | None,
    token_file: Path | None,
    ca: Path | None,
    connect: Connect,
) -> None:
    """Report what was abused, by whose containers, for how long, at what cost, and what was done.

    It reads the journals that agents keep (report.journal) and their audit logs: of this node, or
    of every agent of a cluster; without an agent the journal's files. Costs need
    report.price_per_core_hour, of --config or else of the agents. What is not recorded, such as
    time without an agent, is reported as missing. Containers that were released count as false
    alarms. It has names of tenants, but no arguments and no connections.

    \b
    minerwatch report                                        this node, the last week
    minerwatch report -A --since 30d --format html -o report.html
    minerwatch report --prometheus http://prometheus:9090    by metrics

    Exit status: 0 it covers all nodes; 1 some are missing.
    """
    check_address("--prometheus", prometheus, token_file)
    if prometheus is not None and folders:
        raise click.UsageError("give --prometheus or --journal, not both")
    until_s = time.time()
    since_s = until_s - span_s
    config = configuration(connect.config_path, ())
    prices, namespace = configured_prices(config.report), connect.scope.namespace
    if prometheus is not None:
        read = Prometheus(prometheus, token_file, ca).read(since_s, until_s)
        made = summed(
            read.histories, read.missing, since_s=since_s, until_s=until_s, source=PROMETHEUS,
            scope=prometheus, namespace=namespace, prices=prices, measured=read.measured,
        )  # fmt: skip
    else:
        if folders:
            histories, missing, scope = _of_folders(folders, since_s, until_s)
        else:
            histories, missing, scope = _of_agents(connect, since_s, until_s, span_s / _HOUR_S)
        made = summed(
            histories, missing, since_s=since_s, until_s=until_s, scope=scope,
            namespace=namespace, prices=prices,
        )  # fmt: skip
    _write(_FORMATS[form](made), output)
    if made.missing:
        nodes = counted(len(made.missing), "node")
        click.echo(f"minerwatch: {nodes} missing from the report, which names them", err=True)
        sys.exit(1)


def _write(text: str, output: Path | None) -> None:
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise MinerwatchError(f"{output}: {error.strerror}") from error


_Answer = tuple[list[NodeHistory], list[Unanswered], str]


def _of_folders(folders: tuple[Path, ...], since_s: float, until_s: float) -> _Answer:
    found = []
    for folder in folders:
        if not any((folder / name).exists() for name in (VERDICTS, USAGE)):
            raise SnapshotError(f"{folder}: no journal: it has neither {VERDICTS} nor {USAGE}")
        past = node_history(JournalFiles(folder).read(), since_s, until_s)
        found.append(past if past.node else msgspec.structs.replace(past, node=str(folder)))
    nodes = ", ".join(each.node for each in found)
    return found, [], f"the journal of {nodes}"


def _of_agents(connect: Connect, since_s: float, until_s: float, hours: float) -> _Answer:
    """Return the agents' histories; on a node without an agent that of its files."""
    source = connect()
    try:
        return _asked(source, hours)
    except OrderError as error:
        raise OrderError(_reason(str(error))) from error
    except NoAgentError as error:
        folder = Path(configuration(connect.config_path, ()).report.journal or "")
        if connect.socket_path is not None or not folder.name or not folder.is_dir():
            raise SnapshotError(
                f"{error}: start it, or name its journal by --journal FOLDER"
            ) from error
        click.echo(f"minerwatch: {error}: reading {folder}, without the audit log", err=True)
        return _of_folders((folder,), since_s, until_s)


def _reason(refusal: str) -> str:
    """Return why an agent does not answer: older ones do not know the order."""
    return "this agent is too old to report: upgrade it" if "not found; try" in refusal else refusal


def _asked(source: AnySource, hours: float) -> _Answer:
    histories, missing = [], []
    order = orders.encode(orders.HoursOrder(hours))
    for node, answer in source.ordered_everywhere(orders.HISTORY, order):
        if isinstance(answer, str):
            missing.append(Unanswered(node, "", _reason(answer.removeprefix(f"node {node}: "))))
            continue
        try:
            past = orders.history_answer(answer)
        except OrderError as error:
            missing.append(Unanswered(node, "", str(error)))
        else:
            histories.append(msgspec.structs.replace(past, node=node or past.node))
    if not isinstance(source, ClusterSource):
        return histories, missing, f"node {histories[0].node}" if histories else ""
    agents = source.agents()
    missing += [Unanswered(node, "", "no agent runs on it") for node in agents.bare_nodes]
    if agents.blind_spot:
        missing.append(Unanswered("", "", agents.blind_spot))
    return histories, missing, f"context {source.context}"
