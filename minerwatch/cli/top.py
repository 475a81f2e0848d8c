"""``minerwatch top``."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from minerwatch.api.snapshot import encode
from minerwatch.api.types import ContainerStatus
from minerwatch.cli.fleet_source import AnySource, Connect, report_missing, source_options
from minerwatch.cli.local_source import Source
from minerwatch.cli.top_screen.terminal import Terminal, environment_at_start, terminal_of
from minerwatch.kinds import MachineTotals
from minerwatch.view.campaigns import campaigns
from minerwatch.view.overview import Coverage, head, overview
from minerwatch.view.selection import (
    PROCESS_SORTS,
    SORT_KEYS,
    busy,
    filtered,
    sorted_by,
    unknown_namespace,
)

if TYPE_CHECKING:
    from minerwatch.view.screen.containers import View

_SORTS = tuple(dict.fromkeys((*SORT_KEYS, *PROCESS_SORTS)))


@click.command()
@click.option("--once", is_flag=True, help="Print once and exit, instead of refreshing.")
@click.option(
    "-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True,
    help="json: a list with one object a container, all of them unless filtered.",
)  # fmt: skip
@click.option(
    "--sort", type=click.Choice(_SORTS), default="score", show_default=True,
    metavar="KEY",
    help=f"Of {', '.join(SORT_KEYS)}. cpu: cores now; hours: CPU time in all;"
    " limit: share of the CPU limit in use;"
    " throttled: share of periods in which the limit held it back;"
    " age: the oldest pods first, then those whose level is oldest."
    f" With --processes: {', '.join(PROCESS_SORTS)}; cpu by default.",
)  # fmt: skip
@click.option(
    "--filter", "text", default="", metavar="TEXT",
    help="Only what has each word of TEXT in a name, image, owner, reason or command line.",
)  # fmt: skip
@click.option("--all", "show_all", is_flag=True, help="Idle containers too.")
@click.option(
    "--processes", is_flag=True,
    help="Processes by CPU, flagged or not, those that are alike in one row; the screen's key p.",
)  # fmt: skip
@click.option(
    "--ascii", "ascii_only", is_flag=True,
    help="Draw the screen in ASCII only, as where the locale is not UTF-8.",
)  # fmt: skip
@source_options(may_sample=True)
def top(
    once: bool,
    output: str,
    sort: str,
    text: str,
    show_all: bool,
    processes: bool,
    ascii_only: bool,
    connect: Connect,
) -> None:
    """Show the containers that look like abuse, then those that use most CPU.

    On a terminal it is a screen: Enter explains, / filters, ? lists the keys, q quits. With --once,
    or where its output goes elsewhere, it prints one table.

    On a node it reads from the agent; where none runs it watches the node by itself. Then --once
    has only two seconds: enough for names, arguments and CPU rates, too short for rules that want
    minutes of proof. From anywhere else, or with -A, -n, --context or --kubeconfig, it asks every
    agent of the cluster, on its port with a token, else by exec into its pod, and lists nodes that
    did not answer.

    \b
    minerwatch top                        the screen
    minerwatch top -A                     of the whole cluster, from a laptop
    minerwatch top --processes            the screen with the processes, by CPU
    minerwatch top --processes --once     the same as one table
    minerwatch top --once                 one table, worst first
    minerwatch top --once --filter xmrig  where is this name or argument?
    minerwatch top -A --filter scanning   which pods scan?
    minerwatch top --once -o json | jq '.[] | select(.score >= 70)'

    \b
    SCORE    0 to 100; below 30 clear, from 30 suspicious, from 70 likely, from 90 confirmed
    SINCE    how long the level has been what it is
    CPU      cores in use now        CPU-H   CPU hours in all
    GPU      GPUs kept busy, of those requested; ! if the pod requested none    GPU-H   hours
    %LIMIT   of the CPU limit        REASONS the strongest finding of each signal
    ABUSE    what it looks like: mining, scanning, flooding, brute-force, proxyware, cracking,
             unrequested-gpu
    AGE      of the pod
    EXECUTES randomx, hashing, hidden, floats, vectors, generated, other

    Pods of one owner, image, wallet or pool are named as a campaign, once, above the table.

    With -o json a list of objects, as the agent's socket has them: node, namespace, pod, container,
    container_id, kind, runtime, image, cgroup, pod_uid, cpu_cores, cpu_limit_cores,
    throttled_share, cpu_hours, score, level, since, signals, owner, process_count, findings,
    processes, started, abuse, executed, labels, abuses, gpu. Nodes that are missing are named on
    standard error.

    Exit status: 0, also when something was found; 1 an agent did not answer, or the node cannot be
    read; a node that has no agent is named, but is no failure.
    """
    terminal = terminal_of(environment_at_start(), ascii_only=ascii_only)
    is_screen = not once and output == "table" and _is_screen(terminal)
    if sort not in (("score", *PROCESS_SORTS) if processes else SORT_KEYS):
        raise click.UsageError(
            f"--sort {sort} is for {'containers' if processes else 'processes'}: "
            + ("leave out --processes" if processes else "add --processes")
        )
    source = connect()
    if is_screen:
        view = _view(sort, text, source.namespace, processes=processes, show_all=show_all)
        _open_screen(source, view, terminal)
        return
    known, coverage, machine = _read(source, all_processes=processes)
    every = filtered(known, namespace=source.namespace)
    if coverage is None and (unknown := unknown_namespace(known, source.namespace)):
        click.echo(f"minerwatch: {unknown}", err=True)
    if processes:
        view = _view(sort, text, source.namespace, processes=True, show_all=show_all)
        _print_processes(every, view, coverage, machine, output)
        sys.exit(0 if coverage is None or coverage.is_complete else 1)
    chosen = sorted_by(filtered(every, text), sort)
    if output == "json":
        click.echo(encode(chosen))
        report_missing(coverage)
    else:
        is_all = show_all or text or source.namespace
        _print(chosen if is_all else busy(chosen), every, coverage, machine)
    sys.exit(0 if coverage is None or coverage.is_complete else 1)


# ``top --once`` runs in pods that are short of CPU, where its imports take most of the time: what
# only the screen or the list of processes needs is imported there.


def _view(sort: str, text: str, namespace: str, *, processes: bool, show_all: bool) -> View:
    from minerwatch.view.screen.containers import Kind, View

    kind = Kind.PROCESSES if processes else Kind.CONTAINERS
    return View(sort, False, text, namespace, show_all, kind=kind)


def _open_screen(source: AnySource, view: View, terminal: Terminal) -> None:
    from minerwatch.cli.top_screen import opening
    from minerwatch.cli.top_screen.proposal import ByHand
    from minerwatch.cli.top_screen.sources import ClusterWatched, NodeWatched

    watched = NodeWatched(source) if isinstance(source, Source) else ClusterWatched(source)
    opening.show(watched, view, terminal, ByHand(source.ordered))


def _read(
    source: AnySource, *, all_processes: bool
) -> tuple[Sequence[ContainerStatus], Coverage | None, MachineTotals | None]:
    """Return containers, and of a cluster its coverage, of this node the machine's totals."""
    if not isinstance(source, Source):
        return *source.survey(), None
    statuses, agent = source.read(all_processes=all_processes)
    if agent is not None and agent.machine is not None:
        return statuses, None, agent.machine
    from minerwatch.node.process_details import machine_totals

    return statuses, None, machine_totals()


def _is_screen(terminal: Terminal) -> bool:
    """Return True if input and output are terminals that can draw; warn if only TERM forbids it."""
    if not (sys.stdout.isatty() and sys.stdin.isatty()):
        return False
    if terminal.is_dumb:
        click.echo(
            "minerwatch: nothing can be drawn on this terminal (TERM): printed once", err=True
        )
    return not terminal.is_dumb


def _print_processes(
    every: Sequence[ContainerStatus],
    view: View,
    coverage: Coverage | None,
    machine: MachineTotals | None,
    output: str,
) -> None:
    from minerwatch.view.screen.process_list import encode_processes, limits, process_table
    from minerwatch.view.screen.processes import process_rows

    if output == "json":
        click.echo(encode_processes(process_rows(every, replace(view, is_folded=False))))
        report_missing(coverage)
        return
    rows = process_rows(every, view)
    width, colour = _width_and_colour()
    text = head(
        every, (), shown=len(every), coverage=coverage, machine=machine, width=width,
        colour=colour,
    )  # fmt: skip
    text += process_table(rows, now=datetime.now(UTC), width=width, colour=colour)
    click.echo(text, nl=False)
    if note := limits(rows):
        click.echo(f"minerwatch: {note}", err=True)


def _print(
    shown: Sequence[ContainerStatus],
    every: Sequence[ContainerStatus],
    coverage: Coverage | None,
    machine: MachineTotals | None,
) -> None:
    width, colour = _width_and_colour()
    text = overview(
        shown,
        every,
        campaigns(every),
        coverage=coverage,
        machine=machine,
        now=datetime.now(UTC),
        width=width,
        colour=colour,
    )
    click.echo(text, nl=False)


def _width_and_colour() -> tuple[int | None, bool]:
    """Return the terminal's columns (None: not a terminal), and True if it may be coloured."""
    if not sys.stdout.isatty():
        return None, False
    return shutil.get_terminal_size().columns, not os.environ.get("NO_COLOR")
