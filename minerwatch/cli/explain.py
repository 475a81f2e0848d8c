"""``minerwatch explain``."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click

from minerwatch.api.snapshot import encode
from minerwatch.api.types import ContainerStatus
from minerwatch.cli.fleet_source import (
    ClusterSource,
    Scope,
    cluster_options,
    found_in_cluster,
    say_missing,
    wants_cluster,
)
from minerwatch.cli.local_source import Source
from minerwatch.cli.options import config_option, configuration, rules_option, socket_option
from minerwatch.untrusted_text.display import printable
from minerwatch.view.campaigns import Campaign, campaign_of, campaigns
from minerwatch.view.explanation import explanation
from minerwatch.view.selection import beside, filtered, found

_MAX_OTHERS = 8


@click.command()
@click.argument("target")
@click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True,
    help="json: the container's object, as in `minerwatch top -o json`, with all its processes.",
)  # fmt: skip
@click.option(
    "--unmasked", is_flag=True,
    help="Show the secrets that command lines hold; without it they are masked.",
)  # fmt: skip
@cluster_options
@click.option("--local", is_flag=True, help="Sample this node, whether an agent runs or not.")
@socket_option
@config_option
@rules_option
def explain(
    target: str,
    output: str,
    unmasked: bool,
    local: bool,
    socket_path: Path | None,
    config_path: Path | None,
    rule_folders: tuple[Path, ...],
    scope: Scope,
) -> None:
    """Say why TARGET has its score: every finding with its evidence, and what to do next.

    TARGET is a pid, a container id (six digits of it will do), the name of a systemd unit, `host`,
    a cgroup path, or in Kubernetes a pod, namespace/pod or namespace/pod/container. Of a pod's
    containers it explains the one with the highest score. The source is that of `minerwatch top`:
    this node, or every agent of a cluster.

    \b
    minerwatch explain 12345              the container that this process is in
    minerwatch explain 3f2a9c1b44de       a container
    minerwatch explain ssh.service        a systemd unit
    minerwatch explain -A binder/alice    a pod, from a laptop

    Secrets that command lines hold are masked as far as they are known as such: read it before you
    paste it into a public ticket. --unmasked shows them.

    Exit status: 0, whatever the verdict; 1 the target, the agent or the node cannot be found. Nodes
    that did not answer are named on standard error: the target may run there.
    """
    config = configuration(config_path, rule_folders)
    if wants_cluster(scope, config, local=local, socket_path=socket_path):
        status, campaign = _in_cluster(scope, target, unmasked=unmasked)
    else:
        source = Source(socket_path, local, config)
        statuses = source.statuses(all_processes=True, unmasked=unmasked)
        status = found(filtered(statuses, namespace=scope.namespace), target)
        campaign = _context(statuses, status, target)
    if output == "json":
        click.echo(encode([status])[1:-1])
        return
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    colour = sys.stdout.isatty()
    now = datetime.now(UTC)
    text = explanation(status, now=now, width=width, colour=colour, campaign=campaign)
    click.echo(text, nl=False)


def _in_cluster(
    scope: Scope, target: str, *, unmasked: bool
) -> tuple[ContainerStatus, Campaign | None]:
    source = ClusterSource(scope)
    statuses, coverage = source.survey()
    say_missing(coverage)
    chosen = filtered(statuses, namespace=scope.namespace)
    status = found_in_cluster(chosen, coverage, target)
    return source.whole(status, unmasked=unmasked), _context(statuses, status, target)


def _context(
    statuses: Sequence[ContainerStatus], status: ContainerStatus, target: str
) -> Campaign | None:
    """Return the campaign that the container is part of; name the others of its pod."""
    others = beside(statuses, status)
    if others and target in (status.pod, f"{status.namespace}/{status.pod}"):
        names = ", ".join(printable(other.container, 64) for other in others[:_MAX_OTHERS])
        click.echo(f"minerwatch: other containers of this pod: {names}", err=True)
    return campaign_of(status, campaigns(statuses))
