"""``minerwatch top``."""

from __future__ import annotations

import shutil
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import click

from minerwatch.cli.options import config_option, configuration, rules_option, socket_option
from minerwatch.cli.sampling import Source
from minerwatch.report.selection import SORT_KEYS, filtered, sorted_by
from minerwatch.report.snapshot import encode
from minerwatch.report.table import banner, table

_REFRESH_S = 5.0


@click.command()
@click.option("--once", is_flag=True, help="Print once and exit, instead of refreshing.")
@click.option(
    "-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True,
    help="json: a list with one object a container, all of them unless filtered.",
)  # fmt: skip
@click.option(
    "--sort", type=click.Choice(SORT_KEYS), default="score", show_default=True,
    help="score; cpu: cores now; hours: CPU time in all; limit: share of the CPU limit in use;"
    " age: those first whose level is oldest.",
)  # fmt: skip
@click.option(
    "--filter", "text", default="", metavar="TEXT",
    help="Only what has each word of TEXT in a name, image, owner, reason or command line.",
)  # fmt: skip
@click.option("-n", "--namespace", default="", metavar="NS", help="Only pods of this namespace.")
@click.option("-A", "--all-namespaces", is_flag=True, help="Pods of all namespaces (the default).")
@click.option("--all", "show_all", is_flag=True, help="Idle containers too.")
@click.option("--local", is_flag=True, help="Sample this node, whether an agent runs or not.")
@socket_option
@config_option
@rules_option
def top(
    once: bool,
    output: str,
    sort: str,
    text: str,
    namespace: str,
    all_namespaces: bool,
    show_all: bool,
    local: bool,
    socket_path: Path | None,
    config_path: Path | None,
    rule_folders: tuple[Path, ...],
) -> None:
    """Show the containers that look like miners, then those that burn CPU.

    It asks the agent on this node. Where none runs it samples by itself for two seconds: enough
    for names, arguments and CPU rates, too short for rules that want minutes of proof.

    \b
    minerwatch top --once                 one table, worst first
    minerwatch top --sort cpu             who burns CPU now? refreshed every 5 s, Ctrl-C ends
    minerwatch top --once --filter xmrig  where is this name or argument?
    minerwatch top --once -o json | jq '.[] | select(.score >= 70)'

    \b
    SCORE    0 to 100; below 30 clear, from 30 suspicious, from 70 likely, from 90 confirmed
    SINCE    how long the level has been what it is
    CPU      cores in use now        CPU-H   CPU hours in all
    %LIMIT   of the CPU limit        REASONS the strongest finding of each signal

    Exit status: 0, also when something was found; 1 the agent or the node cannot be read.
    """
    config = configuration(config_path, rule_folders)
    source = Source(socket_path, local, config)
    is_live = not once and output == "table" and sys.stdout.isatty()
    while True:
        every = source.statuses(all_processes=False)
        chosen = sorted_by(filtered(every, text, namespace), sort)
        if output == "json":
            click.echo(encode(chosen))
            return
        busy = [
            s for s in chosen if show_all or text or namespace or s.findings or s.cpu_cores > 0.005
        ]
        if is_live:
            click.clear()
        click.echo(banner(every, shown=len(busy)))
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        colour = sys.stdout.isatty()
        click.echo(table(busy, now=datetime.now(UTC), width=width, colour=colour), nl=False)
        if not is_live:
            return
        time.sleep(_REFRESH_S)
