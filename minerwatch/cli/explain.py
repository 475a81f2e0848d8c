"""``minerwatch explain``."""

from __future__ import annotations

import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from minerwatch.cli.options import config_option, configuration, rules_option, socket_option
from minerwatch.cli.sampling import Source
from minerwatch.report.explanation import explanation
from minerwatch.report.selection import found
from minerwatch.report.snapshot import encode


@click.command()
@click.argument("target")
@click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True,
    help="json: the container's object, as in `minerwatch top -o json`, with all its processes.",
)  # fmt: skip
@click.option("--local", is_flag=True, help="Sample this node, whether an agent runs or not.")
@socket_option
@config_option
@rules_option
def explain(
    target: str,
    output: str,
    local: bool,
    socket_path: Path | None,
    config_path: Path | None,
    rule_folders: tuple[Path, ...],
) -> None:
    """Say why TARGET has its score: every finding with its evidence, and what to do next.

    TARGET is a pid, a container id (six digits of it will do), the name of a systemd unit, `host`,
    a cgroup path, or in Kubernetes a pod or namespace/pod.

    \b
    minerwatch explain 12345              the container that this process is in
    minerwatch explain 3f2a9c1b44de       a container
    minerwatch explain ssh.service        a systemd unit

    Command lines are shown whole, secrets included: do not paste this into a public ticket.

    Exit status: 0, whatever the verdict; 1 the target, the agent or the node cannot be found.
    """
    source = Source(socket_path, local, configuration(config_path, rule_folders))
    status = found(source.statuses(all_processes=True), target)
    if output == "json":
        click.echo(encode([status])[1:-1])
    else:
        width = min(shutil.get_terminal_size((100, 24)).columns, 120)
        colour = sys.stdout.isatty()
        text = explanation(status, now=datetime.now(UTC), width=width, colour=colour)
        click.echo(text, nl=False)
