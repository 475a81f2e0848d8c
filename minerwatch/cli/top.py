"""``minerwatch top``."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import click

from minerwatch.cli.cluster import ClusterSource, Scope, cluster_options, say_missing, wants_cluster
from minerwatch.cli.options import config_option, configuration, rules_option, socket_option
from minerwatch.cli.sampling import Source
from minerwatch.model import ContainerStatus
from minerwatch.report.campaigns import campaigns
from minerwatch.report.overview import Coverage, overview
from minerwatch.report.selection import SORT_KEYS, busy, filtered, sorted_by
from minerwatch.report.snapshot import encode

_REFRESH_S = 5.0
_CLUSTER_REFRESH_S = 30.0
"""Each question starts a program in every agent's pod, and within its CPU limit."""


@click.command()
@click.option("--once", is_flag=True, help="Print once and exit, instead of refreshing.")
@click.option(
    "-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True,
    help="json: a list with one object a container, all of them unless filtered.",
)  # fmt: skip
@click.option(
    "--sort", type=click.Choice(SORT_KEYS), default="score", show_default=True,
    help="score; cpu: cores now; hours: CPU time in all; limit: share of the CPU limit in use;"
    " age: the oldest pods first, then those whose level is oldest.",
)  # fmt: skip
@click.option(
    "--filter", "text", default="", metavar="TEXT",
    help="Only what has each word of TEXT in a name, image, owner, reason or command line.",
)  # fmt: skip
@click.option("--all", "show_all", is_flag=True, help="Idle containers too.")
@cluster_options
@click.option("--local", is_flag=True, help="Sample this node, whether an agent runs or not.")
@socket_option
@config_option
@rules_option
def top(
    once: bool,
    output: str,
    sort: str,
    text: str,
    show_all: bool,
    local: bool,
    socket_path: Path | None,
    config_path: Path | None,
    rule_folders: tuple[Path, ...],
    scope: Scope,
) -> None:
    """Show the containers that look like miners, then those that burn CPU.

    On a node it asks the node's agent; where none runs it samples by itself for two seconds: enough
    for names, arguments and CPU rates, too short for rules that want minutes of proof. From
    anywhere else, or with -A, -n, --context or --kubeconfig, it asks every agent of the cluster, by
    exec into its pod, and says which nodes did not answer.

    \b
    minerwatch top --once                 one table, worst first
    minerwatch top -A                     the whole cluster, from a laptop
    minerwatch top --sort cpu             who burns CPU now? refreshed, Ctrl-C ends
    minerwatch top --once --filter xmrig  where is this name or argument?
    minerwatch top --once -o json | jq '.[] | select(.score >= 70)'

    \b
    SCORE    0 to 100; below 30 clear, from 30 suspicious, from 70 likely, from 90 confirmed
    SINCE    how long the level has been what it is
    CPU      cores in use now        CPU-H   CPU hours in all
    %LIMIT   of the CPU limit        REASONS the strongest finding of each signal
    AGE      of the pod

    Pods of one owner, image, wallet or pool are named as a campaign, once, above the table.

    With -o json a list of objects, as the agent's socket has them: node, namespace, pod, container,
    container_id, kind, runtime, image, cgroup, pod_uid, cpu_cores, cpu_limit_cores,
    throttled_share, cpu_hours, score, level, since, signals, owner, process_count, findings,
    processes, started. Nodes that are missing are named on standard error.

    Exit status: 0, also when something was found; 1 an agent did not answer, or the node cannot be
    read; a node that has no agent is named, but is no failure.
    """
    config = configuration(config_path, rule_folders)
    look: Callable[[], tuple[Sequence[ContainerStatus], Coverage | None]]
    if wants_cluster(scope, config, local=local, socket_path=socket_path):
        look = ClusterSource(scope).survey
    else:
        look = partial(_here, Source(socket_path, local, config))
    is_live = not once and output == "table" and sys.stdout.isatty()
    while True:
        known, coverage = look()
        every = filtered(known, namespace=scope.namespace)
        chosen = sorted_by(filtered(every, text), sort)
        if output == "json":
            click.echo(encode(chosen))
            say_missing(coverage)
        else:
            is_all = show_all or text or scope.namespace
            shown = chosen if is_all else busy(chosen)
            _show(shown, every, coverage, is_live=is_live)
        if not is_live:
            sys.exit(0 if coverage is None or coverage.is_complete else 1)
        time.sleep(_REFRESH_S if coverage is None else _CLUSTER_REFRESH_S)


def _here(source: Source) -> tuple[Sequence[ContainerStatus], None]:
    return source.statuses(all_processes=False), None


def _show(
    shown: Sequence[ContainerStatus],
    every: Sequence[ContainerStatus],
    coverage: Coverage | None,
    *,
    is_live: bool,
) -> None:
    on_terminal = sys.stdout.isatty()
    columns, rows = shutil.get_terminal_size()
    text = overview(
        shown,
        every,
        campaigns(every),
        coverage=coverage,
        now=datetime.now(UTC),
        width=columns if on_terminal else None,
        colour=on_terminal,
    )
    if is_live:
        click.clear()
        text = _on_one_screen(text, rows)
    click.echo(text, nl=False)


def _on_one_screen(text: str, rows: int) -> str:
    """What fits, so that the worst does not scroll away, and how much does not."""
    lines = text.splitlines(keepends=True)
    if len(lines) < rows:
        return text
    kept = max(1, rows - 2)
    return "".join(lines[:kept]) + f"… and {len(lines) - kept:,} lines more: --once prints all\n"
